use proptest::prelude::*;

use super::*;
use crate::value::Interval;

fn read(text: &str, t: Type) -> Value {
    parse(text, &t, &Settings::default()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// `given` read as `t` and written again.
fn through(given: &str, t: Type) -> String {
    to_text(&read(given, t.clone()), &t, &Settings::default())
}

fn fault(text: &str, t: Type) -> Fault {
    parse(text, &t, &Settings::default()).unwrap_err().fault
}

#[test]
fn values_read_and_write_as_in_postgresql() {
    for (t, given, expected) in [
        (Type::Bool, " YES ", "t"),
        (Type::Bool, "of", "f"),
        (Type::Int4, " -7 ", "-7"),
        (Type::Float8, "1e15", "1e+15"),
        (Type::Float8, "100000000000000", "100000000000000"),
        (Type::Float8, "0.0001", "0.0001"),
        (Type::Float8, "0.00001", "1e-05"),
        (Type::Float8, "123456789012345678", "1.2345678901234568e+17"),
        (Type::Float8, "-0", "-0"),
        (Type::Float8, "inf", "Infinity"),
        (Type::Float4, "1.1", "1.1"),
        (Type::Float4, "1234567", "1.234567e+06"),
        (Type::Float4, "123456", "123456"),
        // Texts that lie half way between two floats get more digits, ties the even one.
        (Type::Float8, "1e23", "9.999999999999999e+22"),
        (Type::Float8, "5.9933e20", "5.993299999999999e+20"),
        (Type::Float4, "3.5548863e6", "3.5548862e+06"),
        (Type::Float4, "4.6944e10", "4.6944002e+10"),
        (Type::Float8, "5e-324", "5e-324"),
        (Type::Numeric(Some((5, 2))), "0.00500000000000000000000000000000000000000001", "0.01"),
        (Type::Numeric(Some((3, 3))), ".9994", "0.999"),
        (Type::Oid, "-1", "4294967295"),
        (
            Type::Name,
            "é234567890123456789012345678901234567890123456789012345678901é",
            "é234567890123456789012345678901234567890123456789012345678901",
        ),
        (Type::Numeric(Some((8, 2))), "5.555", "5.56"),
        (Type::Numeric(None), "1.500", "1.500"),
        (Type::Char(5), "ab", "ab   "),
        (Type::Varchar(Some(3)), "abc  ", "abc"),
        (Type::Bytea, "\\xDEADbeef", "\\xdeadbeef"),
        (Type::Bytea, "a\\\\b\\001", "\\x615c6201"),
        (Type::Date, "2024-02-29", "2024-02-29"),
        (Type::Date, "20240102", "2024-01-02"),
        (Type::Date, "January 3, 2024", "2024-01-03"),
        (Type::Date, "3-Jan-2024", "2024-01-03"),
        (Type::Date, "1/2/2003", "2003-01-02"),
        (Type::Date, "0044-03-15 BC", "0044-03-15 BC"),
        (Type::Date, "1999.008", "1999-01-08"),
        (Type::Date, "J2451187", "1999-01-08"),
        (Type::Date, "Jan-3-2024", "2024-01-03"),
        (Type::Date, "January 8, 99 BC", "0099-01-08 BC"),
        (Type::Date, "5874897-12-31", "5874897-12-31"),
        (Type::Date, "4714-11-24 BC", "4714-11-24 BC"),
        (Type::Time, "23:59:59.5", "23:59:59.5"),
        (Type::Time, "040506.789+08", "04:05:06.789"),
        (Type::Time, "allballs", "00:00:00"),
        (Type::Time, "23:59:60", "24:00:00"),
        (Type::Timestamp, "20240102T030405", "2024-01-02 03:04:05"),
        (Type::Timestamp, "Tue Jan 02 03:04:05 2024 PST", "2024-01-02 03:04:05"),
        (Type::Timestamp, "2024-01-02 03:04:05.1234565", "2024-01-02 03:04:05.123456"),
        (Type::Timestamp, "2024-01-02 24:00", "2024-01-03 00:00:00"),
        (Type::TimestampTz, "2024-07-02 03:04:05 PDT", "2024-07-02 10:04:05+00"),
        (Type::TimestampTz, "2024-07-02 03:04:05 Europe/Berlin", "2024-07-02 01:04:05+00"),
        (Type::TimestampTz, "2024-07-02 03:04:05 UTC+3", "2024-07-02 06:04:05+00"),
        (Type::Time, "04:05 PM", "16:05:00"),
        (Type::Timestamp, "2024-01-02T03:04:05", "2024-01-02 03:04:05"),
        (Type::Timestamp, "2024-01-02", "2024-01-02 00:00:00"),
        (Type::TimestampTz, "2024-01-02 03:04:05-08", "2024-01-02 11:04:05+00"),
        (Type::TimestampTz, "2024-02-29 12:00:00+05:30", "2024-02-29 06:30:00+00"),
        (Type::Interval, "1 year 2 months 3 days 4 hours", "1 year 2 mons 3 days 04:00:00"),
        (Type::Interval, "-3 days", "-3 days"),
        (Type::Interval, "1 day -00:00:01", "1 day -00:00:01"),
        (Type::Interval, "-1 days +2 hours", "-1 days +02:00:00"),
        (Type::Interval, "90 minutes", "01:30:00"),
        (Type::Interval, "1.5 months", "1 mon 15 days"),
        (Type::Interval, "P1Y2M3DT4H5M6S", "1 year 2 mons 3 days 04:05:06"),
        (Type::Interval, "2 hours ago", "-02:00:00"),
        (Type::Interval, "0", "00:00:00"),
        (Type::Interval, "1.1 years", "1 year 1 mon"),
        (Type::Interval, "0.1 month", "3 days"),
        (Type::Interval, "1 12:34", "1 day 12:34:00"),
        (Type::Interval, "-1-2", "-1 years -2 mons"),
        (Type::Interval, "P0001-02-03T04:05:06", "1 year 2 mons 3 days 04:05:06"),
        (Type::Interval, "PT040506", "04:05:06"),
        (Type::Jsonb, "1.5e3", "1500"),
        (Type::Jsonb, "-0.0", "0.0"),
        (Type::Json, "\"\\u0000\"", "\"\\u0000\""),
        (Type::Array(Box::new(Type::Int4)), "[1:1][1:2]={{1,2}}", "{{1,2}}"),
        (Type::Uuid, "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        (Type::Jsonb, "{\"bb\": 1,  \"a\":[1,2.50], \"bb\": \"x\\u00e9\"}", "{\"a\": [1, 2.50], \"bb\": \"xé\"}"),
        (Type::Json, "{\"b\":  1}", "{\"b\":  1}"),
        (Type::Array(Box::new(Type::Int4)), "{1, NULL,3}", "{1,NULL,3}"),
        (Type::Array(Box::new(Type::Text)), "{a,\"b,c\",\"\",\"NULL\"}", "{a,\"b,c\",\"\",\"NULL\"}"),
        (Type::Array(Box::new(Type::Int4)), "{{1,2},{3,4}}", "{{1,2},{3,4}}"),
    ] {
        assert_eq!(through(given, t.clone()), expected, "{t}: {given}");
    }
}

#[test]
fn faults_are_postgresqls() {
    for (t, text, expected) in [
        (Type::Int2, "40000", Fault::OutOfRange),
        (Type::Int4, "abc", Fault::Syntax),
        (Type::Int4, "1.5", Fault::Syntax),
        (Type::Float8, "1e999", Fault::OutOfRange),
        (Type::Float8, "", Fault::Syntax),
        (Type::Numeric(Some((4, 2))), "100", Fault::OutOfRange),
        (Type::Varchar(Some(3)), "abcd", Fault::TooLong),
        (Type::Date, "2024-02-30", Fault::DatetimeRange),
        (Type::Date, "nonsense", Fault::DatetimeSyntax),
        (Type::Date, "infinity", Fault::Unsupported),
        (Type::Time, "25:00", Fault::DatetimeRange),
        (Type::Interval, "1 fortnight", Fault::DatetimeSyntax),
        (Type::Uuid, "nope", Fault::Syntax),
        (Type::Jsonb, "{bad", Fault::Syntax),
        (Type::Bytea, "\\xZZ", Fault::Parameter),
        (Type::Bool, "maybe", Fault::Syntax),
        (Type::Array(Box::new(Type::Int4)), "{1,", Fault::Syntax),
        (Type::Array(Box::new(Type::Int4)), "{{1,2},{3}}", Fault::Syntax),
        (Type::Array(Box::new(Type::Int4)), "{1,{2}}", Fault::Syntax),
        (Type::Array(Box::new(Type::Int4)), "{{{{{{{1}}}}}}}", Fault::Limit),
        (Type::Array(Box::new(Type::Int4)), "[0:1]={1,2}", Fault::Unsupported),
        (Type::Uuid, "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11", Fault::Syntax),
        (Type::Date, "monday 2024-01-01", Fault::DatetimeSyntax),
        (Type::Date, "5874898-01-01", Fault::DatetimeRange),
        (Type::TimestampTz, "2024-01-02 03:04:05+16", Fault::ZoneRange),
        (Type::TimestampTz, "2024-01-02 03:04:05 Mars/Olympus", Fault::Parameter),
        (Type::Time, "04:05 America/New_York", Fault::DatetimeSyntax),
        (Type::Interval, "1 hour 2 hours", Fault::DatetimeSyntax),
        (Type::Interval, "2147483648 days", Fault::IntervalRange),
        (Type::Interval, "178956971 years", Fault::DatetimeRange),
        (Type::Jsonb, "\"\\u0000\"", Fault::Untranslatable),
        (Type::Jsonb, "\"\\ud83d\"", Fault::Syntax),
        (Type::Numeric(None), "NaN", Fault::Unsupported),
    ] {
        assert_eq!(fault(text, t.clone()), expected, "{t}: {text}");
    }
}

#[test]
fn named_zones_follow_their_rules() {
    let settings = Settings { zone: Zone::parse("america/new_york").unwrap(), now: 0 };
    let read = |text: &str| parse(text, &Type::TimestampTz, &settings).unwrap();
    assert_eq!(to_text(&read("2024-07-01 12:00"), &Type::TimestampTz, &settings), "2024-07-01 12:00:00-04");
    assert_eq!(to_text(&read("2024-01-01 12:00Z"), &Type::TimestampTz, &settings), "2024-01-01 07:00:00-05");
    // Rules go on beyond the tables.
    assert_eq!(to_text(&read("2250-07-01 12:00"), &Type::TimestampTz, &settings), "2250-07-01 12:00:00-04");
    // Clocks that skip an hour and clocks that repeat one.
    assert_eq!(to_text(&read("2024-03-10 02:30"), &Type::TimestampTz, &settings), "2024-03-10 03:30:00-04");
    assert_eq!(to_text(&read("2024-11-03 01:30"), &Type::TimestampTz, &settings), "2024-11-03 01:30:00-05");
    assert_eq!(zone_name("utc").as_deref(), Some("UTC"));
    assert_eq!(zone_name("-8").as_deref(), Some("<-08>+08"));
    assert_eq!(Zone::parse("<-08>+08"), Some(Zone::Fixed(-8 * 3600)));
    assert_eq!(Zone::parse("+02:00"), Some(Zone::Fixed(-2 * 3600)));
    assert_eq!(zone_name("Mars/Olympus"), None);
}

fn kinds() -> impl Strategy<Value = (Type, Value)> {
    prop_oneof![
        any::<i64>().prop_map(|v| (Type::Int8, Value::Int8(v))),
        any::<f64>().prop_filter("NaN", |v| !v.is_nan()).prop_map(|v| (Type::Float8, Value::Float8(v))),
        any::<f32>().prop_filter("NaN", |v| !v.is_nan()).prop_map(|v| (Type::Float4, Value::Float4(v))),
        (-700_000i32..2_000_000).prop_map(|v| (Type::Date, Value::Date(v))),
        (0i64..86_400_000_000).prop_map(|v| (Type::Time, Value::Time(v))),
        (-60_000_000_000_000_000i64..200_000_000_000_000_000).prop_map(|v| (Type::Timestamp, Value::Timestamp(v))),
        (-60_000_000_000_000_000i64..200_000_000_000_000_000).prop_map(|v| (Type::TimestampTz, Value::TimestampTz(v))),
        (-10_000i32..10_000, -10_000i32..10_000, -1_000_000_000_000i64..1_000_000_000_000)
            .prop_map(|(months, days, micros)| (Type::Interval, Value::Interval(Interval { months, days, micros }))),
        any::<u128>().prop_map(|v| (Type::Uuid, Value::Uuid(v))),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|v| (Type::Bytea, Value::Bytea(v.into()))),
        proptest::collection::vec(prop_oneof![Just(Value::Null), ".{0,5}".prop_map(Value::Text)], 0..5)
            .prop_map(|v| (Type::Array(Box::new(Type::Text)), Value::Array(v))),
    ]
}

proptest! {
    #[test]
    fn what_is_written_reads_back((t, value) in kinds()) {
        let text = to_text(&value, &t, &Settings::default());
        prop_assert_eq!(parse(&text, &t, &Settings::default()).unwrap(), value, "{}", text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[ -~é]{0,24}") {
        for oid in [16, 17, 20, 21, 23, 25, 114, 700, 701, 1007, 1009, 1082, 1083, 1114, 1184, 1186, 1700, 2950, 3802] {
            let t = Type::from_oid(oid).unwrap();
            let _ = parse(&text, &t, &Settings::default());
        }
        let _ = zone_name(&text);
    }

    #[test]
    fn no_date_like_text_makes_it_panic(text in "[-+0-9:./ tTzapmbcjanAgoPYMDSWH,<>]{0,40}") {
        for oid in [1082, 1083, 1114, 1184, 1186] {
            let _ = parse(&text, &Type::from_oid(oid).unwrap(), &Settings::default());
        }
        let _ = zone_name(&text);
    }

    #[test]
    fn no_braces_make_it_panic(text in "[\\[\\]{}\"\\\\,: =a1é]{0,30}") {
        for oid in [114, 1007, 1009, 3802, 3807] {
            let _ = parse(&text, &Type::from_oid(oid).unwrap(), &Settings::default());
        }
    }

    #[test]
    fn no_value_makes_writing_panic(wide in any::<i64>(), narrow in any::<i32>(), months in any::<i32>()) {
        let settings = Settings { zone: Zone::parse("America/New_York").unwrap(), now: 0 };
        for value in [
            Value::Date(narrow),
            Value::Time(wide),
            Value::Timestamp(wide),
            Value::TimestampTz(wide),
            Value::Interval(Interval { months, days: narrow, micros: wide }),
        ] {
            let _ = to_text(&value, &Type::Text, &settings);
        }
    }
}
