//! What the server sends, written straight into the connection's out buffer.

use polity_sql::session::{Column, Notice, TransactionStatus};
use polity_sql::{Condition, Error};

use super::frontend::Malformed;
use super::value::Formats;

/// Writes one message: its type byte, its length, and what `body` writes.
pub fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    // No message of ours reaches 2 GiB: rows that large are refused.
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Writes text and the zero byte that ends it.
pub fn text(out: &mut Vec<u8>, text: &str) {
    // A zero inside would end the text early for the reader.
    match text.split_once('\0') {
        None => out.extend_from_slice(text.as_bytes()),
        Some(_) => out.extend(text.bytes().filter(|b| *b != 0)),
    }
    out.push(0);
}

/// The authentication request with this code, and what belongs to it.
pub fn authentication(out: &mut Vec<u8>, code: u32, data: &[u8]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// ParameterStatus
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, b'S', |out| {
        text(out, name);
        text(out, value);
    });
}

/// BackendKeyData
pub fn key_data(out: &mut Vec<u8>, process: i32, secret: &[u8]) {
    message(out, b'K', |out| {
        out.extend_from_slice(&process.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// NegotiateProtocolVersion: that we speak version 3.0, and the options we do not
/// know
pub fn negotiate(out: &mut Vec<u8>, unknown: &[&str]) {
    message(out, b'v', |out| {
        // PostgreSQL sends the whole version here, not its minor part alone.
        out.extend_from_slice(&(3u32 << 16).to_be_bytes());
        out.extend_from_slice(&(unknown.len() as u32).to_be_bytes());
        unknown.iter().for_each(|name| text(out, name));
    });
}

/// ReadyForQuery
pub fn ready(out: &mut Vec<u8>, status: TransactionStatus) {
    message(out, b'Z', |out| {
        out.push(match status {
            TransactionStatus::Idle => b'I',
            TransactionStatus::Active => b'T',
            TransactionStatus::Failed => b'E',
        });
    });
}

/// A message without a body: ParseComplete, BindComplete, NoData, …
pub fn bare(out: &mut Vec<u8>, kind: u8) {
    message(out, kind, |_| {});
}

/// CommandComplete
pub fn complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |out| text(out, tag));
}

/// RowDescription
pub fn row_description(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    message(out, b'T', |out| {
        out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
        for (at, column) in columns.iter().enumerate() {
            text(out, &column.name);
            let (table, attribute) = column.source.unwrap_or((0, 0));
            out.extend_from_slice(&table.to_be_bytes());
            out.extend_from_slice(&attribute.to_be_bytes());
            out.extend_from_slice(&column.r#type.oid().to_be_bytes());
            out.extend_from_slice(&column.r#type.length().to_be_bytes());
            out.extend_from_slice(&column.r#type.modifier().to_be_bytes());
            out.extend_from_slice(&i16::from(formats.is_binary(at)).to_be_bytes());
        }
    });
}

/// ParameterDescription
pub fn parameter_description(out: &mut Vec<u8>, oids: impl ExactSizeIterator<Item = u32>) {
    message(out, b't', |out| {
        out.extend_from_slice(&(oids.len() as u16).to_be_bytes());
        oids.for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
    });
}

/// CopyInResponse (`G`) or CopyOutResponse (`H`): text
pub fn copy_response(out: &mut Vec<u8>, kind: u8, columns: usize) {
    message(out, kind, |out| {
        out.push(0);
        out.extend_from_slice(&(columns as u16).to_be_bytes());
        (0..columns).for_each(|_| out.extend_from_slice(&[0, 0]));
    });
}

/// CopyData
pub fn copy_data(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'd', |out| out.extend_from_slice(data));
}

/// ErrorResponse
pub fn error(out: &mut Vec<u8>, error: &Error, severity: &str) {
    let position = error.position().map(|p| p.to_string());
    fields(
        out,
        b'E',
        [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(error.condition().code())),
            (b'M', Some(error.message())),
            (b'D', error.detail_text()),
            (b'H', error.hint_text()),
            (b'P', position.as_deref()),
            (b's', error.table_name().map(|_| "public")),
            (b't', error.table_name()),
            (b'c', error.column_name()),
            (b'n', error.constraint_name()),
        ],
    );
}

/// NoticeResponse
pub fn notice(out: &mut Vec<u8>, notice: &Notice) {
    fields(
        out,
        b'N',
        [
            (b'S', Some(notice.severity)),
            (b'V', Some(notice.severity)),
            (b'C', Some(notice.code)),
            (b'M', Some(notice.message.as_str())),
            (b'D', notice.detail.as_deref()),
            (b'H', notice.hint.as_deref()),
        ],
    );
}

fn fields<const N: usize>(out: &mut Vec<u8>, kind: u8, fields: [(u8, Option<&str>); N]) {
    message(out, kind, |out| {
        for (field, value) in fields {
            if let Some(value) = value {
                out.push(field);
                text(out, value);
            }
        }
        out.push(0);
    });
}

/// The error that a malformed message is answered with.
pub fn malformed(error: &Malformed) -> Error {
    let condition = match error {
        Malformed::Encoding(_) => Condition::CharacterNotInRepertoire,
        Malformed::Version(..) => Condition::FeatureNotSupported,
        _ => Condition::ProtocolViolation,
    };
    Error::new(condition, error.to_string())
}

/// A violation of the protocol.
pub fn violation(what: impl std::fmt::Display) -> Error {
    Error::new(Condition::ProtocolViolation, what.to_string())
}
