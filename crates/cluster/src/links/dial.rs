//! Making connections, and making them again.
//!
//! Each peer that is called has a task for its control connection and one for its
//! bulk connection. A connection that ends is made again at once, one that cannot
//! be made after pauses that double up to a bound, each about half as long or half
//! as long again, so that nodes do not knock in step. While nobody calls, nobody
//! knocks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::carrier::{BoxStream, Carrier, Greeting, Purpose, Transport};
use super::connection::{Connection, End, Ends, Particulars};
use super::frame::{self, Frame, Kind, Message};
use super::hub::Hub;
use super::peer::{Peer, State};
use super::refused::Reason;
use super::tls::{self, Witness};
use super::{Traffic, listen};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Without a call in this time, a peer that cannot be reached is left alone.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// A connection that lived so long worked.
const WORKED: Duration = Duration::from_secs(1);
/// Bytes of the first message of either side.
const GREETING: usize = 4096;

type Dialled = (Arc<Connection>, Ends<BoxStream>);

/// Says that a connection to `address` is wanted; starts the task that keeps it, if it
/// does not run yet.
pub fn want(hub: &Arc<Hub>, peer: &Arc<Peer>, traffic: Traffic, address: &str) {
    peer.outbound(traffic).want(address);
    let started = &peer.outbound(traffic).started;
    if !started.load(Ordering::Relaxed) && !started.swap(true, Ordering::Relaxed) {
        hub.spawn(keep(hub.clone(), peer.clone(), traffic));
    }
}

async fn keep(hub: Arc<Hub>, peer: Arc<Peer>, traffic: Traffic) {
    let outbound = peer.outbound(traffic);
    let mut address = outbound.address.subscribe();
    let mut pause = FIRST_PAUSE;
    let (mut down_since, mut calls, mut called) = (None, 0, Instant::now());
    loop {
        if outbound.up().is_none() && down_since.is_none() {
            outbound.state.send_replace(State::Dialling);
        }
        let place = address.borrow_and_update().clone();
        let patience = hub.limits.dial_timeout;
        let dialled = tokio::time::timeout(patience, dial(&hub, &peer, traffic, &place)).await;
        let why = match dialled {
            Ok(Ok((connection, ends))) => {
                let since = Instant::now();
                let replaced = outbound.up();
                outbound.state.send_replace(State::Up(connection.clone(), since));
                peer.counters(traffic).connects.fetch_add(1, Ordering::Relaxed);
                if traffic == Traffic::Control && replaced.is_none() {
                    tracing::info!(peer = %peer.node, address = place, "linked");
                }
                if let Some(old) = replaced {
                    hub.spawn(drain(old, hub.limits.retirement));
                }
                hub.spawn_whole({
                    let connection = connection.clone();
                    async move { drop(connection.run(ends).await) }
                });
                let Some(end) = wait(&connection).await else {
                    down_since = None;
                    continue;
                };
                if let (Traffic::Control, End::Silent(_)) = (traffic, &end)
                    && let Some(bulk) = peer.outbound(Traffic::Bulk).up()
                {
                    bulk.close(end.clone());
                }
                if since.elapsed() >= WORKED {
                    if traffic == Traffic::Control && !matches!(end, End::Offence(_)) {
                        tracing::warn!(peer = %peer.node, why = %end, "a link ended");
                    }
                    (pause, down_since) = (FIRST_PAUSE, None);
                    continue;
                }
                end.to_string()
            }
            Ok(Err(why)) => why,
            Err(_) => format!("{place} does not answer"),
        };
        if outbound.up().is_none() {
            if hub.worth_logging(format!("{} {why}", peer.node)) {
                tracing::warn!(peer = %peer.node, address = place, why, "a link cannot be made");
            }
            let since = *down_since.get_or_insert_with(Instant::now);
            outbound.state.send_replace(State::Down(since, why));
        }
        tokio::select! {
            () = tokio::time::sleep(hub.about(pause)) => {}
            _ = address.changed() => pause = FIRST_PAUSE,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        let calls_now = outbound.calls.load(Ordering::Relaxed);
        if calls_now != calls {
            (calls, called) = (calls_now, Instant::now());
        } else if called.elapsed() > FORGOTTEN && outbound.up().is_none() {
            outbound.state.send_replace(State::Idle);
            outbound.wanted.notified().await;
            (called, pause, down_since) = (Instant::now(), FIRST_PAUSE, None);
        }
    }
}

/// Waits until a connection ended, and gives the reason; none if it is to be
/// replaced.
async fn wait(connection: &Arc<Connection>) -> Option<End> {
    tokio::select! {
        end = connection.ended() => Some(end),
        () = connection.to_be_retired() => None,
    }
}

/// Closes a replaced connection once its calls are answered, or after `bound`.
async fn drain(old: Arc<Connection>, bound: Duration) {
    let patience = Instant::now() + bound;
    while old.calls.waiting() > 0 && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    old.close(End::Replaced);
}

/// Makes one connection.
async fn dial(hub: &Arc<Hub>, peer: &Arc<Peer>, traffic: Traffic, address: &str) -> Result<Dialled, String> {
    if hub.faults.cuts(peer.node) {
        std::future::pending::<()>().await;
    }
    let (mut stream, not_after) = match &hub.transport {
        Transport::Tls => dial_tls(hub, peer, address).await?,
        Transport::Plain(carrier) => (dial_plain(hub, peer, &**carrier, address).await?, i64::MAX),
    };
    let mut buffer = BytesMut::new();
    greet(&mut stream, Kind::Hello(traffic)).await.map_err(|e| format!("{address}: {e}"))?;
    match greeted(&mut stream, &mut buffer).await.map_err(|e| format!("{address}: {e}"))? {
        Kind::Welcome => {}
        Kind::Rejected(why) => return Err(format!("{address} refuses this node: {why}")),
        other => return Err(format!("{address} greets with {}", other.word())),
    }
    let particulars = Particulars { traffic, dialled: true, not_after };
    Ok(Connection::new(hub.clone(), peer.clone(), particulars, stream, buffer))
}

/// A connection to `peer`, which it has proved to be, and until when its certificate
/// is valid.
async fn dial_tls(hub: &Arc<Hub>, peer: &Arc<Peer>, address: &str) -> Result<(BoxStream, i64), String> {
    let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    listen::tune(&stream);
    let credentials = hub.credentials.read().clone();
    let witness = Witness::new(credentials.clone());
    let config = tls::client(&credentials, &hub.time, witness.clone()).map_err(|e| e.to_string())?;
    // Certificates of links name nodes, not hosts; TLS wants a name nevertheless.
    let host = ServerName::try_from("node.polity.invalid").map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(host, stream).await.map_err(|error| {
        match witness.presented() {
            Some(presented) => {
                let who = presented.who();
                hub.refused(Reason::of_handshake(&error), &who, &error.to_string());
                format!("{address} is not believed to be {who}: {error}")
            }
            None => format!("{address}: {error}"),
        }
    })?;
    let (_, session) = stream.get_ref();
    let identified = hub.identify(session.peer_certificates()).and_then(|(node, not_after)| match node {
        node if node != peer.node => Err(format!("node {} answers there", node.0)),
        _ => Ok(not_after),
    });
    let identified = match identified {
        Ok(_) if !tls::speaks_links(session.alpn_protocol()) => {
            Err((Reason::Protocol, "it does not speak the links' protocol".to_owned()))
        }
        other => other.map_err(|why| (Reason::Name, why)),
    };
    let not_after = identified.map_err(|(reason, why)| {
        hub.refused(reason, &witness.presented().map_or_else(|| address.to_owned(), |p| p.who()), &why);
        format!("{address}: {why}")
    })?;
    Ok((Box::new(stream), not_after))
}

/// A connection to `peer`, which it says it is.
async fn dial_plain(
    hub: &Arc<Hub>,
    peer: &Arc<Peer>,
    carrier: &dyn Carrier,
    address: &str,
) -> Result<BoxStream, String> {
    let mut stream = carrier.connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    let own = Greeting { purpose: Purpose::Link, cluster: hub.cluster, node: hub.node };
    let greeting = own.exchange(&mut stream).await.map_err(|e| format!("{address}: {e}"))?;
    if greeting.node != peer.node || greeting.cluster != hub.cluster {
        return Err(format!("{address}: node {} answers there", greeting.node.0));
    }
    Ok(stream)
}

/// Sends the first message.
pub async fn greet<S: AsyncWrite + Unpin>(stream: &mut S, kind: Kind) -> std::io::Result<()> {
    let mut frame = Frame::default();
    frame.push(&Message::bare(kind));
    stream.write_all(&frame.finish()).await?;
    stream.flush().await
}

/// Reads the other side's first message.
pub async fn greeted<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> Result<Kind, String> {
    loop {
        if let Some(content) = frame::take(buffer, GREETING).map_err(|e| e.to_string())? {
            // Nobody says more before it is answered.
            return match <[Message; 1]>::try_from(frame::decode(content).map_err(|e| e.to_string())?) {
                Ok([message]) => Ok(message.kind),
                Err(_) => Err("it greets with several messages".to_owned()),
            };
        }
        match stream.read_buf(buffer).await {
            Ok(0) => return Err("it hung up".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}
