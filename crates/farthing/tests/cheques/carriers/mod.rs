//! A writer, an agent, a node and a payee in this process, each with its own folder and wallet, on one private regtest node.
//! What they say to each other is carried by hand, so a story can lose it, and switch anybody off.
//!
//! Told by `crashes`, everybody dies before and right after each save of its books, at whatever it does, and starts anew from what is
//! stored; then it does the same again, as a person would.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::{Amount, Network};
use farthing_chain::{Chain, RegtestNode};
use farthing_node::books::OrderError;
use farthing_node::cheques::cashing::CashError;
use farthing_node::cheques::opening::{OpenError, Plan};
use farthing_node::cheques::paper::{Fate, Issued, Paper, Presented};
use farthing_node::cheques::selling::{Answer, Ask, LockError, Towards};
use farthing_node::cheques::writing::{Order, WriteError};
use farthing_node::cheques::{Failed, Teller, Terms};
use farthing_node::home::Home;
use farthing_node::seller;
use farthing_node::watch::Pace;
use farthing_protocol::channel::SpendKind;
use farthing_protocol::cheque::cancellation::Cancellation;
use farthing_protocol::cheque::cheque::Cheque;
use farthing_protocol::cheque::drawn::Kind;
use farthing_protocol::cheque::point::AdaptorPoint;
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_protocol::cheque::receipt::{Memo, Receipt};
use farthing_protocol::cheque::route::Route;
use farthing_protocol::cheque::side::Side;
use farthing_protocol::opening::{Offer, Opening};
use farthing_protocol::{Channel, ChannelId, Msat, Party};
use farthing_testkit::accounts::Accounts;
use farthing_testkit::mortal::{self, Mortal};
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

/// Whether this is told by `crashes`.
const DEADLY: bool = matches!(
    module_path!().as_bytes().split_at("cheques::".len()).1,
    [b'c', b'r', b'a', b's', b'h', b'e', b's', ..]
);

/// The stage. Anybody may be off.
pub struct Carriers {
    pub node: RegtestNode,
    pub chain: Chain,
    people: Mutex<BTreeMap<&'static str, Arc<Mortal<Teller>>>>,
    /// How many openings may wait for a funding, and for how long.
    room: Mutex<(usize, Duration)>,
    folder: TempDir,
}

impl Drop for Carriers {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.people().iter().for_each(|(name, someone)| someone.assert_as_told(name));
        }
    }
}

impl Carriers {
    pub fn begin(people: &[&'static str]) -> Self {
        let node = RegtestNode::start().unwrap();
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let room = Mutex::new((100, Duration::from_secs(600)));
        let story = Self { chain: node.chain(), node, people: Mutex::default(), room, folder };
        for name in people {
            Home::init(&story.folder.path().join(name), Network::Regtest).unwrap();
            story.start(name);
            story.give(name, PURSE);
        }
        story.mine(1);
        story
    }

    /// Writer, agent, node and payee, and the channels between them.
    pub fn with_node() -> (Self, [ChannelId; 3]) {
        let story = Self::begin(&["writer", "agent", "node", "payee"]);
        let behind = story.open("writer", "agent", Kind::Cheques, 200);
        let middle = story.open("agent", "node", Kind::Lock, 150);
        let last = story.open("node", "payee", Kind::Lock, 100);
        (story, [behind, middle, last])
    }

    /// Coins for somebody, in the next block.
    pub fn give(&self, name: &str, amount: Amount) {
        let address = self.does(name, Teller::new_address).unwrap();
        self.node.send(&address, amount).unwrap();
    }

    pub fn home(&self, name: &str) -> Home {
        Home::open(&self.folder.path().join(name), Network::Regtest).unwrap()
    }

    /// Somebody, to be asked. What changes anything is for [`Self::does`].
    pub fn at(&self, name: &str) -> Arc<Teller> {
        self.someone(name).get().unwrap_or_else(|| panic!("the {name} is off"))
    }

    /// Has somebody do something, again and again until nobody dies of it: the first time at the first crash point, then at the second, and
    /// so on.
    pub fn does<T, E>(&self, name: &str, act: impl Fn(&Teller) -> Result<T, E>) -> Result<T, E> {
        self.survive(|| act(&self.at(name)))
    }

    /// [`Self::does`] with several.
    pub fn survive<T, E>(&self, act: impl Fn() -> Result<T, E>) -> Result<T, E> {
        mortal::survive(act, || self.revive(), || self.renew_fuses(1))
    }

    /// Does something of which nobody dies: where doing it twice is not the same.
    pub fn in_peace<T>(&self, act: impl FnOnce() -> T) -> T {
        self.renew_fuses(u64::MAX);
        let done = act();
        self.renew_fuses(1);
        done
    }

    fn renew_fuses(&self, point: u64) {
        self.people().values().for_each(|someone| someone.renew(point));
    }

    /// Whoever is dead starts anew. Whether anybody was.
    fn revive(&self) -> bool {
        let mut somebody_died = false;
        loop {
            let mut all = self.people();
            all.retain(|name, someone| someone.revive(|| self.new_teller(name)));
            if all.is_empty() {
                return somebody_died;
            }
            somebody_died = true;
            // What comes of this look is done before the story goes on; dead again, it fails.
            all.into_keys().for_each(|name| drop(self.at(name).look()));
        }
    }

    fn people(&self) -> BTreeMap<&'static str, Arc<Mortal<Teller>>> {
        self.people.lock().unwrap().clone()
    }

    fn someone(&self, name: &str) -> Arc<Mortal<Teller>> {
        self.people.lock().unwrap()[name].clone()
    }

    /// Starts somebody, or starts it again: then what it had in memory is gone.
    pub fn start(&self, name: &'static str) {
        let nobody_yet = || Arc::new(Mortal::off(DEADLY));
        let someone = self.people.lock().unwrap().entry(name).or_insert_with(nobody_yet).clone();
        someone.start(|| self.new_teller(name));
        self.does(name, Teller::look).unwrap();
    }

    fn new_teller(&self, name: &str) -> Teller {
        let default = Terms::default();
        let (most_unfunded, time_to_fund) = *self.room.lock().unwrap();
        let paid = seller::Terms {
            lifetime: (30, 1_000),
            margin: MARGIN,
            finality: FINALITY,
            most_unfunded,
            time_to_fund,
            ..default.paid
        };
        let terms =
            Terms { paid, delta: DELTA, fee: FEE, finality: FINALITY, most_onward: MOST_ONWARD, ..default };
        let interval = Duration::from_secs(3_600);
        let pace = Pace { interval, ..Pace::for_network(bitcoin::Network::Regtest) };
        Teller::start(&self.home(name), self.chain.clone(), pace, terms).unwrap()
    }

    /// A copy of somebody's folder, as it is now.
    pub fn copy(&self, name: &'static str) -> TempDir {
        self.stop(name);
        let copy = TempDir::new_in(self.folder.path()).unwrap();
        copy_folder(&self.folder.path().join(name), copy.path());
        self.start(name);
        copy
    }

    /// Somebody goes back to a copy of its folder.
    pub fn restore(&self, name: &'static str, copy: &TempDir) {
        self.stop(name);
        let folder = self.folder.path().join(name);
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        copy_folder(copy.path(), &folder);
        self.start(name);
    }

    /// Starts whoever is on again: so many openings may wait for a funding, for so long.
    pub fn make_room(&self, most_unfunded: usize, time_to_fund: Duration) {
        *self.room.lock().unwrap() = (most_unfunded, time_to_fund);
        self.people().into_keys().filter(|name| self.is_on(name)).for_each(|name| self.start(name));
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.someone(name).is_on()
    }

    pub fn stop(&self, name: &str) {
        self.someone(name).stop();
    }

    pub fn mine(&self, blocks: u32) {
        self.node.mine(blocks).unwrap();
        self.look();
    }

    /// Whoever is on takes in everything up to the tip, the others' doing included.
    pub fn look(&self) {
        for _ in 0..2 {
            for name in self.people().into_keys().filter(|name| self.is_on(name)) {
                self.does(name, Teller::look).unwrap();
            }
        }
    }

    /// A block at a time: whoever is on acts on each. Those before the last two are all alike, so nobody dies of them.
    pub fn mine_to(&self, height: u32) {
        let is_below = |height: u32| self.chain.tip().unwrap().height < height;
        self.in_peace(|| {
            while is_below(height.saturating_sub(2)) {
                self.node.mine(1).unwrap();
                let on = self.people().into_values().filter_map(|someone| someone.get());
                on.for_each(|teller| teller.look().unwrap());
            }
        });
        while is_below(height) {
            self.mine(1);
        }
    }

    /// Opens a channel, to expire so many blocks from now, and makes its funding deep.
    pub fn open(&self, payer: &'static str, payee: &'static str, kind: Kind, lifetime: u32) -> ChannelId {
        let known = self.funded(payer).unwrap();
        let propose = || -> Result<_, OpenError> {
            let (offer, key) = self.at(payee).offer();
            let plan = Plan {
                capacity: Amount::from_sat(CAPACITY),
                expiry: self.chain.tip().unwrap().height + lifetime,
                kind,
                peer: Some(payee.to_owned()),
            };
            Ok((offer.clone(), key, self.at(payer).propose(&offer, plan)?))
        };
        let accept = |offer: &Offer, key, opening: &Opening| {
            self.at(payee).accept(offer, key, opening.clone(), Some(payer.to_owned()))
        };
        let (offer, key, (id, opening)) = self.survive(propose).unwrap();
        let (accepted, signature) = self.survive(|| accept(&offer, key, &opening)).unwrap();
        assert_eq!(accepted, id);
        // It accepts each proposal that its payer gives up, and has more to look at after each of its own deaths.
        self.someone(payee).renew(u64::MAX);
        let opened = self.survive(|| {
            // A payer that has died before it stored the acceptance has given the proposal up; after that, it has funded the channel.
            if let Some(new) = self.funded(payer)?.into_iter().find(|id| !known.contains(id)) {
                return Ok(new);
            }
            match self.at(payer).accepted(id, signature) {
                Err(OrderError::NoChannel(_)) => {}
                done => return done.map(|()| id).map_err(OpenError::from),
            }
            let (offer, key, (id, opening)) = propose()?;
            let again =
                || self.at(payer).accepted(id, accept(&offer, key, &opening)?.1).map_err(OpenError::from);
            // As a client does that gets no answer.
            again().map(|()| id).inspect_err(|_| drop(self.at(payer).refused(id)))
        });
        self.does(payer, Teller::look).unwrap();
        self.mine(1);
        opened.unwrap()
    }

    /// The channels in which somebody pays, and whose funding was broadcast.
    fn funded(&self, payer: &str) -> Result<Vec<ChannelId>, Failed> {
        let entries = self.at(payer).channels()?;
        let is_funded = |state: &Side| state.is_live() && state.drawer().is_some();
        Ok(entries.iter().filter(|entry| is_funded(&entry.state)).map(|entry| entry.id).collect())
    }

    /// The payer sends its update and hears the answer, until it has nothing new to say.
    pub fn sync(&self, payer: &str, payee: &str, id: ChannelId) {
        let mut said = None;
        for _ in 0..8 {
            let update = self.does(payer, |payer| payer.update(id)).unwrap();
            if update == said {
                return;
            }
            let Some(newest) = update.clone() else { return };
            let answer = self.does(payee, |payee| payee.take(id, newest.clone(), Msat::ZERO)).unwrap();
            self.does(payer, |payer| payer.hear(id, &answer)).unwrap();
            said = update;
        }
        panic!("{payer} and {payee} come to no end");
    }

    /// A cheque of so many satoshi, which the agent takes.
    pub fn write(&self, id: ChannelId, amount: u64, hops: u64) -> Issued {
        let prekey = self.at("payee").issue_prekeys(1).unwrap()[0];
        self.write_order(&self.order(id, prekey, amount, hops))
    }

    pub fn write_order(&self, order: &Order) -> Issued {
        self.try_to_write(order).unwrap()
    }

    /// Whoever has died in the middle looks whether the cheque is written.
    pub fn try_to_write(&self, order: &Order) -> Result<Issued, WriteError> {
        let written = |writer: &Teller| {
            let papers = writer.papers().unwrap().into_iter();
            papers.filter_map(|paper| match paper {
                Paper::Written(issued) => Some(issued),
                Paper::Got(_) | Paper::Bought(_) | Paper::Sold(_) => None,
            })
        };
        let before: Vec<Issued> = written(&self.at("writer")).collect();
        self.does("writer", |writer| match written(writer).find(|issued| !before.contains(issued)) {
            Some(issued) => Ok(issued),
            None => writer.write_cheque(order.clone()),
        })
    }

    /// The agent's signed word that a cheque is taken back, for its writer to keep.
    pub fn give_up(&self, issued: &Issued, behind: ChannelId) -> Cancellation {
        let point = issued.written.point;
        let word =
            self.does("agent", |agent| agent.give_up(behind, &point)).unwrap().expect("the agent's word");
        self.does("writer", |writer| writer.given_up(&point, word.clone())).unwrap();
        word
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
        let paid = self.cash(issued);
        self.sync("agent", "payee", towards);
        paid
    }

    /// The payee cashes its lock, and says nothing of it.
    pub fn cash(&self, issued: &Issued) -> Msat {
        self.try_to_cash(&issued.written.point).unwrap()
    }

    pub fn try_to_cash(&self, point: &AdaptorPoint) -> Result<Msat, CashError> {
        self.does("payee", |payee| payee.cash(point))
    }

    /// Up to the lock, which the payee holds then.
    pub fn lock_directly(&self, issued: &Issued, towards: ChannelId) {
        let (_, locked) = self.ask_directly(&issued.written.cheque, towards);
        assert_eq!(locked.unwrap(), towards);
        self.take_lock("agent", towards);
    }

    /// The payee takes its payer's newest update.
    pub fn take_lock(&self, payer: &str, towards: ChannelId) {
        let update = self.does(payer, |payer| payer.update(towards)).unwrap().unwrap();
        self.does("payee", |payee| payee.take(towards, update.clone(), Msat::ZERO)).unwrap();
    }

    /// A cheque as the payee takes it in, and what the agent says when it is asked for a lock.
    pub fn ask_directly(
        &self,
        cheque: &Cheque,
        towards: ChannelId,
    ) -> (Presented, Result<ChannelId, LockError>) {
        let (presented, route) = self.plan(cheque, towards, &[]);
        let ask = ask_for(&presented, &route, 0, presented.cheque.terms.amount, Towards::Channel(towards));
        let asked = self.does("agent", |agent| agent.lock(&ask));
        (presented, asked)
    }

    /// How many prekeys of the payee's signed nothing yet.
    pub fn unused_prekeys(&self) -> u32 {
        self.home("payee").prekeys().unwrap().book().unwrap().unused()
    }

    /// The payee takes a cheque in, and thinks of a way to cash it.
    pub fn plan(&self, cheque: &Cheque, towards: ChannelId, via: &[&str]) -> (Presented, Route) {
        let receive = |payee: &Teller| payee.receive(cheque.clone(), "agent".to_owned());
        let presented = self.does("payee", receive).unwrap();
        let via: Vec<String> = via.iter().map(ToString::to_string).collect();
        let fees = vec![FEE; via.len()];
        let plan = |payee: &Teller| payee.plan_sale(&presented.point, towards, via.clone(), &fees);
        self.does("payee", plan).unwrap()
    }

    /// The payee hands its secrets over, and hears nothing: its payer does not pay plainly.
    pub fn hand_over(&self, payee: &str, payer: &str, id: ChannelId) {
        let secrets = self.does(payee, |payee| payee.secrets(id)).unwrap();
        assert!(!secrets.is_empty(), "the {payee} has nothing to hand over");
        let answer = Answer { secrets, ..Answer::default() };
        self.does(payer, |payer| payer.hear(id, &answer)).unwrap();
    }

    /// Through nodes, each with the channel to it; and the last one's to the payee. Gives the points that were locked under.
    pub fn lock_through(
        &self,
        issued: &Issued,
        nodes: &[(&'static str, ChannelId)],
        last: ChannelId,
    ) -> Vec<AdaptorPoint> {
        let names: Vec<&str> = nodes.iter().map(|(name, _)| *name).collect();
        let (presented, route) = self.plan(&issued.written.cheque, last, &names);
        let amount = presented.cheque.terms.amount;
        let mut at = "agent";
        for (index, (next, channel)) in nodes.iter().enumerate() {
            let fees = FEE.get() * (nodes.len() - index) as u64;
            let towards = Towards::Node((*next).to_owned());
            let ask = ask_for(&presented, &route, index, amount.saturating_add(Msat::new(fees)), towards);
            assert_eq!(self.does(at, |at| at.lock(&ask)).unwrap(), *channel);
            self.sync(at, next, *channel);
            at = next;
        }
        let ask = ask_for(&presented, &route, nodes.len(), amount, Towards::Channel(last));
        assert_eq!(self.does(at, |at| at.lock(&ask)).unwrap(), last);
        self.take_lock(at, last);
        route.hops.iter().map(|hop| hop.point).collect()
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

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// What a payee asks for at the hop of that index.
pub fn ask_for(presented: &Presented, route: &Route, index: usize, amount: Msat, towards: Towards) -> Ask {
    let hop = &route.hops[index];
    let held = index.checked_sub(1).map_or(presented.point, |before| route.hops[before].point);
    Ask { held, point: hop.point, tweak: hop.tweak.clone(), amount, towards }
}
