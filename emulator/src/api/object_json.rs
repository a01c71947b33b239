//! The JSON resource of an object, written straight into a buffer.

use serde_json::Value;

use crate::{
    checksum::{base64, crc32c_base64},
    decimal::push_number,
    naming::encode_segment,
    objects::version::ObjectVersion,
    timestamp,
};

macro_rules! object_fields {
    ($($variant:ident $name:literal)*) => {
        /// A field of an object resource.
        #[derive(Clone, Copy)]
        pub(crate) enum ObjectField { $($variant),* }

        /// The names of the fields, indexed by [`ObjectField`].
        const NAMES: &[&str] = &[$($name),*];
    };
}

object_fields! {
    Kind "kind"
    Id "id"
    SelfLink "selfLink"
    MediaLink "mediaLink"
    Name "name"
    Bucket "bucket"
    Generation "generation"
    Metageneration "metageneration"
    ContentType "contentType"
    StorageClass "storageClass"
    Size "size"
    Md5Hash "md5Hash"
    Crc32c "crc32c"
    Etag "etag"
    ContentEncoding "contentEncoding"
    ContentDisposition "contentDisposition"
    ContentLanguage "contentLanguage"
    CacheControl "cacheControl"
    CustomTime "customTime"
    TimeCreated "timeCreated"
    Updated "updated"
    TimeStorageClassUpdated "timeStorageClassUpdated"
    TimeFinalized "timeFinalized"
    ComponentCount "componentCount"
    TemporaryHold "temporaryHold"
    EventBasedHold "eventBasedHold"
    Metadata "metadata"
}

/// Fields of the service's resource that can be selected and that no object of the emulator has.
const ABSENT: &[&str] = &["owner", "acl", "timeDeleted", "kmsKeyName", "retention", "softDeleteTime"];

/// A set of fields of an object resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectFields(u32);

impl ObjectFields {
    pub(crate) const ALL: Self = Self(u32::MAX);

    pub(crate) fn contains(self, field: ObjectField) -> bool {
        self.0 >> field as u32 & 1 == 1
    }

    /// The set of the named fields; `None` when one of them is unknown.
    pub(crate) fn from_names<'a>(names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut bits = 0;
        for name in names {
            if !ABSENT.contains(&name) {
                bits |= 1 << NAMES.iter().position(|known| *known == name)?;
            }
        }
        Some(Self(bits))
    }

    pub(crate) fn is_subset_of(self, others: &[ObjectField]) -> bool {
        self.0 & !others.iter().fold(0, |bits, field| bits | 1 << *field as u32) == 0
    }
}

/// Appends the JSON resource of an object, with the given fields.
pub(crate) fn write_object(
    out: &mut Vec<u8>,
    object: &ObjectVersion,
    bucket: &str,
    endpoint: &str,
    fields: ObjectFields,
) {
    use ObjectField as F;

    let attributes = &object.attributes;
    let mut json = ObjectWriter { out, fields, is_first: true };
    let encoded = || encode_segment(&object.name);
    json.out.push(b'{');

    json.text(F::Kind, "storage#object");
    if json.begin(F::Id) {
        push_string(json.out, &format!("{bucket}/{}/{}", object.name, object.generation));
    }
    if json.begin(F::SelfLink) {
        push_string(json.out, &format!("{endpoint}/storage/v1/b/{bucket}/o/{}", encoded()));
    }
    if json.begin(F::MediaLink) {
        let generation = object.generation;
        let link =
            format!("{endpoint}/download/storage/v1/b/{bucket}/o/{}?generation={generation}&alt=media", encoded());
        push_string(json.out, &link);
    }
    json.text(F::Name, &object.name);
    json.text(F::Bucket, bucket);
    json.number(F::Generation, object.generation as u64);
    json.number(F::Metageneration, object.metageneration as u64);
    json.optional(F::ContentType, attributes.content_type.as_deref());
    json.text(F::StorageClass, object.storage_class());
    json.number(F::Size, object.size());
    if let Some(md5) = &object.md5 {
        json.text(F::Md5Hash, &base64(md5));
    }
    json.text(F::Crc32c, &crc32c_base64(object.crc32c));
    if fields.contains(F::Etag) {
        json.text(F::Etag, &object.etag());
    }
    json.optional(F::ContentEncoding, attributes.content_encoding.as_deref());
    json.optional(F::ContentDisposition, attributes.content_disposition.as_deref());
    json.optional(F::ContentLanguage, attributes.content_language.as_deref());
    json.optional(F::CacheControl, attributes.cache_control.as_deref());
    json.optional(F::CustomTime, attributes.custom_time.as_deref());
    for (field, micros) in [
        (F::TimeCreated, object.created),
        (F::Updated, object.updated),
        (F::TimeStorageClassUpdated, object.created),
        (F::TimeFinalized, object.created),
    ] {
        if fields.contains(field) {
            json.text(field, &timestamp::rfc3339(micros));
        }
    }
    if let Some(count) = object.component_count
        && json.begin(F::ComponentCount)
    {
        push_number(json.out, u64::from(count));
    }
    for (field, is_held) in
        [(F::TemporaryHold, attributes.temporary_hold), (F::EventBasedHold, attributes.event_based_hold)]
    {
        if is_held && json.begin(field) {
            json.out.extend_from_slice(b"true");
        }
    }
    if !attributes.metadata.is_empty() && json.begin(F::Metadata) {
        for (i, (key, value)) in attributes.metadata.iter().enumerate() {
            json.out.push(if i == 0 { b'{' } else { b',' });
            push_string(json.out, key);
            json.out.push(b':');
            push_string(json.out, value);
        }
        json.out.push(b'}');
    }

    json.out.push(b'}');
}

/// Writes the wanted fields of one JSON object.
struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    fields: ObjectFields,
    is_first: bool,
}

impl ObjectWriter<'_> {
    /// Writes the key of a field if the field is wanted, and returns whether it is.
    fn begin(&mut self, field: ObjectField) -> bool {
        if !self.fields.contains(field) {
            return false;
        }
        self.out.extend_from_slice(if self.is_first { b"\"" } else { b",\"" });
        self.is_first = false;
        self.out.extend_from_slice(NAMES[field as usize].as_bytes());
        self.out.extend_from_slice(b"\":");
        true
    }

    fn text(&mut self, field: ObjectField, value: &str) {
        if self.begin(field) {
            push_string(self.out, value);
        }
    }

    fn optional(&mut self, field: ObjectField, value: Option<&str>) {
        if let Some(value) = value {
            self.text(field, value);
        }
    }

    /// Writes a 64-bit integer, which this API represents as a string.
    fn number(&mut self, field: ObjectField, value: u64) {
        if self.begin(field) {
            self.out.push(b'"');
            push_number(self.out, value);
            self.out.push(b'"');
        }
    }
}

/// Whether a byte of a JSON string needs an escape.
pub(crate) fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Appends a JSON string.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if text.bytes().any(needs_escape) {
        let quoted = Value::from(text).to_string();
        out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
}
