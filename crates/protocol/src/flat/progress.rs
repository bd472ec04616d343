//! How far a published batch is on the chain. Both parties ask: the payee to go on, the payer to take back.

use std::collections::BTreeMap;

use bitcoin::{Amount, FeeRate, ScriptBuf, Transaction, Txid};

use crate::flat::batch::BatchTerms;
use crate::flat::lsf::LsfOutput;
use crate::flat::micropayment::Micropayment;
use crate::replacement;
use crate::sighting::{Funding, Sighting};

/// What became of the LSF output of a commitment that is in a block.
pub(crate) enum Lsf<'a> {
    /// Nothing is known of it, or it is not in a block any more.
    Unseen,
    /// Unspent, so many blocks deep.
    Unspent(u32),
    /// Spent, 0 when its spender is in the mempool.
    Spent { by: &'a Transaction, confirmations: u32 },
}

impl<'a> Lsf<'a> {
    /// Finds it in a look at the chain.
    pub(crate) fn of(lsf: &LsfOutput, sighting: &'a Sighting) -> Self {
        let found = sighting.locked.iter().find(|locked| locked.outpoint == lsf.outpoint());
        match found.map(|locked| &locked.status) {
            Some(Funding::Confirmed { confirmations, .. }) => Self::Unspent(*confirmations),
            Some(Funding::Spent { by, confirmations }) => Self::Spent { by, confirmations: *confirmations },
            Some(Funding::Unseen | Funding::Unconfirmed(_)) | None => Self::Unseen,
        }
    }
}

/// The outputs of a micropayment transaction that is in a block.
pub(crate) struct Published<'a> {
    pub(crate) txid: Txid,
    outputs: BTreeMap<u32, &'a Funding>,
}

impl<'a> Published<'a> {
    /// Whether the transaction is that micropayment transaction, whichever fee inputs it has.
    pub(crate) fn of(micropayment: &Micropayment, by: &Transaction, sighting: &'a Sighting) -> Option<Self> {
        let txid = micropayment.published_as(by)?;
        let of_it = sighting.locked.iter().filter(|locked| locked.outpoint.txid == txid);
        Some(Self { txid, outputs: of_it.map(|locked| (locked.outpoint.vout, &locked.status)).collect() })
    }

    /// What became of one output. Of one that no look has found nothing is known.
    pub(crate) fn status(&self, index: u32) -> &'a Funding {
        self.outputs.get(&index).copied().unwrap_or(&Funding::Unseen)
    }

    /// Whether the output is free to be spent by a transaction that pays to `script` at that rate: nothing spends it, or
    /// another such transaction in the mempool that pays too little by now.
    pub(crate) fn is_free(&self, index: u32, batch: &BatchTerms, script: &ScriptBuf, now: FeeRate) -> bool {
        match self.status(index) {
            Funding::Confirmed { .. } => true,
            Funding::Spent { by, confirmations: 0 } => {
                let held = batch.terms.unit.checked_mul(by.input.len() as u64).unwrap_or(Amount::MAX);
                replacement::is_outbid(by, held, script, now)
            }
            Funding::Spent { .. } | Funding::Unseen | Funding::Unconfirmed(_) => false,
        }
    }
}

/// What a party got of a batch's outputs, once nothing of that can change any more.
#[derive(Default)]
pub(crate) struct Sum {
    received: BTreeMap<Txid, Amount>,
    /// In outputs that nobody took.
    pub(crate) left: Amount,
    /// In outputs that the other side took.
    pub(crate) taken: Amount,
}

impl Sum {
    /// Counts an output whose spender is final, or none that matters will come. `None` while that can change.
    pub(crate) fn count(
        &mut self,
        status: &Funding,
        unit: Amount,
        script: &ScriptBuf,
        (finality, given_up): (u32, u32),
    ) -> Option<()> {
        match status {
            Funding::Spent { by, confirmations } if *confirmations >= finality => {
                let paid = by.output.iter().filter(|output| output.script_pubkey == *script);
                let paid: Amount = paid.map(|output| output.value).sum();
                if paid == Amount::ZERO {
                    self.taken = self.taken.checked_add(unit)?;
                } else {
                    self.received.insert(by.compute_txid(), paid);
                }
                Some(())
            }
            Funding::Confirmed { confirmations, .. } if *confirmations >= given_up => {
                self.left = self.left.checked_add(unit)?;
                Some(())
            }
            Funding::Spent { .. } | Funding::Confirmed { .. } | Funding::Unseen | Funding::Unconfirmed(_) => {
                None
            }
        }
    }

    /// What all transactions that were counted pay to the party together.
    pub(crate) fn received(&self) -> Amount {
        self.received.values().copied().sum()
    }
}
