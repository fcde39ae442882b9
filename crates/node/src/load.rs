//! Tells the other nodes how busy this one is.

use std::sync::Arc;
use std::time::Duration;

use polity_cluster::membership::{Load, Membership};
use polity_doors::http::DoorMetrics;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// A change of so much is told at once,
const NEWS_PERMILLE: u16 = 20;
/// and what has not changed, every so many times: there may be nodes that are new.
const REMIND_EVERY: u32 = 10;

/// Tells it until `stop` turns true.
pub async fn tell(membership: Membership, doors: Arc<DoorMetrics>, mut stop: watch::Receiver<bool>) {
    let mut last = (Instant::now(), busy());
    let (mut told, mut since) = (None, 0);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let now = (Instant::now(), busy());
        let had = (now.0 - last.0) * u32::try_from(Handle::current().metrics().num_workers()).unwrap_or(1);
        let share = now.1.saturating_sub(last.1).div_duration_f64(had.max(Duration::from_nanos(1)));
        last = now;
        let load = Load {
            sessions: u32::try_from(doors.open()).unwrap_or(u32::MAX),
            // Between 0 and 1000.
            busy_permille: (share.clamp(0.0, 1.0) * 1_000.0).round() as u16,
        };
        since += 1;
        let near = |other: &Load| {
            other.sessions == load.sessions && other.busy_permille.abs_diff(load.busy_permille) < NEWS_PERMILLE
        };
        if since >= REMIND_EVERY || !told.as_ref().is_some_and(near) {
            membership.tell_load(load).await;
            (told, since) = (Some(load), 0);
        }
    }
}

/// How long the workers of this runtime have been busy, all together.
fn busy() -> Duration {
    let metrics = Handle::current().metrics();
    (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker)).sum()
}
