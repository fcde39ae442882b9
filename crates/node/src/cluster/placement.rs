//! Who votes, and who leads.
//!
//! Every node of a cluster holds a replica; up to five of them vote, an odd
//! number, since an even one tolerates no more failures than the odd one below it
//! and needs more to agree. Votes are spread over regions and then zones, so that
//! the loss of one takes as few as possible. Who votes already keeps its vote
//! unless it is draining: every change of voters is a risk that must be worth it.
//!
//! This is a decision over facts, made anew by whoever leads; nothing is
//! remembered. A voter that is dead keeps its vote until an operator removes it:
//! only a person can know that it will not come back.
//!
//! Who leads is an election's outcome, and any voter will do; unless an operator
//! prefers regions for it, to have it near those who write.

use std::collections::{BTreeMap, BTreeSet};

use polity_base::NodeId;

/// As many nodes vote at most.
pub const MOST_VOTERS: usize = 5;

/// What the decision needs to know of one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Whether it votes now
    pub votes: bool,
    /// Whether it has nearly all of the log
    pub is_current: bool,
    /// Whether it answers
    pub is_reachable: bool,
    /// Whether it is to be left alone by leaders and votes
    pub draining: bool,
    /// Where it stands
    pub region: String,
    /// Where it stands in the region
    pub zone: String,
}

/// Who should vote. The same as who votes now when nothing is to be done.
pub fn voters(members: &BTreeMap<NodeId, Candidate>) -> BTreeSet<NodeId> {
    let of = |draining: bool, votes: bool| {
        let fit = move |m: &Candidate| m.draining == draining && m.votes == votes && (m.votes || m.is_current);
        members.iter().filter(move |(_, m)| fit(m)).map(|(id, _)| *id)
    };
    let voted = members.values().filter(|m| m.votes).count();
    let mut chosen: BTreeSet<NodeId> = of(false, true).collect();
    let mut others: BTreeSet<NodeId> = of(false, false).collect();
    let odd = (chosen.len() + others.len()).saturating_sub(1) | 1;
    while chosen.len() < odd.min(MOST_VOTERS) {
        let Some(next) = others.iter().copied().min_by_key(|id| (crowd(members, &chosen, *id), *id)) else { break };
        others.remove(&next);
        chosen.insert(next);
    }
    // Who drains keeps its vote until another can take it: fewer votes would mean
    // fewer copies of what is acknowledged.
    for id in of(true, true) {
        if chosen.len() < voted {
            chosen.insert(id);
        }
    }
    chosen
}

/// Who should lead instead of `leader`: a voter that can, and that stands in a region
/// preferred to the leader's, or anywhere if the leader is to be left alone. None if
/// the leader may go on.
pub fn successor(leader: NodeId, members: &BTreeMap<NodeId, Candidate>, preferred: &[String]) -> Option<NodeId> {
    let rank = |m: &Candidate| preferred.iter().position(|r| *r == m.region).unwrap_or(preferred.len());
    let can = |m: &Candidate| m.votes && m.is_current && m.is_reachable && !m.draining;
    let others = members.iter().filter(|(id, m)| **id != leader && can(m));
    let (id, best) = others.min_by_key(|(id, m)| (rank(m), **id))?;
    let now = members.get(&leader).filter(|m| !m.draining);
    now.is_none_or(|now| rank(best) < rank(now)).then_some(*id)
}

/// How many of the chosen stand in the same region, and in the same zone of it.
fn crowd(members: &BTreeMap<NodeId, Candidate>, chosen: &BTreeSet<NodeId>, id: NodeId) -> (usize, usize) {
    let Some(own) = members.get(&id) else { return (0, 0) };
    let others = || chosen.iter().filter(|other| **other != id).filter_map(|other| members.get(other));
    let region = others().filter(|m| m.region == own.region).count();
    let zone = others().filter(|m| m.region == own.region && m.zone == own.zone).count();
    (region, zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1v:asia 2:europe 3d:asia/a`: number, `v`oter, `d`raining, `b`ehind, `u`nreachable,
    /// region, zone.
    fn members(text: &str) -> BTreeMap<NodeId, Candidate> {
        let parse = |word: &str| {
            let (who, place) = word.split_once(':').unwrap();
            let number = who.trim_end_matches(char::is_alphabetic);
            let flags = &who[number.len()..];
            let (region, zone) = place.split_once('/').unwrap_or((place, ""));
            let candidate = Candidate {
                votes: flags.contains('v'),
                is_current: !flags.contains('b'),
                is_reachable: !flags.contains('u'),
                draining: flags.contains('d'),
                region: region.to_owned(),
                zone: zone.to_owned(),
            };
            (NodeId(number.parse().unwrap()), candidate)
        };
        text.split_whitespace().map(parse).collect()
    }

    fn chosen(text: &str) -> Vec<u64> {
        voters(&members(text)).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn an_odd_number_votes() {
        assert_eq!(chosen("1v:a"), [1]);
        assert_eq!(chosen("1v:a 2:a"), [1]);
        assert_eq!(chosen("1v:a 2:a 3:a"), [1, 2, 3]);
        assert_eq!(chosen("1v:a 2v:a 3v:a 4:a"), [1, 2, 3]);
        assert_eq!(chosen("1v:a 2v:a 3v:a 4:a 5:a"), [1, 2, 3, 4, 5]);
        assert_eq!(chosen("1v:a 2v:a 3v:a 4v:a 5v:a 6:a 7:a"), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn votes_are_spread_over_regions_and_zones() {
        assert_eq!(chosen("1v:asia 2:asia 3:europe 4:america"), [1, 3, 4]);
        assert_eq!(chosen("1v:asia/x 2:asia/x 3:asia/y 4:asia/z"), [1, 3, 4]);
    }

    #[test]
    fn who_is_behind_does_not_get_a_vote_and_who_has_one_keeps_it() {
        assert_eq!(chosen("1v:a 2b:a 3:a"), [1]);
        assert_eq!(chosen("1v:a 2vb:a 3v:a"), [1, 2, 3]);
    }

    #[test]
    fn no_vote_is_taken_away_for_being_even() {
        assert_eq!(chosen("1v:a 2v:b"), [1, 2]);
        assert_eq!(chosen("1v:a 2v:b 3:c"), [1, 2, 3]);
    }

    #[test]
    fn a_draining_node_hands_its_vote_on() {
        assert_eq!(chosen("1v:a 2v:a 3vd:a 4:a"), [1, 2, 4]);
        // Nobody can take it.
        assert_eq!(chosen("1v:a 2v:b 3vd:c"), [1, 2, 3]);
        assert_eq!(chosen("1vd:a"), [1]);
        assert_eq!(chosen("1vd:a 2b:a"), [1]);
        assert_eq!(chosen("1vd:a 2:a"), [2]);
    }

    fn led(leader: u64, text: &str, preferred: &[&str]) -> Option<u64> {
        let preferred: Vec<String> = preferred.iter().map(|r| (*r).to_owned()).collect();
        successor(NodeId(leader), &members(text), &preferred).map(|id| id.0)
    }

    #[test]
    fn leadership_goes_to_the_first_region_that_can_have_it() {
        let three = "1v:asia 2v:europe 3v:america";
        assert_eq!(led(1, three, &[]), None);
        assert_eq!(led(1, three, &["asia"]), None);
        assert_eq!(led(1, three, &["europe"]), Some(2));
        assert_eq!(led(2, three, &["america", "asia"]), Some(3));
        assert_eq!(led(1, three, &["africa"]), None);
        // Second best, and then it stays.
        assert_eq!(led(2, "1v:asia 2v:europe 3vu:america", &["america", "asia"]), Some(1));
        assert_eq!(led(1, "1v:asia 2v:europe 3vb:america", &["america", "asia"]), None);
        assert_eq!(led(1, "1v:asia 2v:europe 3:america", &["america"]), None);
    }

    #[test]
    fn a_draining_leader_hands_over_to_whoever_can() {
        assert_eq!(led(1, "1vd:asia 2vu:europe 3v:america", &[]), Some(3));
        assert_eq!(led(1, "1vd:asia 2v:europe 3v:america", &["asia", "america"]), Some(3));
        assert_eq!(led(1, "1vd:asia 2vd:europe 3vb:america", &[]), None);
    }
}
