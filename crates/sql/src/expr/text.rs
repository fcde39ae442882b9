//! Values from and to text, in the session's time.

use std::sync::OnceLock;

use polity_base::text::{self, Fault, Settings, TextError, Zone};
use polity_base::{Type, Value};

use super::Local;
use crate::error::{Condition, Error, Result};

impl Local<'_> {
    /// What reading and writing text depends on.
    pub fn settings(self) -> Settings {
        Settings { zone: self.zone(), now: self.now }
    }

    fn zone(self) -> Zone {
        Zone::parse(self.zone).unwrap_or(Zone::UTC)
    }
}

/// Whether the text of values of this type depends on the session's time.
fn is_local(r#type: &Type) -> bool {
    matches!(r#type, Type::Date | Type::Time | Type::Timestamp | Type::TimestampTz | Type::Array(_))
}

fn neutral() -> &'static Settings {
    static NEUTRAL: OnceLock<Settings> = OnceLock::new();
    NEUTRAL.get_or_init(Settings::default)
}

/// The value of `type` that a text stands for.
pub fn parse(text: &str, r#type: &Type, local: Local<'_>) -> Result<Value> {
    let parsed = if is_local(r#type) {
        text::parse(text, r#type, &local.settings())
    } else {
        text::parse(text, r#type, neutral())
    };
    parsed.map_err(Error::from)
}

/// The text of a value, which is not NULL.
pub fn write(value: &Value, r#type: &Type, local: Local<'_>) -> String {
    if is_local(r#type) {
        text::to_text(value, r#type, &local.settings())
    } else {
        text::to_text(value, r#type, neutral())
    }
}

/// A local timestamp in UTC.
pub(super) fn to_utc(micros: i64, local: Local<'_>) -> i64 {
    local.zone().to_utc(micros)
}

/// A timestamp in UTC as a local one.
pub(super) fn to_local(micros: i64, local: Local<'_>) -> i64 {
    local.zone().to_local(micros)
}

/// A text that is not a value, in the words of SQL.
impl From<TextError> for Error {
    fn from(error: TextError) -> Error {
        let condition = match error.fault {
            Fault::Syntax => Condition::InvalidTextRepresentation,
            Fault::OutOfRange => Condition::NumericValueOutOfRange,
            Fault::DatetimeSyntax => Condition::InvalidDatetimeFormat,
            Fault::DatetimeRange => Condition::DatetimeFieldOverflow,
            Fault::ZoneRange => Condition::InvalidTimeZoneDisplacementValue,
            Fault::IntervalRange => Condition::IntervalFieldOverflow,
            Fault::TooLong => Condition::StringDataRightTruncation,
            Fault::Parameter => Condition::InvalidParameterValue,
            Fault::Subscript => Condition::ArraySubscriptError,
            Fault::Untranslatable => Condition::UntranslatableCharacter,
            Fault::Limit => Condition::ProgramLimitExceeded,
            Fault::Depth => Condition::StatementTooComplex,
            Fault::Unsupported => Condition::FeatureNotSupported,
        };
        let converted = Error::new(condition, error.message);
        match error.detail {
            Some(detail) => converted.detail(detail),
            None => converted,
        }
    }
}
