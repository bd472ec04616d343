//! Calls within one process: what the two programs say to each other over HTTP, without it.

use bitcoin::{OutPoint, Transaction};
use farthing_node::machine::PayeeRecord;
use farthing_node::tabs::{Announced, CallError};
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::lightspeed::tab::Claim;
use farthing_protocol::lightspeed::{Call, RungClaim, Shape};
use farthing_protocol::{Channel, ChannelId, Msat};

use super::{MARGIN, Story, wait};

/// What a claim weighs, in virtual bytes.
pub const CLAIM: u64 = 154;
/// What taking a rung back weighs, in virtual bytes.
pub const TAKE_BACK: u64 = 137;
/// The first payment of a channel at 2 sat/vB, which its first chain stands on.
pub const PREPAID: u64 = 552;
/// How long the seller has to claim a rung, in blocks.
pub const DELAY: u32 = MARGIN;

pub const TARGET: Target<'_> = Target { method: "GET", authority: "seller", uri: "/", body: [0; 32] };

/// A chain of so many words of that many satoshi, each with its own rung.
pub fn rungs(unit_sat: u64, words: u32) -> Shape {
    Shape { unit: Msat::new(unit_sat * 1_000), words, rungs: words, delay: Delay::blocks(DELAY as u16) }
}

impl Story {
    /// A channel that pays for calls: its funding is one block deep, and the seller has taken a chain.
    pub fn open_for_calls(&self, shape: Shape) -> ChannelId {
        let id = self.fund();
        self.mine(1);
        self.announce(id, shape);
        id
    }

    /// The buyer announces a chain, and the seller takes it.
    pub fn announce(&self, id: ChannelId, shape: Shape) {
        let told = self.buyer().announce(id, shape).unwrap();
        let epoch = wait(self.seller().announce(id, Announced::Chain(told.terms, told.rungs), told.payment));
        let epoch = epoch.unwrap();
        wait(self.buyer().announced(id, told.terms.number, Some(epoch))).unwrap();
    }

    /// A call for that many satoshi: is sent, served, stored and answered, or refused.
    pub fn call(&self, id: ChannelId, sat: u64) -> Result<Msat, CallError> {
        let cost = Msat::new(sat * 1_000);
        let prepared = wait(self.buyer().call(id, cost, &TARGET)).unwrap();
        let (call, mac) = Call::from_bytes(&prepared.bytes).unwrap();
        let admission = wait(self.seller().admit(&call, &TARGET, &mac))?;
        let ended = self.seller().end(admission, Some(cost));
        let charged = ended.charged;
        wait(ended.stored()).unwrap();
        wait(self.buyer().answered(&prepared, Some(charged), call.cost)).unwrap();
        Ok(charged)
    }

    /// The best rung whose word the seller has, and its complete commitment.
    pub fn rung(&self, id: ChannelId) -> (RungClaim, Transaction) {
        let PayeeRecord { params, key, .. } = self.sellers_record(id);
        let keys = self.home("seller").seed().unwrap().channel_keys(key);
        let state = self.sellers(id);
        let Claim::Rung(rung) = state.tab().expect("it pays for calls").claim() else {
            panic!("no rung is better than the first payment")
        };
        let commitment = rung.commitment(&Channel::new(params).unwrap(), &keys);
        (rung, commitment)
    }

    /// What spends a published rung's locked output in the mempool.
    pub fn spender_of_rung(&self, commitment: &Transaction) -> Option<Transaction> {
        self.chain.mempool_spender(&OutPoint { txid: commitment.compute_txid(), vout: 0 }).unwrap()
    }
}
