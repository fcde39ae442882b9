//! Taking in the connections that peers make.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use polity_base::NodeId;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::carrier::{Acceptor, BoxStream, Greeting, Purpose, Transport};
use super::connection::{Connection, Ends, Particulars};
use super::dial::{greet, greeted};
use super::frame::Kind;
use super::hub::{Hub, named};
use super::refused::Reason;
use super::tls::{self, Witness};
use super::visit;
use crate::name::Name;

/// Connections whose peer is not known yet.
const STRANGERS: usize = 256;

/// Who was taken in.
enum Accepted {
    /// A node, to be linked to
    Linked(Arc<Connection>, Ends<BoxStream>),
    /// Somebody with a question
    Visitor(Name, BoxStream),
}

/// Where others connect.
pub enum Listener {
    Tcp(TcpListener),
    Plain(Box<dyn Acceptor>),
}

/// A connection whose other end is not known yet.
enum Stranger {
    Tcp(TcpStream),
    Plain(BoxStream),
}

impl Listener {
    pub async fn open(transport: &Transport, at: SocketAddr) -> io::Result<Listener> {
        Ok(match transport {
            Transport::Tls => Listener::Tcp(TcpListener::bind(at).await?),
            Transport::Plain(carrier) => Listener::Plain(carrier.listen(at).await?),
        })
    }

    pub fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr(),
            Listener::Plain(acceptor) => acceptor.local_address(),
        }
    }

    async fn accept(&self) -> io::Result<(Stranger, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, from)| (Stranger::Tcp(stream), from)),
            Listener::Plain(acceptor) => acceptor.accept().await.map(|(stream, from)| (Stranger::Plain(stream), from)),
        }
    }
}

/// Takes in connections for as long as the links run.
pub async fn listen(hub: Arc<Hub>, listener: Listener) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, as a rule: others may be closed soon.
                tracing::warn!(%error, "a connection could not be taken in");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(known) = strangers.clone().try_acquire_owned() else {
            hub.refused(Reason::Crowded, "somebody", "too many connections are being made at once");
            continue;
        };
        let inner = hub.clone();
        hub.spawn_whole(async move {
            let mut stop = inner.stopping();
            let accepted = tokio::select! {
                accepted = tokio::time::timeout(inner.limits.dial_timeout, accept(&inner, stream, address)) => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            drop(known);
            match accepted {
                Ok(Ok(Accepted::Visitor(name, stream))) => tokio::select! {
                    () = visit::receive(&inner, &name, stream) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                },
                Ok(Ok(Accepted::Linked(connection, ends))) => {
                    let peer = connection.peer.clone();
                    if let Some(older) = peer.accepted(&connection) {
                        // Its last answers may be on their way.
                        inner.close_later(older);
                    }
                    let end = connection.clone().run(ends).await;
                    peer.departed(&connection, &end);
                }
                Ok(Err(Rejected { reason, who, why })) => inner.refused(reason, &who, &why),
                Err(_) => inner.refused(Reason::Late, &address.ip().to_string(), "it did not say in time who it is"),
            }
        });
    }
}

/// Whom a connection was refused, and why.
struct Rejected {
    reason: Reason,
    who: String,
    why: String,
}

async fn accept(hub: &Arc<Hub>, stranger: Stranger, address: SocketAddr) -> Result<Accepted, Rejected> {
    match stranger {
        Stranger::Tcp(stream) => accept_tls(hub, stream, address).await,
        Stranger::Plain(stream) => accept_plain(hub, stream, address).await,
    }
}

async fn accept_plain(hub: &Arc<Hub>, mut stream: BoxStream, address: SocketAddr) -> Result<Accepted, Rejected> {
    let refuse = |why: String| Rejected { reason: Reason::Protocol, who: address.ip().to_string(), why };
    let own = Greeting { purpose: Purpose::Link, cluster: hub.cluster, node: hub.node };
    let greeting = own.exchange(&mut stream).await.map_err(refuse)?;
    if greeting.cluster != hub.cluster {
        return Err(refuse("it is of another cluster".to_owned()));
    }
    match greeting.purpose {
        Purpose::Visit => Ok(Accepted::Visitor(greeting.name(), stream)),
        Purpose::Link => link(hub, stream, greeting.node, i64::MAX).await.map_err(refuse),
    }
}

async fn accept_tls(hub: &Arc<Hub>, stream: TcpStream, address: SocketAddr) -> Result<Accepted, Rejected> {
    tune(&stream);
    let credentials = hub.credentials.read().clone();
    let witness = Witness::new(credentials.clone());
    let place = address.ip();
    let refuse = |reason: Reason, why: String| {
        let who = witness.presented().map_or_else(|| place.to_string(), |shown| format!("{} at {place}", shown.who()));
        Rejected { reason, who, why }
    };
    let config =
        tls::server(&credentials, &hub.time, witness.clone()).map_err(|e| refuse(Reason::Protocol, e.to_string()))?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut stream = acceptor.accept(stream).await.map_err(|e| refuse(Reason::of_handshake(&e), e.to_string()))?;
    let (_, session) = stream.get_ref();
    if tls::visits(session.alpn_protocol()) {
        let (name, _) = named(hub.cluster, session.peer_certificates()).map_err(|e| refuse(Reason::Name, e))?;
        return Ok(Accepted::Visitor(name, Box::new(stream)));
    }
    let identified = match hub.identify(session.peer_certificates()) {
        Ok((node, _)) if node == hub.node => {
            Err((Reason::Name, format!("it says it is node {}, which is this one", node.0)))
        }
        Ok(_) if !tls::speaks_links(session.alpn_protocol()) => {
            Err((Reason::Protocol, "it does not speak the links' protocol".to_owned()))
        }
        other => other.map_err(|why| (Reason::Name, why)),
    };
    let (node, not_after) = match identified {
        Ok(identified) => identified,
        Err((reason, why)) => {
            // Told what is wrong, its operator can mend it.
            let _ = greet(&mut stream, Kind::Rejected(why.clone())).await;
            return Err(refuse(reason, why));
        }
    };
    link(hub, Box::new(stream), node, not_after).await.map_err(|why| refuse(Reason::Protocol, why))
}

/// Greets a node that is known to be `node`.
async fn link(hub: &Arc<Hub>, mut stream: BoxStream, node: NodeId, not_after: i64) -> Result<Accepted, String> {
    let mut buffer = BytesMut::new();
    let traffic = match greeted(&mut stream, &mut buffer).await? {
        Kind::Hello(traffic) => traffic,
        other => return Err(format!("it greets with {}", other.word())),
    };
    if hub.faults.cuts(node) {
        std::future::pending::<()>().await;
    }
    greet(&mut stream, Kind::Welcome).await.map_err(|e| e.to_string())?;
    let particulars = Particulars { traffic, dialled: false, not_after };
    let (connection, ends) = Connection::new(hub.clone(), hub.peer(node), particulars, stream, buffer);
    Ok(Accepted::Linked(connection, ends))
}

/// Small messages go at once, and a peer whose machine is gone is noticed even if
/// nobody talks to it.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
