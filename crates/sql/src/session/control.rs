//! BEGIN, COMMIT, ROLLBACK and savepoints.

use datafusion::sql::sqlparser::ast::{Statement, TransactionAccessMode, TransactionIsolationLevel, TransactionMode};
use polity_txn::{Freshness, Isolation};

use super::as_of::AsOf;
use super::context::Notice;
use super::run::Savepoint;
use super::{Response, Session};
use crate::catalog::name;
use crate::error::{Condition, Error, Result};

/// What BEGIN or SET TRANSACTION asks for.
struct Modes {
    isolation: Option<Isolation>,
    read_only: Option<bool>,
}

impl Modes {
    fn of(modes: &[TransactionMode]) -> Result<Modes> {
        let mut asked = Modes { isolation: None, read_only: None };
        for mode in modes {
            match mode {
                TransactionMode::AccessMode(mode) => {
                    asked.read_only = Some(matches!(mode, TransactionAccessMode::ReadOnly));
                }
                TransactionMode::IsolationLevel(level) => asked.isolation = Some(isolation(level)?),
            }
        }
        Ok(asked)
    }
}

/// The standard lets a database give more isolation than asked for: of the four
/// levels two are kept.
fn isolation(level: &TransactionIsolationLevel) -> Result<Isolation> {
    match level {
        TransactionIsolationLevel::ReadUncommitted | TransactionIsolationLevel::ReadCommitted => {
            Ok(Isolation::ReadCommitted)
        }
        TransactionIsolationLevel::RepeatableRead | TransactionIsolationLevel::Serializable => {
            Ok(Isolation::Serializable)
        }
        TransactionIsolationLevel::Snapshot => Err(Error::unsupported("isolation level SNAPSHOT")
            .hint("SERIALIZABLE and READ COMMITTED are the isolation levels there are.")),
    }
}

impl Session {
    /// Runs `statement` if it is one that controls transactions.
    pub(super) async fn control(&mut self, statement: &Statement, as_of: Option<&AsOf>) -> Result<Option<Response>> {
        let tag = match statement {
            Statement::StartTransaction { modes, statements, modifier: None, begin, .. } if statements.is_empty() => {
                self.begin(&Modes::of(modes)?, as_of).await?;
                if *begin { "BEGIN" } else { "START TRANSACTION" }
            }
            Statement::Commit { modifier: None, chain, .. } => self.end(true, *chain).await?,
            Statement::Rollback { savepoint: None, chain } => self.end(false, *chain).await?,
            Statement::Rollback { savepoint: Some(name), .. } => {
                self.rollback_to(&name::fold(name))?;
                "ROLLBACK"
            }
            Statement::Savepoint { name } => {
                self.savepoint(name::fold(name))?;
                "SAVEPOINT"
            }
            Statement::ReleaseSavepoint { name } => {
                self.release(&name::fold(name))?;
                "RELEASE"
            }
            _ => return Ok(None),
        };
        Ok(Some(Response::Complete(tag.to_owned())))
    }

    async fn begin(&mut self, modes: &Modes, as_of: Option<&AsOf>) -> Result<()> {
        if self.active.as_ref().is_some_and(|a| a.explicit) {
            self.warn("25001", "there is already a transaction in progress");
            return Ok(());
        }
        let had_statements = self.active.as_ref().is_some_and(|a| a.used);
        self.ensure_active(true, as_of).await?;
        if !had_statements || modes.isolation.is_some() || modes.read_only.is_some() {
            self.set_transaction(modes).await?;
        }
        Ok(())
    }

    /// Changes the open transaction's modes, before its first statement.
    async fn set_transaction(&mut self, modes: &Modes) -> Result<()> {
        let Some(active) = &self.active else { return Ok(()) };
        let isolation = modes.isolation.unwrap_or(active.isolation);
        let read_only = modes.read_only.unwrap_or(active.read_only);
        if !read_only && active.freshness != Freshness::Latest {
            return Err(Error::new(
                Condition::ReadOnlySqlTransaction,
                "a transaction that reads an earlier state cannot be read-write",
            )
            .hint("Writes need the latest state: set polity.staleness to 0, or leave out AS OF SYSTEM TIME."));
        }
        if isolation != active.isolation || read_only != active.read_only {
            if active.used {
                return Err(Error::new(
                    Condition::ActiveSqlTransaction,
                    "SET TRANSACTION must be called before any query",
                ));
            }
            if !active.savepoints.is_empty() {
                return Err(Error::new(
                    Condition::ActiveSqlTransaction,
                    "SET TRANSACTION must not be called in a subtransaction",
                )
                .hint("Give the transaction's modes before its first SAVEPOINT."));
            }
            let fresh = self.new_active(isolation, read_only, active.explicit, active.freshness).await?;
            self.active = Some(Box::new(fresh));
        }
        let shown = if isolation == Isolation::ReadCommitted { "read committed" } else { "serializable" };
        self.settings.set_transaction_defaults(shown, read_only);
        Ok(())
    }

    pub(super) async fn set_transaction_modes(&mut self, modes: &[TransactionMode]) -> Result<()> {
        if self.active.is_none() {
            self.warn("25P01", "SET TRANSACTION can only be used in transaction blocks");
            return Ok(());
        }
        self.set_transaction(&Modes::of(modes)?).await
    }

    pub(super) fn set_session_characteristics(&mut self, modes: &[TransactionMode]) -> Result<()> {
        let asked = Modes::of(modes)?;
        if let Some(isolation) = asked.isolation {
            let shown = if isolation == Isolation::ReadCommitted { "read committed" } else { "serializable" };
            self.settings.set("default_transaction_isolation", Some(shown), false)?;
        }
        if let Some(read_only) = asked.read_only {
            let shown = if read_only { "on" } else { "off" };
            self.settings.set("default_transaction_read_only", Some(shown), false)?;
        }
        Ok(())
    }

    async fn end(&mut self, commit: bool, chain: bool) -> Result<&'static str> {
        let word = if commit { "COMMIT" } else { "ROLLBACK" };
        let open = self.active.as_ref().map(|a| (a.explicit, a.failed, a.isolation, a.read_only, a.freshness));
        let Some((explicit, failed, isolation, read_only, freshness)) = open else {
            if chain {
                return Err(Error::new(
                    Condition::NoActiveSqlTransaction,
                    format!("{word} AND CHAIN can only be used in transaction blocks"),
                ));
            }
            self.warn("25P01", "there is no transaction in progress");
            return Ok(word);
        };
        if !explicit {
            self.warn("25P01", "there is no transaction in progress");
        }
        let commits = commit && !failed;
        if commits {
            self.commit_active().await?;
        } else {
            self.abandon();
        }
        if chain {
            self.active = Some(Box::new(self.new_active(isolation, read_only, true, freshness).await?));
        }
        Ok(if commits { "COMMIT" } else { "ROLLBACK" })
    }

    fn savepoint(&mut self, name: String) -> Result<()> {
        let active = self.block("SAVEPOINT")?;
        let point = active.txn.savepoint();
        let (catalog, changed_catalog) = (active.catalog.clone(), active.changed_catalog);
        // What is written past the batch could not be rolled back to here.
        active.fresh.clear();
        active.savepoints.push(Savepoint { name, point, catalog, changed_catalog });
        Ok(())
    }

    fn rollback_to(&mut self, name: &str) -> Result<()> {
        let active = self.block("ROLLBACK TO SAVEPOINT")?;
        let at = active.savepoints.iter().rposition(|s| s.name == name).ok_or_else(|| no_savepoint(name))?;
        active.savepoints.truncate(at + 1);
        let savepoint = &active.savepoints[at];
        active.txn.rollback_to(&savepoint.point);
        active.catalog = savepoint.catalog.clone();
        active.changed_catalog = savepoint.changed_catalog;
        active.failed = false;
        Ok(())
    }

    fn release(&mut self, name: &str) -> Result<()> {
        let active = self.block("RELEASE SAVEPOINT")?;
        let at = active.savepoints.iter().rposition(|s| s.name == name).ok_or_else(|| no_savepoint(name))?;
        active.savepoints.truncate(at);
        Ok(())
    }

    fn block(&mut self, what: &str) -> Result<&mut super::run::Active> {
        self.active.as_deref_mut().filter(|a| a.explicit).ok_or_else(|| {
            Error::new(Condition::NoActiveSqlTransaction, format!("{what} can only be used in transaction blocks"))
        })
    }

    pub(super) fn warn(&mut self, code: &'static str, message: &str) {
        let notice = Notice { severity: "WARNING", code, message: message.to_owned(), detail: None, hint: None };
        self.notices.push(notice);
    }
}

fn no_savepoint(name: &str) -> Error {
    Error::new(Condition::InvalidSavepointSpecification, format!("savepoint \"{name}\" does not exist"))
}
