//! Intervals: `1 year 2 mons 3 days 04:05:06.7`.
//!
//! Fields are read from right to left, so that a unit is known before its number.
//! A fraction of a unit goes over into smaller ones by PostgreSQL's rules: of
//! years into months, of months and weeks into days (30 to a month) and from
//! there into microseconds.

use std::fmt::{self, Write};

use super::clock::Clock;
use super::fields::{Field, Form, NotWhole, fields, fraction, leading};
use super::moment::Trouble;
use super::{Fault, TextError};
use crate::value::Interval;

/// Writes an interval in PostgreSQL's own style.
pub fn write(v: Interval, out: &mut impl Write) -> fmt::Result {
    // A positive part after a negative one is written with its sign.
    let (mut any, mut negative_before) = (false, false);
    for (count, unit) in [(v.months / 12, "year"), (v.months % 12, "mon"), (v.days, "day")] {
        if count == 0 {
            continue;
        }
        let space = if any { " " } else { "" };
        let plus = if negative_before && count > 0 { "+" } else { "" };
        write!(out, "{space}{plus}{count} {unit}{}", if count == 1 { "" } else { "s" })?;
        negative_before = count < 0;
        any = true;
    }
    if v.micros == 0 && any {
        return Ok(());
    }
    let sign = match v.micros < 0 {
        true => "-",
        false if negative_before => "+",
        false => "",
    };
    let space = if any { " " } else { "" };
    let (seconds, micros) = (v.micros.unsigned_abs() / 1_000_000, v.micros.unsigned_abs() % 1_000_000);
    write!(out, "{space}{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
    if micros == 0 {
        return Ok(());
    }
    let digits = format!("{micros:06}");
    write!(out, ".{}", digits.trim_end_matches('0'))
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
    Decade,
    Century,
    Millennium,
}

/// All the units that a clock time gives.
const CLOCK: u32 = 0b1_1111;

impl Unit {
    fn bit(self) -> u32 {
        1 << self as u32
    }

    fn named(word: &str) -> Option<Unit> {
        // Words count up to their tenth letter.
        Some(match word.get(..10).unwrap_or(word) {
            "us" | "usec" | "usecs" | "usecond" | "useconds" | "microsecon" => Unit::Microsecond,
            "ms" | "msec" | "msecs" | "msecond" | "mseconds" | "millisecon" => Unit::Millisecond,
            "s" | "sec" | "secs" | "second" | "seconds" => Unit::Second,
            "m" | "min" | "mins" | "minute" | "minutes" => Unit::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Hour,
            "d" | "day" | "days" => Unit::Day,
            "w" | "week" | "weeks" => Unit::Week,
            "mon" | "mons" | "month" | "months" => Unit::Month,
            "y" | "yr" | "yrs" | "year" | "years" => Unit::Year,
            "dec" | "decs" | "decade" | "decades" => Unit::Decade,
            "c" | "cent" | "century" | "centuries" => Unit::Century,
            "mil" | "mils" | "millennium" | "millennia" => Unit::Millennium,
            _ => return None,
        })
    }
}

/// Why a text is not an interval.
enum Fail {
    Form,
    Range,
}

impl From<NotWhole> for Fail {
    fn from(error: NotWhole) -> Fail {
        match error {
            NotWhole::TooLarge => Fail::Range,
        }
    }
}

const DAY: i64 = 86_400_000_000;

/// Collects parts.
#[derive(Default)]
struct Sum {
    years: i32,
    months: i32,
    days: i32,
    micros: i64,
}

impl Sum {
    /// Adds `whole` and `part` (a fraction, of the same sign) of a unit.
    fn add(&mut self, unit: Unit, whole: i64, part: f64) -> Option<()> {
        match unit {
            Unit::Microsecond => self.clock(whole, part, 1),
            Unit::Millisecond => self.clock(whole, part, 1_000),
            Unit::Second => self.clock(whole, part, 1_000_000),
            Unit::Minute => self.clock(whole, part, 60_000_000),
            Unit::Hour => self.clock(whole, part, 3_600_000_000),
            Unit::Day => {
                self.days(whole, 1)?;
                self.part_of(part, DAY)
            }
            Unit::Week => {
                self.days(whole, 7)?;
                self.part_of_days(part, 7)
            }
            Unit::Month => {
                self.months = self.months.checked_add(i32::try_from(whole).ok()?)?;
                self.part_of_days(part, 30)
            }
            Unit::Year => self.years(whole, part, 1),
            Unit::Decade => self.years(whole, part, 10),
            Unit::Century => self.years(whole, part, 100),
            Unit::Millennium => self.years(whole, part, 1_000),
        }
    }

    fn clock(&mut self, whole: i64, part: f64, micros: i64) -> Option<()> {
        self.micros = self.micros.checked_add(whole.checked_mul(micros)?)?;
        self.part_of(part, micros)
    }

    /// Adds a fraction of `micros` microseconds, rounded.
    fn part_of(&mut self, part: f64, micros: i64) -> Option<()> {
        let exact = part * micros as f64;
        let rest = exact - exact.trunc();
        let rounded = exact as i64 + i64::from(rest > 0.5) - i64::from(rest < -0.5);
        self.micros = self.micros.checked_add(rounded)?;
        Some(())
    }

    fn days(&mut self, whole: i64, days: i32) -> Option<()> {
        self.days = self.days.checked_add(i32::try_from(whole).ok()?.checked_mul(days)?)?;
        Some(())
    }

    fn part_of_days(&mut self, part: f64, days: i32) -> Option<()> {
        let exact = part * f64::from(days);
        self.days = self.days.checked_add(exact as i32)?;
        self.part_of(exact - exact.trunc(), DAY)
    }

    fn years(&mut self, whole: i64, part: f64, years: i32) -> Option<()> {
        self.years = self.years.checked_add(i32::try_from(whole).ok()?.checked_mul(years)?)?;
        let months = (part * f64::from(years) * 12.0).round_ties_even();
        self.months = self.months.checked_add(months as i32)?;
        Some(())
    }

    fn negate(self) -> Option<Sum> {
        Some(Sum {
            years: self.years.checked_neg()?,
            months: self.months.checked_neg()?,
            days: self.days.checked_neg()?,
            micros: self.micros.checked_neg()?,
        })
    }
}

/// The longest text of an interval, in bytes.
const LONGEST: usize = 250;

/// Reads an interval: counts and units, `hh:mm:ss`, `y-m`, the forms of ISO 8601
/// that begin with `P`, and `ago`.
pub fn parse(text: &str) -> Result<Interval, TextError> {
    let lower = text.to_ascii_lowercase();
    let traditional = || {
        let fields = fields(&lower).filter(|_| lower.len() <= LONGEST).ok_or(Fail::Form)?;
        traditional(&fields)
    };
    let sum = traditional().or_else(|fail| match fail {
        Fail::Form => iso(text),
        Fail::Range => Err(Fail::Range),
    });
    let sum = sum.map_err(|fail| match fail {
        Fail::Form => {
            TextError::new(Fault::DatetimeSyntax, format!("invalid input syntax for type interval: \"{text}\""))
        }
        Fail::Range => TextError::new(Fault::IntervalRange, format!("interval field value out of range: \"{text}\"")),
    })?;
    let months = i64::from(sum.years) * 12 + i64::from(sum.months);
    let months = i32::try_from(months).map_err(|_| TextError::new(Fault::DatetimeRange, "interval out of range"))?;
    Ok(Interval { months, days: sum.days, micros: sum.micros })
}

fn traditional(fields: &[Field<'_>]) -> Result<Sum, Fail> {
    let mut sum = Sum::default();
    let (mut given, mut ago) = (0, false);
    // The unit of the next number to the left.
    let mut unit = None;
    for Field { form, text } in fields.iter().rev() {
        let signed_clock = *form == Form::Signed && text.get(1..).is_some_and(|t| t.contains(':'));
        let gives = match form {
            Form::Time => {
                sum.micros = clock(text)?;
                unit = Some(Unit::Day);
                CLOCK
            }
            Form::Signed if signed_clock && text.get(1..).is_some_and(|t| clock(t).is_ok()) => {
                let micros = text.get(1..).map_or(Err(Fail::Form), clock)?;
                sum.micros = if text.starts_with('-') { -micros } else { micros };
                unit = Some(Unit::Day);
                CLOCK
            }
            Form::Signed | Form::Date | Form::Number => count(text, &mut unit, &mut sum)?,
            Form::Word | Form::SignedWord if text == "ago" => {
                ago = true;
                0
            }
            Form::Word | Form::SignedWord => {
                unit = Some(Unit::named(text).ok_or(Fail::Form)?);
                0
            }
        };
        if given & gives != 0 {
            return Err(Fail::Form);
        }
        given |= gives;
    }
    if given == 0 {
        return Err(Fail::Form);
    }
    if ago { sum.negate().ok_or(Fail::Range) } else { Ok(sum) }
}

/// A number of `unit`s, or years and months: `1-2`.
fn count(text: &str, unit: &mut Option<Unit>, sum: &mut Sum) -> Result<u32, Fail> {
    let (whole, rest) = leading::<i64>(text)?;
    let negative = text.starts_with('-');
    if let Some(months) = rest.strip_prefix('-') {
        let (months, after) = leading::<i32>(months)?;
        if !(0..12).contains(&months) {
            return Err(Fail::Range);
        }
        if !after.is_empty() {
            return Err(Fail::Form);
        }
        let months = i64::from(if negative { -months } else { months });
        let total = whole.checked_mul(12).and_then(|m| m.checked_add(months)).ok_or(Fail::Range)?;
        *unit = Some(Unit::Month);
        sum.add(Unit::Month, total, 0.0).ok_or(Fail::Range)?;
        return Ok(Unit::Month.bit());
    }
    let part = if rest.is_empty() { 0.0 } else { fraction(rest).ok_or(Fail::Form)? };
    let part = if negative { -part } else { part };
    // A number without a unit, on the right, counts seconds.
    let of = *unit.get_or_insert(Unit::Second);
    sum.add(of, whole, part).ok_or(Fail::Range)?;
    if of == Unit::Hour {
        *unit = Some(Unit::Day);
    }
    // Seconds with a fraction stand for all that is shorter too.
    let finer = Unit::Microsecond.bit() | Unit::Millisecond.bit();
    Ok(of.bit() | if of == Unit::Second && part != 0.0 { finer } else { 0 })
}

fn clock(text: &str) -> Result<i64, Fail> {
    let clock = Clock::read::<i64>(text).map_err(|trouble| match trouble {
        Trouble::Range => Fail::Range,
        _ => Fail::Form,
    })?;
    let rest = clock.minutes * 60_000_000 + clock.seconds * 1_000_000 + clock.micros;
    clock.hours.checked_mul(3_600_000_000).and_then(|h| h.checked_add(rest)).ok_or(Fail::Range)
}

/// ISO 8601: `P1Y2M3DT4H5M6S`, `P0001-02-03T04:05:06`, `P00010203T040506`.
fn iso(text: &str) -> Result<Sum, Fail> {
    let mut rest = text.strip_prefix('P').filter(|r| !r.is_empty()).ok_or(Fail::Form)?;
    let mut sum = Sum::default();
    let (mut in_time, mut any) = (false, false);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            (rest, in_time, any) = (time, true, false);
            continue;
        }
        let from = rest;
        let (whole, part, after) = iso_number(rest)?;
        let mut letters = after.chars();
        let unit = match (letters.next(), in_time) {
            (Some('Y'), false) => Unit::Year,
            (Some('M'), false) => Unit::Month,
            (Some('W'), false) => Unit::Week,
            (Some('D'), false) => Unit::Day,
            (Some('H'), true) => Unit::Hour,
            (Some('M'), true) => Unit::Minute,
            (Some('S'), true) => Unit::Second,
            (None | Some('T' | '-'), false) | (None | Some(':'), true) => {
                let digits = from.bytes().take_while(u8::is_ascii_digit).count();
                let packed = !any && digits == if in_time { 6 } else { 8 } && !after.starts_with(['-', ':']);
                rest = if packed {
                    iso_packed(in_time, whole, part, &mut sum)?;
                    after
                } else if any {
                    return Err(Fail::Form);
                } else {
                    iso_separated(in_time, from, &mut sum)?
                };
                continue;
            }
            _ => return Err(Fail::Form),
        };
        sum.add(unit, whole, part).ok_or(Fail::Range)?;
        rest = letters.as_str();
        any = true;
    }
    Ok(sum)
}

/// `00010203` or `040506`.
fn iso_packed(in_time: bool, whole: i64, part: f64, sum: &mut Sum) -> Result<(), Fail> {
    let units = if in_time {
        [(Unit::Hour, whole / 10_000, 0.0), (Unit::Minute, whole / 100 % 100, 0.0), (Unit::Second, whole % 100, part)]
    } else {
        [(Unit::Year, whole / 10_000, 0.0), (Unit::Month, whole / 100 % 100, 0.0), (Unit::Day, whole % 100, part)]
    };
    units.into_iter().try_for_each(|(unit, whole, part)| sum.add(unit, whole, part)).ok_or(Fail::Range)
}

/// `0001-02-03` or `04:05:06`, from the left as far as it goes; gives what
/// follows.
fn iso_separated<'a>(in_time: bool, text: &'a str, sum: &mut Sum) -> Result<&'a str, Fail> {
    let (units, separator) = if in_time {
        ([Unit::Hour, Unit::Minute, Unit::Second], ':')
    } else {
        ([Unit::Year, Unit::Month, Unit::Day], '-')
    };
    let mut rest = text;
    for unit in units {
        let (whole, part, after) = iso_number(rest)?;
        sum.add(unit, whole, part).ok_or(Fail::Range)?;
        if after.is_empty() || (!in_time && after.starts_with('T')) {
            return Ok(after);
        }
        rest = after.strip_prefix(separator).ok_or(Fail::Form)?;
    }
    Err(Fail::Form)
}

/// A number with a sign and a fraction, and what follows it.
fn iso_number(text: &str) -> Result<(i64, f64, &str), Fail> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let sign = if unsigned.len() < text.len() { -1 } else { 1 };
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = unsigned.split_at(digits);
    let whole_value: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| Fail::Form)? };
    let decimals = match rest.strip_prefix('.') {
        Some(after) => 1 + after.bytes().take_while(u8::is_ascii_digit).count(),
        None => 0,
    };
    if digits + decimals == 0 {
        return Err(Fail::Form);
    }
    let (part, rest) = rest.split_at(decimals);
    let part: f64 = if decimals > 1 { part.parse().map_err(|_| Fail::Form)? } else { 0.0 };
    Ok((sign * whole_value, sign as f64 * part, rest))
}
