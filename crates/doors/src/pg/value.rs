//! Values on the wire: parameters in, results out, as text or binary.
//!
//! Binary forms are those of PostgreSQL's send and receive functions; dates and
//! times count from 2000-01-01.

use bytes::Bytes;
use polity_base::text::{self, Settings, calendar};
use polity_base::value::{DAYS_TO_2000, MICROS_TO_2000};
use polity_base::{Decimal, Interval, Type, Value};
use polity_sql::{Condition, Error};

use super::frontend::{self, Codes};

/// In which format the columns of a result are sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Formats {
    /// All as text
    #[default]
    Text,
    /// All in binary
    Binary,
    /// Each as it says
    Each(Box<[bool]>),
}

impl Formats {
    /// What the codes of a Bind message mean: none for text, one for all, or one
    /// each.
    pub fn of(codes: Codes<'_>) -> Result<Formats, Error> {
        if let Some(unknown) = codes.iter().find(|code| !matches!(code, 0 | 1)) {
            return Err(Error::new(Condition::InvalidParameterValue, format!("unsupported format code: {unknown}")));
        }
        let mut binary = codes.iter().map(|code| code == 1);
        Ok(match codes.len() {
            0 => Formats::Text,
            1 if binary.next() == Some(true) => Formats::Binary,
            1 => Formats::Text,
            _ => Formats::Each(binary.collect()),
        })
    }

    /// Whether the one at `at` is binary.
    pub fn is_binary(&self, at: usize) -> bool {
        match self {
            Formats::Text => false,
            Formats::Binary => true,
            Formats::Each(each) => each.get(at).copied().unwrap_or(false),
        }
    }

    /// How many columns they are for, when they are for a certain number.
    #[allow(clippy::len_without_is_empty)] // a count of codes, not a collection
    pub fn len(&self) -> Option<usize> {
        match self {
            Formats::Text | Formats::Binary => None,
            Formats::Each(each) => Some(each.len()),
        }
    }
}

/// A buffer that text is formatted into.
struct Sink<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Sink<'_> {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }
}

/// Appends a field of a DataRow: its length (-1 for NULL) and the value.
pub fn write_field(value: &Value, r#type: &Type, binary: bool, settings: &Settings, out: &mut Vec<u8>) {
    if value.is_null() {
        out.extend_from_slice(&(-1i32).to_be_bytes());
        return;
    }
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    if binary {
        write_binary(value, r#type, settings, out);
    } else {
        // Writing to memory cannot fail.
        let _ = text::write(value, r#type, settings, &mut Sink(out));
    }
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn write_binary(value: &Value, r#type: &Type, settings: &Settings, out: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::Int2(_) | Value::Int4(_) | Value::Int8(_) | Value::Oid(_) => {
            let v = value.as_i64().unwrap_or_default();
            match r#type {
                Type::Int2 => out.extend_from_slice(&(v as i16).to_be_bytes()),
                Type::Int8 => out.extend_from_slice(&v.to_be_bytes()),
                Type::Int4 => out.extend_from_slice(&(v as i32).to_be_bytes()),
                _ => out.extend_from_slice(&(v as u32).to_be_bytes()),
            }
        }
        Value::Float4(v) => out.extend_from_slice(&v.to_be_bytes()),
        Value::Float8(v) => out.extend_from_slice(&v.to_be_bytes()),
        Value::Numeric(v) => match r#type {
            Type::Numeric(Some((_, scale))) => write_numeric(v.rescale(*scale).unwrap_or(*v), out),
            _ => write_numeric(*v, out),
        },
        Value::Text(_) => {
            let _ = text::write(value, r#type, settings, &mut Sink(out));
        }
        Value::Json(v) => {
            if *r#type == Type::Jsonb {
                out.push(1);
            }
            out.extend_from_slice(v.as_bytes());
        }
        Value::Bytea(v) => out.extend_from_slice(v),
        Value::Date(v) => out.extend_from_slice(&(v.wrapping_sub(DAYS_TO_2000)).to_be_bytes()),
        Value::Time(v) => out.extend_from_slice(&v.to_be_bytes()),
        Value::Timestamp(v) | Value::TimestampTz(v) => {
            out.extend_from_slice(&v.wrapping_sub(MICROS_TO_2000).to_be_bytes());
        }
        Value::Interval(v) => {
            out.extend_from_slice(&v.micros.to_be_bytes());
            out.extend_from_slice(&v.days.to_be_bytes());
            out.extend_from_slice(&v.months.to_be_bytes());
        }
        Value::Uuid(v) => out.extend_from_slice(&v.to_be_bytes()),
        Value::Array(elements) => {
            let element = match r#type {
                Type::Array(element) => element,
                other => other,
            };
            write_array(elements, element, settings, out);
        }
    }
}

fn write_array(elements: &[Value], element: &Type, settings: &Settings, out: &mut Vec<u8>) {
    let mut dimensions = Vec::new();
    let mut level = elements;
    loop {
        dimensions.push(level.len());
        match level.first() {
            Some(Value::Array(inner)) => level = inner,
            _ => break,
        }
    }
    let empty = elements.is_empty();
    out.extend_from_slice(&(if empty { 0 } else { dimensions.len() as i32 }).to_be_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&element.oid().to_be_bytes());
    if empty {
        return;
    }
    for length in dimensions {
        out.extend_from_slice(&(length as i32).to_be_bytes());
        out.extend_from_slice(&1i32.to_be_bytes());
    }
    let mut nulls = false;
    write_elements(elements, element, settings, out, &mut nulls);
    out[at + 3] = u8::from(nulls);
}

fn write_elements(elements: &[Value], element: &Type, settings: &Settings, out: &mut Vec<u8>, nulls: &mut bool) {
    for value in elements {
        match value {
            Value::Array(inner) => write_elements(inner, element, settings, out, nulls),
            value => {
                *nulls |= value.is_null();
                write_field(value, element, true, settings, out);
            }
        }
    }
}

/// Groups of four decimal digits, a weight, a sign and a display scale
/// (`numeric_send`).
fn write_numeric(v: Decimal, out: &mut Vec<u8>) {
    let scale = u32::from(v.scale());
    let magnitude = v.mantissa().unsigned_abs();
    // Whole and fraction apart: groups are counted from the point.
    let unit = 10u128.pow(scale);
    let (mut whole, fraction) = (magnitude / unit, magnitude % unit);
    let mut groups = [0i16; 20];
    let mut first = 10;
    while whole > 0 {
        first -= 1;
        groups[first] = (whole % 10_000) as i16;
        whole /= 10_000;
    }
    let mut end = 10;
    let (mut rest, mut digits) = (fraction, scale);
    while rest > 0 {
        // The next four digits; the last group is filled up with zeros.
        let (group, left) = if digits >= 4 {
            let unit = 10u128.pow(digits - 4);
            (rest / unit, rest % unit)
        } else {
            (rest * 10u128.pow(4 - digits), 0)
        };
        groups[end] = group as i16;
        (rest, digits, end) = (left, digits.saturating_sub(4), end + 1);
    }
    while first < end && groups[first] == 0 {
        first += 1;
    }
    while first < end && groups[end - 1] == 0 {
        end -= 1;
    }
    let weight = if first == end { 0 } else { 9 - first as i16 };
    let sign: u16 = if v.mantissa() < 0 { 0x4000 } else { 0 };
    out.extend_from_slice(&((end - first) as u16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&(scale as u16).to_be_bytes());
    groups[first..end].iter().for_each(|g| out.extend_from_slice(&g.to_be_bytes()));
}

/// Reads a parameter.
pub fn read(bytes: &[u8], r#type: &Type, binary: bool, settings: &Settings) -> Result<Value, Error> {
    if binary {
        return read_binary(bytes, r#type, settings);
    }
    let text = frontend::utf8(bytes).map_err(|e| super::backend::malformed(&e))?;
    if text.contains('\0') {
        let message = "invalid byte sequence for encoding \"UTF8\": 0x00";
        return Err(Error::new(Condition::CharacterNotInRepertoire, message));
    }
    text::parse(text, r#type, settings).map_err(Error::from)
}

fn wrong(r#type: &Type, bytes: &[u8]) -> Error {
    Error::new(Condition::InvalidBinaryRepresentation, format!("incorrect binary data format for type {type}"))
        .detail(format!("{} bytes were given.", bytes.len()))
}

fn read_binary(bytes: &[u8], r#type: &Type, settings: &Settings) -> Result<Value, Error> {
    let wrong = || wrong(r#type, bytes);
    let eight = || <[u8; 8]>::try_from(bytes).map(i64::from_be_bytes).map_err(|_| wrong());
    let four = || <[u8; 4]>::try_from(bytes).map(i32::from_be_bytes).map_err(|_| wrong());
    let range = || Error::new(Condition::DatetimeFieldOverflow, format!("{type} out of range"));
    let timestamp = || {
        let micros = eight()?.checked_add(MICROS_TO_2000).filter(|m| calendar::has_timestamp(*m));
        micros.ok_or_else(range)
    };
    Ok(match r#type {
        Type::Bool => match bytes {
            [b] => Value::Bool(*b != 0),
            _ => return Err(wrong()),
        },
        Type::Int2 => Value::Int2(<[u8; 2]>::try_from(bytes).map(i16::from_be_bytes).map_err(|_| wrong())?),
        Type::Int4 => Value::Int4(four()?),
        Type::Int8 => Value::Int8(eight()?),
        Type::Oid | Type::Regclass => Value::Oid(four()? as u32),
        Type::Float4 => Value::Float4(f32::from_bits(four()? as u32)),
        Type::Float8 => Value::Float8(f64::from_bits(eight()? as u64)),
        Type::Numeric(modifier) => {
            let v = read_numeric(bytes).map_err(|e| e.unwrap_or_else(wrong))?;
            Value::Numeric(text::fit(v, *modifier).map_err(Error::from)?)
        }
        Type::Bytea => Value::Bytea(Bytes::copy_from_slice(bytes)),
        Type::Date => {
            let day = four()?.checked_add(DAYS_TO_2000).filter(|d| calendar::has_date(*d));
            Value::Date(day.ok_or_else(range)?)
        }
        Type::Time => {
            let micros = eight()?;
            Value::Time(if (0..=86_400_000_000).contains(&micros) { micros } else { return Err(range()) })
        }
        Type::Timestamp => Value::Timestamp(timestamp()?),
        Type::TimestampTz => Value::TimestampTz(timestamp()?),
        Type::Interval => {
            let (micros, rest) = bytes.split_first_chunk::<8>().ok_or_else(wrong)?;
            let (days, rest) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
            let months = <[u8; 4]>::try_from(rest).map_err(|_| wrong())?;
            Value::Interval(Interval {
                months: i32::from_be_bytes(months),
                days: i32::from_be_bytes(*days),
                micros: i64::from_be_bytes(*micros),
            })
        }
        Type::Uuid => Value::Uuid(u128::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
        Type::Jsonb => match bytes.split_first() {
            Some((1, rest)) => return read(rest, r#type, false, settings),
            _ => return Err(wrong()),
        },
        Type::Array(element) => Value::Array(read_array(bytes, r#type, element, settings)?),
        _ => return read(bytes, r#type, false, settings),
    })
}

/// `Err(None)`: the bytes are not a number at all.
fn read_numeric(bytes: &[u8]) -> Result<Decimal, Option<Error>> {
    let unsupported = |what: &str| Some(Error::unsupported(format_args!("numeric {what}")));
    let overflow = || Some(Error::new(Condition::NumericValueOutOfRange, "value overflows numeric format"));
    let (header, groups) = bytes.split_first_chunk::<8>().ok_or(None)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (count, weight, sign, scale) = (usize::from(word(0)), word(2) as i16, word(4), word(6));
    match sign {
        0 | 0x4000 => {}
        0xC000 => return Err(unsupported("NaN")),
        0xD000 | 0xF000 => return Err(unsupported("infinity")),
        _ => return Err(None),
    }
    if groups.len() != count * 2 {
        return Err(None);
    }
    let scale = u8::try_from(scale).map_err(|_| overflow())?;
    // The number in steps of 10^-scale. Digits finer than that are cut, as in PostgreSQL.
    let mut mantissa = 0i128;
    for (at, pair) in groups.chunks_exact(2).enumerate() {
        let group = i128::from(u16::from_be_bytes([pair[0], pair[1]]));
        if group > 9_999 {
            return Err(None);
        }
        let power = 4 * (i64::from(weight) - at as i64) + i64::from(scale);
        let share = match u32::try_from(power) {
            Ok(power) if group != 0 => 10i128.checked_pow(power).and_then(|unit| group.checked_mul(unit)),
            Ok(_) => Some(0),
            Err(_) if power > -4 => Some(group / 10i128.pow((-power) as u32)),
            Err(_) => Some(0),
        };
        mantissa = share.and_then(|share| mantissa.checked_add(share)).ok_or_else(overflow)?;
    }
    Decimal::new(if sign == 0 { mantissa } else { -mantissa }, scale).ok_or_else(overflow)
}

/// PostgreSQL's limit.
const MOST_DIMENSIONS: usize = 6;

fn read_array(bytes: &[u8], array: &Type, element: &Type, settings: &Settings) -> Result<Vec<Value>, Error> {
    let wrong = || wrong(array, bytes);
    let mut rest = bytes;
    let mut int = || {
        let (four, after) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
        rest = after;
        Ok::<i32, Error>(i32::from_be_bytes(*four))
    };
    let (dimensions, flags, oid) = (int()?, int()?, int()? as u32);
    let dimensions = usize::try_from(dimensions).ok().filter(|n| *n <= MOST_DIMENSIONS).ok_or_else(wrong)?;
    if !matches!(flags, 0 | 1) {
        return Err(Error::new(Condition::InvalidBinaryRepresentation, "invalid array flags"));
    }
    if oid != element.oid() {
        return Err(Error::new(Condition::DatatypeMismatch, "wrong element type").detail(format!(
            "The binary data has array element type {oid} instead of expected {} ({element}).",
            element.oid()
        )));
    }
    let mut lengths = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        let (length, lower) = (int()?, int()?);
        if lower != 1 {
            return Err(Error::unsupported("an array with a lower bound other than 1"));
        }
        lengths.push(usize::try_from(length).map_err(|_| wrong())?);
    }
    // Every element takes at least the four bytes of its length.
    let count = lengths.iter().try_fold(1usize, |n, length| n.checked_mul(*length)).filter(|n| *n <= rest.len() / 4);
    let count = if dimensions == 0 { 0 } else { count.ok_or_else(wrong)? };
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
        rest = after;
        elements.push(match i32::from_be_bytes(*length) {
            -1 => Value::Null,
            length => {
                let (taken, after) =
                    usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n)).ok_or_else(wrong)?;
                rest = after;
                read_binary(taken, element, settings)?
            }
        });
    }
    if !rest.is_empty() {
        return Err(wrong());
    }
    // The innermost dimension is grouped first.
    for length in lengths.iter().skip(1).rev() {
        if *length == 0 {
            return Ok(Vec::new());
        }
        let mut flat = elements.into_iter();
        elements = Vec::new();
        while flat.len() > 0 {
            elements.push(Value::Array(flat.by_ref().take(*length).collect()));
        }
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(value: &Value, t: &Type) -> Vec<u8> {
        let mut out = Vec::new();
        write_field(value, t, true, &Settings::default(), &mut out);
        out.split_off(4)
    }

    fn there_and_back(value: &Value, t: &Type) -> Value {
        read(&field(value, t), t, true, &Settings::default()).unwrap()
    }

    fn refused(bytes: &[u8], t: &Type) -> Condition {
        read(bytes, t, true, &Settings::default()).unwrap_err().condition()
    }

    proptest! {
        #[test]
        fn numerics_survive_binary(mantissa in any::<i128>(), digits in 0u32..=38, scale in 0u8..=38) {
            let v = Decimal::new(mantissa % 10i128.pow(digits), scale).unwrap();
            let back = there_and_back(&Value::Numeric(v), &Type::Numeric(None));
            prop_assert_eq!(text::to_text(&back, &Type::Numeric(None), &Settings::default()), v.to_string());
        }

        #[test]
        fn no_bytes_make_it_panic(
            oid in proptest::sample::select(vec![
                16u32, 17, 20, 21, 23, 25, 700, 701, 1007, 1009, 1082, 1083, 1114, 1184, 1186, 1231, 1700, 2950, 3802,
            ]),
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..60),
        ) {
            let t = Type::from_oid(oid).unwrap();
            if let Ok(value) = read(&bytes, &t, true, &Settings::default()) {
                // What was read can be shown, both ways.
                let _ = text::to_text(&value, &t, &Settings::default());
                let _ = field(&value, &t);
            }
        }
    }

    #[test]
    fn other_kinds_survive_binary() {
        let ints = |t: &[i32]| Value::Array(t.iter().map(|v| Value::Int4(*v)).collect());
        for (t, v) in [
            (Type::Bool, Value::Bool(true)),
            (Type::Int2, Value::Int2(-2)),
            (Type::Oid, Value::Oid(u32::MAX)),
            (Type::Float4, Value::Float4(1.5)),
            (Type::Float8, Value::Float8(f64::INFINITY)),
            (Type::Date, Value::Date(-5)),
            (Type::Time, Value::Time(86_400_000_000)),
            (Type::Timestamp, Value::Timestamp(-1)),
            (Type::TimestampTz, Value::TimestampTz(1_700_000_000_123_456)),
            (Type::Interval, Value::Interval(Interval { months: -1, days: 2, micros: -3 })),
            (Type::Uuid, Value::Uuid(7)),
            (Type::Bytea, Value::Bytea(Bytes::from_static(b"\0\xff"))),
            (Type::Json, Value::Json("{\"a\":1}".into())),
            (Type::Jsonb, Value::Json("{\"a\": 1}".into())),
            (Type::Array(Box::new(Type::Int4)), Value::Array(vec![Value::Int4(1), Value::Null])),
            (Type::Array(Box::new(Type::Int4)), Value::Array(vec![ints(&[1, 2]), ints(&[3, 4]), ints(&[5, 6])])),
            (Type::Array(Box::new(Type::Text)), Value::Array(vec![])),
        ] {
            assert_eq!(there_and_back(&v, &t), v);
        }
    }

    #[test]
    fn bytes_are_those_of_postgresql() {
        // select numeric_send(…), as PostgreSQL 15 answers it
        for (number, bytes) in [
            ("0", "0000000000000000"),
            ("0.00", "0000000000000002"),
            ("1", "00010000000000000001"),
            ("-12345.678", "0003000140000003000109291a7c"),
            ("10000", "00010001000000000001"),
            ("0.0001", "0001ffff000000040001"),
            ("0.00000001", "0001fffe000000080001"),
            ("100000000.5", "00040002000000010001000000001388"),
        ] {
            let v: Decimal = number.parse().unwrap();
            let shown: String =
                field(&Value::Numeric(v), &Type::Numeric(None)).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(shown, bytes, "{number}");
        }
    }

    #[test]
    fn what_is_not_a_value_is_refused() {
        let array = Type::Array(Box::new(Type::Int4));
        assert_eq!(refused(b"\0\0\0", &Type::Int4), Condition::InvalidBinaryRepresentation);
        assert_eq!(refused(&i32::MAX.to_be_bytes(), &Type::Date), Condition::DatetimeFieldOverflow);
        assert_eq!(refused(&i64::MAX.to_be_bytes(), &Type::Timestamp), Condition::DatetimeFieldOverflow);
        assert_eq!(refused(&(-1i64).to_be_bytes(), &Type::Time), Condition::DatetimeFieldOverflow);
        assert_eq!(refused(b"\0\0\0\0\xc0\0\0\0", &Type::Numeric(None)), Condition::FeatureNotSupported);
        assert_eq!(refused(b"\0\x01\x7f\xff\0\0\0\0\0\x01", &Type::Numeric(None)), Condition::NumericValueOutOfRange);
        assert_eq!(refused(b"\xff", &Type::Text), Condition::CharacterNotInRepertoire);
        assert_eq!(refused(b"a\0", &Type::Text), Condition::CharacterNotInRepertoire);
        // One dimension of a thousand million elements, and elements of another type.
        let mut huge = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23];
        huge.extend_from_slice(b"\x3f\xff\xff\xff\0\0\0\x01");
        assert_eq!(refused(&huge, &array), Condition::InvalidBinaryRepresentation);
        assert_eq!(refused(b"\0\0\0\0\0\0\0\0\0\0\0\x19", &array), Condition::DatatypeMismatch);
    }
}
