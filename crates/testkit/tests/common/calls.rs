//! Calls within one process: what the two programs say to each other over HTTP, without it.

use std::cell::Cell;

use anyhow::Context as _;
use bitcoin::{OutPoint, Transaction};
use farthing_node::buyer::calls::Allowed;
use farthing_node::machine::PayeeRecord;
use farthing_node::tabs::{Announced, CallError};
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::lightspeed::tab::Claim;
use farthing_protocol::lightspeed::{Call, RungClaim, Shape};
use farthing_protocol::{Channel, ChannelId, Msat};

use super::{DEADLY, MARGIN, Story, wait};

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
        let told = self.survive(|| self.buyer().announce(id, shape)).unwrap();
        let announced = || Announced::Chain(told.terms, told.rungs.clone());
        let taken = self.survive(|| wait(self.seller().announce(id, announced(), told.payment)));
        self.announced(id, told.terms.number, Some(taken.unwrap()));
    }

    /// The buyer has the seller's answer to an announcement: its epoch, or nothing.
    pub fn announced(&self, id: ChannelId, number: u32, epoch: Option<u32>) {
        self.survive(|| -> anyhow::Result<()> {
            let purse = wait(self.buyer().purse(id))?.context("it pays for calls")?;
            // Else it took the answer before it died.
            if purse.announced().is_some() || purse.announced_batch().is_some() {
                wait(self.buyer().announced(id, number, epoch))?;
            }
            Ok(())
        })
        .unwrap();
    }

    /// A call for that many satoshi: is sent, served, stored and answered, or refused. If somebody dies of it, the two agree on what
    /// is spent, and it is made again unless it was served.
    pub fn call(&self, id: ChannelId, sat: u64) -> Result<Msat, CallError> {
        let cost = Msat::new(sat * 1_000);
        let before = Cell::new(None);
        self.survive(|| -> anyhow::Result<_> {
            if DEADLY {
                let spent = self.reconcile(id)?;
                let served =
                    before.replace(before.get().or(Some(spent))).is_some_and(|before| before != spent);
                if served {
                    return Ok(Ok(cost));
                }
            }
            let prepared = wait(self.buyer().call(id, cost, &TARGET, Allowed::ANYTHING))?;
            let (call, mac) = Call::from_bytes(&prepared.bytes).unwrap();
            let admission = match wait(self.seller().admit(&call, &TARGET, &mac)) {
                Ok(admission) => admission,
                Err(refused) => return Ok(Err(refused)),
            };
            let ended = self.seller().end(admission, Some(cost));
            let charged = ended.charged;
            wait(ended.stored())?;
            wait(self.buyer().answered(&prepared, Some(charged)))?;
            Ok(Ok(charged))
        })
        .unwrap()
    }

    /// The buyer learns in which epoch the seller is, and what is spent.
    pub fn reconcile(&self, id: ChannelId) -> anyhow::Result<Msat> {
        wait(self.buyer().epoch(id, self.seller().epoch()))?;
        let last = wait(self.buyer().purse(id))?.context("it pays for calls")?.last_number();
        let spent = wait(self.seller().reconcile(id, last))?.context("no call runs")?;
        wait(self.buyer().reconcile(id, last, spent))?;
        Ok(spent)
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
