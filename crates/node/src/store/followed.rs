//! Which outputs' spends are noted: fundings, and what follows from them.

use std::collections::HashMap;

use bitcoin::consensus::encode::deserialize;
use bitcoin::{Block, BlockHash, OutPoint, ScriptBuf, Transaction};

use super::{Spend, Store, StoreError, Write, decode, transaction};

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

    /// Takes in a block: what of it is to be stored.
    pub fn spends_in(&mut self, block: &Block, hash: BlockHash, height: u32) -> impl Iterator<Item = Write> {
        block.txdata.iter().filter_map(move |by| {
            let outpoints = self.take_in(by);
            let is_spend = !outpoints.is_empty();
            is_spend.then(|| Write::Spend(Box::new(Spend { outpoints, by: by.clone(), block: hash, height })))
        })
    }

    /// Whether a transaction makes such an output.
    pub fn has_output_of(&self, transaction: &Transaction) -> bool {
        let txid = transaction.compute_txid();
        (0..transaction.output.len()).any(|vout| self.0.contains_key(&OutPoint { txid, vout: vout as u32 }))
    }
}

impl Store {
    /// The outputs whose spends are noted: the fundings of all channels that have not ended, whatever their role, and what the
    /// transactions that spend them lock to a condition. With each, the scripts of the two parties' wallets. A block is taken in
    /// once, by whichever role runs, so its spends are noted for all.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn followed(&self) -> Result<Followed, StoreError> {
        let parties = |parties: &[u8]| decode("parties' scripts", parties);
        let mut statement =
            self.connection.prepare_cached("SELECT funding, parties FROM channels WHERE NOT ended")?;
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let mut followed = Followed::default();
        for row in rows {
            let (funding, of) = row?;
            let funding = deserialize(&funding).map_err(|error| StoreError::corrupt("outpoint", error))?;
            followed.0.insert(funding, parties(&of)?);
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT spenders.spender, parties FROM channels JOIN spends ON outpoint = funding
             JOIN spenders ON txid = spends.spender WHERE NOT ended",
        )?;
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let mut spenders = rows
            .map(|row| {
                let (spender, of) = row?;
                Ok((transaction(&spender)?, parties(&of)?))
            })
            .collect::<Result<Vec<(Transaction, [ScriptBuf; 2])>, StoreError>>()?;
        while let Some((spender, of)) = spenders.pop() {
            for locked in locked_outputs(&spender, &of) {
                if followed.0.insert(locked, of.clone()).is_none() {
                    spenders.extend(self.spends(&locked)?.into_iter().map(|spend| (spend.by, of.clone())));
                }
            }
        }
        Ok(followed)
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
