//! PostgreSQL's wire protocol, version 3 (PostgreSQL manual, chapter 55).
//!
//! One task serves one connection: it decodes what has arrived, runs the session,
//! and writes into one buffer that is sent when the client waits for an answer
//! (Sync, Flush, the end of a simple query) or when it has grown large. So a
//! pipeline of any length costs one read and one write.
//!
//! | module         | holds                                             |
//! |----------------|---------------------------------------------------|
//! | [`frontend`]   | decoding what clients send                        |
//! | [`backend`]    | encoding what the server sends                    |
//! | [`value`]      | values as text and binary, both ways              |
//! | [`scram`]      | authentication by password                        |
//! | `opening`      | TLS, cancel requests, startup, login              |
//! | `connection`   | the conversation after login                      |
//! | `departure`    | asking a connection to end                        |
//! | `metrics`      | what is counted                                   |

pub mod backend;
mod connection;
mod departure;
pub mod frontend;
mod metrics;
mod opening;
pub mod scram;
#[cfg(test)]
mod tests;
pub mod value;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use parking_lot::Mutex;
use polity_sql::session::{Canceller, Engine, Session};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use self::departure::Departure;
pub use self::metrics::DoorMetrics;

/// How the door is set up.
#[derive(Clone)]
pub struct DoorOptions {
    /// TLS; without it only clients on this machine are let in
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The most connections at once
    pub most_connections: usize,
    /// How long a client may take to log in
    pub login_timeout: Duration,
}

/// How long connections have to end when the door closes.
const GRACE: Duration = Duration::from_secs(5);

/// What all connections share.
struct Shared {
    engine: Arc<Engine>,
    options: DoorOptions,
    metrics: Arc<DoorMetrics>,
    /// Keys the salts of users that do not exist
    secret: [u8; 32],
    sessions: Mutex<HashMap<i32, Listed>>,
}

/// A session, as others can reach it.
struct Listed {
    secret: [u8; 4],
    canceller: Canceller,
    departure: Arc<Departure>,
}

/// A session's entry in the list, until it is dropped.
struct Registration {
    shared: Arc<Shared>,
    process: i32,
    secret: [u8; 4],
    departure: Arc<Departure>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.sessions.lock().remove(&self.process);
    }
}

impl Shared {
    /// Gives a session the secret by which it can be cancelled, and lets other sessions end it.
    fn register(self: &Arc<Self>, session: &Session, peer: SocketAddr) -> Registration {
        let mut secret = [0; 4];
        self.engine.seams().entropy.fill(&mut secret);
        let departure = Arc::<Departure>::default();
        let presence = session.presence();
        let asked = departure.clone();
        presence.connected(peer, move || asked.ask());
        let process = i32::try_from(presence.number).unwrap_or(i32::MAX);
        let listed = Listed { secret, canceller: session.canceller(), departure: departure.clone() };
        self.sessions.lock().insert(process, listed);
        Registration { shared: self.clone(), process, secret, departure }
    }

    fn cancel(&self, process: i32, secret: &[u8]) {
        let sessions = self.sessions.lock();
        let known = sessions.get(&process).filter(|s| verify_slices_are_equal(&s.secret, secret).is_ok());
        if let Some(session) = known {
            session.canceller.cancel();
        }
    }

    /// Asks every session to end, whatever it runs.
    fn send_away(&self) {
        for session in self.sessions.lock().values() {
            session.departure.ask();
            session.canceller.cancel();
        }
    }
}

/// Serves connections to `listener` until `stopping` turns true; then asks those
/// that are open to end, and waits a while for them.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    options: DoorOptions,
    metrics: Arc<DoorMetrics>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut secret = [0; 32];
    engine.seams().entropy.fill(&mut secret);
    let shared = Arc::new(Shared { engine, options, metrics, secret, sessions: Mutex::default() });
    // Connections inherit it: a client whose machine is gone is noticed in the end.
    if let Err(error) = socket2::SockRef::from(&listener).set_keepalive(true) {
        tracing::debug!(%error, "keepalive could not be set");
    }
    let mut tasks = JoinSet::new();
    let stop = async { stopping.wait_for(|stop| *stop).await.map(|_| ()) };
    tokio::pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => admit(&shared, accepted, &mut tasks).await,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            _ = &mut stop => break,
        }
    }
    drop(listener);
    shared.send_away();
    let ended = tokio::time::timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(connections = tasks.len(), "connections that did not end were dropped");
    }
}

/// Clients that have not logged in yet may be as many as there are connections,
/// and a few more; beyond that nobody is answered.
const SPARE: usize = 64;

async fn admit(shared: &Arc<Shared>, accepted: io::Result<(TcpStream, SocketAddr)>, tasks: &mut JoinSet<()>) {
    match accepted {
        Ok((stream, peer)) => {
            let place = shared.metrics.connected();
            if place.count() > shared.options.most_connections.saturating_mul(2).saturating_add(SPARE) {
                shared.metrics.refused();
                return;
            }
            let _ = stream.set_nodelay(true);
            tasks.spawn(opening::welcome(shared.clone(), Stream::Plain(stream), peer, place));
        }
        Err(error) => {
            // Out of file descriptors, most likely: others may end soon.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A connection, encrypted or not.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_read(cx, buf),
            #[cfg(test)]
            Stream::Memory(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_write(cx, buf),
            #[cfg(test)]
            Stream::Memory(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_flush(cx),
            Stream::Tls(s) => Pin::new(s).poll_flush(cx),
            #[cfg(test)]
            Stream::Memory(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls(s) => Pin::new(s).poll_shutdown(cx),
            #[cfg(test)]
            Stream::Memory(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// Whether a client is on this machine.
fn is_local(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}
