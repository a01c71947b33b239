//! The attributes of an object that a user can set.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{naming::is_storage_class, refusal::Refusal, timestamp};

/// The attributes of an object that a user can set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ObjectAttributes {
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) cache_control: Option<String>,
    /// `None` means the bucket's class, which replaces it when the object is stored.
    pub(crate) storage_class: Option<String>,
    pub(crate) custom_time: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) temporary_hold: bool,
    pub(crate) event_based_hold: bool,
}

impl ObjectAttributes {
    /// Applies a JSON resource as PATCH does: null removes a field, metadata is merged, read-only fields are ignored.
    pub(crate) fn patch(&mut self, resource: &Map<String, Value>) -> Result<(), Refusal> {
        for (key, value) in resource {
            match key.as_str() {
                "contentType" => self.content_type = optional_text(key, value)?,
                "contentEncoding" => {
                    self.content_encoding = optional_text(key, value)?.filter(|value| !value.is_empty());
                }
                "contentDisposition" => self.content_disposition = optional_text(key, value)?,
                "contentLanguage" => self.content_language = optional_text(key, value)?,
                "cacheControl" => self.cache_control = optional_text(key, value)?,
                "storageClass" => {
                    if let Some(class) = optional_text(key, value)? {
                        if !is_storage_class(&class) {
                            return Err(Refusal::invalid(format!("Invalid storage class: {class}")));
                        }
                        self.storage_class = Some(class);
                    }
                }
                "customTime" => {
                    let time = optional_text(key, value)?;
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

fn optional_text(key: &str, value: &Value) -> Result<Option<String>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(Refusal::invalid(format!("Invalid value for {key}: a string is wanted."))),
    }
}
