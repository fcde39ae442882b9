//! The types that Malachite's core is instantiated with.
//!
//! What is agreed on is a [`BlockId`], the hash of a block's header: the block itself
//! travels beside the proposal (in Malachite's words, "proposal and parts"), since it
//! is large, and may come from anyone.
//!
//! Who proposes is a function of height and round alone: slot `height + round`, laid
//! out over the voting power by steps of about the golden ratio. So each validator
//! has as many slots as it has power, and they lie as far apart as they can, which
//! bounds how long a silent or lying one can be in the way.

use std::fmt;
use std::sync::Arc;

use arc_malachitebft_core_types as malachite;
use arc_malachitebft_core_types::{NilOrVal, Round, SigningScheme, VoteType};
use polity_base::NodeId;
use serde::{Deserialize, Serialize};

use crate::types::{BlockId, Height, LedgerId, PublicKey, Signature, Validators};

/// The types, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context;

/// A validator's address: the node it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Address(pub NodeId);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl malachite::Address for Address {}

/// A vote, without its signature.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vote {
    /// The height
    pub height: Height,
    /// The round of the height
    pub round: u32,
    /// Prevote or precommit
    pub kind: VoteType,
    /// For which block, if any
    pub value: NilOrVal<BlockId>,
    /// Who votes
    pub voter: Address,
}

/// A proposal, without its signature.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// The height
    pub height: Height,
    /// The round of the height
    pub round: u32,
    /// The block
    pub block: BlockId,
    /// The earlier round in which it got the prevotes of a quorum, if it did
    pub locked_round: Round,
    /// Who proposes
    pub proposer: Address,
}

/// A vote with its signature.
pub type SignedVote = malachite::SignedVote<Context>;
/// A proposal with its signature.
pub type SignedProposal = malachite::SignedProposal<Context>;

impl malachite::Context for Context {
    type Address = Address;
    type Height = Height;
    type ProposalPart = NoPart;
    type Proposal = Proposal;
    type Validator = Member;
    type ValidatorSet = Members;
    type Timeouts = malachite::LinearTimeouts;
    type Value = BlockId;
    type Vote = Vote;
    type Extension = ();
    type SigningScheme = Scheme;

    fn select_proposer<'a>(&self, members: &'a Members, height: Height, round: Round) -> &'a Member {
        let round = u64::from(round.as_u32().unwrap_or(0));
        &members.inner.list[members.proposer(height.0.wrapping_add(round))]
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        block: BlockId,
        locked_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal { height, round: number(round), block, locked_round, proposer }
    }

    fn new_prevote(&self, height: Height, round: Round, value: NilOrVal<BlockId>, voter: Address) -> Vote {
        Vote { height, round: number(round), kind: VoteType::Prevote, value, voter }
    }

    fn new_precommit(&self, height: Height, round: Round, value: NilOrVal<BlockId>, voter: Address) -> Vote {
        Vote { height, round: number(round), kind: VoteType::Precommit, value, voter }
    }
}

/// The number of a round that has begun: the core makes votes and proposals in no other.
fn number(round: Round) -> u32 {
    round.as_u32().unwrap_or_default()
}

impl malachite::Height for Height {
    const ZERO: Height = Height(0);
    const INITIAL: Height = Height(1);

    fn increment_by(&self, n: u64) -> Height {
        Height(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Height> {
        self.0.checked_sub(n).map(Height)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

impl malachite::Value for BlockId {
    type Id = BlockId;

    fn id(&self) -> BlockId {
        *self
    }
}

impl malachite::Vote<Context> for Vote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        Round::new(self.round)
    }

    fn value(&self) -> &NilOrVal<BlockId> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<BlockId> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.voter
    }

    fn extension(&self) -> Option<&malachite::SignedExtension<Context>> {
        None
    }

    fn take_extension(&mut self) -> Option<malachite::SignedExtension<Context>> {
        None
    }

    fn extend(self, _: malachite::SignedExtension<Context>) -> Vote {
        self
    }
}

impl malachite::Proposal<Context> for Proposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        Round::new(self.round)
    }

    fn value(&self) -> &BlockId {
        &self.block
    }

    fn take_value(self) -> BlockId {
        self.block
    }

    fn pol_round(&self) -> Round {
        self.locked_round
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

/// Blocks travel beside proposals in one piece, and not through the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPart {}

impl malachite::ProposalPart<Context> for NoPart {
    fn is_first(&self) -> bool {
        match *self {}
    }

    fn is_last(&self) -> bool {
        match *self {}
    }
}

/// A validator, as the core sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    address: Address,
    key: PublicKey,
    power: u64,
}

impl malachite::Validator<Context> for Member {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn voting_power(&self) -> u64 {
        self.power
    }
}

/// The validators of a height, as the core sees them. Clones are cheap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq, Debug)]
struct Inner {
    list: Vec<Member>,
    total: u64,
    /// Powers divided by their greatest common divisor, summed up
    slots: u64,
    /// What the powers were divided by
    unit: u64,
    /// From one slot to the next; has no divisor in common with `slots`
    stride: u64,
}

impl From<&Validators> for Members {
    fn from(validators: &Validators) -> Members {
        let list: Vec<Member> = validators
            .iter()
            .map(|v| Member { address: Address(v.node), key: v.key.clone(), power: v.power })
            .collect();
        let total: u64 = list.iter().map(|member| member.power).sum();
        let unit = list.iter().fold(0, |unit, member| gcd(unit, member.power)).max(1);
        let slots = (total / unit).max(1);
        // The golden ratio spreads multiples as evenly as any number does.
        let golden = (u128::from(slots) * 618_033_989 / 1_000_000_000) as u64;
        let stride = (golden.max(1)..).find(|stride| gcd(*stride, slots) == 1).unwrap_or(1);
        Members { inner: Arc::new(Inner { list, total, slots, unit, stride }) }
    }
}

impl Members {
    /// Which member's turn a slot is.
    fn proposer(&self, slot: u64) -> usize {
        let Inner { list, slots, unit, stride, .. } = &*self.inner;
        let mut place = (u128::from(slot) * u128::from(*stride) % u128::from(*slots)) as u64;
        for (index, member) in list.iter().enumerate() {
            match place.checked_sub(member.power / unit) {
                Some(beyond) => place = beyond,
                None => return index,
            }
        }
        0
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}

impl malachite::ValidatorSet<Context> for Members {
    fn count(&self) -> usize {
        self.inner.list.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.inner.total
    }

    fn get_by_address(&self, address: &Address) -> Option<&Member> {
        // Sets are small: a search costs less than an index.
        self.inner.list.iter().find(|member| member.address == *address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Member> {
        self.inner.list.get(index)
    }
}

/// Keys and signatures are those of the ledger. The core never decodes any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scheme;

impl SigningScheme for Scheme {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = PublicKey;
    type PrivateKey = ();

    fn decode_signature(_: &[u8]) -> Result<Signature, &'static str> {
        Err("signatures are decoded by the ledger")
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.encode()
    }

    fn decode_public_key(_: &[u8]) -> Result<PublicKey, &'static str> {
        Err("keys are decoded by the ledger")
    }

    fn encode_public_key(key: &PublicKey) -> Vec<u8> {
        key.encode()
    }
}

// What is signed is written out by hand, byte by byte, and never left to a serializer:
// the name of what it is, the ledger, then fields of fixed width.
//
//   vote      "polity/bft/vote/1" ledger height round kind 0|1 block voter
//   proposal  "polity/bft/proposal/1" ledger height round block locked_round proposer

impl Vote {
    /// The bytes that a voter signs.
    pub fn sign_bytes(&self, ledger: &LedgerId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(b"polity/bft/vote/1");
        bytes.extend_from_slice(&ledger.0);
        bytes.extend_from_slice(&self.height.0.to_be_bytes());
        bytes.extend_from_slice(&self.round.to_be_bytes());
        bytes.push(match self.kind {
            VoteType::Prevote => 1,
            VoteType::Precommit => 2,
        });
        match &self.value {
            NilOrVal::Nil => bytes.push(0),
            NilOrVal::Val(block) => {
                bytes.push(1);
                bytes.extend_from_slice(&block.0);
            }
        }
        bytes.extend_from_slice(&self.voter.0.0.to_be_bytes());
        bytes
    }
}

impl Proposal {
    /// The bytes that a proposer signs.
    pub fn sign_bytes(&self, ledger: &LedgerId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(b"polity/bft/proposal/1");
        bytes.extend_from_slice(&ledger.0);
        bytes.extend_from_slice(&self.height.0.to_be_bytes());
        bytes.extend_from_slice(&self.round.to_be_bytes());
        bytes.extend_from_slice(&self.block.0);
        bytes.extend_from_slice(&self.locked_round.as_i64().to_be_bytes());
        bytes.extend_from_slice(&self.proposer.0.0.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arc_malachitebft_core_types::{Context as _, Validator as _};
    use proptest::prelude::*;

    use super::*;
    use crate::signing::SecretKey;
    use crate::types::Validator;

    fn members(powers: &[u64]) -> Members {
        let validator = |(n, power): (usize, &u64)| Validator {
            node: NodeId(n as u64 + 1),
            key: SecretKey::from_seed([n as u8; 32]).public(),
            power: *power,
        };
        Members::from(&Validators::new(powers.iter().enumerate().map(validator).collect()))
    }

    fn proposer(members: &Members, height: u64, round: u32) -> u64 {
        Context.select_proposer(members, Height(height), Round::new(round)).address().0.0
    }

    #[test]
    fn everyone_proposes_as_often_as_it_has_power() {
        let members = members(&[3, 1, 2]);
        let mut turns = BTreeMap::<u64, u64>::new();
        (0..60).for_each(|height| *turns.entry(proposer(&members, height, 0)).or_default() += 1);
        assert_eq!(turns.into_values().collect::<Vec<_>>(), [30, 10, 20]);
    }

    #[test]
    fn equals_take_turns_from_round_to_round() {
        let members = members(&[1; 4]);
        let mut round: Vec<u64> = (0..4).map(|round| proposer(&members, 7, round)).collect();
        round.sort();
        assert_eq!(round, [1, 2, 3, 4]);
    }

    #[test]
    fn the_most_powerful_do_not_come_in_a_row() {
        let members = members(&[50_000_000_000, 25_000_000_000, 25_000_000_000]);
        let turns: Vec<u64> = (0..40).map(|height| proposer(&members, height, 0)).collect();
        assert!(turns.windows(3).all(|three| three != [1, 1, 1]), "{turns:?}");
    }

    fn any_vote() -> impl Strategy<Value = Vote> {
        let value = prop_oneof![Just(NilOrVal::Nil), any::<[u8; 32]>().prop_map(|id| NilOrVal::Val(BlockId(id)))];
        let kind = prop_oneof![Just(VoteType::Prevote), Just(VoteType::Precommit)];
        (any::<u64>(), any::<u32>(), kind, value, any::<u64>()).prop_map(|(height, round, kind, value, voter)| Vote {
            height: Height(height),
            round,
            kind,
            value,
            voter: Address(NodeId(voter)),
        })
    }

    proptest! {
        #[test]
        fn what_is_signed_tells_different_votes_and_ledgers_apart(a in any_vote(), b in any_vote(), l: [u8; 32]) {
            let ledger = LedgerId(l);
            prop_assert_eq!(a == b, a.sign_bytes(&ledger) == b.sign_bytes(&ledger));
            prop_assert!(a.sign_bytes(&ledger) != a.sign_bytes(&LedgerId(l.map(|byte| !byte))));
        }

        #[test]
        fn any_powers_have_a_proposer_for_any_slot(powers in proptest::collection::vec(1..u64::MAX / 64, 1..12), slot: u64) {
            let members = members(&powers);
            prop_assert!(members.proposer(slot) < powers.len());
        }
    }
}
