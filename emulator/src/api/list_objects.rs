//! The call that lists objects: a page of entries as JSON.
//!
//! A listing of millions of objects spends its time here. So the fields that a fast client asks for are written
//! straight from the tables of a virtual namespace, without making objects.

use serde_json::Value;

use crate::{
    api::{
        field_selector::FieldSelector,
        object_json::{ObjectField, ObjectFields, needs_escape, push_string, write_object},
        state::EmulatorState,
    },
    buckets::{
        base::BucketBase,
        glob::Glob,
        list_query::ListQuery,
        listing::{CollectedPage, ListEntry, collect_page},
        stored::StoredBucket,
    },
    checksum::push_crc32c_base64,
    decimal::push_number,
    http::{query::QueryParameters, reply::Reply, request::ReceivedRequest},
    objects::virtual_namespace::{VirtualSpec, VirtualSummary},
    refusal::Refusal,
    timestamp,
};

/// The number of objects and prefixes of a page when the request names none, as in the service.
const DEFAULT_PAGE_SIZE: u64 = 1_000;
/// The most objects and prefixes of a page. The service documents 1,000 and returns 5,000.
const MAX_PAGE_SIZE: u64 = 5_000;
/// The fields that can be written without making an object.
const CHEAP_FIELDS: &[ObjectField] = &[
    ObjectField::Name,
    ObjectField::Generation,
    ObjectField::Size,
    ObjectField::Crc32c,
    ObjectField::StorageClass,
    ObjectField::ContentEncoding,
    ObjectField::Updated,
];
/// The fields of a page.
const PAGE_FIELDS: [&str; 5] = ["kind", "items", "prefixes", "nextPageToken", "etag"];
/// An estimate of the JSON of one item in bytes, so that the buffer of a page seldom grows.
const ITEM_BYTES: usize = 192;

pub(crate) fn list(state: &EmulatorState, bucket: &str, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(bucket, request)?;
    bucket.check_permission("storage.objects.list", request.caller())?;
    let query = parse_query(&request.query)?;
    let ListSelection { selector, item_fields } = ListSelection::parse(request.query.get("fields"))?;

    let page = collect_page(&bucket, &query);
    let items = page.len();
    state.stats.count_page(items);

    let writer = PageWriter {
        bucket: &bucket,
        endpoint: &state.endpoint,
        selector: &selector,
        item_fields: item_fields.unwrap_or(ObjectFields::ALL),
    };
    let mut json = Vec::with_capacity(256 + items as usize * ITEM_BYTES);
    writer.write_page(&mut json, &page)?;
    if item_fields.is_none() {
        // A selection within the fields of an item is rare, so that a second pass is good enough.
        let value: Value = serde_json::from_slice(&json).unwrap_or_default();
        json = selector.apply(value).to_string().into_bytes();
    }
    Ok(Reply { items, ..Reply::json(json) })
}

fn parse_query(query: &QueryParameters) -> Result<ListQuery, Refusal> {
    let bytes = |key| query.get(key).unwrap_or_default().as_bytes().to_vec();
    let max_entries = match query.get("maxResults") {
        None => DEFAULT_PAGE_SIZE,
        Some(text) => match text.parse::<u32>() {
            Ok(0) | Err(_) => {
                let message = format!("Invalid value '{text}' for maxResults: a positive integer is wanted.");
                return Err(Refusal::parameter("maxResults", message));
            }
            Ok(number) => u64::from(number).min(MAX_PAGE_SIZE),
        },
    };
    let glob = match query.non_empty("matchGlob") {
        None => None,
        Some(text) => Some(
            Glob::parse(text)
                .ok_or_else(|| Refusal::parameter("matchGlob", format!("Invalid glob pattern '{text}'.")))?,
        ),
    };
    if let Some(other) = query.get("projection").filter(|value| !["full", "noAcl"].contains(value)) {
        return Err(Refusal::parameter("projection", format!("Invalid value '{other}' for projection.")));
    }
    if glob.is_some() && !["", "/"].contains(&query.get("delimiter").unwrap_or_default()) {
        return Err(Refusal::parameter("delimiter", "With matchGlob the delimiter can only be '/'."));
    }

    let mut list = ListQuery {
        prefix: bytes("prefix"),
        delimiter: bytes("delimiter"),
        start: bytes("startOffset"),
        end: query.non_empty("endOffset").map(|text| text.as_bytes().to_vec()),
        half_done: None,
        max_entries,
        glob,
        include_trailing_delimiter: query.is_true("includeTrailingDelimiter"),
    };
    if let Some(token) = query.non_empty("pageToken") {
        list.resume(token).ok_or_else(|| Refusal::parameter("pageToken", format!("Invalid page token '{token}'.")))?;
    }
    Ok(list)
}

/// The parts of a page that a request selects.
struct ListSelection {
    selector: FieldSelector,
    /// The fields of an item; `None` when the selection reaches deeper than these.
    item_fields: Option<ObjectFields>,
}

impl ListSelection {
    fn parse(fields: Option<&str>) -> Result<Self, Refusal> {
        let whole_items = |selector| Self { selector, item_fields: Some(ObjectFields::ALL) };
        let Some(text) = fields.filter(|text| !text.is_empty()) else {
            return Ok(whole_items(FieldSelector::default()));
        };

        let invalid = |name: &str| Refusal::parameter("fields", format!("Invalid field selection {name}"));
        let selector = FieldSelector::parse(text)?;
        if let Some(name) = selector.children.keys().find(|name| !PAGE_FIELDS.contains(&name.as_str())) {
            return Err(invalid(name));
        }
        let Some(items) = selector.child("items").filter(|items| !items.is_everything()) else {
            return Ok(whole_items(selector));
        };
        for name in items.children.keys() {
            ObjectFields::from_names([name.as_str()].into_iter()).ok_or_else(|| invalid(name))?;
        }

        let is_flat = items.children.values().all(FieldSelector::is_everything);
        let names = items.children.keys().map(String::as_str);
        let item_fields = if is_flat { ObjectFields::from_names(names) } else { None };
        Ok(Self { selector, item_fields })
    }
}

/// Writes the JSON of a page.
struct PageWriter<'a> {
    bucket: &'a StoredBucket,
    endpoint: &'a str,
    selector: &'a FieldSelector,
    item_fields: ObjectFields,
}

impl PageWriter<'_> {
    fn write_page(&self, out: &mut Vec<u8>, page: &CollectedPage) -> Result<(), Refusal> {
        out.push(b'{');
        let mut separator = "";
        let mut begin = |out: &mut Vec<u8>, key: &str| {
            out.extend_from_slice(separator.as_bytes());
            separator = ",";
            push_string(out, key);
            out.push(b':');
        };

        if self.selector.child("kind").is_some() {
            begin(out, "kind");
            push_string(out, "storage#objects");
        }
        if let Some(token) = page.next_token.as_ref().filter(|_| self.selector.child("nextPageToken").is_some()) {
            begin(out, "nextPageToken");
            push_string(out, token);
        }
        if !page.prefixes.is_empty() && self.selector.child("prefixes").is_some() {
            begin(out, "prefixes");
            for (i, prefix) in page.prefixes.iter().enumerate() {
                out.push(if i == 0 { b'[' } else { b',' });
                push_string(out, prefix);
            }
            out.push(b']');
        }
        if !page.entries.is_empty() && self.selector.child("items").is_some() {
            begin(out, "items");
            let mut separator = b'[';
            for entry in &page.entries {
                self.write_entry(out, entry, &mut separator)?;
            }
            out.push(b']');
        }
        out.push(b'}');
        Ok(())
    }

    /// Appends the items of an entry, each after `separator`, which is a comma from the second item on.
    fn write_entry(&self, out: &mut Vec<u8>, entry: &ListEntry, separator: &mut u8) -> Result<(), Refusal> {
        let mut separate = |out: &mut Vec<u8>| {
            out.push(*separator);
            *separator = b',';
        };
        let bucket = self.bucket;
        match entry {
            ListEntry::Object(object) => {
                separate(out);
                write_object(out, object, &bucket.name, self.endpoint, self.item_fields);
            }
            ListEntry::Run(run) => match &bucket.base {
                BucketBase::Virtual(spec) if self.item_fields.is_subset_of(CHEAP_FIELDS) => {
                    let writer = VirtualItemWriter::new(spec, self.item_fields);
                    for i in run.clone() {
                        separate(out);
                        writer.write(out, i);
                    }
                }
                base => {
                    for i in run.clone() {
                        // A changed file refuses the page: without the file, the page would look complete.
                        if let Some(object) = base.object(i)? {
                            separate(out);
                            write_object(out, &object, &bucket.name, self.endpoint, self.item_fields);
                        }
                    }
                }
            },
        }
        Ok(())
    }
}

/// Writes items of a virtual namespace. The part that is the same for all items is made once.
struct VirtualItemWriter<'a> {
    spec: &'a VirtualSpec,
    fields: ObjectFields,
    tail: Vec<u8>,
}

impl<'a> VirtualItemWriter<'a> {
    fn new(spec: &'a VirtualSpec, fields: ObjectFields) -> Self {
        let mut tail = Vec::new();
        if fields.contains(ObjectField::StorageClass) {
            tail.extend_from_slice(b",\"storageClass\":");
            push_string(&mut tail, spec.class());
        }
        if fields.contains(ObjectField::Updated) {
            tail.extend_from_slice(b",\"updated\":");
            push_string(&mut tail, &timestamp::rfc3339(VirtualSpec::CREATED));
        }
        tail.push(b'}');
        Self { spec, fields, tail }
    }

    fn write(&self, out: &mut Vec<u8>, i: u64) {
        let start = out.len();
        if self.fields.contains(ObjectField::Name) {
            out.extend_from_slice(b",\"name\":\"");
            let name = out.len();
            self.spec.write_name(i, out);
            // Names of a pattern need no escapes, but a prefix may.
            if out[name..].iter().any(|byte| needs_escape(*byte)) {
                out.truncate(name - 1);
                push_string(out, &self.spec.name(i));
            } else {
                out.push(b'"');
            }
        }

        let VirtualSummary { size, crc32c } = self.spec.summary(i);
        if self.fields.contains(ObjectField::Size) {
            out.extend_from_slice(b",\"size\":\"");
            push_number(out, size);
            out.push(b'"');
        }
        if self.fields.contains(ObjectField::Generation) {
            out.extend_from_slice(b",\"generation\":\"");
            push_number(out, self.spec.generation(i) as u64);
            out.push(b'"');
        }
        if self.fields.contains(ObjectField::Crc32c) {
            out.extend_from_slice(b",\"crc32c\":\"");
            push_crc32c_base64(out, crc32c);
            out.push(b'"');
        }

        out.extend_from_slice(&self.tail);
        // Every field starts with a comma; the first one becomes the brace.
        if out[start] == b',' {
            out[start] = b'{';
        } else {
            out.insert(start, b'{');
        }
    }
}
