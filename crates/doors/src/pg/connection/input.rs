//! Waiting for the client.
//!
//! While a client idles, its connection holds as little memory as can be: buffers
//! that a large request or result has grown are given back after a moment.

use std::time::Duration;

use bytes::BytesMut;
use polity_sql::session::{Settings, TransactionStatus};
use polity_sql::{Condition, Error};
use tokio::io::AsyncReadExt;

use super::{Connection, End};
use crate::pg::backend;
use crate::pg::frontend::{self, Frame};

/// Room for the first read, and the least for any.
pub(super) const LEAST_ROOM: usize = 4 << 10;
/// Room for reads while a client sends a lot.
const MOST_ROOM: usize = 128 << 10;
/// Buffers larger than this are given back when the client idles.
const KEPT: usize = 8 << 10;
/// How long a client is silent before it idles.
const LULL: Duration = Duration::from_millis(500);

/// How long a client may be silent.
#[derive(Clone, Copy, Default)]
pub(super) struct Patience {
    outside: Option<Duration>,
    inside: Option<Duration>,
}

impl Patience {
    /// What the settings say.
    pub fn of(settings: &Settings) -> Patience {
        Patience {
            outside: settings.duration("idle_session_timeout"),
            inside: settings.duration("idle_in_transaction_session_timeout"),
        }
    }
}

/// How long the client may be silent now, and what it is told if it is longer.
pub(super) type Limit = Option<(Duration, fn() -> Error)>;

impl Connection {
    /// How long the client may be silent between requests.
    pub(super) fn patience(&self) -> Limit {
        if self.session.transaction_status() == TransactionStatus::Idle {
            self.patience.outside.map(|limit| (limit, idle_session as fn() -> Error))
        } else {
            self.patience.inside.map(|limit| (limit, idle_in_transaction as fn() -> Error))
        }
    }

    /// The next frame. What the client waits for is sent before it is waited for.
    pub(super) async fn next_frame(&mut self, limit: Limit) -> Result<Frame, End> {
        loop {
            match frontend::next_frame(&mut self.input) {
                Ok(Some(frame)) if !self.departure.is_asked() => return Ok(frame),
                Ok(_) => {}
                Err(error) => return Err(End::Fatal(backend::malformed(&error))),
            }
            if self.departure.is_asked() {
                return Err(End::Fatal(departing()));
            }
            if self.owed {
                self.flush().await?;
            }
            self.read(limit).await?;
        }
    }

    async fn read(&mut self, limit: Limit) -> Result<(), End> {
        self.input.reserve(self.room);
        let room = self.input.capacity() - self.input.len();
        let large = self.input.is_empty() && self.input.capacity().max(self.out.capacity()) > KEPT;
        let read = if large {
            match tokio::time::timeout(LULL, self.wait(limit)).await {
                Ok(read) => read?,
                Err(_) => {
                    self.shrink();
                    self.wait(limit).await?
                }
            }
        } else {
            self.wait(limit).await?
        };
        if read == 0 {
            return Err(End::Gone);
        }
        self.shared.metrics.received(read);
        // A read that filled its room is followed by more.
        self.room = if read == room { self.room * 2 } else { self.room / 2 }.clamp(LEAST_ROOM, MOST_ROOM);
        Ok(())
    }

    async fn wait(&mut self, limit: Limit) -> Result<usize, End> {
        let Connection { stream, input, departure, .. } = self;
        tokio::select! {
            biased;
            read = stream.read_buf(input) => Ok(read?),
            () = departure.asked() => Err(End::Fatal(departing())),
            error = too_long(limit) => Err(End::Fatal(error)),
        }
    }

    fn shrink(&mut self) {
        self.input = BytesMut::with_capacity(LEAST_ROOM);
        self.room = LEAST_ROOM;
        if self.out.is_empty() {
            self.out = Vec::new();
        }
    }
}

/// Returns when the client has been silent for too long; never without a limit.
async fn too_long(limit: Limit) -> Error {
    match limit {
        Some((duration, error)) => {
            tokio::time::sleep(duration).await;
            error()
        }
        None => std::future::pending().await,
    }
}

fn departing() -> Error {
    Error::new(Condition::AdminShutdown, "terminating connection due to administrator command")
}

fn idle_session() -> Error {
    Error::new(Condition::IdleSessionTimeout, "terminating connection due to idle-session timeout")
}

fn idle_in_transaction() -> Error {
    Error::new(Condition::IdleInTransactionSessionTimeout, "terminating connection due to idle-in-transaction timeout")
}
