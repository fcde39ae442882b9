//! Bugs planted on purpose.
//!
//! A checker that has never caught anything may not be able to. So the database
//! carries a few classic bugs that simulation can switch on, one at a time, to see
//! each of them caught. They exist only where debug assertions do. In a release
//! [`planted`] is the constant `false`, and the compiler drops what depends on it.
//!
//! A bug is on for the thread that planted it: a simulated cluster is one thread.

/// A bug that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Bug {
    /// Log records are acknowledged before they are fsynced.
    AckBeforeFsync,
    /// What a transaction read may have changed when it commits.
    SkipReadValidation,
    /// A leader answers reads though no majority has confirmed it of late.
    ReadAfterLease,
    /// A follower answers reads from its own rows, asking nobody.
    SkipLeaderConfirmation,
    /// A follower answers reads before it has applied what the leader named.
    SkipWaitForApplied,
    /// A batch that is proposed twice is applied twice.
    ForgetBatchIds,
    /// A restart forgets the last entry of the log.
    DropLastEntry,
    /// A restart forgets for whom the node voted.
    ForgetVote,
    /// A leader counts a follower that it cannot reach as one that has the entry.
    CommitWithoutMajority,
    /// The log is purged up to a checkpoint that is not on disk.
    PurgeBeforeCheckpoint,
    /// A row may be inserted where there is one.
    SkipUniqueCheck,
    /// A row may refer to one that is gone.
    SkipPresenceCheck,
    /// Numbers of a sequence are handed out without having been reserved.
    SkipSequenceReservation,
    /// A commit of which nobody knows whether it happened is reported as failed.
    ReportUnknownAsFailed,
    /// A commit of which nobody knows whether it happened is reported as done.
    ReportUnknownAsDone,
    /// A batch of two rows writes only the first.
    ApplyHalfABatch,
    /// Rows are sent to another member without the first of each chunk.
    TransferSkipsARow,
    /// A node that remembers nothing votes before the cluster has agreed to have it.
    AnswerUnasked,
    /// Damage in the log passes for a write that was torn.
    TakeDamageForATornWrite,
    /// An index is made of a table that others may write meanwhile.
    IndexWithoutLock,
    /// A delta is applied before what its author had seen.
    SkipCausalCheck,
    /// Of a delta of several rows, the first is left out.
    SplitADelta,
    /// A counter is spent from without a share that suffices.
    SpendWithoutShare,
    /// Who gives a share away keeps it as well.
    DropTransferDebit,
    /// What was deleted is forgotten although others may not know of it.
    CollectEarly,
    /// A replica takes no note of elements that were taken out of a set.
    ForgetRemovals,
    /// Writes of a node that was removed are taken although its shares are another's.
    ApplyBeyondDeparture,
    /// A certificate of twice a third of the power, and no more, decides.
    AcceptTwoF,
    /// A validator prevotes for what is proposed, whatever it is locked on.
    SkipLockRule,
    /// Votes and proposals are sent before they are in the log.
    SignBeforeFsync,
    /// A ledger's transactions are applied though what they rely on has changed.
    SkipLedgerPrecondition,
    /// What a ledger's transactions do depends on the node that applies them.
    NondeterministicApply,
}

impl Bug {
    /// Those of strong tables, which whole clusters are simulated with.
    pub const ALL: [Bug; 20] = [
        Bug::AckBeforeFsync,
        Bug::SkipReadValidation,
        Bug::ReadAfterLease,
        Bug::SkipLeaderConfirmation,
        Bug::SkipWaitForApplied,
        Bug::ForgetBatchIds,
        Bug::DropLastEntry,
        Bug::ForgetVote,
        Bug::CommitWithoutMajority,
        Bug::PurgeBeforeCheckpoint,
        Bug::SkipUniqueCheck,
        Bug::SkipPresenceCheck,
        Bug::SkipSequenceReservation,
        Bug::ReportUnknownAsFailed,
        Bug::ReportUnknownAsDone,
        Bug::ApplyHalfABatch,
        Bug::TransferSkipsARow,
        Bug::AnswerUnasked,
        Bug::TakeDamageForATornWrite,
        Bug::IndexWithoutLock,
    ];

    /// Those of eventual tables.
    pub const OF_EVENTUAL: [Bug; 7] = [
        Bug::SkipCausalCheck,
        Bug::SplitADelta,
        Bug::SpendWithoutShare,
        Bug::DropTransferDebit,
        Bug::CollectEarly,
        Bug::ForgetRemovals,
        Bug::ApplyBeyondDeparture,
    ];

    /// Those of byzantine tables, which a simulation of their own catches.
    pub const OF_LEDGERS: [Bug; 5] = [
        Bug::AcceptTwoF,
        Bug::SkipLockRule,
        Bug::SignBeforeFsync,
        Bug::SkipLedgerPrecondition,
        Bug::NondeterministicApply,
    ];
}

/// Whether bugs can be planted in this build.
pub const AVAILABLE: bool = cfg!(debug_assertions);

#[cfg(debug_assertions)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, in place of the one that is there.
#[cfg(debug_assertions)]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether the bug is planted.
#[cfg(debug_assertions)]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether the bug is planted: never.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
