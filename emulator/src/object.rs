//! One version of an object, its attributes, and its JSON resource.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{checksum, content::Content, error::Refusal, timestamp, virtual_names::push_number};

/// What a user may set on an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Attributes {
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) cache_control: Option<String>,
    /// None stands for the bucket's class until the object is stored.
    pub(crate) storage_class: Option<String>,
    pub(crate) custom_time: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) temporary_hold: bool,
    pub(crate) event_based_hold: bool,
}

impl Attributes {
    /// Applies a JSON resource in the manner of PATCH: null removes, metadata is merged, read-only fields are ignored.
    pub(crate) fn patch(&mut self, resource: &Map<String, Value>) -> Result<(), Refusal> {
        for (key, value) in resource {
            match key.as_str() {
                "contentType" => self.content_type = text(key, value)?,
                "contentEncoding" => self.content_encoding = text(key, value)?.filter(|value| !value.is_empty()),
                "contentDisposition" => self.content_disposition = text(key, value)?,
                "contentLanguage" => self.content_language = text(key, value)?,
                "cacheControl" => self.cache_control = text(key, value)?,
                "storageClass" => {
                    if let Some(class) = text(key, value)? {
                        if !is_storage_class(&class) {
                            return Err(Refusal::invalid(format!("Invalid storage class: {class}")));
                        }
                        self.storage_class = Some(class);
                    }
                }
                "customTime" => {
                    let time = text(key, value)?;
                    if let Some(time) = time.as_deref().filter(|time| !timestamp::is_rfc3339(time)) {
                        return Err(Refusal::invalid(format!("Invalid value for customTime: '{time}'.")));
                    }
                    self.custom_time = time;
                }
                "temporaryHold" => self.temporary_hold = value.as_bool().unwrap_or(false),
                "eventBasedHold" => self.event_based_hold = value.as_bool().unwrap_or(false),
                "metadata" => self.patch_metadata(value)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn patch_metadata(&mut self, value: &Value) -> Result<(), Refusal> {
        let entries = match value {
            Value::Null => {
                self.metadata.clear();
                return Ok(());
            }
            Value::Object(entries) => entries,
            _ => return Err(Refusal::invalid("Invalid value for metadata: an object of strings is wanted.")),
        };
        for (key, value) in entries {
            match value {
                Value::Null => drop(self.metadata.remove(key)),
                Value::String(text) => drop(self.metadata.insert(key.clone(), text.clone())),
                _ => return Err(Refusal::invalid(format!("Invalid value for metadata.{key}: a string is wanted."))),
            }
        }
        Ok(())
    }
}

fn text(key: &str, value: &Value) -> Result<Option<String>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(Refusal::invalid(format!("Invalid value for {key}: a string is wanted."))),
    }
}

/// The classes that objects can have.
pub(crate) fn is_storage_class(class: &str) -> bool {
    const CLASSES: [&str; 7] =
        ["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY"];
    CLASSES.contains(&class)
}

/// Refuses what the service refuses as a name.
pub(crate) fn check_name(name: &str) -> Result<(), Refusal> {
    let why = if name.is_empty() {
        "Required object name is missing."
    } else if name.len() > 1_024 {
        "The maximum object name length is 1024 characters, but got a name with more."
    } else if name.contains(['\r', '\n']) {
        "Disallowed unicode characters present in object name."
    } else if name == "." || name == ".." {
        "Object names cannot be `.` or `..`."
    } else {
        return Ok(());
    };
    Err(Refusal::invalid(why))
}

/// One version of an object. Never changed: a patch makes another one.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) generation: i64,
    pub(crate) metageneration: i64,
    pub(crate) crc32c: u32,
    /// None for compositions, and for virtual objects, whose MD5 nobody has computed.
    pub(crate) md5: Option<[u8; 16]>,
    pub(crate) component_count: Option<u32>,
    /// Microseconds since 1970, as the next.
    pub(crate) created: i64,
    pub(crate) updated: i64,
    pub(crate) attributes: Attributes,
    pub(crate) content: Content,
}

impl Object {
    pub(crate) fn size(&self) -> u64 {
        self.content.len()
    }

    pub(crate) fn class(&self) -> &str {
        self.attributes.storage_class.as_deref().unwrap_or("STANDARD")
    }

    pub(crate) fn etag(&self) -> String {
        let mut bytes = Vec::with_capacity(20);
        for (tag, value) in [(8, self.generation), (16, self.metageneration)] {
            bytes.push(tag);
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        checksum::base64(&bytes)
    }

    /// Appends the JSON resource with the given fields.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>, bucket: &str, endpoint: &str, fields: FieldSet) {
        let mut json = Json { out, fields, first: true };
        let encoded = || crate::route::encode(&self.name);
        json.out.push(b'{');
        json.text(field::KIND, "storage#object");
        if json.opens(field::ID) {
            let id = format!("{bucket}/{}/{}", self.name, self.generation);
            push_string(json.out, &id);
        }
        if json.opens(field::SELF_LINK) {
            push_string(json.out, &format!("{endpoint}/storage/v1/b/{bucket}/o/{}", encoded()));
        }
        if json.opens(field::MEDIA_LINK) {
            let generation = self.generation;
            let link =
                format!("{endpoint}/download/storage/v1/b/{bucket}/o/{}?generation={generation}&alt=media", encoded());
            push_string(json.out, &link);
        }
        json.text(field::NAME, &self.name);
        json.text(field::BUCKET, bucket);
        json.number(field::GENERATION, self.generation as u64);
        json.number(field::METAGENERATION, self.metageneration as u64);
        json.optional(field::CONTENT_TYPE, self.attributes.content_type.as_deref());
        json.text(field::STORAGE_CLASS, self.class());
        json.number(field::SIZE, self.size());
        if let Some(md5) = &self.md5 {
            json.text(field::MD5_HASH, &checksum::base64(md5));
        }
        json.text(field::CRC32C, &checksum::crc32c_base64(self.crc32c));
        if fields.has(field::ETAG) {
            json.text(field::ETAG, &self.etag());
        }
        json.optional(field::CONTENT_ENCODING, self.attributes.content_encoding.as_deref());
        json.optional(field::CONTENT_DISPOSITION, self.attributes.content_disposition.as_deref());
        json.optional(field::CONTENT_LANGUAGE, self.attributes.content_language.as_deref());
        json.optional(field::CACHE_CONTROL, self.attributes.cache_control.as_deref());
        json.optional(field::CUSTOM_TIME, self.attributes.custom_time.as_deref());
        for (name, micros) in [
            (field::TIME_CREATED, self.created),
            (field::UPDATED, self.updated),
            (field::TIME_STORAGE_CLASS_UPDATED, self.created),
            (field::TIME_FINALIZED, self.created),
        ] {
            if fields.has(name) {
                json.text(name, &timestamp::rfc3339(micros));
            }
        }
        if let Some(count) = self.component_count
            && json.opens(field::COMPONENT_COUNT)
        {
            push_number(json.out, u64::from(count));
        }
        for (name, set) in [
            (field::TEMPORARY_HOLD, self.attributes.temporary_hold),
            (field::EVENT_BASED_HOLD, self.attributes.event_based_hold),
        ] {
            if set && json.opens(name) {
                json.out.extend_from_slice(b"true");
            }
        }
        if !self.attributes.metadata.is_empty() && json.opens(field::METADATA) {
            for (i, (key, value)) in self.attributes.metadata.iter().enumerate() {
                json.out.push(if i == 0 { b'{' } else { b',' });
                push_string(json.out, key);
                json.out.push(b':');
                push_string(json.out, value);
            }
            json.out.push(b'}');
        }
        json.out.push(b'}');
    }
}

/// A subset of the fields of an object resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FieldSet(u32);

impl FieldSet {
    pub(crate) const ALL: Self = Self(u32::MAX);

    pub(crate) fn has(self, field: usize) -> bool {
        self.0 >> field & 1 == 1
    }

    pub(crate) fn from_names<'a>(names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut bits = 0;
        for name in names {
            if !field::ABSENT.contains(&name) {
                bits |= 1 << field::NAMES.iter().position(|known| *known == name)?;
            }
        }
        Some(Self(bits))
    }

    /// Whether nothing beyond `other` is wanted.
    pub(crate) fn is_within(self, other: &[usize]) -> bool {
        self.0 & !other.iter().fold(0, |bits, field| bits | 1 << field) == 0
    }
}

/// The fields of an object resource, by position in `NAMES`.
pub(crate) mod field {
    macro_rules! fields {
        ($($constant:ident $name:literal)*) => {
            pub(crate) const NAMES: &[&str] = &[$($name),*];
            fields!(@ 0_usize, $($constant)*);
        };
        (@ $at:expr, $head:ident $($tail:ident)*) => {
            pub(crate) const $head: usize = $at;
            fields!(@ $at + 1, $($tail)*);
        };
        (@ $at:expr,) => {};
    }
    fields! {
        KIND "kind" ID "id" SELF_LINK "selfLink" MEDIA_LINK "mediaLink" NAME "name" BUCKET "bucket"
        GENERATION "generation" METAGENERATION "metageneration" CONTENT_TYPE "contentType"
        STORAGE_CLASS "storageClass" SIZE "size" MD5_HASH "md5Hash" CRC32C "crc32c" ETAG "etag"
        CONTENT_ENCODING "contentEncoding" CONTENT_DISPOSITION "contentDisposition"
        CONTENT_LANGUAGE "contentLanguage" CACHE_CONTROL "cacheControl" CUSTOM_TIME "customTime"
        TIME_CREATED "timeCreated" UPDATED "updated" TIME_STORAGE_CLASS_UPDATED "timeStorageClassUpdated"
        TIME_FINALIZED "timeFinalized" COMPONENT_COUNT "componentCount" TEMPORARY_HOLD "temporaryHold"
        EVENT_BASED_HOLD "eventBasedHold" METADATA "metadata"
    }
    /// Fields that may be asked for and that no object here has.
    pub(crate) const ABSENT: &[&str] = &["owner", "acl", "timeDeleted", "kmsKeyName", "retention", "softDeleteTime"];
}

/// Writes the fields of one JSON object that are asked for.
struct Json<'a> {
    out: &'a mut Vec<u8>,
    fields: FieldSet,
    first: bool,
}

impl Json<'_> {
    /// Writes the key when the field is wanted, and says whether it is.
    fn opens(&mut self, field: usize) -> bool {
        if !self.fields.has(field) {
            return false;
        }
        self.out.extend_from_slice(if self.first { b"\"" } else { b",\"" });
        self.first = false;
        self.out.extend_from_slice(field::NAMES[field].as_bytes());
        self.out.extend_from_slice(b"\":");
        true
    }

    fn text(&mut self, field: usize, value: &str) {
        if self.opens(field) {
            push_string(self.out, value);
        }
    }

    fn optional(&mut self, field: usize, value: Option<&str>) {
        if let Some(value) = value {
            self.text(field, value);
        }
    }

    /// 64-bit integers are strings in this API.
    fn number(&mut self, field: usize, value: u64) {
        if self.opens(field) {
            self.out.push(b'"');
            push_number(self.out, value);
            self.out.push(b'"');
        }
    }
}

/// Appends a JSON string.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let quoted = Value::from(text).to_string();
        out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
}
