//! Session settings: what `SET`, `SHOW` and `RESET` know.
//!
//! Every setting is in one table with the values it takes. A setting of
//! PostgreSQL's that Polity cannot honour accepts only the value that describes
//! what Polity does; anything else is an error, and so is an unknown name.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use crate::error::{Condition, Error, Result};

/// How a setting takes values.
#[derive(Clone, Copy)]
enum Rule {
    /// Only these, compared without case; the first spelling of a group that
    /// matches is kept
    OneOf(&'static [&'static str]),
    /// on / off
    Switch,
    /// A duration: a whole number of milliseconds, or with a unit; 0 means none
    Millis,
    /// A whole number in a range
    Whole(i64, i64),
    /// Any text
    Text,
    /// A time zone
    Zone,
    /// Only `public`, `"$user"`, `pg_catalog`, or nothing
    SearchPath,
    /// An isolation level
    Isolation,
    /// Can be shown, not set
    ReadOnly,
}

struct Spec {
    name: &'static str,
    default: &'static str,
    rule: Rule,
    /// Sent to the client whenever it changes (ParameterStatus)
    reported: bool,
    description: &'static str,
}

const fn spec(name: &'static str, default: &'static str, rule: Rule, description: &'static str) -> Spec {
    Spec { name, default, rule, reported: false, description }
}

const fn reported(name: &'static str, default: &'static str, rule: Rule, description: &'static str) -> Spec {
    Spec { name, default, rule, reported: true, description }
}

/// The PostgreSQL version whose behaviour Polity follows.
pub const SERVER_VERSION: &str = "15.0";

/// All settings, by name.
static SPECS: &[Spec] = &[
    reported("application_name", "", Rule::Text, "The name the client gives itself."),
    spec("backslash_quote", "safe_encoding", Rule::OneOf(&["safe_encoding"]), "Whether \\' is allowed in strings."),
    spec("bytea_output", "hex", Rule::OneOf(&["hex"]), "The output format of bytea."),
    spec("check_function_bodies", "on", Rule::Switch, "Whether function bodies are checked; there are none."),
    reported(
        "client_encoding",
        "UTF8",
        Rule::OneOf(&["UTF8", "UTF-8", "UNICODE", "SQL_ASCII"]),
        "The client's encoding.",
    ),
    spec(
        "client_min_messages",
        "notice",
        Rule::OneOf(&[
            "notice", "warning", "error", "log", "info", "debug", "debug1", "debug2", "debug3", "debug4", "debug5",
        ]),
        "The least severe messages that are sent to the client.",
    ),
    reported("DateStyle", "ISO, MDY", Rule::OneOf(&["ISO, MDY", "ISO"]), "The format of dates."),
    spec("default_table_access_method", "heap", Rule::OneOf(&["heap"]), "The way tables are stored."),
    spec("default_tablespace", "", Rule::OneOf(&["", "pg_default"]), "Where tables are created."),
    spec("default_text_search_config", "pg_catalog.simple", Rule::ReadOnly, "The text search configuration."),
    spec("default_transaction_deferrable", "off", Rule::OneOf(&["off", "false", "0", "no"]), "Not deferrable."),
    spec("default_transaction_isolation", "serializable", Rule::Isolation, "The isolation of new transactions."),
    reported("default_transaction_read_only", "off", Rule::Switch, "Whether new transactions are read only."),
    spec("default_with_oids", "off", Rule::OneOf(&["off", "false", "0", "no"]), "Tables have no oid column."),
    spec("escape_string_warning", "on", Rule::Switch, "Whether backslashes in ordinary strings are warned of."),
    spec("extra_float_digits", "1", Rule::Whole(1, 3), "Floats are printed with as many digits as they need."),
    spec("idle_in_transaction_session_timeout", "0", Rule::Millis, "How long a session may idle in a transaction."),
    spec("idle_session_timeout", "0", Rule::Millis, "How long a session may idle."),
    reported("in_hot_standby", "off", Rule::ReadOnly, "Whether this node only serves reads."),
    reported("integer_datetimes", "on", Rule::ReadOnly, "Dates and times are whole numbers of microseconds."),
    reported("IntervalStyle", "postgres", Rule::OneOf(&["postgres"]), "The format of intervals."),
    reported("is_superuser", "on", Rule::ReadOnly, "Whether the user may do everything."),
    spec("lc_collate", "C", Rule::ReadOnly, "Text is ordered by code point."),
    spec("lc_ctype", "C.UTF-8", Rule::ReadOnly, "The classification of characters."),
    spec("lc_messages", "C", Rule::OneOf(&["C", "POSIX", "en_US.UTF-8", ""]), "The language of messages."),
    spec("lc_monetary", "C", Rule::OneOf(&["C", "POSIX"]), "The format of money."),
    spec("lc_numeric", "C", Rule::OneOf(&["C", "POSIX"]), "The format of numbers."),
    spec("lc_time", "C", Rule::OneOf(&["C", "POSIX"]), "The format of day and month names."),
    spec("lock_timeout", "0", Rule::Millis, "How long a statement waits for a lock."),
    spec("max_identifier_length", "63", Rule::ReadOnly, "The longest name, in bytes."),
    spec("max_index_keys", "32", Rule::ReadOnly, "The most columns of an index."),
    spec("row_security", "on", Rule::Switch, "Whether row security applies; there are no policies."),
    spec("search_path", "\"$user\", public", Rule::SearchPath, "Where names are looked up."),
    reported("server_encoding", "UTF8", Rule::ReadOnly, "The encoding of stored text."),
    reported("server_version", SERVER_VERSION, Rule::ReadOnly, "The PostgreSQL version that is followed."),
    spec("server_version_num", "150000", Rule::ReadOnly, "The same as a number."),
    reported("session_authorization", "", Rule::ReadOnly, "The user of the session."),
    reported(
        "standard_conforming_strings",
        "on",
        Rule::OneOf(&["on", "true", "1", "yes"]),
        "Backslashes are ordinary.",
    ),
    spec("statement_timeout", "0", Rule::Millis, "How long a statement may run."),
    spec("synchronous_commit", "on", Rule::OneOf(&["on", "true", "1", "yes"]), "Acknowledged writes are on disk."),
    spec("synchronize_seqscans", "on", Rule::Switch, "Scans start anywhere; Polity's start at the first key."),
    reported("TimeZone", "UTC", Rule::Zone, "The time zone of timestamps."),
    spec("transaction_deferrable", "off", Rule::OneOf(&["off", "false", "0", "no"]), "Not deferrable."),
    spec("transaction_isolation", "serializable", Rule::Isolation, "The isolation of this transaction."),
    spec("transaction_read_only", "off", Rule::Switch, "Whether this transaction is read only."),
    spec("xmloption", "content", Rule::OneOf(&["content", "document"]), "How XML is parsed; there is no XML."),
    spec(
        "polity.guarantee",
        "strong",
        Rule::OneOf(&["strong", "eventual", "byzantine"]),
        "The guarantee of tables that name none.",
    ),
    spec(
        "polity.causal_timeout",
        "5000",
        Rule::Millis,
        "How long SET polity.causal_token waits for what the token has seen.",
    ),
    spec(
        "polity.staleness",
        "0",
        Rule::Millis,
        "How old what is read may be; 0: it is the latest. Others are read only.",
    ),
    spec(
        "polity.statement_retries",
        "25",
        Rule::Whole(0, 1000),
        "How often a lone statement is retried after a conflict.",
    ),
];

/// One session's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    values: Vec<Option<String>>,
    /// What to restore at the end of the transaction: index, value before, and
    /// whether it is restored also on commit (SET LOCAL)
    undo: Vec<(usize, Option<String>, bool)>,
    /// Tells sets of values apart, so that plans which depend on settings can be
    /// checked: plans are shared between sessions
    generation: u64,
    /// Settings whose new value the client has not been told
    unreported: Vec<usize>,
    pub(crate) fast: Fast,
}

/// Settings that are asked for with every statement, decoded once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fast {
    pub statement_timeout: Option<Duration>,
    pub lock_timeout: Option<Duration>,
    pub staleness: Option<Duration>,
    pub retries: u32,
    pub default_read_committed: bool,
    pub default_read_only: bool,
}

impl Settings {
    /// The defaults, for a session of `user`.
    pub fn new(user: &str) -> Settings {
        let mut values = vec![None; SPECS.len()];
        if let Some(at) = find("session_authorization") {
            values[at] = Some(user.to_owned());
        }
        let unreported = (0..SPECS.len()).filter(|i| SPECS[*i].reported).collect();
        let mut settings = Settings { values, undo: Vec::new(), generation: 0, unreported, fast: Fast::default() };
        settings.refresh();
        settings
    }

    /// Whether tables are found without their schema. (They are looked up there in any
    /// case; what is shown says so.)
    pub fn looks_in_public(&self) -> bool {
        self.show("search_path").is_some_and(|path| path.contains("public"))
    }

    /// The value of a setting. `None` when there is no setting of this name.
    pub fn show(&self, name: &str) -> Option<&str> {
        find(name).map(|at| self.value(at))
    }

    /// All settings: name, value, description.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &str, &'static str)> {
        SPECS.iter().enumerate().map(|(at, s)| (s.name, self.value(at), s.description))
    }

    /// The guarantee of tables that name none.
    pub fn guarantee(&self) -> &str {
        self.show("polity.guarantee").unwrap_or("strong")
    }

    /// The default of a setting.
    pub fn default_of(name: &str) -> Option<&'static str> {
        find(name).map(|at| SPECS[at].default)
    }

    /// A setting's name as it is spelled.
    pub fn spelling(name: &str) -> Option<&'static str> {
        find(name).map(|at| SPECS[at].name)
    }

    /// Equal for sessions whose settings, and users, are equal.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Sets `name` to `value` (`None`: its default), until the transaction ends
    /// when `local`, and otherwise for good if it commits.
    pub fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<()> {
        let at = find(name).ok_or_else(|| unknown(name))?;
        let value = match value {
            Some(value) => Some(check(&SPECS[at], value)?),
            None if matches!(SPECS[at].rule, Rule::ReadOnly) => return Err(read_only(SPECS[at].name)),
            None => None,
        };
        self.undo.push((at, self.values[at].clone(), local));
        self.assign(at, value);
        Ok(())
    }

    /// Sets all settings to their defaults.
    pub fn reset_all(&mut self) {
        for (at, spec) in SPECS.iter().enumerate() {
            let kept = matches!(spec.rule, Rule::ReadOnly) || spec.name.starts_with("transaction_");
            if !kept && self.values[at].is_some() {
                self.undo.push((at, self.values[at].clone(), false));
                self.assign(at, None);
            }
        }
    }

    /// The transaction ended: local settings go, and after a rollback all that
    /// it set.
    pub fn end_transaction(&mut self, committed: bool) {
        // A setting changed by SET and by SET LOCAL keeps what SET gave it.
        let mut lasting = std::collections::HashMap::new();
        let undo = std::mem::take(&mut self.undo);
        if undo.is_empty() {
            return;
        }
        if committed {
            let mut current: std::collections::HashMap<usize, Option<String>> = std::collections::HashMap::new();
            for (i, (at, before, local)) in undo.iter().enumerate() {
                let after = undo[i + 1..].iter().find(|(other, _, _)| other == at);
                let after = after.map_or_else(|| self.values[*at].clone(), |(_, value, _)| value.clone());
                let base = current.entry(*at).or_insert_with(|| before.clone());
                if !local {
                    *base = after;
                }
            }
            lasting = current;
        } else {
            for (at, before, _) in undo {
                lasting.entry(at).or_insert(before);
            }
        }
        for (at, value) in lasting {
            if self.values[at] != value {
                self.assign(at, value);
            }
        }
    }

    /// Outside a transaction: what was set stays.
    pub fn keep(&mut self) {
        self.undo.clear();
    }

    /// What the client must be told: names and values that changed since the
    /// last call.
    pub fn take_reports(&mut self) -> Vec<(String, String)> {
        if self.unreported.is_empty() {
            return Vec::new();
        }
        let mut changed = std::mem::take(&mut self.unreported);
        changed.sort_unstable();
        changed.dedup();
        changed.into_iter().map(|at| (SPECS[at].name.to_owned(), self.value(at).to_owned())).collect()
    }

    /// A duration setting; `None` when it is 0.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        let millis = self.show(name)?.parse().ok()?;
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    pub(crate) fn set_transaction_defaults(&mut self, isolation: &str, read_only: bool) {
        for (name, value) in [("transaction_isolation", isolation), ("transaction_read_only", switch(read_only))] {
            if let Some(at) = find(name) {
                self.values[at] = Some(value.to_owned());
            }
        }
    }

    fn value(&self, at: usize) -> &str {
        self.values[at].as_deref().unwrap_or(SPECS[at].default)
    }

    fn assign(&mut self, at: usize, value: Option<String>) {
        self.values[at] = value;
        if SPECS[at].reported {
            self.unreported.push(at);
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        let mut hasher = std::hash::DefaultHasher::new();
        self.values.hash(&mut hasher);
        self.generation = hasher.finish();
        self.fast = Fast {
            statement_timeout: self.duration("statement_timeout"),
            lock_timeout: self.duration("lock_timeout"),
            staleness: self.duration("polity.staleness"),
            retries: self.show("polity.statement_retries").and_then(|v| v.parse().ok()).unwrap_or(0),
            default_read_committed: self.show("default_transaction_isolation") == Some("read committed"),
            default_read_only: self.show("default_transaction_read_only") == Some("on"),
        };
    }
}

fn find(name: &str) -> Option<usize> {
    let name = if name.eq_ignore_ascii_case("time zone") { "TimeZone" } else { name };
    SPECS.iter().position(|s| s.name.eq_ignore_ascii_case(name))
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn unknown(name: &str) -> Error {
    Error::new(Condition::UndefinedObject, format!("unrecognized configuration parameter \"{name}\""))
        .hint("SHOW ALL lists the settings there are.")
}

fn read_only(name: &str) -> Error {
    Error::new(Condition::CantChangeRuntimeParam, format!("parameter \"{name}\" cannot be changed"))
}

fn invalid(spec: &Spec, value: &str) -> Error {
    let error = Error::new(
        Condition::InvalidParameterValue,
        format!("invalid value for parameter \"{}\": \"{value}\"", spec.name),
    );
    match spec.rule {
        Rule::OneOf(values) => error.hint(format!("Available values: {}.", values.join(", "))),
        Rule::Whole(least, most) => error.hint(format!("Whole numbers from {least} to {most} are accepted.")),
        Rule::Millis => error.hint("Valid units for this parameter are \"ms\", \"s\", \"min\", \"h\" and \"d\"."),
        Rule::SearchPath => error.hint("There is one schema for tables: public."),
        _ => error,
    }
}

fn check(spec: &Spec, value: &str) -> Result<String> {
    let value = value.trim();
    let checked = match spec.rule {
        Rule::Text => Some(value.to_owned()),
        Rule::ReadOnly => return Err(read_only(spec.name)),
        Rule::OneOf(values) => {
            let folded = value.split(',').map(str::trim).collect::<Vec<_>>().join(", ");
            let found = values.iter().find(|v| v.eq_ignore_ascii_case(&folded));
            found.map(|v| if canonical_first(spec.name) { values[0].to_owned() } else { (*v).to_owned() })
        }
        Rule::Switch => match value.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" | "t" | "y" => Some("on".to_owned()),
            "off" | "false" | "no" | "0" | "f" | "n" => Some("off".to_owned()),
            _ => None,
        },
        Rule::Whole(least, most) => {
            // Values below the range mean what the least value does for extra_float_digits only.
            value.parse::<i64>().ok().filter(|n| (least..=most).contains(n)).map(|n| n.to_string())
        }
        Rule::Millis => parse_millis(value).map(|n| n.to_string()),
        Rule::Zone => Some(
            polity_base::text::zone_name(value)
                .ok_or_else(|| invalid(spec, value).hint("Use UTC, or a name such as Europe/Berlin."))?,
        ),
        Rule::SearchPath => {
            let known = |part: &str| matches!(part.trim().trim_matches('"'), "public" | "$user" | "pg_catalog" | "");
            value.split(',').all(known).then(|| value.to_owned())
        }
        Rule::Isolation => match value.to_ascii_lowercase().as_str() {
            "serializable" | "repeatable read" => Some("serializable".to_owned()),
            "read committed" | "read uncommitted" => Some("read committed".to_owned()),
            _ => None,
        },
    };
    checked.ok_or_else(|| invalid(spec, value))
}

/// Settings whose accepted spellings all mean the same.
fn canonical_first(name: &str) -> bool {
    matches!(name, "client_encoding" | "DateStyle" | "standard_conforming_strings" | "synchronous_commit")
        || name.starts_with("default_with")
        || name.ends_with("deferrable")
}

fn parse_millis(value: &str) -> Option<u64> {
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let factor = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|n| *n <= i32::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_and_values_are_errors() {
        let mut s = Settings::new("ann");
        assert_eq!(s.set("no_such_setting", Some("1"), false).unwrap_err().condition(), Condition::UndefinedObject);
        assert_eq!(
            s.set("bytea_output", Some("escape"), false).unwrap_err().condition(),
            Condition::InvalidParameterValue
        );
        assert_eq!(
            s.set("server_version", Some("16"), false).unwrap_err().condition(),
            Condition::CantChangeRuntimeParam
        );
        assert!(s.set("search_path", Some("elsewhere"), false).is_err());
    }

    #[test]
    fn names_are_found_in_any_case_and_durations_in_any_unit() {
        let mut s = Settings::new("ann");
        s.set("STATEMENT_TIMEOUT", Some("2s"), false).unwrap();
        assert_eq!(s.show("statement_timeout"), Some("2000"));
        assert_eq!(s.fast.statement_timeout, Some(Duration::from_secs(2)));
        s.set("client_encoding", Some("utf-8"), false).unwrap();
        assert_eq!(s.show("client_encoding"), Some("UTF8"));
    }

    #[test]
    fn local_settings_end_with_the_transaction_and_all_with_a_rollback() {
        let mut s = Settings::new("ann");
        s.set("application_name", Some("a"), false).unwrap();
        s.keep();
        s.set("application_name", Some("b"), true).unwrap();
        assert_eq!(s.show("application_name"), Some("b"));
        s.end_transaction(true);
        assert_eq!(s.show("application_name"), Some("a"));
        s.set("application_name", Some("c"), false).unwrap();
        s.set("application_name", Some("d"), true).unwrap();
        s.end_transaction(true);
        assert_eq!(s.show("application_name"), Some("c"));
        s.set("application_name", Some("e"), false).unwrap();
        s.end_transaction(false);
        assert_eq!(s.show("application_name"), Some("c"));
    }
}
