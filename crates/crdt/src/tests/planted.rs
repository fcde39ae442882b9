//! Bugs planted on purpose: the invariants must catch each of them.

use polity_base::planted::{Bug, plant};

use super::simulation::run;

/// Runs worlds with the bug until one of the invariants catches it. What else comes of it
/// on the way, such as a log that cannot be read any more, is no proof of theirs.
fn catches(bug: Bug, by: &[&str]) {
    plant(Some(bug));
    let run = |seed| std::panic::catch_unwind(|| run(seed, 120)).unwrap_or(Ok(()));
    let wrong = (1..=40).find_map(|seed| run(seed).err().filter(|wrong| by.iter().any(|name| wrong.contains(name))));
    plant(None);
    assert!(wrong.is_some(), "nothing caught {bug:?}");
}

#[test]
fn an_acknowledgement_before_the_fsync_is_caught() {
    catches(Bug::AckBeforeFsync, &["acknowledged is durable"]);
}

#[test]
fn a_skipped_causal_check_is_caught() {
    catches(Bug::SkipCausalCheck, &["causal visibility"]);
}

#[test]
fn a_split_delta_is_caught() {
    catches(Bug::SplitADelta, &["atomic visibility", "strong convergence", "causal visibility"]);
}

#[test]
fn spending_without_a_share_is_caught() {
    catches(Bug::SpendWithoutShare, &["escrow bound"]);
}

#[test]
fn a_transfer_without_its_debit_is_caught() {
    catches(Bug::DropTransferDebit, &["escrow bound"]);
}

#[test]
fn forgetting_deletes_early_is_caught() {
    catches(Bug::CollectEarly, &["collection is safe", "no resurrection", "strong convergence"]);
}

#[test]
fn forgotten_removals_are_caught() {
    catches(Bug::ForgetRemovals, &["strong convergence", "no resurrection"]);
}
