//! Times in microseconds since 1970, and their RFC 3339 and HTTP forms.

use std::time::{SystemTime, UNIX_EPOCH};

/// The current time in microseconds since 1970.
pub(crate) fn now() -> i64 {
    from_system_time(SystemTime::now())
}

/// Converts a system time to microseconds since 1970; earlier times become 0.
pub(crate) fn from_system_time(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// A date of the proleptic Gregorian calendar. Month and day count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CivilDate {
    pub(crate) year: i64,
    pub(crate) month: u32,
    pub(crate) day: u32,
}

/// The date that is `days` days after 1 January 1970.
pub(crate) fn civil_date(days: i64) -> CivilDate {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    CivilDate { year: year_of_era + era * 400 + i64::from(month <= 2), month, day }
}

/// The number of days from 1 January 1970 to a date: the inverse of [`civil_date`].
fn days_since_1970(CivilDate { year, month, day }: CivilDate) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Formats a time in microseconds since 1970 as `2026-11-21T03:34:28.123Z`.
pub(crate) fn rfc3339(micros: i64) -> String {
    let (days, in_day) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    let CivilDate { year, month, day } = civil_date(days);
    let millis = in_day / 1_000;
    let (hour, minute) = (millis / 3_600_000, millis / 60_000 % 60);
    let (second, milli) = (millis / 1_000 % 60, millis % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Formats a time in microseconds since 1970 as `Sat, 21 Nov 2026 03:34:28 GMT`, the form that HTTP headers have.
pub(crate) fn http_date(micros: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let seconds = micros.div_euclid(1_000_000);
    let (days, in_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let CivilDate { year, month, day } = civil_date(days);
    let (weekday, month) = (DAYS[days.rem_euclid(7) as usize], MONTHS[month as usize - 1]);
    let (hour, minute, second) = (in_day / 3_600, in_day / 60 % 60, in_day % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Parses a time in the form of [`http_date`] to seconds since 1970. The weekday is not checked.
///
/// `None` for any other text; HTTP says to ignore a header with that value.
pub(crate) fn parse_http_date(text: &str) -> Option<i64> {
    let parts: Vec<&str> = text.trim().split([' ', ':']).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = parts.as_slice() else { return None };
    let number = |text: &str, below: i64| text.parse::<i64>().ok().filter(|number| (0..below).contains(number));
    let month = MONTHS.iter().position(|name| name == month)? as u32 + 1;
    let day = number(day, 32)? as u32;
    let in_day = number(hour, 24)? * 3_600 + number(minute, 60)? * 60 + number(second, 61)?;
    let year = number(year, 10_000)?;
    let date = CivilDate { year, month, day };
    let days = days_since_1970(date);

    // 31 February has a number of days, too, and is another date.
    (civil_date(days) == date).then_some(days * 86_400 + in_day)
}

/// Whether `text` has the form of an RFC 3339 time, as far as the service checks it.
pub(crate) fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| {
        bytes
            .get(range)
            .filter(|part| part.iter().all(u8::is_ascii_digit))
            .and_then(|part| part.iter().try_fold(0_u32, |value, digit| Some(value * 10 + u32::from(digit - b'0'))))
    };
    let field = |range, low, high| digits(range).is_some_and(|value| (low..=high).contains(&value));
    let shape = bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[13] == b':' && bytes[16] == b':';
    let date = shape && field(0..4, 0, 9_999) && field(5..7, 1, 12) && field(8..10, 1, 31);
    let time = date
        && matches!(bytes[10], b'T' | b't')
        && field(11..13, 0, 23)
        && field(14..16, 0, 59)
        && field(17..19, 0, 60);
    if !time {
        return false;
    }

    let mut rest = &bytes[19..];
    if rest[0] == b'.' {
        let count = rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return false;
        }
        rest = &rest[1 + count..];
    }

    match rest {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].iter().all(|byte| byte.is_ascii_digit()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_709_210_096_789_000), "2024-02-29T12:34:56.789Z");
        assert_eq!(http_date(784_111_777_000_000), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn http_dates_parse_back() {
        for seconds in [0, 784_111_777, 951_782_400, 1_709_210_096, 4_107_542_400] {
            assert_eq!(parse_http_date(&http_date(seconds * 1_000_000)), Some(seconds));
        }
        for text in
            ["", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 31 Feb 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT"]
        {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn only_rfc3339_times_are_recognised() {
        for good in ["2024-02-29T12:34:56Z", "2024-02-29T12:34:56.789Z", "2024-02-29t12:34:56+01:00"] {
            assert!(is_rfc3339(good), "{good}");
        }
        for bad in [
            "",
            "yesterday",
            "2024-13-01T00:00:00Z",
            "2024-02-29 12:34:56Z",
            "2024-02-29T12:34:56",
            "2024-02-29T12:34:56.Z",
        ] {
            assert!(!is_rfc3339(bad), "{bad}");
        }
    }
}
