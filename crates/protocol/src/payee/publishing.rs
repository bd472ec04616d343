//! A payee that closes alone: what it publishes next, by what the chain shows and what it brings.
//!
//! A rung pays more than the newest plain payment, but its claim costs a fee that the plain commitment does not have. So the
//! [`Publication`] of a rung carries the plain commitment as well, and the one that brings more at the fee rate of the moment is
//! published. A payer that stops one word above the first payment gains nothing by it.

use std::collections::BTreeMap;

use bitcoin::{Amount, FeeRate, Transaction};

use super::{ClosingAlone, Effect, Setup};
use crate::amount::DUST;
use crate::flat::batch::BadBatch;
use crate::flat::progress::{Lsf, Published, Sum};
use crate::flat::{Batch, Preimage, claim, explanation, micropayment};
use crate::lightspeed::RungClaim;
use crate::lightspeed::tab::Claim;
use crate::payment::Payment;
use crate::sighting::{Funding, Sighting};
use crate::{child, commitment, hashlock};

/// A complete commitment, to be published with a child where its fee rate is too low.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The commitment.
    pub commitment: Transaction,
    /// What it leaves to the miner by itself.
    pub fee: Amount,
    /// How its first output is claimed, where that takes a word; the claim is then the child.
    pub rung: Option<RungClaim>,
    /// In the place of a rung that brings less: the commitment to the newest plain payment. Never both: they spend the same
    /// coin.
    pub plain: Option<Box<Publication>>,
}

impl Publication {
    /// What is to be published while neither is: the one that brings more at that rate, and the plain one when both bring the
    /// same.
    pub fn best(&self, fee_rate: FeeRate) -> &Self {
        match self.plain.as_deref() {
            Some(plain) if plain.brings(fee_rate) >= self.brings(fee_rate) => plain,
            Some(_) | None => self,
        }
    }

    /// What its first output, the payee's, brings when it is to confirm at that rate. Nothing when the fee leaves dust: then a
    /// plain commitment goes alone, and a rung is not published.
    pub fn brings(&self, fee_rate: FeeRate) -> Amount {
        let value = self.commitment.output.first().map_or(Amount::ZERO, |output| output.value);
        let fee = match &self.rung {
            Some(_) => self.claim_fee(fee_rate),
            None if self.confirms_alone(fee_rate) => return value,
            None => {
                let both = fee_rate.checked_mul_by_weight(self.commitment.weight() + child::WEIGHT);
                let needed = both.unwrap_or(Amount::MAX).checked_sub(self.fee).unwrap_or_default();
                needed.max(child::cost(FeeRate::BROADCAST_MIN))
            }
        };
        value.checked_sub(fee).filter(|left| *left >= DUST).unwrap_or_default()
    }

    /// What a rung's claim pays so that both confirm at that rate.
    pub fn claim_fee(&self, fee_rate: FeeRate) -> Amount {
        let size = self.commitment.vsize() as u64 + hashlock::claim_weight(1).to_vbytes_ceil();
        let both = fee_rate.fee_vb(size).unwrap_or(Amount::MAX);
        both.checked_sub(self.fee).unwrap_or_default().max(RungClaim::cost(FeeRate::BROADCAST_MIN))
    }

    fn confirms_alone(&self, fee_rate: FeeRate) -> bool {
        fee_rate.fee_vb(self.commitment.vsize() as u64).is_some_and(|needed| self.fee >= needed)
    }
}

impl ClosingAlone {
    /// The commitment, until it is in a block; then, of a batch, what follows from it. All of it may be repeated.
    pub(super) fn publishes(&self, setup: &Setup, sighting: &Sighting) -> Vec<Effect> {
        match &self.claim {
            Claim::Batch(batch) if is_out(setup, batch, sighting) => {
                spreads(setup, batch, sighting).unwrap_or_default()
            }
            Claim::Plain(_) | Claim::Rung(_) | Claim::Batch(_) => {
                publication(setup, &self.claim, self.ledger.newest.as_ref())
            }
        }
    }
}

/// Whether the batch's own commitment is in a block.
fn is_out(setup: &Setup, batch: &Batch, sighting: &Sighting) -> bool {
    match &sighting.funding {
        Funding::Spent { by, confirmations } => *confirmations > 0 && is_commitment(setup, batch, by),
        Funding::Unseen | Funding::Unconfirmed(_) | Funding::Confirmed { .. } => false,
    }
}

pub(super) fn is_commitment(setup: &Setup, batch: &Batch, transaction: &Transaction) -> bool {
    let commitment = batch.commitment(&setup.channel, &setup.keys);
    commitment.is_ok_and(|(commitment, _)| commitment.compute_txid() == transaction.compute_txid())
}

/// The commitment that a claim needs first, with the newest plain payment's in the place of a rung. A claim that a damaged store
/// gave back may have none.
pub(super) fn publication(setup: &Setup, claim: &Claim, newest: Option<&Payment>) -> Vec<Effect> {
    let (channel, keys) = (&setup.channel, &setup.keys);
    let complete = |commitment: Transaction, rung, plain| {
        let paid = commitment.output.iter().map(|output| output.value).sum();
        let fee = channel.params().capacity.checked_sub(paid).unwrap_or_default();
        Publication { commitment, fee, rung, plain }
    };
    let to_payment = |payment| complete(commitment::complete(channel, keys, payment), None, None);
    let publication = match claim {
        Claim::Plain(payment) => to_payment(payment),
        Claim::Rung(rung) => {
            complete(rung.commitment(channel, keys), Some(*rung), newest.map(to_payment).map(Box::new))
        }
        Claim::Batch(batch) => match batch.commitment(channel, keys) {
            Ok((commitment, _)) => complete(commitment, None, None),
            Err(_damaged) => return Vec::new(),
        },
    };
    vec![Effect::Publish(Box::new(publication))]
}

/// The micropayment transaction, where the revealed preimages are worth it; then the claims. Each step waits until the one
/// before is in a block.
fn spreads(setup: &Setup, batch: &Batch, sighting: &Sighting) -> Result<Vec<Effect>, BadBatch> {
    let (payments, _, outputs) = batch.micropayment(&setup.channel)?;
    let spread = || vec![Effect::Spread { batch: Box::new(batch.clone()), fee_rate: sighting.fee_rate }];
    let by = match Lsf::of(payments.lsf(), sighting) {
        Lsf::Unspent(_) if is_worth_it(batch, sighting.fee_rate) => return Ok(spread()),
        // It may want a better fee by now, as long as that leaves something.
        Lsf::Spent { by, confirmations: 0 }
            if payments.published_as(by).is_some() && is_worth_it(batch, sighting.fee_rate) =>
        {
            return Ok(spread());
        }
        Lsf::Unseen | Lsf::Unspent(_) | Lsf::Spent { confirmations: 0, .. } => return Ok(Vec::new()),
        Lsf::Spent { by, .. } => by,
    };
    let Some(published) = Published::of(&payments, by, sighting) else {
        return Ok(Vec::new()); // the payer took all of it back
    };
    let script = &setup.channel.params().payee.output;
    let is_free = |index| published.is_free(index, batch.terms(), script, sighting.fee_rate);
    let free: BTreeMap<u32, Preimage> = batch
        .preimages()
        .filter(|(index, _)| is_free(*index))
        .map(|(index, preimage)| (index, Preimage::from_bytes(*preimage.as_bytes())))
        .collect();
    let claims =
        claim::claim(&setup.channel, &setup.keys, &outputs, published.txid, &free, sighting.fee_rate);
    let claims = claims.map(|claims| claims.transactions).unwrap_or_default();
    Ok(claims.into_iter().map(Effect::Broadcast).collect())
}

/// Whether what was revealed holds more than the micropayment transaction and the claims cost together.
fn is_worth_it(batch: &Batch, fee_rate: FeeRate) -> bool {
    let terms = batch.terms().terms;
    let value = terms.unit.to_sat().saturating_mul(batch.revealed().into());
    let spread = micropayment::fee_at(terms.outputs, 1, fee_rate).to_sat();
    let claims = explanation::claim_fee(batch.revealed(), fee_rate).to_sat();
    value > spread.saturating_add(claims)
}

/// What the outputs of a published batch brought, and what was left, once that cannot change any more.
pub(super) fn settled(setup: &Setup, batch: &Batch, sighting: &Sighting) -> Option<(Amount, Amount)> {
    let (payments, ..) = batch.micropayment(&setup.channel).ok()?;
    let terms = batch.terms().terms;
    let finality = setup.policy.finality;
    let given_up = |delay: u16| finality.saturating_add(delay.into());
    let all = terms.unit.checked_mul(batch.revealed().into()).unwrap_or(Amount::MAX);
    let by = match Lsf::of(payments.lsf(), sighting) {
        // Not worth it, and the payer may take it by now.
        Lsf::Unspent(confirmations) if confirmations >= given_up(terms.d1.get()) => {
            return Some((Amount::ZERO, all));
        }
        Lsf::Spent { by, confirmations } if confirmations >= finality => by,
        Lsf::Unseen | Lsf::Unspent(_) | Lsf::Spent { .. } => return None,
    };
    let Some(published) = Published::of(&payments, by, sighting) else {
        return Some((Amount::ZERO, all));
    };
    let mut sum = Sum::default();
    let script = &setup.channel.params().payee.output;
    for (index, _) in batch.preimages() {
        sum.count(published.status(index), terms.unit, script, (finality, given_up(terms.d2.get())))?;
    }
    // What was revealed and the payer took, this side had left.
    Some((sum.received(), sum.left.checked_add(sum.taken).unwrap_or(sum.left)))
}
