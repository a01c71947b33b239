//! What the XML API does otherwise than the JSON API: listings, ETags, conditions in headers, and error bodies.
//!
//! Only reading is here: listing a bucket (`GET /bucket`, with `list-type=2` or in the older form), and reading an
//! object or its headers (`GET` and `HEAD /bucket/object`).

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    bucket::Bucket,
    error::Refusal,
    listing::{Entry, ListQuery, Page, page},
    media,
    object::Object,
    objects::{self, Preconditions},
    route::{Query, Target},
    service::{Reply, Request, State},
    timestamp,
};

const TYPE: &str = "application/xml; charset=UTF-8";
const DECLARATION: &str = "<?xml version='1.0' encoding='UTF-8'?>";

/// Objects and prefixes of a page when nothing is asked for, and at most. Unlike the JSON API, this one keeps to its
/// documented limit.
const LARGEST_PAGE: u64 = 1_000;

/// What `encoding-type=url` leaves as it is, beside letters and digits.
const URL_ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Parameters that ask for something else of a bucket than its objects. None of it is known here, and a listing would
/// be a wrong answer.
const SUBRESOURCES: [&str; 15] = [
    "acl",
    "billing",
    "cors",
    "defaultObjectAcl",
    "encryption",
    "encryptionConfig",
    "lifecycle",
    "location",
    "logging",
    "object-lock",
    "storageClass",
    "tagging",
    "uploads",
    "versioning",
    "websiteConfig",
];

/// Whether the request for a bucket is one for a listing of its objects.
pub(crate) fn is_listing(query: &Query) -> bool {
    SUBRESOURCES.iter().all(|name| query.get(name).is_none())
}

/// An object's entity tag in this API, without the quotes: the MD5 in hexadecimal digits, or for compositions and other
/// objects without one a dash and the tag of the JSON API.
fn etag(object: &Object) -> String {
    match &object.md5 {
        Some(md5) => md5.iter().fold(String::with_capacity(32), |mut hex, byte| {
            // To a string nothing can fail to be written.
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        None => format!("-{}", object.etag()),
    }
}

/// An object's contents; of a HEAD request only the headers go out.
pub(crate) fn get(state: &State, (bucket, name): &Target, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.objects.get", request)?;
    let object = objects::find(&bucket, name, request.query.integer("generation")?)?;
    let etag = format!("\"{}\"", etag(&object));
    let number = |header: &'static str| {
        let wrong =
            |text: &str| Refusal::invalid(format!("Invalid value '{text}' for {header}: an integer is wanted."));
        request.header(header).map(|text| text.trim().parse::<i64>().map_err(|_| wrong(text))).transpose()
    };
    let conditions = Preconditions {
        generation_match: number("x-goog-if-generation-match")?,
        metageneration_match: number("x-goog-if-metageneration-match")?,
        ..Preconditions::default()
    };
    conditions.check_read(&object)?;
    if objects::is_unchanged(request, &etag, object.updated)? {
        return Ok(Reply::empty(304).with("etag", etag));
    }
    Ok(Reply { metadata: object.attributes.metadata.clone(), ..media::contents(&object, request, etag)? })
}

/// A page of a listing, in the form of `list-type=2` or in the older one.
pub(crate) fn list(state: &State, bucket: &str, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.objects.list", request)?;
    let query = &request.query;
    let asked = Asked::parse(query)?;
    let page = page(&bucket, &asked.list_query()?);
    let items: u64 = page.entries.iter().map(Entry::len).sum::<u64>() + page.prefixes.len() as u64;
    state.stats.page(items);
    Ok(Reply { items, ..Reply::bytes(200, TYPE, asked.write(&bucket, &page)?) })
}

/// What a listing asks for.
struct Asked<'a> {
    version_2: bool,
    prefix: &'a str,
    delimiter: &'a str,
    /// `marker` or `start-after`: names come after this one.
    after: &'a str,
    token: Option<&'a str>,
    /// As it was asked for.
    max_keys: Option<u64>,
    url_encoded: bool,
}

impl<'a> Asked<'a> {
    fn parse(query: &'a Query) -> Result<Self, Refusal> {
        let version_2 = query.get("list-type") == Some("2");
        let text = |key| query.get(key).unwrap_or_default();
        let max_keys = match query.get("max-keys") {
            None => None,
            Some(text) => Some(text.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
                Refusal::parameter("max-keys", format!("Invalid argument '{text}': a positive integer is wanted."))
            })?),
        };
        Ok(Self {
            version_2,
            prefix: text("prefix"),
            delimiter: text("delimiter"),
            after: text(if version_2 { "start-after" } else { "marker" }),
            token: query.get("continuation-token").filter(|token| version_2 && !token.is_empty()),
            max_keys,
            url_encoded: query.get("encoding-type") == Some("url"),
        })
    }

    fn list_query(&self) -> Result<ListQuery, Refusal> {
        let mut list = ListQuery::below(self.prefix, self.delimiter);
        list.limit(self.max_keys.unwrap_or(LARGEST_PAGE).min(LARGEST_PAGE));
        if !self.after.is_empty() {
            list.start_after(self.after);
        }
        if let Some(token) = self.token {
            list.resume(token).ok_or_else(|| {
                Refusal::parameter("continuation-token", format!("Invalid continuation token '{token}'."))
            })?;
        }
        Ok(list)
    }

    /// A name as an element's text.
    fn name(&self, name: &str) -> String {
        if self.url_encoded { utf8_percent_encode(name, URL_ENCODED).to_string() } else { escaped(name) }
    }

    fn write(&self, bucket: &Bucket, page: &Page) -> Result<String, Refusal> {
        let mut contents = String::new();
        let mut last = page.prefixes.last().cloned().unwrap_or_default();
        let mut push = |object: &Object| {
            last = object.name.clone().max(std::mem::take(&mut last));
            let (name, etag, size) = (self.name(&object.name), etag(object), object.size());
            let (generation, metageneration) = (object.generation, object.metageneration);
            let updated = timestamp::rfc3339(object.updated);
            // To a string nothing can fail to be written.
            let _ = write!(
                contents,
                "<Contents><Key>{name}</Key><Generation>{generation}</Generation>\
                 <MetaGeneration>{metageneration}</MetaGeneration><LastModified>{updated}</LastModified>\
                 <ETag>\"{etag}\"</ETag><Size>{size}</Size></Contents>"
            );
        };
        for entry in &page.entries {
            match entry {
                Entry::Object(object) => push(object),
                Entry::Run(first, end) => {
                    for index in *first..*end {
                        if let Some(object) = bucket.base.object(index)? {
                            push(&object);
                        }
                    }
                }
            }
        }
        for prefix in &page.prefixes {
            let _ = write!(contents, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", self.name(prefix));
        }

        let mut out = format!("{DECLARATION}<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>");
        let mut element = |name: &str, value: &str| {
            let _ = write!(out, "<{name}>{value}</{name}>");
        };
        element("Name", &escaped(&bucket.name));
        element("Prefix", &self.name(self.prefix));
        if self.version_2 {
            if !self.after.is_empty() {
                element("StartAfter", &self.name(self.after));
            }
            if let Some(token) = self.token {
                element("ContinuationToken", &escaped(token));
            }
            if let Some(token) = &page.next {
                element("NextContinuationToken", &escaped(token));
            }
            let keys = page.entries.iter().map(Entry::len).sum::<u64>() + page.prefixes.len() as u64;
            element("KeyCount", &keys.to_string());
        } else {
            element("Marker", &self.name(self.after));
            if page.next.is_some() {
                element("NextMarker", &self.name(&last));
            }
        }
        if let Some(most) = self.max_keys {
            element("MaxKeys", &most.to_string());
        }
        if !self.delimiter.is_empty() {
            element("Delimiter", &self.name(self.delimiter));
        }
        element("IsTruncated", if page.next.is_some() { "true" } else { "false" });
        out += &contents;
        out += "</ListBucketResult>";
        Ok(out)
    }
}

/// The refusal in the form of this API.
pub(crate) fn refuse(refusal: &Refusal) -> Reply {
    // Callers without credentials may not do it, whoever they are; this API says so with 403.
    let anonymous = refusal.status == 401 && refusal.reason == "required";
    let status = if anonymous { 403 } else { refusal.status };
    if status == 304 {
        return Reply::empty(status);
    }
    let own = refusal.message.as_str();
    let (code, message, details) = match (status, refusal.reason) {
        (400, "required") => ("UserProjectMissing", own, None),
        (400, _) => ("InvalidArgument", "Invalid argument.", Some(own)),
        (401, _) => ("AuthenticationRequired", "Authentication required.", None),
        (403, _) => ("AccessDenied", "Access denied.", Some(own)),
        (404, _) if own == Refusal::no_bucket().message => ("NoSuchBucket", own, None),
        (404, _) => ("NoSuchKey", "The specified key does not exist.", Some(own)),
        (405, _) => ("MethodNotAllowed", "The specified method is not allowed against this resource.", None),
        (412, _) => ("PreconditionFailed", own, refusal.location.map(|(_, name)| name)),
        (416, _) => ("InvalidRange", "The requested range cannot be satisfied.", Some(own)),
        (429, _) => ("SlowDown", own, None),
        (503, _) => ("ServiceUnavailable", "Service unavailable. Please retry.", None),
        _ => ("InternalError", own, None),
    };
    let details = details.map(|text| format!("<Details>{}</Details>", escaped(text))).unwrap_or_default();
    let message = escaped(message);
    let body = format!("{DECLARATION}<Error><Code>{code}</Code><Message>{message}</Message>{details}</Error>");
    Reply::bytes(status, TYPE, body).with_size(refusal.size)
}

/// An element's text. Control characters, which XML can't have, are written as references, which are no better and are
/// at least seen.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            c if c.is_control() => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}
