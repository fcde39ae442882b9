//! Intervals: `1 year 2 mons 3 days 04:05:06.7`.

use std::fmt::{self, Write};

use super::{Fault, TextError, calendar};
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
    if v.micros != 0 || !any {
        let sign = if v.micros < 0 {
            "-"
        } else if negative_before {
            "+"
        } else {
            ""
        };
        out.write_str(if any { " " } else { "" })?;
        out.write_str(sign)?;
        let micros = v.micros.unsigned_abs();
        let seconds = micros / 1_000_000;
        write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        calendar::write_fraction((micros % 1_000_000) as u32, out)?;
    }
    Ok(())
}

/// Collects parts that may be fractions: what does not fit a unit spills into the
/// next smaller one, months counting 30 days.
#[derive(Default)]
struct Sum {
    months: f64,
    days: f64,
    micros: f64,
    exact_micros: i128,
}

impl Sum {
    fn add(&mut self, amount: f64, whole: Option<i64>, unit: &str) -> bool {
        let micros_per = match unit {
            "us" | "usec" | "usecs" | "microsecond" | "microseconds" => 1,
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1_000,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000_000i64,
            _ => 0,
        };
        if micros_per > 0 {
            match whole {
                Some(whole) => self.exact_micros += i128::from(whole) * i128::from(micros_per),
                None => self.micros += amount * micros_per as f64,
            }
            return true;
        }
        let months_per = match unit {
            "mon" | "mons" | "month" | "months" => 1.0,
            "y" | "yr" | "yrs" | "year" | "years" => 12.0,
            "dec" | "decs" | "decade" | "decades" => 120.0,
            "c" | "cent" | "century" | "centuries" => 1_200.0,
            "mil" | "mils" | "millennium" | "millennia" => 12_000.0,
            _ => 0.0,
        };
        if months_per > 0.0 {
            let months = amount * months_per;
            self.months += months.trunc();
            self.add_days(months.fract() * 30.0);
            return true;
        }
        match unit {
            "d" | "day" | "days" => self.add_days(amount),
            "w" | "week" | "weeks" => self.add_days(amount * 7.0),
            _ => return false,
        }
        true
    }

    fn add_days(&mut self, days: f64) {
        // What decimals cannot say exactly in binary is rounded to the microsecond.
        let micros = (days.fract() * 86_400e6).round();
        self.days += days.trunc();
        self.micros += micros;
    }

    fn finish(self, text: &str) -> Result<Interval, TextError> {
        let range = || TextError::new(Fault::DatetimeRange, format!("interval field value out of range: \"{text}\""));
        let whole = |v: f64| {
            if v.abs() <= f64::from(i32::MAX) { Ok(v as i32) } else { Err(range()) }
        };
        if self.micros.abs() > 9e18 {
            return Err(range());
        }
        let micros = i64::try_from(self.exact_micros + self.micros.round() as i128).map_err(|_| range())?;
        Ok(Interval { months: whole(self.months)?, days: whole(self.days)?, micros })
    }
}

/// Reads an interval: words and counts in any order, `hh:mm:ss`, `y-m`, the ISO
/// form `P1Y2M3DT4H5M6S`, and `ago`.
pub fn parse(text: &str) -> Result<Interval, TextError> {
    let fault = || TextError::new(Fault::DatetimeSyntax, format!("invalid input syntax for type interval: \"{text}\""));
    let lower = text.trim().to_ascii_lowercase();
    if lower.starts_with('p') && lower.len() > 1 {
        return iso(&lower, text).ok_or_else(fault)?;
    }
    let (body, ago) = lower.strip_suffix("ago").map_or((lower.as_str(), false), |b| (b.trim_end(), true));
    let body = body.strip_prefix('@').unwrap_or(body);
    let mut sum = Sum::default();
    let mut words = tokens(body).into_iter().peekable();
    if words.peek().is_none() {
        return Err(fault());
    }
    while let Some(word) = words.next() {
        if word.contains(':') {
            sum.exact_micros += i128::from(clock(&word).ok_or_else(fault)?);
        } else if let Some((years, months)) = year_month(&word) {
            sum.months += years * 12.0 + months;
        } else {
            let amount: f64 = word.parse().map_err(|_| fault())?;
            // A bare number counts seconds.
            let unit = match words.peek() {
                Some(next) if next.starts_with(|c: char| c.is_ascii_alphabetic()) => words.next().unwrap_or_default(),
                Some(next) if next.contains(':') => "day".to_owned(),
                _ => "second".to_owned(),
            };
            if !sum.add(amount, word.parse().ok(), &unit) {
                return Err(fault());
            }
        }
    }
    let mut interval = sum.finish(text)?;
    if ago {
        interval = Interval { months: -interval.months, days: -interval.days, micros: -interval.micros };
    }
    Ok(interval)
}

/// Numbers and words, separated where one ends and the other begins.
fn tokens(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for part in text.split_ascii_whitespace() {
        let mut current = String::new();
        for c in part.chars() {
            let turns =
                current.chars().last().is_some_and(|last| last.is_ascii_alphabetic() != c.is_ascii_alphabetic());
            if turns {
                found.push(std::mem::take(&mut current));
            }
            current.push(c);
        }
        found.push(current);
    }
    found
}

/// `[-]hh:mm[:ss[.ffffff]]` in microseconds.
fn clock(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let mut parts = digits.split(':');
    let (hours, minutes) = (parts.next()?.parse::<i64>().ok()?, parts.next()?.parse::<i64>().ok()?);
    let seconds = parts.next().unwrap_or("0");
    if parts.next().is_some() || !(0..60).contains(&minutes) || hours < 0 {
        return None;
    }
    let micros = calendar::parse_seconds(seconds).filter(|m| *m < 61_000_000)?;
    let total = hours.checked_mul(3_600_000_000)?.checked_add(minutes * 60_000_000 + micros)?;
    Some(sign * total)
}

/// `1-2`: years and months.
fn year_month(text: &str) -> Option<(f64, f64)> {
    let negative = text.starts_with('-');
    let (years, months) = text.trim_start_matches(['-', '+']).split_once('-')?;
    let (years, months): (u32, u32) = (years.parse().ok()?, months.parse().ok()?);
    let sign = if negative { -1.0 } else { 1.0 };
    (months < 12).then_some((sign * f64::from(years), sign * f64::from(months)))
}

fn iso(lower: &str, text: &str) -> Option<Result<Interval, TextError>> {
    let mut sum = Sum::default();
    let (mut number, mut in_time) = (String::new(), false);
    for c in lower.chars().skip(1) {
        match c {
            't' if number.is_empty() => in_time = true,
            '0'..='9' | '.' | '-' | '+' => number.push(c),
            _ => {
                let unit = match (c, in_time) {
                    ('y', false) => "year",
                    ('m', false) => "month",
                    ('w', false) => "week",
                    ('d', false) => "day",
                    ('h', true) => "hour",
                    ('m', true) => "minute",
                    ('s', true) => "second",
                    _ => return None,
                };
                let amount: f64 = number.parse().ok()?;
                sum.add(amount, number.parse().ok(), unit);
                number.clear();
            }
        }
    }
    number.is_empty().then(|| sum.finish(text))
}
