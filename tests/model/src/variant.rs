//! The protocol, and the ways to get it wrong.

/// The protocol as specified, or with one rule left out or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Every rule as it stands, with `durability=fsync`.
    Specified,
    /// I4, the way to stay live: the controller raises the partition epoch when it answers
    /// INELIGIBLE, and the leader waits for that record instead of taking its proposal back.
    IneligibleRaisesEpoch,
    /// `durability=replicated`, with N3: whoever comes back after a crash leaves the ELR.
    PageCacheAck,
    /// `durability=replicated` without N3.
    PageCacheAckWithoutN3,
    /// H1 broken: the leader counts its own copy before it is synced.
    LeaderCountsUnsynced,
    /// H1 broken: a proposed ISR does not count until it is committed.
    NoMaximalIsr,
    /// H2 broken: the high watermark advances with fewer than min ISR members.
    NoMinIsr,
    /// I1 broken: a member is let in before it has what the leader had at its election.
    NoLeaderStartForExpand,
    /// I3 broken: the controller does not compare the incarnation of who is let in.
    NoIncarnationCheck,
    /// The same with `durability=replicated`.
    PageCacheAckNoIncarnationCheck,
    /// I3 broken: the ELR stays when the ISR has reached min.
    ElrStays,
    /// I4 broken: the leader forgets a proposal when no answer comes.
    TimeoutForgetsProposal,
    /// I4 broken: INELIGIBLE clears the proposal although another attempt is on its way.
    IneligibleWithRetryInFlight,
    /// I4 broken: any refusal clears the proposal, whichever it answers.
    RefusalNotMatched,
    /// F1 broken: the leader answers fetches of another epoch.
    NoFetchEpoch,
    /// N2 broken: a crashed node goes on in the epoch in which it fell.
    SameEpochRestart,
    /// N2 broken, and A5 instead: followers are given nothing that the leader has not synced.
    SameEpochRestartServesDurable,
    /// T3 broken: followers cut their log back to their high watermark.
    TruncateToHighWatermark,
    /// R2 broken: the tail is told without asking whether the leader still is one.
    TailWithoutConfirmation,
    /// R2 broken: the tail is told before the high watermark has reached the leader's start.
    TailBeforeLeaderStart,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Specified,
        Self::IneligibleRaisesEpoch,
        Self::PageCacheAck,
        Self::PageCacheAckWithoutN3,
        Self::LeaderCountsUnsynced,
        Self::NoMaximalIsr,
        Self::NoMinIsr,
        Self::NoLeaderStartForExpand,
        Self::NoIncarnationCheck,
        Self::PageCacheAckNoIncarnationCheck,
        Self::ElrStays,
        Self::TimeoutForgetsProposal,
        Self::IneligibleWithRetryInFlight,
        Self::RefusalNotMatched,
        Self::NoFetchEpoch,
        Self::SameEpochRestart,
        Self::SameEpochRestartServesDurable,
        Self::TruncateToHighWatermark,
        Self::TailWithoutConfirmation,
        Self::TailBeforeLeaderStart,
    ];

    /// What it is with its missing rule put back.
    #[must_use]
    pub fn intact(self) -> Self {
        match self {
            Self::PageCacheAck
            | Self::PageCacheAckWithoutN3
            | Self::PageCacheAckNoIncarnationCheck => Self::PageCacheAck,
            _ => Self::Specified,
        }
    }

    /// Whether acknowledgements wait for the disk (F5).
    pub(crate) fn waits_for_disk(self) -> bool {
        !matches!(
            self,
            Self::PageCacheAck | Self::PageCacheAckWithoutN3 | Self::PageCacheAckNoIncarnationCheck
        )
    }

    /// Whether registering takes a node out of the ELR (N3, the part for `durability=replicated`).
    pub(crate) fn registration_leaves_elr(self) -> bool {
        matches!(
            self,
            Self::PageCacheAck | Self::PageCacheAckNoIncarnationCheck
        )
    }

    /// Whether the controller compares incarnations of added members (I3).
    pub(crate) fn checks_incarnation(self) -> bool {
        !matches!(
            self,
            Self::NoIncarnationCheck | Self::PageCacheAckNoIncarnationCheck
        )
    }

    /// Whether a crashed node may come back without a registration.
    pub(crate) fn restarts_in_epoch(self) -> bool {
        matches!(
            self,
            Self::SameEpochRestart | Self::SameEpochRestartServesDurable
        )
    }
}
