//! Dates, times and intervals.

use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::DateTimeField;
use polity_base::text::Zone;
use polity_base::text::calendar::{civil_from_days, days_from_civil, days_in_month};
use polity_base::{Decimal, Interval, Type, Value};

use super::kernel::Kernel;
use super::list::{Function, Ty, bind, strict, volatile, zoned};
use crate::error::{Condition, Error, Result};
use crate::query::bind::Binder;
use crate::query::bind::bound::Bound;
use crate::query::bind::operator::{Arithmetic, no_operator};
use crate::query::types::{self, Builder};

use Ty::{Bool, Date, Float8, Int4, Interval as Span, Text, Time, Timestamp, TimestampTz};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// The functions.
pub static FUNCTIONS: &[Function] = &[
    bind("now", &[], TimestampTz, |b, _| Ok(b.now())),
    bind("transaction_timestamp", &[], TimestampTz, |b, _| Ok(b.now())),
    bind("statement_timestamp", &[], TimestampTz, |b, _| Ok(b.now())),
    volatile("clock_timestamp", &[], TimestampTz, |_, o| o.value(&Value::TimestampTz(wall_clock()))),
    strict("date_trunc", &[Text, Timestamp], Timestamp, |a, o| {
        o.value(&Value::Timestamp(truncate(a.text(0)?, a.int(1)?)?))
    }),
    zoned("date_trunc", &[Text, TimestampTz], TimestampTz, |a, o, zone| {
        o.value(&Value::TimestampTz(truncate_in(a.text(0)?, a.int(1)?, &zone_of(zone)?)?))
    }),
    strict("date_trunc", &[Text, TimestampTz, Text], TimestampTz, |a, o| {
        o.value(&Value::TimestampTz(truncate_in(a.text(0)?, a.int(1)?, &zone_of(a.text(2)?)?)?))
    }),
    strict("date_trunc", &[Text, Span], Span, |a, o| {
        o.value(&Value::Interval(truncate_interval(a.text(0)?, a.interval(1)?)?))
    }),
    strict("date_part", &[Text, Timestamp], Float8, |a, o| {
        part_float(o, field(a.text(0)?, a.int(1)?, None, "timestamp without time zone")?)
    }),
    zoned("date_part", &[Text, TimestampTz], Float8, |a, o, zone| {
        part_float(o, field(a.text(0)?, a.int(1)?, Some(&zone_of(zone)?), "timestamp with time zone")?)
    }),
    strict("date_part", &[Text, Date], Float8, |a, o| part_float(o, date_field(a.text(0)?, a.int(1)?)?)),
    strict("date_part", &[Text, Time], Float8, |a, o| part_float(o, time_field(a.text(0)?, a.int(1)?)?)),
    strict("date_part", &[Text, Span], Float8, |a, o| part_float(o, interval_field(a.text(0)?, a.interval(1)?)?)),
    strict("age", &[Timestamp, Timestamp], Span, |a, o| o.value(&Value::Interval(age(a.int(0)?, a.int(1)?)))),
    zoned("age", &[TimestampTz, TimestampTz], Span, |a, o, zone| {
        let zone = zone_of(zone)?;
        o.value(&Value::Interval(age(zone.to_local(a.int(0)?), zone.to_local(a.int(1)?))))
    }),
    bind("age", &[Timestamp], Span, |b, args| {
        let today = b.explicit(b.explicit(b.now(), &Type::Date)?, &Type::Timestamp)?;
        b.function("age", std::iter::once(today).chain(args).collect())
    }),
    bind("age", &[TimestampTz], Span, |b, args| {
        let today = b.explicit(b.explicit(b.now(), &Type::Date)?, &Type::TimestampTz)?;
        b.function("age", std::iter::once(today).chain(args).collect())
    }),
    strict("make_date", &[Int4, Int4, Int4], Date, |a, o| {
        let (y, m, d) = (a.int(0)?, a.int(1)?, a.int(2)?);
        o.value(&Value::Date(make_date(y, m, d)?))
    }),
    strict("make_time", &[Int4, Int4, Float8], Time, |a, o| {
        o.value(&Value::Time(make_time(a.int(0)?, a.int(1)?, a.float(2)?)?))
    }),
    strict("make_timestamp", &[Int4, Int4, Int4, Int4, Int4, Float8], Timestamp, |a, o| {
        let day = i64::from(make_date(a.int(0)?, a.int(1)?, a.int(2)?)?) * DAY;
        o.value(&Value::Timestamp(day + make_time(a.int(3)?, a.int(4)?, a.float(5)?)?))
    }),
    zoned("make_timestamptz", &[Int4, Int4, Int4, Int4, Int4, Float8], TimestampTz, |a, o, zone| {
        let day = i64::from(make_date(a.int(0)?, a.int(1)?, a.int(2)?)?) * DAY;
        let local = day + make_time(a.int(3)?, a.int(4)?, a.float(5)?)?;
        o.value(&Value::TimestampTz(zone_of(zone)?.to_utc(local)))
    }),
    strict("to_timestamp", &[Float8], TimestampTz, |a, o| {
        o.value(&Value::TimestampTz((a.float(0)? * 1e6).round_ties_even() as i64))
    }),
    strict("justify_hours", &[Span], Span, |a, o| o.value(&Value::Interval(justify_hours(a.interval(0)?)))),
    strict("justify_days", &[Span], Span, |a, o| o.value(&Value::Interval(justify_days(a.interval(0)?)))),
    strict("justify_interval", &[Span], Span, |a, o| {
        o.value(&Value::Interval(justify_days(justify_hours(a.interval(0)?))))
    }),
    strict("timezone", &[Text, TimestampTz], Timestamp, |a, o| {
        o.value(&Value::Timestamp(zone_of(a.text(0)?)?.to_local(a.int(1)?)))
    }),
    strict("timezone", &[Text, Timestamp], TimestampTz, |a, o| {
        o.value(&Value::TimestampTz(zone_of(a.text(0)?)?.to_utc(a.int(1)?)))
    }),
    strict("date_bin", &[Span, Timestamp, Timestamp], Timestamp, |a, o| {
        o.value(&Value::Timestamp(bin(a.interval(0)?, a.int(1)?, a.int(2)?)?))
    }),
    strict("date_bin", &[Span, TimestampTz, TimestampTz], TimestampTz, |a, o| {
        o.value(&Value::TimestampTz(bin(a.interval(0)?, a.int(1)?, a.int(2)?)?))
    }),
    strict("isfinite", &[Timestamp], Bool, |_, o| o.value(&Value::Bool(true))),
    strict("isfinite", &[Date], Bool, |_, o| o.value(&Value::Bool(true))),
    strict("isfinite", &[Span], Bool, |_, o| o.value(&Value::Bool(true))),
];

fn wall_clock() -> i64 {
    // What a client asks to be told is the time of day outside: no decision of
    // the database rests on it.
    #[allow(clippy::disallowed_methods)]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// The zone of this name.
pub fn zone_of(name: &str) -> Result<Zone> {
    Zone::parse(name)
        .ok_or_else(|| Error::new(Condition::InvalidParameterValue, format!("time zone \"{name}\" not recognized")))
}

fn too_far(what: &str) -> Error {
    Error::new(Condition::DatetimeFieldOverflow, format!("{what} out of range"))
}

/// The name of a field as EXTRACT is given it.
pub fn field_name(field: &DateTimeField) -> String {
    field.to_string().to_ascii_lowercase()
}

fn make_date(y: i64, m: i64, d: i64) -> Result<i32> {
    let bad =
        || Error::new(Condition::DatetimeFieldOverflow, format!("date field value out of range: {y}-{m:02}-{d:02}"));
    let (month, day) = (u32::try_from(m).map_err(|_| bad())?, u32::try_from(d).map_err(|_| bad())?);
    let year = if y < 0 { y + 1 } else { y };
    if y == 0 || !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return Err(bad());
    }
    i32::try_from(days_from_civil(year, month, day)).map_err(|_| bad())
}

fn make_time(h: i64, m: i64, s: f64) -> Result<i64> {
    if !(0..=24).contains(&h) || !(0..60).contains(&m) || !(0.0..=60.0).contains(&s) {
        return Err(Error::new(
            Condition::DatetimeFieldOverflow,
            format!("time field value out of range: {h}:{m:02}:{s:02}"),
        ));
    }
    Ok(h * HOUR + m * MINUTE + (s * 1e6).round_ties_even() as i64)
}

/// The sum of two intervals.
pub fn add_intervals(a: Interval, b: Interval) -> Result<Interval> {
    let far = || too_far("interval");
    Ok(Interval {
        months: a.months.checked_add(b.months).ok_or_else(far)?,
        days: a.days.checked_add(b.days).ok_or_else(far)?,
        micros: a.micros.checked_add(b.micros).ok_or_else(far)?,
    })
}

/// The interval backwards.
pub fn negated(v: Interval) -> Result<Interval> {
    let far = || too_far("interval");
    Ok(Interval {
        months: v.months.checked_neg().ok_or_else(far)?,
        days: v.days.checked_neg().ok_or_else(far)?,
        micros: v.micros.checked_neg().ok_or_else(far)?,
    })
}

/// `-interval`.
pub fn negate_interval(bound: Bound) -> Result<Bound> {
    let expr = Kernel::strict(
        "negate interval",
        types::data_type(&Type::Interval),
        |a, o| o.value(&Value::Interval(negated(a.interval(0)?)?)),
        vec![bound.expr],
    );
    Ok(Bound::new(expr, Type::Interval))
}

/// `interval × factor` (`interval_mul` in PostgreSQL's timestamp.c): what is
/// left of months goes into days, what is left of days into time.
pub fn scaled(v: Interval, scale: impl Fn(f64) -> f64) -> Result<Interval> {
    let far = || too_far("interval");
    let rounded = |x: f64| (x * 1e6).round_ties_even() / 1e6;
    let whole =
        |x: f64| -> Result<i32> { if x.is_nan() || x.abs() > f64::from(i32::MAX) { Err(far()) } else { Ok(x as i32) } };
    let (months, days) = (whole(scale(f64::from(v.months)))?, whole(scale(f64::from(v.days)))?);
    let month_rest = rounded((scale(f64::from(v.months)) - f64::from(months)) * 30.0);
    let mut seconds =
        rounded((scale(f64::from(v.days)) - f64::from(days) + month_rest - month_rest.trunc()) * 86_400.0);
    let mut days = days;
    if seconds.abs() >= 86_400.0 {
        let more = (seconds / 86_400.0).trunc();
        days += whole(more)?;
        seconds -= more * 86_400.0;
    }
    days = days.checked_add(whole(month_rest.trunc())?).ok_or_else(far)?;
    let micros = (scale(v.micros as f64) + seconds * 1e6).round_ties_even();
    if micros.is_nan() || micros.abs() > 9.2e18 {
        return Err(far());
    }
    Ok(Interval { months, days, micros: micros as i64 })
}

/// `interval / factor`, NULL when the factor is 0 rows.
pub fn divide_interval(sum: Bound, count: Bound) -> Result<Bound> {
    let expr = Kernel::strict(
        "average of intervals",
        types::data_type(&Type::Interval),
        |a, o| {
            let n = a.float(1)?;
            o.value(&Value::Interval(scaled(a.interval(0)?, |x| x / n)?))
        },
        vec![sum.expr, count.expr],
    );
    Ok(Bound::new(expr, Type::Interval))
}

/// A timestamp some months, days and microseconds later.
pub fn shifted(micros: i64, by: Interval) -> Result<i64> {
    let far = || too_far("timestamp");
    let (mut day, time) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    if by.months != 0 {
        day = months_later(day, i64::from(by.months));
    }
    day.checked_add(i64::from(by.days))
        .and_then(|d| d.checked_mul(DAY))
        .and_then(|d| d.checked_add(time))
        .and_then(|d| d.checked_add(by.micros))
        .ok_or_else(far)
}

/// The same for an instant: days and months are those of a zone's clocks.
pub fn shifted_in(micros: i64, by: Interval, zone: &Zone) -> Result<i64> {
    let calendar = Interval { micros: 0, ..by };
    let moved = match by.months == 0 && by.days == 0 {
        true => micros,
        false => zone.to_utc(shifted(zone.to_local(micros), calendar)?),
    };
    moved.checked_add(by.micros).ok_or_else(|| too_far("timestamp"))
}

/// A day some months later; the last of the month where there is no such day.
fn months_later(day: i64, months: i64) -> i64 {
    let (y, m, d) = civil_from_days(day);
    let total = y * 12 + i64::from(m) - 1 + months;
    let (year, month) = (total.div_euclid(12), total.rem_euclid(12) as u32 + 1);
    days_from_civil(year, month, d.min(days_in_month(year, month)))
}

/// `ts - ts`: days and time.
fn difference(a: i64, b: i64) -> Result<Interval> {
    let micros = a.checked_sub(b).ok_or_else(|| too_far("interval"))?;
    Ok(justify_hours(Interval { months: 0, days: 0, micros }))
}

fn justify_hours(v: Interval) -> Interval {
    let mut days = i64::from(v.days) + v.micros / DAY;
    let mut micros = v.micros % DAY;
    if days > 0 && micros < 0 {
        micros += DAY;
        days -= 1;
    } else if days < 0 && micros > 0 {
        micros -= DAY;
        days += 1;
    }
    Interval { months: v.months, days: days.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32, micros }
}

fn justify_days(v: Interval) -> Interval {
    let (mut months, mut days) = (v.months.saturating_add(v.days / 30), v.days % 30);
    if months > 0 && days < 0 {
        days += 30;
        months -= 1;
    } else if months < 0 && days > 0 {
        days -= 30;
        months += 1;
    }
    Interval { months, days, micros: v.micros }
}

/// Years, months, days and time from `b` to `a` (`timestamp_age`).
fn age(a: i64, b: i64) -> Interval {
    if a < b {
        let forward = age(b, a);
        return Interval { months: -forward.months, days: -forward.days, micros: -forward.micros };
    }
    let parts = |v: i64| {
        let (y, m, d) = civil_from_days(v.div_euclid(DAY));
        (y * 12 + i64::from(m) - 1, i64::from(d), v.rem_euclid(DAY))
    };
    let ((m1, d1, t1), (m2, d2, t2)) = (parts(a), parts(b));
    let (mut months, mut days, mut micros) = (m1 - m2, d1 - d2, t1 - t2);
    if micros < 0 {
        micros += DAY;
        days -= 1;
    }
    if days < 0 {
        // The length of the earlier date's month.
        let (year, month) = (m2.div_euclid(12), m2.rem_euclid(12) as u32 + 1);
        days += i64::from(days_in_month(year, month));
        months -= 1;
    }
    Interval { months: months as i32, days: days as i32, micros }
}

/// Arithmetic where one side is a date, a time or an interval.
pub fn arithmetic(binder: &Binder<'_>, l: Bound, op: Arithmetic, r: Bound) -> Result<Bound> {
    use Arithmetic::{Add, Divide, Multiply, Subtract};
    let number =
        |t: &Type| matches!(t, Type::Int2 | Type::Int4 | Type::Int8 | Type::Float4 | Type::Float8 | Type::Numeric(_));
    let (a, b) = (l.r#type.clone(), r.r#type.clone());
    match (&a, op, &b) {
        (Type::Date, Add | Subtract, Type::Int2 | Type::Int4) => {
            let r = binder.implicit(r, &Type::Int4)?;
            let expr = Kernel::strict(
                format!("date {} days", op.symbol()),
                DataType::Date32,
                move |a, o| {
                    let days = if op == Add { a.int(0)? + a.int(1)? } else { a.int(0)? - a.int(1)? };
                    o.value(&Value::Date(i32::try_from(days).map_err(|_| too_far("date"))?))
                },
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::Date))
        }
        (Type::Int2 | Type::Int4, Add, Type::Date) => arithmetic(binder, r, op, l),
        (Type::Date, Subtract, Type::Date) => {
            let expr = Kernel::strict(
                "date - date",
                DataType::Int32,
                |a, o| o.value(&Value::Int4(i32::try_from(a.int(0)? - a.int(1)?).map_err(|_| too_far("date"))?)),
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::Int4))
        }
        (Type::Date, Add, Type::Time) => {
            let expr = Kernel::strict(
                "date + time",
                types::data_type(&Type::Timestamp),
                |a, o| o.value(&Value::Timestamp(a.int(0)? * DAY + a.int(1)?)),
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::Timestamp))
        }
        (Type::Time, Add, Type::Date) => arithmetic(binder, r, op, l),
        (Type::Date, Add | Subtract, Type::Interval) => {
            let l = binder.implicit(l, &Type::Timestamp)?;
            arithmetic(binder, l, op, r)
        }
        (Type::Timestamp, Add | Subtract, Type::Interval) => {
            let expr = Kernel::strict(
                format!("timestamp {} interval", op.symbol()),
                types::data_type(&Type::Timestamp),
                move |a, o| {
                    let by = if op == Add { a.interval(1)? } else { negated(a.interval(1)?)? };
                    o.value(&Value::Timestamp(shifted(a.int(0)?, by)?))
                },
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::Timestamp))
        }
        (Type::TimestampTz, Add | Subtract, Type::Interval) => {
            let zone = zone_of(binder.zone())?;
            let expr = Kernel::strict(
                format!("timestamptz {} interval at {}", op.symbol(), binder.zone()),
                types::data_type(&Type::TimestampTz),
                move |a, o| {
                    let by = if op == Add { a.interval(1)? } else { negated(a.interval(1)?)? };
                    o.value(&Value::TimestampTz(shifted_in(a.int(0)?, by, &zone)?))
                },
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::TimestampTz))
        }
        (Type::Interval, Add, Type::Date | Type::Timestamp | Type::TimestampTz | Type::Time) => {
            arithmetic(binder, r, op, l)
        }
        (Type::Time, Add | Subtract, Type::Interval) => {
            let expr = Kernel::strict(
                format!("time {} interval", op.symbol()),
                types::data_type(&Type::Time),
                move |a, o| {
                    let by = a.interval(1)?.micros % DAY;
                    let by = if op == Add { by } else { -by };
                    o.value(&Value::Time((a.int(0)? + by).rem_euclid(DAY)))
                },
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::Time))
        }
        (Type::Time, Subtract, Type::Time) => {
            let expr = Kernel::strict(
                "time - time",
                types::data_type(&Type::Interval),
                |a, o| o.value(&Value::Interval(Interval { months: 0, days: 0, micros: a.int(0)? - a.int(1)? })),
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::Interval))
        }
        (Type::Timestamp, Subtract, Type::Timestamp) | (Type::TimestampTz, Subtract, Type::TimestampTz) => {
            let expr = Kernel::strict(
                "timestamp - timestamp",
                types::data_type(&Type::Interval),
                |a, o| o.value(&Value::Interval(difference(a.int(0)?, a.int(1)?)?)),
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::Interval))
        }
        (
            Type::Date | Type::Timestamp | Type::TimestampTz,
            Subtract,
            Type::Date | Type::Timestamp | Type::TimestampTz,
        ) => {
            let common =
                if a == Type::TimestampTz || b == Type::TimestampTz { Type::TimestampTz } else { Type::Timestamp };
            arithmetic(binder, binder.implicit(l, &common)?, op, binder.implicit(r, &common)?)
        }
        (Type::Interval, Add | Subtract, Type::Interval) => {
            let expr = Kernel::strict(
                format!("interval {} interval", op.symbol()),
                types::data_type(&Type::Interval),
                move |a, o| {
                    let by = if op == Add { a.interval(1)? } else { negated(a.interval(1)?)? };
                    o.value(&Value::Interval(add_intervals(a.interval(0)?, by)?))
                },
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::Interval))
        }
        (Type::Interval, Multiply | Divide, t) if number(t) => {
            let r = binder.explicit(r, &Type::Float8)?;
            let expr = Kernel::strict(
                format!("interval {}", op.symbol()),
                types::data_type(&Type::Interval),
                move |a, o| {
                    let by = a.float(1)?;
                    if op == Divide && by == 0.0 {
                        return Err(super::arithmetic::by_zero());
                    }
                    let v = a.interval(0)?;
                    let result = if op == Multiply { scaled(v, |x| x * by) } else { scaled(v, |x| x / by) };
                    o.value(&Value::Interval(result?))
                },
                vec![l.expr, r.expr],
            );
            Ok(Bound::new(expr, Type::Interval))
        }
        (t, Multiply, Type::Interval) if number(t) => arithmetic(binder, r, op, l),
        _ => Err(no_operator(Some(&l), op.symbol(), &r)),
    }
}

/// A unit's canonical name, from its singular, plural or short form.
fn unit(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "microseconds" | "microsecond" | "us" | "usec" | "usecs" => "microseconds",
        "milliseconds" | "millisecond" | "ms" | "msec" | "msecs" => "milliseconds",
        "second" | "seconds" | "sec" | "secs" | "s" => "second",
        "minute" | "minutes" | "min" | "mins" | "m" => "minute",
        "hour" | "hours" | "hr" | "hrs" | "h" => "hour",
        "day" | "days" | "d" => "day",
        "week" | "weeks" | "w" => "week",
        "month" | "months" | "mon" | "mons" => "month",
        "quarter" | "qtr" => "quarter",
        "year" | "years" | "yr" | "yrs" | "y" => "year",
        "decade" | "decades" | "dec" | "decs" => "decade",
        "century" | "centuries" | "cent" | "c" => "century",
        "millennium" | "millennia" | "mil" | "mils" | "millenium" => "millennium",
        "dow" => "dow",
        "isodow" => "isodow",
        "doy" => "doy",
        "isoyear" => "isoyear",
        "epoch" => "epoch",
        "julian" | "jd" => "julian",
        "timezone" => "timezone",
        "timezone_hour" | "timezone_h" => "timezone_hour",
        "timezone_minute" | "timezone_m" => "timezone_minute",
        _ => return None,
    })
}

fn unknown_unit(name: &str, of: &str) -> Error {
    Error::new(Condition::InvalidParameterValue, format!("unit \"{name}\" not recognized for type {of}"))
}

fn unsupported_unit(name: &str, of: &str) -> Error {
    Error::new(Condition::FeatureNotSupported, format!("unit \"{name}\" not supported for type {of}"))
}

/// The beginning of the unit a timestamp is in.
fn truncate(name: &str, micros: i64) -> Result<i64> {
    let of = "timestamp without time zone";
    let day = micros.div_euclid(DAY);
    let (y, m, _) = civil_from_days(day);
    let begin = |year: i64, month: u32| days_from_civil(year, month, 1) * DAY;
    Ok(match unit(name).ok_or_else(|| unknown_unit(name, of))? {
        "microseconds" => micros,
        "milliseconds" => micros - micros.rem_euclid(1_000),
        "second" => micros - micros.rem_euclid(SECOND),
        "minute" => micros - micros.rem_euclid(MINUTE),
        "hour" => micros - micros.rem_euclid(HOUR),
        "day" => day * DAY,
        // 1970-01-01 was a Thursday.
        "week" => (day - (day + 3).rem_euclid(7)) * DAY,
        "month" => begin(y, m),
        "quarter" => begin(y, (m - 1) / 3 * 3 + 1),
        "year" => begin(y, 1),
        "decade" => begin(y.div_euclid(10) * 10, 1),
        "century" => begin((y - 1).div_euclid(100) * 100 + 1, 1),
        "millennium" => begin((y - 1).div_euclid(1_000) * 1_000 + 1, 1),
        _ => return Err(unsupported_unit(name, of)),
    })
}

fn truncate_in(name: &str, micros: i64, zone: &Zone) -> Result<i64> {
    match unit(name) {
        // Below a day, zones do not matter, but for odd offsets.
        Some("microseconds" | "milliseconds" | "second" | "minute") => truncate(name, micros),
        _ => Ok(zone.to_utc(truncate(name, zone.to_local(micros))?)),
    }
}

fn truncate_interval(name: &str, v: Interval) -> Result<Interval> {
    let of = "interval";
    let known = unit(name).ok_or_else(|| unknown_unit(name, of))?;
    let months = |n: i32| Interval { months: v.months / n * n, days: 0, micros: 0 };
    let time = |n: i64| Interval { micros: v.micros / n * n, ..v };
    Ok(match known {
        "microseconds" => v,
        "milliseconds" => time(1_000),
        "second" => time(SECOND),
        "minute" => time(MINUTE),
        "hour" => time(HOUR),
        "day" => Interval { micros: 0, ..v },
        "month" => months(1),
        "quarter" => months(3),
        "year" => months(12),
        "decade" => months(120),
        "century" => months(1_200),
        "millennium" => months(12_000),
        _ => return Err(unsupported_unit(name, of)),
    })
}

/// The interval without what is finer than `name`, as `INTERVAL '…' HOUR` has it.
pub fn cut_interval(v: Interval, name: &str) -> Interval {
    truncate_interval(name, v).unwrap_or(v)
}

/// Day of the year, ISO year and week.
fn iso_week(day: i64) -> (i64, i64) {
    // The Thursday of the week decides the year.
    let thursday = day - (day + 3).rem_euclid(7) + 3;
    let (year, _, _) = civil_from_days(thursday);
    (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
}

/// A field's value: a number of microunits and how many digits of it are shown.
#[derive(Clone, Copy)]
struct Part {
    value: i128,
    scale: u8,
}

fn whole(v: i64) -> Part {
    Part { value: i128::from(v), scale: 0 }
}

fn part_float(out: &mut Builder, part: Part) -> Result<()> {
    out.value(&Value::Float8(part.value as f64 / 10f64.powi(i32::from(part.scale))))
}

/// A field of a timestamp; of an instant, as a zone's clocks show it.
fn field(name: &str, micros: i64, zone: Option<&Zone>, of: &str) -> Result<Part> {
    let local = zone.map_or(micros, |z| z.to_local(micros));
    let (day, time) = (local.div_euclid(DAY), local.rem_euclid(DAY));
    Ok(match unit(name).ok_or_else(|| unknown_unit(name, of))? {
        "epoch" => Part { value: i128::from(micros), scale: 6 },
        "julian" => Part {
            value: i128::from(day + 2_440_588) * 1_000_000_000_000_000_000_000
                + i128::from(time) * 1_000_000_000_000_000_000_000 / i128::from(DAY),
            scale: 21,
        },
        "timezone" | "timezone_hour" | "timezone_minute" if zone.is_none() => return Err(unsupported_unit(name, of)),
        "timezone" => whole((local - micros) / SECOND),
        "timezone_hour" => whole((local - micros) / HOUR),
        "timezone_minute" => whole((local - micros) / MINUTE % 60),
        known @ ("microseconds" | "milliseconds" | "second" | "minute" | "hour") => time_part(known, time),
        known => day_part(known, day),
    })
}

fn time_part(known: &str, time: i64) -> Part {
    match known {
        "microseconds" => whole(time % MINUTE),
        "milliseconds" => Part { value: i128::from(time % MINUTE), scale: 3 },
        "second" => Part { value: i128::from(time % MINUTE), scale: 6 },
        "minute" => whole(time / MINUTE % 60),
        _ => whole(time / HOUR),
    }
}

fn day_part(known: &str, day: i64) -> Part {
    let (y, m, d) = civil_from_days(day);
    // There is no year 0.
    let shown = if y > 0 { y } else { y - 1 };
    whole(match known {
        "day" => i64::from(d),
        "month" => i64::from(m),
        "quarter" => i64::from(m - 1) / 3 + 1,
        "year" => shown,
        "decade" => y.div_euclid(10),
        "century" => {
            if y > 0 {
                (y + 99) / 100
            } else {
                -((99 - (y - 1)) / 100)
            }
        }
        "millennium" => {
            if y > 0 {
                (y + 999) / 1_000
            } else {
                -((999 - (y - 1)) / 1_000)
            }
        }
        "week" => iso_week(day).1,
        "isoyear" => iso_week(day).0,
        "dow" => (day + 4).rem_euclid(7),
        "isodow" => (day + 3).rem_euclid(7) + 1,
        "doy" => day - days_from_civil(y, 1, 1) + 1,
        _ => 0,
    })
}

fn date_field(name: &str, day: i64) -> Result<Part> {
    match unit(name) {
        None => Err(unknown_unit(name, "date")),
        Some("epoch") => Ok(whole(day * 86_400)),
        Some("julian") => Ok(whole(day + 2_440_588)),
        Some(
            "microseconds" | "milliseconds" | "second" | "minute" | "hour" | "timezone" | "timezone_hour"
            | "timezone_minute",
        ) => Err(unsupported_unit(name, "date")),
        Some(known) => Ok(day_part(known, day)),
    }
}

fn time_field(name: &str, micros: i64) -> Result<Part> {
    let of = "time without time zone";
    match unit(name) {
        None => Err(unknown_unit(name, of)),
        Some("epoch") => Ok(Part { value: i128::from(micros), scale: 6 }),
        Some(known @ ("microseconds" | "milliseconds" | "second" | "minute" | "hour")) => Ok(time_part(known, micros)),
        Some(_) => Err(unsupported_unit(name, of)),
    }
}

fn interval_field(name: &str, v: Interval) -> Result<Part> {
    let of = "interval";
    let years = i64::from(v.months / 12);
    Ok(match unit(name).ok_or_else(|| unknown_unit(name, of))? {
        "microseconds" => whole(v.micros % MINUTE),
        "milliseconds" => Part { value: i128::from(v.micros % MINUTE), scale: 3 },
        "second" => Part { value: i128::from(v.micros % MINUTE), scale: 6 },
        "minute" => whole(v.micros % HOUR / MINUTE),
        "hour" => whole(v.micros / HOUR),
        "day" => whole(i64::from(v.days)),
        "month" => whole(i64::from(v.months % 12)),
        "quarter" => whole(i64::from(v.months % 12 / 3 + 1)),
        "year" => whole(years),
        "decade" => whole(years / 10),
        "century" => whole(years / 100),
        "millennium" => whole(years / 1_000),
        // A year has 365.25 days here, a month 30.
        "epoch" => {
            let days =
                i128::from(v.months / 12) * 365_250 + i128::from(v.months % 12) * 30_000 + i128::from(v.days) * 1_000;
            Part { value: days * i128::from(DAY) / 1_000 + i128::from(v.micros), scale: 6 }
        }
        _ => return Err(unsupported_unit(name, of)),
    })
}

/// `EXTRACT(field FROM operand)`: a numeric whose scale the field decides.
pub fn extract(binder: &Binder<'_>, name: &str, operand: Bound) -> Result<Bound> {
    let operand = if operand.is_open() {
        return Err(Error::new(
            Condition::AmbiguousFunction,
            "function pg_catalog.extract(unknown, unknown) is not unique",
        )
        .hint("Could not choose a best candidate function. You might need to add explicit type casts."));
    } else {
        operand
    };
    let r#type = operand.r#type.clone();
    let of = super::super::bind::coerce::shown(&r#type);
    if !matches!(r#type, Type::Date | Type::Time | Type::Timestamp | Type::TimestampTz | Type::Interval) {
        return Err(Error::new(
            Condition::UndefinedFunction,
            format!("function pg_catalog.extract(unknown, {of}) does not exist"),
        )
        .hint("No function matches the given name and argument types. You might need to add explicit type casts."));
    }
    let known = unit(name).ok_or_else(|| unknown_unit(name, &of))?;
    let scale = match (known, &r#type) {
        ("epoch" | "julian", Type::Date) => 0,
        ("second" | "epoch", _) => 6,
        ("milliseconds", _) => 3,
        ("julian", _) => 21,
        _ => 0,
    };
    let zone = zone_of(binder.zone())?;
    let label = match r#type {
        Type::TimestampTz => format!("extract {known} of timestamptz at {}", binder.zone()),
        _ => format!("extract {known} of {of}"),
    };
    let data = types::fixed(scale);
    let expr = Kernel::strict(
        label,
        data.clone(),
        move |a, o| {
            let part = match r#type {
                Type::Date => date_field(known, a.int(0)?)?,
                Type::Time => time_field(known, a.int(0)?)?,
                Type::Timestamp => field(known, a.int(0)?, None, &of)?,
                Type::TimestampTz => field(known, a.int(0)?, Some(&zone), &of)?,
                _ => interval_field(known, a.interval(0)?)?,
            };
            o.numeric(Decimal::new(part.value, part.scale).ok_or_else(types::numeric_overflow)?)
        },
        vec![operand.expr],
    );
    Ok(Bound::with_data(expr, Type::Numeric(None), data))
}

/// The beginning of the stride from `origin` that a timestamp is in.
fn bin(stride: Interval, micros: i64, origin: i64) -> Result<i64> {
    if stride.months != 0 {
        return Err(Error::new(
            Condition::FeatureNotSupported,
            "timestamps cannot be binned into intervals containing months or years",
        ));
    }
    let width = i64::from(stride.days) * DAY + stride.micros;
    if width <= 0 {
        return Err(Error::new(Condition::DatetimeFieldOverflow, "stride must be greater than zero"));
    }
    Ok(micros - (micros - origin).rem_euclid(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> i64 {
        match crate::expr::cast::parse(text, &Type::Timestamp, crate::expr::Local::UTC).unwrap() {
            Value::Timestamp(v) => v,
            other => panic!("{other:?}"),
        }
    }

    fn shown(v: Interval) -> String {
        crate::expr::cast::write(&Value::Interval(v), &Type::Interval, crate::expr::Local::UTC)
    }

    #[test]
    fn months_end_where_they_end() {
        let month = Interval { months: 1, days: 0, micros: 0 };
        assert_eq!(shifted(ts("2020-01-31"), month).unwrap(), ts("2020-02-29"));
        assert_eq!(shifted(ts("2020-03-31 10:00"), negated(month).unwrap()).unwrap(), ts("2020-02-29 10:00"));
    }

    #[test]
    fn ages_and_differences() {
        assert_eq!(shown(age(ts("2001-04-10"), ts("1957-06-13"))), "43 years 9 mons 27 days");
        assert_eq!(shown(difference(ts("2020-01-03 12:00"), ts("2020-01-01")).unwrap()), "2 days 12:00:00");
        let half = scaled(Interval { months: 1, days: 1, micros: 0 }, |x| x * 0.5).unwrap();
        assert_eq!(shown(half), "15 days 12:00:00");
    }

    #[test]
    fn fields_and_truncation() {
        let t = ts("2001-02-16 20:38:40.12");
        assert_eq!(field("week", t, None, "").unwrap().value, 7);
        assert_eq!(field("century", t, None, "").unwrap().value, 21);
        assert_eq!(field("dow", t, None, "").unwrap().value, 5);
        assert_eq!(field("doy", t, None, "").unwrap().value, 47);
        assert_eq!(field("second", t, None, "").unwrap().value, 40_120_000);
        assert_eq!(truncate("quarter", t).unwrap(), ts("2001-01-01"));
        assert_eq!(truncate("week", t).unwrap(), ts("2001-02-12"));
        assert_eq!(iso_week(days_from_civil(2005, 1, 1)), (2004, 53));
    }
}
