//! How a connection begins: TLS, cancel requests, startup, login.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use polity_sql::session::Session;
use polity_sql::{Condition, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::connection::Connection;
use super::frontend::{self, Malformed, Message, Opening};
use super::metrics::Place;
use super::scram::{self, Exchange, Refusal, Verifier};
use super::{Shared, Stream, backend, is_local};

/// Why a connection ends before it is one.
enum End {
    /// The client went away, or was served (a cancel request)
    Silent,
    /// The client is told why
    Told(Error),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Silent
    }
}

impl From<Malformed> for End {
    fn from(error: Malformed) -> End {
        End::Told(backend::malformed(&error))
    }
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Told(error)
    }
}

/// Serves one client from its first byte to its last.
pub(super) async fn welcome(shared: Arc<Shared>, stream: Stream, peer: SocketAddr, place: Place) {
    // What happens before the session is boxed: it is large, and soon over.
    let session = Box::pin(open(&shared, stream, peer, place.count())).await;
    let Some((session, stream, input)) = session else {
        shared.metrics.refused();
        return;
    };
    let registration = shared.register(&session, peer);
    let departure = registration.departure.clone();
    let connection = Connection::new(shared.clone(), stream, input, session, departure);
    connection.run(registration.process, &registration.secret).await;
}

/// Everything up to the session. Clients that are refused are told why.
async fn open(
    shared: &Arc<Shared>,
    stream: Stream,
    peer: SocketAddr,
    count: usize,
) -> Option<(Session, Stream, BytesMut)> {
    let deadline = tokio::time::Instant::now() + shared.options.login_timeout;
    let mut input = BytesMut::new();
    let opened = tokio::time::timeout_at(deadline, negotiate(shared, stream, peer, &mut input)).await;
    let (mut stream, parameters, minor) = opened.ok()?.ok()?;
    let login = async {
        if count > shared.options.most_connections {
            let error = Error::new(Condition::TooManyConnections, "sorry, too many clients already")
                .detail(format!("This node serves up to {} connections.", shared.options.most_connections))
                .hint("Close idle connections, or use a connection pool.");
            return Err(End::Told(error));
        }
        login(shared, &mut stream, &mut input, &parameters, minor).await
    };
    match tokio::time::timeout_at(deadline, login).await {
        Ok(Ok(session)) => return Some((session, stream, input)),
        Ok(Err(End::Told(error))) => refuse(shared, &mut stream, &error).await,
        Ok(Err(End::Silent)) => {}
        Err(_) => {
            let late = Error::new(Condition::ProtocolViolation, "canceling authentication due to timeout");
            refuse(shared, &mut stream, &late).await;
        }
    }
    None
}

async fn refuse(shared: &Shared, stream: &mut Stream, error: &Error) {
    shared.metrics.failed(error);
    tracing::debug!(%error, "a connection was refused");
    let mut out = Vec::new();
    backend::error(&mut out, error, "FATAL");
    let _ = stream.write_all(&out).await;
    let _ = stream.shutdown().await;
}

type Opened = (Stream, Vec<(String, String)>, u16);

/// TLS, if the client asks for it; cancel requests; the startup message.
async fn negotiate(
    shared: &Arc<Shared>,
    mut stream: Stream,
    peer: SocketAddr,
    input: &mut BytesMut,
) -> Result<Opened, End> {
    loop {
        let opening = loop {
            match frontend::next_opening(input) {
                Ok(Some(opening)) => break opening,
                Ok(None) => {}
                Err(error) => {
                    refuse(shared, &mut stream, &backend::malformed(&error)).await;
                    return Err(End::Silent);
                }
            }
            if stream.read_buf(input).await? == 0 {
                return Err(End::Silent);
            }
        };
        match (opening, &shared.options.tls) {
            (Opening::Ssl, Some(config)) if matches!(stream, Stream::Plain(_)) => {
                // Bytes sent before the handshake would not be protected by it (CVE-2021-23214).
                if !input.is_empty() {
                    return Err(End::Silent);
                }
                let Stream::Plain(mut plain) = stream else { return Err(End::Silent) };
                plain.write_all(b"S").await?;
                let acceptor = TlsAcceptor::from(config.clone());
                stream = Stream::Tls(Box::new(acceptor.accept(plain).await?));
            }
            (Opening::Ssl | Opening::Gss, _) => stream.write_all(b"N").await?,
            (Opening::Cancel { process, secret }, _) => {
                shared.cancel(process, &secret);
                return Err(End::Silent);
            }
            (Opening::Startup { minor, parameters }, _) => {
                if matches!(stream, Stream::Plain(_)) && !is_local(peer) {
                    let error = Error::new(Condition::InvalidAuthorizationSpecification, "TLS is required")
                        .detail(format!("The connection from {} is not encrypted.", peer.ip()))
                        .hint("Connect with sslmode=require or stronger.");
                    refuse(shared, &mut stream, &error).await;
                    return Err(End::Silent);
                }
                return Ok((stream, parameters, minor));
            }
        }
    }
}

async fn login(
    shared: &Arc<Shared>,
    stream: &mut Stream,
    input: &mut BytesMut,
    parameters: &[(String, String)],
    minor: u16,
) -> Result<Session, End> {
    let value = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let user = value("user").filter(|u| !u.is_empty()).ok_or_else(|| {
        Error::new(Condition::InvalidAuthorizationSpecification, "no PostgreSQL user name specified in startup packet")
    })?;
    let mut out = Vec::new();
    let unknown: Vec<&str> = parameters.iter().map(|(n, _)| n.as_str()).filter(|n| n.starts_with("_pq_.")).collect();
    if minor > 0 || !unknown.is_empty() {
        backend::negotiate(&mut out, &unknown);
    }
    authenticate(shared, stream, input, user, out).await?;
    let database = value("database").unwrap_or(user);
    let ours = shared.engine.database_name().await?;
    if database != ours {
        return Err(Error::new(Condition::InvalidCatalogName, format!("database \"{database}\" does not exist"))
            .hint(format!("There is one database: {ours}."))
            .into());
    }
    Ok(shared.engine.session(user, &settings(parameters)?)?)
}

/// The settings a startup message asks for, those of `options` (`-c name=value`)
/// included.
fn settings(parameters: &[(String, String)]) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    for (name, value) in parameters {
        match name.as_str() {
            "user" | "database" => {}
            "replication" if matches!(value.as_str(), "off" | "false" | "0" | "no") => {}
            "replication" => return Err(Error::unsupported("replication by PostgreSQL's protocol")),
            "options" => {
                let words = words(value);
                let mut words = words.iter();
                while let Some(word) = words.next() {
                    let assignment = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
                        Some("") => words.next().map_or("", String::as_str),
                        Some(rest) => rest,
                        None => "",
                    };
                    let (name, value) = assignment.split_once('=').ok_or_else(|| {
                        Error::new(Condition::SyntaxError, format!("invalid command-line argument: {word}"))
                    })?;
                    found.push((name.replace('-', "_"), value.to_owned()));
                }
            }
            name if name.starts_with("_pq_.") => {}
            name => found.push((name.to_owned(), value.clone())),
        }
    }
    Ok(found)
}

/// Words between blanks; a backslash takes what follows it as it is.
fn words(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let Some(word) = found.last_mut() else { break };
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_ascii_whitespace() => found.push(String::new()),
            c => word.push(c),
        }
    }
    found.retain(|word| !word.is_empty());
    found
}

async fn authenticate(
    shared: &Arc<Shared>,
    stream: &mut Stream,
    input: &mut BytesMut,
    user: &str,
    mut out: Vec<u8>,
) -> Result<(), End> {
    let wrong =
        || Error::new(Condition::InvalidPassword, format!("password authentication failed for user \"{user}\""));
    let malformed = |what: &str| backend::violation("malformed SCRAM message").detail(format!("{what}."));
    let stored = shared.engine.role_verifier(user).await?;
    let verifier =
        stored.as_deref().and_then(Verifier::parse).unwrap_or_else(|| Verifier::for_nobody(user, &shared.secret));
    backend::authentication(&mut out, 10, format!("{}\0\0", scram::MECHANISM).as_bytes());
    stream.write_all(&out).await?;
    let initial = password_message(stream, input).await?;
    let end = initial.iter().position(|b| *b == 0).ok_or_else(|| malformed("There is no mechanism"))?;
    if &initial[..end] != scram::MECHANISM.as_bytes() {
        return Err(backend::violation("client selected an invalid SASL authentication mechanism").into());
    }
    let first = initial.get(end + 5..).ok_or_else(|| malformed("There is no first message"))?;
    let mut fresh = [0; 18];
    shared.engine.seams().entropy.fill(&mut fresh);
    let refused = |refusal| match refusal {
        Refusal::WrongPassword => wrong(),
        Refusal::Malformed(what) => malformed(what),
    };
    let (exchange, challenge) = Exchange::begin(verifier, first, &fresh).map_err(refused)?;
    let mut out = Vec::new();
    backend::authentication(&mut out, 11, challenge.as_bytes());
    stream.write_all(&out).await?;
    let proof = password_message(stream, input).await?;
    let last = exchange.finish(&proof).map_err(refused)?;
    let mut out = Vec::new();
    backend::authentication(&mut out, 12, last.as_bytes());
    backend::authentication(&mut out, 0, &[]);
    stream.write_all(&out).await?;
    Ok(())
}

async fn password_message(stream: &mut Stream, input: &mut BytesMut) -> Result<bytes::Bytes, End> {
    loop {
        // Nothing but a short password message is read before the password.
        if input.first().is_some_and(|kind| *kind != b'p') {
            return Err(backend::violation("expected a password message").into());
        }
        if let Some(frame) = frontend::next_frame(input)? {
            match frontend::decode(&frame)? {
                Message::Password(_) => return Ok(frame.body),
                _ => return Err(backend::violation("expected a password message").into()),
            }
        }
        if stream.read_buf(input).await? == 0 {
            return Err(End::Silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_a_command_line() {
        let given = [("user", "a"), ("options", "-c a=1 --b-c=x\\ y -cd=2"), ("_pq_.x", "1"), ("DateStyle", "ISO")];
        let given: Vec<(String, String)> = given.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let found = settings(&given).unwrap();
        let expected = [("a", "1"), ("b_c", "x y"), ("d", "2"), ("DateStyle", "ISO")];
        assert_eq!(found, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        let wrong = settings(&[("options".to_owned(), "-x".to_owned())]).unwrap_err();
        assert_eq!(wrong.condition(), Condition::SyntaxError);
        assert!(settings(&[("replication".to_owned(), "database".to_owned())]).is_err());
    }
}
