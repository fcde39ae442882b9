//! What to send to whom and when, and who has what.
//!
//! The machine knows vectors, not deltas: what was applied here, and what each peer
//! said it has. From the two follows what to send. One message a peer is under way at a
//! time; what is committed meanwhile goes with the next, so a slow peer gets fuller
//! messages and never a queue.
//!
//! **Relaying.** A replica sends its own deltas at once, those of others only if the
//! peer still lacks them after a while: then their origin cannot reach it, or is gone.
//! *A while* is counted in what the peer says: what was here at least one status
//! interval before it last told what it has. What a delta that the peer holds waits for
//! is sent at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polity_base::{NodeId, Timestamp};

use super::message::About;
use crate::stamp::VersionVector;

/// Something the machine is told.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Input {
    /// Who the other members are
    Peers(BTreeSet<NodeId>),
    /// About this replica, as of now
    Here(About),
    /// A peer told of itself, by a request
    Told {
        /// Who
        peer: NodeId,
        /// What
        about: About,
    },
    /// A peer answered a push
    Answered {
        /// Who
        peer: NodeId,
        /// About it
        about: About,
        /// What deltas it holds wait for
        wants: VersionVector,
    },
    /// A push was not answered
    Failed(NodeId),
    /// Somebody waits until so many replicas, this one included, have what was
    /// committed here at a time
    Await {
        /// Names the wait
        ticket: u64,
        /// The commit's time
        at: Timestamp,
        /// How many replicas
        replicas: usize,
    },
    /// Nobody waits any more
    Forget(u64),
    /// Time has passed
    Tick,
}

/// Something to do.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Output {
    /// Send the deltas beyond `after`, up to `up_to`, by time, as many as a message
    /// takes; and how this replica is, in any case
    Push {
        /// To whom
        to: NodeId,
        /// What it has
        after: VersionVector,
        /// What it is to have
        up_to: VersionVector,
    },
    /// What was waited for: enough replicas have it
    Kept {
        /// The wait
        ticket: u64,
    },
    /// This replica lacks deltas that are not kept any more: fill it from the rows of
    /// this peer
    Fill(NodeId),
}

/// Another replica.
#[derive(Clone, Debug, Default)]
struct Peer {
    /// What it last said
    about: About,
    /// Whether it ever said anything
    heard: bool,
    wants: VersionVector,
    /// What was here at a time
    mark: (Duration, VersionVector),
    /// What was here so long ago that the peer should have got it otherwise
    relay: VersionVector,
    under_way: bool,
    /// Whether the push under way holds deltas
    loaded: bool,
    /// Nothing but statuses before this
    quiet_until: Duration,
    next_status: Duration,
    failures: u32,
}

/// The machine of one replica.
pub(crate) struct Machine {
    node: NodeId,
    status_every: Duration,
    here: About,
    peers: BTreeMap<NodeId, Peer>,
    waits: BTreeMap<u64, (Timestamp, usize)>,
}

impl Machine {
    pub fn new(node: NodeId, status_every: Duration, here: About) -> Machine {
        Machine { node, status_every, here, peers: BTreeMap::new(), waits: BTreeMap::new() }
    }

    /// Takes note of `input`, and says what to do. `now` never goes back.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Peers(nodes) => self.set_peers(&nodes),
            Input::Here(about) => self.here = about,
            Input::Told { peer, about } => self.told(now, peer, about, &mut outputs),
            Input::Answered { peer, about, wants } => {
                self.answered(now, peer, &about, wants);
                self.told(now, peer, about, &mut outputs);
            }
            Input::Failed(node) => self.failed(now, node),
            Input::Await { ticket, at, replicas } => {
                self.waits.insert(ticket, (at, replicas));
            }
            Input::Forget(ticket) => {
                self.waits.remove(&ticket);
            }
            Input::Tick => {}
        }
        self.kept(&mut outputs);
        self.send(now, &mut outputs);
        outputs
    }

    /// Who has what was committed here at `at`.
    pub fn keepers(&self, at: Timestamp) -> Vec<NodeId> {
        let has = |about: &About| about.vector.of(self.node) >= at;
        let others = self.peers.iter().filter(|(_, peer)| has(&peer.about)).map(|(node, _)| *node);
        let mut keepers: Vec<NodeId> = others.chain(has(&self.here).then_some(self.node)).collect();
        keepers.sort_unstable();
        keepers
    }

    /// What every member is known to have.
    pub fn known_everywhere(&self) -> VersionVector {
        let mut common = self.here.vector.clone();
        self.peers.values().for_each(|peer| common.meet(&peer.about.vector));
        common
    }

    /// What can be forgotten: what every member has, provided that whatever a member
    /// wrote before it had that is applied here.
    pub fn stable(&self) -> VersionVector {
        let told = |(node, peer): (&NodeId, &Peer)| self.here.vector.of(*node) >= peer.about.vector.of(*node);
        if self.here.filling || !self.peers.iter().all(told) { VersionVector::new() } else { self.known_everywhere() }
    }

    /// The other members and what they last said.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, &About)> {
        self.peers.iter().map(|(node, peer)| (*node, &peer.about))
    }

    fn set_peers(&mut self, nodes: &BTreeSet<NodeId>) {
        self.peers.retain(|node, _| nodes.contains(node));
        for node in nodes.iter().filter(|node| **node != self.node) {
            self.peers.entry(*node).or_default();
        }
    }

    fn told(&mut self, now: Duration, node: NodeId, about: About, outputs: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        // It was restored from what it had long ago, or what it said overtook itself.
        let anew = about.started > peer.about.started;
        if about.started < peer.about.started {
            return;
        }
        let before = std::mem::take(&mut peer.about.vector);
        peer.about = about;
        if !anew {
            peer.about.vector.join(&before);
        }
        if !std::mem::replace(&mut peer.heard, true) {
            peer.quiet_until = now;
            peer.failures = 0;
        }
        if now >= peer.mark.0 + self.status_every {
            peer.relay = std::mem::replace(&mut peer.mark, (now, self.here.vector.clone())).1;
        }
        let filling = peer.about.filling || self.here.filling;
        let floor = peer.about.floor.clone();
        let lacks = |(origin, _, _): &(NodeId, Timestamp, Timestamp)| !self.is_to_come(*origin, node);
        if !filling && floor.beyond(&self.here.vector).iter().any(lacks) {
            outputs.push(Output::Fill(node));
        }
    }

    /// Whether what is missing here of `origin` will come from another than `node`: from
    /// the origin itself, or from who has it, as long as they answer and keep it.
    fn is_to_come(&self, origin: NodeId, node: NodeId) -> bool {
        let here = self.here.vector.of(origin);
        self.peers.iter().any(|(other, peer)| {
            let has = *other == origin || peer.about.vector.of(origin) > here;
            let keeps = peer.about.floor.of(origin) <= here && !peer.about.filling;
            *other != node && peer.heard && peer.failures == 0 && has && keeps
        })
    }

    fn answered(&mut self, now: Duration, node: NodeId, about: &About, wants: VersionVector) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.under_way = false;
        peer.failures = 0;
        let progress = !peer.about.vector.dominates(&about.vector) || wants != peer.wants;
        peer.wants = wants;
        // What did not help will not help again at once.
        if peer.loaded && !progress {
            peer.quiet_until = now + self.status_every;
        }
    }

    fn failed(&mut self, now: Duration, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.under_way = false;
        peer.failures = (peer.failures + 1).min(4);
        peer.quiet_until = now + self.status_every * peer.failures / 4;
        peer.next_status = peer.quiet_until;
    }

    fn kept(&mut self, outputs: &mut Vec<Output>) {
        let waits: Vec<_> = self.waits.iter().map(|(ticket, wait)| (*ticket, *wait)).collect();
        for (ticket, (at, replicas)) in waits {
            if self.keepers(at).len() >= replicas {
                self.waits.remove(&ticket);
                outputs.push(Output::Kept { ticket });
            }
        }
    }

    fn send(&mut self, now: Duration, outputs: &mut Vec<Output>) {
        for (node, peer) in &mut self.peers {
            if peer.under_way {
                continue;
            }
            let after = peer.about.vector.clone();
            let mut up_to = after.clone();
            if peer.heard && !peer.about.filling && !self.here.filling && now >= peer.quiet_until {
                let here = &self.here.vector;
                up_to.advance(self.node, here.of(self.node));
                for (origin, at) in here.iter() {
                    up_to.advance(origin, at.min(peer.relay.of(origin).max(peer.wants.of(origin))));
                }
            }
            peer.loaded = up_to != after;
            if peer.loaded || now >= peer.next_status {
                peer.under_way = true;
                peer.next_status = now + self.status_every;
                outputs.push(Output::Push { to: *node, after, up_to });
            }
        }
    }
}
