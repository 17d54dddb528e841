//! Sizes and times as people read them.

/// `bytes` with a binary unit and at most one decimal: `347.2 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut shift = 10;
    let mut unit = 0;
    // Moves on when rounding would print 1024.0 of the smaller unit.
    while unit + 1 < UNITS.len() && tenths(bytes, shift) >= 10_240 {
        shift += 10;
        unit += 1;
    }
    let tenths = tenths(bytes, shift);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// Tenths of `1 << shift` in `bytes`, rounded to the nearest.
fn tenths(bytes: u64, shift: u32) -> u128 {
    (u128::from(bytes) * 10 + (1u128 << (shift - 1))) >> shift
}

/// Seconds of wall time: `0.4 s`, `12.3 s`, `2 min 05 s`, `1 h 02 min`.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "? s".to_owned();
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = std::time::Duration::try_from_secs_f64(seconds.round())
        .map_or(u64::MAX, |duration| duration.as_secs());
    let (hours, minutes) = (whole / 3600, whole / 60 % 60);
    if hours > 0 {
        format!("{hours} h {minutes:02} min")
    } else {
        format!("{minutes} min {:02} s", whole % 60)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_keep_one_decimal() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (364_047_565, "347.2 MiB"),
            (2 << 30, "2.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(super::bytes(bytes), text);
        }
    }

    #[test]
    fn times_grow_units() {
        for (seconds, text) in [
            (0.04, "0.0 s"),
            (12.34, "12.3 s"),
            (59.99, "1 min 00 s"),
            (125.0, "2 min 05 s"),
            (3_720.0, "1 h 02 min"),
            (f64::NAN, "? s"),
        ] {
            assert_eq!(super::seconds(seconds), text);
        }
    }
}
