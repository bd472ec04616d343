//! What the watch has seen of a channel, to tell whether there is anything new to tell.

use std::iter;

use bitcoin::Txid;
use farthing_chain::BlockId;
use farthing_protocol::sighting::{Funding, Locked};

/// What distinguishes one look from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glimpse {
    pub(super) tip: BlockId,
    /// Confirmations and spender of the funding and of what is locked after it.
    outputs: Vec<(Option<u32>, Option<Txid>)>,
}

impl Glimpse {
    pub(super) fn of(tip: BlockId, funding: &Funding, locked: &[Locked]) -> Self {
        let all = iter::once(funding).chain(locked.iter().map(|locked| &locked.status));
        Self { tip, outputs: all.map(Self::of_one).collect() }
    }

    /// Whether any of them is neither in a block nor in the mempool, and its spend in no block that was taken in.
    pub(super) fn has_unseen(&self) -> bool {
        self.outputs.contains(&(None, None))
    }

    fn of_one(output: &Funding) -> (Option<u32>, Option<Txid>) {
        match output {
            Funding::Unseen => (None, None),
            Funding::Unconfirmed(_) => (Some(0), None),
            Funding::Confirmed { confirmations, .. } => (Some(*confirmations), None),
            Funding::Spent { by, confirmations } => (Some(*confirmations), Some(by.compute_txid())),
        }
    }

    /// How many outputs were looked at.
    pub(super) fn len(&self) -> usize {
        self.outputs.len()
    }
}
