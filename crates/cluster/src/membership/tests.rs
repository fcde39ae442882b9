//! Gossip over links on the loopback interface, whole and broken.

use std::sync::atomic::Ordering;

use polity_base::seams::Entropy;

use super::*;
use crate::links::tests::{NOW, Numbers, World, until};
use crate::links::{CallError, Fault, LinksConfig, Rule, Traffic, Way};

struct Node {
    links: Links,
    membership: Membership,
}

impl Node {
    async fn start(world: &World, node: u64, seeds: &[&Node]) -> Node {
        Node::start_with(world.config(node), seeds).await
    }

    async fn start_with(config: LinksConfig, seeds: &[&Node]) -> Node {
        let links = Links::start(config).await.unwrap();
        let options = MembershipOptions {
            address: links.local_address().to_string(),
            seeds: seeds.iter().map(|seed| seed.place()).collect(),
            probe_every: Duration::from_millis(100),
        };
        Node { membership: Membership::start(&links, options), links }
    }

    fn place(&self) -> (NodeId, String) {
        (self.links.node(), self.links.local_address().to_string())
    }

    fn sees(&self, other: u64) -> Option<MemberView> {
        self.membership.view().into_iter().find(|view| view.node == NodeId(other))
    }

    /// Waits until this node sees the other so.
    async fn sees_as(&self, other: u64, liveness: Liveness) {
        let what = format!("{} sees n{other} as {liveness:?}", self.links.node());
        until(&what, || self.sees(other).is_some_and(|view| view.liveness == liveness)).await;
    }

    fn cut(&self, peer: Option<u64>) {
        self.links.faults().set(Rule { peer: peer.map(NodeId), way: Way::Both, fault: Fault::Cut }).unwrap();
    }
}

/// Three nodes that know each other, though two were told of one only.
async fn three(world: &World) -> [Node; 3] {
    let one = Node::start(world, 1, &[]).await;
    let two = Node::start(world, 2, &[&one]).await;
    let three = Node::start(world, 3, &[&one]).await;
    let nodes = [one, two, three];
    for node in &nodes {
        for other in 1..=3 {
            node.sees_as(other, Liveness::Alive).await;
        }
    }
    nodes
}

#[tokio::test]
async fn nodes_find_each_other_and_tell_how_busy_they_are() {
    let world = World::new();
    let nodes = three(&world).await;
    assert_eq!(nodes[1].sees(3).unwrap().address, nodes[2].place().1);
    for sessions in [7, 9] {
        let load = Load { sessions, busy_permille: 300 };
        nodes[1].membership.tell_load(load).await;
        for node in &nodes {
            until("the load is known", || node.sees(2).unwrap().load == Some(load)).await;
        }
    }
}

#[tokio::test]
async fn a_node_that_is_gone_is_given_up_and_welcome_back() {
    let world = World::new();
    let [one, two, three] = three(&world).await;
    let config = LinksConfig { listen: two.links.local_address(), ..world.config(2) };
    two.membership.tell_load(Load { sessions: 1, busy_permille: 1 }).await;
    until("the load is known", || one.sees(2).unwrap().load.is_some()).await;
    two.links.stop().await;
    for node in [&one, &three] {
        node.sees_as(2, Liveness::Down).await;
        assert_eq!(node.sees(2).unwrap().load, None);
    }
    world.clock.0.store(NOW.0 + 1_000_000_000, Ordering::Relaxed);
    let two = Node::start_with(config, &[&three]).await;
    for node in [&one, &three] {
        node.sees_as(2, Liveness::Alive).await;
    }
    two.sees_as(1, Liveness::Alive).await;
}

#[tokio::test]
async fn a_node_that_takes_its_leave_is_not_waited_for() {
    let world = World::new();
    let [one, two, three] = three(&world).await;
    two.membership.leave().await;
    two.links.stop().await;
    for node in [&one, &three] {
        node.sees_as(2, Liveness::Down).await;
    }
}

#[tokio::test]
async fn two_nodes_that_cannot_talk_see_each_other_through_a_third() {
    let world = World::new();
    let nodes = three(&world).await;
    nodes[0].cut(Some(2));
    for sessions in 1..=3 {
        let load = Load { sessions, busy_permille: 0 };
        nodes[1].membership.tell_load(load).await;
        until("the load is known", || nodes[0].sees(2).is_some_and(|view| view.load == Some(load))).await;
        nodes[0].sees_as(2, Liveness::Alive).await;
        nodes[1].sees_as(1, Liveness::Alive).await;
    }
}

#[tokio::test]
async fn both_sides_of_a_partition_give_each_other_up_until_it_heals() {
    let world = World::new();
    let nodes = three(&world).await;
    nodes[0].cut(None);
    for other in [2, 3] {
        nodes[0].sees_as(other, Liveness::Down).await;
        nodes[other as usize - 1].sees_as(1, Liveness::Down).await;
    }
    nodes[1].sees_as(3, Liveness::Alive).await;
    assert_eq!(nodes[0].sees(1).unwrap().liveness, Liveness::Alive);
    nodes[0].links.faults().clear_all();
    for node in &nodes {
        for other in 1..=3 {
            node.sees_as(other, Liveness::Alive).await;
        }
    }
}

#[tokio::test]
async fn those_that_should_be_there_are_looked_for() {
    let world = World::new();
    let (one, two) = (Node::start(&world, 1, &[]).await, Node::start(&world, 2, &[]).await);
    one.membership.expect(vec![one.place(), two.place()]).await;
    one.sees_as(2, Liveness::Alive).await;
    two.sees_as(1, Liveness::Alive).await;
}

#[tokio::test]
async fn gossip_in_another_name_or_without_sense_is_refused() {
    let world = World::new();
    let (one, two) = (Node::start(&world, 1, &[]).await, world.start(2).await);
    let (to, address) = one.place();
    // The refusal costs the connection; the next one is made a moment later.
    let say = async |message: Vec<u8>| {
        let message = Bytes::from(message);
        loop {
            match two.call(to, &address, Service::MEMBERSHIP, Traffic::Control, message.clone()).await.unwrap_err() {
                CallError::Refused { refusal, .. } => break refusal.to_string(),
                CallError::Lost { why, .. } => break why,
                CallError::Unreachable { .. } => tokio::time::sleep(Duration::from_millis(10)).await,
                other => panic!("{other}"),
            }
        }
    };
    let identity = |node, life| Identity { node: NodeId(node), life, address: "127.0.0.1:1".to_owned() };
    let header = |src| {
        let own = Identity { address: address.clone(), ..identity(1, NOW.0 / 1_000) };
        let header = foca::Header { src, src_incarnation: 0, dst: own, message: foca::Message::Gossip };
        postcard::to_stdvec(&header).unwrap()
    };
    let why = say(header(identity(3, 1))).await;
    assert!(why.contains("in the name of n3"), "{why}");
    assert!(say(vec![0xff; 50]).await.contains("cannot be read"));
    // Nine updates, of which none follows
    let short = [&header(identity(2, 1))[..], &[0, 9, 1]].concat();
    let why = say(short).await;
    assert!(why.contains("cannot be read"), "{why}");
    // Nobody was believed, least of all about third parties.
    assert_eq!(one.sees(3), None);
}

#[tokio::test]
async fn no_gossip_stops_the_gossip() {
    let world = World::new();
    let one = Node::start(&world, 1, &[]).await;
    let listener = Listener { events: one.membership.events.clone() };
    let identity = |node: u64, life| Identity { node: NodeId(node), life, address: "127.0.0.1:1".to_owned() };
    let own = Identity { address: one.place().1, ..identity(1, NOW.0 / 1_000) };
    let entropy = Numbers(7.into());
    let random = |below: u64| {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes) % below
    };
    for _ in 0..3_000 {
        // Mostly sound: what cannot be read does not get far.
        let somebody = || if random(4) == 0 { own.clone() } else { identity(random(4), random(3)) };
        let probe_number = random(3) as u8;
        let message = match random(11) {
            0 => foca::Message::Ping(probe_number),
            1 => foca::Message::Ack(probe_number),
            2 => foca::Message::PingReq { target: somebody(), probe_number },
            3 => foca::Message::IndirectPing { origin: somebody(), probe_number },
            4 => foca::Message::IndirectAck { target: somebody(), probe_number },
            5 => foca::Message::ForwardedAck { origin: somebody(), probe_number },
            6 => foca::Message::Announce,
            7 => foca::Message::Feed,
            8 => foca::Message::Broadcast,
            9 => foca::Message::TurnUndead,
            _ => foca::Message::Gossip,
        };
        let src = somebody();
        let from = src.node;
        let header = foca::Header { src, src_incarnation: random(3) as u16, dst: own.clone(), message };
        let mut bytes = postcard::to_stdvec(&header).unwrap();
        let updates = random(4) as u16;
        bytes.extend(updates.to_be_bytes());
        for _ in 0..updates {
            let state = [foca::State::Alive, foca::State::Suspect, foca::State::Down][random(3) as usize];
            let member = foca::Member::new(somebody(), random(3) as u16, state);
            bytes.extend(postcard::to_stdvec(&member).unwrap());
        }
        for _ in 0..random(3) {
            let report = loads::Report { node: NodeId(random(4)), at: (random(3), random(9)), load: Load::default() };
            let report = postcard::to_stdvec(&report).unwrap();
            bytes.extend((report.len() as u16).to_be_bytes());
            bytes.extend(report);
        }
        bytes.truncate(bytes.len() - random(8).saturating_sub(6) as usize);
        let _ = listener.answer(from, bytes.into()).await;
    }
    assert!(!listener.events.is_closed(), "a message ended the gossip");
    assert_eq!(one.sees(1).unwrap().liveness, Liveness::Alive);
}
