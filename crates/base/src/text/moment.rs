//! What the fields of a date, a time or a timestamp mean together.
//!
//! Fields are read from left to right, each in the light of those before it: the
//! first number with more than two digits is a year, the next a month, and so on.
//! Month comes before day where both are short (`DateStyle = MDY`). No unit may be
//! given twice.

use super::Settings;
use super::calendar::{days_from_civil, days_in_month};
use super::clock::{self, Clock, micros_of};
use super::fields::{Field, Form, NotWhole, fraction, leading};
use super::words::{Token, token};
use super::zone::{self, Zone};

/// Units that a text has given, as bits.
mod unit {
    pub const YEAR: u32 = 1;
    pub const MONTH: u32 = 1 << 1;
    pub const DAY: u32 = 1 << 2;
    pub const DATE: u32 = YEAR | MONTH | DAY;
    pub const DAY_OF_YEAR: u32 = 1 << 3;
    pub const TIME: u32 = 1 << 4;
    pub const ZONE: u32 = 1 << 5;
    pub const DAYLIGHT: u32 = 1 << 6;
    pub const WEEKDAY: u32 = 1 << 7;
    pub const HALF: u32 = 1 << 8;
    pub const ERA: u32 = 1 << 9;
}

/// Why fields are not a moment.
#[derive(Debug)]
pub(super) enum Trouble {
    /// They do not go together
    Form,
    /// A field is beyond its range
    Range,
    /// A distance from UTC is beyond its range
    Displacement,
    /// There is no zone of this name
    NoZone(String),
    /// Infinity
    Infinite,
}

impl From<NotWhole> for Trouble {
    fn from(error: NotWhole) -> Trouble {
        match error {
            NotWhole::TooLarge => Trouble::Range,
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, Trouble>;

/// Where a text says clocks show what it says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// So many seconds east of UTC
    East(i32),
    Zone(Zone),
}

/// What a text says.
#[derive(Debug, Default)]
pub(super) struct Moment {
    /// Days since 1970-01-01; `None` for a time alone
    pub day: Option<i64>,
    /// Microseconds since midnight
    pub micros: i64,
    pub place: Option<Place>,
}

/// What is wanted of the fields.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wanted {
    /// A date, perhaps with a time
    Date,
    /// A time of day, perhaps with a date (which settles a zone's offset)
    Time,
}

pub(super) const MICROS_A_SECOND: i64 = 1_000_000;
pub(super) const MICROS_A_DAY: i64 = 86_400 * MICROS_A_SECOND;
/// 1970-01-01 as a Julian day.
const JULIAN_1970: i64 = 2_440_588;

/// What to expect of the field after a word.
#[derive(Clone, Copy, PartialEq)]
enum Follows {
    Anything,
    Time,
    Julian,
}

struct Reader<'a> {
    wanted: Wanted,
    settings: &'a Settings,
    given: u32,
    year: i32,
    month: i32,
    day: i32,
    day_of_year: i32,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    month_in_words: bool,
    /// The year has one or two digits
    short_year: bool,
    before_christ: bool,
    afternoon: Option<bool>,
    julian: Option<i64>,
    place: Option<Place>,
    follows: Follows,
    epoch: bool,
}

/// Reads the fields of a date or time.
pub(super) fn read(fields: &[Field<'_>], wanted: Wanted, settings: &Settings) -> Result<Moment> {
    let mut reader = Reader {
        wanted,
        settings,
        given: 0,
        year: 0,
        month: 0,
        day: 0,
        day_of_year: 0,
        hour: 0,
        minute: 0,
        second: 0,
        micros: 0,
        month_in_words: false,
        short_year: false,
        before_christ: false,
        afternoon: None,
        julian: None,
        place: None,
        follows: Follows::Anything,
        epoch: false,
    };
    for at in 0..fields.len() {
        let gives = reader.field(fields, at)?;
        reader.settle(gives)?;
    }
    reader.finish()
}

impl Reader<'_> {
    fn has(&self, units: u32) -> bool {
        self.given & units == units
    }

    /// Takes one field; gives the units it has settled.
    fn field(&mut self, fields: &[Field<'_>], at: usize) -> Result<u32> {
        let Some(Field { form, text }) = fields.get(at) else { return Err(Trouble::Form) };
        match form {
            Form::Time => {
                if self.follows == Follows::Julian {
                    return Err(Trouble::Form);
                }
                self.follows = Follows::Anything;
                self.clock(text)
            }
            Form::Signed => self.displacement(text),
            Form::Date => self.joined(fields, at),
            Form::Number => self.number(fields, at),
            Form::Word | Form::SignedWord => self.word(fields, at),
        }
    }

    /// A field with the form of a date: a date, a time with its zone, or a zone.
    fn joined(&mut self, fields: &[Field<'_>], at: usize) -> Result<u32> {
        let text: &str = fields.get(at).map_or("", |f| &f.text);
        let starts_with_digit = text.starts_with(|c: char| c.is_ascii_digit());
        if self.follows == Follows::Julian {
            let (days, rest) = leading::<i32>(text)?;
            let place = self.displacement(rest)?;
            self.follows = Follows::Anything;
            return Ok(self.julian_day(days)? | unit::TIME | place);
        }
        let is_date = match self.wanted {
            Wanted::Date => self.follows == Follows::Anything && !self.has(unit::MONTH | unit::DAY),
            Wanted::Time => {
                let form = |at: usize| fields.get(at).map(|f| f.form);
                at == 0
                    && fields.len() >= 2
                    && (form(fields.len() - 1) == Some(Form::Date) || form(1) == Some(Form::Time))
            }
        };
        if is_date {
            return self.date(text);
        }
        if starts_with_digit || self.follows == Follows::Time {
            // A time without colons and its zone: 040506-08.
            self.follows = Follows::Anything;
            if self.has(unit::TIME) {
                return Err(Trouble::Form);
            }
            let hyphen = text.find('-').ok_or(Trouble::Form)?;
            let place = self.displacement(&text[hyphen..])?;
            return Ok(self.run_together(&text[..hyphen])? | place);
        }
        let zone = Zone::parse(text).ok_or_else(|| Trouble::NoZone(text.to_owned()))?;
        self.place = Some(Place::Zone(zone));
        Ok(unit::ZONE)
    }

    fn number(&mut self, fields: &[Field<'_>], at: usize) -> Result<u32> {
        let text: &str = fields.get(at).map_or("", |f| &f.text);
        match std::mem::replace(&mut self.follows, Follows::Anything) {
            Follows::Time => {
                let gives = self.run_together_as(text, unit::DATE)?;
                return if gives == unit::TIME { Ok(gives) } else { Err(Trouble::Form) };
            }
            Follows::Julian => {
                let (days, rest) = leading::<i32>(text)?;
                let gives = self.julian_day(days)?;
                if rest.is_empty() {
                    return Ok(gives);
                }
                let share = fraction(rest).ok_or(Trouble::Form)?;
                self.micros = (share * MICROS_A_DAY as f64) as i64;
                return Ok(gives | unit::TIME);
            }
            Follows::Anything => {}
        }
        let point = text.find('.');
        if self.wanted == Wanted::Time {
            let assumed = self.given | unit::DATE;
            return match point {
                Some(_) if at == 0 && fields.len() >= 2 && fields.last().is_some_and(|f| f.form == Form::Date) => {
                    self.date(text)
                }
                Some(point) if point > 2 => self.run_together_as(text, assumed),
                Some(_) => Err(Trouble::Form),
                None if text.len() > 4 => self.run_together_as(text, assumed),
                None => self.part(text, assumed),
            };
        }
        match point {
            Some(_) if !self.has(unit::DATE) => self.date(text),
            Some(point) if point > 2 => self.run_together(text),
            None if text.len() >= 6 && !(self.has(unit::DATE) && self.has(unit::TIME)) => self.run_together(text),
            _ => self.part(text, self.given),
        }
    }

    fn word(&mut self, fields: &[Field<'_>], at: usize) -> Result<u32> {
        let text: &str = fields.get(at).map_or("", |f| &f.text);
        // Abbreviations of zones come before words: "mst" and "sat" both are.
        if let Some(place) = zone::abbreviation(text) {
            self.place = Some(place);
            return Ok(unit::ZONE);
        }
        let Some(token) = token(text) else {
            let zone = Zone::parse(text).ok_or(Trouble::Form)?;
            self.place = Some(Place::Zone(zone));
            return Ok(unit::ZONE);
        };
        Ok(match token {
            Token::Ignored => 0,
            Token::Month(month) => {
                // What was taken for the month is the day then: 8 January.
                let moved = self.has(unit::MONTH)
                    && !self.month_in_words
                    && !self.has(unit::DAY)
                    && (1..=31).contains(&self.month);
                if moved {
                    self.day = self.month;
                }
                self.month_in_words = true;
                self.month = month;
                if moved { unit::DAY } else { unit::MONTH }
            }
            Token::Weekday => unit::WEEKDAY,
            Token::Era(before_christ) => {
                self.before_christ = before_christ;
                unit::ERA
            }
            Token::Half(afternoon) => {
                self.afternoon = Some(afternoon);
                unit::HALF
            }
            Token::TimeFollows => {
                let next = fields.get(at + 1).map(|f| f.form);
                let time = matches!(next, Some(Form::Number | Form::Time | Form::Date));
                if !time || (self.wanted == Wanted::Date && !self.has(unit::DATE)) {
                    return Err(Trouble::Form);
                }
                self.follows = Follows::Time;
                0
            }
            Token::JulianFollows => {
                self.follows = Follows::Julian;
                0
            }
            Token::Daylight => {
                if let Some(Place::East(seconds)) = &mut self.place {
                    *seconds += 3600;
                }
                unit::DAYLIGHT
            }
            Token::Now | Token::Day(_) | Token::Midnight | Token::Epoch => return self.special(token),
            Token::Infinity => return Err(Trouble::Infinite),
            Token::Refused => return Err(Trouble::Form),
        })
    }

    fn special(&mut self, token: Token) -> Result<u32> {
        let local = self.settings.zone.to_local(self.settings.now);
        let (today, clock) = (local.div_euclid(MICROS_A_DAY), local.rem_euclid(MICROS_A_DAY));
        match (token, self.wanted) {
            (Token::Now, wanted) => {
                self.micros = clock;
                if wanted == Wanted::Time {
                    return Ok(unit::TIME);
                }
                self.julian = Some(today);
                self.place = Some(Place::East(self.settings.zone.offset_at(self.settings.now)));
                Ok(unit::DATE | unit::TIME | unit::ZONE)
            }
            (Token::Midnight, _) => {
                self.place = Some(Place::East(0));
                Ok(unit::TIME | unit::ZONE)
            }
            (Token::Day(distance), Wanted::Date) => {
                self.julian = Some(today + distance);
                Ok(unit::DATE)
            }
            (Token::Epoch, Wanted::Date) => {
                self.epoch = true;
                Ok(unit::DATE | unit::TIME | unit::ZONE)
            }
            _ => Err(Trouble::Form),
        }
    }

    fn julian_day(&mut self, days: i32) -> Result<u32> {
        if days < 0 {
            return Err(Trouble::Range);
        }
        self.julian = Some(i64::from(days) - JULIAN_1970);
        Ok(unit::DATE)
    }

    /// `04:05`, `04:05:06.7`, or minutes and seconds `05:06.7`.
    fn clock(&mut self, text: &str) -> Result<u32> {
        let clock = Clock::read::<i32>(text)?;
        (self.hour, self.minute, self.second, self.micros) = (clock.hours, clock.minutes, clock.seconds, clock.micros);
        let total = clock.hours.saturating_mul(3600) + clock.minutes * 60 + clock.seconds;
        if clock.hours > 24 || total * MICROS_A_SECOND + clock.micros > MICROS_A_DAY {
            return Err(Trouble::Range);
        }
        Ok(unit::TIME)
    }

    /// `-8`, `+0530`, `+05:30`, `-00:44:30`
    fn displacement(&mut self, text: &str) -> Result<u32> {
        self.place = Some(Place::East(clock::displacement(text)?));
        Ok(unit::ZONE)
    }

    /// Numbers and perhaps a month's name, with something between them.
    fn date(&mut self, text: &str) -> Result<u32> {
        let given_before = self.given;
        let words_before = self.month_in_words;
        let parts = date_parts(text)?;
        self.month_in_words = false;
        // A month in letters is the month wherever it stands, so it goes first.
        for word in parts.iter().filter(|p| p.starts_with(|c: char| c.is_ascii_alphabetic())) {
            match token(word) {
                Some(Token::Ignored) => {}
                Some(Token::Month(month)) => {
                    self.settle(unit::MONTH)?;
                    self.month = month;
                    self.month_in_words = true;
                }
                _ => return Err(Trouble::Form),
            }
        }
        for number in parts.iter().filter(|p| p.starts_with(|c: char| c.is_ascii_digit())) {
            let units = self.part(number, self.given)?;
            self.settle(units)?;
        }
        self.month_in_words = words_before;
        let given = std::mem::replace(&mut self.given, given_before);
        let complete = given & !(unit::DAY_OF_YEAR | unit::ZONE) == unit::DATE;
        if complete { Ok(given & !given_before) } else { Err(Trouble::Form) }
    }

    fn settle(&mut self, units: u32) -> Result<()> {
        if self.given & units != 0 {
            return Err(Trouble::Form);
        }
        self.given |= units;
        Ok(())
    }

    /// One number of a date, which is what is still missing.
    fn part(&mut self, text: &str, given: u32) -> Result<u32> {
        let (value, rest) = leading::<i32>(text)?;
        let length = text.len();
        if !rest.is_empty() {
            if !rest.starts_with('.') {
                return Err(Trouble::Form);
            }
            if length - rest.len() > 2 {
                return self.run_together_as(text, given | unit::DATE);
            }
            self.micros = micros_of(fraction(rest).ok_or(Trouble::Form)?);
        }
        if length == 3 && given & unit::DATE == unit::YEAR && (1..=366).contains(&value) {
            self.day_of_year = value;
            return Ok(unit::DAY_OF_YEAR | unit::MONTH | unit::DAY);
        }
        let is_year = match given & unit::DATE {
            0 => length >= 3,
            unit::MONTH => self.month_in_words && length >= 3,
            units => units == unit::MONTH | unit::DAY,
        };
        if is_year {
            self.year = value;
            self.short_year = length <= 2;
            return Ok(unit::YEAR);
        }
        match given & unit::DATE {
            0 | unit::YEAR | unit::DAY => {
                self.month = value;
                Ok(unit::MONTH)
            }
            unit::MONTH => {
                self.day = value;
                Ok(unit::DAY)
            }
            units if units == unit::YEAR | unit::MONTH => {
                if self.month_in_words && length >= 3 && self.short_year {
                    // What was taken for a short year is the day: 05-Jan-2024.
                    self.day = std::mem::replace(&mut self.year, value);
                    self.short_year = false;
                } else {
                    self.day = value;
                }
                Ok(unit::DAY)
            }
            units if units == unit::DATE => self.run_together_as(text, given),
            _ => Err(Trouble::Form),
        }
    }

    fn run_together(&mut self, text: &str) -> Result<u32> {
        self.run_together_as(text, self.given)
    }

    /// Digits without anything between them: `20240102`, `040506.7`, `0405`.
    fn run_together_as(&mut self, text: &str, given: u32) -> Result<u32> {
        let (digits, point) = text.find('.').map_or((text, None), |at| (&text[..at], Some(&text[at..])));
        let number = |from: usize, to: usize| {
            let part = digits.get(from..to).ok_or(Trouble::Form)?;
            leading::<i32>(part).map(|(v, _)| v).map_err(Trouble::from)
        };
        let length = digits.len();
        if let Some(point) = point {
            self.micros = micros_of(fraction(point).ok_or(Trouble::Form)?);
        } else if given & unit::DATE != unit::DATE && length >= 6 {
            self.day = number(length - 2, length)?;
            self.month = number(length - 4, length - 2)?;
            self.year = number(0, length - 4)?;
            self.short_year = length == 6;
            return Ok(unit::DATE);
        }
        if given & unit::TIME != 0 || !matches!(length, 4 | 6) {
            return Err(Trouble::Form);
        }
        self.hour = i64::from(number(0, 2)?);
        self.minute = i64::from(number(2, 4)?);
        self.second = if length == 6 { i64::from(number(4, 6)?) } else { 0 };
        Ok(unit::TIME)
    }

    fn finish(mut self) -> Result<Moment> {
        if self.epoch {
            return Ok(Moment { day: Some(0), micros: 0, place: Some(Place::East(0)) });
        }
        let day = self.check_date()?;
        if let Some(afternoon) = self.afternoon {
            if self.hour > 12 {
                return Err(Trouble::Range);
            }
            self.hour = self.hour % 12 + if afternoon { 12 } else { 0 };
        }
        let micros = (self.hour * 3600 + self.minute * 60 + self.second) * MICROS_A_SECOND + self.micros;
        let place = self.place;
        if matches!(place, Some(Place::Zone(_)) | None) && self.has(unit::DAYLIGHT) {
            return Err(Trouble::Form);
        }
        match self.wanted {
            Wanted::Date if day.is_none() => Err(Trouble::Form),
            Wanted::Date => Ok(Moment { day, micros, place }),
            Wanted::Time => {
                let fits = (0..=24).contains(&self.hour) && self.minute < 60 && self.second <= 60;
                if !fits || micros > MICROS_A_DAY {
                    return Err(Trouble::Range);
                }
                // Where clocks change, a time alone does not say how far from UTC they are.
                let changing = matches!(place, Some(Place::Zone(zone)) if !zone.is_fixed());
                if !self.has(unit::TIME) || (changing && day.is_none()) {
                    return Err(Trouble::Form);
                }
                Ok(Moment { day, micros, place })
            }
        }
    }

    /// The day, if all of it was given.
    fn check_date(&mut self) -> Result<Option<i64>> {
        if let Some(day) = self.julian {
            return Ok(Some(day));
        }
        let mut year = i64::from(self.year);
        if self.has(unit::YEAR) {
            if self.before_christ {
                year = if year > 0 { 1 - year } else { return Err(Trouble::Range) };
            } else if self.short_year && year < 100 {
                year += if year < 70 { 2000 } else { 1900 };
            } else if year <= 0 {
                return Err(Trouble::Range);
            }
        }
        if self.has(unit::DAY_OF_YEAR) {
            return Ok(Some(days_from_civil(year, 1, 1) + i64::from(self.day_of_year) - 1));
        }
        if (self.has(unit::MONTH) && !(1..=12).contains(&self.month))
            || (self.has(unit::DAY) && !(1..=31).contains(&self.day))
        {
            return Err(Trouble::Range);
        }
        if !self.has(unit::DATE) {
            return Ok(None);
        }
        let (month, day) = (self.month as u32, self.day as u32);
        if day > days_in_month(year, month) {
            return Err(Trouble::Range);
        }
        Ok(Some(days_from_civil(year, month, day)))
    }
}

/// The words and numbers of a date, without what stands between them.
fn date_parts(text: &str) -> Result<Vec<&str>> {
    let mut parts = Vec::with_capacity(3);
    let mut rest = text;
    while !rest.is_empty() {
        rest = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let first = rest.bytes().next().ok_or(Trouble::Form)?;
        let end =
            rest.bytes().take_while(|b| b.is_ascii_digit() == first.is_ascii_digit() && b.is_ascii_alphanumeric());
        let (part, after) = rest.split_at(end.count());
        parts.push(part);
        // One character after it goes too, whatever it is.
        rest = after.get(1..).unwrap_or_default();
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::super::calendar::civil_from_days;
    use super::super::fields::fields;
    use super::*;

    fn day(text: &str) -> Option<(i64, u32, u32)> {
        let moment = read(&fields(text)?, Wanted::Date, &Settings::default()).ok()?;
        moment.day.map(civil_from_days)
    }

    #[test]
    fn the_order_of_numbers_is_found() {
        for text in
            ["2024-01-05", "1/5/2024", "5-jan-2024", "jan 5 2024", "2024 jan 5", "20240105", "2024.005", "j2460315"]
        {
            assert_eq!(day(text), Some((2024, 1, 5)), "{text}");
        }
        assert_eq!(day("2024-13-05"), None);
        assert_eq!(day("2024-01-05 bc"), Some((-2023, 1, 5)));
    }
}
