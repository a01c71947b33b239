//! The JSON of requests and answers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::lenient::{CrcJson, TimeJson, crc_text, lenient};
use super::path::generation;
use crate::store::{
    BucketInfo, ComposeRequest, ContentEncoding, CopyProgress, Details, ListPage, ObjectMeta, ObjectRef, Objects,
    PutRequest, StorageClass, Version,
};
use crate::{Error, ErrorKind, Result};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default, deserialize_with = "lenient")]
    size: u64,
    #[serde(default, deserialize_with = "lenient")]
    generation: i64,
    #[serde(default, deserialize_with = "lenient")]
    crc32c: CrcJson,
    #[serde(default, deserialize_with = "lenient")]
    storage_class: StorageClass,
    #[serde(default, deserialize_with = "lenient")]
    content_encoding: ContentEncoding,
    #[serde(default, deserialize_with = "lenient")]
    updated: TimeJson,
    #[serde(default, deserialize_with = "lenient")]
    time_created: TimeJson,
    #[serde(default, deserialize_with = "lenient")]
    custom_time: TimeJson,
    metadata: Option<BTreeMap<String, String>>,
}

impl ObjectJson<'_> {
    /// Describes what is wrong with the object, if anything.
    fn defect(&self) -> Option<String> {
        (self.name.is_empty() || self.generation <= 0)
            .then(|| format!("an object without a name or generation: {:?}, {}", self.name, self.generation))
    }

    fn details(&mut self) -> Details {
        Details {
            created: self.time_created.0,
            custom_time: self.custom_time.0,
            metadata: self.metadata.take().unwrap_or_default(),
        }
    }

    fn into_meta(mut self) -> Result<ObjectMeta> {
        if let Some(defect) = self.defect() {
            return Err(Error::new(ErrorKind::Protocol, format!("the answer describes {defect}")));
        }
        let details = self.details();
        Ok(ObjectMeta {
            name: self.name.into_owned(),
            size: self.size,
            version: Version::Generation(self.generation),
            crc32c: self.crc32c.0,
            storage_class: self.storage_class,
            encoding: self.content_encoding,
            updated: self.updated.0,
            details,
        })
    }

    fn to_ref<'a>(&'a self, details: Option<&'a Details>) -> ObjectRef<'a> {
        ObjectRef {
            name: &self.name,
            size: self.size,
            version: Version::Generation(self.generation),
            crc32c: self.crc32c.0,
            storage_class: self.storage_class,
            encoding: self.content_encoding,
            updated: self.updated.0,
            details,
        }
    }
}

/// The objects of a page. They are written from the text into one buffer, since a page has thousands of them.
#[derive(Default)]
struct PageItems<const DETAILS: bool>(Objects);

impl<'de, const DETAILS: bool> Deserialize<'de> for PageItems<DETAILS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemArray<const DETAILS: bool>;

        impl<'de, const DETAILS: bool> Visitor<'de> for ItemArray<DETAILS> {
            type Value = PageItems<DETAILS>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of objects")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut objects = Objects::default();
                while let Some(mut object) = items.next_element::<ObjectJson<'de>>()? {
                    if let Some(defect) = object.defect() {
                        return Err(de::Error::custom(defect));
                    }
                    let details = DETAILS.then(|| object.details());
                    objects.push(object.to_ref(details.as_ref()));
                }
                Ok(PageItems(objects))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(PageItems::default())
            }
        }

        deserializer.deserialize_any(ItemArray)
    }
}

/// Parses a JSON text, which the network may have cut short.
fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let (kind, message) = if error.is_eof() {
            (ErrorKind::Unavailable, "the answer ended early")
        } else {
            (ErrorKind::Protocol, "the answer can't be read")
        };
        Error::new(kind, format!("{message}: {error}")).with_source(error)
    })
}

/// Parses a page of a listing, with details or without.
pub(super) fn parse_page(text: &str, details: bool) -> Result<ListPage> {
    if details { parse_page_of::<true>(text) } else { parse_page_of::<false>(text) }
}

fn parse_page_of<const DETAILS: bool>(text: &str) -> Result<ListPage> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct PageJson<const DETAILS: bool> {
        #[serde(default)]
        items: PageItems<DETAILS>,
        prefixes: Option<Vec<String>>,
        next_page_token: Option<String>,
    }
    let page: PageJson<DETAILS> = parse(text)?;
    Ok(ListPage {
        objects: page.items.0,
        prefixes: page.prefixes.unwrap_or_default(),
        next_page_token: page.next_page_token.filter(|token| !token.is_empty()),
        date: None,
    })
}

/// Parses one object.
pub(super) fn parse_object(text: &str) -> Result<ObjectMeta> {
    parse::<ObjectJson<'_>>(text)?.into_meta()
}

/// Parses the answer to one call of a copy.
pub(super) fn parse_copy(text: &str) -> Result<CopyProgress> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RewriteJson<'a> {
        done: Option<bool>,
        rewrite_token: Option<String>,
        #[serde(default, deserialize_with = "lenient")]
        total_bytes_rewritten: u64,
        #[serde(borrow)]
        resource: Option<ObjectJson<'a>>,
    }
    let answer: RewriteJson<'_> = parse(text)?;
    match (answer.resource, answer.rewrite_token) {
        (Some(object), _) if answer.done != Some(false) => object.into_meta().map(CopyProgress::Done),
        (_, Some(continuation)) if answer.done != Some(true) && !continuation.is_empty() => {
            Ok(CopyProgress::Unfinished { continuation, copied: answer.total_bytes_rewritten })
        }
        _ => Err(Error::new(ErrorKind::Protocol, "the answer names neither a copy nor how to continue it")),
    }
}

/// Parses the facts about a bucket.
pub(super) fn parse_bucket(text: &str) -> Result<BucketInfo> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct BucketJson {
        location: Option<String>,
        location_type: Option<String>,
        #[serde(default, deserialize_with = "lenient")]
        storage_class: StorageClass,
        soft_delete_policy: Option<SoftDeleteJson>,
        retention_policy: Option<RetentionJson>,
        default_event_based_hold: Option<bool>,
        hierarchical_namespace: Option<HierarchicalJson>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct SoftDeleteJson {
        #[serde(default, deserialize_with = "lenient")]
        retention_duration_seconds: u64,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RetentionJson {
        #[serde(default, deserialize_with = "lenient")]
        retention_period: u64,
    }
    #[derive(Deserialize)]
    struct HierarchicalJson {
        enabled: Option<bool>,
    }
    let bucket: BucketJson = parse(text)?;
    Ok(BucketInfo {
        location: bucket.location,
        location_type: bucket.location_type,
        storage_class: bucket.storage_class,
        // The service reports soft delete even if it is off, but a retention policy only if there is one.
        soft_delete: bucket.soft_delete_policy.map(|policy| Duration::from_secs(policy.retention_duration_seconds)),
        retention: Some(Duration::from_secs(bucket.retention_policy.map_or(0, |policy| policy.retention_period))),
        default_hold: bucket.default_event_based_hold.unwrap_or(false),
        hierarchical_namespace: bucket.hierarchical_namespace.and_then(|folders| folders.enabled).unwrap_or(false),
        free: false,
    })
}

/// Parses the permissions that the caller holds.
pub(super) fn parse_permissions(text: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct PermissionsJson {
        permissions: Option<Vec<String>>,
    }
    Ok(parse::<PermissionsJson>(text)?.permissions.unwrap_or_default())
}

/// The description of an object to be written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    crc32c: String,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_time: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
}

fn to_json(value: &impl Serialize) -> String {
    // Texts and numbers under text keys can always be written as JSON.
    serde_json::to_string(value).unwrap_or_default()
}

const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";

/// The body of a compose.
pub(super) fn compose_body(request: &ComposeRequest) -> Result<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ComposeJson<'a> {
        source_objects: Vec<SourceJson<'a>>,
        destination: ResourceJson<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct SourceJson<'a> {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        object_preconditions: Option<PreconditionsJson>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct PreconditionsJson {
        if_generation_match: String,
    }
    let source_objects = request.sources.iter().map(|(name, version)| {
        let generation = generation(version)?.map(|generation| generation.to_string());
        let object_preconditions =
            generation.clone().map(|if_generation_match| PreconditionsJson { if_generation_match });
        Ok(SourceJson { name, generation, object_preconditions })
    });
    Ok(to_json(&ComposeJson {
        source_objects: source_objects.collect::<Result<_>>()?,
        destination: ResourceJson {
            name: None,
            crc32c: crc_text(request.crc32c),
            content_type: DEFAULT_CONTENT_TYPE,
            content_encoding: None,
            storage_class: None,
            custom_time: Some(humantime::format_rfc3339_millis(request.custom_time).to_string()),
            metadata: &request.metadata,
        },
    }))
}

/// The body of an update of metadata.
pub(super) fn metadata_body(metadata: &BTreeMap<String, String>) -> String {
    #[derive(Serialize)]
    struct PatchJson<'a> {
        metadata: &'a BTreeMap<String, String>,
    }
    to_json(&PatchJson { metadata })
}

/// The description of the object that an upload writes.
pub(super) fn upload_body(request: &PutRequest) -> String {
    to_json(&ResourceJson {
        name: Some(&request.name),
        crc32c: crc_text(crc32c::crc32c(&request.data)),
        content_type: content_type(request),
        content_encoding: request.content_encoding.as_deref(),
        storage_class: request.storage_class.map(StorageClass::as_str).filter(|class| !class.is_empty()),
        custom_time: None,
        metadata: &request.metadata,
    })
}

/// The `Content-Type` of an upload.
pub(super) fn content_type(request: &PutRequest) -> &str {
    request.content_type.as_deref().unwrap_or(DEFAULT_CONTENT_TYPE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_full_object() {
        let meta = parse_object(
            r#"{"name":"a \"b\"/\u00fc","size":"9","generation":"1700000000000001","crc32c":"4waSgw==",
                "storageClass":"NEARLINE","contentEncoding":"gzip","updated":"2026-11-01T00:00:00.500Z",
                "timeCreated":"2026-11-01T01:00:00+01:00","metadata":{"k":"v"},"kind":"storage#object"}"#,
        )
        .unwrap();
        assert_eq!(
            (meta.name.as_str(), meta.size, meta.version),
            ("a \"b\"/ü", 9, Version::Generation(1_700_000_000_000_001))
        );
        assert_eq!((meta.crc32c, meta.storage_class), (Some(0xE306_9283), StorageClass::Nearline));
        assert_eq!(meta.encoding, ContentEncoding::Gzip);
        let midnight = UNIX_EPOCH + Duration::from_secs(1_793_491_200);
        assert_eq!(meta.updated, Some(midnight + Duration::from_millis(500)));
        assert_eq!(meta.details.created, Some(midnight));
        assert_eq!(meta.details.metadata["k"], "v");
    }

    #[test]
    fn missing_fields_have_defaults() {
        let meta = parse_object(r#"{"name":"o","generation":7,"size":null,"updated":"yesterday"}"#).unwrap();
        assert_eq!(meta, ObjectMeta { name: "o".into(), version: Version::Generation(7), ..ObjectMeta::default() });
        assert_eq!(parse_object(r#"{"name":"o","generation":"7","size":0,"crc32c":""}"#).unwrap().crc32c, None);
    }

    #[test]
    fn pages_without_items() {
        let empty = parse_page("{}", false).unwrap();
        assert!(empty.objects.is_empty() && empty.prefixes.is_empty() && empty.next_page_token.is_none());
        let more = parse_page(r#"{"kind":"storage#objects","items":null,"nextPageToken":"t"}"#, false).unwrap();
        assert_eq!(more.next_page_token.as_deref(), Some("t"));
        assert_eq!(parse_page(r#"{"prefixes":["a/"],"nextPageToken":""}"#, false).unwrap().next_page_token, None);
    }

    #[test]
    fn a_malformed_answer_differs_from_a_truncated_one() {
        for text in [
            "<html>",
            "[]",
            r#"{"items":[{"size":"1"}]}"#,
            r#"{"items":[{"name":"o"}]}"#,
            r#"{"items":[{"name":"o","generation":"-1"}]}"#,
            r#"{"items":[{"name":"o","generation":"1","size":"-1"}]}"#,
            r#"{"items":[{"name":"o","generation":"1","crc32c":"!"}]}"#,
            r#"{"items":[{"name":"o","generation":"1","size":1.5}]}"#,
        ] {
            assert_eq!(parse_page(text, false).unwrap_err().kind(), ErrorKind::Protocol, "{text}");
        }
        for text in ["", r#"{"items":[{"name":"o""#] {
            assert_eq!(parse_page(text, false).unwrap_err().kind(), ErrorKind::Unavailable, "{text}");
        }
    }

    #[test]
    fn bucket_facts() {
        let info = parse_bucket(
            r#"{"location":"US","locationType":"multi-region","storageClass":"STANDARD",
                "softDeletePolicy":{"retentionDurationSeconds":"604800"},"retentionPolicy":{"retentionPeriod":"60"},
                "hierarchicalNamespace":{"enabled":true}}"#,
        )
        .unwrap();
        assert_eq!(info.soft_delete, Some(Duration::from_secs(604_800)));
        assert_eq!(info.retention, Some(Duration::from_secs(60)));
        assert!(info.hierarchical_namespace && !info.default_hold);
        assert_eq!(parse_bucket("{}").unwrap().soft_delete, None);
    }

    #[test]
    fn a_copy_is_done_or_continues() {
        let done = r#"{"done":true,"resource":{"name":"o","generation":"7"}}"#;
        let progress = parse_copy(done).unwrap();
        assert!(matches!(progress, CopyProgress::Done(meta) if meta.version == Version::Generation(7)));
        let more = r#"{"done":false,"rewriteToken":"t","totalBytesRewritten":"5"}"#;
        let progress = parse_copy(more).unwrap();
        assert!(matches!(progress, CopyProgress::Unfinished { continuation, copied: 5 } if continuation == "t"));
        for nonsense in [
            "{}",
            r#"{"done":false}"#,
            r#"{"done":false,"rewriteToken":""}"#,
            r#"{"done":true,"rewriteToken":"t"}"#,
            r#"{"done":false,"resource":{"name":"o","generation":"7"}}"#,
        ] {
            assert_eq!(parse_copy(nonsense).unwrap_err().kind(), ErrorKind::Protocol, "{nonsense}");
        }
    }

    #[test]
    fn a_compose_pins_its_sources_and_never_deletes_them() {
        let sources = vec![(Arc::from("a"), 1.into()), (Arc::from("b"), 2.into())];
        let request = ComposeRequest::new("bucket".into(), "d".into(), sources, 3, 0xE306_9283, UNIX_EPOCH);
        assert_eq!(
            compose_body(&request).unwrap(),
            r#"{"sourceObjects":[{"name":"a","generation":"1","objectPreconditions":{"ifGenerationMatch":"1"}},"#
                .to_owned()
                + r#"{"name":"b","generation":"2","objectPreconditions":{"ifGenerationMatch":"2"}}],"#
                + r#""destination":{"crc32c":"4waSgw==","contentType":"application/octet-stream","#
                + r#""customTime":"1970-01-01T00:00:00.000Z"}}"#
        );
    }
}
