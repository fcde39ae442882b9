//! Golden transcripts of the machine: what it is told, and what it does.
//!
//! ```text
//! MILLISECONDS peers n2 n3                    who the others are
//! MILLISECONDS here n1@5 [floor n1@3]         what was applied here
//! MILLISECONDS told n2 n1@5 [floor …] [filling] [restarted]
//! MILLISECONDS answered n2 n1@5 [wants n3@4]
//! MILLISECONDS failed n2 | tick | await TICKET TIME REPLICAS
//!   → push n2 n1@5..7                         deltas of n1 after 5, up to 7
//!   → status n2                               nothing but how this replica is
//!   → kept 1 | fill n2
//! stable | everywhere                         what can be forgotten; what all have
//! ```

use std::time::Duration;

use polity_base::{NodeId, Timestamp};

use super::machine::{Input, Machine, Output};
use super::message::About;
use crate::stamp::VersionVector;

fn node(word: &str) -> NodeId {
    NodeId(word.strip_prefix('n').unwrap().parse().unwrap())
}

/// The words up to the next keyword, as a vector.
fn vector<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> VersionVector {
    let mut vector = VersionVector::new();
    while let Some((origin, at)) = words.peek().and_then(|word| word.split_once('@')) {
        vector.advance(node(origin), Timestamp(at.parse().unwrap()));
        words.next();
    }
    vector
}

fn about<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> (About, VersionVector) {
    let mut about = About { started: Timestamp(1), vector: vector(words), ..About::default() };
    let mut wants = VersionVector::new();
    while let Some(word) = words.next() {
        match word {
            "floor" => about.floor = vector(words),
            "wants" => wants = vector(words),
            "filling" => about.filling = true,
            "restarted" => about.started = Timestamp(2),
            other => panic!("{other}?"),
        }
    }
    (about, wants)
}

fn shown(output: &Output) -> String {
    match output {
        Output::Push { to, after, up_to } => {
            let parts = up_to.beyond(after);
            let parts: Vec<String> = parts.iter().map(|(of, from, to)| format!("{of}@{}..{}", from.0, to.0)).collect();
            if parts.is_empty() { format!("status {to}") } else { format!("push {to} {}", parts.join(" ")) }
        }
        Output::Kept { ticket } => format!("kept {ticket}"),
        Output::Fill(from) => format!("fill {from}"),
    }
}

/// Plays a script to the machine of n1; what comes out of it, in between.
fn play(script: &str) -> String {
    let mut machine = Machine::new(NodeId(1), Duration::from_millis(500), About::default());
    let mut transcript = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('→')) {
        transcript.push_str(&format!("{line}\n"));
        let mut words = line.split_whitespace().peekable();
        let now = match words.next().unwrap() {
            "stable" | "everywhere" => {
                let of = if line == "stable" { machine.stable() } else { machine.known_everywhere() };
                let of = if of.is_empty() { "nothing".to_owned() } else { of.to_string() };
                transcript.push_str(&format!("  → {of}\n"));
                continue;
            }
            now => Duration::from_millis(now.parse().unwrap()),
        };
        let input = match words.next().unwrap() {
            "peers" => Input::Peers(words.map(node).collect()),
            "here" => Input::Here(about(&mut words).0),
            "told" => Input::Told { peer: node(words.next().unwrap()), about: about(&mut words).0 },
            "answered" => {
                let peer = node(words.next().unwrap());
                let (about, wants) = about(&mut words);
                Input::Answered { peer, about, wants }
            }
            "failed" => Input::Failed(node(words.next().unwrap())),
            "tick" => Input::Tick,
            "await" => {
                let mut number = || words.next().unwrap().parse::<u64>().unwrap();
                let (ticket, at, replicas) = (number(), Timestamp(number()), number() as usize);
                Input::Await { ticket, at, replicas }
            }
            other => panic!("{other}?"),
        };
        for output in machine.step(now, input) {
            transcript.push_str(&format!("  → {}\n", shown(&output)));
        }
    }
    transcript
}

/// Plays a transcript again, and compares.
fn golden(transcript: &str) {
    let lines: Vec<&str> = transcript.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let expected: String = lines
        .iter()
        .map(|line| if line.starts_with('→') { format!("  {line}\n") } else { format!("{line}\n") })
        .collect();
    let played = play(transcript);
    assert!(played == expected, "played:\n{played}");
}

#[test]
fn own_deltas_go_at_once_one_message_a_peer_under_way() {
    golden(
        "
        0 peers n1 n2 n3
          → status n2
          → status n3
        5 answered n2
        6 failed n3
        10 here n1@10
          → push n2 n1@0..10
        11 here n1@11
        12 here n1@12
        20 answered n2 n1@10
          → push n2 n1@10..12
        30 answered n2 n1@12
        131 tick
          → status n3
        140 answered n3
          → push n3 n1@0..12
        150 answered n3 n1@12
        everywhere
          → n1@12
        stable
          → n1@12
        ",
    );
}

#[test]
fn what_a_peer_lacks_of_others_after_a_while_is_passed_on() {
    golden(
        "
        0 peers n1 n2 n3
          → status n2
          → status n3
        1 answered n2
        1 answered n3
        100 here n3@90
        110 told n2 n2@0
        500 tick
          → status n2
          → status n3
        501 answered n2
        501 answered n3 n3@90
        1000 tick
          → status n2
          → status n3
        1001 answered n2
          → push n2 n3@0..90
        1002 answered n2 n3@90
        ",
    );
}

#[test]
fn what_a_held_delta_waits_for_is_passed_on_at_once() {
    golden(
        "
        0 peers n1 n2
          → status n2
        1 answered n2
        10 here n1@12 n3@9
          → push n2 n1@0..12
        11 answered n2 wants n3@9
          → push n2 n1@0..12 n3@0..9
        12 answered n2 n1@12 n3@9
        ",
    );
}

#[test]
fn what_did_not_help_is_not_tried_again_at_once() {
    golden(
        "
        0 peers n1 n2
          → status n2
        1 answered n2
        10 here n1@12
          → push n2 n1@0..12
        11 answered n2
        100 here n1@13
        505 tick
        511 tick
          → push n2 n1@0..13
        512 failed n2
        600 tick
        637 tick
          → push n2 n1@0..13
        ",
    );
}

#[test]
fn a_commit_is_kept_once_enough_replicas_say_so() {
    golden(
        "
        0 peers n1 n2 n3
          → status n2
          → status n3
        1 answered n2
        1 answered n3
        10 here n1@10
          → push n2 n1@0..10
          → push n3 n1@0..10
        10 await 1 10 2
        10 await 2 10 3
        20 answered n2 n1@10
          → kept 1
        30 told n3 n1@10
          → kept 2
        ",
    );
}

#[test]
fn nothing_is_stable_before_what_a_member_wrote_until_then_is_here() {
    golden(
        "
        0 peers n1 n2
          → status n2
        0 here n1@10
        5 answered n2 n1@10 n2@20
        everywhere
          → n1@10
        stable
          → nothing
        6 here n1@10 n2@20
        stable
          → n1@10 n2@20
        ",
    );
}

#[test]
fn a_replica_that_lacks_what_is_not_kept_is_filled_and_one_being_filled_is_left_alone() {
    golden(
        "
        0 peers n1 n2
          → status n2
        0 here n1@10
        5 answered n2 n1@10 n2@90 floor n2@50
          → fill n2
        10 here n1@10 n2@90 floor n1@10
        20 told n2 restarted filling
        30 here n1@11 n2@90 floor n1@10
        505 tick
          → status n2
        600 answered n2 n1@10 n2@90 restarted
          → push n2 n1@10..11
        ",
    );
}
