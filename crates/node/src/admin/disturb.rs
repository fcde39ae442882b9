//! Drills: messages that are cut off, late or lost, and processes that stand
//! still or end.
//!
//! The administrator's program works out which nodes must do what, and asks each of
//! them over a connection of its own, which no disturbance touches: else nobody
//! could end one. Only nodes started with `--allow-faults` take part.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use polity_base::NodeId;

use super::protocol::{Disturbance, Local, Place};

/// Which node must do what. `regions` has every node of the cluster.
pub fn orders(
    disturbance: &Disturbance,
    regions: &BTreeMap<NodeId, String>,
) -> Result<BTreeMap<NodeId, Local>, String> {
    let at = |place: &Place| {
        let nodes: Vec<NodeId> = match place {
            Place::Node(node) => regions.keys().filter(|id| *id == node).copied().collect(),
            Place::Region(name) => regions.iter().filter(|(_, r)| *r == name).map(|(id, _)| *id).collect(),
        };
        if !nodes.is_empty() {
            return Ok(nodes);
        }
        let mut known: Vec<&str> = regions.values().map(String::as_str).collect();
        known.sort_unstable();
        known.dedup();
        Err(match place {
            Place::Node(node) => format!("there is no node {}", node.0),
            Place::Region(name) => format!("there is no region {name}; there are {}", known.join(", ")),
        })
    };
    let between = |one: &[NodeId], other: &[NodeId], weather| {
        let mut orders = BTreeMap::new();
        for (nodes, peers) in [(one, other), (other, one)] {
            for node in nodes {
                let peers: Vec<NodeId> = peers.iter().filter(|p| *p != node).copied().collect();
                if !peers.is_empty() {
                    orders.insert(*node, Local::With(peers, weather));
                }
            }
        }
        orders
    };
    let one = |node: &NodeId, order| at(&Place::Node(*node)).map(|_| BTreeMap::from([(*node, order)]));
    match disturbance {
        Disturbance::Between(a, b, weather) => {
            let (a, b) = (at(a)?, at(b)?);
            if a.iter().any(|node| b.contains(node)) {
                return Err("a place cannot be disturbed from itself".to_owned());
            }
            Ok(between(&a, &b, *weather))
        }
        Disturbance::Around(place, weather) => {
            let inside = at(place)?;
            let outside: Vec<NodeId> = regions.keys().filter(|id| !inside.contains(id)).copied().collect();
            Ok(between(&inside, &outside, *weather))
        }
        Disturbance::Pause(node, span) => one(node, Local::Pause(*span)),
        Disturbance::Kill(node) => one(node, Local::Kill),
        Disturbance::Lie(node, how) => one(node, Local::Lie(how.clone())),
        Disturbance::Heal => Ok(regions.keys().map(|id| (*id, Local::Heal)).collect()),
    }
}

/// Lets this process stand still, as if its machine did. It goes on by itself:
/// somebody else has to wake it, so a shell is left behind that does.
pub fn pause(span: Duration) -> Result<(), String> {
    let script = r#"kill -STOP "$1"; sleep "$2"; kill -CONT "$1""#;
    Command::new("/bin/sh")
        .args(["-c", script, "polity-pause", &std::process::id().to_string(), &span.as_secs_f64().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map(|_| ())
        .map_err(|e| format!("/bin/sh: {e}"))
}

/// Ends this process at once, as kill -9 does: nothing is put in order.
pub fn kill() -> Result<(), String> {
    Command::new("/bin/sh")
        .args(["-c", r#"kill -KILL "$1""#, "polity-kill", &std::process::id().to_string()])
        .spawn()
        .map(|_| ())
        .map_err(|e| format!("/bin/sh: {e}"))
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Weather;
    use super::*;

    fn regions() -> BTreeMap<NodeId, String> {
        [(1, "europe"), (2, "europe"), (3, "asia"), (4, "asia"), (5, "america")]
            .into_iter()
            .map(|(id, region)| (NodeId(id), region.to_owned()))
            .collect()
    }

    fn told(disturbance: Disturbance) -> String {
        match orders(&disturbance, &regions()) {
            Ok(orders) => {
                orders.iter().map(|(node, order)| format!("{node}: {order:?}")).collect::<Vec<_>>().join("\n")
            }
            Err(why) => why,
        }
    }

    fn region(name: &str) -> Place {
        Place::Region(name.to_owned())
    }

    #[test]
    fn both_sides_of_a_cut_are_told() {
        let cut = Disturbance::Between(region("asia"), Place::Node(NodeId(5)), Weather::Cut);
        assert_eq!(told(cut), "n3: With([n5], Cut)\nn4: With([n5], Cut)\nn5: With([n3, n4], Cut)");
    }

    #[test]
    fn an_isolated_place_is_cut_off_from_all_others() {
        let isolated = Disturbance::Around(region("america"), Weather::Cut);
        assert_eq!(
            told(isolated),
            "n1: With([n5], Cut)\nn2: With([n5], Cut)\nn3: With([n5], Cut)\nn4: With([n5], Cut)\n\
             n5: With([n1, n2, n3, n4], Cut)"
        );
    }

    #[test]
    fn places_that_are_not_there_are_named() {
        let cut = |a, b| told(Disturbance::Between(a, b, Weather::Cut));
        assert_eq!(cut(region("mars"), region("asia")), "there is no region mars; there are america, asia, europe");
        assert_eq!(cut(Place::Node(NodeId(9)), region("asia")), "there is no node 9");
        assert_eq!(cut(Place::Node(NodeId(3)), region("asia")), "a place cannot be disturbed from itself");
        assert_eq!(told(Disturbance::Kill(NodeId(9))), "there is no node 9");
    }

    #[test]
    fn the_liar_alone_is_told() {
        let lie = Disturbance::Lie(NodeId(3), Some("silent".to_owned()));
        assert_eq!(told(lie), "n3: Lie(Some(\"silent\"))");
        assert_eq!(told(Disturbance::Lie(NodeId(9), None)), "there is no node 9");
    }
}
