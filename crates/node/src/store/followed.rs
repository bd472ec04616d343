//! Which outputs' spends are noted: fundings, and what follows from them.

use std::collections::HashMap;

use bitcoin::{OutPoint, ScriptBuf, Transaction};

/// Outputs whose spends are noted, with the scripts of the two parties' wallets.
#[derive(Debug, Default)]
pub struct Followed(pub(super) HashMap<OutPoint, [ScriptBuf; 2]>);

impl Followed {
    /// Takes in a transaction of a block: which of the outputs it spends. What it locks to a condition, instead of paying it
    /// to either party's wallet, is followed from now on.
    pub fn take_in(&mut self, transaction: &Transaction) -> Vec<OutPoint> {
        let spent: Vec<OutPoint> = transaction
            .input
            .iter()
            .map(|input| input.previous_output)
            .filter(|outpoint| self.0.contains_key(outpoint))
            .collect();
        // Almost always all of them are of one channel: a claim may spend a thousand.
        let mut parties: Vec<[ScriptBuf; 2]> =
            spent.iter().map(|outpoint| self.0[outpoint].clone()).collect();
        parties.dedup();
        for parties in parties {
            self.0.extend(locked_outputs(transaction, &parties).map(|locked| (locked, parties.clone())));
        }
        spent
    }

    /// Whether a transaction makes such an output.
    pub fn has_output_of(&self, transaction: &Transaction) -> bool {
        let txid = transaction.compute_txid();
        (0..transaction.output.len()).any(|vout| self.0.contains_key(&OutPoint { txid, vout: vout as u32 }))
    }
}

/// The outputs of a transaction that pay neither party's wallet.
pub(crate) fn locked_outputs(
    transaction: &Transaction,
    parties: &[ScriptBuf; 2],
) -> impl Iterator<Item = OutPoint> {
    let txid = transaction.compute_txid();
    let outputs = transaction.output.iter().enumerate();
    outputs
        .filter(|(_, output)| !parties.contains(&output.script_pubkey))
        .map(move |(vout, _)| OutPoint { txid, vout: vout as u32 })
}
