//! A seller and a buyer in this process, each with its own folder and wallet, on one private regtest node.
//!
//! Nothing happens behind a story's back: neither side looks at the chain unless the story says so (or starts it), and
//! [`Story::look`] returns only when everything up to the tip is taken in.
//!
//! `crashes.rs` tells the stories of the other files again. There each side dies before each of its saves and again right after it, starts
//! anew from what it has stored, and the story goes on: with [`Story::survive`] what was interrupted is done again, as its program would.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

pub mod calls;
pub mod flat;
pub mod stranger;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bitcoin::absolute::LockTime;
use bitcoin::psbt::Psbt;
use bitcoin::secp256k1::schnorr;
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, FeeRate, Network, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Witness};
use farthing_chain::{BroadcastError, Chain, OutputStatus, RegtestNode};
use farthing_node::books::{Item, OrderError};
use farthing_node::buyer::Buyer;
use farthing_node::entropy;
use farthing_node::home::Home;
use farthing_node::machine::{PayeeRecord, PayerRecord};
use farthing_node::seller::{Seller, Terms};
use farthing_node::tabs::Durability;
use farthing_node::wallet::Wallet;
use farthing_node::watch::Pace;
use farthing_protocol::channel::{Ending, SpendKind};
use farthing_protocol::opening::{Confirmations, Limits};
use farthing_protocol::{Channel, ChannelId, Msat, Params, Party, child, commitment, payee, payer, refund};
use farthing_testkit::mortal::{self, Mortal};
use tempfile::TempDir;

/// What the buyer's wallet starts with.
pub const PURSE: Amount = Amount::from_sat(1_000_000);
/// What most channels lock.
pub const CAPACITY: Amount = Amount::from_sat(100_000);
/// How long a channel lives, in blocks.
pub const LIFETIME: u32 = 60;
/// How many blocks before the expiry the seller closes by itself.
pub const MARGIN: u32 = 20;
/// How many blocks the seller waits for an agreed closing.
pub const PATIENCE: u32 = 4;
/// How deep the end of a channel must be, for both.
pub const FINALITY: u32 = 6;
/// What a commitment with two outputs weighs, in virtual bytes.
pub const COMMITMENT: u64 = 204;
/// What a closing with two outputs weighs, in virtual bytes.
pub const CLOSING: u64 = 154;
/// What a refund weighs, in virtual bytes.
pub const REFUND: u64 = 138;
/// What a child weighs, in virtual bytes.
pub const CHILD: u64 = 111;
/// What [`Story::buyer_pins`] weighs, in virtual bytes: with one output more it would be above the 1,000 of BIP431.
pub const PIN: u64 = CHILD + 43 * (PIN_OUTPUTS as u64 - 1);
const PIN_OUTPUTS: usize = 21;

/// A satoshi amount.
pub fn sat(sat: u64) -> Amount {
    Amount::from_sat(sat)
}

/// A fee rate in sat/vB.
pub fn rate(sat_per_vb: u32) -> FeeRate {
    FeeRate::from_sat_per_vb_u32(sat_per_vb)
}

/// What a refund costs at that fee rate, in satoshi.
pub fn refund_fee(sat_per_vb: u32) -> u64 {
    u64::from(sat_per_vb) * REFUND
}

/// Runs what the two sides' async methods return.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// How a story is set up, where it differs from the others.
pub struct Setting {
    /// More arguments for the node.
    pub node: &'static [&'static str],
    /// What the seller accepts.
    pub terms: Terms,
    /// How both look at the chain. The fallback fee rate is what confirms, since regtest has no estimates.
    pub pace: Pace,
}

impl Default for Setting {
    fn default() -> Self {
        let terms = Terms {
            capacity: (sat(10_000), sat(100_000_000)),
            fee_rate: (rate(1), rate(2)),
            lifetime: (MARGIN + 5, 1_000),
            margin: MARGIN,
            confirmations: Confirmations { least: 1, one_more_per: sat(1_000_000) },
            unconfirmed_cap: Msat::ZERO,
            patience: PATIENCE,
            finality: FINALITY,
            most_unfunded: 10,
            time_to_fund: Duration::from_secs(600),
            most_blind: Duration::from_secs(3_600),
            durability: Durability::Call,
            most_exposure: Msat::new(2_000_000),
            most_resident: 256 << 20,
            flat: None,
        };
        let pace = Pace { interval: Duration::from_secs(3_600), ..Pace::for_network(Network::Regtest) };
        Self { node: &[], terms, pace }
    }
}

/// Whether this is told by `crashes.rs`: then this file is a part of a part of it.
const DEADLY: bool = matches!(module_path!().as_bytes(), [b'c', b'r', b'a', b's', b'h', b'e', b's', ..]);

/// The stage. Either side may be off.
pub struct Story {
    seller: Mortal<Seller>,
    buyer: Mortal<Buyer>,
    pub setting: Setting,
    pub node: RegtestNode,
    pub chain: Chain,
    folder: TempDir,
}

impl Drop for Story {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.seller.assert_as_told("seller");
            self.buyer.assert_as_told("buyer");
        }
    }
}

impl Story {
    /// Both are on, and the buyer has its purse.
    pub fn begin() -> Self {
        Self::set(|_| {})
    }

    /// The same in another setting.
    pub fn set(change: impl FnOnce(&mut Setting)) -> Self {
        let mut setting = Setting::default();
        change(&mut setting);
        let node = RegtestNode::start_with(setting.node).unwrap();
        let folder = folder();
        for side in ["seller", "buyer"] {
            Home::init(&folder.path().join(side), Network::Regtest).unwrap();
        }
        let (seller, buyer) = (Mortal::off(DEADLY), Mortal::off(DEADLY));
        let mut story = Self { seller, buyer, setting, chain: node.chain(), node, folder };
        story.start_seller();
        story.start_buyer();
        story.node.send(&story.buyers_address(), PURSE).unwrap();
        story.mine(1);
        assert_eq!(story.buyer().balance().confirmed, PURSE);
        story
    }

    pub fn seller(&self) -> Arc<Seller> {
        self.seller.get().expect("the seller is on")
    }

    pub fn buyer(&self) -> Arc<Buyer> {
        self.buyer.get().expect("the buyer is on")
    }

    pub fn home(&self, side: &str) -> Home {
        Home::open(&self.folder.path().join(side), Network::Regtest).unwrap()
    }

    /// Starts the seller, or starts it again: then what it had in memory is gone.
    pub fn start_seller(&mut self) {
        self.seller.start(|| self.new_seller());
    }

    pub fn stop_seller(&mut self) {
        self.seller.stop();
    }

    /// Starts the buyer, or starts it again: then what it had in memory is gone.
    pub fn start_buyer(&mut self) {
        self.buyer.start(|| self.new_buyer());
    }

    pub fn stop_buyer(&mut self) {
        self.buyer.stop();
    }

    fn new_seller(&self) -> Seller {
        let Setting { pace, terms, .. } = self.setting;
        let seller = Seller::start(&self.home("seller"), self.chain.clone(), pace, terms).unwrap();
        // It sells nothing before its first look. Dying of that one is told as well.
        let _seen_or_dead = seller.look();
        seller
    }

    fn new_buyer(&self) -> Buyer {
        Buyer::start(&self.home("buyer"), self.chain.clone(), self.setting.pace, FINALITY).unwrap()
    }

    /// Whoever is dead starts anew. Whether anybody was.
    fn revive(&self) -> bool {
        let mut somebody_died = false;
        loop {
            let (seller, buyer) =
                (self.seller.revive(|| self.new_seller()), self.buyer.revive(|| self.new_buyer()));
            if !seller && !buyer {
                return somebody_died;
            }
            somebody_died = true;
            // Whoever starts looks. What comes of it is done before the story goes on; dead again, it fails.
            let _sellers = seller.then(|| self.seller().look());
            let _buyers = buyer.then(|| self.buyer().look());
        }
    }

    /// Does something, again and again until nobody dies of it: the first time at the first crash point, then at the second, and so on.
    pub fn survive<T, E>(&self, act: impl Fn() -> Result<T, E>) -> Result<T, E> {
        mortal::survive(act, || self.revive(), || self.renew_fuses(1))
    }

    /// Does something of which nobody dies.
    pub fn in_peace<T>(&self, act: impl FnOnce() -> T) -> T {
        self.look();
        self.renew_fuses(u64::MAX);
        let done = act();
        self.renew_fuses(1);
        done
    }

    fn renew_fuses(&self, point: u64) {
        self.seller.renew(point);
        self.buyer.renew(point);
    }

    /// A new address of the buyer's wallet.
    pub fn buyers_address(&self) -> Address {
        self.survive(|| self.buyer().new_address()).unwrap()
    }

    /// Starts again whoever is on, while that fee rate confirms.
    pub fn fees_become(&mut self, sat_per_vb: u32) {
        self.setting.pace.fallback_fee_rate = rate(sat_per_vb);
        if self.seller.is_on() {
            self.start_seller();
        }
        if self.buyer.is_on() {
            self.start_buyer();
        }
        self.look();
    }

    /// Whoever is on takes in everything up to the tip, the other's doing included.
    pub fn look(&self) {
        let look = || -> anyhow::Result<()> {
            for _ in 0..2 {
                self.buyer.get().iter().try_for_each(|buyer| buyer.look())?;
                self.seller.get().iter().try_for_each(|seller| seller.look())?;
            }
            // What was not stored is not seen; a look does not fail for it.
            anyhow::ensure!(!self.buyer.is_dead() && !self.seller.is_dead(), "somebody died");
            Ok(())
        };
        self.survive(look).unwrap();
    }

    /// Blocks one by one, each taken in before the next.
    pub fn mine(&self, blocks: u32) {
        for _ in 0..blocks {
            self.node.mine(1).unwrap();
            self.look();
        }
    }

    /// Empty blocks one by one, each taken in before the next: nothing confirms.
    pub fn mine_empty(&self, blocks: u32) {
        for _ in 0..blocks {
            self.node.mine_empty().unwrap();
            self.look();
        }
    }

    /// A block with other people's transactions only, at what the node's `-fallbackfee` says. After a few of them the
    /// node has an estimate.
    pub fn others_pay(&self) {
        let anybody = self.buyers_address();
        let pay = || {
            let txid = self.node.send(&anybody, sat(1_000)).unwrap();
            self.chain.mempool_transaction(&txid).unwrap().unwrap()
        };
        self.node.mine_with(&[pay(), pay()]).unwrap();
        self.look();
    }

    /// Takes the last `depth` blocks back, and makes one more than that many empty ones. Nobody has looked yet.
    pub fn reorganise(&self, depth: u32) {
        self.forget(depth);
        for _ in 0..=depth {
            self.node.mine_empty().unwrap();
        }
    }

    /// Takes the last `depth` blocks back. Their transactions are in the mempool again.
    pub fn forget(&self, depth: u32) {
        let tip = self.chain.tip().unwrap();
        let first = self.chain.block_hash(tip.height + 1 - depth).unwrap().unwrap();
        self.node.invalidate(&first).unwrap();
    }

    /// A channel that the seller has accepted; the buyer does not know yet.
    pub fn propose(&self) -> (ChannelId, schnorr::Signature) {
        let (offer, key) = self.seller().offer();
        let before = self.awaiting_acceptance();
        let (id, opening) = self
            .survive(|| -> anyhow::Result<_> {
                // What was stored before a death is proposed again: its coins are taken.
                let stored = self.try_awaiting_acceptance()?.into_iter().find(|id| !before.contains(id));
                match stored {
                    Some(id) => Ok((id, self.buyer().proposal(id).context("it is there")?)),
                    None => {
                        Ok(self.buyer().propose(&offer, &limits(), CAPACITY, LIFETIME, "story".to_owned())?)
                    }
                }
            })
            .unwrap();
        let (accepted, signature) =
            self.survive(|| self.seller().accept(&offer, key, opening.clone())).unwrap();
        assert_eq!(accepted, id);
        (id, signature)
    }

    fn awaiting_acceptance(&self) -> Vec<ChannelId> {
        self.survive(|| self.try_awaiting_acceptance()).unwrap()
    }

    fn try_awaiting_acceptance(&self) -> anyhow::Result<Vec<ChannelId>> {
        let entries = wait(self.buyer().channels())?.into_iter();
        let awaiting = entries.filter(|entry| matches!(entry.state, payer::State::AwaitingAcceptance));
        Ok(awaiting.map(|entry| entry.id).collect())
    }

    /// A channel that both have stored, and whose funding is broadcast.
    pub fn fund(&self) -> ChannelId {
        let (id, signature) = self.propose();
        self.accepted(id, signature);
        id
    }

    /// The buyer hears that the seller has accepted, and broadcasts the funding.
    pub fn accepted(&self, id: ChannelId, signature: schnorr::Signature) {
        self.survive(|| -> anyhow::Result<()> {
            // Else it took the acceptance before it died.
            if self.try_awaiting_acceptance()?.contains(&id) {
                wait(self.buyer().accepted(id, signature))?;
            }
            Ok(())
        })
        .unwrap();
        self.look();
    }

    /// A channel whose funding is one block deep, and that much bought in it.
    pub fn open(&self, spent: u64) -> ChannelId {
        let id = self.fund();
        self.mine(1);
        assert_eq!((self.sellers(id).name(), self.buyers(id).name()), ("open", "open"));
        self.buy(id, spent).unwrap();
        id
    }

    /// Buys something new for that many satoshi: pays, and is served or not.
    pub fn buy(&self, id: ChannelId, sat: u64) -> Result<Msat, OrderError<payee::Reject>> {
        let item = Item { id: entropy::bytes(), cost: Msat::new(sat * 1_000) };
        let bought = self.survive(|| wait(self.buyer().buy(id, item))).unwrap();
        self.survive(|| wait(self.seller().charge(id, item, Some(bought.payment))))
    }

    /// Both sign a closing at that fee rate. The buyer has it and has not broadcast it; the seller does not have it.
    pub fn agree_to_close(&self, id: ChannelId, sat_per_vb: u32) -> Transaction {
        self.survive(|| -> anyhow::Result<_> {
            let Some(proposal) = wait(self.buyer().propose_closing(id, rate(sat_per_vb), None))? else {
                // It was complete before the buyer died, and is broadcast again.
                self.buyer().look()?;
                let funding = self.buyer().params(id).context("it is not over")?.funding;
                return self.chain.mempool_spender(&funding)?.context("it is in the mempool");
            };
            let answer = self.seller().settle(id, proposal.settlement(), &proposal.public_nonce())?;
            Ok(wait(self.buyer().complete_closing(id, proposal, &answer))?)
        })
        .unwrap()
    }

    /// Both close together, and both broadcast.
    pub fn close_together(&self, id: ChannelId) -> Transaction {
        let closing = self.agree_to_close(id, 2);
        self.survive(|| wait(self.seller().settled(id, closing.clone()))).unwrap();
        self.look();
        closing
    }

    /// The seller closes without the buyer.
    pub fn close_alone(&self, id: ChannelId) {
        self.survive(|| wait(self.seller().close(id))).unwrap();
        self.look();
    }

    /// Where the channel stands for the seller.
    pub fn sellers(&self, id: ChannelId) -> payee::State {
        let entries = self.survive(|| wait(self.seller().channels())).unwrap();
        entries.into_iter().find(|entry| entry.id == id).unwrap().state
    }

    /// Where the channel stands for the buyer.
    pub fn buyers(&self, id: ChannelId) -> payer::State {
        let entries = self.survive(|| wait(self.buyer().channels())).unwrap();
        entries.into_iter().find(|entry| entry.id == id).unwrap().state
    }

    /// How the channel ended for the seller.
    pub fn sellers_end(&self, id: ChannelId) -> Option<Ending> {
        match self.sellers(id) {
            payee::State::Closed(closed) => closed.ending,
            state => panic!("for the seller the channel is {}", state.name()),
        }
    }

    /// How the channel ended for the buyer.
    pub fn buyers_end(&self, id: ChannelId) -> Ending {
        match self.buyers(id) {
            payer::State::Closed(closed) => closed.ending,
            state => panic!("for the buyer the channel is {}", state.name()),
        }
    }

    /// Both ended alike, with these amounts.
    pub fn assert_ended(&self, id: ChannelId, kind: SpendKind, to_seller: u64, to_buyer: u64) {
        let (seller, buyer) = (self.sellers_end(id).expect("the funding was spent"), self.buyers_end(id));
        assert_eq!((seller.kind, buyer.kind), (kind, kind));
        assert_eq!(seller.txid, buyer.txid);
        assert_eq!((seller.received, buyer.received), (sat(to_seller), sat(to_buyer)));
    }

    /// What spends the channel's funding in the mempool.
    pub fn spender(&self, id: ChannelId) -> Option<Transaction> {
        self.chain.mempool_spender(&self.funding(id)).unwrap()
    }

    /// The funding output.
    pub fn funding(&self, id: ChannelId) -> OutPoint {
        self.sellers_record(id).params.funding
    }

    /// The funding transaction.
    pub fn funding_transaction(&self, id: ChannelId) -> Transaction {
        let entries = self.survive(|| wait(self.buyer().channels())).unwrap();
        entries.into_iter().find(|entry| entry.id == id).unwrap().record.funding
    }

    /// The channel's height of expiry.
    pub fn expiry(&self, id: ChannelId) -> u32 {
        self.sellers_record(id).params.expiry.height()
    }

    /// Mines to that height at once; nobody has looked yet.
    pub fn mine_to(&self, height: u32) {
        let tip = self.chain.tip().unwrap().height;
        self.node.mine(height - tip).unwrap();
    }

    /// The commitment that the seller would publish now.
    pub fn commitment(&self, id: ChannelId) -> Transaction {
        let PayeeRecord { params, key, .. } = self.sellers_record(id);
        let keys = self.home("seller").seed().unwrap().channel_keys(key);
        let newest = self.sellers(id).ledger().newest.expect("something was paid");
        commitment::complete(&Channel::new(params).unwrap(), &keys, &newest)
    }

    /// A child of `parent` that spends the buyer's output and lifts both to that fee rate. Not broadcast.
    pub fn buyer_bears(&self, id: ChannelId, parent: &Transaction, target: FeeRate) -> Transaction {
        let params = self.sellers_record(id).params;
        let paid: Amount = parent.output.iter().map(|output| output.value).sum();
        let fee = params.capacity - paid;
        let psbt = child::build(parent, fee, &params.payer.output, target, Amount::ZERO).unwrap();
        self.buyer_signs(psbt)
    }

    /// A child of a closing that spends the buyer's output and pays that fee rate for itself: about as large as version 3
    /// allows, so that it weighs the closing down and is dear to replace. Not broadcast.
    pub fn buyer_pins(&self, id: ChannelId, closing: &Transaction, own: FeeRate) -> Transaction {
        let script = self.sellers_record(id).params.payer.output;
        let mut psbt = child::build(closing, Amount::ZERO, &script, rate(1), Amount::ZERO).unwrap();
        let has: Amount = psbt.inputs[0].witness_utxo.as_ref().unwrap().value;
        let each = (has - own.fee_vb(PIN).unwrap()) / PIN_OUTPUTS as u64;
        psbt.unsigned_tx.output = vec![TxOut { value: each, script_pubkey: script }; PIN_OUTPUTS];
        psbt.outputs = vec![Default::default(); PIN_OUTPUTS];
        let pin = self.buyer_signs(psbt);
        assert_eq!(pin.vsize() as u64, PIN);
        pin
    }

    /// Another transaction that spends what the channel's funding spends, back to the buyer. Not broadcast.
    pub fn double_spend(&self, id: ChannelId) -> Transaction {
        let mut psbt = Psbt::from_unsigned_tx(Transaction {
            input: self.funding_transaction(id).input.into_iter().map(without_witness).collect(),
            output: Vec::new(),
            version: Version::TWO,
            lock_time: LockTime::ZERO,
        })
        .unwrap();
        let OutputStatus::SpentInMempool { output, .. } =
            self.chain.output(&psbt.unsigned_tx.input[0].previous_output).unwrap()
        else {
            panic!("the funding is in the mempool")
        };
        let back = TxOut { value: output.value - DOUBLE_SPEND_FEE, ..output.clone() };
        psbt.unsigned_tx.output = vec![back];
        psbt.outputs = vec![Default::default()];
        psbt.inputs[0].witness_utxo = Some(output);
        self.buyer_signs(psbt)
    }

    /// A refund that pays the seller. Not broadcast.
    pub fn refund_to_seller(&self, id: ChannelId, fee_rate: FeeRate) -> Transaction {
        let entries = self.survive(|| wait(self.buyer().channels())).unwrap();
        let PayerRecord { params, key, .. } =
            entries.into_iter().find(|entry| entry.id == id).unwrap().record;
        let keys = self.home("buyer").seed().unwrap().channel_keys(key);
        let payer = Party { output: params.payee.output.clone(), ..params.payer.clone() };
        // Who is paid is not in what the funding is locked to.
        refund::complete(&Channel::new(Params { payer, ..params }).unwrap(), &keys, fee_rate).unwrap()
    }

    fn buyer_signs(&self, psbt: Psbt) -> Transaction {
        let home = self.home("buyer");
        let (mut store, seed) = (home.store().unwrap(), Arc::new(home.seed().unwrap()));
        Wallet::open(&mut store, seed, self.chain.tip().unwrap()).unwrap().sign(psbt).unwrap()
    }

    /// What spends this output of a transaction in the mempool.
    pub fn spender_of(&self, parent: &Transaction, script: &ScriptBuf) -> Option<Transaction> {
        let vout = parent.output.iter().position(|output| output.script_pubkey == *script)?;
        let outpoint = OutPoint { txid: parent.compute_txid(), vout: u32::try_from(vout).unwrap() };
        self.chain.mempool_spender(&outpoint).unwrap()
    }

    /// The seller's child of a commitment in the mempool.
    pub fn sellers_child(&self, id: ChannelId, parent: &Transaction) -> Option<Transaction> {
        self.spender_of(parent, &self.sellers_record(id).params.payee.output)
    }

    /// The buyer's child of a commitment in the mempool.
    pub fn buyers_child(&self, id: ChannelId, parent: &Transaction) -> Option<Transaction> {
        self.spender_of(parent, &self.sellers_record(id).params.payer.output)
    }

    /// What a transaction in the mempool pays together with its children, in satoshi, and their size in virtual bytes.
    pub fn package(&self, parent: &Transaction) -> (u64, u64) {
        let entry = self.chain.mempool_entry(&parent.compute_txid()).unwrap().expect("it is in the mempool");
        (entry.descendant_fee.to_sat(), entry.descendant_vsize)
    }

    pub fn is_in_mempool(&self, transaction: &Transaction) -> bool {
        self.chain.mempool_entry(&transaction.compute_txid()).unwrap().is_some()
    }

    fn sellers_record(&self, id: ChannelId) -> PayeeRecord {
        let entries = self.survive(|| wait(self.seller().channels())).unwrap();
        entries.into_iter().find(|entry| entry.id == id).unwrap().record
    }
}

/// What [`Story::double_spend`] leaves to the miner.
pub const DOUBLE_SPEND_FEE: Amount = Amount::from_sat(120);

fn without_witness(input: TxIn) -> TxIn {
    TxIn { witness: Witness::new(), ..input }
}

/// What the buyer accepts: everything that the stories do.
pub fn limits() -> Limits {
    Limits {
        most_capacity: PURSE,
        fee_rate: (rate(1), rate(100)),
        most_lifetime: 1_000,
        most_prepaid: sat(20_000),
        most_confirmations: 100,
    }
}

/// Whether the seller refused since the funding may yet disappear.
pub fn is_not_deep_enough(answer: &Result<Msat, OrderError<payee::Reject>>) -> bool {
    matches!(answer, Err(OrderError::Rejected(payee::Reject::NotDeepEnough { .. })))
}

/// Whether the node refused a transaction since it pays too little.
pub fn is_too_low(answer: &Result<(), BroadcastError>) -> bool {
    matches!(answer, Err(BroadcastError::FeeTooLow { .. }))
}

/// A folder in memory where there is one, so that a durable write costs nothing.
fn folder() -> TempDir {
    farthing_chain::temporary_folder("farthing-story-").unwrap()
}
