//! `polity fault`: drills. Disturbs nodes that were started with `--allow-faults`.

use std::time::Duration;

use clap::Subcommand;
use polity_base::NodeId;
use polity_node::admin::{Disturbance, Place, Weather};

use crate::Outcome;
use crate::admin::{Admin, AdminArguments, Asked};

/// Arguments of `polity fault`.
pub type Arguments = Asked<What>;

/// Places are nodes by number, or regions.
#[derive(Subcommand)]
pub enum What {
    /// Let no message pass between two places
    Cut {
        /// One place: a node's number, or a region
        one: Place,
        /// The other
        other: Place,
    },
    /// Let no message pass between a place and all others
    Isolate {
        /// A node's number, or a region
        place: Place,
    },
    /// Let each message between two places take longer
    Slow {
        /// One place: a node's number, or a region
        one: Place,
        /// The other
        other: Place,
        /// By how much, one way: 200ms, 1s
        #[arg(value_parser = duration)]
        by: Duration,
    },
    /// Lose a share of the messages between two places
    Loss {
        /// One place: a node's number, or a region
        one: Place,
        /// The other
        other: Place,
        /// How many: 5%
        #[arg(value_parser = share)]
        share: f64,
    },
    /// Let a node's process stand still, as if its machine did
    Pause {
        /// The node's number
        number: u64,
        /// For how long; it goes on by itself
        #[arg(value_parser = duration, default_value = "10s")]
        span: Duration,
    },
    /// End a node's process at once, without warning
    Kill {
        /// The node's number
        number: u64,
    },
    /// Let a node lie to the other validators of the ledger, or let it stop to
    Lie {
        /// The node's number
        number: u64,
        /// In which way: equivocator, double_voter, silent, withholder, wrong_root, forger,
        /// replayer, stale_certificate, amnesiac, split_payload, flooder, lying_snapshot
        #[arg(long, value_name = "KIND", required_unless_present = "stop")]
        how: Option<String>,
        /// Let it be honest again
        #[arg(long, conflicts_with = "how")]
        stop: bool,
    },
    /// End all disturbances of messages, lies too
    Heal,
    /// Show the disturbances there are
    Show,
}

/// Runs one of the commands.
pub fn run(arguments: Arguments) -> Outcome {
    let disturbance = match arguments.what {
        What::Cut { one, other } => Disturbance::Between(one, other, Weather::Cut),
        What::Isolate { place } => Disturbance::Around(place, Weather::Cut),
        What::Slow { one, other, by } => Disturbance::Between(one, other, Weather::Slow(by)),
        What::Loss { one, other, share } => Disturbance::Between(one, other, Weather::Loss(share)),
        What::Pause { number, span } => Disturbance::Pause(NodeId(number), span),
        What::Kill { number } => Disturbance::Kill(NodeId(number)),
        What::Lie { number, how, stop: _ } => Disturbance::Lie(NodeId(number), how),
        What::Heal => Disturbance::Heal,
        What::Show => return show(&arguments.admin),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(async { Admin::new(&arguments.admin)?.disturb(&disturbance).await })?);
    Ok(())
}

fn show(admin: &AdminArguments) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lines = runtime.block_on(async { Admin::new(admin)?.disturbances().await })?;
    println!("{}", if lines.is_empty() { "no disturbances".to_owned() } else { lines.join("\n") });
    Ok(())
}

/// `200ms`, `1.5s`, `2min`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| format!("{text}: not a time such as 200ms or 1.5s"))?;
    let seconds = match &text[digits.len()..] {
        "ms" => number / 1_000.0,
        "s" => number,
        "min" => number * 60.0,
        unit => return Err(format!("{text}: the unit is ms, s or min, not {unit:?}")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text}: not a time such as 200ms or 1.5s"))
}

/// `5%`, as a number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok());
    let number =
        number.filter(|n| (0.0..=100.0).contains(n)).ok_or_else(|| format!("{text}: not a share such as 5%"))?;
    Ok(number / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_have_units() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "ms", "-1s", "5h", "NaNs"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(share("5%"), Ok(0.05));
        for wrong in ["5", "101%", "-1%", "%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
