//! A writer, an agent, a node and a payee in this process, each with its own folder and wallet, on one private regtest node.
//! What they say to each other is carried by hand, so a story can lose it, and switch anybody off.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bitcoin::{Amount, FeeRate, Network};
use farthing_chain::{Chain, RegtestNode};
use farthing_node::cheques::opening::Plan;
use farthing_node::cheques::paper::{Fate, Issued, Paper, Presented};
use farthing_node::cheques::selling::{Answer, Ask, LockError, Towards};
use farthing_node::cheques::writing::Order;
use farthing_node::cheques::{Teller, Terms};
use farthing_node::home::Home;
use farthing_node::seller;
use farthing_node::watch::Pace;
use farthing_protocol::channel::SpendKind;
use farthing_protocol::cheque::cheque::Cheque;
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::cheque::point::AdaptorPoint;
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_protocol::cheque::receipt::{Memo, Receipt};
use farthing_protocol::{Channel, ChannelId, Msat, Party};
use farthing_testkit::accounts::Accounts;
use tempfile::TempDir;

pub const MARGIN: u32 = 10;
pub const DELTA: u32 = 20;
pub const FINALITY: u32 = 6;
pub const FEE: Msat = Msat::new(1_000);
/// What an agent locks at most in channels that payees ask for.
pub const MOST_ONWARD: Amount = Amount::from_sat(50_000);
pub const PURSE: Amount = Amount::from_sat(1_000_000);
/// What every channel locks, in satoshi.
pub const CAPACITY: u64 = 100_000;
/// What a commitment of 204 vB and a refund of 138 vB leave to the miner at 2 sat/vB, in satoshi.
pub const COMMITMENT_FEE: u64 = 2 * 204;
pub const REFUND_FEE: u64 = 2 * 138;

pub fn sat(sat: u64) -> Msat {
    Msat::new(sat * 1_000)
}

/// The stage. Anybody may be off.
pub struct Carriers {
    pub node: RegtestNode,
    pub chain: Chain,
    on: BTreeMap<&'static str, Teller>,
    folder: TempDir,
}

impl Carriers {
    pub fn begin(people: &[&'static str]) -> Self {
        let node = RegtestNode::start().unwrap();
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let mut story = Self { chain: node.chain(), node, on: BTreeMap::new(), folder };
        for name in people {
            Home::init(&story.folder.path().join(name), Network::Regtest).unwrap();
            story.start(name);
            story.node.send(&story.at(name).new_address().unwrap(), PURSE).unwrap();
        }
        story.mine(1);
        story
    }

    pub fn home(&self, name: &str) -> Home {
        Home::open(&self.folder.path().join(name), Network::Regtest).unwrap()
    }

    pub fn at(&self, name: &str) -> &Teller {
        self.on.get(name).unwrap_or_else(|| panic!("the {name} is off"))
    }

    /// Starts somebody, or starts it again: then what it had in memory is gone.
    pub fn start(&mut self, name: &'static str) {
        self.stop(name);
        let rate = FeeRate::from_sat_per_vb_u32;
        let default = Terms::default();
        let paid =
            seller::Terms { lifetime: (30, 1_000), margin: MARGIN, finality: FINALITY, ..default.paid };
        let terms =
            Terms { paid, delta: DELTA, fee: FEE, finality: FINALITY, most_onward: MOST_ONWARD, ..default };
        let interval = Duration::from_secs(3_600);
        let pace = Pace { interval, target_blocks: 3, fallback_fee_rate: rate(2) };
        let teller = Teller::start(&self.home(name), self.chain.clone(), pace, terms).unwrap();
        teller.look().unwrap();
        self.on.insert(name, teller);
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.on.contains_key(name)
    }

    pub fn stop(&mut self, name: &str) {
        drop(self.on.remove(name));
    }

    pub fn mine(&self, blocks: u32) {
        self.node.mine(blocks).unwrap();
        self.look();
    }

    /// Whoever is on takes in everything up to the tip, the others' doing included.
    pub fn look(&self) {
        for _ in 0..2 {
            self.on.values().for_each(|teller| teller.look().unwrap());
        }
    }

    /// A block at a time: whoever is on acts on each.
    pub fn mine_to(&self, height: u32) {
        while self.chain.tip().unwrap().height < height {
            self.mine(1);
        }
    }

    /// Opens a channel, to expire so many blocks from now, and makes its funding deep.
    pub fn open(&self, payer: &'static str, payee: &'static str, kind: Kind, lifetime: u32) -> ChannelId {
        let (offer, key) = self.at(payee).offer();
        let plan = Plan {
            capacity: Amount::from_sat(CAPACITY),
            expiry: self.chain.tip().unwrap().height + lifetime,
            kind,
            peer: Some(payee.to_owned()),
        };
        let (id, opening) = self.at(payer).propose(&offer, plan).unwrap();
        let (accepted, signature) =
            self.at(payee).accept(&offer, key, opening, Some(payer.to_owned())).unwrap();
        assert_eq!(accepted, id);
        self.at(payer).accepted(id, signature).unwrap();
        self.at(payer).look().unwrap();
        self.mine(1);
        id
    }

    /// The payer sends its update and hears the answer, until it has nothing new to say.
    pub fn sync(&self, payer: &str, payee: &str, id: ChannelId) {
        for _ in 0..8 {
            let Some(update) = self.at(payer).update(id).unwrap() else { return };
            let answer = self.at(payee).take(id, update, Msat::ZERO).unwrap();
            if !self.at(payer).hear(id, &answer).unwrap() {
                return;
            }
        }
        panic!("{payer} and {payee} come to no end");
    }

    /// A cheque of so many satoshi, which the agent takes.
    pub fn write(&self, id: ChannelId, amount: u64, hops: u64) -> Issued {
        let prekey = self.at("payee").issue_prekeys(1).unwrap()[0];
        self.at("writer").write_cheque(self.order(id, prekey, amount, hops)).unwrap()
    }

    /// What the writer decides about a cheque.
    pub fn order(&self, id: ChannelId, prekey: SignedPrekey, amount: u64, hops: u64) -> Order {
        Order {
            identity: self.at("payee").identity(),
            to: "the payee".to_owned(),
            prekey,
            amount: sat(amount),
            fees: Msat::new(FEE.get() * hops),
            memo: Memo::new("a coffee").unwrap(),
            channel: id,
            agent: "agent".to_owned(),
            delta: DELTA,
        }
    }

    /// The payee asks, whoever is on the way locks, the payee cashes, and the secrets go back as far as somebody is on.
    pub fn cash_directly(&self, issued: &Issued, towards: ChannelId) -> Msat {
        self.lock_directly(issued, towards);
        let paid = self.at("payee").cash(&issued.written.point).unwrap();
        self.sync("agent", "payee", towards);
        paid
    }

    /// Up to the lock, which the payee holds then.
    pub fn lock_directly(&self, issued: &Issued, towards: ChannelId) {
        let (_, locked) = self.ask_directly(&issued.written.cheque, towards);
        assert_eq!(locked.unwrap(), towards);
        let update = self.at("agent").update(towards).unwrap().unwrap();
        self.at("payee").take(towards, update, Msat::ZERO).unwrap();
    }

    /// A cheque as the payee takes it in, and what the agent says when it is asked for a lock.
    pub fn ask_directly(
        &self,
        cheque: &Cheque,
        towards: ChannelId,
    ) -> (Presented, Result<ChannelId, LockError>) {
        let payee = self.at("payee");
        let presented = payee.receive(cheque.clone(), "agent".to_owned()).unwrap();
        let (presented, route) = payee.plan_sale(&presented.point, towards, None).unwrap();
        let hop = route.hops[0].clone();
        let ask = Ask {
            held: presented.point,
            point: hop.point,
            tweak: hop.tweak,
            amount: presented.cheque.terms.amount,
            towards: Towards::Channel(towards),
        };
        let asked = self.at("agent").lock(&ask);
        (presented, asked)
    }

    /// The payee hands its secrets over, and hears nothing: its payer does not pay plainly.
    pub fn hand_over(&self, payee: &str, payer: &str, id: ChannelId) {
        let secrets = self.at(payee).secrets(id).unwrap();
        assert!(!secrets.is_empty(), "the {payee} has nothing to hand over");
        self.at(payer).hear(id, &Answer { secrets, ..Answer::default() }).unwrap();
    }

    /// Through the node.
    pub fn lock_through(&self, issued: &Issued, middle: ChannelId, last: ChannelId) {
        let payee = self.at("payee");
        let presented = payee.receive(issued.written.cheque.clone(), "agent".to_owned()).unwrap();
        let (_, route) = payee.plan_sale(&presented.point, last, Some("node".to_owned())).unwrap();
        let amount = presented.cheque.terms.amount;
        let [first, second] = <[_; 2]>::try_from(route.hops).unwrap();
        let ask = Ask {
            held: presented.point,
            point: first.point,
            tweak: first.tweak,
            amount: amount.saturating_add(FEE),
            towards: Towards::Node("node".to_owned()),
        };
        assert_eq!(self.at("agent").lock(&ask).unwrap(), middle);
        self.sync("agent", "node", middle);
        let ask = Ask {
            held: first.point,
            point: second.point,
            tweak: second.tweak,
            amount,
            towards: Towards::Channel(last),
        };
        assert_eq!(self.at("node").lock(&ask).unwrap(), last);
        let update = self.at("node").update(last).unwrap().unwrap();
        payee.take(last, update, Msat::ZERO).unwrap();
    }

    /// What became of a cheque, as its writer knows.
    pub fn fate(&self, point: &AdaptorPoint) -> Fate {
        let papers = self.at("writer").papers().unwrap();
        let issued = papers.into_iter().find_map(|paper| match paper {
            Paper::Written(issued) if issued.written.point == *point => Some(issued),
            Paper::Written(_) | Paper::Got(_) | Paper::Bought(_) | Paper::Sold(_) => None,
        });
        issued.expect("it was written").fate
    }

    /// The receipt of a cheque, which must be there and hold.
    pub fn receipt(&self, issued: &Issued) -> Receipt {
        match self.fate(&issued.written.point) {
            Fate::Paid(receipt) => {
                receipt.verify().unwrap();
                assert_eq!(receipt.terms, issued.written.cheque.terms);
                receipt
            }
            other => panic!("no receipt: {other:?}"),
        }
    }

    /// What a channel came to for one of its sides: the newest plain total or claim, and what was spent.
    pub fn totals(&self, name: &str, id: ChannelId) -> (u64, u64) {
        let entries = self.at(name).channels().unwrap();
        let entry = entries.into_iter().find(|entry| entry.id == id).unwrap();
        let ledger = entry.state.ledger();
        (ledger.paid().floor().to_sat(), ledger.spent.floor().to_sat())
    }

    /// How a channel ended, for one of its sides.
    pub fn ending(&self, name: &str, id: ChannelId) -> Option<farthing_protocol::channel::Ending> {
        let entries = self.at(name).channels().unwrap();
        entries.into_iter().find(|entry| entry.id == id).unwrap().state.ending()
    }

    /// How a channel's funding was spent in a block, and what that pays to its payer and to its payee, in satoshi.
    pub fn shares(&self, name: &str, id: ChannelId) -> (SpendKind, u64, u64) {
        let channel = Channel::new(self.at(name).params(id).unwrap()).unwrap();
        let params = channel.params();
        let accounts = Accounts::on(&self.chain, 0).unwrap();
        let by = accounts.spender(&params.funding).unwrap();
        let paid_to = |party: &Party| Channel::paid_to(by, party).to_sat();
        (channel.spend_kind(by).unwrap(), paid_to(&params.payer), paid_to(&params.payee))
    }
}
