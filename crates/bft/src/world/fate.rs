//! What befalls the world: clients, crashes, partitions, a bad network.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::network::Micros;
use super::{Event, Subject, World, id};
use crate::consensus::message::Message;
use crate::consensus::validator::To;
use crate::invariant::Sight;
use crate::transaction::SignedTransaction;

impl<A: Subject> World<A> {
    /// A client hands a transaction in.
    pub(super) fn submit(&mut self) {
        let node = self.random.below(self.nodes.len() as u64) as usize;
        if self.nodes[node].is_up() && self.nodes[node].is_honest() {
            let wanted = self.want(node);
            self.hand_in(node, wanted);
        }
        if self.working {
            // Now and then nothing for a while, so that validators get idle.
            let pause = if self.random.chance(20) { 1_500_000 } else { self.random.between(500, 40_000) };
            let at = self.now + pause;
            self.at(at, 0, Event::Submit);
        }
    }

    /// What a client wants this time.
    fn want(&mut self, node: usize) -> Vec<SignedTransaction> {
        let mut random = self.random.clone();
        let count = self.nodes.len() as u64;
        let application = self.nodes[node].application();
        let wanted = match self.options.changes && random.chance(100) {
            true => {
                let (whom, power) = (id(random.below(count) as usize), random.below(3));
                application.change(whom, power, &mut || random.draw())
            }
            false => vec![application.transaction(&mut || random.draw())],
        };
        self.random = random;
        wanted
    }

    /// A client hands transactions in at a node, which tells the others.
    pub(super) fn hand_in(&mut self, node: usize, transactions: Vec<SignedTransaction>) {
        for transaction in transactions {
            let transaction = Arc::new(transaction);
            self.see(&Sight::Submitted(&transaction));
            self.waiting.insert(transaction.id(), transaction.clone());
            self.admit(node, vec![transaction.clone()]);
            self.send(node, To::All, Message::Transactions(vec![transaction]));
        }
    }

    /// Something happens to the world.
    pub(super) fn fate(&mut self) {
        if !self.working {
            return;
        }
        if self.options.faults {
            match self.random.below(10) {
                0..=2 => self.crash_one(),
                3 => self.crash_all(),
                4 | 5 => self.cut(),
                6 => self.network.side.clear(),
                7 => self.disturb(),
                8 => self.network.heal(),
                _ => {}
            }
        } else if self.random.chance(300) {
            // Without faults, liars that need a restart to lie get one.
            let liars: Vec<usize> = (0..self.nodes.len()).filter(|node| !self.nodes[*node].is_honest()).collect();
            liars.into_iter().for_each(|node| self.crash_for_a_while(node));
        }
        let at = self.now + self.random.between(20_000, 800_000);
        self.at(at, 0, Event::Fate);
    }

    fn crash_one(&mut self) {
        let node = self.random.below(self.nodes.len() as u64) as usize;
        self.crash_for_a_while(node);
    }

    fn crash_all(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.crash_for_a_while(node));
    }

    fn crash_for_a_while(&mut self, node: usize) {
        let long = self.random.chance(150);
        let down = if long { 4_000_000 } else { self.random.between(1_000, 600_000) };
        self.crash(node, down);
    }

    /// Crashes a node, and starts it again after a while.
    pub(super) fn crash(&mut self, node: usize, down: Micros) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.report.crashes += 1;
        let mut random = self.random.clone();
        self.nodes[node].crash(&mut random);
        self.random = random;
        let at = self.now + down;
        self.at(at, 0, Event::Start { node });
    }

    fn cut(&mut self) {
        let count = self.nodes.len() as u64;
        let size = self.random.between(1, count - 1);
        self.network.side = (0..size).map(|_| self.random.below(count)).collect::<BTreeSet<u64>>();
    }

    fn disturb(&mut self) {
        self.network.loss = self.random.below(300);
        self.network.twice = self.random.below(200);
        self.network.stragglers = self.random.below(100);
        self.network.latency.1 = self.random.between(1_000, 60_000);
    }

    /// From now on all is well.
    pub(super) fn heal(&mut self) {
        self.network.heal();
        self.working = false;
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        let honest = (0..self.nodes.len()).find(|node| self.nodes[*node].is_honest());
        let Some(node) = honest else { return };
        let wanted = self.want(node);
        self.hand_in(node, wanted);
        // What waited in the memory of nodes that crashed, clients hand in again.
        let again: Vec<_> = self.waiting.values().cloned().collect();
        self.admit(node, again.clone());
        self.send(node, To::All, Message::Transactions(again));
    }
}
