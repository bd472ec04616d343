//! What the payer takes back of a batch that the payee published: the LSF output after d1, when no micropayment transaction
//! came; else each output whose preimage nobody used, after d2.

use std::collections::BTreeSet;

use bitcoin::{Amount, Transaction};

use super::Setup;
use crate::amount::Msat;
use crate::flat::progress::{Lsf, Published, Sum};
use crate::flat::{BatchTerms, Commitment, LsfOutput, Micropayment, Outputs, refund};
use crate::replacement;
use crate::sighting::{Funding, Sighting};

/// How long the payer waits for fees at which an output is worth taking back, in blocks: a week.
pub(super) const PATIENCE: u32 = 1_008;

/// Where a published batch stands for the payer.
pub(super) enum Batch {
    /// The payee may still take something, or the payer must. These are to be broadcast.
    Open(Vec<Transaction>),
    /// Over: what the payer took back, and what it left.
    Settled { received: Amount, left: Amount },
}

impl Batch {
    /// `None` when the commitment is of none of the batches.
    pub(super) fn of(
        setup: &Setup,
        batches: &[BatchTerms],
        commitment: &Transaction,
        sighting: &Sighting,
    ) -> Option<Self> {
        let txid = commitment.compute_txid();
        // Two batches may have the same commitment: one that was refused, and the next on the same base.
        let of_it = batches.iter().filter_map(|batch| {
            let commitment = Commitment::new(&setup.channel, &batch.terms, Msat::ZERO).ok()?;
            (commitment.unsigned().compute_txid() == txid).then(|| (batch, commitment.lsf().clone()))
        });
        let of_it: Vec<(&BatchTerms, LsfOutput)> = of_it.collect();
        let (first, lsf) = of_it.first()?;
        let waits = || Some(Self::Open(Vec::new()));
        let (by, confirmations) = match Lsf::of(lsf, sighting) {
            Lsf::Unseen => return waits(),
            Lsf::Unspent(confirmations) => return Some(take_lsf(setup, first, lsf, sighting, confirmations)),
            // The payer's own waits for a block, and wants a better fee by now.
            Lsf::Spent { by, confirmations: 0 }
                if replacement::is_outbid(
                    by,
                    lsf.value(),
                    &setup.channel.params().payer.output,
                    sighting.fee_rate,
                ) =>
            {
                let back = refund::lsf(&setup.channel, &setup.keys, lsf, sighting.fee_rate);
                return Some(Self::Open(back.into_iter().collect()));
            }
            Lsf::Spent { by, confirmations } => (by, confirmations),
        };
        let published = of_it.iter().find_map(|(batch, lsf)| {
            let locks = batch.preimages(&setup.channel, &setup.keys).locks(&batch.terms).ok()?;
            let outputs = Outputs::new(&setup.channel, &batch.terms, locks);
            let payments = Micropayment::new(lsf, &outputs).ok()?;
            Some((*batch, Published::of(&payments, by, sighting)?, outputs))
        });
        match published {
            Some((batch, published, outputs)) if confirmations > 0 => {
                Some(take_outputs(setup, batch, &published, &outputs, sighting))
            }
            None if confirmations >= setup.finality => {
                let payer = &setup.channel.params().payer;
                let received = crate::Channel::paid_to(by, payer);
                Some(Self::Settled { received, left: Amount::ZERO })
            }
            Some(_) | None => waits(),
        }
    }
}

fn take_lsf(
    setup: &Setup,
    batch: &BatchTerms,
    lsf: &LsfOutput,
    sighting: &Sighting,
    confirmations: u32,
) -> Batch {
    let delay = u32::from(batch.terms.d1.get());
    if confirmations < delay {
        return Batch::Open(Vec::new());
    }
    match refund::lsf(&setup.channel, &setup.keys, lsf, sighting.fee_rate) {
        Ok(back) => Batch::Open(vec![back]),
        Err(_not_worth_it) if confirmations >= delay + PATIENCE => {
            Batch::Settled { received: Amount::ZERO, left: lsf.value() }
        }
        Err(_not_worth_it) => Batch::Open(Vec::new()),
    }
}

fn take_outputs(
    setup: &Setup,
    batch: &BatchTerms,
    published: &Published<'_>,
    outputs: &Outputs,
    sighting: &Sighting,
) -> Batch {
    let delay = u32::from(batch.terms.d2.get());
    let script = &setup.channel.params().payer.output;
    let mut sum = Sum::default();
    let until = (setup.finality, delay + PATIENCE);
    let settled = (0..batch.terms.outputs)
        .try_for_each(|index| sum.count(published.status(index), batch.terms.unit, script, until));
    if settled.is_some() {
        return Batch::Settled { received: sum.received(), left: sum.left };
    }
    let is_due = |index: &u32| match published.status(*index) {
        Funding::Confirmed { confirmations, .. } => *confirmations >= delay,
        Funding::Spent { .. } => published.is_free(*index, batch, script, sighting.fee_rate),
        Funding::Unseen | Funding::Unconfirmed(_) => false,
    };
    let due: BTreeSet<u32> = (0..batch.terms.outputs).filter(is_due).collect();
    let (channel, keys) = (&setup.channel, &setup.keys);
    let back = refund::outputs(channel, keys, outputs, published.txid, &due, sighting.fee_rate);
    Batch::Open(back.map(|back| back.transactions).unwrap_or_default())
}
