//! What everybody has, read from the blocks: nobody's own word counts.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use bitcoin::{OutPoint, Transaction, Txid};
use farthing_chain::Chain;

use crate::world::World;

/// Every transaction of the chain, or of its newest part.
pub struct Accounts(HashMap<Txid, Transaction>);

impl Accounts {
    /// Reads all blocks.
    ///
    /// # Errors
    /// When the node gives no usable answer.
    pub fn read(world: &World) -> Result<Self> {
        Self::since(world, 0)
    }

    /// Reads the blocks from a height on.
    ///
    /// # Errors
    /// When the node gives no usable answer.
    pub fn since(world: &World, height: u32) -> Result<Self> {
        Self::on(&world.chain(), height)
    }

    /// The same, where there is a chain and no world.
    ///
    /// # Errors
    /// When the node gives no usable answer.
    pub fn on(chain: &Chain, height: u32) -> Result<Self> {
        let mut all = HashMap::new();
        for height in height..=chain.tip()?.height {
            let hash = chain.block_hash(height)?.context("a block below the tip")?;
            for transaction in chain.block(&hash)?.txdata {
                all.insert(transaction.compute_txid(), transaction);
            }
        }
        Ok(Self(all))
    }

    /// What spent an output.
    ///
    /// # Errors
    /// When nothing did.
    pub fn spender(&self, outpoint: &OutPoint) -> Result<&Transaction> {
        let spends = |transaction: &&Transaction| {
            transaction.input.iter().any(|input| input.previous_output == *outpoint)
        };
        self.0.values().find(spends).with_context(|| format!("{outpoint} is not spent"))
    }

    /// The version 3 child with which a payee paid for more speed, if there is one (BIP431).
    pub fn child(&self, parent: Txid) -> Option<Txid> {
        let spends = |transaction: &&Transaction| {
            transaction.version.0 == 3
                && transaction.input.iter().any(|input| input.previous_output.txid == parent)
        };
        self.0.values().find(spends).map(Transaction::compute_txid)
    }

    /// A transaction's fee, in satoshi.
    ///
    /// # Errors
    /// When the transaction or one that it spends is not in the chain.
    pub fn fee(&self, txid: Txid) -> Result<u64> {
        let get = |txid: &Txid| self.0.get(txid).with_context(|| format!("{txid} is in no block"));
        let transaction = get(&txid)?;
        let mut spent = 0;
        for OutPoint { txid, vout } in transaction.input.iter().map(|input| input.previous_output) {
            spent += get(&txid)?.output[vout as usize].value.to_sat();
        }
        let paid: u64 = transaction.output.iter().map(|output| output.value.to_sat()).sum();
        Ok(spent - paid)
    }
}
