//! What each request does to the books.

use bitcoin::Amount;
use secp256k1::{PublicKey, ecdsa};

use super::account::{Account, HolderCommitment};
use super::bolt3::closing::{Closing, Settlement};
use super::bolt3::keys::secret_key;
use super::bolt3::{Commitment, CommitmentNumber, CommitmentSecret, Contents, PaymentHash, Side, fees};
use super::invoice::Invoice;
use super::joint::{Finisher, JointSignature, Task};
use super::machine::{Effect, Proposal};
use super::payments::Source;
use super::policy::{SignedPolicy, Tip};
use super::reject::Reject;
use super::setup::{MOST_DUST_LIMIT, Setup};

impl Account {
    pub(super) fn with_policy(&self, setup: &Setup, policy: SignedPolicy) -> Result<Self, Reject> {
        let policy = policy.verify(&setup.enrolment.owner).ok_or(Reject::PolicySignature)?;
        let (current, got) = (self.policy.version, policy.version);
        if got < current || got == current && policy != self.policy {
            return Err(Reject::PolicyVersion { current, got });
        }
        Ok(Self { policy, ..self.clone() })
    }

    pub(super) fn approved(&self, invoice: &Invoice, source: Source, tip: Tip) -> Result<Self, Reject> {
        let mut next = self.clone();
        next.tip = self.tip.latest(tip);
        next.payments.approve(&self.policy, invoice, source, next.tip, |hash| self.is_live(hash))?;
        Ok(next)
    }

    pub(super) fn given_up(&self, hash: &PaymentHash) -> Self {
        let mut next = self.clone();
        if !self.is_live(hash) {
            next.payments.give_up(hash);
        }
        next
    }

    /// Signs the bridge's next commitment, or the newest one again.
    pub(super) fn sign_bridge(
        &self,
        setup: &Setup,
        proposal: &Proposal,
        point: PublicKey,
        tip: Tip,
    ) -> Result<(Self, Effect), Reject> {
        let contents = proposal.contents(point);
        let newest = self.bridge.newest.as_ref();
        if let Some(newest) = newest.filter(|newest| newest.number == contents.number) {
            if *newest != contents {
                return Err(Reject::RetryDiffers(contents.number));
            }
            let built = Self::build(setup, Side::Bridge, &contents, proposal.txid)?;
            return Ok((self.clone(), bridge_signatures(setup, &contents, &built)));
        }
        expect_next(newest, contents.number)?;
        if let Some(previous) = &self.bridge.previous {
            return Err(Reject::PreviousNotRevoked(previous.number));
        }

        let mut next = self.clone();
        next.tip = self.tip.latest(tip);
        next.payments.learn(&proposal.preimages);
        let update = next.check_contents(setup, Side::Bridge, newest, &contents)?;
        next.offer(&contents, &update)?;
        let still_ours =
            |htlc| self.holder.newest.as_ref().is_some_and(|own| own.contents.htlcs.contains(htlc));
        if update.removed.iter().any(|htlc| htlc.offered_by == Side::Holder && still_ours(htlc)) {
            return Err(Reject::RemovedTooSoon);
        }
        let built = Self::build(setup, Side::Bridge, &contents, proposal.txid)?;
        let effect = bridge_signatures(setup, &contents, &built);
        next.bridge.previous = next.bridge.newest.replace(contents);
        Ok((next, effect))
    }

    /// Takes the holder's next commitment with the bridge's signatures, or the newest one again.
    pub(super) fn validate_holder(
        &self,
        setup: &Setup,
        proposal: &Proposal,
        signature: ecdsa::Signature,
        htlc_signatures: Vec<ecdsa::Signature>,
    ) -> Result<(Self, Effect), Reject> {
        let contents = proposal.contents(setup.point(proposal.number));
        let newest = self.holder.newest.as_ref();
        if let Some(newest) = newest.filter(|newest| newest.contents.number == contents.number) {
            if newest.contents != contents {
                return Err(Reject::RetryDiffers(contents.number));
            }
            let built = Self::build(setup, Side::Holder, &contents, proposal.txid)?;
            return Ok((self.clone(), awaited(newest, &built)));
        }
        expect_next(newest.map(|newest| &newest.contents), contents.number)?;
        if let Some(previous) = &self.holder.previous {
            return Err(Reject::PreviousNotRevoked(previous.contents.number));
        }
        if let Some(number) = self.holder.erasing {
            return Err(Reject::PreviousNotRevoked(number));
        }
        // The one that stays publishable until this is complete.
        if let Some(incomplete) = newest.filter(|newest| newest.joint_signature.is_none()) {
            return Err(Reject::NewNotComplete(incomplete.contents.number));
        }

        let mut next = self.clone();
        next.payments.learn(&proposal.preimages);
        let from = newest.map(|newest| &newest.contents);
        let update = next.check_contents(setup, Side::Holder, from, &contents)?;
        next.follow(&update)?;
        let built = Self::build(setup, Side::Holder, &contents, proposal.txid)?;
        let commitment = HolderCommitment::verify(setup, contents, &built, signature, htlc_signatures)?;
        let effect = awaited(&commitment, &built);
        next.holder.previous = next.holder.newest.replace(commitment);
        Ok((next, effect))
    }

    /// Takes the joint signature: now the device can close with this state alone.
    pub(super) fn holder_signed(
        &self,
        setup: &Setup,
        number: CommitmentNumber,
        JointSignature(signature): JointSignature,
    ) -> Result<Self, Reject> {
        let mut next = self.clone();
        let newest = next.holder.newest.as_mut().filter(|newest| newest.contents.number == number);
        let newest = newest.ok_or(Reject::NewNotComplete(number))?;
        let built = Commitment::build(&setup.terms, Side::Holder, &newest.contents);
        if !built.digest().is_signed(&setup.terms.holder.funding_key, &signature) {
            return Err(Reject::JointSignature);
        }
        // A round that was repeated gives another signature; one is enough.
        newest.joint_signature.get_or_insert(signature);
        Ok(next)
    }

    /// Gives up a holder commitment: first it goes from the state, then from the disk, then its secret leaves.
    pub(super) fn revoke(&self, setup: &Setup, number: CommitmentNumber) -> Result<(Self, Effect), Reject> {
        if number.get() < self.holder.revealed {
            return Ok((self.clone(), reveal(setup, number)));
        }
        if self.holder.erasing == Some(number) {
            return Ok((self.clone(), Effect::Erase(number)));
        }
        let is_complete = self.holder.newest.as_ref().is_some_and(|newest| newest.joint_signature.is_some());
        let is_previous =
            self.holder.previous.as_ref().is_some_and(|previous| previous.contents.number == number);
        if !is_complete || !is_previous {
            return Err(Reject::NewNotComplete(number));
        }
        let mut next = self.clone();
        next.holder.previous = None;
        next.holder.erasing = Some(number);
        Ok((next, Effect::Erase(number)))
    }

    pub(super) fn erased(&self, setup: &Setup, number: CommitmentNumber) -> Result<(Self, Effect), Reject> {
        if self.holder.erasing != Some(number) {
            return Err(Reject::NotErasing(number));
        }
        let mut next = self.clone();
        next.holder.erasing = None;
        next.holder.revealed = number.get() + 1;
        Ok((next, reveal(setup, number)))
    }

    pub(super) fn bridge_revoked(
        &self,
        number: CommitmentNumber,
        secret: CommitmentSecret,
    ) -> Result<Self, Reject> {
        if self.bridge.secrets.get(number).is_some_and(|known| known == secret) {
            return Ok(self.clone());
        }
        let previous = self.bridge.previous.as_ref().filter(|previous| previous.number == number);
        if previous.is_none_or(|previous| secret.point() != Some(previous.point)) {
            return Err(Reject::WrongSecret(number));
        }
        let mut next = self.clone();
        next.bridge.secrets.insert(number, secret).map_err(|_| Reject::SecretNotDerivable(number))?;
        next.bridge.previous = None;
        Ok(next)
    }

    /// Whether the owner could close alone, should the funding be signed now.
    pub(super) fn check_funding(&self) -> Result<(), Reject> {
        let is_complete = self.holder.newest.as_ref().is_some_and(|newest| newest.joint_signature.is_some());
        let can_publish = is_complete || self.holder.previous.is_some();
        if can_publish && self.bridge.newest.is_some() { Ok(()) } else { Err(Reject::FundingTooSoon) }
    }

    /// Checks a closing: all that the holder has, less the fee, goes to the owner.
    pub(super) fn closing(&self, setup: &Setup, settlement: &Settlement) -> Result<Closing, Reject> {
        if self.unrevoked().any(|contents| !contents.htlcs.is_empty()) {
            return Err(Reject::PendingHtlcs);
        }
        if settlement.holder_script != setup.enrolment.closing_script {
            return Err(Reject::Destination);
        }
        let newest = self.holder.newest.as_ref().ok_or(Reject::FundingTooSoon)?;
        let script = &settlement.bridge_script;
        if !(script.is_witness_program() || script.is_p2pkh() || script.is_p2sh()) {
            return Err(Reject::BridgeScript);
        }
        let (holder, bridge) = (newest.contents.to_holder.floor(), newest.contents.to_bridge.floor());
        let closing = Closing::build(&setup.terms, settlement);

        let value = |side, balance, got| Err(Reject::ClosingValue { side, balance, got });
        let is_dust = bridge < MOST_DUST_LIMIT && settlement.to_bridge == Amount::ZERO;
        if settlement.to_bridge != bridge && !is_dust {
            return value(Side::Bridge, bridge, settlement.to_bridge);
        }
        let Some(got) = holder.checked_sub(settlement.to_holder) else {
            return value(Side::Holder, holder, settlement.to_holder);
        };
        let rate = |rate| fees::fee(rate, closing.weight());
        let (least, most) = (rate(bitcoin::FeeRate::BROADCAST_MIN), rate(self.policy.most_fee_rate));
        if settlement.to_holder == Amount::ZERO {
            // Only what would be dust may vanish.
            let worth = holder.checked_sub(least).unwrap_or_default();
            if worth >= MOST_DUST_LIMIT {
                return value(Side::Holder, holder, settlement.to_holder);
            }
        } else if got < least || got > most {
            return Err(Reject::ClosingFee { least, most, got });
        }
        Ok(closing)
    }

    /// The newest holder commitment that is complete.
    pub(super) fn publish(&self, setup: &Setup) -> Vec<Effect> {
        let commitments = [&self.holder.newest, &self.holder.previous];
        let publication =
            commitments.into_iter().flatten().find_map(|commitment| commitment.publication(setup));
        publication.map(|publication| Effect::Publish(Box::new(publication))).into_iter().collect()
    }
}

fn expect_next(newest: Option<&Contents>, got: CommitmentNumber) -> Result<(), Reject> {
    let last = CommitmentNumber::try_from((1 << 48) - 1).expect("2^48 - 1 is the last number");
    let expected = newest.map_or(CommitmentNumber::FIRST, |newest| newest.number.next().unwrap_or(last));
    let is_next = newest.is_none_or(|newest| newest.number < last);
    if got == expected && is_next { Ok(()) } else { Err(Reject::Number { expected, got }) }
}

/// The device's own part of the answer, and what is signed jointly.
fn bridge_signatures(setup: &Setup, contents: &Contents, built: &Commitment) -> Effect {
    let key = secret_key(&setup.keys.htlc, &contents.point);
    let sign = |output: &super::bolt3::commitment::HtlcOutput| output.second_stage_digest(built).sign(&key);
    let htlc_signatures = built.htlcs().iter().map(sign).collect();
    let task = Task::new(built.digest(), Finisher::Gateway);
    Effect::SignBridge { number: contents.number, task, htlc_signatures }
}

/// What a validated holder commitment waits for.
fn awaited(commitment: &HolderCommitment, built: &Commitment) -> Effect {
    let number = commitment.contents.number;
    match commitment.joint_signature {
        None => Effect::SignHolder { number, task: Task::new(built.digest(), Finisher::Device) },
        Some(_) => Effect::HolderComplete(number),
    }
}

fn reveal(setup: &Setup, number: CommitmentNumber) -> Effect {
    Effect::Reveal { number, secret: setup.keys.commitment_secret(number) }
}
