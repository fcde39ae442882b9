//! Time zones: UTC, fixed offsets, and the named ones of the IANA database.

use std::fmt;

use chrono::{Offset, TimeZone};

/// A time zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// So many seconds east of UTC, all year round
    Fixed(i32),
    /// One whose offset changes by its own rules
    Named(chrono_tz::Tz),
}

/// Offsets are less than 16 hours.
const MOST_SECONDS: i32 = 16 * 3600;

impl Zone {
    /// Coordinated Universal Time.
    pub const UTC: Zone = Zone::Fixed(0);

    /// The zone that `text` names: `UTC`, an offset of hours such as `+02:00` or
    /// `-8` (east positive, as in timestamps), or an IANA name in any case.
    pub fn parse(text: &str) -> Option<Zone> {
        let text = text.trim();
        if ["utc", "z", "gmt", "zulu", "universal", "etc/utc"].iter().any(|n| text.eq_ignore_ascii_case(n)) {
            return Some(Zone::UTC);
        }
        if text.starts_with(['+', '-']) || text.starts_with(|c: char| c.is_ascii_digit()) {
            return parse_offset(text).map(Zone::Fixed);
        }
        let known = chrono_tz::TZ_VARIANTS.iter().find(|z| z.name().eq_ignore_ascii_case(text));
        known.map(|z| Zone::Named(*z))
    }

    /// Seconds east of UTC at an instant given in microseconds since 1970 UTC.
    pub fn offset_at(&self, utc_micros: i64) -> i32 {
        match self {
            Zone::Fixed(seconds) => *seconds,
            Zone::Named(zone) => {
                let instant = chrono::DateTime::from_timestamp_micros(utc_micros);
                instant.map_or(0, |i| zone.offset_from_utc_datetime(&i.naive_utc()).fix().local_minus_utc())
            }
        }
    }

    /// The instant at which clocks in this zone show `local` (microseconds since
    /// 1970-01-01 00:00 there). Where clocks skip or repeat an hour, PostgreSQL
    /// takes the offset before the change.
    pub fn to_utc(&self, local: i64) -> i64 {
        match self {
            Zone::Fixed(seconds) => local - i64::from(*seconds) * 1_000_000,
            Zone::Named(zone) => {
                let Some(naive) = chrono::DateTime::from_timestamp_micros(local).map(|i| i.naive_utc()) else {
                    return local;
                };
                let seconds = match zone.offset_from_local_datetime(&naive) {
                    chrono::LocalResult::Single(o) => o.fix().local_minus_utc(),
                    chrono::LocalResult::Ambiguous(_, later) => later.fix().local_minus_utc(),
                    chrono::LocalResult::None => self.offset_at(local - 86_400_000_000),
                };
                local - i64::from(seconds) * 1_000_000
            }
        }
    }

    /// What clocks in this zone show at an instant.
    pub fn to_local(&self, utc_micros: i64) -> i64 {
        utc_micros + i64::from(self.offset_at(utc_micros)) * 1_000_000
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Zone::Fixed(0) => f.write_str("UTC"),
            Zone::Fixed(seconds) => {
                let (sign, seconds) = if *seconds < 0 { ('-', -seconds) } else { ('+', *seconds) };
                write!(f, "{sign}{:02}:{:02}", seconds / 3600, seconds / 60 % 60)
            }
            Zone::Named(zone) => f.write_str(zone.name()),
        }
    }
}

/// `+hh`, `+hhmm`, `+hh:mm`, `+hh:mm:ss`: seconds east of UTC.
pub(crate) fn parse_offset(text: &str) -> Option<i32> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b':') {
        return None;
    }
    let parts: Vec<i32> = if digits.contains(':') {
        digits.split(':').map(|p| p.parse().ok()).collect::<Option<_>>()?
    } else if digits.len() <= 2 {
        vec![digits.parse().ok()?]
    } else {
        let split = digits.len() - 2;
        vec![digits[..split].parse().ok()?, digits[split..].parse().ok()?]
    };
    let (hours, minutes, seconds) = match parts[..] {
        [h] => (h, 0, 0),
        [h, m] => (h, m, 0),
        [h, m, s] => (h, m, s),
        _ => return None,
    };
    let total = hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)?;
    (minutes < 60 && seconds < 60 && total < MOST_SECONDS).then_some(sign * total)
}

/// The canonical name of the time zone that `text` names, if there is one.
pub fn zone_name(text: &str) -> Option<String> {
    Zone::parse(text).map(|z| z.to_string())
}
