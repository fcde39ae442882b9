//! The task that gossips: it owns foca, gives it what is heard and what time it is,
//! and sends what it wants sent.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Config, Foca, PeriodicParams, PostcardCodec, State, Timer};
use parking_lot::RwLock;
use polity_base::NodeId;
use polity_base::seams::Entropy;
use rand_core::TryRng;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::loads::{Load, Loads, Report};
use super::{Liveness, MembershipOptions, Seen};
use crate::links::{Links, Service, Traffic};

/// Messages that may be on their way. More are dropped, as gossip may be.
const ON_THEIR_WAY: usize = 256;
/// Bytes of one message.
const MESSAGE_BYTES: usize = 16 * 1024;
/// After which time a node that is down is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60 * 60);

/// One life of a node. Of two lives, the later one counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub node: NodeId,
    /// When it began, in microseconds since 1970, or a little later; 0 if that is not
    /// known
    pub life: u64,
    pub address: String,
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    /// A node that was given up by mistake begins a new life.
    fn renew(&self) -> Option<Identity> {
        Some(Identity { life: self.life.saturating_add(1), ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, other: &Identity) -> bool {
        self.life > other.life
    }
}

/// What happens to a node's gossip.
pub enum Event {
    /// Another node said something; what is wrong with it is answered
    Heard { message: Bytes, answer: oneshot::Sender<Result<(), String>> },
    /// These should be there
    Expect(Vec<(NodeId, String)>),
    /// This node is so busy
    Load(Load),
    /// This node goes
    Leave(oneshot::Sender<()>),
}

/// The seam's entropy, as foca wants it.
struct Random(Arc<dyn Entropy>);

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(buffer);
        Ok(())
    }
}

/// The task that gossips.
pub struct Gossip {
    links: Links,
    foca: Foca<Identity, PostcardCodec, Random, Loads>,
    wants: AccumulatingRuntime<Identity>,
    /// By when they are due, and in which order they were set
    timers: BTreeMap<(Instant, u64), Timer<Identity>>,
    timers_set: u64,
    probe_every: Duration,
    expected: Vec<(NodeId, String)>,
    loads: Loads,
    loads_told: u64,
    sending: Arc<Semaphore>,
    /// Since when nodes have been seen as they are
    since: HashMap<NodeId, (Liveness, Instant)>,
    seen: Arc<RwLock<Vec<Seen>>>,
}

impl Gossip {
    pub fn new(links: Links, options: MembershipOptions, seen: Arc<RwLock<Vec<Seen>>>) -> Gossip {
        let hub = &links.hub;
        let life = u64::try_from(hub.time.0.read().midpoint().unix_micros()).unwrap_or(0);
        let own = Identity { node: hub.node, life, address: options.address };
        let (loads, random) = (Loads::new(hub.node), Random(hub.entropy.clone()));
        let config = config(options.probe_every);
        let mut gossip = Gossip {
            foca: Foca::with_custom_broadcast(own, config, random, PostcardCodec, loads.clone()),
            links,
            wants: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
            probe_every: options.probe_every,
            expected: options.seeds,
            loads,
            loads_told: 0,
            sending: Arc::new(Semaphore::new(ON_THEIR_WAY)),
            since: HashMap::new(),
            seen,
        };
        gossip.publish();
        gossip
    }

    /// Gossips until nobody can be heard any more.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        let mut look_for = tokio::time::interval(self.probe_every * 5);
        look_for.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.timers.first_key_value().map(|((due, _), _)| *due);
            let next_timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let mut leaving = None;
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(Event::Leave(done)) => leaving = Some(done),
                    Some(event) => self.happened(event),
                    None => return,
                },
                () = next_timer => {
                    if let Some((_, timer)) = self.timers.pop_first() {
                        // Timers of an earlier life mean nothing any more.
                        let _ = self.foca.handle_timer(timer, &mut self.wants);
                    }
                }
                _ = look_for.tick() => self.look_for_missing(),
            }
            if leaving.is_some() {
                let _ = self.foca.leave_cluster(&mut self.wants);
            }
            self.act();
            self.publish();
            if let Some(done) = leaving {
                let _ = self.sending.acquire_many(ON_THEIR_WAY as u32).await;
                let _ = done.send(());
                return;
            }
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Heard { message, answer } => {
                let heard = self.foca.handle_data(&message, &mut self.wants);
                let _ = answer.send(match heard {
                    Err(error @ (foca::Error::Decode(_) | foca::Error::MalformedPacket)) => Err(error.to_string()),
                    // Nothing that a sound node could not send after a restart.
                    Ok(()) | Err(_) => Ok(()),
                });
            }
            Event::Expect(nodes) => {
                self.expected = nodes;
                self.look_for_missing();
            }
            Event::Load(load) => {
                self.loads_told += 1;
                let own = self.foca.identity();
                let report = Report { node: own.node, at: (own.life, self.loads_told), load };
                if let Ok(bytes) = postcard::to_stdvec(&report) {
                    let _ = self.foca.add_broadcast(&bytes);
                }
            }
            Event::Leave(_) => {}
        }
    }

    /// Speaks to those that should be there and are not seen.
    fn look_for_missing(&mut self) {
        let own = self.foca.identity().node;
        for (node, address) in &self.expected {
            if *node != own && !self.foca.iter_members().any(|member| member.id().node == *node) {
                let unknown = Identity { node: *node, life: 0, address: address.clone() };
                let _ = self.foca.announce(unknown, &mut self.wants);
            }
        }
    }

    /// Does what foca wants done.
    fn act(&mut self) {
        while let Some((after, timer)) = self.wants.to_schedule() {
            self.timers_set += 1;
            self.timers.insert((Instant::now() + after, self.timers_set), timer);
        }
        while let Some((to, message)) = self.wants.to_send() {
            let Ok(permit) = self.sending.clone().try_acquire_owned() else { continue };
            let (links, patience) = (self.links.clone(), self.probe_every);
            self.links.hub.spawn(async move {
                // What is lost is missed by foca, which then does something about it.
                let call = links.call(to.node, &to.address, Service::MEMBERSHIP, Traffic::Control, message);
                let _ = tokio::time::timeout(patience, call).await;
                drop(permit);
            });
        }
        while self.wants.to_notify().is_some() {}
    }

    /// Shows what is known.
    fn publish(&mut self) {
        let own = self.foca.identity();
        let others = self.foca.iter_membership_state().map(|member| {
            let liveness = match member.state() {
                State::Alive => Liveness::Alive,
                State::Suspect => Liveness::Suspect,
                State::Down => Liveness::Down,
            };
            (member.id(), liveness)
        });
        // A life that ended does not hide the one that goes on.
        let mut best: BTreeMap<NodeId, (Liveness, &Identity)> = BTreeMap::from([(own.node, (Liveness::Alive, own))]);
        for (identity, liveness) in others {
            let known = best.entry(identity.node).or_insert((liveness, identity));
            if identity.life > known.1.life && identity.node != own.node {
                *known = (liveness, identity);
            }
        }
        let now = Instant::now();
        self.since.retain(|node, _| best.contains_key(node));
        let seen = best.into_iter().map(|(node, (liveness, identity))| {
            let since = self.since.entry(node).or_insert((liveness, now));
            if since.0 != liveness {
                *since = (liveness, now);
            }
            let (address, load) = (identity.address.clone(), self.loads.of(node));
            Seen { node, address, liveness, since: since.1, load: load.filter(|_| liveness != Liveness::Down) }
        });
        *self.seen.write() = seen.collect();
    }
}

/// foca's settings: memberlist's for a local network, in proportion to how often
/// others are asked.
fn config(probe_every: Duration) -> Config {
    let often =
        |frequency, nodes| NonZeroUsize::new(nodes).map(|num_members| PeriodicParams { frequency, num_members });
    Config {
        probe_period: probe_every,
        probe_rtt: probe_every / 3,
        num_indirect_probes: NonZeroUsize::MIN.saturating_add(2),
        max_transmissions: NonZeroU8::MIN.saturating_add(7),
        suspect_to_down_after: probe_every * 5,
        remove_down_after: Some(FORGET_AFTER),
        max_packet_size: NonZeroUsize::MIN.saturating_add(MESSAGE_BYTES - 1),
        notify_down_members: true,
        periodic_announce: often(probe_every * 30, 1),
        periodic_announce_to_down_members: often(probe_every * 10, 2),
        periodic_gossip: often(probe_every / 2, 2),
    }
}
