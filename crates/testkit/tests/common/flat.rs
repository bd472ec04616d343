//! Calls that are paid with preimages, within one process.

use bitcoin::{Address, Amount, FeeRate, Network, OutPoint, Transaction};
use farthing_node::tabs::{Announced, CallError};
use farthing_protocol::flat::{Batch, Terms};
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::tab::Claim;
use farthing_protocol::{ChannelId, Msat};

use super::{MARGIN, Setting, Story, rate, sat, wait};

/// How long the payee has for the micropayment transaction and for the claims, in blocks.
pub const D1: u32 = MARGIN;
pub const D2: u32 = MARGIN + 4;
/// What each call costs and each output holds.
pub const UNIT: u64 = 2_000;
/// What the seller's wallet holds: the fee of the micropayment transaction comes from it.
pub const SELLERS_PURSE: u64 = 50_000;

/// 20 outputs.
pub fn flat_terms() -> Terms {
    Terms {
        outputs: 20,
        unit: Amount::from_sat(UNIT),
        prepaid: Amount::ZERO,
        d1: Delay::blocks(D1 as u16),
        d2: Delay::blocks(D2 as u16),
        most_fee_rate: FeeRate::from_sat_per_vb_u32(15),
    }
}

impl Story {
    /// A seller of calls in flat mode, who has a coin, and a buyer.
    pub fn flat() -> Self {
        Self::flat_with(|_| {})
    }

    pub fn flat_with(change: impl FnOnce(&mut Setting)) -> Self {
        let story = Self::set(|setting| {
            setting.terms.flat = Some(flat_terms());
            change(setting);
        });
        story.fund_seller(SELLERS_PURSE);
        story
    }

    /// The seller's wallet has a coin of that many satoshi.
    pub fn fund_seller(&self, coin: u64) {
        let script = self.seller().offer().0.payee.output;
        let address = Address::from_script(&script, Network::Regtest).unwrap();
        self.node.send(&address, sat(coin)).unwrap();
        self.mine(1);
        assert_eq!(self.seller().balance().confirmed, sat(coin));
    }

    /// A channel whose funding is one block deep, and whose first batch the seller has taken.
    pub fn open_flat(&self) -> ChannelId {
        let id = self.fund();
        self.mine(1);
        self.announce_batch(id);
        id
    }

    /// The buyer announces its next batch, and the seller takes it.
    pub fn announce_batch(&self, id: ChannelId) {
        let told = self.survive(|| self.buyer().announce_batch(id, &flat_terms())).unwrap();
        let announced = || Announced::Batch(told.batch, told.signed.clone());
        let taken = self.survive(|| wait(self.seller().announce(id, announced(), told.payment)));
        self.announced(id, told.batch.number, Some(taken.unwrap()));
    }

    /// A call for a unit: it is sent, served, stored and answered, or refused. Nobody dies of it: a preimage that is lost costs its output,
    /// which no other call can have.
    pub fn flat_call(&self, id: ChannelId) -> Result<Msat, CallError> {
        self.in_peace(|| self.call(id, UNIT))
    }

    /// The batch that the seller could publish.
    pub fn batch(&self, id: ChannelId) -> Batch {
        let state = self.sellers(id);
        match state.tab().expect("it pays for calls").claim() {
            Claim::Batch(batch) => *batch,
            other => panic!("a batch, not {other:?}"),
        }
    }

    /// The batch's complete commitment.
    pub fn flat_commitment(&self, id: ChannelId) -> Transaction {
        let entries = self.survive(|| wait(self.seller().channels())).unwrap();
        let record = entries.into_iter().find(|entry| entry.id == id).unwrap().record;
        let keys = self.home("seller").seed().unwrap().channel_keys(record.key);
        let channel = farthing_protocol::Channel::new(record.params).unwrap();
        self.batch(id).commitment(&channel, &keys).unwrap().0
    }

    /// What spends an output of a transaction in the mempool.
    pub fn spends(&self, of: &Transaction, vout: u32) -> Option<Transaction> {
        self.chain.mempool_spender(&OutPoint { txid: of.compute_txid(), vout }).unwrap()
    }

    /// A new process of either side, if it was on.
    pub fn fees(&mut self, sat_per_vb: u32) {
        self.setting.pace.fallback_fee_rate = rate(sat_per_vb);
    }
}
