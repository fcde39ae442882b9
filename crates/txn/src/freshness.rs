//! How old a state a transaction may read, and what can be read without asking
//! anyone.
//!
//! What a replica has applied is *closed*: commit timestamps grow along the log,
//! so nothing at or before the last applied one will be written any more, whoever
//! leads. That is the only promise a later leader is bound by, since only the log
//! outlives a leader; so a replica serves its past up to there from its own rows,
//! and a time after it is closed by an entry of the log that holds nothing
//! (a *tick*). The leader of an idle range orders one each second when there are
//! others, so that they can serve what is a little older than now also when it is
//! out of reach.

use std::sync::{Arc, Weak};
use std::time::Duration;

use polity_base::{Class, Timestamp};

use crate::database::{Inner, committed};
use crate::error::{Error, Outage, Wanted};
use crate::replica::Replica;

/// How old a state a transaction reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Freshness {
    /// All that was acknowledged before it began, wherever.
    #[default]
    Latest,
    /// The state of this time; all statements read it. Read-only.
    AsOf(Timestamp),
    /// The newest state that this node's replica can serve alone; all statements
    /// read it. Read-only.
    Local,
    /// The same if that is not older than this; else the latest state, and if
    /// that cannot be had, none. Read-only.
    Within(Duration),
}

/// An idle leader closes time so often.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// A leader's clock may be so far behind this node's; a time later than that is in
/// its future.
const MOST_SKEW: Duration = Duration::from_secs(1);

impl Freshness {
    /// Whether all statements read one state that was fixed when the transaction
    /// began.
    pub(crate) fn is_fixed(self) -> bool {
        self != Freshness::Latest
    }
}

impl Inner {
    /// The timestamp to read at, up to which this node's replica has everything.
    /// None for [`Freshness::Latest`], which each snapshot asks for by itself.
    pub async fn read_at(&self, freshness: Freshness) -> Result<Option<Timestamp>, Error> {
        let replica = self.directory.of_key(&[]).1;
        let applied = replica.applied();
        match freshness {
            Freshness::Latest => Ok(None),
            Freshness::Local => Ok(Some(applied)),
            Freshness::AsOf(at) => {
                if at > self.clock.read().latest {
                    return Err(Error::InTheFuture(at));
                }
                if at > applied {
                    let closed = self.close(replica.as_ref(), at).await;
                    closed.map_err(|error| self.too_stale(error, replica.as_ref(), Wanted::At(at)))?;
                }
                Ok(Some(at))
            }
            Freshness::Within(age) => {
                if self.age_of(applied) <= age {
                    return Ok(Some(applied));
                }
                let latest = replica.read_timestamp().await;
                latest.map(Some).map_err(|error| self.too_stale(error, replica.as_ref(), Wanted::Within(age)))
            }
        }
    }

    /// How old the state at `at` is, at most.
    fn age_of(&self, at: Timestamp) -> Duration {
        Duration::from_nanos(self.clock.read().latest.0.saturating_sub(at.0))
    }

    fn too_stale(&self, error: Error, replica: &dyn Replica, wanted: Wanted) -> Error {
        let outage = match error {
            Error::Unavailable(outage) => outage,
            error if error.class() == Class::Unknown => Outage::because(error.to_string()),
            error => return error,
        };
        let newest = replica.applied();
        Error::TooStale { newest, age: self.age_of(newest), wanted, outage }
    }

    /// Closes the time up to `at`: nothing will be written there any more.
    async fn close(&self, replica: &dyn Replica, at: Timestamp) -> Result<(), Error> {
        loop {
            let closed = self.tick(replica).await?;
            if closed >= at {
                return Ok(());
            }
            let behind = Duration::from_nanos(at.0 - closed.0);
            if behind > MOST_SKEW {
                return Err(Error::InTheFuture(at));
            }
            tokio::time::sleep(behind).await;
        }
    }

    async fn tick(&self, replica: &dyn Replica) -> Result<Timestamp, Error> {
        committed(replica.commit(self.batch(Vec::new(), Vec::new())).await?)
    }
}

/// Closes time while nothing is written, wherever this node leads and is not alone.
pub(crate) async fn close_while_idle(database: Weak<Inner>) {
    let mut before = Timestamp::ZERO;
    loop {
        tokio::time::sleep(TICK_EVERY).await;
        let Some(database) = database.upgrade() else { return };
        let replica: Arc<dyn Replica> = database.directory.of_key(&[]).1.clone();
        let applied = replica.applied();
        let idle = applied == before;
        if idle && replica.leader() == Some(database.options.node) && replica.has_peers() {
            // Whoever leads next will do it if this node cannot.
            let _ = database.tick(replica.as_ref()).await;
        }
        before = replica.applied();
    }
}
