//! The calls of the XML API. They differ from the JSON API in listings, ETags, conditions in headers, and error bodies.
//!
//! Only reading is implemented: listing a bucket (`GET /bucket`, with `list-type=2` or in the older form), and reading
//! an object or its headers (`GET` and `HEAD /bucket/object`).

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    api::{
        media::content_reply,
        preconditions::{Preconditions, is_not_modified},
        state::{EmulatorState, ObjectPath},
        versions::find_version,
    },
    buckets::{
        list_query::ListQuery,
        listing::{CollectedPage, ListEntry, collect_page},
        stored::StoredBucket,
    },
    http::{query::QueryParameters, reply::Reply, request::ReceivedRequest},
    objects::version::ObjectVersion,
    refusal::{Refusal, RefusalLocation},
    timestamp,
};

const CONTENT_TYPE: &str = "application/xml; charset=UTF-8";
const DECLARATION: &str = "<?xml version='1.0' encoding='UTF-8'?>";

/// The number of objects and prefixes of a page by default, and at most. Unlike the JSON API, this one keeps to its
/// documented limit.
const MAX_PAGE_SIZE: u64 = 1_000;

/// The characters that `encoding-type=url` leaves unchanged, besides letters and digits.
const URL_ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// An object's entity tag in this API, without the quotes: the MD5 in hexadecimal digits, or for compositions and other
/// objects without an MD5 a dash and the tag of the JSON API.
fn etag(object: &ObjectVersion) -> String {
    match &object.md5 {
        Some(md5) => md5.iter().fold(String::with_capacity(32), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        None => format!("-{}", object.etag()),
    }
}

/// The contents of an object. The caller removes the body for HEAD.
pub(crate) fn get(state: &EmulatorState, path: &ObjectPath, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(&path.bucket, request)?;
    bucket.check_permission("storage.objects.get", request.caller())?;
    let object = find_version(&bucket, &path.name, request.query.integer("generation")?)?;
    let etag = format!("\"{}\"", etag(&object));

    let number = |header: &'static str| {
        let invalid =
            |text: &str| Refusal::invalid(format!("Invalid value '{text}' for {header}: an integer is wanted."));
        request.header(header).map(|text| text.trim().parse::<i64>().map_err(|_| invalid(text))).transpose()
    };
    let conditions = Preconditions {
        generation_match: number("x-goog-if-generation-match")?,
        metageneration_match: number("x-goog-if-metageneration-match")?,
        ..Preconditions::default()
    };
    conditions.check_read(&object)?;
    if is_not_modified(request, &etag, object.updated)? {
        return Ok(Reply::not_modified(etag));
    }

    Ok(Reply { metadata: object.attributes.metadata.clone(), ..content_reply(&object, request, etag)? })
}

/// A page of a listing, in the form of `list-type=2` or in the older one.
pub(crate) fn list(state: &EmulatorState, bucket: &str, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(bucket, request)?;
    bucket.check_permission("storage.objects.list", request.caller())?;
    let parameters = XmlListParameters::parse(&request.query)?;
    let page = collect_page(&bucket, &parameters.list_query()?);
    state.stats.count_page(page.len());
    let body = parameters.write_page(&bucket, &page)?;
    Ok(Reply { items: page.len(), ..Reply::bytes(200, CONTENT_TYPE, body) })
}

/// The parameters of a listing.
struct XmlListParameters<'a> {
    is_version_2: bool,
    prefix: &'a str,
    delimiter: &'a str,
    /// `marker` or `start-after`: the listing starts after this name.
    after: &'a str,
    token: Option<&'a str>,
    /// As the request has it.
    max_keys: Option<u64>,
    is_url_encoded: bool,
}

impl<'a> XmlListParameters<'a> {
    fn parse(query: &'a QueryParameters) -> Result<Self, Refusal> {
        let is_version_2 = query.get("list-type") == Some("2");
        let text = |key| query.get(key).unwrap_or_default();
        let max_keys = match query.get("max-keys") {
            None => None,
            Some(text) => Some(text.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
                Refusal::parameter("max-keys", format!("Invalid argument '{text}': a positive integer is wanted."))
            })?),
        };
        Ok(Self {
            is_version_2,
            prefix: text("prefix"),
            delimiter: text("delimiter"),
            after: text(if is_version_2 { "start-after" } else { "marker" }),
            token: query.non_empty("continuation-token").filter(|_| is_version_2),
            max_keys,
            is_url_encoded: query.get("encoding-type") == Some("url"),
        })
    }

    fn list_query(&self) -> Result<ListQuery, Refusal> {
        let mut list = ListQuery {
            prefix: self.prefix.into(),
            delimiter: self.delimiter.into(),
            max_entries: self.max_keys.unwrap_or(MAX_PAGE_SIZE).min(MAX_PAGE_SIZE),
            ..ListQuery::default()
        };
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

    /// A name as the text of an element.
    fn encode_name(&self, name: &str) -> String {
        if self.is_url_encoded { utf8_percent_encode(name, URL_ENCODED).to_string() } else { escape(name) }
    }

    fn write_page(&self, bucket: &StoredBucket, page: &CollectedPage) -> Result<String, Refusal> {
        let mut contents = String::new();
        let mut last_name = page.prefixes.last().cloned().unwrap_or_default();
        let mut push = |object: &ObjectVersion| {
            last_name = object.name.clone().max(std::mem::take(&mut last_name));
            let (name, etag, size) = (self.encode_name(&object.name), etag(object), object.size());
            let (generation, metageneration) = (object.generation, object.metageneration);
            let updated = timestamp::rfc3339(object.updated);
            // Writing to a string cannot fail.
            let _ = write!(
                contents,
                "<Contents><Key>{name}</Key><Generation>{generation}</Generation>\
                 <MetaGeneration>{metageneration}</MetaGeneration><LastModified>{updated}</LastModified>\
                 <ETag>\"{etag}\"</ETag><Size>{size}</Size></Contents>"
            );
        };
        for entry in &page.entries {
            match entry {
                ListEntry::Object(object) => push(object),
                ListEntry::Run(run) => {
                    for index in run.clone() {
                        if let Some(object) = bucket.base.object(index)? {
                            push(&object);
                        }
                    }
                }
            }
        }
        for prefix in &page.prefixes {
            let prefix = self.encode_name(prefix);
            let _ = write!(contents, "<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>");
        }

        let mut out = format!("{DECLARATION}<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>");
        let mut element = |name: &str, value: &str| {
            let _ = write!(out, "<{name}>{value}</{name}>");
        };
        element("Name", &escape(&bucket.name));
        element("Prefix", &self.encode_name(self.prefix));
        if self.is_version_2 {
            if !self.after.is_empty() {
                element("StartAfter", &self.encode_name(self.after));
            }
            if let Some(token) = self.token {
                element("ContinuationToken", &escape(token));
            }
            if let Some(token) = &page.next_token {
                element("NextContinuationToken", &escape(token));
            }
            element("KeyCount", &page.len().to_string());
        } else {
            element("Marker", &self.encode_name(self.after));
            if page.next_token.is_some() {
                element("NextMarker", &self.encode_name(&last_name));
            }
        }
        if let Some(max_keys) = self.max_keys {
            element("MaxKeys", &max_keys.to_string());
        }
        if !self.delimiter.is_empty() {
            element("Delimiter", &self.encode_name(self.delimiter));
        }
        element("IsTruncated", if page.next_token.is_some() { "true" } else { "false" });
        out += &contents;
        out += "</ListBucketResult>";
        Ok(out)
    }
}

/// The answer to a call that is refused, in the form of this API.
pub(crate) fn refusal_reply(refusal: &Refusal) -> Reply {
    // This API answers 403 to an anonymous caller who lacks a permission.
    let lacks_permission = refusal.status == 401 && refusal.reason == "required";
    let status = if lacks_permission { 403 } else { refusal.status };
    if status == 304 {
        return Reply::empty(status);
    }

    let text = refusal.message.as_str();
    let (code, message, details) = match (status, refusal.reason) {
        (400, "required") => ("UserProjectMissing", text, None),
        (400, _) => ("InvalidArgument", "Invalid argument.", Some(text)),
        (401, _) => ("AuthenticationRequired", "Authentication required.", None),
        (403, _) => ("AccessDenied", "Access denied.", Some(text)),
        (404, _) if text == Refusal::no_bucket().message => ("NoSuchBucket", text, None),
        (404, _) => ("NoSuchKey", "The specified key does not exist.", Some(text)),
        (405, _) => ("MethodNotAllowed", "The specified method is not allowed against this resource.", None),
        (412, _) => ("PreconditionFailed", text, refusal.location.map(RefusalLocation::name)),
        (416, _) => ("InvalidRange", "The requested range cannot be satisfied.", Some(text)),
        (429, _) => ("SlowDown", text, None),
        (503, _) => ("ServiceUnavailable", "Service unavailable. Please retry.", None),
        _ => ("InternalError", text, None),
    };
    let details = details.map(|text| format!("<Details>{}</Details>", escape(text))).unwrap_or_default();
    let message = escape(message);
    let body = format!("{DECLARATION}<Error><Code>{code}</Code><Message>{message}</Message>{details}</Error>");
    Reply::bytes(status, CONTENT_TYPE, body).with_object_size(refusal.object_size)
}

/// Escapes the text of an element. Control characters become references. XML forbids these as well, but a reader can at
/// least see them.
fn escape(text: &str) -> String {
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
