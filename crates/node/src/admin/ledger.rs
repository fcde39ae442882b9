//! A node's answers about the ledger of the byzantine tables.
//!
//! None of them needs to be believed: what a ledger began with can be compared with that of
//! other nodes, proofs are checked against it, and a transaction carries its author's
//! signature.

use std::sync::Arc;

use parking_lot::Mutex;
use polity_base::{Class, Key, NodeId};
use polity_bft::adversary;
use polity_bft::ledger::reader::validators_at;
use polity_bft::ledger::{Error as LedgerError, Outcome, Refusal};
use polity_bft::transaction::{Operation, SignedTransaction, ValidatorChange};
use polity_bft::types::{Height, PublicKey, Validators};
use polity_txn::Error;
use polity_txn::byzantine::{Ledger as _, Reader};

use super::protocol::{Answer, LedgerFacts, ValidatorFacts};
use crate::ledger::Host;

/// Answers for the ledger of a node.
pub(crate) struct Desk {
    host: Arc<Host>,
    /// How the node lies, for a drill
    lie: Mutex<Option<String>>,
}

impl Desk {
    /// The desk of `host`.
    pub fn new(host: Arc<Host>) -> Desk {
        Desk { host, lie: Mutex::default() }
    }

    fn reader(&self) -> Result<Reader, Answer> {
        self.host
            .reader()
            .ok_or_else(|| Answer::Later("the node follows no ledger: there is no byzantine table yet".to_owned()))
    }

    /// What the ledger began with.
    pub fn genesis(&self) -> Answer {
        self.reader().map_or_else(|none| none, |reader| Answer::Genesis(reader.genesis().encode()))
    }

    /// Where it is.
    pub async fn status(&self) -> Answer {
        let reader = match self.reader() {
            Ok(reader) => reader,
            Err(none) => return none,
        };
        let (asked, lies) = (reader.clone(), self.lie.lock().clone());
        let read = blocking(move || standing(&asked)).await;
        let (height, newest, validators) = match read {
            Ok(standing) => standing,
            Err(refused) => return refused,
        };
        let Some(condition) = self.host.condition() else { return Answer::Later("the ledger is starting".to_owned()) };
        let condition = condition.borrow().clone();
        let heard = |node| !condition.quorum.silent.iter().any(|silent| silent.node == node);
        let validators = validators.iter().map(|validator| ValidatorFacts {
            node: validator.node,
            key: validator.key.encode(),
            power: validator.power,
            heard: heard(validator.node),
        });
        Answer::Ledger(Box::new(LedgerFacts {
            ledger: reader.id().0,
            key: self.host.public_key(),
            height: height.0,
            newest,
            validators: validators.collect(),
            present: condition.quorum.present,
            needed: condition.quorum.needed,
            lies,
            stopped: condition.stopped.map(|fatal| fatal.to_string()),
        }))
    }

    /// A proof of what keys have.
    pub async fn prove(&self, keys: Vec<Key>, height: Option<u64>) -> Answer {
        match self.reader() {
            Ok(reader) => match blocking(move || reader.prove(&keys, height.map(Height))).await {
                Ok(proof) => Answer::Proof(proof.encode()),
                Err(refused) => refused,
            },
            Err(none) => none,
        }
    }

    /// The tables.
    pub async fn tables(&self) -> Answer {
        match self.reader() {
            Ok(reader) => match blocking(move || reader.tables()).await {
                Ok(tables) => {
                    let encoded = tables.into_iter().map(|(storage, table)| (storage.0, table.encode().to_vec()));
                    Answer::Tables(encoded.collect())
                }
                Err(refused) => refused,
            },
            Err(none) => none,
        }
    }

    /// Lets a key act for a user, in the user's name.
    pub async fn register(&self, user: String, key: &[u8], exclusive: bool) -> Answer {
        let key = match PublicKey::decode(key) {
            Ok(key) => key,
            Err(error) => return Answer::Refused(format!("the key: {error}")),
        };
        let operation = Operation::Register { user: user.clone(), key, exclusive };
        match self.host.submit(&user, Vec::new(), vec![operation]).await {
            Ok(_) => Answer::Done(format!("the key acts for \"{user}\"")),
            Err(error) => failed(&error),
        }
    }

    /// Has a signed transaction ordered.
    pub async fn order(&self, transaction: &[u8]) -> Answer {
        match SignedTransaction::decode(transaction) {
            Ok(transaction) => self.ordered(self.host.order(transaction).await),
            Err(error) => Answer::Refused(format!("it is no signed transaction: {error}")),
        }
    }

    /// Approves of a change of the validators, in this node's name.
    pub async fn approve(&self, node: NodeId, key: Option<Vec<u8>>, power: u64) -> Answer {
        let key = match key {
            Some(bytes) => PublicKey::decode(&bytes).map_err(|e| Answer::Refused(format!("the key: {e}"))),
            None => self.key_of(node).await,
        };
        match key {
            Ok(key) => {
                let change = Operation::Approve(ValidatorChange { node, key, power });
                self.ordered(self.host.approve(change).await)
            }
            Err(refused) => refused,
        }
    }

    /// The key of a validator, or that of which another node says that it is its own.
    async fn key_of(&self, node: NodeId) -> Result<PublicKey, Answer> {
        let reader = self.reader()?;
        let (_, _, validators) = blocking(move || standing(&reader)).await?;
        match validators.get(node) {
            Some(validator) => Ok(validator.key.clone()),
            None => self.host.key_of(node).await.map_err(|e| Answer::Later(e.to_string())),
        }
    }

    fn ordered(&self, outcome: Result<Outcome, Error>) -> Answer {
        match outcome {
            Ok(Outcome::Applied) => Answer::Done("applied".to_owned()),
            Ok(Outcome::Refused(Refusal::Unchanged)) => Answer::Already(Refusal::Unchanged.to_string()),
            Ok(Outcome::Refused(refusal)) => Answer::Refused(said(&refusal)),
            Err(error) => failed(&error),
        }
    }

    /// What is left to do about a node that was removed; nothing if it is no validator.
    pub fn left_of(&self, node: NodeId) -> String {
        match self.host.is_validator(node) {
            Ok(true) => format!(
                "; it is still a validator of the ledger, whose power counts though it is gone: polity ledger \
                 validator remove {}",
                node.0
            ),
            Ok(false) => String::new(),
            Err(error) => format!("; whether it is a validator of the ledger is not known: {error}"),
        }
    }

    /// Lets the node lie in this way, or lets it stop to.
    pub fn lie(&self, how: Option<String>) -> Result<String, String> {
        let adversary = match &how {
            None => None,
            Some(name) => Some(adversary::by_name(name).ok_or_else(|| {
                format!("there is no way of lying that is called {name}; there are {}", adversary::NAMES.join(", "))
            })?),
        };
        if !self.host.lie(adversary) {
            return Err("the node follows no ledger: there is no byzantine table yet".to_owned());
        }
        let done = how.as_ref().map_or_else(|| "is honest".to_owned(), |name| format!("lies: {name}"));
        *self.lie.lock() = how;
        Ok(done)
    }

    /// Ends a lie; how many ended.
    pub fn heal(&self) -> usize {
        match self.lie.lock().take() {
            Some(_) => {
                self.host.lie(None);
                1
            }
            None => 0,
        }
    }

    /// How the node lies, in words.
    pub fn disturbance(&self) -> Option<String> {
        self.lie.lock().as_ref().map(|name| format!("lies to the other validators: {name}"))
    }
}

/// The newest height, the hashes of its header and state, and who decides about the next.
type Standing = (Height, Option<([u8; 32], [u8; 32])>, Validators);

fn standing(reader: &Reader) -> Result<Standing, LedgerError> {
    let height = reader.height()?;
    let newest = match height {
        Height(0) => None,
        _ => {
            let header = reader.journal(height)?.header;
            Some((header.id().0, header.state_root))
        }
    };
    let deciding = validators_at(&reader.validators()?, height.next())?.clone();
    Ok((height, newest, deciding))
}

fn said(refusal: &Refusal) -> String {
    format!("the ledger refuses it: {refusal}")
}

/// What comes of an order that failed. Whoever gives it again does no harm: a transaction is
/// ordered once, and saying the same twice changes nothing.
fn failed(error: &Error) -> Answer {
    match error.class() {
        Class::Unavailable | Class::Conflict | Class::Unknown => Answer::Later(error.to_string()),
        _ => Answer::Refused(error.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, Answer> {
    match polity_store::blocking(read).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Answer::Refused(error.to_string())),
        Err(error) => Err(Answer::Refused(format!("its task failed: {error}"))),
    }
}
