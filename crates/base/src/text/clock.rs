//! Times of day and distances from UTC, as they are written.

use super::fields::{fraction, leading};
use super::moment::{MICROS_A_SECOND, Result, Trouble};

/// A fraction of a second in microseconds, halves to the even one.
pub(super) fn micros_of(fraction: f64) -> i64 {
    (fraction * 1e6).round_ties_even() as i64
}

/// Hours, minutes and seconds as they are written.
pub(super) struct Clock {
    pub hours: i64,
    pub minutes: i64,
    pub seconds: i64,
    pub micros: i64,
}

impl Clock {
    /// Reads `04:05`, `04:05:06.7`, or minutes and seconds `05:06.7`. The hours
    /// are checked against the range of `T` only.
    pub fn read<T>(text: &str) -> Result<Clock>
    where
        T: std::str::FromStr + Default + Into<i64>,
    {
        let (first, rest) = leading::<T>(text)?;
        let (second, rest) = leading::<i32>(rest.strip_prefix(':').ok_or(Trouble::Form)?)?;
        let (first, second) = (first.into(), i64::from(second));
        let clock = if rest.is_empty() {
            Clock { hours: first, minutes: second, seconds: 0, micros: 0 }
        } else if rest.starts_with('.') {
            let micros = micros_of(fraction(rest).ok_or(Trouble::Form)?);
            Clock { hours: 0, minutes: first, seconds: second, micros }
        } else {
            let (third, rest) = leading::<i32>(rest.strip_prefix(':').ok_or(Trouble::Form)?)?;
            let micros = if rest.is_empty() { 0 } else { micros_of(fraction(rest).ok_or(Trouble::Form)?) };
            Clock { hours: first, minutes: second, seconds: i64::from(third), micros }
        };
        let fits = clock.hours >= 0
            && (0..60).contains(&clock.minutes)
            && (0..=60).contains(&clock.seconds)
            && (0..=MICROS_A_SECOND).contains(&clock.micros);
        if fits { Ok(clock) } else { Err(Trouble::Range) }
    }
}

/// Seconds east of UTC.
pub(super) fn displacement(text: &str) -> Result<i32> {
    let negative = match text.as_bytes().first() {
        Some(b'-') => true,
        Some(b'+') => false,
        _ => return Err(Trouble::Form),
    };
    let far = |_| Trouble::Displacement;
    let (mut hours, mut rest) = leading::<i32>(&text[1..]).map_err(far)?;
    let (mut minutes, mut seconds) = (0, 0);
    if let Some(after) = rest.strip_prefix(':') {
        (minutes, rest) = leading(after).map_err(far)?;
        if let Some(after) = rest.strip_prefix(':') {
            (seconds, rest) = leading(after).map_err(far)?;
        }
    } else if rest.is_empty() && text.len() > 3 {
        (hours, minutes) = (hours / 100, hours % 100);
    }
    if !(0..16).contains(&hours) || !(0..60).contains(&minutes) || !(0..60).contains(&seconds) {
        return Err(Trouble::Displacement);
    }
    if !rest.is_empty() {
        return Err(Trouble::Form);
    }
    let total = hours * 3600 + minutes * 60 + seconds;
    Ok(if negative { -total } else { total })
}
