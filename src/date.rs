//! Dates as HTTP (RFC 9110 §5.6.7) and Debian's Release files (RFC 5322) have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of the date that is so many days after 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Parses `Sat, 17 May 2025 09:03:21 GMT`; the zone may also be `UTC`, `Z` or an offset.
///
/// Returns `None` for anything else and for times before 1970.
pub fn parse_date(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let text = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = text.split_ascii_whitespace();
    let number = |word: &str, digits: std::ops::RangeInclusive<usize>| -> Option<i64> {
        (digits.contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| word.parse().ok())?
    };
    let day = number(words.next()?, 1..=2)?;
    let month = words.next()?;
    let month = MONTHS
        .iter()
        .position(|name| name.eq_ignore_ascii_case(month))?;
    let month = i64::try_from(month).ok()? + 1;
    let year = number(words.next()?, 4..=4)?;
    let mut clock = words.next()?.split(':');
    let hour = number(clock.next()?, 1..=2)?;
    let minute = number(clock.next()?, 2..=2)?;
    let second = number(clock.next().unwrap_or("00"), 2..=2)?;
    let offset = match words.next()? {
        "GMT" | "UTC" | "Z" => 0,
        zone => {
            let (sign, digits) = match zone.split_at_checked(1)? {
                ("+", digits) => (1, digits),
                ("-", digits) => (-1, digits),
                _ => return None,
            };
            let value = number(digits, 4..=4)?;
            sign * (value / 100 * 3600 + value % 100 * 60)
        }
    };
    if clock.next().is_some()
        || words.next().is_some()
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let days = days_from_civil(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Formats a time as HTTP wants it; times before 1970 become 1970.
pub fn format_http_date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let days = i64::try_from(seconds / 86_400).unwrap_or(0);
    let (year, month, day) = civil_from_days(days);
    let name = |names: &'static [&'static str], index: i64| {
        usize::try_from(index)
            .ok()
            .and_then(|index| names.get(index).copied())
            .unwrap_or("")
    };
    let clock = seconds % 86_400;
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days.rem_euclid(7)),
        name(&MONTHS, month - 1),
        clock / 3600,
        clock / 60 % 60,
        clock % 60
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn known_dates_convert() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sat, 17 May 2025 09:03:21 UTC", 1_747_472_601),
            ("Sat, 17 May 2025 11:03:21 +0200", 1_747_472_601),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("1 Mar 2024 00:00:00 Z", 1_709_251_200),
        ] {
            assert_eq!(parse_date(text), Some(at(seconds)), "{text}");
        }
        assert_eq!(
            format_http_date(at(1_747_472_601)),
            "Sat, 17 May 2025 09:03:21 GMT"
        );
    }

    #[test]
    fn other_texts_are_not_dates() {
        for text in [
            "",
            "yesterday",
            "Sat, 17 Mai 2025 09:03:21 GMT",
            "17 May 2025 25:00:00 GMT",
            "17 May 2025 09:03:21",
            "17 May 2025 09:03:21 GMT x",
            "01 Jan 1960 00:00:00 GMT",
            "17 May 2025 09:03:21 é000",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn formatting_is_read_back(seconds in 0u64..200_000_000_000) {
            prop_assume!(seconds < 253_402_300_800);
            prop_assert_eq!(parse_date(&format_http_date(at(seconds))), Some(at(seconds)));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}") {
            let _ = parse_date(&text);
        }
    }
}
