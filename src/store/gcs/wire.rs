//! JSON in and out. Lenient: whatever a server leaves out is taken for its default, and numbers may be strings.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::store::{
    BucketInfo, ComposeRequest, ContentEncoding, Details, ListPage, ObjectMeta, ObjectRef, Objects, PutRequest,
    StorageClass,
};
use crate::{Error, ErrorKind, Result};

/// The CRC of four big-endian bytes in base64.
pub(super) fn crc_of(text: &str) -> Option<u32> {
    let mut bytes = [0; 6];
    match STANDARD.decode_slice(text, &mut bytes) {
        Ok(4) => Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        _ => None,
    }
}

fn crc_text(crc: u32) -> String {
    STANDARD.encode(crc.to_be_bytes())
}

/// A value written as a text, a number, or `null`.
trait Lenient: Default {
    const WANTED: &'static str;
    fn of_text(text: &str) -> Option<Self>;
    fn of_number(_: u64) -> Option<Self> {
        None
    }
}

impl Lenient for u64 {
    const WANTED: &'static str = "a whole number";
    fn of_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn of_number(number: u64) -> Option<Self> {
        Some(number)
    }
}

impl Lenient for i64 {
    const WANTED: &'static str = "a whole number";
    fn of_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn of_number(number: u64) -> Option<Self> {
        number.try_into().ok()
    }
}

/// A CRC.
#[derive(Default)]
struct CrcJson(Option<u32>);

impl Lenient for CrcJson {
    const WANTED: &'static str = "base64 of four bytes";
    fn of_text(text: &str) -> Option<Self> {
        if text.is_empty() { Some(Self(None)) } else { crc_of(text).map(|crc| Self(Some(crc))) }
    }
}

/// A moment; one that can't be read is none, since nothing depends on it.
#[derive(Default)]
struct MomentJson(Option<SystemTime>);

impl Lenient for MomentJson {
    const WANTED: &'static str = "a date and time";
    fn of_text(text: &str) -> Option<Self> {
        Some(Self(moment(text)))
    }
}

/// RFC 3339, with any offset.
fn moment(text: &str) -> Option<SystemTime> {
    if text.ends_with('Z') {
        return humantime::parse_rfc3339(text).ok();
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let offset_by = Duration::from_secs(hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match offset.as_bytes().first()? {
        b'+' => local.checked_sub(offset_by),
        b'-' => local.checked_add(offset_by),
        _ => None,
    }
}

impl Lenient for StorageClass {
    const WANTED: &'static str = "a storage class";
    fn of_text(text: &str) -> Option<Self> {
        Some(Self::parse(text))
    }
}

impl Lenient for ContentEncoding {
    const WANTED: &'static str = "an encoding";
    fn of_text(text: &str) -> Option<Self> {
        Some(Self::parse(text))
    }
}

fn lenient<'de, T: Lenient, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Any<T>(PhantomData<T>);

    impl<T: Lenient> Visitor<'_> for Any<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::WANTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            T::of_text(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            T::of_number(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }

        fn visit_unit<E: de::Error>(self) -> Result<T, E> {
            Ok(T::default())
        }
    }

    deserializer.deserialize_any(Any(PhantomData))
}

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
    updated: MomentJson,
    #[serde(default, deserialize_with = "lenient")]
    time_created: MomentJson,
    #[serde(default, deserialize_with = "lenient")]
    custom_time: MomentJson,
    metadata: Option<BTreeMap<String, String>>,
}

impl ObjectJson<'_> {
    /// What makes no sense of it, if anything.
    fn nonsense(&self) -> Option<String> {
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

    fn to_ref<'a>(&'a self, details: Option<&'a Details>) -> ObjectRef<'a> {
        ObjectRef {
            name: &self.name,
            size: self.size,
            generation: self.generation,
            crc32c: self.crc32c.0,
            storage_class: self.storage_class,
            encoding: self.content_encoding,
            updated: self.updated.0,
            details,
        }
    }
}

/// The objects of a page, which go from the text into one buffer: a page has thousands of them.
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
                    if let Some(nonsense) = object.nonsense() {
                        return Err(de::Error::custom(nonsense));
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

/// Reads a JSON text, which the network may have cut short.
fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let (kind, what) = if error.is_eof() {
            (ErrorKind::Unavailable, "the answer ended early")
        } else {
            (ErrorKind::Protocol, "the answer can't be read")
        };
        Error::new(kind, format!("{what}: {error}")).with_source(error)
    })
}

/// A page of a listing, with details or without.
pub(super) fn page(text: &str, details: bool) -> Result<ListPage> {
    if details { page_of::<true>(text) } else { page_of::<false>(text) }
}

fn page_of<const DETAILS: bool>(text: &str) -> Result<ListPage> {
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

/// One object.
pub(super) fn object(text: &str) -> Result<ObjectMeta> {
    let mut object: ObjectJson<'_> = parse(text)?;
    if let Some(nonsense) = object.nonsense() {
        return Err(Error::new(ErrorKind::Protocol, format!("the answer tells of {nonsense}")));
    }
    let details = object.details();
    Ok(ObjectMeta {
        name: object.name.into_owned(),
        size: object.size,
        generation: object.generation,
        crc32c: object.crc32c.0,
        storage_class: object.storage_class,
        encoding: object.content_encoding,
        updated: object.updated.0,
        details,
    })
}

/// A bucket.
pub(super) fn bucket(text: &str) -> Result<BucketInfo> {
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
        // The service tells of soft delete even where it is off; of retention only where there is some.
        soft_delete: bucket.soft_delete_policy.map(|policy| Duration::from_secs(policy.retention_duration_seconds)),
        retention: Some(Duration::from_secs(bucket.retention_policy.map_or(0, |policy| policy.retention_period))),
        default_hold: bucket.default_event_based_hold.unwrap_or(false),
        hierarchical_namespace: bucket.hierarchical_namespace.and_then(|folders| folders.enabled).unwrap_or(false),
    })
}

/// The permissions held.
pub(super) fn permissions(text: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct HoldJson {
        permissions: Option<Vec<String>>,
    }
    Ok(parse::<HoldJson>(text)?.permissions.unwrap_or_default())
}

/// What is said of an object that is to be written.
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

fn written(value: &impl Serialize) -> String {
    // Texts and numbers under text keys: nothing that JSON can't say.
    serde_json::to_string(value).unwrap_or_default()
}

const BYTES: &str = "application/octet-stream";

/// The body of a compose.
pub(super) fn compose(request: &ComposeRequest) -> String {
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
        generation: String,
        object_preconditions: PreconditionsJson,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct PreconditionsJson {
        if_generation_match: String,
    }
    let source = |(name, generation): &'_ (std::sync::Arc<str>, i64)| (name.clone(), generation.to_string());
    let sources: Vec<_> = request.sources.iter().map(source).collect();
    written(&ComposeJson {
        source_objects: sources
            .iter()
            .map(|(name, generation)| SourceJson {
                name,
                generation: generation.clone(),
                object_preconditions: PreconditionsJson { if_generation_match: generation.clone() },
            })
            .collect(),
        destination: ResourceJson {
            name: None,
            crc32c: crc_text(request.crc32c),
            content_type: BYTES,
            content_encoding: None,
            storage_class: None,
            custom_time: Some(humantime::format_rfc3339_millis(request.custom_time).to_string()),
            metadata: &request.metadata,
        },
    })
}

/// The body of a change of metadata.
pub(super) fn metadata(metadata: &BTreeMap<String, String>) -> String {
    #[derive(Serialize)]
    struct PatchJson<'a> {
        metadata: &'a BTreeMap<String, String>,
    }
    written(&PatchJson { metadata })
}

/// What an upload says of its object.
pub(super) fn put(request: &PutRequest) -> String {
    written(&ResourceJson {
        name: Some(&request.name),
        crc32c: crc_text(crc32c::crc32c(&request.data)),
        content_type: content_type(request),
        content_encoding: request.content_encoding.as_deref(),
        storage_class: request.storage_class.map(StorageClass::as_str).filter(|class| !class.is_empty()),
        custom_time: None,
        metadata: &request.metadata,
    })
}

pub(super) fn content_type(request: &PutRequest) -> &str {
    request.content_type.as_deref().unwrap_or(BYTES)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_full_object() {
        let meta = object(
            r#"{"name":"a \"b\"/\u00fc","size":"9","generation":"1700000000000001","crc32c":"4waSgw==",
                "storageClass":"NEARLINE","contentEncoding":"gzip","updated":"2026-11-01T00:00:00.500Z",
                "timeCreated":"2026-11-01T01:00:00+01:00","metadata":{"k":"v"},"kind":"storage#object"}"#,
        )
        .unwrap();
        assert_eq!((meta.name.as_str(), meta.size, meta.generation), ("a \"b\"/ü", 9, 1_700_000_000_000_001));
        assert_eq!((meta.crc32c, meta.storage_class), (Some(0xE306_9283), StorageClass::Nearline));
        assert_eq!(meta.encoding, ContentEncoding::Gzip);
        let midnight = UNIX_EPOCH + Duration::from_secs(1_793_491_200);
        assert_eq!(meta.updated, Some(midnight + Duration::from_millis(500)));
        assert_eq!(meta.details.created, Some(midnight));
        assert_eq!(meta.details.metadata["k"], "v");
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let meta = object(r#"{"name":"o","generation":7,"size":null,"updated":"yesterday"}"#).unwrap();
        assert_eq!(meta, ObjectMeta { name: "o".into(), generation: 7, ..ObjectMeta::default() });
        assert_eq!(object(r#"{"name":"o","generation":"7","size":0,"crc32c":""}"#).unwrap().crc32c, None);
    }

    #[test]
    fn pages_without_items() {
        let empty = page("{}", false).unwrap();
        assert!(empty.objects.is_empty() && empty.prefixes.is_empty() && empty.next_page_token.is_none());
        let more = page(r#"{"kind":"storage#objects","items":null,"nextPageToken":"t"}"#, false).unwrap();
        assert_eq!(more.next_page_token.as_deref(), Some("t"));
        assert_eq!(page(r#"{"prefixes":["a/"],"nextPageToken":""}"#, false).unwrap().next_page_token, None);
    }

    #[test]
    fn nonsense_is_told_from_a_cut_answer() {
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
            assert_eq!(page(text, false).unwrap_err().kind(), ErrorKind::Protocol, "{text}");
        }
        for text in ["", r#"{"items":[{"name":"o""#] {
            assert_eq!(page(text, false).unwrap_err().kind(), ErrorKind::Unavailable, "{text}");
        }
    }

    #[test]
    fn bucket_facts() {
        let info = bucket(
            r#"{"location":"US","locationType":"multi-region","storageClass":"STANDARD",
                "softDeletePolicy":{"retentionDurationSeconds":"604800"},"retentionPolicy":{"retentionPeriod":"60"},
                "hierarchicalNamespace":{"enabled":true}}"#,
        )
        .unwrap();
        assert_eq!(info.soft_delete, Some(Duration::from_secs(604_800)));
        assert_eq!(info.retention, Some(Duration::from_secs(60)));
        assert!(info.hierarchical_namespace && !info.default_hold);
        assert_eq!(bucket("{}").unwrap().soft_delete, None);
    }

    #[test]
    fn a_compose_pins_its_sources_and_never_deletes_them() {
        let sources = vec![(Arc::from("a"), 1), (Arc::from("b"), 2)];
        let request = ComposeRequest::new("bucket".into(), "d".into(), sources, 3, 0xE306_9283, UNIX_EPOCH);
        assert_eq!(
            compose(&request),
            r#"{"sourceObjects":[{"name":"a","generation":"1","objectPreconditions":{"ifGenerationMatch":"1"}},"#
                .to_owned()
                + r#"{"name":"b","generation":"2","objectPreconditions":{"ifGenerationMatch":"2"}}],"#
                + r#""destination":{"crc32c":"4waSgw==","contentType":"application/octet-stream","#
                + r#""customTime":"1970-01-01T00:00:00.000Z"}}"#
        );
    }

    #[test]
    fn offsets_of_time_zones() {
        let noon = moment("2026-11-01T12:00:00Z");
        assert!(noon.is_some());
        assert_eq!(moment("2026-11-01T17:30:00+05:30"), noon);
        assert_eq!(moment("2026-11-01T04:00:00.000-08:00"), noon);
        for nonsense in ["", "Z", "ü", "2026-11-01", "2026-11-01T04:00:00*08:00", "+ü:00ü"] {
            assert_eq!(moment(nonsense), None, "{nonsense}");
        }
    }
}
