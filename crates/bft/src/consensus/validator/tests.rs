//! Transcripts: four validators, what is done to them, and all that they put out.
//!
//! Each file in `golden` has commands (`> …`), and below each of them what came of it.
//! `UPDATE_GOLDEN=1` writes them anew; the difference is for eyes.
//!
//! | command | what it does |
//! |---|---|
//! | `want n1` | n1 has a transaction to be ordered |
//! | `run` | messages arrive and applications answer, in order, until nothing is on its way |
//! | `wait 500` | so many milliseconds pass, for all |
//! | `lose n1` | what is on its way to or from n1 is lost |
//! | `crash n1`, `start n1` | n1 ends; it starts again with what was synced |
//! | `slow n1`, `sync n1` | n1's records are not durable before the second command |

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_malachitebft_core_types::{NilOrVal, VoteType};
use polity_base::NodeId;

use super::{Event, Input, Now, Options, Output, To, Validator};
use crate::consensus::application::{Application, Ingredients};
use crate::consensus::message::Message;
use crate::consensus::outbox::Outbox;
use crate::consensus::record::{Entry, Record};
use crate::signing::SecretKey;
use crate::transaction::SignedTransaction;
use crate::types::{BlockId, LedgerId, Validator as Member, Validators};
use crate::world::Subject;
use crate::world::simple::SimpleLedger;

struct Node {
    validator: Option<Validator>,
    outbox: Outbox,
    ledger: SimpleLedger,
    wants: Vec<Arc<SignedTransaction>>,
    log: Vec<Record>,
    unsynced: Vec<Record>,
    slow: bool,
}

struct Stage {
    name: LedgerId,
    nodes: Vec<Node>,
    way: VecDeque<(usize, Input)>,
    now: Duration,
    drawn: u64,
    transcript: String,
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

fn key(node: usize) -> SecretKey {
    SecretKey::from_seed([node as u8 + 1; 32])
}

impl Stage {
    fn new() -> Stage {
        let list = (0..4).map(|n| Member { node: id(n), key: key(n).public(), power: 1 });
        let validators = Validators::new(list.collect());
        let node = |n| Node {
            validator: None,
            outbox: Outbox::default(),
            ledger: SimpleLedger::genesis(&validators, id(n)),
            wants: Vec::new(),
            log: Vec::new(),
            unsynced: Vec::new(),
            slow: false,
        };
        let nodes = (0..4).map(node).collect();
        let name = SimpleLedger::name(&validators);
        let mut stage =
            Stage { name, nodes, way: VecDeque::new(), now: Duration::ZERO, drawn: 0, transcript: String::new() };
        (0..4).for_each(|node| stage.start(node));
        stage.transcript.clear();
        stage
    }

    fn now(&self) -> Now {
        Now { elapsed: self.now, unix_ms: 1_800_000_000_000 + self.now.as_millis() as u64 }
    }

    fn start(&mut self, node: usize) {
        let (now, n) = (self.now(), &mut self.nodes[node]);
        let (tip, log) = (n.ledger.tip(), n.log.clone());
        n.outbox = Outbox::default();
        match Validator::new(self.name, id(node), Arc::new(key(node)), Options::default(), tip, log, now) {
            Ok((validator, outputs)) => {
                n.validator = Some(validator);
                self.take(node, outputs);
            }
            Err(fatal) => self.tell(node, format!("stops: {fatal}")),
        }
    }

    fn step(&mut self, node: usize, input: Input) {
        let now = self.now();
        let Some(validator) = self.nodes[node].validator.as_mut() else { return };
        match validator.step(now, input) {
            Ok(outputs) => self.take(node, outputs),
            Err(fatal) => {
                self.nodes[node].validator = None;
                self.tell(node, format!("stops: {fatal}"));
            }
        }
    }

    fn tell(&mut self, node: usize, what: String) {
        writeln!(self.transcript, "n{} {what}", node + 1).unwrap();
    }

    fn take(&mut self, node: usize, outputs: Vec<Output>) {
        let ready = self.nodes[node].outbox.push(outputs);
        let written: Vec<String> = ready.records.iter().map(record).collect();
        if !written.is_empty() {
            self.tell(node, format!("writes {}", written.join(", ")));
        }
        self.nodes[node].unsynced.extend(ready.records);
        ready.outputs.into_iter().for_each(|output| self.put_out(node, output));
        if !self.nodes[node].slow {
            self.sync(node);
        }
    }

    fn sync(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let count = n.unsynced.len();
        n.log.append(&mut n.unsynced);
        n.outbox.durable(count).into_iter().for_each(|output| self.put_out(node, output));
    }

    fn put_out(&mut self, node: usize, output: Output) {
        let n = &mut self.nodes[node];
        let answer = match output {
            Output::Send(to, message) => return self.send(node, to, message),
            Output::Build(height, round) => {
                let (transactions, unix_ms) = (n.wants.clone(), 1_800_000_000_000);
                let parts = Ingredients { proposer: id(node), unix_ms, transactions, evidence: Vec::new() };
                Input::Built(height, round, n.ledger.build(parts).unwrap())
            }
            Output::Check(block) => Input::Checked(block.id(), n.ledger.check(&block, &|_| true)),
            Output::Commit(block, certificate) => {
                let tip = n.ledger.commit(&block, &certificate).unwrap().tip;
                let signers: Vec<String> = certificate.signatures.iter().map(|(node, _)| node.to_string()).collect();
                let name = name(&block.id());
                n.wants.retain(|transaction| n.ledger.admits(transaction));
                let pending = !n.wants.is_empty();
                let (height, round) = (tip.height, certificate.round);
                self.tell(node, format!("commits h{height} {name}, decided in r{round} by {}", signers.join(" ")));
                self.way.push_back((node, Input::Pending(pending)));
                Input::Committed(tip)
            }
            Output::Serve(to, question) => {
                self.tell(node, format!("is asked by {to} for {question:?}"));
                let super::Question::Blocks(first, last) = question else { return };
                for height in first.0..=last.0 {
                    let found = self.nodes[node].ledger.block(crate::types::Height(height)).unwrap();
                    let Some((block, certificate)) = found else { break };
                    self.send(node, To::Node(to), Message::Certified(block, certificate));
                }
                return;
            }
            Output::Notify(Event::Round(height, round, proposer)) => {
                return self.tell(node, format!("begins h{height} r{round}, {proposer} proposes"));
            }
            Output::Notify(Event::Decided(..)) => return,
            Output::Notify(other) => return self.tell(node, format!("notices {other:?}")),
            Output::Evidence(evidence) => return self.tell(node, format!("accuses {}", evidence.validator())),
            Output::Install(..) => return self.tell(node, "installs a snapshot".to_owned()),
            Output::Append(_) => unreachable!("the outbox keeps records apart"),
        };
        self.way.push_back((node, answer));
    }

    fn send(&mut self, node: usize, to: To, message: Message) {
        let targets: Vec<usize> = match to {
            To::All => (0..4).filter(|to| *to != node).collect(),
            To::Node(to) => vec![to.0 as usize - 1],
        };
        // What is said at every height anyway tells nothing new.
        if !matches!(message, Message::Seen(_)) {
            let whom = if targets.len() == 3 { "all".to_owned() } else { id(targets[0]).to_string() };
            self.tell(node, format!("→ {whom} {}", said(&message)));
        }
        for to in targets {
            self.way.push_back((to, Input::Message(id(node), message.clone())));
        }
    }

    fn run(&mut self) {
        while let Some((node, input)) = self.way.pop_front() {
            self.step(node, input);
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let ticks = self.nodes.iter().filter_map(|node| node.validator.as_ref().map(Validator::next_tick));
            let next = ticks.min().unwrap_or(end).max(self.now + Duration::from_micros(1));
            if next > end {
                break;
            }
            self.now = next;
            let due = |node: &Node| node.validator.as_ref().is_some_and(|validator| validator.next_tick() <= next);
            let due: Vec<usize> = (0..4).filter(|node| due(&self.nodes[*node])).collect();
            due.into_iter().for_each(|node| self.step(node, Input::Tick));
        }
        self.now = end;
    }

    fn command(&mut self, command: &str) {
        let (verb, whom) = command.split_once(' ').unwrap_or((command, ""));
        let node = || whom.trim_start_matches('n').parse::<usize>().unwrap() - 1;
        match verb {
            "want" => {
                let drawn = &mut self.drawn;
                let mut draw = || {
                    *drawn += 1;
                    *drawn
                };
                let n = &mut self.nodes[node()];
                n.wants.push(Arc::new(n.ledger.transaction(&mut draw)));
                self.step(node(), Input::Pending(true));
            }
            "run" => self.run(),
            "wait" => self.wait(Duration::from_millis(whom.parse().unwrap())),
            "lose" => {
                let lost = id(node());
                self.way.retain(|(to, input)| {
                    id(*to) != lost && !matches!(input, Input::Message(from, _) if *from == lost)
                });
            }
            "crash" => {
                let n = &mut self.nodes[node()];
                n.validator = None;
                n.unsynced.clear();
                self.way.retain(|(to, input)| *to != node() || matches!(input, Input::Message(..)));
            }
            "start" => self.start(node()),
            "slow" => self.nodes[node()].slow = true,
            "sync" => {
                self.nodes[node()].slow = false;
                self.sync(node());
            }
            other => panic!("unknown command {other:?}"),
        }
    }
}

fn name(block: &BlockId) -> String {
    block.to_string()[..4].to_owned()
}

fn vote(vote: &crate::consensus::context::Vote) -> String {
    let kind = if vote.kind == VoteType::Prevote { "prevote" } else { "precommit" };
    let value = match &vote.value {
        NilOrVal::Nil => "nil".to_owned(),
        NilOrVal::Val(block) => name(block),
    };
    format!("{kind} of {} h{} r{} {value}", vote.voter, vote.height, vote.round)
}

fn said(message: &Message) -> String {
    match message {
        Message::Vote(signed) => vote(&signed.message),
        Message::Proposal(signed) => {
            let p = &signed.message;
            let locked = p.locked_round.as_u32().map_or(String::new(), |round| format!(" locked in r{round}"));
            format!("proposal h{} r{} {}{locked}", p.height, p.round, name(&p.block))
        }
        Message::Polka(polka) => format!("polka h{} r{} {}", polka.height, polka.round, name(&polka.block)),
        Message::Round(votes) => format!("votes to leave r{} of h{}", votes.round, votes.height),
        Message::Block(block) => format!("block {}", name(&block.id())),
        Message::Certified(block, _) => format!("decided block h{} {}", block.header().height, name(&block.id())),
        Message::Status(status) => {
            let round = status.round.map_or("waiting".to_owned(), |round| format!("in r{round}"));
            let asks = if status.asks { ", asks" } else { "" };
            format!("status h{} {round}{asks}", status.committed)
        }
        other => format!("{other:?}"),
    }
}

fn record(record: &Record) -> String {
    match &record.entry {
        Entry::Block(block) => format!("block {}", name(&block.id())),
        Entry::Judged { block, valid, .. } => {
            format!("{} is {}", name(block), if *valid { "valid" } else { "invalid" })
        }
        Entry::Proposal(signed) => format!("proposal r{} {}", signed.message.round, name(&signed.message.block)),
        Entry::Vote(signed) => vote(&signed.message),
        Entry::Polka(polka) => format!("polka r{}", polka.round),
        Entry::Timeout(step, round) => format!("no {step:?} in r{round}").to_lowercase(),
    }
}

/// Plays a script again; its transcript.
fn play(script: &str) -> String {
    let mut stage = Stage::new();
    for line in script.lines() {
        if line.starts_with('#') || line.is_empty() {
            writeln!(stage.transcript, "{line}").unwrap();
        } else if let Some(command) = line.strip_prefix("> ") {
            writeln!(stage.transcript, "{line}").unwrap();
            stage.command(command);
        }
    }
    stage.transcript
}

#[test]
fn transcripts_are_as_they_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/consensus/validator/golden");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut played = 0;
    for file in files {
        let script = std::fs::read_to_string(&file).unwrap();
        let transcript = play(&script);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &transcript).unwrap();
            continue;
        }
        let differs = script.lines().zip(transcript.lines()).position(|(was, is)| was != is);
        let differs = differs.or((script.lines().count() != transcript.lines().count()).then_some(0));
        assert_eq!(differs.map(|line| transcript.lines().nth(line).unwrap_or("")), None, "{}", file.display());
        played += 1;
    }
    assert!(played == 6 || std::env::var_os("UPDATE_GOLDEN").is_some(), "{played} transcripts were found");
}
