//! Times as DIB stamps its lines: `2026-03-01 12:00:00.123`, in UTC.

use std::time::{Duration, SystemTime};

use crate::date::civil_from_days;

/// `time` in UTC with milliseconds; a clock before 1970 shows the epoch.
pub fn stamp(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let days = i64::try_from(seconds / 86_400).unwrap_or(0);
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_agree_with_date() {
        // `date -u -d @SECONDS '+%F %T'`
        for (millis, text) in [
            (0, "1970-01-01 00:00:00.000"),
            (951_782_399_999, "2000-02-28 23:59:59.999"),
            (951_868_799_001, "2000-02-29 23:59:59.001"),
            (1_709_210_096_007, "2024-02-29 12:34:56.007"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(stamp(time), text);
        }
    }
}
