//! Words with a meaning in dates and times.

/// A word with a meaning in dates.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Token {
    Ignored,
    Month(i32),
    Weekday,
    /// Before Christ or not
    Era(bool),
    /// Afternoon or not
    Half(bool),
    /// `t`: a time follows
    TimeFollows,
    /// `j`: a count of days since 4714 BC follows
    JulianFollows,
    /// `dst`: clocks are an hour ahead
    Daylight,
    Now,
    /// So many days from today
    Day(i64),
    Midnight,
    Epoch,
    Infinity,
    /// A word PostgreSQL has a meaning for that is not taken here
    Refused,
}

/// The meaning of a word, if it has one. Names of zones are not among them.
pub(super) fn token(word: &str) -> Option<Token> {
    Some(match word {
        "jan" | "january" => Token::Month(1),
        "feb" | "february" => Token::Month(2),
        "mar" | "march" => Token::Month(3),
        "apr" | "april" => Token::Month(4),
        "may" => Token::Month(5),
        "jun" | "june" => Token::Month(6),
        "jul" | "july" => Token::Month(7),
        "aug" | "august" => Token::Month(8),
        "sep" | "sept" | "september" => Token::Month(9),
        "oct" | "october" => Token::Month(10),
        "nov" | "november" => Token::Month(11),
        "dec" | "december" => Token::Month(12),
        "sun" | "sunday" | "mon" | "monday" | "tue" | "tues" | "tuesday" | "wed" | "weds" | "wednesday" | "thu"
        | "thur" | "thurs" | "thursday" | "fri" | "friday" | "sat" | "saturday" => Token::Weekday,
        "ad" => Token::Era(false),
        "bc" => Token::Era(true),
        "am" => Token::Half(false),
        "pm" => Token::Half(true),
        "t" => Token::TimeFollows,
        "j" | "jd" | "julian" => Token::JulianFollows,
        "dst" => Token::Daylight,
        "now" => Token::Now,
        "today" => Token::Day(0),
        "tomorrow" => Token::Day(1),
        "yesterday" => Token::Day(-1),
        "allballs" => Token::Midnight,
        "epoch" => Token::Epoch,
        "infinity" | "-infinity" => Token::Infinity,
        "at" | "on" => Token::Ignored,
        "d" | "h" | "m" | "mm" | "s" | "y" | "dow" | "doy" | "isodow" | "isoyear" => Token::Refused,
        _ => return None,
    })
}
