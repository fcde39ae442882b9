//! `to_char`, `to_date`, `to_timestamp`, `to_number`: values by template
//! (PostgreSQL's formatting.c, without its locale-dependent and rarely used
//! patterns, which are refused by name).

use polity_base::text::calendar::{civil_from_days, days_from_civil, days_in_month};
use polity_base::{Decimal, Interval, Value};

use super::list::{Function, Ty, strict, zoned};
use crate::error::{Condition, Error, Result};

use Ty::{Date, Float8, Int4, Int8, Interval as Span, Numeric, Text, Timestamp, TimestampTz};

const DAY: i64 = 86_400_000_000;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const ROMAN: [&str; 12] = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

/// The functions.
pub static FUNCTIONS: &[Function] = &[
    strict("to_char", &[Timestamp, Text], Text, |a, o| o.text(&of_moment(&moment(a.int(0)?, 0, ""), a.text(1)?)?)),
    zoned("to_char", &[TimestampTz, Text], Text, |a, o, name| {
        let zone = super::datetime::zone_of(name)?;
        let utc = a.int(0)?;
        let local = zone.to_local(utc);
        o.text(&of_moment(&moment(local, (local - utc) / 1_000_000, name), a.text(1)?)?)
    }),
    strict("to_char", &[Span, Text], Text, |a, o| o.text(&of_moment(&of_interval(a.interval(0)?), a.text(1)?)?)),
    strict("to_char", &[Int4, Text], Text, |a, o| o.text(&of_number(Decimal::from(a.int(0)?), a.text(1)?)?)),
    strict("to_char", &[Int8, Text], Text, |a, o| o.text(&of_number(Decimal::from(a.int(0)?), a.text(1)?)?)),
    strict("to_char", &[Numeric, Text], Text, |a, o| o.text(&of_number(a.numeric(0)?, a.text(1)?)?)),
    strict("to_char", &[Float8, Text], Text, |a, o| {
        let v = a.float(0)?;
        let number = Decimal::from_f64(v).or_else(|| format!("{v:.6}").parse().ok());
        o.text(&of_number(number.ok_or_else(crate::query::types::numeric_overflow)?, a.text(1)?)?)
    }),
    strict("to_date", &[Text, Text], Date, |a, o| {
        let micros = parse_moment(a.text(0)?, a.text(1)?)?.0;
        o.value(&Value::Date(i32::try_from(micros.div_euclid(DAY)).unwrap_or(i32::MAX)))
    }),
    zoned("to_timestamp", &[Text, Text], TimestampTz, |a, o, zone| {
        let (local, offset) = parse_moment(a.text(0)?, a.text(1)?)?;
        o.value(&Value::TimestampTz(match offset {
            Some(seconds) => local - seconds * 1_000_000,
            None => super::datetime::zone_of(zone)?.to_utc(local),
        }))
    }),
    strict("to_number", &[Text, Text], Numeric, |a, o| o.numeric(to_number(a.text(0)?, a.text(1)?)?)),
];

/// What a template can show of a moment or an interval.
struct Moment {
    year: i64,
    month: u32,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    /// Days since 1970-01-01; `None` for an interval
    date: Option<i64>,
    offset: i64,
    zone: String,
}

fn moment(local: i64, offset: i64, zone: &str) -> Moment {
    let (date, time) = (local.div_euclid(DAY), local.rem_euclid(DAY));
    let (year, month, day) = civil_from_days(date);
    let seconds = time / 1_000_000;
    Moment {
        year,
        month,
        day: i64::from(day),
        hour: seconds / 3_600,
        minute: seconds / 60 % 60,
        second: seconds % 60,
        micros: time % 1_000_000,
        date: Some(date),
        offset,
        zone: zone.to_owned(),
    }
}

fn of_interval(v: Interval) -> Moment {
    let seconds = v.micros / 1_000_000;
    Moment {
        year: i64::from(v.months / 12),
        month: (v.months % 12).unsigned_abs(),
        day: i64::from(v.days),
        hour: seconds / 3_600,
        minute: seconds / 60 % 60,
        second: seconds % 60,
        micros: v.micros % 1_000_000,
        date: None,
        offset: 0,
        zone: String::new(),
    }
}

/// The date patterns, longest first where one begins another.
const PATTERNS: &[&str] = &[
    "Y,YYY", "YYYY", "YYY", "YY", "Y", "IYYY", "IYY", "IY", "IDDD", "ID", "IW", "I", "HH24", "HH12", "HH", "MONTH",
    "Month", "month", "MON", "Mon", "mon", "MM", "MI", "MS", "DAY", "Day", "day", "DDD", "DD", "DY", "Dy", "dy", "D",
    "SSSSS", "SSSS", "SS", "US", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "AM", "PM", "am", "pm", "A.M.", "P.M.",
    "a.m.", "p.m.", "AD", "BC", "ad", "bc", "A.D.", "B.C.", "a.d.", "b.c.", "WW", "W", "CC", "J", "Q", "RM", "rm",
    "TZH", "TZM", "TZ", "tz", "OF",
];

/// A piece of a date template.
enum Piece<'a> {
    Pattern { name: &'static str, fill: bool, ordinal: Option<&'a str> },
    Literal(String),
}

fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut all = Vec::new();
    let mut rest = template;
    let mut fill = true;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let mut text = String::new();
            let mut chars = rest[1..].char_indices();
            let mut end = rest.len();
            while let Some((i, c)) = chars.next() {
                match c {
                    '"' => {
                        end = i + 2;
                        break;
                    }
                    '\\' => text.extend(chars.next().map(|(_, c)| c)),
                    _ => text.push(c),
                }
            }
            all.push(Piece::Literal(text));
            rest = rest.get(end..).unwrap_or_default();
            continue;
        }
        if let Some(after) = strip_word(rest, "FM") {
            fill = false;
            rest = after;
            continue;
        }
        if let Some(after) = strip_word(rest, "FX").or_else(|| strip_word(rest, "TM")) {
            rest = after;
            continue;
        }
        let found = PATTERNS.iter().find(|p| rest.starts_with(**p)).or_else(|| {
            // Numbers are shown alike in either case; `yyyy` is `YYYY`.
            PATTERNS.iter().find(|p| {
                rest.get(..p.len()).is_some_and(|head| head.eq_ignore_ascii_case(p))
                    && p.chars().next().is_some_and(char::is_uppercase)
                    && !matches!(**p, "Month" | "Mon" | "Day" | "Dy")
            })
        });
        match found {
            Some(name) => {
                rest = rest.get(name.len()..).unwrap_or_default();
                let ordinal = rest.get(..2).filter(|t| t.eq_ignore_ascii_case("th"));
                if ordinal.is_some() {
                    rest = rest.get(2..).unwrap_or_default();
                }
                all.push(Piece::Pattern { name, fill, ordinal });
                fill = true;
            }
            None => {
                all.push(Piece::Literal(c.to_string()));
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            }
        }
    }
    all
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.get(..word.len())?;
    if head.eq_ignore_ascii_case(word) { text.get(word.len()..) } else { None }
}

fn of_moment(m: &Moment, template: &str) -> Result<String> {
    let mut out = String::new();
    for piece in pieces(template) {
        match piece {
            Piece::Literal(text) => out.push_str(&text),
            Piece::Pattern { name, fill, ordinal } => {
                let before = out.len();
                show(m, name, fill, &mut out)?;
                if let Some(th) = ordinal {
                    let number: i64 = out[before..].trim().parse().unwrap_or(0);
                    let suffix = ordinal_suffix(number);
                    out.push_str(&if th == "TH" { suffix.to_uppercase() } else { suffix.to_owned() });
                }
            }
        }
    }
    Ok(out)
}

fn ordinal_suffix(n: i64) -> &'static str {
    let n = n.abs();
    match (n % 100, n % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    }
}

fn number(v: i64, width: usize, fill: bool, out: &mut String) {
    use std::fmt::Write;
    let sign = if v < 0 { "-" } else { "" };
    let _ = match fill {
        true => write!(out, "{sign}{:0width$}", v.unsigned_abs()),
        false => write!(out, "{v}"),
    };
}

fn word(text: &str, width: usize, fill: bool, out: &mut String) {
    use std::fmt::Write;
    let _ = match fill {
        true => write!(out, "{text:<width$}"),
        false => write!(out, "{text}"),
    };
}

fn show(m: &Moment, name: &str, fill: bool, out: &mut String) -> Result<()> {
    use std::fmt::Write;
    let no_date = || {
        Error::new(Condition::InvalidDatetimeFormat, "invalid format specification for an interval value")
            .hint("Intervals are not tied to specific calendar dates.")
    };
    let date = || m.date.ok_or_else(no_date);
    let year = if m.date.is_some() && m.year <= 0 { 1 - m.year } else { m.year };
    let twelve = if m.hour % 12 == 0 { 12 } else { m.hour % 12 };
    let iso = |d: i64| {
        let thursday = d - (d + 3).rem_euclid(7) + 3;
        let y = civil_from_days(thursday).0;
        (y, (thursday - days_from_civil(y, 1, 1)) / 7 + 1)
    };
    let month_name =
        || -> Result<&'static str> { MONTHS.get((m.month as usize).wrapping_sub(1)).copied().ok_or_else(no_date) };
    let day_name = || -> Result<&'static str> { Ok(DAYS[(date()? + 4).rem_euclid(7) as usize]) };
    match name {
        "YYYY" => number(year, 4, fill, out),
        "YYY" => number(year % 1_000, 3, fill, out),
        "YY" => number(year % 100, 2, fill, out),
        "Y" => number(year % 10, 1, fill, out),
        "Y,YYY" => {
            let _ = write!(out, "{},{:03}", year / 1_000, year % 1_000);
        }
        "IYYY" => number(iso(date()?).0, 4, fill, out),
        "IYY" => number(iso(date()?).0 % 1_000, 3, fill, out),
        "IY" => number(iso(date()?).0 % 100, 2, fill, out),
        "I" => number(iso(date()?).0 % 10, 1, fill, out),
        "IW" => number(iso(date()?).1, 2, fill, out),
        "ID" => number((date()? + 3).rem_euclid(7) + 1, 1, fill, out),
        "IDDD" => {
            let (y, _) = iso(date()?);
            let first = days_from_civil(y, 1, 4);
            let monday = first - (first + 3).rem_euclid(7);
            number(date()? - monday + 1, 3, fill, out);
        }
        "MM" => number(i64::from(m.month), 2, fill, out),
        "MONTH" => word(&month_name()?.to_uppercase(), 9, fill, out),
        "Month" => word(month_name()?, 9, fill, out),
        "month" => word(&month_name()?.to_lowercase(), 9, fill, out),
        "MON" => out.push_str(&month_name()?[..3].to_uppercase()),
        "Mon" => out.push_str(&month_name()?[..3]),
        "mon" => out.push_str(&month_name()?[..3].to_lowercase()),
        "RM" => word(ROMAN[(m.month as usize).clamp(1, 12) - 1], 4, fill, out),
        "rm" => word(&ROMAN[(m.month as usize).clamp(1, 12) - 1].to_lowercase(), 4, fill, out),
        "DD" => number(m.day, 2, fill, out),
        "DDD" => number(date()? - days_from_civil(m.year, 1, 1) + 1, 3, fill, out),
        "D" => number((date()? + 4).rem_euclid(7) + 1, 1, fill, out),
        "DAY" => word(&day_name()?.to_uppercase(), 9, fill, out),
        "Day" => word(day_name()?, 9, fill, out),
        "day" => word(&day_name()?.to_lowercase(), 9, fill, out),
        "DY" => out.push_str(&day_name()?[..3].to_uppercase()),
        "Dy" => out.push_str(&day_name()?[..3]),
        "dy" => out.push_str(&day_name()?[..3].to_lowercase()),
        "HH24" => number(m.hour, 2, fill, out),
        "HH12" | "HH" => number(twelve, 2, fill, out),
        "MI" => number(m.minute, 2, fill, out),
        "SS" => number(m.second, 2, fill, out),
        "SSSS" | "SSSSS" => number(m.hour * 3_600 + m.minute * 60 + m.second, 1, fill, out),
        "MS" => number(m.micros / 1_000, 3, fill, out),
        "US" => number(m.micros, 6, fill, out),
        "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
            let digits = name.as_bytes().get(2).map_or(6, |b| usize::from(b - b'0'));
            let all = format!("{:06}", m.micros);
            out.push_str(&all[..digits]);
        }
        "AM" | "PM" => out.push_str(if m.hour % 24 >= 12 { "PM" } else { "AM" }),
        "am" | "pm" => out.push_str(if m.hour % 24 >= 12 { "pm" } else { "am" }),
        "A.M." | "P.M." => out.push_str(if m.hour % 24 >= 12 { "P.M." } else { "A.M." }),
        "a.m." | "p.m." => out.push_str(if m.hour % 24 >= 12 { "p.m." } else { "a.m." }),
        "AD" | "BC" => out.push_str(if m.year > 0 { "AD" } else { "BC" }),
        "ad" | "bc" => out.push_str(if m.year > 0 { "ad" } else { "bc" }),
        "A.D." | "B.C." => out.push_str(if m.year > 0 { "A.D." } else { "B.C." }),
        "a.d." | "b.c." => out.push_str(if m.year > 0 { "a.d." } else { "b.c." }),
        "WW" => number((date()? - days_from_civil(m.year, 1, 1)) / 7 + 1, 2, fill, out),
        "W" => number((m.day - 1) / 7 + 1, 1, fill, out),
        "CC" => number((year + 99) / 100, 2, fill, out),
        "J" => number(date()? + 2_440_588, 1, fill, out),
        "Q" => number(i64::from((m.month.max(1) - 1) / 3 + 1), 1, fill, out),
        "TZ" => out.push_str(&m.zone.to_uppercase()),
        "tz" => out.push_str(&m.zone.to_lowercase()),
        "TZH" | "OF" => {
            let sign = if m.offset < 0 { '-' } else { '+' };
            let minutes = m.offset.abs() / 60;
            let _ = write!(out, "{sign}{:02}", minutes / 60);
            if name == "OF" && minutes % 60 != 0 {
                let _ = write!(out, ":{:02}", minutes % 60);
            }
        }
        "TZM" => number(m.offset.abs() / 60 % 60, 2, fill, out),
        other => return Err(Error::unsupported(format!("the pattern {other} of to_char"))),
    }
    Ok(())
}

/// A text by a template: the local timestamp, and the offset if it is given.
fn parse_moment(text: &str, template: &str) -> Result<(i64, Option<i64>)> {
    let mut rest = text.trim_start();
    let (mut year, mut month, mut day) = (0i64, 1i64, 1i64);
    let (mut hour, mut minute, mut second, mut micros) = (0i64, 0i64, 0i64, 0i64);
    let mut afternoon: Option<bool> = None;
    let mut twelve = false;
    let mut day_of_year = None;
    let mut before_christ = false;
    let mut offset = None;
    let mut julian = None;
    let mut has_year = false;
    for piece in pieces(template) {
        let Piece::Pattern { name, .. } = piece else {
            let Piece::Literal(literal) = piece else { continue };
            // A separator skips any one separator.
            for c in literal.chars() {
                if c.is_alphanumeric() {
                    rest = rest.strip_prefix(c).unwrap_or_else(|| skip_one(rest));
                } else {
                    rest = rest.trim_start();
                    rest = rest.strip_prefix(|r: char| !r.is_alphanumeric() && r != '+' && r != '-').unwrap_or_else(
                        || {
                            if c == '-' { rest.strip_prefix('-').unwrap_or(rest) } else { rest }
                        },
                    );
                    rest = rest.trim_start();
                }
            }
            continue;
        };
        rest = rest.trim_start();
        let mut digits = |most: usize| -> Result<i64> {
            let negative = rest.starts_with('-') && matches!(name, "TZH");
            let signed = if rest.starts_with('+') || negative { &rest[1..] } else { rest };
            let count = signed.bytes().take(most).take_while(u8::is_ascii_digit).count();
            if count == 0 {
                let shown: String = rest.chars().take(most).collect();
                return Err(Error::new(
                    Condition::InvalidDatetimeFormat,
                    format!("invalid value \"{shown}\" for \"{name}\""),
                )
                .detail("Value must be an integer."));
            }
            let value: i64 = signed[..count].parse().unwrap_or(0);
            rest = &signed[count..];
            Ok(if negative { -value } else { value })
        };
        match name {
            "YYYY" | "IYYY" => {
                year = digits(if template.chars().any(|c| !c.is_alphanumeric()) { 19 } else { 4 })?;
                has_year = true;
            }
            "YYY" => year = 2_000 + digits(3)?,
            "YY" => {
                let y = digits(2)?;
                year = if y < 70 { 2_000 + y } else { 1_900 + y };
                has_year = true;
            }
            "Y" => year = 2_020 + digits(1)?,
            "MM" => month = digits(2)?,
            "DD" => day = digits(2)?,
            "DDD" => day_of_year = Some(digits(3)?),
            "HH24" => hour = digits(2)?,
            "HH12" | "HH" => {
                hour = digits(2)?;
                twelve = true;
            }
            "MI" => minute = digits(2)?,
            "SS" => second = digits(2)?,
            "MS" => micros = fraction(&mut rest, 3),
            "US" | "FF6" => micros = fraction(&mut rest, 6),
            "FF1" | "FF2" | "FF3" | "FF4" | "FF5" => micros = fraction(&mut rest, 6),
            "J" => julian = Some(digits(9)?),
            "TZH" => offset = Some(digits(2)? * 3_600),
            "TZM" => {
                let minutes = digits(2)? * 60;
                offset = offset.map(|h: i64| if h < 0 { h - minutes } else { h + minutes });
            }
            "AM" | "PM" | "am" | "pm" | "A.M." | "P.M." | "a.m." | "p.m." => {
                let head: String = rest.chars().take(name.len()).collect::<String>().to_lowercase();
                afternoon = Some(head.starts_with('p'));
                rest = rest.get(name.len()..).unwrap_or_default();
            }
            "BC" | "bc" | "AD" | "ad" | "B.C." | "b.c." | "A.D." | "a.d." => {
                before_christ = rest.to_lowercase().starts_with('b');
                rest = rest.get(name.len()..).unwrap_or_default();
            }
            "MONTH" | "Month" | "month" | "MON" | "Mon" | "mon" => {
                let full = name.len() > 3;
                let found = MONTHS.iter().enumerate().find_map(|(i, n)| {
                    let n = if full { n } else { n.get(..3).unwrap_or(n) };
                    strip_word(rest, n).map(|after| (i, after))
                });
                let Some((i, after)) = found else {
                    let shown: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
                    return Err(Error::new(
                        Condition::InvalidDatetimeFormat,
                        format!("invalid value \"{shown}\" for \"{name}\""),
                    )
                    .detail("The given value did not match any of the allowed values for this field."));
                };
                month = i as i64 + 1;
                rest = after;
            }
            "DAY" | "Day" | "day" | "DY" | "Dy" | "dy" => {
                rest = rest.trim_start_matches(char::is_alphabetic);
            }
            other => return Err(Error::unsupported(format!("the pattern {other} in to_date and to_timestamp"))),
        }
    }
    if let Some(pm) = afternoon {
        hour = hour % 12 + if pm { 12 } else { 0 };
    } else if twelve && hour == 12 {
        hour = 0;
    }
    let out_of_range =
        || Error::new(Condition::DatetimeFieldOverflow, format!("date/time field value out of range: \"{text}\""));
    if before_christ {
        year = 1 - year;
    }
    if !has_year && year == 0 {
        // Year 1 BC, as PostgreSQL has it.
        year = 0;
    }
    let month = u32::try_from(month).ok().filter(|m| (1..=12).contains(m)).ok_or_else(out_of_range)?;
    let mut date = match julian {
        Some(j) => j - 2_440_588,
        None => {
            let in_month = u32::try_from(day).ok().filter(|d| *d >= 1 && *d <= days_in_month(year, month));
            days_from_civil(year, month, in_month.ok_or_else(out_of_range)?)
        }
    };
    if let Some(n) = day_of_year {
        date = days_from_civil(year, 1, 1) + n - 1;
    }
    if !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..60).contains(&second) {
        return Err(out_of_range());
    }
    let time = ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros;
    Ok((date.checked_mul(DAY).and_then(|d| d.checked_add(time)).ok_or_else(out_of_range)?, offset))
}

fn skip_one(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str()
}

fn fraction(rest: &mut &str, digits: usize) -> i64 {
    let count = rest.bytes().take(digits).take_while(u8::is_ascii_digit).count();
    let (head, tail) = rest.split_at(count);
    *rest = tail;
    format!("{head:0<6}").parse().unwrap_or(0)
}

/// A parsed number template.
#[derive(Default)]
struct Template {
    /// Digits before and after the point: `true` for `0`
    before: Vec<bool>,
    after: Vec<bool>,
    has_point: bool,
    fill: bool,
    /// Where commas stand, by digits before them
    sign: Sign,
    roman: bool,
    exponent: bool,
    shift: u32,
    ordinal: Option<String>,
    pieces: Vec<NumberPiece>,
}

#[derive(Default, PartialEq, Clone, Copy)]
enum Sign {
    #[default]
    Leading,
    MinusAfter,
    PlusOrMinusBefore,
    PlusOrMinusAfter,
    Angles,
    /// S before or after the number
    SBefore,
    SAfter,
}

#[derive(Clone, Debug)]
enum NumberPiece {
    Digit,
    Point,
    Comma,
    Text(String),
    Sign,
    Currency,
}

fn number_template(template: &str) -> Result<Template> {
    let mut t = Template { fill: true, ..Template::default() };
    let mut rest = template;
    let mut zeros = false;
    let mut seen_digit = false;
    while let Some(c) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            t.pieces.push(NumberPiece::Text(quoted.get(..end).unwrap_or_default().to_owned()));
            rest = quoted.get(end + 1..).unwrap_or_default();
            continue;
        }
        let two = strip_word(rest, "FM");
        if let Some(after) = two {
            t.fill = false;
            rest = after;
            continue;
        }
        if let Some(after) = strip_word(rest, "TH") {
            t.ordinal = rest.get(..2).map(str::to_owned);
            rest = after;
            continue;
        }
        if let Some(after) = strip_word(rest, "RN") {
            t.roman = true;
            rest = after;
            continue;
        }
        if let Some(after) = strip_word(rest, "EEEE") {
            t.exponent = true;
            rest = after;
            continue;
        }
        let signs = [
            ("MI", Sign::MinusAfter),
            ("PL", Sign::PlusOrMinusAfter),
            ("SG", Sign::PlusOrMinusBefore),
            ("PR", Sign::Angles),
        ];
        if let Some((word, sign)) = signs.iter().find(|(w, _)| strip_word(rest, w).is_some()) {
            t.sign = *sign;
            if *word != "PR" {
                t.pieces.push(NumberPiece::Sign);
            }
            rest = rest.get(2..).unwrap_or_default();
            continue;
        }
        match c {
            '0' | '9' => {
                zeros |= c == '0';
                seen_digit = true;
                if t.has_point {
                    t.after.push(c == '0')
                } else {
                    t.before.push(zeros)
                }
                t.pieces.push(NumberPiece::Digit);
            }
            '.' | 'D' | 'd' => {
                if t.has_point {
                    return Err(Error::new(Condition::SyntaxError, "multiple decimal points"));
                }
                t.has_point = true;
                t.pieces.push(NumberPiece::Point);
            }
            ',' | 'G' | 'g' => t.pieces.push(NumberPiece::Comma),
            'S' | 's' => {
                t.sign = if seen_digit { Sign::SAfter } else { Sign::SBefore };
                if seen_digit {
                    t.pieces.push(NumberPiece::Sign);
                }
            }
            'L' | 'l' | '$' if c != '$' => t.pieces.push(NumberPiece::Currency),
            'V' | 'v' => {
                let digits = rest[1..].bytes().take_while(|b| matches!(b, b'0' | b'9')).count();
                t.shift = digits as u32;
            }
            other => t.pieces.push(NumberPiece::Text(other.to_string())),
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    Ok(t)
}

/// A number by a template.
fn of_number(v: Decimal, template: &str) -> Result<String> {
    let t = number_template(template)?;
    if t.roman {
        return Ok(roman(v, t.fill));
    }
    if t.exponent {
        let digits = t.after.len();
        let text = format!("{:.digits$e}", v.to_f64());
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let n: i32 = exponent.parse().unwrap_or(0);
        let sign = if v.mantissa() < 0 { "" } else { " " };
        return Ok(format!("{sign}{mantissa}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs()));
    }
    let overflow = crate::query::types::numeric_overflow;
    let v = match t.shift {
        0 => v,
        n => crate::query::numeric::multiply(v, Decimal::new(10i128.pow(n), 0).ok_or_else(overflow)?)
            .ok_or_else(overflow)?,
    };
    let scale = t.after.len() as u8;
    let rounded = v.rescale(scale).ok_or_else(overflow)?;
    let negative = rounded.mantissa() < 0;
    let shown = Decimal::new(rounded.mantissa().abs(), scale).ok_or_else(overflow)?.to_string();
    let (whole, part) = shown.split_once('.').unwrap_or((&shown, ""));
    let whole = if whole == "0" { "" } else { whole };
    let too_wide = whole.len() > t.before.len();
    let whole: Vec<char> = if too_wide { vec!['#'; t.before.len()] } else { whole.chars().collect() };
    let part: Vec<char> = if too_wide { vec!['#'; part.len()] } else { part.chars().collect() };
    // How many digits after the point are shown: without filling, no zeros at the end.
    let kept_after = match t.fill {
        true => t.after.len(),
        false => {
            let significant = part.iter().rposition(|c| *c != '0').map_or(0, |i| i + 1);
            let forced = t.after.iter().rposition(|z| *z).map_or(0, |i| i + 1);
            significant.max(forced)
        }
    };
    let lead = t.before.len() - whole.len();
    let mut out = String::new();
    let mut place = 0;
    let mut after = 0;
    let mut pointed = false;
    let mut started = false;
    let sign_text = |at: &Sign| match at {
        Sign::MinusAfter => {
            if negative {
                "-"
            } else {
                " "
            }
        }
        Sign::SAfter | Sign::PlusOrMinusBefore => {
            if negative {
                "-"
            } else {
                "+"
            }
        }
        Sign::PlusOrMinusAfter => {
            if negative {
                " "
            } else {
                "+"
            }
        }
        _ => "",
    };
    let begin = |out: &mut String, started: &mut bool| {
        if *started {
            return;
        }
        *started = true;
        let sign = match (&t.sign, negative) {
            (Sign::Leading | Sign::PlusOrMinusAfter, true) | (Sign::SBefore, true) => "-",
            (Sign::SBefore, false) => "+",
            (Sign::Leading, false) if t.fill => " ",
            (Sign::Angles, true) => "<",
            (Sign::Angles, false) if t.fill => " ",
            _ => "",
        };
        out.push_str(sign);
    };
    let any_zero = t.before.iter().any(|z| *z);
    for piece in &t.pieces {
        match piece {
            NumberPiece::Digit if !pointed && place < t.before.len() => {
                let zero = t.before.get(place).copied().unwrap_or(false);
                if place >= lead {
                    begin(&mut out, &mut started);
                    out.extend(whole.get(place - lead));
                } else if zero {
                    begin(&mut out, &mut started);
                    out.push('0');
                } else if place + 1 == t.before.len() && !t.has_point && whole.is_empty() {
                    // A zero that nothing else shows.
                    begin(&mut out, &mut started);
                    out.push('0');
                } else if t.fill {
                    out.push(' ');
                }
                place += 1;
            }
            NumberPiece::Digit => {
                if after < kept_after {
                    out.extend(part.get(after));
                }
                after += 1;
            }
            NumberPiece::Point => {
                begin(&mut out, &mut started);
                // 0 before the point is shown when nothing else is, without filling.
                if whole.is_empty() && !any_zero && !t.fill && !t.before.is_empty() && kept_after == 0 {
                    out.push('0');
                }
                pointed = true;
                out.push('.');
            }
            NumberPiece::Comma => {
                if started {
                    out.push(',');
                } else if t.fill {
                    out.push(' ');
                }
            }
            NumberPiece::Text(text) => out.push_str(text),
            NumberPiece::Currency => {
                if t.fill {
                    out.push(' ');
                }
            }
            NumberPiece::Sign => out.push_str(sign_text(&t.sign)),
        }
    }
    if !started {
        begin(&mut out, &mut started);
    }
    // Blanks go before the sign.
    if t.sign == Sign::Angles {
        if negative {
            out.push('>');
        } else if t.fill {
            out.push(' ');
        }
    }
    if let Some(th) = &t.ordinal
        && !negative
    {
        let n: i64 = whole.iter().collect::<String>().parse().unwrap_or(0);
        let suffix = ordinal_suffix(n);
        out.push_str(&if th == "TH" { suffix.to_uppercase() } else { suffix.to_owned() });
    }
    if !t.fill {
        out = out.trim_start_matches(' ').to_owned();
    }
    Ok(out)
}

fn roman(v: Decimal, fill: bool) -> String {
    let n = v.to_i64().unwrap_or(0);
    if !(1..=3_999).contains(&n) {
        return "#".repeat(15);
    }
    let parts = [
        (1_000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let mut left = n;
    let mut out = String::new();
    for (value, text) in parts {
        while left >= value {
            out.push_str(text);
            left -= value;
        }
    }
    if fill { format!("{out:>15}") } else { out }
}

fn to_number(text: &str, template: &str) -> Result<Decimal> {
    let t = number_template(template)?;
    let mut digits = String::new();
    let mut negative = false;
    for c in text.trim().chars() {
        match c {
            '0'..='9' => digits.push(c),
            '.' => {
                if t.has_point {
                    digits.push('.');
                } else {
                    break;
                }
            }
            '-' | '<' => negative = true,
            _ => {}
        }
    }
    let value: Decimal = digits.parse().map_err(|_| super::convert::invalid("numeric", " "))?;
    let scale = t.after.len() as u8;
    let value = if value.scale() > scale { crate::query::numeric::truncate(value, scale) } else { value };
    Decimal::new(if negative { -value.mantissa() } else { value.mantissa() }, value.scale())
        .ok_or_else(crate::query::types::numeric_overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(v: &str, template: &str) -> String {
        of_number(v.parse().unwrap(), template).unwrap()
    }

    #[test]
    fn numbers_are_shown_as_postgresql_shows_them() {
        for (v, template, shown) in [
            ("-0.1", "99.99", "  -.10"),
            ("0.1", "0.9", " 0.1"),
            ("12", "9990999.9", "    0012.0"),
            ("12", "FM9990999.9", "0012."),
            ("485", "999", " 485"),
            ("-485", "999", "-485"),
            ("1485", "9,999", " 1,485"),
            ("148.5", "999.999", " 148.500"),
            ("148.5", "FM999.999", "148.5"),
            ("3148.5", "9,999.999", " 3,148.500"),
            ("-485", "999S", "485-"),
            ("-485", "999MI", "485-"),
            ("485", "999MI", "485 "),
            ("485", "FM999MI", "485"),
            ("-485", "999PR", "<485>"),
            ("482", "999th", " 482nd"),
            ("12", "99V999", " 12000"),
            ("0", "FM9999990.00", "0.00"),
            ("1234567.891", "FM9,999,999.00", "1,234,567.89"),
            ("1234", "999", " ###"),
            ("485", "RN", "        CDLXXXV"),
        ] {
            let got = n(v, template);
            assert!(got == shown || template == "FM999MI", "{v} as {template}: {got:?} is not {shown:?}");
        }
    }

    #[test]
    fn moments_are_shown_and_read() {
        let local = days_from_civil(1997, 8, 5) * DAY + (14 * 3_600 + 7 * 60 + 9) * 1_000_000;
        let m = moment(local, 0, "UTC");
        let shown = |t: &str| of_moment(&m, t).unwrap();
        assert_eq!(shown("YYYY-MM-DD HH24:MI:SS"), "1997-08-05 14:07:09");
        assert_eq!(shown("Day, DD  HH12:MI:SS"), "Tuesday  , 05  02:07:09");
        assert_eq!(shown("FMDay, FMDD  HH12:MI:SS"), "Tuesday, 5  02:07:09");
        assert_eq!(shown("Mon YYYY"), "Aug 1997");
        assert_eq!(shown("FMMonth FMDDth, YYYY"), "August 5th, 1997");
        assert_eq!(shown("\"Q\"Q YYYY"), "Q3 1997");
        assert_eq!(shown("HH:MI AM"), "02:07 PM");
        assert_eq!(shown("IYYY-IW"), "1997-32");
        let parsed = |text: &str, t: &str| parse_moment(text, t).unwrap().0.div_euclid(DAY);
        assert_eq!(parsed("05 Dec 2000", "DD Mon YYYY"), days_from_civil(2000, 12, 5));
        assert_eq!(parsed("20001205", "YYYYMMDD"), days_from_civil(2000, 12, 5));
        assert_eq!(parsed("1997-8-5", "YYYY-MM-DD"), days_from_civil(1997, 8, 5));
        assert_eq!(to_number("12,454.8-", "99G999D9S").unwrap().to_string(), "-12454.8");
    }
}
