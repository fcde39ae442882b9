//! Dates, times and timestamps, in the proleptic Gregorian calendar.

use std::fmt::{self, Write};

use super::{Fault, Settings, TextError, Zone, zone};

const MICROS_A_DAY: i64 = 86_400_000_000;
/// The days of the years -4712 to 294276, which timestamps have.
const FIRST_DAY: i64 = -2_440_588;
const LAST_DAY: i64 = 106_751_990;

/// Days from 1970-01-01 to the given day (Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms"). Year 0 is 1 BC.
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let shifted = (i64::from(month) + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a count of days since 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Days of a month.
pub fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

fn write_day(days: i64, out: &mut impl Write) -> fmt::Result {
    let (year, month, day) = civil_from_days(days);
    let shown = if year > 0 { year } else { 1 - year };
    write!(out, "{shown:04}-{month:02}-{day:02}")
}

fn era(days: i64) -> &'static str {
    if civil_from_days(days).0 > 0 { "" } else { " BC" }
}

/// Writes a date given in days since 1970-01-01.
pub fn write_date(days: i32, out: &mut impl Write) -> fmt::Result {
    write_day(i64::from(days), out)?;
    out.write_str(era(i64::from(days)))
}

/// Writes a time of day given in microseconds.
pub fn write_time(micros: i64, out: &mut impl Write) -> fmt::Result {
    let seconds = micros / 1_000_000;
    write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
    write_fraction((micros % 1_000_000).unsigned_abs() as u32, out)
}

/// Writes `.123` for 123000 microseconds, nothing for none.
pub(super) fn write_fraction(micros: u32, out: &mut impl Write) -> fmt::Result {
    if micros == 0 {
        return Ok(());
    }
    let digits = format!("{micros:06}");
    write!(out, ".{}", digits.trim_end_matches('0'))
}

/// Writes a timestamp given in microseconds since 1970-01-01 00:00.
pub fn write_timestamp(micros: i64, out: &mut impl Write) -> fmt::Result {
    let days = micros.div_euclid(MICROS_A_DAY);
    write_day(days, out)?;
    out.write_char(' ')?;
    write_time(micros.rem_euclid(MICROS_A_DAY), out)?;
    out.write_str(era(days))
}

/// Writes an instant as clocks in `zone` show it, with the zone's offset.
pub fn write_timestamptz(micros: i64, zone: &Zone, out: &mut impl Write) -> fmt::Result {
    let offset = zone.offset_at(micros);
    let local = micros.saturating_add(i64::from(offset) * 1_000_000);
    let days = local.div_euclid(MICROS_A_DAY);
    write_day(days, out)?;
    out.write_char(' ')?;
    write_time(local.rem_euclid(MICROS_A_DAY), out)?;
    let (sign, seconds) = if offset < 0 { ('-', -offset) } else { ('+', offset) };
    write!(out, "{sign}{:02}", seconds / 3600)?;
    if seconds % 3600 != 0 {
        write!(out, ":{:02}", seconds / 60 % 60)?;
    }
    if seconds % 60 != 0 {
        write!(out, ":{:02}", seconds % 60)?;
    }
    out.write_str(era(days))
}

/// What a text says about a moment.
#[derive(Default)]
struct Parts {
    day: Option<i64>,
    micros: Option<i64>,
    zone: Option<Zone>,
    instant: Option<i64>,
}

/// Reads a date: days since 1970-01-01.
pub fn parse_date(text: &str, settings: &Settings) -> Result<i32, TextError> {
    let parts = parse(text, "date", settings)?;
    let day = match (parts.day, parts.instant) {
        (Some(day), _) => day,
        (None, Some(instant)) => settings.zone.to_local(instant).div_euclid(MICROS_A_DAY),
        (None, None) => return Err(syntax("date", text)),
    };
    i32::try_from(day).map_err(|_| range(text))
}

/// Reads a time of day: microseconds since midnight.
pub fn parse_time(text: &str) -> Result<i64, TextError> {
    let parts = parse(text, "time", &Settings::default())?;
    parts.micros.ok_or_else(|| syntax("time", text))
}

/// Reads a timestamp: microseconds since 1970-01-01 00:00. A zone in the text is
/// ignored, as PostgreSQL does.
pub fn parse_timestamp(text: &str, settings: &Settings) -> Result<i64, TextError> {
    let parts = parse(text, "timestamp", settings)?;
    match (parts.day, parts.instant) {
        (Some(day), _) => join(day, parts.micros, text),
        (None, Some(instant)) => Ok(settings.zone.to_local(instant)),
        (None, None) => Err(syntax("timestamp", text)),
    }
}

/// Reads an instant: microseconds since 1970 UTC. Without a zone in the text the
/// session's counts.
pub fn parse_timestamptz(text: &str, settings: &Settings) -> Result<i64, TextError> {
    let parts = parse(text, "timestamp with time zone", settings)?;
    match (parts.day, parts.instant) {
        (Some(day), _) => Ok(parts.zone.unwrap_or(settings.zone).to_utc(join(day, parts.micros, text)?)),
        (None, Some(instant)) => Ok(instant),
        (None, None) => Err(syntax("timestamp with time zone", text)),
    }
}

fn join(day: i64, micros: Option<i64>, text: &str) -> Result<i64, TextError> {
    let within = (FIRST_DAY..=LAST_DAY).contains(&day);
    let whole = within.then(|| day.checked_mul(MICROS_A_DAY)).flatten();
    whole
        .and_then(|d| d.checked_add(micros.unwrap_or(0)))
        .ok_or_else(|| TextError::new(Fault::DatetimeRange, format!("timestamp out of range: \"{text}\"")))
}

fn syntax(type_name: &str, text: &str) -> TextError {
    TextError::new(Fault::DatetimeSyntax, format!("invalid input syntax for type {type_name}: \"{text}\""))
}

fn range(text: &str) -> TextError {
    TextError::new(Fault::DatetimeRange, format!("date/time field value out of range: \"{text}\""))
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

fn by_prefix(names: &[&str], word: &str) -> Option<usize> {
    (word.len() >= 3).then(|| names.iter().position(|n| n.starts_with(word)))?
}

fn parse(text: &str, type_name: &str, settings: &Settings) -> Result<Parts, TextError> {
    let lower = text.trim().to_ascii_lowercase();
    let fault = || syntax(type_name, text);
    let mut parts = Parts::default();
    let today = settings.zone.to_local(settings.now).div_euclid(MICROS_A_DAY);
    match lower.as_str() {
        "now" => return Ok(Parts { instant: Some(settings.now), ..parts }),
        "epoch" => return Ok(Parts { instant: Some(0), day: Some(0), zone: Some(Zone::UTC), ..parts }),
        "today" => return Ok(Parts { day: Some(today), ..parts }),
        "tomorrow" => return Ok(Parts { day: Some(today + 1), ..parts }),
        "yesterday" => return Ok(Parts { day: Some(today - 1), ..parts }),
        "infinity" | "-infinity" => {
            return Err(TextError::new(Fault::Unsupported, format!("{type_name} {lower} is not supported")));
        }
        _ => {}
    }
    // Month, day and year as they come, where they are not one ISO date.
    let mut month = None;
    let mut numbers: Vec<&str> = Vec::new();
    let mut before_christ = false;
    let mut afternoon = None;
    for word in words(&lower) {
        if word.contains(':') {
            let (clock, zone) = split_zone(word);
            parts.micros = Some(clock_micros(clock, text, fault)?);
            if let Some(zone) = zone {
                parts.zone = Some(parse_zone(zone).ok_or_else(fault)?);
            }
        } else if word.starts_with(|c: char| c.is_ascii_alphabetic()) {
            match word {
                "bc" => before_christ = true,
                "ad" | "t" => {}
                "am" => afternoon = Some(false),
                "pm" => afternoon = Some(true),
                _ => match (by_prefix(&MONTHS, word), by_prefix(&DAYS, word)) {
                    (Some(m), _) if month.is_none() => month = Some(m as u32 + 1),
                    (None, Some(_)) => {}
                    _ => parts.zone = Some(parse_zone(word).ok_or_else(fault)?),
                },
            }
        } else if word.starts_with(['+', '-']) {
            parts.zone = Some(parse_zone(word).ok_or_else(fault)?);
        } else if word.contains(['-', '/', '.']) && parts.day.is_none() && numbers.is_empty() {
            let (year, m, day) = separated(word, text, fault)?;
            parts.day = Some(checked_day(year, m, day, before_christ_in(&lower), text)?);
        } else if word.len() == 8 && parts.day.is_none() && word.bytes().all(|b| b.is_ascii_digit()) {
            let number = |range: std::ops::Range<usize>| word[range].parse::<u32>().map_err(|_| fault());
            let (year, m, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
            parts.day = Some(checked_day(i64::from(year), m, day, false, text)?);
        } else {
            numbers.push(word.trim_end_matches(','));
        }
    }
    if let Some(month) = month {
        let [first, second] = numbers[..] else { return Err(fault()) };
        let (day, year) = if first.len() > 2 { (second, first) } else { (first, second) };
        let (day, year) = (day.parse().map_err(|_| fault())?, full_year(year).ok_or_else(fault)?);
        parts.day = Some(checked_day(year, month, day, before_christ, text)?);
    } else if !numbers.is_empty() {
        return Err(fault());
    }
    if let (Some(pm), Some(micros)) = (afternoon, parts.micros) {
        let hour = micros / 3_600_000_000;
        if !(1..=12).contains(&hour) {
            return Err(range(text));
        }
        parts.micros = Some(micros % 43_200_000_000 + if pm { 43_200_000_000 } else { 0 });
    }
    Ok(parts)
}

fn before_christ_in(lower: &str) -> bool {
    lower.ends_with(" bc")
}

/// Words, an ISO `T` between date and time counting as a space.
fn words(lower: &str) -> impl Iterator<Item = &str> {
    lower.split_ascii_whitespace().flat_map(|word| {
        let at = word.find('t').filter(|&at| {
            let digit = |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit);
            at > 0 && digit(word.as_bytes().get(at - 1)) && digit(word.as_bytes().get(at + 1))
        });
        match at {
            Some(at) => vec![&word[..at], &word[at + 1..]],
            None => vec![word],
        }
    })
}

/// `04:05:06+02` is a time and a zone.
fn split_zone(word: &str) -> (&str, Option<&str>) {
    let at = word.find(|c: char| c == '+' || c == '-' || c.is_ascii_alphabetic());
    at.map_or((word, None), |at| (&word[..at], Some(&word[at..])))
}

fn parse_zone(text: &str) -> Option<Zone> {
    if text.starts_with(['+', '-']) {
        return zone::parse_offset(text).map(Zone::Fixed);
    }
    match text {
        "est" => Some(Zone::Fixed(-5 * 3600)),
        "edt" => Some(Zone::Fixed(-4 * 3600)),
        "cst" => Some(Zone::Fixed(-6 * 3600)),
        "mst" => Some(Zone::Fixed(-7 * 3600)),
        "pst" => Some(Zone::Fixed(-8 * 3600)),
        "pdt" => Some(Zone::Fixed(-7 * 3600)),
        "cet" => Some(Zone::Fixed(3600)),
        "cest" => Some(Zone::Fixed(2 * 3600)),
        _ => Zone::parse(text),
    }
}

fn clock_micros(clock: &str, text: &str, fault: impl Fn() -> TextError) -> Result<i64, TextError> {
    let mut parts = clock.split(':');
    let mut whole = || parts.next().and_then(|p| p.parse::<i64>().ok());
    let (Some(hours), Some(minutes)) = (whole(), whole()) else { return Err(fault()) };
    let seconds = match parts.next() {
        Some(seconds) => parse_seconds(seconds).ok_or_else(&fault)?,
        None => 0,
    };
    if parts.next().is_some() {
        return Err(fault());
    }
    let micros = hours * 3_600_000_000 + minutes * 60_000_000 + seconds;
    let fits = (0..60).contains(&minutes) && seconds <= 60_000_000 && (0..=MICROS_A_DAY).contains(&micros);
    if fits { Ok(micros) } else { Err(range(text)) }
}

/// `06.789` in microseconds, rounded.
pub(super) fn parse_seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 9 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mut micros = 0;
    for at in 0..6 {
        micros = micros * 10 + fraction.as_bytes().get(at).map_or(0, |b| i64::from(b - b'0'));
    }
    let round_up = fraction.as_bytes().get(6).is_some_and(|b| *b >= b'5');
    Some(whole.parse::<i64>().ok()? * 1_000_000 + micros + i64::from(round_up))
}

/// Year, month and day of `y-m-d`, `m/d/y` (the order DateStyle MDY says), or
/// `d-mon-y`.
fn separated(word: &str, text: &str, fault: impl Fn() -> TextError) -> Result<(i64, u32, u32), TextError> {
    let parts: Vec<&str> = word.trim_end_matches(',').split(['-', '/', '.']).collect();
    let [a, b, c] = parts[..] else { return Err(fault()) };
    let number = |t: &str| t.parse::<u32>().map_err(|_| fault());
    if let Some(month) = by_prefix(&MONTHS, b) {
        return Ok((full_year(c).ok_or_else(&fault)?, month as u32 + 1, number(a)?));
    }
    if let Some(month) = by_prefix(&MONTHS, a) {
        return Ok((full_year(c).ok_or_else(&fault)?, month as u32 + 1, number(b)?));
    }
    if a.len() > 2 {
        return Ok((a.parse().map_err(|_| range(text))?, number(b)?, number(c)?));
    }
    Ok((full_year(c).ok_or_else(&fault)?, number(a)?, number(b)?))
}

/// Two digits mean 1970 to 2069.
fn full_year(text: &str) -> Option<i64> {
    let year: i64 = text.parse().ok()?;
    Some(match text.len() {
        1 | 2 if year < 70 => year + 2000,
        1 | 2 => year + 1900,
        _ => year,
    })
}

fn checked_day(year: i64, month: u32, day: u32, before_christ: bool, text: &str) -> Result<i64, TextError> {
    let year = if before_christ { 1 - year } else { year };
    let exists = year.abs() < 6_000_000
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && (before_christ || year != 0);
    if !exists {
        return Err(range(text));
    }
    Ok(days_from_civil(year, month, day))
}
