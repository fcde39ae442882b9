//! Waits for the signal to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Returns when the process is asked to stop: Ctrl-C, or TERM.
pub async fn requested() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
