//! Values in JSON answers, read leniently: a missing value is the default, and a number may be written as a text.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserializer, Visitor};

use crate::store::{ContentEncoding, StorageClass};

/// Parses a CRC: four big-endian bytes in base64.
pub(super) fn parse_crc(text: &str) -> Option<u32> {
    let mut bytes = [0; 6];
    match STANDARD.decode_slice(text, &mut bytes) {
        Ok(4) => Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        _ => None,
    }
}

/// Writes a CRC as [`parse_crc`] reads it.
pub(super) fn crc_text(crc: u32) -> String {
    STANDARD.encode(crc.to_be_bytes())
}

/// A value that is written as a text, a number, or `null`.
pub(super) trait Lenient: Default {
    /// Describes the value in messages.
    const WANTED: &'static str;
    fn from_text(text: &str) -> Option<Self>;

    fn from_number(_: u64) -> Option<Self> {
        None
    }
}

impl Lenient for u64 {
    const WANTED: &'static str = "a whole number";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn from_number(number: u64) -> Option<Self> {
        Some(number)
    }
}

impl Lenient for i64 {
    const WANTED: &'static str = "a whole number";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn from_number(number: u64) -> Option<Self> {
        number.try_into().ok()
    }
}

/// A CRC; `None` if the text is empty.
#[derive(Default)]
pub(super) struct CrcJson(pub(super) Option<u32>);

impl Lenient for CrcJson {
    const WANTED: &'static str = "base64 of four bytes";
    fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() { Some(Self(None)) } else { parse_crc(text).map(|crc| Self(Some(crc))) }
    }
}

/// A date and time; `None` if it can't be parsed, since nothing depends on it.
#[derive(Default)]
pub(super) struct TimeJson(pub(super) Option<SystemTime>);

impl Lenient for TimeJson {
    const WANTED: &'static str = "a date and time";
    fn from_text(text: &str) -> Option<Self> {
        Some(Self(parse_time(text)))
    }
}

/// Parses a time of RFC 3339, with any offset.
fn parse_time(text: &str) -> Option<SystemTime> {
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
    fn from_text(text: &str) -> Option<Self> {
        Some(Self::parse(text))
    }
}

impl Lenient for ContentEncoding {
    const WANTED: &'static str = "an encoding";
    fn from_text(text: &str) -> Option<Self> {
        Some(Self::parse(text))
    }
}

/// Deserializes a [`Lenient`] value.
pub(super) fn lenient<'de, T: Lenient, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct LenientVisitor<T>(PhantomData<T>);

    impl<T: Lenient> Visitor<'_> for LenientVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::WANTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            T::from_text(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            T::from_number(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }

        fn visit_unit<E: de::Error>(self) -> Result<T, E> {
            Ok(T::default())
        }
    }

    deserializer.deserialize_any(LenientVisitor(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_time_zones() {
        let noon = parse_time("2026-11-01T12:00:00Z");
        assert!(noon.is_some());
        assert_eq!(parse_time("2026-11-01T17:30:00+05:30"), noon);
        assert_eq!(parse_time("2026-11-01T04:00:00.000-08:00"), noon);
        for nonsense in ["", "Z", "ü", "2026-11-01", "2026-11-01T04:00:00*08:00", "+ü:00ü"] {
            assert_eq!(parse_time(nonsense), None, "{nonsense}");
        }
    }
}
