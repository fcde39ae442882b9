//! The figures of the ledger, for `/metrics` and `/health`.

use std::fmt;
use std::sync::Arc;

use polity_txn::byzantine::Ledger as _;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use serde_json::{Value, json};

use super::host::Host;
use crate::metrics::Encoder;

/// Reads the figures of the ledger when they are asked for.
pub(crate) struct LedgerFigures(pub Arc<Host>);

impl fmt::Debug for LedgerFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerFigures").finish_non_exhaustive()
    }
}

impl Collector for LedgerFigures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut encoder = Encoder(encoder);
        let condition = self.0.condition().map(|condition| condition.borrow().clone());
        encoder.gauge("ledger_follows", "Whether this node follows a ledger", i64::from(condition.is_some()))?;
        let Some(condition) = condition else { return Ok(()) };
        let (count, bytes) = self.0.waiting().unwrap_or_default();
        for (name, help, value) in [
            ("ledger_height", "The newest committed height of the ledger", condition.committed.0),
            (
                "ledger_round",
                "The round of the next height; 0 if it is not worked on",
                condition.round.unwrap_or(0).into(),
            ),
            ("ledger_power_total", "The power of all validators", condition.quorum.total),
            ("ledger_power_needed", "The least power that decides", condition.quorum.needed),
            ("ledger_power_present", "The power of the validators that this node hears", condition.quorum.present),
            ("ledger_stopped", "Whether this node's validator has stopped", condition.stopped.is_some().into()),
            ("ledger_waiting", "Transactions that wait here to be ordered", count as u64),
            ("ledger_waiting_bytes", "Bytes of these", bytes as u64),
        ] {
            encoder.gauge(name, help, i64::try_from(value).unwrap_or(i64::MAX))?;
        }
        encoder.gauges(
            "ledger_silent_power",
            "Power of a validator that this node does not hear",
            condition.quorum.silent.iter().map(|silent| (silent.node, silent.power as f64)),
        )?;
        encoder.gauges(
            "ledger_misbehaviour",
            "How often a node was seen to send what no honest validator sends, since this one started",
            self.0.misbehaviour().into_iter().map(|(node, (count, _))| (node, count as f64)),
        )
    }
}

/// What `/health` says of the ledger; nothing if there is none.
pub(crate) fn health(host: &Host) -> Option<Value> {
    let condition = host.condition()?;
    let condition = condition.borrow();
    let quorum = &condition.quorum;
    let misbehaves = host.misbehaviour().into_iter();
    let misbehaves = misbehaves.map(|(node, (count, last))| json!({ "node": node.0, "count": count, "last": last }));
    Some(json!({
        "height": condition.committed.0,
        "power": { "present": quorum.present, "needed": quorum.needed, "total": quorum.total },
        "silent": quorum.silent.iter().map(|silent| silent.node.0).collect::<Vec<_>>(),
        "misbehave": misbehaves.collect::<Vec<_>>(),
        "decides": quorum.missing() == 0 && condition.stopped.is_none(),
        "stopped": condition.stopped.as_ref().map(ToString::to_string),
    }))
}
