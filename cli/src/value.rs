//! Parsers for the values of options.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use dataflux::OnError;
use dataflux::list::Filter;
use dataflux::store::StorageClass;

/// Parses a count that must not be 0.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses a number of bytes that is at least 1: `512MiB`, `1.5GiB`, `2GB`, or a plain number.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("it must be at least 1 byte".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Parses what to do about lost samples.
pub(crate) fn on_error(text: &str) -> Result<OnError, String> {
    let with_limit = || {
        let (action, limit) = text.split_once(':')?;
        let limit = limit.parse().ok()?;
        match action {
            "skip" => Some(OnError::Skip { limit }),
            "substitute" => Some(OnError::Substitute { limit }),
            _ => None,
        }
    };
    let wanted = "it must be fail, skip:N or substitute:N, with the maximum number of samples an epoch may lose";
    if text == "fail" { Ok(OnError::Fail) } else { with_limit().ok_or_else(|| wanted.to_owned()) }
}

/// Parses a folder, and a number of bytes if one follows the last colon.
pub(crate) fn folder_and_bytes(text: &str) -> Result<(PathBuf, Option<u64>), String> {
    let (folder, limit) = match text.rsplit_once(':') {
        Some((folder, limit)) if limit.starts_with(|c: char| c.is_ascii_digit()) => (folder, Some(bytes(limit)?)),
        _ => (text, None),
    };
    if folder.is_empty() { Err("it must name a folder".to_owned()) } else { Ok((folder.into(), limit)) }
}

/// Parses a number of bytes, which may be 0.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 9] = [
        ("", 1.0),
        ("b", 1.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("kib", 1_024.0),
        ("mib", 1_048_576.0),
        ("gib", 1_073_741_824.0),
        ("tib", 1_099_511_627_776.0),
    ];
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim().to_ascii_lowercase());
    let wanted = || {
        let most = u64::MAX;
        format!("it must be whole bytes, such as 1073741824, 512MiB, 1GiB or 2GB, and at most {most}")
    };
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wanted)?;
    if number.bytes().all(|byte| byte.is_ascii_digit()) {
        // Whole numbers are parsed exactly, however large they are.
        return number.parse().ok().and_then(|number: u64| number.checked_mul(*factor as u64)).ok_or_else(wanted);
    }
    let bytes = number.parse::<f64>().map_err(|_| wanted())? * factor;
    // A fraction of a byte is a mistake; a fraction of a larger unit may be meant.
    if *factor > 1.0 && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wanted()) }
}

/// Parses a length of time, such as `10m`, `1h 30m` or `0s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 30s, 10m, 1h or 2days"))
}

/// Parses a time: in the form of RFC 3339, as a day in UTC, or as an age before `now`.
pub(crate) fn moment(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let wanted = || {
        "it must be a time such as 2026-01-31, 2026-01-31T12:00:00Z or 2026-01-31T12:00:00+01:00, or an age such as \
         12h or 7d"
            .to_owned()
    };
    let text = text.trim();
    if !text.get(..5).is_some_and(|year| year.ends_with('-')) {
        let age = humantime::parse_duration(text).map_err(|_| wanted())?;
        return now.checked_sub(age).ok_or_else(wanted);
    }
    let (day, clock) = text.split_at_checked(10).ok_or_else(wanted)?;
    let (clock, offset) = match clock.find(['+', '-']) {
        Some(sign) => (format!("{}Z", &clock[..sign]).to_ascii_uppercase(), Some(&clock[sign..])),
        None => (if clock.is_empty() { "T00:00:00Z".to_owned() } else { clock.to_ascii_uppercase() }, None),
    };
    // The parser ignores text between two of them.
    if clock.matches('Z').count() != 1 {
        return Err(wanted());
    }
    let time = humantime::parse_rfc3339(&format!("{day}{clock}")).map_err(|_| wanted())?;
    let Some(offset) = offset else { return Ok(time) };
    let (hours, minutes) = offset[1..].split_once(':').ok_or_else(wanted)?;
    let part = |text: &str, below: u64| {
        // `parse` would accept a sign, which isn't allowed here.
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u64>().ok().filter(|number| digits && *number < below);
        number.ok_or_else(wanted)
    };
    let ahead = Duration::from_secs(part(hours, 24)? * 3_600 + part(minutes, 60)? * 60);
    let utc = if offset.starts_with('+') { time.checked_sub(ahead) } else { time.checked_add(ahead) };
    utc.ok_or_else(wanted)
}

/// Parses a time as [`moment`] does, with ages before the present.
pub(crate) fn moment_before_now(text: &str) -> Result<SystemTime, String> {
    moment(text, SystemTime::now())
}

/// Parses a glob as the library does.
pub(crate) fn glob(text: &str) -> Result<String, String> {
    Filter::everything().include(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Parses a storage class in upper or lower case.
pub(crate) fn storage_class(text: &str) -> Result<StorageClass, String> {
    match StorageClass::parse(&text.to_ascii_uppercase()) {
        StorageClass::Unspecified | StorageClass::Other => {
            Err("it must be standard, nearline, coldline or archive".to_owned())
        }
        class => Ok(class),
    }
}

/// How `bench` decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoding {
    /// Samples are the bytes as read.
    Raw,
    /// Images are decoded and resized.
    Image {
        /// Pixels.
        height: u32,
        /// Pixels.
        width: u32,
    },
}

impl std::str::FromStr for Decoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "raw" {
            return Ok(Self::Raw);
        }
        let size = || {
            let (height, width) = text.strip_prefix("image:")?.split_once(['x', 'X'])?;
            let (height, width) = (height.parse().ok()?, width.parse().ok()?);
            // A batch of one larger image would take gigabytes.
            (1..=16_384).contains(&height).then_some(())?;
            (1..=16_384).contains(&width).then_some(Self::Image { height, width })
        };
        size().ok_or_else(|| {
            "it must be raw, or image:HxW with a height and a width of 1 to 16384 pixels, such as image:224x224"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes() {
        for (text, wanted) in [
            ("1", 1),
            ("512MiB", 512 << 20),
            ("1GiB", 1 << 30),
            ("1 gib", 1 << 30),
            ("1.5kib", 1_536),
            ("2GB", 2_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for text in ["", "0", "-1", "1 GiB!", "MiB", "1e9", "..", "1M", "0.1", "18446744073709551615KiB", "٣"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_folder_may_come_with_bytes() {
        for (text, wanted) in [
            ("/mnt/cache", ("/mnt/cache", None)),
            ("/mnt/cache:1TiB", ("/mnt/cache", Some(1 << 40))),
            ("a:b", ("a:b", None)),
            ("a:b:512MiB", ("a:b", Some(512 << 20))),
        ] {
            assert_eq!(folder_and_bytes(text), Ok((wanted.0.into(), wanted.1)), "{text}");
        }
        for text in ["", ":1GiB", "cache:1GX", "cache:0"] {
            assert!(folder_and_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fractions_of_a_byte_and_overflowing_sizes_are_refused() {
        for text in
            ["1.5", "1.5B", "0.0", "99999999999999999999", "99999999999999999999.5KiB", "16777216.5TiB", "1.2.3kib"]
        {
            let told = size(text).unwrap_err();
            assert!(told.contains("whole bytes") && told.contains("512MiB"), "{text}: {told}");
        }
        assert_eq!(size("1.5 GB"), Ok(1_500_000_000));
    }

    #[test]
    fn zero_is_a_size_and_no_number_of_bytes_to_use() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("0.5 KiB"), Ok(512));
        assert!(bytes("0").unwrap_err().contains("at least 1 byte"));
        assert!(size("1M").unwrap_err().contains("512MiB"));
    }

    #[test]
    fn moments() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800);
        for (text, back) in [
            ("2026-01-31T12:00:00Z", 0),
            (" 2026-01-31t11:59:59z", 1),
            ("2026-01-31T13:00:00+01:00", 0),
            ("2026-01-30T22:29:00-12:30", 3_660),
            ("2026-01-31", 43_200),
            ("0s", 0),
            ("12h", 43_200),
            ("7d", 604_800),
            ("1h 30m", 5_400),
        ] {
            assert_eq!(moment(text, now), Ok(now - Duration::from_secs(back)), "{text}");
        }
        let half = moment("2026-01-31T11:59:59.5Z", now).unwrap();
        assert_eq!(half, now - Duration::from_millis(500));
        for text in [
            "",
            "7",
            "now",
            "-7d",
            "2026",
            "2026-01",
            "2026-02-30",
            "2026-1-31",
            "2026-01-31T12:00",
            "2026-01-31 noon",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00+1:00",
            "2026-01-31T12:00:00+01:60",
            "2026-01-31T12:00:00++1:00",
            "2026-01-31T12:00:00+",
            "2026-01-31T12:00:00Z+01:00",
            "2026-01-31T12:00:00ZaZ",
            "2026-01-3é",
            "日本-",
            "99999999999999999999y",
        ] {
            assert!(moment(text, now).unwrap_err().contains("2026-01-31T12:00:00Z"), "{text}");
        }
    }

    #[test]
    fn globs_are_parsed_by_the_library() {
        assert_eq!(glob("*.png"), Ok("*.png".to_owned()));
        assert!(glob("[a").unwrap_err().contains("missing ']'"));
    }

    #[test]
    fn decodings() {
        assert_eq!("raw".parse(), Ok(Decoding::Raw));
        assert_eq!("image:8x16".parse(), Ok(Decoding::Image { height: 8, width: 16 }));
        for text in ["", "image", "image:", "image:8", "image:0x8", "image:8x-1", "image:8x99999", "jpeg:8x8"] {
            assert!(text.parse::<Decoding>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_classes() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("10").unwrap_err().contains("10m"));
        assert_eq!(storage_class("Nearline"), Ok(StorageClass::Nearline));
        assert!(storage_class("other").is_err());
        assert_eq!(at_least_one("0"), Err("it must be at least 1".into()));
    }
}
