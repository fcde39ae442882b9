//! Asking a connection to end, from outside of its task.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures::task::AtomicWaker;

/// Whether a connection was asked to end. Waiting for that costs next to nothing,
/// since every connection does so whenever its client is silent.
#[derive(Default)]
pub(super) struct Departure {
    asked: AtomicBool,
    waker: AtomicWaker,
}

impl Departure {
    /// Asks the connection to end.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it was asked to.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Returns once it was asked to. Only its own task waits.
    pub async fn asked(&self) {
        std::future::poll_fn(|context| {
            self.waker.register(context.waker());
            if self.is_asked() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
