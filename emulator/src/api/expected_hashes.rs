//! Checks of the checksums that a client announces against those of the bytes.

use serde_json::{Map, Value};

use crate::{
    checksum::{ContentHashes, base64, crc32c_base64},
    refusal::Refusal,
};

/// Refuses a resource whose `crc32c` is not `crc32c`.
pub(crate) fn check_resource_crc32c(resource: &Map<String, Value>, crc32c: u32) -> Result<(), Refusal> {
    check_hash("CRC32C", resource.get("crc32c").and_then(Value::as_str), &crc32c_base64(crc32c))
}

/// Refuses a resource whose `crc32c` or `md5Hash` is not that of the bytes.
pub(crate) fn check_resource_hashes(resource: &Map<String, Value>, hashes: ContentHashes) -> Result<(), Refusal> {
    check_resource_crc32c(resource, hashes.crc32c)?;
    check_hash("MD5 hash", resource.get("md5Hash").and_then(Value::as_str), &base64(&hashes.md5))
}

/// Refuses an `x-goog-hash` header (`crc32c=...,md5=...`) whose checksums are not those of the bytes.
pub(crate) fn check_hash_header(header: &str, hashes: ContentHashes) -> Result<(), Refusal> {
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("crc32c", provided)) => check_hash("CRC32C", Some(provided), &crc32c_base64(hashes.crc32c))?,
            Some(("md5", provided)) => check_hash("MD5 hash", Some(provided), &base64(&hashes.md5))?,
            _ => {}
        }
    }
    Ok(())
}

fn check_hash(kind: &str, provided: Option<&str>, computed: &str) -> Result<(), Refusal> {
    match provided {
        Some(provided) if provided != computed => Err(Refusal::invalid(format!(
            "Provided {kind} \"{provided}\" doesn't match calculated {kind} \"{computed}\"."
        ))),
        _ => Ok(()),
    }
}
