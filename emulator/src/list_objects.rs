//! The call that lists objects: a page of entries as JSON.
//!
//! The fields that a fast client asks for are written straight from a virtual namespace's tables, without an object in
//! between: a listing of millions spends its time here.

use serde_json::Value;

use crate::{
    bucket::{Base, Bucket},
    checksum::push_crc32c_base64,
    error::Refusal,
    fields::Selector,
    listing::{Entry, ListQuery, Page, page},
    object::{FieldSet, field, push_string},
    service::{Reply, Request, State},
    timestamp,
    virtual_names::push_number,
    virtual_ns::VirtualSpec,
};

/// What can be written without making an object.
const CHEAP: &[usize] = &[
    field::NAME,
    field::GENERATION,
    field::SIZE,
    field::CRC32C,
    field::STORAGE_CLASS,
    field::CONTENT_ENCODING,
    field::UPDATED,
];
/// What a page has at its top.
const TOP: [&str; 5] = ["kind", "items", "prefixes", "nextPageToken", "etag"];
/// A guess at an item's JSON, so that a page's buffer grows seldom.
const ITEM_BYTES: usize = 192;

pub(crate) fn list(state: &State, bucket: &str, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.objects.list", request)?;
    let query = ListQuery::parse(&request.query)?;
    let (selector, wanted) = selection(request.query.get("fields"))?;
    let page = page(&bucket, &query);
    let entries: u64 = page.entries.iter().map(Entry::len).sum::<u64>() + page.prefixes.len() as u64;
    state.stats.page(entries);
    let mut json = Vec::with_capacity(256 + entries as usize * ITEM_BYTES);
    write_page(&mut json, &page, &bucket, &state.endpoint, &selector, wanted.unwrap_or(FieldSet::ALL))?;
    if wanted.is_none() {
        // A selection below the fields of an item: rare, so it may cost a detour.
        let value: Value = serde_json::from_slice(&json).unwrap_or_default();
        json = selector.apply(value).to_string().into_bytes();
    }
    Ok(Reply { items: entries, ..Reply::json(json) })
}

/// What is selected, and the fields of an item where the selection is that simple.
fn selection(fields: Option<&str>) -> Result<(Selector, Option<FieldSet>), Refusal> {
    let Some(text) = fields.filter(|text| !text.is_empty()) else {
        return Ok((Selector::default(), Some(FieldSet::ALL)));
    };
    let invalid = |name: &str| Refusal::parameter("fields", format!("Invalid field selection {name}"));
    let selector = Selector::parse(text)?;
    if let Some(name) = selector.children.keys().find(|name| !TOP.contains(&name.as_str())) {
        return Err(invalid(name));
    }
    let Some(items) = selector.of("items").filter(|items| !items.is_everything()) else {
        return Ok((selector, Some(FieldSet::ALL)));
    };
    for name in items.children.keys() {
        FieldSet::from_names([name.as_str()].into_iter()).ok_or_else(|| invalid(name))?;
    }
    let flat = items.children.values().all(Selector::is_everything);
    let wanted = if flat { FieldSet::from_names(items.children.keys().map(String::as_str)) } else { None };
    Ok((selector, wanted))
}

impl Entry {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Object(_) => 1,
            Self::Run(first, end) => end - first,
        }
    }
}

fn write_page(
    out: &mut Vec<u8>,
    page: &Page,
    bucket: &Bucket,
    endpoint: &str,
    selector: &Selector,
    wanted: FieldSet,
) -> Result<(), Refusal> {
    out.push(b'{');
    let mut separator = "";
    let mut open = |out: &mut Vec<u8>, key: &str| {
        out.extend_from_slice(separator.as_bytes());
        separator = ",";
        push_string(out, key);
        out.push(b':');
    };
    if selector.of("kind").is_some() {
        open(out, "kind");
        push_string(out, "storage#objects");
    }
    if let Some(token) = page.next.as_ref().filter(|_| selector.of("nextPageToken").is_some()) {
        open(out, "nextPageToken");
        push_string(out, token);
    }
    if !page.prefixes.is_empty() && selector.of("prefixes").is_some() {
        open(out, "prefixes");
        for (i, prefix) in page.prefixes.iter().enumerate() {
            out.push(if i == 0 { b'[' } else { b',' });
            push_string(out, prefix);
        }
        out.push(b']');
    }
    if !page.entries.is_empty() && selector.of("items").is_some() {
        open(out, "items");
        let mut bracket = b'[';
        for entry in &page.entries {
            write_entry(out, entry, bucket, endpoint, wanted, &mut bracket)?;
        }
        out.push(b']');
    }
    out.push(b'}');
    Ok(())
}

fn write_entry(
    out: &mut Vec<u8>,
    entry: &Entry,
    bucket: &Bucket,
    endpoint: &str,
    wanted: FieldSet,
    bracket: &mut u8,
) -> Result<(), Refusal> {
    let mut separate = |out: &mut Vec<u8>| {
        out.push(*bracket);
        *bracket = b',';
    };
    match entry {
        Entry::Object(object) => {
            separate(out);
            object.write_json(out, &bucket.name, endpoint, wanted);
        }
        Entry::Run(first, end) => match &bucket.base {
            Base::Virtual(spec) if wanted.is_within(CHEAP) => {
                let writer = CheapWriter::new(spec, wanted);
                for i in *first..*end {
                    separate(out);
                    writer.write(out, i);
                }
            }
            base => {
                for i in *first..*end {
                    // A page without a file that changed would pass for the whole: there is none.
                    if let Some(object) = base.object(i)? {
                        separate(out);
                        object.write_json(out, &bucket.name, endpoint, wanted);
                    }
                }
            }
        },
    }
    Ok(())
}

/// Writes items of a virtual namespace. What is the same for all of them is made once.
struct CheapWriter<'a> {
    spec: &'a VirtualSpec,
    wanted: FieldSet,
    tail: Vec<u8>,
}

impl<'a> CheapWriter<'a> {
    fn new(spec: &'a VirtualSpec, wanted: FieldSet) -> Self {
        let mut tail = Vec::new();
        if wanted.has(field::STORAGE_CLASS) {
            tail.extend_from_slice(b",\"storageClass\":");
            push_string(&mut tail, spec.class());
        }
        if wanted.has(field::UPDATED) {
            tail.extend_from_slice(b",\"updated\":");
            push_string(&mut tail, &timestamp::rfc3339(VirtualSpec::CREATED));
        }
        tail.push(b'}');
        Self { spec, wanted, tail }
    }

    fn write(&self, out: &mut Vec<u8>, i: u64) {
        let start = out.len();
        if self.wanted.has(field::NAME) {
            out.extend_from_slice(b",\"name\":\"");
            let name = out.len();
            self.spec.write_name(i, out);
            // Patterns need no escapes, a prefix may.
            if out[name..].iter().any(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\') {
                out.truncate(name - 1);
                push_string(out, &self.spec.name(i));
            } else {
                out.push(b'"');
            }
        }
        let (size, crc) = self.spec.size_and_crc32c(i);
        if self.wanted.has(field::SIZE) {
            out.extend_from_slice(b",\"size\":\"");
            push_number(out, size);
            out.push(b'"');
        }
        if self.wanted.has(field::GENERATION) {
            out.extend_from_slice(b",\"generation\":\"");
            push_number(out, self.spec.generation(i) as u64);
            out.push(b'"');
        }
        if self.wanted.has(field::CRC32C) {
            out.extend_from_slice(b",\"crc32c\":\"");
            push_crc32c_base64(out, crc);
            out.push(b'"');
        }
        out.extend_from_slice(&self.tail);
        if out[start] == b',' {
            out[start] = b'{';
        } else {
            out.insert(start, b'{');
        }
    }
}
