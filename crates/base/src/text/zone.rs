//! Time zones: UTC, fixed offsets, and the named ones of the IANA database.
//!
//! The tables of named zones end with the century. Beyond that a year follows the
//! rules of one in the tables that has the same days of the week.

use std::fmt;

use chrono::{Offset, TimeZone};

use super::calendar::{civil_from_days, days_from_civil};
use super::moment::{MICROS_A_DAY, Place};

/// A time zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// So many seconds east of UTC, all year round
    Fixed(i32),
    /// One whose offset changes by its own rules
    Named(chrono_tz::Tz),
}

/// Offsets are less than a week, and those of timestamps less than 16 hours.
const MOST_HOURS: i32 = 167;
/// The first year that is not looked up itself.
const BEYOND_TABLES: i64 = 2_090;

impl Zone {
    /// Coordinated Universal Time.
    pub const UTC: Zone = Zone::Fixed(0);

    /// The zone that `text` names: an IANA name in any case, hours east of UTC as
    /// a plain number (`-8`, `5.5`), or a name of POSIX's with an offset that
    /// counts *west* (`UTC+3`, `<+02>-02`, `+02:00`), as PostgreSQL has it.
    pub fn parse(text: &str) -> Option<Zone> {
        if ["utc", "gmt", "etc/utc"].iter().any(|n| text.eq_ignore_ascii_case(n)) {
            return Some(Zone::UTC);
        }
        named(text).map(Zone::Named).or_else(|| hours_east(text)).or_else(|| posix(text))
    }

    /// Whether its offset never changes.
    pub fn is_fixed(&self) -> bool {
        matches!(self, Zone::Fixed(_))
    }

    /// Seconds east of UTC at an instant given in microseconds since 1970 UTC.
    pub fn offset_at(&self, utc_micros: i64) -> i32 {
        self.offset(i128::from(utc_micros))
    }

    fn offset(&self, utc_micros: i128) -> i32 {
        let Zone::Named(zone) = self else {
            return match self {
                Zone::Fixed(seconds) => *seconds,
                Zone::Named(_) => 0,
            };
        };
        let instant = i64::try_from(within_tables(utc_micros)).ok().and_then(chrono::DateTime::from_timestamp_micros);
        instant.map_or(0, |i| zone.offset_from_utc_datetime(&i.naive_utc()).fix().local_minus_utc())
    }

    /// The instant at which clocks in this zone show `local` (microseconds since
    /// 1970-01-01 00:00 there). Where clocks skip an hour the offset before the
    /// change counts, where they repeat one the offset after it.
    pub fn to_utc(&self, local: i64) -> i64 {
        let utc = self.wide_to_utc(i128::from(local));
        i64::try_from(utc).unwrap_or(if utc < 0 { i64::MIN } else { i64::MAX })
    }

    pub(super) fn wide_to_utc(&self, local: i128) -> i128 {
        let day = i128::from(MICROS_A_DAY);
        let shift = |seconds: i32| local - i128::from(seconds) * 1_000_000;
        let (before, after) = (self.offset(local - day), self.offset(local + day));
        if before != after && self.offset(shift(after)) == after { shift(after) } else { shift(before) }
    }

    /// What clocks in this zone show at an instant.
    pub fn to_local(&self, utc_micros: i64) -> i64 {
        utc_micros.saturating_add(i64::from(self.offset_at(utc_micros)) * 1_000_000)
    }
}

/// An instant of a year in the tables whose days fall alike.
fn within_tables(utc_micros: i128) -> i128 {
    let days = (utc_micros.div_euclid(i128::from(MICROS_A_DAY))) as i64;
    let (year, _, _) = civil_from_days(days);
    if year < BEYOND_TABLES {
        return utc_micros;
    }
    let starts = |year: i64| days_from_civil(year, 1, 1);
    let alike = |other: &i64| {
        (starts(year) - starts(*other)) % 7 == 0
            && starts(year + 1) - starts(year) == starts(*other + 1) - starts(*other)
    };
    let other = (BEYOND_TABLES - 28..BEYOND_TABLES).find(alike).unwrap_or(BEYOND_TABLES - 1);
    utc_micros - i128::from(starts(year) - starts(other)) * i128::from(MICROS_A_DAY)
}

fn named(text: &str) -> Option<chrono_tz::Tz> {
    chrono_tz::TZ_VARIANTS.iter().find(|z| z.name().eq_ignore_ascii_case(text)).copied()
}

/// A plain number of hours.
fn hours_east(text: &str) -> Option<Zone> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let hours: f64 = text.parse().ok().filter(|_| numeric)?;
    (hours.abs() <= f64::from(MOST_HOURS)).then_some(Zone::Fixed((hours * 3600.0).round() as i32))
}

/// A name, or one in angle brackets, or none, and an offset that counts west.
fn posix(text: &str) -> Option<Zone> {
    let offset = match text.strip_prefix('<') {
        Some(rest) => rest.split_once('>')?.1,
        None => {
            let name = text.bytes().take_while(u8::is_ascii_alphabetic).count();
            text.get(name..)?
        }
    };
    parse_offset(offset).map(|west| Zone::Fixed(-west))
}

/// A name that [`Zone::parse`] takes.
impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Zone::Fixed(0) => f.write_str("UTC"),
            Zone::Fixed(seconds) => {
                let (east, west) = if *seconds < 0 { ('-', '+') } else { ('+', '-') };
                let seconds = seconds.abs();
                let mut clock = format!("{:02}", seconds / 3600);
                if seconds % 3600 != 0 {
                    clock += &format!(":{:02}", seconds / 60 % 60);
                }
                if seconds % 60 != 0 {
                    clock += &format!(":{:02}", seconds % 60);
                }
                write!(f, "<{east}{clock}>{west}{clock}")
            }
            Zone::Named(zone) => f.write_str(zone.name()),
        }
    }
}

/// `hh`, `hh:mm` or `hh:mm:ss` with a sign or without, in seconds.
fn parse_offset(text: &str) -> Option<i32> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit() || b == b':') {
        return None;
    }
    let mut parts = digits.split(':').map(|p| p.parse::<i32>().ok());
    let hours = parts.next()??;
    let (minutes, seconds) = (parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?);
    let fits = parts.next().is_none() && hours <= MOST_HOURS && minutes < 60 && seconds < 60;
    fits.then(|| sign * (hours * 3600 + minutes * 60 + seconds))
}

/// The canonical name of the time zone that `text` names, if there is one.
pub fn zone_name(text: &str) -> Option<String> {
    let zone = Zone::parse(text)?;
    // Zones that are UTC by another name keep that name.
    Some(named(text).map_or_else(|| zone.to_string(), |z| z.name().to_owned()))
}

/// Minutes east of UTC of the abbreviations that timestamps may end with. Where
/// several zones share one, PostgreSQL's default set decides.
const MINUTES_EAST: &[(&str, i16)] = &[
    ("z", 0),
    ("zulu", 0),
    ("utc", 0),
    ("gmt", 0),
    ("ut", 0),
    ("uct", 0),
    ("wet", 0),
    ("bst", 60),
    ("cet", 60),
    ("mez", 60),
    ("met", 60),
    ("wat", 60),
    ("wetdst", 60),
    ("bdst", 120),
    ("cest", 120),
    ("eet", 120),
    ("ist", 120),
    ("mest", 120),
    ("mesz", 120),
    ("sast", 120),
    ("cetdst", 120),
    ("metdst", 120),
    ("eat", 180),
    ("eest", 180),
    ("idt", 180),
    ("fet", 180),
    ("eetdst", 180),
    ("irt", 210),
    ("msd", 240),
    ("mut", 240),
    ("ret", 240),
    ("sct", 240),
    ("aft", 270),
    ("pkt", 300),
    ("uzt", 300),
    ("tjt", 300),
    ("mvt", 300),
    ("tft", 300),
    ("must", 300),
    ("npt", 345),
    ("almt", 360),
    ("bdt", 360),
    ("btt", 360),
    ("pkst", 360),
    ("kgst", 360),
    ("uzst", 360),
    ("xjt", 360),
    ("mmt", 390),
    ("almst", 420),
    ("ict", 420),
    ("cxt", 420),
    ("wast", 420),
    ("awst", 480),
    ("bnt", 480),
    ("bort", 480),
    ("cct", 480),
    ("hkt", 480),
    ("myt", 480),
    ("pht", 480),
    ("wadt", 480),
    ("acwst", 525),
    ("jst", 540),
    ("kst", 540),
    ("jayt", 540),
    ("pwt", 540),
    ("awsst", 540),
    ("wdt", 540),
    ("ulast", 540),
    ("acst", 570),
    ("cast", 570),
    ("aest", 600),
    ("kdt", 600),
    ("ddut", 600),
    ("chut", 600),
    ("ligt", 600),
    ("mpt", 600),
    ("pgt", 600),
    ("trut", 600),
    ("yapt", 600),
    ("acdt", 630),
    ("acsst", 630),
    ("cadt", 630),
    ("sadt", 630),
    ("lhst", 630),
    ("aedt", 660),
    ("aesst", 660),
    ("pont", 660),
    ("vut", 660),
    ("nzst", 720),
    ("nzt", 720),
    ("fjt", 720),
    ("gilt", 720),
    ("mht", 720),
    ("tvt", 720),
    ("wakt", 720),
    ("wft", 720),
    ("chast", 765),
    ("nzdt", 780),
    ("fjst", 780),
    ("tot", 780),
    ("chadt", 825),
    ("azost", 0),
    ("egst", 0),
    ("azot", -60),
    ("egt", -60),
    ("fnst", -60),
    ("fnt", -120),
    ("brst", -120),
    ("pmdt", -120),
    ("uyst", -120),
    ("wgst", -120),
    ("ndt", -150),
    ("adt", -180),
    ("bra", -180),
    ("brt", -180),
    ("clst", -180),
    ("gft", -180),
    ("pmst", -180),
    ("pyst", -180),
    ("uyt", -180),
    ("wgt", -180),
    ("nst", -210),
    ("nft", -210),
    ("amt", -240),
    ("ast", -240),
    ("bot", -240),
    ("edt", -240),
    ("act", -300),
    ("cdt", -300),
    ("cot", -300),
    ("est", -300),
    ("pet", -300),
    ("cst", -360),
    ("mdt", -360),
    ("galt", -360),
    ("mst", -420),
    ("pdt", -420),
    ("akdt", -480),
    ("pst", -480),
    ("akst", -540),
    ("gamt", -540),
    ("mart", -570),
    ("hst", -600),
    ("taht", -600),
];

/// Abbreviations of places whose offset has changed in the course of time.
const PLACES: &[(&str, chrono_tz::Tz)] = &[
    ("msk", chrono_tz::Europe::Moscow),
    ("art", chrono_tz::America::Argentina::Buenos_Aires),
    ("clt", chrono_tz::America::Santiago),
    ("gyt", chrono_tz::America::Guyana),
    ("pyt", chrono_tz::America::Asuncion),
    ("vet", chrono_tz::America::Caracas),
    ("amst", chrono_tz::Asia::Yerevan),
    ("azt", chrono_tz::Asia::Baku),
    ("get", chrono_tz::Asia::Tbilisi),
    ("kgt", chrono_tz::Asia::Bishkek),
    ("lkt", chrono_tz::Asia::Colombo),
    ("sgt", chrono_tz::Asia::Singapore),
    ("tmt", chrono_tz::Asia::Ashgabat),
    ("ulat", chrono_tz::Asia::Ulaanbaatar),
    ("irkt", chrono_tz::Asia::Irkutsk),
    ("krat", chrono_tz::Asia::Krasnoyarsk),
    ("magt", chrono_tz::Asia::Magadan),
    ("novt", chrono_tz::Asia::Novosibirsk),
    ("omst", chrono_tz::Asia::Omsk),
    ("pett", chrono_tz::Asia::Kamchatka),
    ("vlat", chrono_tz::Asia::Vladivostok),
    ("yakt", chrono_tz::Asia::Yakutsk),
    ("yekt", chrono_tz::Asia::Yekaterinburg),
    ("volt", chrono_tz::Europe::Volgograd),
    ("lhdt", chrono_tz::Australia::Lord_Howe),
];

/// Where an abbreviation (in lower case) is used.
pub(super) fn abbreviation(text: &str) -> Option<Place> {
    if let Some((_, minutes)) = MINUTES_EAST.iter().find(|(name, _)| *name == text) {
        return Some(Place::East(i32::from(*minutes) * 60));
    }
    PLACES.iter().find(|(name, _)| *name == text).map(|(_, zone)| Place::Zone(Zone::Named(*zone)))
}
