//! Users, their keys and grants; and who the validators are.
//!
//! A key acts for the user that it is registered for. A validator may sign for users who
//! speak to it as `psql` does, as whom it names: whoever uses a node trusts that node
//! with what they may do. A user can end that by registering a key *exclusively*.
//! Whatever a lying node does in somebody's name, it cannot do more: validators change
//! only when more than two thirds of their power approve, each with its own key.

use polity_base::{IndexId, NodeId};

use super::{Step, Work};
use crate::ledger::error::Error;
use crate::ledger::outcome::Refusal;
use crate::ledger::records::{self, Table};
use crate::ledger::storage::View;
use crate::transaction::{Body, Privileges, ValidatorChange};
use crate::types::{PublicKey, Validator, Validators};

/// Whom a transaction acts for.
pub(super) struct Actor {
    user: Option<String>,
    validator: Option<NodeId>,
    is_administrator: bool,
}

impl Actor {
    /// The user.
    pub fn user(&self) -> Result<&str, Refusal> {
        self.user.as_deref().ok_or_else(|| Refusal::Denied("the key acts for no user".to_owned()))
    }
}

impl<V: View> Work<'_, V> {
    /// Whom a transaction acts for.
    pub(super) fn actor(&self, body: &Body) -> Step<Actor> {
        let validator = self.given.validators.iter().find(|validator| validator.key == body.author);
        let validator = validator.map(|validator| validator.node);
        let user = match (&body.user, self.user_of(&body.author)?) {
            (Some(named), Some(own)) if *named == own => Some(own),
            (Some(named), None) if validator.is_some() => {
                if self.is_exclusive(named)? {
                    let why = format!("\"{named}\" signs with an own key alone");
                    return Err(Refusal::Denied(why).into());
                }
                Some(named.clone())
            }
            (Some(named), _) => {
                return Err(Refusal::Denied(format!("the key does not act for \"{named}\"")).into());
            }
            (None, own) => own,
        };
        if user.is_none() && validator.is_none() {
            return Err(Refusal::Denied("the key is not registered".to_owned()).into());
        }
        let is_administrator = user.as_ref().is_some_and(|user| self.given.parameters.administrators.contains(user));
        Ok(Actor { user, validator, is_administrator })
    }

    fn user_of(&self, key: &PublicKey) -> Step<Option<String>> {
        let found = self.state.get(&records::key(key))?;
        Ok(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn is_exclusive(&self, user: &str) -> Step<bool> {
        Ok(self.state.get(&records::user(user))?.is_some_and(|record| record.first() == Some(&1)))
    }

    /// Whether the actor may do that with a table.
    pub(super) fn require(&self, actor: &Actor, storage: IndexId, table: &Table, needed: Privileges) -> Step {
        let user = actor.user()?;
        if actor.is_administrator || table.owner == user {
            return Ok(());
        }
        for who in [user, ""] {
            let granted = self.state.get(&records::grant(storage, who))?;
            if granted.is_some_and(|bytes| records::decode_grant(&bytes).0.include(needed)) {
                return Ok(());
            }
        }
        Err(Refusal::Denied(format!("\"{user}\" lacks {needed:?} on \"{}\"", table.definition.name)).into())
    }

    /// Whether the actor may do everything with a table.
    pub(super) fn require_owner(&self, actor: &Actor, table: &Table) -> Step {
        let user = actor.user()?;
        if actor.is_administrator || table.owner == user {
            return Ok(());
        }
        Err(Refusal::Denied(format!("\"{user}\" does not own \"{}\"", table.definition.name)).into())
    }

    pub(super) fn grant(&mut self, actor: &Actor, storage: IndexId, user: &str, privileges: Privileges) -> Step {
        let table = self.table(storage)?;
        self.require_owner(actor, &table)?;
        let record = (privileges != Privileges::default()).then(|| records::encode_grant(privileges, user));
        self.state.put(records::grant(storage, user), record);
        Ok(())
    }

    pub(super) fn register(&mut self, actor: &Actor, user: &str, key: &PublicKey, exclusive: bool) -> Step {
        if !actor.is_administrator && actor.user()? != user {
            return Err(Refusal::Denied(format!("keys of \"{user}\" are for \"{user}\" to register")).into());
        }
        if user.is_empty() {
            return Err(Refusal::Malformed("a user without a name".to_owned()).into());
        }
        let is_validator = |set: &Validators| set.iter().any(|validator| validator.key == *key);
        let newest = self.wanted.as_ref().unwrap_or(self.given.newest_validators);
        if is_validator(self.given.validators) || is_validator(newest) || self.user_of(key)?.is_some() {
            return Err(Refusal::Denied("the key is somebody's already".to_owned()).into());
        }
        self.state.put(records::key(key), Some(user.as_bytes().to_vec().into()));
        self.state.put(records::user(user), Some(vec![u8::from(exclusive)].into()));
        Ok(())
    }

    pub(super) fn revoke(&mut self, actor: &Actor, key: &PublicKey) -> Step {
        let owner = self.user_of(key)?;
        let owner = owner.ok_or_else(|| Refusal::Denied("the key is not registered".to_owned()))?;
        if !actor.is_administrator && actor.user()? != owner {
            return Err(Refusal::Denied(format!("keys of \"{owner}\" are for \"{owner}\" to revoke")).into());
        }
        self.state.put(records::key(key), None);
        Ok(())
    }

    /// Counts one validator's approval of a change, and makes the change once enough do.
    pub(super) fn approve(&mut self, actor: &Actor, change: &ValidatorChange) -> Step {
        let node = actor.validator.filter(|_| actor.user.is_none());
        let node = node.ok_or_else(|| Refusal::Denied("only validators approve, in their own name".to_owned()))?;
        let newest = self.wanted.as_ref().unwrap_or(self.given.newest_validators).clone();
        let after = changed(&newest, change)?;
        if self.user_of(&change.key)?.is_some() {
            return Err(Refusal::Denied("the key is a user's".to_owned()).into());
        }
        let key = records::approvals(change);
        let mut approving = match self.state.get(&key)? {
            None => Vec::new(),
            Some(bytes) => records::decode_nodes(&bytes).map_err(|e| Error::damaged("approvals", &e))?,
        };
        if !approving.contains(&node) {
            approving.push(node);
        }
        let power: u64 = approving.iter().filter_map(|node| newest.get(*node)).map(|validator| validator.power).sum();
        if power < newest.quorum() {
            self.state.put(key, Some(records::encode_nodes(&approving)));
            return Ok(());
        }
        self.state.put(key, None);
        let from = crate::types::Height(self.given.height.0 + 2);
        self.state.put(records::validators(from), Some(after.encode().into()));
        self.wanted = Some(after);
        Ok(())
    }
}

/// Validators after a change.
fn changed(before: &Validators, change: &ValidatorChange) -> Result<Validators, Refusal> {
    let mut list: Vec<Validator> = before.iter().filter(|validator| validator.node != change.node).cloned().collect();
    if change.power > 0 {
        list.push(Validator { node: change.node, key: change.key.clone(), power: change.power });
        list.sort_by_key(|validator| validator.node);
    }
    let after = Validators::new(list);
    match after.fault() {
        Some(fault) => Err(Refusal::Malformed(fault.to_owned())),
        None if after == *before => Err(Refusal::Unchanged),
        None => Ok(after),
    }
}
