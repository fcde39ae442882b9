//! Certificates change while the node runs.
//!
//! The files are looked at every few seconds. New ones that are in order take the
//! place of those in use: each connection is made anew under them, and the old one
//! ends once its calls are answered, or after a bound. New ones that are not in
//! order are named in the log, and nothing changes. A connection whose peer's
//! certificate runs out ends then, whatever it carries.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::connection::{Connection, End};
use super::hub::Hub;
use crate::certificates::Credentials;
use crate::error::Error;

/// How often files and connections are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// Days before the end from which on the log warns, once a day.
const WARN_DAYS: i64 = 30;

impl Hub {
    /// Seconds since 1970.
    pub fn now(&self) -> i64 {
        self.time.0.read().midpoint().unix_micros() / 1_000_000
    }

    /// Seconds until this node's certificate runs out; below 0 when it has.
    pub fn seconds_left(&self) -> i64 {
        self.credentials.read().not_after - self.now()
    }

    /// What is to be said today of the end of this node's certificate, and whether
    /// that is urgent. `said` is the day on which something last was.
    pub fn warning(&self, said: &mut Option<i64>) -> Option<(bool, String)> {
        let (left, today) = (self.seconds_left(), self.now().div_euclid(DAY_SECONDS));
        let days = left.div_euclid(DAY_SECONDS);
        if days >= WARN_DAYS || said.replace(today) == Some(today) {
            return None;
        }
        let file = self.files.certificate.display();
        let end = match days {
            ..0 => "has run out, and no other node talks to this one".to_owned(),
            0 => "runs out within a day, and then no other node talks to this one".to_owned(),
            days => format!("runs out in {days} days"),
        };
        let mend = format!("polity cert node {} --host HOST --authority DIR --out DIR", self.node.0);
        let what = format!("the certificate {file} {end}: make another with `{mend}` and put it there with its key");
        Some((days < 1, what))
    }

    /// Reads the certificates again, and has every connection made anew.
    pub fn reload(self: &Arc<Self>) -> Result<(), Error> {
        let now = self.time.0.read().midpoint();
        let new = Credentials::load(&self.files, self.cluster, self.node, now)?;
        *self.credentials.write() = Arc::new(new);
        let days = self.seconds_left() / DAY_SECONDS;
        tracing::info!(days, "certificates were read anew");
        for connection in self.peers().iter().flat_map(|peer| peer.connections()) {
            connection.renew();
            self.close_later(connection);
        }
        Ok(())
    }

    /// Closes a connection that another is to replace, once it had time to be.
    pub fn close_later(&self, connection: Arc<Connection>) {
        let bound = self.limits.retirement;
        self.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(bound) => connection.close(End::Replaced),
                _ = connection.ended() => {}
            }
        });
    }

    /// Ends the connections of peers whose certificates have run out.
    pub fn end_outlived(&self) {
        let now = self.now();
        for connection in self.peers().iter().flat_map(|peer| peer.connections()) {
            if connection.not_after < now {
                tracing::warn!(peer = %connection.peer.node, "the certificate of a peer has run out");
                connection.close(End::Outlived);
            }
        }
    }
}

/// Looks after certificates for as long as the links run.
pub async fn look_after(hub: Arc<Hub>) {
    let mut seen = state_of_files(&hub);
    let mut said = None;
    loop {
        match hub.warning(&mut said) {
            Some((true, what)) => tracing::error!("{what}"),
            Some((false, what)) => tracing::warn!("{what}"),
            None => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
        hub.end_outlived();
        let now = state_of_files(&hub);
        if now == seen {
            continue;
        }
        seen = now;
        if let Err(error) = hub.reload() {
            tracing::error!(%error, "changed certificates cannot be used; the ones in use stay");
        }
    }
}

/// When each file was last written, as far as that can be told.
fn state_of_files(hub: &Hub) -> [Option<SystemTime>; 3] {
    let written = |file: &Path| file.metadata().and_then(|metadata| metadata.modified()).ok();
    [&hub.files.authority, &hub.files.certificate, &hub.files.private_key].map(|file| written(file))
}
