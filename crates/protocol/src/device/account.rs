//! What the device stores of a channel: the newest states of both sides, what it approved, and the policy in force.

use std::fmt;

use bitcoin::{Transaction, Txid};
use secp256k1::ecdsa;
use serde::{Deserialize, Serialize};

use super::bolt3::keys::secret_key;
use super::bolt3::{
    Commitment, CommitmentNumber, Contents, Htlc, PaymentHash, RevokedSecrets, Side, Terms, htlc_timeout,
};
use super::owner::Claim;
use super::payments::Payments;
use super::policy::{Policy, Tip};
use super::reject::Reject;
use super::setup::Setup;
use super::update::Update;
use crate::amount::Msat;

/// The most HTLCs that BOLT 2 allows in a commitment: 483 of each side.
const MOST_HTLCS: u16 = 966;

/// The channel's books on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub(super) policy: Policy,
    pub(super) tip: Tip,
    pub(super) payments: Payments,
    pub(super) holder: HolderSide,
    pub(super) bridge: BridgeSide,
}

/// The holder's commitments: what the device can publish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HolderSide {
    /// The newest one, complete or waiting for its joint signature.
    pub newest: Option<HolderCommitment>,
    /// The one before, complete, until it is revoked.
    pub previous: Option<HolderCommitment>,
    /// What is gone from this state and must be gone from the disk before its secret may leave.
    pub erasing: Option<CommitmentNumber>,
    /// How many secrets may have left.
    pub revealed: u64,
}

/// A holder commitment with the bridge's signatures, verified.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HolderCommitment {
    pub contents: Contents,
    pub bridge_signature: ecdsa::Signature,
    pub htlc_signatures: Vec<ecdsa::Signature>,
    /// The holder's own signature, made with the gateway. With it the device needs nobody to close.
    pub joint_signature: Option<ecdsa::Signature>,
}

impl fmt::Debug for HolderCommitment {
    /// Leaves out the signatures: after the commitment is revoked, they give the channel to the bridge.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let complete = self.joint_signature.is_some();
        f.debug_struct("HolderCommitment")
            .field("contents", &self.contents)
            .field("complete", &complete)
            .finish_non_exhaustive()
    }
}

impl HolderCommitment {
    /// Verifies the bridge's signatures on a commitment that the device built.
    pub(super) fn verify(
        setup: &Setup,
        contents: Contents,
        built: &Commitment,
        bridge_signature: ecdsa::Signature,
        htlc_signatures: Vec<ecdsa::Signature>,
    ) -> Result<Self, Reject> {
        let commitment = Self { contents, bridge_signature, htlc_signatures, joint_signature: None };
        commitment.check(&setup.terms, built)?;
        Ok(commitment)
    }

    /// Whether the bridge's signatures are on this commitment, which was built of its contents.
    pub(super) fn check(&self, terms: &Terms, built: &Commitment) -> Result<(), Reject> {
        if !built.digest().is_signed(&terms.bridge.funding_key, &self.bridge_signature) {
            return Err(Reject::BridgeSignature);
        }
        let (count, got) = (built.htlcs().len(), self.htlc_signatures.len());
        if count != got {
            return Err(Reject::HtlcSignature { index: count.min(got), count, got });
        }
        for (index, (output, signature)) in built.htlcs().iter().zip(&self.htlc_signatures).enumerate() {
            if !output.second_stage_digest(built).is_signed(&built.keys().other_htlc, signature) {
                return Err(Reject::HtlcSignature { index, count, got });
            }
        }
        Ok(())
    }

    /// Everything that closes the channel without anybody's help; `None` while the joint signature is missing.
    pub(super) fn publication(&self, setup: &Setup) -> Option<Publication> {
        let joint = self.joint_signature?;
        let built = Commitment::build(&setup.terms, Side::Holder, &self.contents);
        let key = secret_key(&setup.keys.htlc, &self.contents.point);
        let outputs = built.htlcs().iter().zip(&self.htlc_signatures);
        let timeouts = outputs.filter(|(output, _)| output.htlc.offered_by == Side::Holder).map(
            |(output, bridge_signature)| {
                let ours = htlc_timeout::digest(&built, output).sign(&key);
                htlc_timeout::complete(&built, output, &ours, bridge_signature)
            },
        );
        let htlc_timeouts: Vec<Transaction> = timeouts.collect();
        let commitment = built.complete(&setup.terms, &joint, &self.bridge_signature);
        let delay = setup.terms.holder.delay;
        let claims = [&commitment].into_iter().chain(&htlc_timeouts);
        let claims = claims
            .filter_map(|paying| Claim::delayed(paying, built.delayed_script(), self.contents.point, delay));
        Some(Publication { claims: claims.collect(), commitment, htlc_timeouts })
    }
}

/// A holder commitment, complete, and the transactions that take our HTLCs back after they expired. Everything pays the owner's
/// delayed key. To be broadcast; each again until it is in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Valid now.
    pub commitment: Transaction,
    /// Each valid from its lock time on, when the commitment is in the chain and nobody has shown the preimage.
    pub htlc_timeouts: Vec<Transaction>,
    /// What of it all is the owner's.
    pub claims: Vec<Claim>,
}

/// The bridge's commitments: what the bridge can publish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BridgeSide {
    /// The one that was signed last.
    pub newest: Option<Contents>,
    /// The one before, while it is not revoked.
    pub previous: Option<Contents>,
    /// The secrets of all before that.
    pub secrets: RevokedSecrets,
}

impl Account {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            tip: Tip::default(),
            payments: Payments::default(),
            holder: HolderSide::default(),
            bridge: BridgeSide::default(),
        }
    }

    /// Every state that somebody could still publish without being punished.
    pub(super) fn unrevoked(&self) -> impl Iterator<Item = &Contents> {
        let holder = [&self.holder.newest, &self.holder.previous];
        let bridge = [&self.bridge.newest, &self.bridge.previous];
        let holder = holder.into_iter().flatten().map(|commitment| &commitment.contents);
        holder.chain(bridge.into_iter().flatten())
    }

    /// Whether an HTLC of ours with that hash may still be fulfilled.
    pub fn is_live(&self, hash: &PaymentHash) -> bool {
        let is_it = |htlc: &Htlc| htlc.offered_by == Side::Holder && htlc.payment_hash == *hash;
        self.unrevoked().any(|contents| contents.htlcs.iter().any(is_it))
    }

    /// Whether nothing is under way: no state that is not revoked has an HTLC, and each side has one state.
    pub fn is_settled(&self) -> bool {
        let is_one = self.holder.previous.is_none() && self.bridge.previous.is_none();
        let is_ready = self.holder.newest.as_ref().is_some_and(|newest| newest.joint_signature.is_some());
        is_one
            && is_ready
            && self.holder.erasing.is_none()
            && self.unrevoked().all(|contents| contents.htlcs.is_empty())
    }

    /// What is the holder's by its newest commitment, before fees; `None` before there is one.
    pub fn balance(&self) -> Option<Msat> {
        self.holder.newest.as_ref().map(|newest| newest.contents.to_holder)
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the approved invoices stand at.
    pub fn payments(&self) -> &Payments {
        &self.payments
    }

    /// Builds the commitment and compares it with the gateway's.
    pub(super) fn build(
        setup: &Setup,
        broadcaster: Side,
        contents: &Contents,
        gateways: Txid,
    ) -> Result<Commitment, Reject> {
        let built = Commitment::build(&setup.terms, broadcaster, contents);
        if built.txid() != gateways {
            return Err(Reject::OtherTransaction { expected: built.txid(), got: gateways });
        }
        Ok(built)
    }

    /// What holds for every new commitment of either side. Gives the HTLCs that came and went.
    pub(super) fn check_contents(
        &self,
        setup: &Setup,
        broadcaster: Side,
        from: Option<&Contents>,
        to: &Contents,
    ) -> Result<Update, Reject> {
        let policy = &self.policy;
        if to.htlcs.len() > usize::from(MOST_HTLCS) {
            return Err(Reject::HtlcCount { most: MOST_HTLCS, got: to.htlcs.len() });
        }
        if from.is_none_or(|from| from.fee_rate != to.fee_rate) {
            let (least, most, got) = (policy.least_fee_rate, policy.most_fee_rate, to.fee_rate);
            if got < least || got > most {
                return Err(Reject::FeeRate { least, most, got });
            }
        }
        let update = match from {
            None => {
                let capacity = Msat::from_amount(setup.terms.capacity);
                let all = (Some(to.to_holder), to.to_bridge, to.htlcs.len());
                if all != (capacity, Msat::ZERO, 0) {
                    return Err(Reject::Initial);
                }
                Update::default()
            }
            Some(from) => {
                let update = Update::between(&from.htlcs, &to.htlcs);
                update.check_balances(from, to, &self.payments)?;
                update
            }
        };
        if !update.added.is_empty() {
            let (most, got) = (policy.most_htlcs, to.htlcs.len());
            if got > usize::from(most) {
                return Err(Reject::HtlcCount { most, got });
            }
        }
        let ours = |htlc: &&Htlc| htlc.offered_by == Side::Holder;
        let mut hashes: Vec<PaymentHash> =
            to.htlcs.iter().filter(ours).map(|htlc| htlc.payment_hash).collect();
        hashes.sort_unstable();
        if let Some(twice) = hashes.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Reject::Live(twice[0]));
        }
        let (fee, balance) = (to.fee(&setup.terms, broadcaster), to.to_holder.floor());
        if fee > balance {
            return Err(Reject::FeeNotCovered { fee, balance });
        }
        Ok(update)
    }

    /// What holds for HTLCs of ours that are new in the bridge's commitment: there they begin.
    pub(super) fn offer(&mut self, to: &Contents, update: &Update) -> Result<(), Reject> {
        let ours = |htlc: &&Htlc| htlc.offered_by == Side::Holder;
        let mut is_new = false;
        for htlc in update.added.iter().filter(ours) {
            if self.is_live(&htlc.payment_hash) {
                return Err(Reject::Live(htlc.payment_hash));
            }
            self.payments.offer(&self.policy, htlc, self.tip)?;
            is_new = true;
        }
        if is_new {
            let amounts = to.htlcs.iter().filter(ours).map(|htlc| htlc.amount);
            let got = amounts.fold(Msat::ZERO, Msat::saturating_add);
            let most = self.policy.in_flight;
            if got > most {
                return Err(Reject::InFlight { most, got });
            }
        }
        Ok(())
    }

    /// What holds for HTLCs of ours that are new in the holder's commitment: they began in the bridge's, and they have not ended.
    /// Without the second rule one that was paid could come back and be paid again.
    pub(super) fn follow(&self, update: &Update) -> Result<(), Reject> {
        for htlc in update.added.iter().filter(|htlc| htlc.offered_by == Side::Holder) {
            if self.payments.preimage(&htlc.payment_hash).is_some() {
                return Err(Reject::Settled(htlc.payment_hash));
            }
            if !self.bridge.newest.as_ref().is_some_and(|bridge| bridge.htlcs.contains(htlc)) {
                return Err(Reject::AddedTooSoon);
            }
        }
        Ok(())
    }
}
