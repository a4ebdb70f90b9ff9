//! Durations (`"30s"`) and sizes (`"64KiB"`). A number without a unit is refused: nobody
//! can tell seconds from milliseconds by looking at it.

use std::time::Duration;

/// One year: longer is a slip, and far from what a timer can hold.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Milliseconds to days.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    const HELP: &str = "write a whole number and a unit: ms, s, m, h or d";
    let (number, unit) = split(text).ok_or(HELP)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(HELP),
    };
    let length = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or("at most 365d")?;
    if length > LONGEST { Err("at most 365d") } else { Ok(length) }
}

/// Bytes, in powers of 1000 or of 1024.
pub(super) fn size(text: &str) -> Result<u64, &'static str> {
    const HELP: &str = "write a whole number and a unit: B, KB, KiB, MB, MiB, GB or GiB";
    let (number, unit) = split(text).ok_or(HELP)?;
    let bytes: u64 = match unit {
        "B" => 1,
        "KB" | "kB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(HELP),
    };
    number.checked_mul(bytes).ok_or("that is more than any machine holds")
}

/// A size as this file would write it.
pub(super) fn size_text(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, text[end..].trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for text in ["", "30", "s", "-1s", "1.5s", "1 week", "366d", "99999999999999999999s", "9999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MiB"), Ok(1_048_576));
        assert_eq!(size("10MB"), Ok(10_000_000));
        assert_eq!(size("0B"), Ok(0));
        for text in ["", "64", "64K", "KiB", "-1B", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(size_text(65_536), "64KiB");
        assert_eq!(size_text(1000), "1000B");
    }
}
