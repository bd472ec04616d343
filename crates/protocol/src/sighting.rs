//! What a party saw of its channel on the chain, at one height. The driver looks; the machines decide.

use std::sync::Arc;

use bitcoin::{FeeRate, OutPoint, Transaction, TxOut};

/// One look at the chain.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// The tip's height.
    pub height: u32,
    /// What confirms within a few blocks now.
    pub fee_rate: FeeRate,
    /// The funding output.
    pub funding: Funding,
    /// What became of the outputs that belong to neither party's wallet, in the transaction that spends the funding and in
    /// those that follow from it.
    pub locked: Vec<Locked>,
}

/// An output that is locked to a condition.
#[derive(Clone, Debug)]
pub struct Locked {
    /// Which.
    pub outpoint: OutPoint,
    /// What became of it.
    pub status: Funding,
}

/// An output, as the best chain and the mempool show it.
#[derive(Clone, Debug)]
pub enum Funding {
    /// Neither in a block nor in the mempool.
    Unseen,
    /// In the mempool.
    Unconfirmed(TxOut),
    /// In a block, unspent.
    Confirmed {
        /// The output.
        output: TxOut,
        /// 1 when its block is the tip.
        confirmations: u32,
    },
    /// Spent.
    Spent {
        /// By which transaction. One may spend a thousand outputs.
        by: Arc<Transaction>,
        /// 0 in the mempool, 1 when its block is the tip.
        confirmations: u32,
    },
}
