//! One peer: the connections to it and from it, and what went over them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::NodeId;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::connection::{Connection, End};
use super::{CallError, PeerLink, PeerTraffic, Traffic};

/// One peer.
pub struct Peer {
    pub node: NodeId,
    /// By traffic
    counters: [Counters; 2],
    /// Smoothed, in microseconds; 0 while none is known
    round_trip: AtomicU64,
    control: Outbound,
    bulk: Outbound,
    /// Connections that the peer made: control, bulk
    inbound: Mutex<[Option<Arc<Connection>>; 2]>,
}

/// A connection that this node makes, or tries to.
pub struct Outbound {
    pub state: watch::Sender<State>,
    pub address: watch::Sender<String>,
    pub started: AtomicBool,
    /// Somebody wants to call
    pub wanted: Notify,
    pub calls: AtomicU64,
}

/// How an outbound connection stands.
#[derive(Clone)]
pub enum State {
    /// Nobody wants it
    Idle,
    /// It is being made
    Dialling,
    /// It is there
    Up(Arc<Connection>, Instant),
    /// It could not be made, since then and for that reason
    Down(Instant, String),
}

/// What went over one kind of connections of a peer.
#[derive(Default)]
pub struct Counters {
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
    pub messages_sent: AtomicU64,
    pub messages_received: AtomicU64,
    pub frames_sent: AtomicU64,
    pub frames_received: AtomicU64,
    pub connects: AtomicU64,
    pub refused: AtomicU64,
}

impl Counters {
    fn figures(&self) -> PeerTraffic {
        let figure = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerTraffic {
            bytes_sent: figure(&self.bytes_sent),
            bytes_received: figure(&self.bytes_received),
            messages_sent: figure(&self.messages_sent),
            messages_received: figure(&self.messages_received),
            frames_sent: figure(&self.frames_sent),
            frames_received: figure(&self.frames_received),
            connects: figure(&self.connects),
            refused: figure(&self.refused),
        }
    }
}

impl Outbound {
    fn new() -> Outbound {
        Outbound {
            state: watch::Sender::new(State::Idle),
            address: watch::Sender::new(String::new()),
            started: AtomicBool::new(false),
            wanted: Notify::new(),
            calls: AtomicU64::new(0),
        }
    }

    /// Says that the peer is to be called at `address`.
    pub fn want(&self, address: &str) {
        if *self.address.borrow() != address {
            self.address.send_replace(address.to_owned());
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        if matches!(*self.state.borrow(), State::Idle) {
            self.wanted.notify_one();
        }
    }

    /// The connection, if there is one that works.
    pub fn up(&self) -> Option<Arc<Connection>> {
        match &*self.state.borrow() {
            State::Up(connection, _) if !connection.is_over() => Some(connection.clone()),
            _ => None,
        }
    }

    /// The connection, waiting up to `patience` for one that is being made.
    pub async fn connection(&self, to: NodeId, patience: Duration) -> Result<Arc<Connection>, CallError> {
        if let Some(connection) = self.up() {
            return Ok(connection);
        }
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| match state {
            State::Up(connection, _) => !connection.is_over(),
            State::Down(..) => true,
            State::Idle | State::Dialling => false,
        });
        match tokio::time::timeout(patience, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Up(connection, _) => Ok(connection.clone()),
                State::Down(since, why) => {
                    let why = format!("{why} (for {:.1?})", since.elapsed());
                    Err(CallError::Unreachable { to, why })
                }
                State::Idle | State::Dialling => Err(CallError::Unreachable { to, why: "not connected".to_owned() }),
            },
            Ok(Err(_)) => Err(CallError::Unreachable { to, why: End::Stopped.to_string() }),
            Err(_) => Err(CallError::Unreachable { to, why: format!("no connection yet after {patience:?}") }),
        }
    }
}

impl Peer {
    pub fn new(node: NodeId) -> Peer {
        Peer {
            node,
            counters: Default::default(),
            round_trip: AtomicU64::new(0),
            control: Outbound::new(),
            bulk: Outbound::new(),
            inbound: Mutex::default(),
        }
    }

    pub fn outbound(&self, traffic: Traffic) -> &Outbound {
        match traffic {
            Traffic::Control => &self.control,
            Traffic::Bulk => &self.bulk,
        }
    }

    /// Counts what goes over the connections for `traffic`.
    pub fn counters(&self, traffic: Traffic) -> &Counters {
        &self.counters[traffic as usize]
    }

    /// Takes in a round trip of so many microseconds (smoothed as TCP does it, RFC
    /// 6298, section 2).
    pub fn measured(&self, micros: u64) {
        let micros = micros.max(1);
        let old = self.round_trip.load(Ordering::Relaxed);
        let new = if old == 0 { micros } else { (old * 7 + micros) / 8 };
        self.round_trip.store(new.max(1), Ordering::Relaxed);
    }

    /// Takes in a connection that the peer made, and gives the older one that it
    /// replaces.
    pub fn accepted(&self, connection: &Arc<Connection>) -> Option<Arc<Connection>> {
        self.inbound.lock()[connection.traffic as usize].replace(connection.clone())
    }

    /// Forgets a connection that the peer made, after its end.
    pub fn departed(&self, connection: &Arc<Connection>, end: &End) {
        let mut inbound = self.inbound.lock();
        let kept = &mut inbound[connection.traffic as usize];
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, connection)) {
            *kept = None;
        }
        // Nobody asks a bulk connection whether its peer lives.
        if let (Traffic::Control, End::Silent(_), Some(bulk)) = (connection.traffic, end, &inbound[1]) {
            bulk.close(end.clone());
        }
    }

    /// All connections there are.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        let made = [self.control.up(), self.bulk.up()];
        made.into_iter().chain(self.inbound.lock().clone()).flatten().collect()
    }

    /// How it stands, for people and metrics.
    pub fn figures(&self) -> PeerLink {
        let (connected, since, why) = match &*self.control.state.borrow() {
            State::Up(_, since) => (true, Some(since.elapsed()), None),
            State::Down(since, why) => (false, Some(since.elapsed()), Some(why.clone())),
            State::Idle | State::Dialling => (false, None, None),
        };
        let connections = self.connections();
        let round_trip = Some(self.round_trip.load(Ordering::Relaxed)).filter(|micros| *micros > 0);
        PeerLink {
            node: self.node,
            address: self.control.address.borrow().clone(),
            connected,
            since,
            why,
            accepted: self.inbound.lock()[Traffic::Control as usize].is_some(),
            round_trip: round_trip.map(Duration::from_micros),
            control: self.counters(Traffic::Control).figures(),
            bulk: self.counters(Traffic::Bulk).figures(),
            waiting: connections.iter().map(|connection| connection.calls.waiting()).sum(),
            being_answered: connections.iter().map(|connection| connection.calls.being_answered()).sum(),
        }
    }
}
