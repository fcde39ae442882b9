//! What a node does on its own, in the background.

use std::sync::Arc;
use std::time::Duration;

use polity_base::time::HybridClock;
use polity_base::{RangeId, Timestamp};
use polity_raft::Group;
use polity_sql::ddl::garbage::Collector;
use polity_sql::session::Engine;
use polity_store::log::{Log, Record};
use polity_store::state::State;
use tokio::sync::watch;

use crate::error::Error;

/// The name of the clock's mark in the log, of group [`RangeId::NODE`].
const CLOCK: &str = "clock";
/// How far ahead of the clock its mark stands,
const AHEAD: Duration = Duration::from_secs(4);
/// how far at least ahead of the last time it gave, a nanosecond for each,
const ROOM: Duration = Duration::from_millis(100);
/// and how often it is moved.
const MARK_EVERY: Duration = Duration::from_secs(2);

/// How often old versions are looked for,
const COLLECT_EVERY: Duration = Duration::from_secs(5);
/// and how many are removed before others may write to the disk again.
const COLLECT_AT_ONCE: usize = 20_000;

/// How often storages are looked for that nobody can reach any more, at most.
const CLEAR_EVERY: Duration = Duration::from_secs(60);

/// How often the ledger's tables are compared with the catalog's.
const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// Waits a while; false when the node stops meanwhile.
async fn pause(span: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => false,
        () = tokio::time::sleep(span) => true,
    }
}

/// The mark below which the clock may have given out times in an earlier run.
pub fn clock_mark(log: &Log) -> Result<Timestamp, Error> {
    let Some(bytes) = log.state(RangeId::NODE, CLOCK) else { return Ok(Timestamp::ZERO) };
    let bytes = <[u8; 8]>::try_from(&bytes[..]);
    let bytes = bytes.map_err(|_| Error::file("log", "holds a clock mark that is not a number"))?;
    Ok(Timestamp(u64::from_le_bytes(bytes)))
}

/// Moves the mark ahead of the clock; it is durable when this returns.
pub async fn mark_clock(log: &Log, clock: &HybridClock) -> Result<(), Error> {
    // A node that is restarted again and again begins at its mark each time; that
    // must not carry it away from the time of day.
    let given = clock.now().0.saturating_add(ROOM.as_nanos() as u64);
    let mark = clock.reading().midpoint().0.saturating_add(AHEAD.as_nanos() as u64).max(given);
    let value = mark.to_le_bytes().to_vec().into();
    Ok(log.append_wait(vec![Record::State { group: RangeId::NODE, name: CLOCK.into(), value }]).await?)
}

/// Keeps the mark ahead of the clock: a time that was given out is not given out
/// again after a restart, also if the machine's clock was set back.
pub async fn keep_clock_marked(log: Log, clock: Arc<HybridClock>, mut stop: watch::Receiver<bool>) {
    while pause(MARK_EVERY, &mut stop).await {
        if let Err(error) = mark_clock(&log, &clock).await {
            // The log takes no writes any more, so neither does the node.
            tracing::warn!(%error, "the clock's mark could not be moved");
        }
    }
}

/// Removes versions that were superseded longer ago than the retention period.
pub async fn collect_garbage(state: Arc<State>, mut stop: watch::Receiver<bool>) {
    while pause(COLLECT_EVERY, &mut stop).await {
        loop {
            let rows = state.clone();
            let swept = polity_store::blocking(move || rows.collect(Timestamp::MAX, COLLECT_AT_ONCE)).await;
            match swept {
                Ok(Ok(swept)) if swept.more && !*stop.borrow() => {}
                Ok(Ok(_)) => break,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "old versions could not be removed");
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "removing old versions failed");
                    break;
                }
            }
        }
    }
}

/// Clears what dropped, truncated and rewritten tables have left, once no
/// snapshot that can be read shows it any more. The leader does it, for all.
pub async fn clear_dropped(engine: Arc<Engine>, group: Group, retention: Duration, mut stop: watch::Receiver<bool>) {
    let mut collector = Collector::default();
    while pause(CLEAR_EVERY.min(retention / 2).max(Duration::from_millis(10)), &mut stop).await {
        if !group.status().leads {
            continue;
        }
        let collected = tokio::select! {
            collected = collector.collect(&engine, retention) => collected,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match collected {
            Ok(cleared) if cleared.is_empty() => {}
            Ok(cleared) => tracing::info!(storages = cleared.len(), "the space of dropped tables was given back"),
            // Found again next time: what is garbage is told by the rows alone.
            Err(error) => tracing::warn!(%error, "the space of dropped tables could not be given back"),
        }
    }
}

/// Brings the ledger's tables in step with the catalog's: whoever changed the catalog does
/// so as well, unless it crashed in between. The leader does it, for all.
pub async fn keep_ledger_in_step(engine: Arc<Engine>, group: Group, mut stop: watch::Receiver<bool>) {
    while pause(COMPARE_EVERY, &mut stop).await {
        if !group.status().leads {
            continue;
        }
        let compared = tokio::select! {
            compared = engine.ledger_in_step() => compared,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if let Err(error) = compared {
            // The next comparison finds what is left.
            tracing::debug!(%error, "the ledger is not in step with the catalog");
        }
    }
}
