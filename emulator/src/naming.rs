//! The rules for names of buckets and objects, and the names of the storage classes.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::refusal::Refusal;

/// The characters that a path segment need not encode.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes a name for use as one path segment.
pub(crate) fn encode_segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

/// Checks a bucket's name against the rules of the service.
///
/// # Errors
/// The text says why the service would refuse the name.
pub(crate) fn check_bucket_name(name: &str) -> Result<(), String> {
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let max_bytes = if name.contains('.') { 222 } else { 63 };

    let is_valid = (3..=max_bytes).contains(&name.len())
        && name.chars().all(is_inner)
        && is_edge(name.chars().next())
        && is_edge(name.chars().next_back())
        && name.split('.').all(|part| (1..=63).contains(&part.len()));
    if is_valid {
        return Ok(());
    }
    Err(format!(
        "Invalid bucket name: '{name}': 3 to 63 lower-case letters, digits, dashes, underscores and dots are wanted, \
         beginning and ending with a letter or digit"
    ))
}

/// Refuses the object names that the service refuses.
pub(crate) fn check_object_name(name: &str) -> Result<(), Refusal> {
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

/// Whether objects can have this storage class.
pub(crate) fn is_storage_class(class: &str) -> bool {
    const CLASSES: [&str; 7] =
        ["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY"];
    CLASSES.contains(&class)
}
