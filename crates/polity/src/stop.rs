//! Waits for the signal to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Returns when the process is asked to stop: Ctrl-C, TERM, or, if
/// `until_input_ends`, the end of standard input.
pub async fn requested(until_input_ends: bool) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (ended, end) = oneshot::channel();
    if until_input_ends {
        // A thread of its own: a read of standard input cannot be given up.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = ended.send(());
        });
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        Ok(()) = end => {}
    }
    Ok(())
}
