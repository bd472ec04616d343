//! A writer, its agent, a node and a payee as programs would run them, over three channels in a row: each machine is stored
//! before its effects come out, programs crash, read their stores again and carry on, and the wire between them loses,
//! doubles and reorders. At the end nobody sends anything any more, and only the chain decides.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, FeeRate, Network, OutPoint, ScriptBuf, Transaction, Txid};
use farthing_protocol::channel::Expiry;
use farthing_protocol::cheque::book::{self, Book};
use farthing_protocol::cheque::cheque::{Draft, Written};
use farthing_protocol::cheque::drawn::{self, Drawn, Kind, Outcome};
use farthing_protocol::cheque::held::{self, Conditions, Held, Onward};
use farthing_protocol::cheque::point::{AdaptorPoint, AdaptorSecret};
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_protocol::cheque::promises::{Promise, Update};
use farthing_protocol::cheque::receipt::{Memo, Receipt};
use farthing_protocol::cheque::route::Route;
use farthing_protocol::keys::{ChannelKeys, ChequeKeys, KeyId, Seed};
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, Msat, Params, Party, Transition, commitment, refund};
use secp256k1::SECP256K1;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::common::{FINALITY, rate, sat, spends_funding};

/// What the agent and the node each want for a cheque.
pub const FEE: Msat = Msat::new(5_000);
/// How many blocks later the channel before must expire.
pub const DELTA: u32 = 144;
pub const HEIGHT: u32 = 800_000;
const MARGIN: u32 = 36;
/// Of the channel from the writer to the agent; each further one expires earlier.
const EXPIRY: u32 = 900_000;
const PREKEYS: u32 = 64;

/// Where a program dies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crash {
    BeforeSave,
    BeforeEffects,
}

/// Channels are numbered from the writer's: 0 to the agent, 1 to the node, 2 to the payee. The payer of channel `i` is
/// program `i`, its payee program `i + 1`.
#[derive(Clone, Debug)]
pub enum Message {
    Update(usize, Box<Update>),
    Secret(usize, AdaptorSecret),
    StillHeld(usize, AdaptorPoint),
    Taken(usize, u64),
    /// The payee asks the agent for a sale, through whoever.
    Ask(AdaptorPoint),
}

/// What a program has in memory, and what it would find on its disk.
struct Stored<T> {
    memory: T,
    disk: Vec<u8>,
}

impl<T: Serialize + DeserializeOwned + PartialEq + Debug> Stored<T> {
    fn new(memory: T) -> Self {
        let disk = postcard::to_stdvec(&memory).expect("a state is plain data");
        Self { memory, disk }
    }

    fn read_again(&mut self) {
        self.memory = postcard::from_bytes(&self.disk).expect("what was written");
    }
}

/// How a story ended, in satoshi: what each can claim on chain, and what it gave for it.
#[derive(Debug)]
pub struct Balances {
    /// What the payee of each channel got on chain.
    pub received: [u64; 3],
    /// What of it was for other things than cheques.
    pub goods: [u64; 3],
    pub receipts: usize,
    pub cashed: usize,
}

pub struct World {
    pub channels: [Channel; 3],
    payers: [ChannelKeys; 3],
    payees: [ChannelKeys; 3],
    cheque_keys: ChequeKeys,
    drawn: [Stored<Drawn>; 3],
    held: [Stored<Held>; 3],
    book: Stored<Book>,
    prekeys: Vec<SignedPrekey>,
    pub cheques: Vec<Written>,
    pub receipts: BTreeMap<AdaptorPoint, Receipt>,
    routes: Vec<(Written, Route)>,
    pub wire: Vec<Message>,
    crashes: std::vec::IntoIter<Option<Crash>>,
    entropy: u64,
    goods: [Msat; 3],
    /// Points and secrets that the node saw on its two sides.
    pub node_saw: [Vec<Vec<u8>>; 2],
}

fn keys(byte: u8) -> ChannelKeys {
    Seed::new([byte; 64], Network::Regtest).channel_keys(KeyId::from_entropy([byte; 8]))
}

fn channel(number: u8, payer: &ChannelKeys, payee: &ChannelKeys) -> Channel {
    let party = |keys: &ChannelKeys| Party {
        funding: keys.funding(),
        session: keys.session(),
        output: ScriptBuf::new_p2tr(SECP256K1, keys.session().x_only_public_key().0, None),
    };
    let params = Params {
        network: Network::Regtest,
        funding: OutPoint { txid: Txid::from_byte_array([number; 32]), vout: 0 },
        capacity: Amount::from_sat(100_000),
        expiry: Expiry::at_height(EXPIRY - u32::from(number) * DELTA),
        fee_rate: FeeRate::from_sat_per_vb_u32(2),
        prepaid: Amount::from_sat(600),
        payer: party(payer),
        payee: party(payee),
    };
    Channel::new(params).expect("the fixture makes a channel")
}

impl World {
    /// Three open channels without a payment. Each commit takes the next crash; then there are no more.
    pub fn new(crashes: Vec<Option<Crash>>) -> Self {
        let [payers, payees] = [10, 20].map(|base| [0, 1, 2].map(|number| keys(base + number)));
        let channels = [0, 1, 2].map(|i| channel(i as u8, &payers[i], &payees[i]));
        let cheque_keys = Seed::new([30; 64], Network::Regtest).cheque_keys();
        let (book, effects) = crate::common::commit(
            Book::new([1; 8]).handle(&cheque_keys, book::Input::Issue(PREKEYS)).expect("not full"),
        );
        let Some(book::Effect::Publish(prekeys)) = effects.into_iter().next() else { panic!("no prekeys") };
        let drawn = [Kind::Cheques, Kind::Lock, Kind::Lock]
            .map(|kind| Stored::new(Drawn::new(kind, None, Msat::ZERO)));
        let held = [(); 3].map(|()| Stored::new(Held::new(None, Msat::ZERO)));
        Self {
            channels,
            payers,
            payees,
            cheque_keys,
            drawn,
            held,
            book: Stored::new(book),
            prekeys,
            cheques: Vec::new(),
            receipts: BTreeMap::new(),
            routes: Vec::new(),
            wire: Vec::new(),
            crashes: crashes.into_iter(),
            entropy: 0,
            goods: [Msat::ZERO; 3],
            node_saw: [Vec::new(), Vec::new()],
        }
    }

    fn entropy(&mut self) -> [u8; 32] {
        self.entropy += 1;
        *bitcoin::hashes::sha256::Hash::hash(&self.entropy.to_be_bytes()).as_byte_array()
    }

    // What the people do.

    /// The writer writes a cheque of so many satoshi.
    pub fn write(&mut self, amount: u64) {
        let Some(prekey) = self.prekeys.pop() else { return };
        let (salt, blinding) = (self.entropy(), self.entropy());
        let latest = Expiry::at_height(EXPIRY - DELTA);
        let draft = Draft { amount: sat(amount), memo: Memo::default(), time: 0, latest };
        let written = Written::new(draft, &self.cheque_keys.identity(), prekey, salt, &blinding)
            .expect("a prekey of the payee");
        let amount = [FEE, FEE].into_iter().fold(sat(amount), Msat::saturating_add);
        let promise = Promise { amount, point: written.point };
        // Without room, or with four open, there is no cheque.
        if self.insist_drawn(0, drawn::Input::Promise(promise)).is_ok() {
            self.cheques.push(written);
        }
    }

    /// The writer takes a cheque back.
    pub fn cancel(&mut self, which: usize) {
        if let Some(point) = self.cheque(which).map(|written| written.point) {
            let _not_open_any_more = self.insist_drawn(0, drawn::Input::Withdraw(point));
        }
    }

    /// The agent or the node does not want to keep up its lock.
    pub fn withdraw_lock(&mut self, channel: usize) {
        let lock = self.drawn[channel].memory.promises().map(|promise| promise.point).next();
        if let Some(point) = lock {
            self.insist_drawn(channel, drawn::Input::Withdraw(point)).expect("it is open");
        }
    }

    /// The payee comes online with a cheque.
    pub fn ask(&mut self, which: usize) {
        let Some(written) = self.cheque(which).cloned() else { return };
        let cheque = Box::new(written.cheque);
        let expiry = self.channels[2].params().expiry;
        let input = book::Input::Present { cheque, expiry, height: HEIGHT, margin: MARGIN };
        if let Some(book::Effect::Ask(point)) = self.book_handles(input) {
            self.wire.push(Message::Ask(point));
        }
    }

    /// What the payee's book wants done; `None` when the program died. A book is stored before it is acted on.
    fn book_handles(&mut self, input: book::Input) -> Option<book::Effect> {
        let transition = self.book.memory.handle(&self.cheque_keys, input).expect("a good cheque");
        let (crash, mut effects) = save(&mut self.book, transition, &mut self.crashes);
        if crash.is_some() {
            self.restart(3);
            return None;
        }
        effects.pop()
    }

    /// Something else is bought with a plain payment.
    pub fn pay(&mut self, channel: usize, cost: Msat) {
        let _no_room = self.insist_drawn(channel, drawn::Input::Pay { cost });
    }

    fn cheque(&self, which: usize) -> Option<&Written> {
        (!self.cheques.is_empty()).then(|| &self.cheques[which % self.cheques.len()])
    }

    pub fn restart(&mut self, program: usize) {
        if program < 3 {
            self.drawn[program].read_again();
        } else {
            self.book.read_again();
        }
        if program > 0 {
            self.held[program - 1].read_again();
            for effect in self.held[program - 1].memory.resume() {
                self.held_does(program - 1, effect);
            }
        }
        if program < 3 {
            let resumed = self.drawn[program].memory.resume(&self.channels[program], &self.payers[program]);
            for effect in resumed {
                self.drawn_does(program, effect);
            }
        }
    }

    // The machines.

    /// A person asks again when the program died before it had stored anything.
    fn insist_drawn(&mut self, channel: usize, input: drawn::Input) -> Result<(), drawn::Reject> {
        while !self.drawn_handles(channel, input.clone())? {}
        Ok(())
    }

    /// Whether the input was stored; `false`: the program died before.
    fn drawn_handles(&mut self, i: usize, input: drawn::Input) -> Result<bool, drawn::Reject> {
        let transition = self.drawn[i].memory.handle(&self.channels[i], &self.payers[i], input)?;
        let (crash, effects) = save(&mut self.drawn[i], transition, &mut self.crashes);
        match crash {
            Some(crash) => {
                self.restart(i);
                Ok(crash == Crash::BeforeEffects)
            }
            None => {
                effects.into_iter().for_each(|effect| self.drawn_does(i, effect));
                Ok(true)
            }
        }
    }

    fn drawn_does(&mut self, i: usize, effect: drawn::Effect) {
        match effect {
            drawn::Effect::Send(update) => self.wire.push(Message::Update(i, update)),
            drawn::Effect::Report(outcome) => {
                let stored = match (&outcome, i.checked_sub(1)) {
                    (Outcome::Paid(secret), None) => {
                        self.writer_gets(secret);
                        true
                    }
                    // The single secrets come from the agent.
                    (Outcome::PaidJointly(..) | Outcome::Ended(_), None) => true,
                    (Outcome::Paid(secret), Some(before)) => {
                        match self.held_handles(before, held::Input::Learned(secret.clone())) {
                            Ok(stored) => stored,
                            Err(held::Reject::Unknown) => true,
                            Err(other) => panic!("the holder refuses what its lock brought: {other}"),
                        }
                    }
                    (Outcome::PaidJointly(..), Some(_)) => panic!("one lock at a time"),
                    (Outcome::Ended(point), Some(before)) => {
                        self.held_handles(before, held::Input::Unlocked(*point)).expect("never refused")
                    }
                };
                if stored {
                    let _ = self.drawn_handles(i, drawn::Input::Noted(outcome)).expect("never refused");
                }
            }
        }
    }

    fn held_handles(&mut self, i: usize, input: held::Input) -> Result<bool, held::Reject> {
        let transition = self.held[i].memory.handle(&self.channels[i], input)?;
        let (crash, effects) = save(&mut self.held[i], transition, &mut self.crashes);
        match crash {
            Some(crash) => {
                self.restart(i + 1);
                Ok(crash == Crash::BeforeEffects)
            }
            None => {
                effects.into_iter().for_each(|effect| self.held_does(i, effect));
                Ok(true)
            }
        }
    }

    fn held_does(&mut self, i: usize, effect: held::Effect) {
        match effect {
            held::Effect::Taken(number) => self.wire.push(Message::Taken(i, number)),
            held::Effect::Lock(onward) => {
                assert_eq!(onward.channel, self.channels[i + 1].id());
                let promise = Promise { amount: onward.amount, point: onward.point };
                match self.drawn_handles(i + 1, drawn::Input::Promise(promise)) {
                    // Paid already: its outcome is on the way.
                    Ok(_) | Err(drawn::Reject::PointUsed) => {}
                    // It was not made.
                    Err(_) => {
                        let _ =
                            self.held_handles(i, held::Input::Unlocked(onward.point)).expect("never refused");
                    }
                }
            }
            held::Effect::HandOver(secret) => self.wire.push(Message::Secret(i, secret)),
            held::Effect::Authorise(_) => unreachable!("nobody is authorised in a sale"),
            held::Effect::GiveUp(..) => unreachable!("nothing is taken back by a signed word"),
        }
    }

    // The wire.

    pub fn deliver(&mut self, message: Message) {
        match message {
            Message::Update(i, update) => self.holder_gets(i, update),
            Message::Secret(i, secret) => {
                self.node_sees(i, &secret.to_bytes());
                let handled = self.drawn_handles(i, drawn::Input::Secret(secret));
                assert!(matches!(handled, Ok(_) | Err(drawn::Reject::Unknown)), "{handled:?}");
            }
            Message::StillHeld(i, point) => loop {
                match self.drawn_handles(i, drawn::Input::StillHeld(point)) {
                    // Its room was given to another since, which the holder does not count yet.
                    Err(drawn::Reject::BadTerms(_)) if i == 0 => {
                        let newest = self.cheques.iter().rev().map(|written| written.point);
                        let made = newest.filter(|other| *other != point);
                        let mut made = made.collect::<Vec<_>>().into_iter();
                        let withdrawn =
                            made.find(|other| self.insist_drawn(0, drawn::Input::Withdraw(*other)).is_ok());
                        assert!(withdrawn.is_some(), "nothing open takes the room");
                    }
                    Ok(_) | Err(_) => return,
                }
            },
            Message::Taken(i, number) => {
                let _ = self.drawn_handles(i, drawn::Input::Taken(number)).expect("never refused");
            }
            Message::Ask(point) => {
                if !self.routes.iter().any(|(written, _)| written.point == point) {
                    let tweaks = [self.entropy(), self.entropy()];
                    let tweaks = tweaks.map(|bytes| AdaptorSecret::from_bytes(&bytes).expect("random"));
                    let written = self.cheques.iter().find(|written| written.point == point);
                    let written = written.expect("asked for what was written").clone();
                    self.routes.push((written, Route::new(&point, &tweaks).expect("fresh tweaks")));
                }
                self.lock(0, point);
            }
        }
    }

    fn holder_gets(&mut self, i: usize, update: Box<Update>) {
        let before = self.held[i].memory.ledger().paid();
        for promise in &update.signed.terms.promises {
            self.node_sees(i, &promise.point.to_bytes());
        }
        match self.held_handles(i, held::Input::Take { update, cost: Msat::ZERO }) {
            Ok(_) => {
                let after = self.held[i].memory.ledger().paid();
                let more = after.checked_sub(before).expect("the claim never falls");
                self.goods[i] = self.goods[i].saturating_add(more);
            }
            Err(held::Reject::LeavesOut(point)) => self.wire.push(Message::StillHeld(i, point)),
            Err(held::Reject::ClaimFalls { .. } | held::Reject::Unsettled(_)) => {
                // It was cashed, and the payer does not know it yet.
                let resumed = self.held[i].memory.resume();
                resumed.into_iter().for_each(|effect| self.held_does(i, effect));
            }
            Err(held::Reject::Stale { .. }) => {}
            Err(other) => panic!("an honest update is refused: {other}"),
        }
        let points: Vec<AdaptorPoint> =
            self.held[i].memory.promises().map(|(promise, _)| promise.point).collect();
        for point in points {
            match i {
                0 => {}
                1 => self.lock(1, point),
                _ => self.cash(point),
            }
        }
    }

    /// The agent or the node makes a lock for a promise, if it is to be sold.
    fn lock(&mut self, i: usize, point: AdaptorPoint) {
        let leads_here = |route: &&(Written, Route)| match i {
            0 => route.0.point == point,
            _ => route.1.hops[0].point == point,
        };
        let Some((_, route)) = self.routes.iter().find(leads_here) else { return };
        let hop = route.hops[i].clone();
        let held = &self.held[i].memory;
        let Some(promise) = held.promises().map(|(promise, _)| *promise).find(|held| held.point == point)
        else {
            return;
        };
        let onward = Onward {
            held: point,
            channel: self.channels[i + 1].id(),
            point: hop.point,
            tweak: hop.tweak,
            amount: promise.amount.saturating_sub(FEE),
        };
        let params = self.channels[i + 1].params();
        let conditions = Conditions {
            expiry: params.expiry,
            paid: self.drawn[i + 1].memory.ledger().paid(),
            least: Msat::from_amount(params.prepaid).expect("600 sat"),
            delta: DELTA,
            fee: FEE,
            is_deep: true,
            height: HEIGHT,
        };
        let locked = self.held_handles(i, held::Input::Lock(onward, conditions));
        assert!(matches!(locked, Ok(_) | Err(held::Reject::Bought | held::Reject::Locked)), "{locked:?}");
    }

    fn cash(&mut self, point: AdaptorPoint) {
        let Some((written, route)) = self.routes.iter().find(|(_, route)| route.hops[1].point == point)
        else {
            return;
        };
        let (written, route) = (written.clone(), route.clone());
        let mut promised = self.held[2].memory.promises().map(|(promise, _)| *promise);
        let Some(promise) = promised.find(|promise| promise.point == point) else { return };
        drop(promised);
        let cheque = Box::new(written.cheque.clone());
        let endorsed = self.book_handles(book::Input::Endorse { cheque, offered: promise.amount });
        // A program that died finds the lock again when it comes again.
        if endorsed.is_none() {
            return;
        }
        let secret = self.book.memory.secret(&self.cheque_keys, &written.cheque).expect("endorsed");
        let secret = secret.plus(&route.payee).expect("a fresh tweak");
        let least = written.cheque.terms.amount;
        let input = held::Input::Cash { secret, least, is_deep: true, height: HEIGHT, margin: MARGIN };
        let _ = self.held_handles(2, input).expect("a lock as it was asked for");
    }

    fn writer_gets(&mut self, secret: &AdaptorSecret) {
        let receipts =
            self.cheques.iter().filter_map(|written| Some((written.point, written.receipt(secret)?)));
        let receipts: Vec<_> = receipts.collect();
        self.receipts.extend(receipts);
    }

    fn node_sees(&mut self, channel: usize, what: &[u8]) {
        if let Some(side) = channel.checked_sub(1) {
            self.node_saw[side].push(what.to_vec());
        }
    }

    // The end.

    /// Nothing is sent any more. From the payee's end on, every channel is closed by its payee with the best that it has, or
    /// refunded at the expiry when there is nothing or when the payee stays away.
    pub fn finish(&mut self, payee_stays_away: bool) -> Balances {
        self.wire.clear();
        self.crashes = Vec::new().into_iter();
        let cashed = if payee_stays_away { 0 } else { self.cashed() };
        let mut received = [0; 3];
        for i in [2, 1, 0] {
            assert_eq!(self.held[i].memory.may_close(), Ok(()), "every lock ended before");
            let best = self.held[i].memory.ledger().newest.filter(|_| i < 2 || !payee_stays_away);
            let (channel, keys) = (&self.channels[i], &self.payees[i]);
            let spend = match &best {
                Some(payment) => commitment::complete(channel, keys, payment),
                None => refund::complete(channel, &self.payers[i], rate(2)).expect("worth its fee"),
            };
            assert!(spends_funding(channel, &spend), "consensus rejects {spend:#?}");
            received[i] = Channel::paid_to(&spend, &channel.params().payee).to_sat();
            for confirmations in [0, 1, FINALITY] {
                self.sight(i, &spend, confirmations);
            }
            assert!(!self.drawn[i].memory.is_open(), "nothing is left open");
        }
        // The agent hands over each secret that it bought; who wrote the cheques gets its receipts.
        for effect in self.held[0].memory.resume() {
            let held::Effect::HandOver(secret) = effect else { panic!("{effect:?}") };
            // What the chain has told already is unknown to it by now.
            let _told = self.drawn_handles(0, drawn::Input::Secret(secret));
        }
        assert!(self.receipts.values().all(|receipt| receipt.verify().is_ok()));
        let goods = self.goods.map(|goods| goods.floor().to_sat());
        Balances { received, goods, receipts: self.receipts.len(), cashed }
    }

    fn sight(&mut self, i: usize, by: &Transaction, confirmations: u32) {
        let funding = Funding::Spent { by: by.clone().into(), confirmations };
        let sighting = Sighting { height: HEIGHT, fee_rate: rate(2), funding, locked: Vec::new() };
        let input = drawn::Input::Sighted { sighting: Box::new(sighting), finality: FINALITY };
        assert!(self.drawn_handles(i, input).expect("a look is never refused"));
    }

    /// How many cheques the payee has sold: it holds a completed signature for each.
    fn cashed(&self) -> usize {
        let cashed = self.held[2].memory.ledger().spent;
        let mut count = 0;
        let mut sum = Msat::ZERO;
        for written in &self.cheques {
            let route = self.routes.iter().find(|(other, _)| other.point == written.point);
            if route.is_some_and(|(_, route)| self.held[2].memory.has_bought(&route.hops[1].point)) {
                count += 1;
                sum = sum.saturating_add(written.cheque.terms.amount);
            }
        }
        assert_eq!(sum, cashed, "what was sold is what was earned");
        count
    }

    /// What must always hold: every holder can claim what it has been handed over for.
    pub fn check(&self) {
        for (channel, held) in self.channels.iter().zip(&self.held) {
            let ledger = held.memory.ledger();
            assert!(ledger.spent <= ledger.paid());
            if let Some(newest) = &ledger.newest {
                assert_eq!(commitment::verify(channel, newest), Ok(()));
            }
        }
        for (held, drawn) in self.held.iter().zip(&self.drawn) {
            assert!(
                held.memory.ledger().paid() <= drawn.memory.most_signed().max(drawn.memory.ledger().paid())
            );
        }
    }
}

/// Stores the next state, or dies.
fn save<T, E>(
    stored: &mut Stored<T>,
    transition: Transition<T, E>,
    crashes: &mut std::vec::IntoIter<Option<Crash>>,
) -> (Option<Crash>, Vec<E>)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let crash = crashes.next().flatten();
    let committed = transition.commit(|next| match crash {
        Some(Crash::BeforeSave) => Err(()),
        Some(Crash::BeforeEffects) | None => {
            stored.disk = postcard::to_stdvec(next).expect("a state is plain data");
            Ok(())
        }
    });
    let Ok((next, effects)) = committed else { return (crash, Vec::new()) };
    stored.memory = next;
    (crash, effects)
}
