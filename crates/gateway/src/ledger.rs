//! From what LDK tells a signer to what the device wants to know.
//!
//! LDK names a commitment's outputs: whole satoshi after fees, and no HTLC that is too small for an output. The device wants every
//! HTLC, and balances in millisatoshi before fees, and compares the transaction's id. The balances follow from the state before
//! ([`Update::balances`]). Which of the small HTLCs are in the commitment follows from where LDK says that each stands ([`Stage`]), and
//! LDK's id says whether that is right. It alone would not: while the bridge's balance is below dust, or where two HTLCs are of one
//! amount, several sets give the same transaction.
//!
//! A mistake here costs nobody money: the device builds the transaction itself and refuses what does not follow. But the channel
//! stands still from then on.

use std::collections::BTreeMap;

use bitcoin::{FeeRate, Txid};
use farthing_protocol::Msat;
use farthing_protocol::device::Proposal;
use farthing_protocol::device::bolt3::{
    Commitment, CommitmentNumber, Contents, Htlc, PaymentHash, Preimage, Side, Terms,
};
use farthing_protocol::device::update::Update;
use lightning::ln::channel_state::{ChannelDetails, InboundHTLCStateDetails, OutboundHTLCStateDetails};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};

/// So many small HTLCs may stand elsewhere than expected: each doubles the attempts.
const MOST_TRIED: usize = 10;

/// An HTLC of the channel, as LDK tells of it when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// The HTLC.
    pub htlc: Htlc,
    /// How far it is.
    pub stage: Stage,
}

/// How far an HTLC is on its way through the commitments of both sides (BOLT 2): it enters that of the side that did not offer it first,
/// and leaves that of the side that did first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not yet in the commitment of the side that offered it.
    Adding,
    /// In both.
    Committed,
    /// No longer in the commitment of the side that offered it.
    Removing,
}

impl UnderWay {
    /// Those of a channel. What LDK has not numbered yet is in no commitment.
    pub fn all_of(channel: &ChannelDetails) -> Vec<Self> {
        let htlc = |offered_by, amount, hash, expiry| Htlc {
            offered_by,
            amount: Msat::new(amount),
            payment_hash: PaymentHash(hash),
            expiry,
        };
        let ours = channel.pending_outbound_htlcs.iter().filter(|ours| ours.htlc_id.is_some());
        let ours = ours.map(|ours| Self {
            htlc: htlc(Side::Holder, ours.amount_msat, ours.payment_hash.0, ours.cltv_expiry),
            stage: match ours.state {
                Some(OutboundHTLCStateDetails::AwaitingRemoteRevokeToAdd) => Stage::Adding,
                Some(OutboundHTLCStateDetails::Committed) | None => Stage::Committed,
                Some(
                    OutboundHTLCStateDetails::AwaitingRemoteRevokeToRemoveSuccess
                    | OutboundHTLCStateDetails::AwaitingRemoteRevokeToRemoveFailure,
                ) => Stage::Removing,
            },
        });
        let theirs = channel.pending_inbound_htlcs.iter().map(|theirs| Self {
            htlc: htlc(Side::Bridge, theirs.amount_msat, theirs.payment_hash.0, theirs.cltv_expiry),
            // LDK has no state for one that the bridge has only announced.
            stage: match theirs.state {
                None => Stage::Adding,
                Some(
                    InboundHTLCStateDetails::AwaitingRemoteRevokeToAdd | InboundHTLCStateDetails::Committed,
                ) => Stage::Committed,
                Some(
                    InboundHTLCStateDetails::AwaitingRemoteRevokeToRemoveFulfill
                    | InboundHTLCStateDetails::AwaitingRemoteRevokeToRemoveFail,
                ) => Stage::Removing,
            },
        });
        ours.chain(theirs).collect()
    }
}

/// A commitment as LDK shows it to a signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// Which commitment of its side.
    pub number: CommitmentNumber,
    /// The broadcaster's point.
    pub point: PublicKey,
    /// The transaction that LDK built.
    pub txid: Txid,
    /// What it pays to miners.
    pub fee_rate: FeeRate,
    /// The HTLCs that have outputs.
    pub htlcs: Vec<Htlc>,
    /// Preimages that LDK knows.
    pub preimages: Vec<Preimage>,
}

/// The newest commitment of each side, as it was proposed to the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    holder: Option<Contents>,
    bridge: Option<Contents>,
    /// Of payments that went through and may still have an HTLC in a commitment.
    preimages: BTreeMap<PaymentHash, Preimage>,
}

/// LDK's transaction is not the one that BOLT 3 gives for any set of HTLCs that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no balances and HTLCs give the {side:?} commitment {number} that LDK built ({txid})")]
pub struct NoSuchState {
    /// Whose commitment.
    pub side: Side,
    /// Which.
    pub number: CommitmentNumber,
    /// LDK's.
    pub txid: Txid,
}

impl Ledger {
    /// What was last proposed for that side.
    pub fn newest(&self, side: Side) -> Option<&Contents> {
        match side {
            Side::Holder => self.holder.as_ref(),
            Side::Bridge => self.bridge.as_ref(),
        }
    }

    /// Works out what to propose for LDK's commitment, and takes note of it. `under_way` is what LDK has in the channel; without it what
    /// the commitment before had is taken for it.
    ///
    /// # Errors
    /// When nothing fits; then nothing was noted.
    pub fn propose(
        &mut self,
        terms: &Terms,
        side: Side,
        outline: &Outline,
        under_way: Option<&[UnderWay]>,
    ) -> Result<Proposal, NoSuchState> {
        let newest = self.newest(side).cloned();
        for preimage in &outline.preimages {
            self.preimages.insert(preimage.hash(), *preimage);
        }
        let again = newest.as_ref().filter(|newest| newest.number == outline.number);
        let contents = match (again, &newest) {
            (Some(same), _) if Commitment::build(terms, side, same).txid() == outline.txid => same.clone(),
            (Some(_), _) => return Err(self.no_such_state(side, outline)),
            (None, None) => {
                let first = Contents {
                    number: outline.number,
                    point: outline.point,
                    fee_rate: outline.fee_rate,
                    to_holder: Msat::new(terms.capacity.to_sat().saturating_mul(1_000)),
                    to_bridge: Msat::ZERO,
                    htlcs: Vec::new(),
                };
                let fits = Commitment::build(terms, side, &first).txid() == outline.txid;
                if !fits {
                    return Err(self.no_such_state(side, outline));
                }
                first
            }
            (None, Some(from)) => self
                .follow(terms, side, from, outline, under_way)
                .ok_or_else(|| self.no_such_state(side, outline))?,
        };
        let preimages = self.shown(newest.as_ref(), &contents, outline);
        let Contents { number, fee_rate, to_holder, to_bridge, htlcs, .. } = contents.clone();
        match side {
            Side::Holder => self.holder = Some(contents),
            Side::Bridge => self.bridge = Some(contents),
        }
        self.forget_old();
        Ok(Proposal { number, fee_rate, to_holder, to_bridge, htlcs, preimages, txid: outline.txid })
    }

    fn no_such_state(&self, side: Side, outline: &Outline) -> NoSuchState {
        NoSuchState { side, number: outline.number, txid: outline.txid }
    }

    /// The state after `from` that gives LDK's transaction: with the small HTLCs that are expected in it, else with as few others as
    /// possible.
    fn follow(
        &self,
        terms: &Terms,
        side: Side,
        from: &Contents,
        outline: &Outline,
        under_way: Option<&[UnderWay]>,
    ) -> Option<Contents> {
        let dust_limit = terms.of(side).dust_limit;
        let is_small = |htlc: &Htlc| htlc.is_trimmed(side, outline.fee_rate, dust_limit);
        let mut candidates: Vec<(Htlc, bool)> = Vec::new();
        for UnderWay { htlc, stage } in under_way.unwrap_or_default() {
            if is_small(htlc) {
                candidates.push((*htlc, self.is_expected(side, htlc, *stage)));
            }
        }
        for htlc in from.htlcs.iter().filter(|htlc| is_small(htlc)) {
            if !candidates.iter().any(|(known, _)| known == htlc) {
                // LDK has forgotten it, if it was asked.
                candidates.push((*htlc, under_way.is_none()));
            }
        }
        // What LDK has gone on with since is rather new than gone.
        candidates.sort_by_key(|(htlc, _)| from.htlcs.contains(htlc));
        let mut attempts: Vec<u32> = (0..1 << candidates.len().min(MOST_TRIED)).collect();
        attempts.sort_by_key(|others| others.count_ones());
        attempts.into_iter().find_map(|others| {
            let is_other = |place: usize| place < MOST_TRIED && others & (1 << place) != 0;
            let small = candidates.iter().enumerate();
            let small = small.filter(|(place, (_, expected))| *expected != is_other(*place));
            let htlcs: Vec<Htlc> =
                outline.htlcs.iter().copied().chain(small.map(|(_, (htlc, _))| *htlc)).collect();
            let update = Update::between(&from.htlcs, &htlcs);
            let (to_holder, to_bridge) = update.balances(from, |hash| self.preimages.contains_key(hash));
            let Outline { number, point, fee_rate, .. } = *outline;
            let contents = Contents { number, point, fee_rate, to_holder, to_bridge, htlcs };
            (Commitment::build(terms, side, &contents).txid() == outline.txid).then_some(contents)
        })
    }

    /// Whether an HTLC is in that side's next commitment.
    fn is_expected(&self, side: Side, htlc: &Htlc, stage: Stage) -> bool {
        if side == htlc.offered_by {
            return stage == Stage::Committed;
        }
        // LDK was asked later than it built this commitment. The HTLC was in it if the other side's is not yet without.
        stage != Stage::Removing
            || self.newest(htlc.offered_by).is_some_and(|newest| newest.htlcs.contains(htlc))
    }

    /// The preimages that the device needs for this step.
    fn shown(&self, from: Option<&Contents>, to: &Contents, outline: &Outline) -> Vec<Preimage> {
        let Some(from) = from else { return outline.preimages.clone() };
        let removed = Update::between(&from.htlcs, &to.htlcs).removed;
        let known = removed.iter().filter_map(|htlc| self.preimages.get(&htlc.payment_hash).copied());
        let mut shown: Vec<Preimage> = known.chain(outline.preimages.iter().copied()).collect();
        shown.sort_unstable();
        shown.dedup();
        shown
    }

    /// A preimage matters as long as its HTLC is in a commitment.
    fn forget_old(&mut self) {
        let (holder, bridge) = (&self.holder, &self.bridge);
        let is_live = |hash: &PaymentHash| {
            let sides = [holder, bridge].into_iter().flatten();
            sides.flat_map(|contents| &contents.htlcs).any(|htlc| htlc.payment_hash == *hash)
        };
        self.preimages.retain(|hash, _| is_live(hash));
    }
}

#[cfg(test)]
// `tests/units.rs` compiles this file from elsewhere.
#[path = "ledger/tests.rs"]
mod tests;
