//! How keys, values, versions and times are written, and read back from the command line.

use std::fmt::Write as _;

use wal::Version;

const DAY_MS: u64 = 86_400_000;

/// Days from 0000-03-01 to 1970-01-01 in the proleptic Gregorian calendar.
const DAYS_TO_1970: i64 = 719_468;

/// Years that RFC 3339 can write.
const YEAR_MAX: i64 = 9999;

/// Percent-encodes everything but printable ASCII without space, `%`, `=` and `@`.
pub(crate) fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    push_percent_encoded(&mut text, bytes);
    text
}

/// Like [`percent_encode`], behind what `text` holds.
pub(crate) fn push_percent_encoded(text: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'=' | b'@') {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

/// Reads what [`percent_encode`] wrote; other bytes stand for themselves, so that a plain key can be typed as it is.
pub(crate) fn percent_decode(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = after.split_first_chunk::<2>().and_then(|(digits, after)| {
            let (high, low) = (char::from(digits[0]).to_digit(16)?, char::from(digits[1]).to_digit(16)?);
            Some((u8::try_from(high * 16 + low).ok()?, after))
        });
        let Some((decoded, after)) = digits else {
            return Err("a % must be followed by two hexadecimal digits; write a percent sign as %25".to_owned());
        };
        bytes.push(decoded);
        rest = after;
    }
    Ok(bytes)
}

/// RFC 3339, UTC, with milliseconds; `+` and the milliseconds since 1970 where the year does not fit four digits.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / DAY_MS, unix_ms % DAY_MS);
    let (year, month, day) = civil_of_days(i64::try_from(days).unwrap_or(i64::MAX / 2));
    if year > YEAR_MAX {
        return format!("+{unix_ms}");
    }
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// A version: its time, then the whole of it.
pub(crate) fn version(version: Version) -> String {
    format!("{}/{:#018x}", rfc3339(version.unix_ms()), version.0)
}

/// Year, month and day of a day since 1970 (the algorithm `civil_from_days` of Howard Hinnant's "chrono-compatible low-level
/// date algorithms").
fn civil_of_days(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(DAYS_TO_1970);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Days since 1970 of a date; the inverse of [`civil_of_days`].
fn days_of_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - DAYS_TO_1970
}

/// Reads `2026-11-24`, `2026-11-24T21:36`, `…:11`, `….5` with or without `Z`, or milliseconds since 1970 as `+1732484171000`.
/// Always UTC.
pub(crate) fn parse_time(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("'{text}' is no UTC time; write it as 2026-11-24T21:36:11.123Z, 2026-11-24 or +MILLISECONDS");
    if let Some(ms) = text.strip_prefix('+') {
        return ms.parse().map_err(|_| wrong());
    }
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00"));
    let date: Vec<i64> = date.split('-').map(digits).collect::<Option<_>>().ok_or_else(wrong)?;
    let &[year, month, day] = &date[..] else { return Err(wrong()) };
    let days = days_of_civil(year, month, day);
    // A day that its month does not have comes back as another one.
    if year > YEAR_MAX || civil_of_days(days) != (year, month, day) {
        return Err(wrong());
    }
    let ms = time_of_day_ms(time).ok_or_else(wrong)?;
    u64::try_from(days).ok().map(|days| days * DAY_MS + ms).ok_or_else(wrong)
}

fn time_of_day_ms(time: &str) -> Option<u64> {
    let time = time.strip_suffix(['Z', 'z']).unwrap_or(time);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let parts: Vec<i64> = time.split(':').map(digits).collect::<Option<_>>()?;
    let (hour, minute, second) = match parts[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 59 || fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths = fraction.bytes().chain(*b"000").take(3).fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
    u64::try_from(((hour * 60 + minute) * 60 + second) * 1000 + thousandths).ok()
}

fn digits(text: &str) -> Option<i64> {
    let plain = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Reads a number, decimal or hexadecimal with `0x`.
pub(crate) fn parse_number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is no number; write it in decimal, or in hexadecimal with 0x in front"))
}

/// Reads a version as [`version`] writes it, or its number alone.
pub(crate) fn parse_version(text: &str) -> Result<Version, String> {
    let number = text.rsplit_once('/').map_or(text, |(_, number)| number);
    parse_number(number).map(Version)
}

/// Bytes with a unit that keeps the number short.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut whole, mut rest, mut unit) = (count, 0, 0);
    for (index, _) in UNITS.iter().enumerate() {
        if whole < 1024 {
            break;
        }
        (rest, whole, unit) = (whole % 1024, whole / 1024, index);
    }
    format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit])
}

/// A part of a whole in percent with one decimal; of nothing, nothing is a part.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let tenths = (u128::from(part) * 1000).checked_div(u128::from(whole)).unwrap_or(0);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wal::EPOCH_2020_UNIX_MS;

    use super::*;

    #[test]
    fn keys_stay_readable_and_never_break_a_line() {
        assert_eq!(percent_encode(b"user:42/name"), "user:42/name");
        assert_eq!(percent_encode(b"a b=c@d%\n\x00\xff\t~"), "a%20b%3Dc%40d%25%0A%00%FF%09~");
        assert_eq!(percent_decode("a b%3dc"), Ok(b"a b=c".to_vec()));
        for wrong in ["%", "%4", "%zz", "abc%"] {
            assert!(percent_decode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_of_known_instants() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(EPOCH_2020_UNIX_MS), "2020-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(rfc3339(u64::MAX), format!("+{}", u64::MAX));
        assert_eq!(parse_time("2024-02-29"), Ok(1_709_164_800_000));
        assert_eq!(parse_time("2024-02-29T23:59:59.9Z"), Ok(1_709_251_199_900));
        assert_eq!(parse_time("+17"), Ok(17));
        for wrong in [
            "2023-02-29",
            "2024-13-01",
            "2024-00-10",
            "yesterday",
            "2024-01-01T24:00",
            "1969-12-31",
            "",
            "+",
            "2024-1-1T1:2.x",
        ] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn versions_come_back_from_what_is_shown() {
        let shown = version(Version(0xfa00_0000_0007));
        assert_eq!(shown, "2020-01-01T18:12:16.000Z/0x0000fa0000000007");
        assert_eq!(parse_version(&shown), Ok(Version(0xfa00_0000_0007)));
        assert_eq!(parse_version("12"), Ok(Version(12)));
        assert!(parse_version("0xg").is_err());
    }

    #[test]
    fn sizes_and_ratios() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(64 << 20)], ["0 B", "1023 B", "1.5 KiB", "64.0 MiB"]);
        assert_eq!([percent(1, 3), percent(0, 0), percent(u64::MAX, u64::MAX)], ["33.3", "0.0", "100.0"]);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = percent_encode(&bytes);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(percent_decode(&text), Ok(bytes));
        }

        #[test]
        fn any_time_comes_back(unix_ms in 0u64..253_402_300_800_000) {
            prop_assert_eq!(parse_time(&rfc3339(unix_ms)), Ok(unix_ms));
        }

        #[test]
        fn no_text_makes_a_panic(text in ".{0,40}") {
            let _ = (percent_decode(&text), parse_time(&text), parse_version(&text), parse_number(&text));
        }
    }
}
