//! Ending a statement before it is done: on request, or when its time is up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Condition, Error, Result};

#[derive(Default)]
struct Shared {
    requested: AtomicBool,
    notify: Notify,
}

/// Cancels what its session is running. Held by whoever may ask for that.
#[derive(Clone, Default)]
pub struct Canceller(Arc<Shared>);

impl Canceller {
    /// Makes the running statement end with 57014. Without one, nothing happens.
    pub fn cancel(&self) {
        self.0.requested.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }

    /// A new statement begins: requests so far meant another.
    pub(crate) fn watch(&self, timeout: Option<Duration>) -> Watch {
        self.0.requested.store(false, Ordering::Release);
        Watch { shared: self.0.clone(), deadline: timeout.map(|t| (Instant::now() + t, t)) }
    }
}

/// Tells one statement whether it should end.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    deadline: Option<(Instant, Duration)>,
}

impl Watch {
    /// An error when the statement should end now. Asked between pieces of work.
    pub fn check(&self) -> Result<()> {
        if self.shared.requested.load(Ordering::Acquire) {
            return Err(cancelled());
        }
        match self.deadline {
            Some((deadline, timeout)) if Instant::now() >= deadline => Err(timed_out(timeout)),
            _ => Ok(()),
        }
    }

    /// Runs `work` unless and until the statement should end.
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            error = self.until_end() => Err(error),
        }
    }

    async fn until_end(&self) -> Error {
        let cancel = async {
            loop {
                let notified = self.shared.notify.notified();
                if self.shared.requested.load(Ordering::Acquire) {
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
