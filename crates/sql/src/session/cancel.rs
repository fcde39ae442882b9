//! Ending a statement before it is done: on request, or when its time is up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::Instant;

use crate::error::{Condition, Error, Result};

#[derive(Default)]
struct Shared {
    /// The number of the session's newest statement
    newest: AtomicU64,
    /// Statements up to this number should end
    ended: AtomicU64,
    notify: Notify,
}

/// Cancels what its session is running. Held by whoever may ask for that.
#[derive(Clone, Default)]
pub struct Canceller(Arc<Shared>);

impl Canceller {
    /// Makes the running statement end with 57014. Without one, nothing happens.
    pub fn cancel(&self) {
        self.0.ended.fetch_max(self.0.newest.load(Ordering::Acquire), Ordering::AcqRel);
        self.0.notify.notify_waiters();
    }

    /// A new statement begins: requests so far meant another.
    pub(crate) fn watch(&self, timeout: Option<Duration>) -> Watch {
        let statement = self.0.newest.fetch_add(1, Ordering::AcqRel) + 1;
        Watch { shared: self.0.clone(), statement, deadline: timeout.map(|t| (Instant::now() + t, t)) }
    }
}

/// Tells one statement whether it should end.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    statement: u64,
    deadline: Option<(Instant, Duration)>,
}

impl Watch {
    fn is_cancelled(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire) >= self.statement
    }

    /// An error when the statement should end now. Asked between pieces of work.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(cancelled());
        }
        match self.deadline {
            Some((deadline, timeout)) if Instant::now() >= deadline => Err(timed_out(timeout)),
            _ => Ok(()),
        }
    }

    /// The same, and now and then lets other tasks run: for loops over rows that
    /// have nothing to wait for.
    pub async fn pause(&self) -> Result<()> {
        self.check()?;
        coop::consume_budget().await;
        Ok(())
    }

    /// The same, and lets other tasks run: for loops over chunks of many rows.
    pub async fn rest(&self) -> Result<()> {
        self.check()?;
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Runs `work` unless and until the statement should end.
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            // Work that never waits uses the task's budget up; the timer must not starve on that.
            error = coop::unconstrained(self.ended()) => Err(error),
        }
    }

    /// Returns when the statement should end, with the error it ends with.
    pub async fn ended(&self) -> Error {
        let cancel = async {
            loop {
                let notified = self.shared.notify.notified();
                if self.is_cancelled() {
                    return cancelled();
                }
                notified.await;
            }
        };
        match self.deadline {
            None => cancel.await,
            Some((deadline, timeout)) => tokio::select! {
                error = cancel => error,
                () = tokio::time::sleep_until(deadline) => timed_out(timeout),
            },
        }
    }
}

fn cancelled() -> Error {
    Error::new(Condition::QueryCanceled, "canceling statement due to user request")
}

fn timed_out(timeout: Duration) -> Error {
    Error::new(Condition::QueryCanceled, "canceling statement due to statement timeout")
        .detail(format!("The statement ran longer than {} ms.", timeout.as_millis()))
        .hint("Raise statement_timeout, or make the statement do less.")
}
