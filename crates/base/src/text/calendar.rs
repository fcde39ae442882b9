//! Dates, times and timestamps, in the proleptic Gregorian calendar.

use std::fmt::{self, Write};

use super::fields::fields;
use super::moment::{self, MICROS_A_DAY, Moment, Place, Trouble, Wanted};
use super::{Fault, Settings, TextError, Zone};

/// 4714-11-24 BC, the first day there is.
const FIRST_DAY: i64 = days_from_civil(-4713, 11, 24);
/// 5874897-12-31, the last day of dates.
const LAST_DAY: i64 = days_from_civil(5_874_897, 12, 31);
/// The last whole day of timestamps, which count microseconds in 64 bits.
const LAST_TIMESTAMP_DAY: i64 = 106_751_990;

/// Days from 1970-01-01 to the given day (Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms"). Year 0 is 1 BC.
pub const fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let shifted = (month as i64 + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day as i64 - 1;
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

/// Digits, signs and letters of a moment, written at once.
struct Line {
    bytes: [u8; 64],
    used: usize,
}

impl Line {
    fn new() -> Line {
        Line { bytes: [0; 64], used: 0 }
    }

    fn push(&mut self, b: u8) {
        if let Some(room) = self.bytes.get_mut(self.used) {
            *room = b;
            self.used += 1;
        }
    }

    /// The digits of `v`, at least `least` of them.
    fn number(&mut self, v: i64, least: usize) {
        let mut digits = [b'0'; 20];
        let (mut at, mut rest) = (digits.len(), v);
        while rest > 0 || digits.len() - at < least {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        digits[at..].iter().for_each(|b| self.push(*b));
    }

    /// At least two digits.
    fn two(&mut self, v: i64) {
        if v >= 100 {
            return self.number(v, 2);
        }
        self.push(b'0' + (v / 10) as u8);
        self.push(b'0' + (v % 10) as u8);
    }

    fn text(&mut self, text: &str) {
        text.bytes().for_each(|b| self.push(b));
    }

    /// `2024-01-02`; years before Christ are told by [`Line::era`].
    fn day(&mut self, days: i64) {
        let (year, month, day) = civil_from_days(days);
        self.number(if year > 0 { year } else { 1 - year }, 4);
        self.push(b'-');
        self.two(i64::from(month));
        self.push(b'-');
        self.two(i64::from(day));
    }

    fn era(&mut self, days: i64) {
        if civil_from_days(days).0 <= 0 {
            self.text(" BC");
        }
    }

    /// `04:05:06.7`
    fn clock(&mut self, micros: i64) {
        let seconds = micros / 1_000_000;
        self.two(seconds / 3600);
        self.push(b':');
        self.two(seconds / 60 % 60);
        self.push(b':');
        self.two(seconds % 60);
        self.fraction((micros % 1_000_000).unsigned_abs() as u32);
    }

    /// `.123` for 123000 microseconds, nothing for none.
    fn fraction(&mut self, micros: u32) {
        if micros == 0 {
            return;
        }
        self.push(b'.');
        let (mut rest, mut unit) = (micros, 100_000);
        while rest > 0 {
            self.push(b'0' + (rest / unit % 10) as u8);
            rest %= unit;
            unit /= 10;
        }
    }

    fn end(&self, out: &mut impl Write) -> fmt::Result {
        let written = self.bytes.get(..self.used).ok_or(fmt::Error)?;
        out.write_str(std::str::from_utf8(written).map_err(|_| fmt::Error)?)
    }
}

/// Writes a date given in days since 1970-01-01.
pub fn write_date(days: i32, out: &mut impl Write) -> fmt::Result {
    let mut line = Line::new();
    line.day(i64::from(days));
    line.era(i64::from(days));
    line.end(out)
}

/// Writes a time of day given in microseconds.
pub fn write_time(micros: i64, out: &mut impl Write) -> fmt::Result {
    let mut line = Line::new();
    line.clock(micros.max(0));
    line.end(out)
}

/// Writes a timestamp given in microseconds since 1970-01-01 00:00.
pub fn write_timestamp(micros: i64, out: &mut impl Write) -> fmt::Result {
    let mut line = Line::new();
    let days = micros.div_euclid(MICROS_A_DAY);
    line.day(days);
    line.push(b' ');
    line.clock(micros.rem_euclid(MICROS_A_DAY));
    line.era(days);
    line.end(out)
}

/// Writes an instant as clocks in `zone` show it, with the zone's offset.
pub fn write_timestamptz(micros: i64, zone: &Zone, out: &mut impl Write) -> fmt::Result {
    let mut line = Line::new();
    let offset = zone.offset_at(micros);
    let local = i128::from(micros) + i128::from(offset) * 1_000_000;
    let days = local.div_euclid(i128::from(MICROS_A_DAY)) as i64;
    line.day(days);
    line.push(b' ');
    line.clock(local.rem_euclid(i128::from(MICROS_A_DAY)) as i64);
    let seconds = i64::from(offset.unsigned_abs());
    line.push(if offset < 0 { b'-' } else { b'+' });
    line.two(seconds / 3600);
    if seconds % 3600 != 0 {
        line.push(b':');
        line.two(seconds / 60 % 60);
    }
    if seconds % 60 != 0 {
        line.push(b':');
        line.two(seconds % 60);
    }
    line.era(days);
    line.end(out)
}

/// Reads a date: days since 1970-01-01.
pub fn parse_date(text: &str, settings: &Settings) -> Result<i32, TextError> {
    if let Some(day) = iso_date(text.as_bytes()) {
        return i32::try_from(day).map_err(|_| out_of_range("date", text));
    }
    let moment = read(text, "date", Wanted::Date, settings)?;
    let day = moment.day.filter(|day| (FIRST_DAY..=LAST_DAY).contains(day));
    day.and_then(|day| i32::try_from(day).ok()).ok_or_else(|| out_of_range("date", text))
}

/// Reads a time of day: microseconds since midnight. A zone is read and forgotten,
/// as PostgreSQL does.
pub fn parse_time(text: &str, settings: &Settings) -> Result<i64, TextError> {
    Ok(read(text, "time", Wanted::Time, settings)?.micros)
}

/// Reads a timestamp: microseconds since 1970-01-01 00:00. A zone in the text is
/// ignored, as PostgreSQL does.
pub fn parse_timestamp(text: &str, settings: &Settings) -> Result<i64, TextError> {
    if let Some(micros) = iso_timestamp(text.as_bytes()) {
        return Ok(micros);
    }
    let moment = read(text, "timestamp", Wanted::Date, settings)?;
    join(&moment).and_then(in_range).ok_or_else(|| out_of_range("timestamp", text))
}

/// Reads an instant: microseconds since 1970 UTC. Without a zone in the text the
/// session's counts.
pub fn parse_timestamptz(text: &str, settings: &Settings) -> Result<i64, TextError> {
    let moment = read(text, "timestamp with time zone", Wanted::Date, settings)?;
    let utc = join(&moment).map(|local| match moment.place {
        Some(Place::East(seconds)) => local - i128::from(seconds) * 1_000_000,
        Some(Place::Zone(zone)) => zone.wide_to_utc(local),
        None => settings.zone.wide_to_utc(local),
    });
    utc.and_then(in_range).ok_or_else(|| out_of_range("timestamp", text))
}

fn join(moment: &Moment) -> Option<i128> {
    moment.day.map(|day| i128::from(day) * i128::from(MICROS_A_DAY) + i128::from(moment.micros))
}

/// Whether `days` since 1970-01-01 are a date.
pub fn has_date(days: i32) -> bool {
    (FIRST_DAY..=LAST_DAY).contains(&i64::from(days))
}

/// Whether `micros` since 1970-01-01 00:00 are a timestamp.
pub fn has_timestamp(micros: i64) -> bool {
    in_range(i128::from(micros)).is_some()
}

/// The microseconds, if timestamps reach there.
fn in_range(micros: i128) -> Option<i64> {
    let first = i128::from(FIRST_DAY) * i128::from(MICROS_A_DAY);
    let end = i128::from(LAST_TIMESTAMP_DAY + 1) * i128::from(MICROS_A_DAY);
    (first..end).contains(&micros).then_some(micros as i64)
}

fn out_of_range(type_name: &str, text: &str) -> TextError {
    TextError::new(Fault::DatetimeRange, format!("{type_name} out of range: \"{text}\""))
}

/// `2024-01-02` and nothing else: by far the most frequent form, read at once.
fn iso_date(text: &[u8]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let pair = |a: &u8, b: &u8| {
        (a.is_ascii_digit() && b.is_ascii_digit()).then(|| u32::from(a - b'0') * 10 + u32::from(b - b'0'))
    };
    let (year, month, day) = (pair(y1, y2)? * 100 + pair(y3, y4)?, pair(m1, m2)?, pair(d1, d2)?);
    let exists = year > 0 && (1..=12).contains(&month) && (1..=days_in_month(i64::from(year), month)).contains(&day);
    exists.then(|| days_from_civil(i64::from(year), month, day))
}

/// `2024-01-02 03:04:05`, perhaps with a fraction of up to six digits.
fn iso_timestamp(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let [b' ' | b'T', h1, h2, b':', m1, m2, b':', s1, s2, fraction @ ..] = rest else { return None };
    let pair = |a: &u8, b: &u8, most: i64| {
        let v = (a.is_ascii_digit() && b.is_ascii_digit()).then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'));
        v.filter(|v| *v <= most)
    };
    let seconds = pair(h1, h2, 23)? * 3600 + pair(m1, m2, 59)? * 60 + pair(s1, s2, 59)?;
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) => {
            let v = digits.iter().fold(0, |v, d| v * 10 + i64::from(d - b'0'));
            v * 10i64.pow(6 - digits.len() as u32)
        }
        _ => return None,
    };
    Some(iso_date(date)? * MICROS_A_DAY + seconds * 1_000_000 + micros)
}

/// The longest text of a moment, in bytes.
const LONGEST: usize = 150;

fn read(text: &str, type_name: &str, wanted: Wanted, settings: &Settings) -> Result<Moment, TextError> {
    let syntax =
        || TextError::new(Fault::DatetimeSyntax, format!("invalid input syntax for type {type_name}: \"{text}\""));
    if text.len() > LONGEST {
        return Err(syntax());
    }
    let lower = text.to_ascii_lowercase();
    let fields = fields(&lower).ok_or_else(syntax)?;
    moment::read(&fields, wanted, settings).map_err(|trouble| match trouble {
        Trouble::Form => syntax(),
        Trouble::Range => {
            TextError::new(Fault::DatetimeRange, format!("date/time field value out of range: \"{text}\""))
        }
        Trouble::Displacement => {
            TextError::new(Fault::ZoneRange, format!("time zone displacement out of range: \"{text}\""))
        }
        Trouble::NoZone(name) => TextError::new(Fault::Parameter, format!("time zone \"{name}\" not recognized")),
        Trouble::Infinite => {
            TextError::new(Fault::Unsupported, format!("{type_name} \"{}\" is not supported", lower.trim()))
        }
    })
}
