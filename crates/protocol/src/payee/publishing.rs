//! A payee that closes alone: what it publishes next, by what the chain shows.

use std::collections::BTreeMap;

use bitcoin::{Amount, FeeRate, Transaction};

use super::{ClosingAlone, Effect, Setup};
use crate::commitment;
use crate::flat::batch::BadBatch;
use crate::flat::progress::{Lsf, Published, Sum};
use crate::flat::{Batch, Preimage, claim, explanation, micropayment};
use crate::lightspeed::RungClaim;
use crate::lightspeed::tab::Claim;
use crate::sighting::{Funding, Sighting};

/// A complete commitment, to be published with a child where its fee rate is too low.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The commitment.
    pub commitment: Transaction,
    /// What it leaves to the miner by itself.
    pub fee: Amount,
    /// How its first output is claimed, where that takes a word; the claim is then the child.
    pub rung: Option<RungClaim>,
}

impl ClosingAlone {
    /// The commitment, until it is in a block; then, of a batch, what follows from it. All of it may be repeated.
    pub(super) fn publishes(&self, setup: &Setup, sighting: &Sighting) -> Vec<Effect> {
        match &self.claim {
            Claim::Batch(batch) if is_out(setup, batch, sighting) => {
                spreads(setup, batch, sighting).unwrap_or_default()
            }
            Claim::Plain(_) | Claim::Rung(_) | Claim::Batch(_) => publication(setup, &self.claim),
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

/// The commitment that a claim needs first. A claim that a damaged store gave back may have none.
pub(super) fn publication(setup: &Setup, claim: &Claim) -> Vec<Effect> {
    let (channel, keys) = (&setup.channel, &setup.keys);
    let (commitment, rung) = match claim {
        Claim::Plain(payment) => (commitment::complete(channel, keys, payment), None),
        Claim::Rung(rung) => (rung.commitment(channel, keys), Some(*rung)),
        Claim::Batch(batch) => match batch.commitment(channel, keys) {
            Ok((commitment, _)) => (commitment, None),
            Err(_damaged) => return Vec::new(),
        },
    };
    let paid = commitment.output.iter().map(|output| output.value).sum();
    let fee = channel.params().capacity.checked_sub(paid).unwrap_or_default();
    vec![Effect::Publish(Box::new(Publication { commitment, fee, rung }))]
}

/// The micropayment transaction, where the revealed preimages are worth it; then the claims. Each step waits until the one
/// before is in a block.
fn spreads(setup: &Setup, batch: &Batch, sighting: &Sighting) -> Result<Vec<Effect>, BadBatch> {
    let (payments, _, outputs) = batch.micropayment(&setup.channel)?;
    let spread = || vec![Effect::Spread { batch: Box::new(batch.clone()), fee_rate: sighting.fee_rate }];
    let by = match Lsf::of(payments.lsf(), sighting) {
        Lsf::Unspent(_) if is_worth_it(batch, sighting.fee_rate) => return Ok(spread()),
        // It may want a better fee by now.
        Lsf::Spent { by, confirmations: 0 } if payments.published_as(by).is_some() => return Ok(spread()),
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
