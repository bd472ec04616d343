//! A chain that carries one channel. The mempool may hold several transactions that spend the funding, since nodes see
//! different ones; which of them is seen, and which is mined, is the caller's choice.

use std::collections::BTreeSet;

use bitcoin::{Amount, Transaction, Wtxid};
use farthing_protocol::channel::SpendKind;
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, commitment};

use crate::common::{assert_valid, rate};

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Nowhere,
    Mempool,
    Block(u32),
}

pub struct Chain {
    channel: Channel,
    pub height: u32,
    funding: Place,
    /// Every spend of the funding that somebody broadcast.
    spends: Vec<Transaction>,
    /// The one in a block, and the block's height.
    spent: Option<(Transaction, u32)>,
    /// What consensus has judged already.
    valid: BTreeSet<Wtxid>,
}

impl Chain {
    pub fn at(height: u32, channel: Channel) -> Self {
        let (spends, valid) = (Vec::new(), BTreeSet::new());
        Self { channel, height, funding: Place::Nowhere, spends, spent: None, valid }
    }

    /// Whoever broadcasts, and whenever: only what consensus accepts in the next block, and may pay that fee.
    pub fn broadcast(&mut self, transaction: &Transaction) {
        if transaction.compute_txid() == self.channel.params().funding.txid {
            if self.funding == Place::Nowhere {
                self.funding = Place::Mempool;
            }
            return;
        }
        self.judge(transaction);
        if !self.spends.contains(transaction) {
            self.spends.push(transaction.clone());
        }
    }

    /// Valid in the next block, and all value accounted for.
    pub fn judge(&mut self, transaction: &Transaction) {
        assert!(transaction.lock_time.to_consensus_u32() <= self.height, "final in the next block");
        if !self.valid.insert(transaction.compute_wtxid()) {
            return;
        }
        assert_valid(&self.channel, transaction);
        let params = self.channel.params();
        let shares =
            Channel::paid_to(transaction, &params.payer) + Channel::paid_to(transaction, &params.payee);
        let out: Amount = transaction.output.iter().map(|output| output.value).sum();
        assert_eq!(shares, out, "pays only the two parties");
        if self.channel.spend_kind(transaction) == Some(SpendKind::Commitment) {
            let fee = params.capacity - out;
            let most = params.fee_rate * commitment::WEIGHT + farthing_protocol::amount::DUST;
            assert!(fee < most, "a commitment to a miner: {fee}");
        }
    }

    /// A block: with the funding, or with one of the spends, or with neither.
    pub fn mine(&mut self, which: Option<usize>) {
        self.height += 1;
        let Some(which) = which else { return };
        match self.funding {
            Place::Nowhere => {}
            Place::Mempool => self.funding = Place::Block(self.height),
            Place::Block(_) if self.spent.is_some() || self.spends.is_empty() => {}
            Place::Block(_) => {
                self.spent = Some((self.spends[which % self.spends.len()].clone(), self.height));
            }
        }
    }

    /// Another branch wins, with neither the spend nor, if that is young, the funding. `evicted`: not in the mempool
    /// either.
    pub fn reorganise(&mut self, evicted: bool) {
        match (&self.spent, self.funding) {
            (Some((_, block)), _) if self.height - block < 3 => self.spent = None,
            (None, Place::Block(block)) if self.height - block < 5 => {
                self.funding = if evicted { Place::Nowhere } else { Place::Mempool };
            }
            (Some(_) | None, Place::Nowhere | Place::Mempool | Place::Block(_)) => {}
        }
    }

    /// What a party sees now. `which` of the spends, if several are in the mempool.
    pub fn look(&self, which: usize) -> Sighting {
        let output = self.channel.funding_txout();
        let funding = match (&self.spent, self.funding) {
            (Some((by, block)), _) => {
                Funding::Spent { by: by.clone().into(), confirmations: self.height - block + 1 }
            }
            (None, Place::Nowhere) => Funding::Unseen,
            (None, Place::Mempool | Place::Block(_)) if !self.spends.is_empty() => {
                Funding::Spent { by: self.spends[which % self.spends.len()].clone().into(), confirmations: 0 }
            }
            (None, Place::Mempool) => Funding::Unconfirmed(output),
            (None, Place::Block(block)) => {
                Funding::Confirmed { output, confirmations: self.height - block + 1 }
            }
        };
        Sighting { height: self.height, fee_rate: rate(2), funding, locked: Vec::new() }
    }

    /// What spends the funding in the best chain.
    pub fn spent_by(&self) -> Option<&Transaction> {
        self.spent.as_ref().map(|(by, _)| by)
    }

    /// Whether a closing or commitment waits for a block.
    pub fn has_spend(&self) -> bool {
        !self.spends.is_empty()
    }

    pub fn has_funding(&self) -> bool {
        self.funding != Place::Nowhere
    }
}
