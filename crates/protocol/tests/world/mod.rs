//! A payer and a payee as a program would run them: each stores its state before it acts, crashes, reads its store
//! again and carries on. Between them a wire that loses, doubles and reorders, above them a [`Chain`].
//!
//! The drivers keep, beside a machine's state and in the same save, only what the machines leave to them: the payer
//! its purchases that were not served yet, the payee the items that it charged.

pub mod chain;
mod stored;

use std::collections::BTreeMap;

use bitcoin::{Amount, FeeRate, Transaction};
use chain::Chain;
use farthing_protocol::closing::{self, Answer, Proposal, PublicNonce, Settlement};
use farthing_protocol::opening::Opening;
use farthing_protocol::{Channel, Msat, Params, Payment, Transition, channel, commitment, payee, payer};
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};
use stored::Stored;

use crate::common::{FINALITY, POLICY, funded, funding_transaction, params, payee_keys, payer_keys};

/// The tip at the start.
pub const START: u32 = 899_000;
/// Close enough that a story reaches it.
pub const EXPIRY: u32 = START + 80;
/// Where the quiet end of every story begins: before the payee's margin.
pub const END: u32 = EXPIRY - POLICY.margin - 8;

/// Where a program dies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crash {
    BeforeSave,
    BeforeEffects,
}

#[derive(Clone, Debug)]
pub enum Message {
    Opening(Box<Opening>),
    Accepted(schnorr::Signature),
    Call { item: u32, cost: Msat, payment: Payment },
    Served { item: u32 },
    Settle { round: u64, settlement: Settlement, nonce: PublicNonce },
    Answer { round: u64, answer: Answer },
    Settled(Transaction),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PayerStore {
    state: payer::State,
    unserved: BTreeMap<u32, (Msat, Payment)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PayeeStore {
    state: payee::State,
    charged: BTreeMap<u32, Msat>,
}

/// What belongs to one input and stays in memory.
#[derive(Clone, Copy)]
enum Context {
    None,
    Item(u32, Msat),
    Round(u64, PublicNonce),
    /// The closing goes to the payee, too.
    HandOver,
}

/// How a story ended.
#[derive(Debug, PartialEq)]
pub struct Balances {
    pub payer: Amount,
    pub payee: Amount,
    pub payer_spent: Msat,
    pub payee_spent: Msat,
}

pub struct World {
    pub chain: Chain,
    pub wire: Vec<Message>,
    payer_setup: payer::Setup,
    payee_setup: payee::Setup,
    payer: Stored<PayerStore>,
    /// Nothing before it has accepted.
    payee: Option<Stored<PayeeStore>>,
    /// The round that the payer waits for, in memory only.
    proposal: Option<(u64, Proposal)>,
    crashes: std::vec::IntoIter<Option<Crash>>,
    entropy: u64,
    items: u32,
    /// The largest total that the payee ever stored.
    claim: Msat,
    cosigned: bool,
}

fn terms() -> Params {
    funded(Params { expiry: channel::Expiry::at_height(EXPIRY), ..params() })
}

fn agreement() -> Channel {
    Channel::new(terms()).expect("the fixture makes a channel")
}

impl World {
    /// The payer has sent its proposal. Each commit of either side takes the next crash; then there are no more.
    pub fn new(crashes: Vec<Option<Crash>>) -> Self {
        let channel = agreement();
        let funding = funding_transaction(&channel);
        let payer_setup = payer::Setup { channel, keys: payer_keys(), funding, finality: FINALITY };
        let (state, _) = crate::common::commit(payer::propose(&payer_setup));
        let mut world = Self {
            chain: Chain::at(START, agreement()),
            wire: Vec::new(),
            payer_setup,
            payee_setup: payee::Setup { channel: agreement(), keys: payee_keys(), policy: POLICY },
            payer: Stored::new(PayerStore { state, unserved: BTreeMap::new() }),
            payee: None,
            proposal: None,
            crashes: crashes.into_iter(),
            entropy: 0,
            items: 0,
            claim: Msat::ZERO,
            cosigned: false,
        };
        world.restart_payer();
        world
    }

    fn fresh(&mut self) -> u64 {
        self.entropy += 1;
        self.entropy
    }

    fn entropy(&mut self) -> [u8; 32] {
        let mut entropy = [0; 32];
        entropy[..8].copy_from_slice(&self.fresh().to_be_bytes());
        entropy
    }

    fn crash(&mut self) -> Option<Crash> {
        self.crashes.next().flatten()
    }

    // What the people and the clock do.

    /// Buys a new item. A program that died before it saved is asked again.
    pub fn buy(&mut self, cost: Msat) {
        self.items += 1;
        let item = Context::Item(self.items, cost);
        while self.payer_handles(payer::Input::Buy { cost }, item) == Ok(false) {}
    }

    pub fn close(&mut self, fee_rate: FeeRate) {
        while self.payer_handles(payer::Input::Close { fee_rate, charged: None }, Context::None) == Ok(false)
        {
        }
    }

    pub fn refuse(&mut self) {
        while self.payer_handles(payer::Input::Refused, Context::None) == Ok(false) {}
    }

    pub fn payee_closes(&mut self) {
        while self.payee.is_some() && self.payee_handles(payee::Input::Close, Context::None) == Ok(false) {}
    }

    /// One block, and a look by each.
    pub fn mine(&mut self, which: Option<usize>, seen: usize) {
        self.chain.mine(which);
        self.look(seen);
    }

    pub fn look(&mut self, seen: usize) {
        let sighting = self.chain.look(seen);
        if self.payee.is_some() {
            let looked = self.payee_handles(payee::Input::Sighted(sighting.clone()), Context::None);
            assert!(looked.is_ok(), "a look is never refused");
        }
        let looked = self.payer_handles(payer::Input::Sighted(sighting), Context::None);
        assert!(looked.is_ok(), "a look is never refused");
    }

    /// The payer asks again for everything that it paid for and did not get.
    pub fn ask_again(&mut self) {
        let unserved = self.payer.memory.unserved.clone();
        let calls = unserved.into_iter().map(|(item, (cost, payment))| Message::Call { item, cost, payment });
        self.wire.extend(calls);
    }

    pub fn restart_payer(&mut self) {
        self.proposal = None;
        self.payer.read_again();
        for effect in self.payer.memory.state.resume(&self.payer_setup) {
            self.payer_does(effect, Context::None);
        }
        self.ask_again();
    }

    pub fn restart_payee(&mut self) {
        let Some(store) = &mut self.payee else { return };
        store.read_again();
        for effect in store.memory.state.resume(&self.payee_setup) {
            self.payee_does(effect, Context::None);
        }
    }

    // The payer.

    /// Whether the input was stored; `false`: the program died before.
    fn payer_handles(&mut self, input: payer::Input, context: Context) -> Result<bool, payer::Reject> {
        let transition = self.payer.memory.state.handle(&self.payer_setup, input)?;
        let crash = self.crash();
        let mut store = self.payer.memory.clone();
        let saved = save(transition, crash, |next| {
            if let Context::Item(item, cost) = context {
                let payment = next.ledger().newest.expect("whoever buys has paid");
                store.unserved.insert(item, (cost, payment));
            }
            store.state = next.clone();
        });
        let Ok(effects) = saved else {
            self.restart_payer();
            return Ok(false);
        };
        self.payer.save(store);
        if crash == Some(Crash::BeforeEffects) {
            self.restart_payer();
            return Ok(true);
        }
        for effect in effects {
            self.payer_does(effect, context);
        }
        Ok(true)
    }

    fn payer_does(&mut self, effect: payer::Effect, context: Context) {
        match (effect, context) {
            (payer::Effect::Propose(opening), _) => self.wire.push(Message::Opening(opening)),
            (payer::Effect::ReleaseCoins, _) => assert!(!self.chain.has_funding(), "the coins are spent"),
            (payer::Effect::Pay(payment), Context::Item(item, cost)) => {
                assert_eq!(commitment::verify(&self.payer_setup.channel, &payment), Ok(()));
                self.wire.push(Message::Call { item, cost, payment });
            }
            (payer::Effect::Pay(payment), Context::None | Context::Round(..) | Context::HandOver) => {
                panic!("pays {payment:?} for nothing")
            }
            (
                effect @ (payer::Effect::Announce(..)
                | payer::Effect::AnnounceBatch(_)
                | payer::Effect::Call(_)),
                _,
            ) => {
                panic!("{effect:?} of a channel that pays for pieces")
            }
            (payer::Effect::ProposeClosing(settlement), _) => {
                let (round, entropy) = (self.fresh(), self.entropy());
                let proposal =
                    Proposal::new(&self.payer_setup.channel, &self.payer_setup.keys, settlement, entropy)
                        .expect("what the machine settles makes a transaction");
                let nonce = proposal.public_nonce();
                self.wire.push(Message::Settle { round, settlement, nonce });
                self.proposal = Some((round, proposal));
            }
            (payer::Effect::Broadcast(transaction), context) => {
                self.chain.broadcast(&transaction);
                if let Context::HandOver = context {
                    self.wire.push(Message::Settled(transaction));
                }
            }
        }
    }

    // The payee.

    fn payee_handles(&mut self, input: payee::Input, context: Context) -> Result<bool, payee::Reject> {
        let store = &self.payee.as_ref().expect("it accepted").memory;
        let transition = store.state.handle(&self.payee_setup, input)?;
        let mut store = store.clone();
        let crash = self.crash();
        let saved = save(transition, crash, |next| {
            if let Context::Item(item, cost) = context {
                assert_eq!(store.charged.insert(item, cost), None, "charged twice");
            }
            store.state = next.clone();
        });
        let Ok(effects) = saved else {
            self.restart_payee();
            return Ok(false);
        };
        self.payee.as_mut().expect("it accepted").save(store);
        if crash == Some(Crash::BeforeEffects) {
            self.restart_payee();
            return Ok(true);
        }
        for effect in effects {
            self.payee_does(effect, context);
        }
        Ok(true)
    }

    fn payee_does(&mut self, effect: payee::Effect, context: Context) {
        match (effect, context) {
            (payee::Effect::Accept(signature), _) => self.wire.push(Message::Accepted(signature)),
            (payee::Effect::Serve { cost }, Context::Item(item, asked)) => {
                assert!(!self.cosigned, "serves after it has signed a closing");
                assert_eq!(cost, asked);
                self.wire.push(Message::Served { item });
            }
            (payee::Effect::Cosign(settlement), Context::Round(round, nonce)) => {
                self.cosigned = true;
                let (spent, paid) = self.payee_spent_and_paid();
                assert!(settlement.to_payee >= closing::due(spent, paid), "signs away what it earned");
                let entropy = self.entropy();
                let (channel, keys) = (&self.payee_setup.channel, &self.payee_setup.keys);
                let answer = closing::cosign(channel, keys, &settlement, &nonce, entropy)
                    .expect("what the machine settles makes a transaction");
                self.wire.push(Message::Answer { round, answer });
            }
            (payee::Effect::Publish(publication), _) => {
                let transaction = publication.commitment;
                let (_, paid) = self.payee_spent_and_paid();
                assert_eq!(self.paid_to_payee(&transaction), paid.floor(), "the newest total");
                self.chain.broadcast(&transaction);
            }
            (payee::Effect::Broadcast(transaction), _) => self.chain.broadcast(&transaction),
            (
                effect @ (payee::Effect::Serve { .. }
                | payee::Effect::Answer
                | payee::Effect::Spread { .. }
                | payee::Effect::Cosign(_)),
                _,
            ) => {
                panic!("{effect:?}")
            }
        }
    }

    // The wire.

    pub fn deliver(&mut self, message: Message) {
        match message {
            Message::Opening(opening) => self.payee_gets_opening(&opening),
            Message::Call { item, cost, payment } => self.payee_gets_call(item, cost, payment),
            Message::Settle { round, settlement, nonce } => {
                let height = self.chain.height;
                let input = payee::Input::Settle { settlement, height };
                let refused = self.payee_handles(input, Context::Round(round, nonce)).err();
                let excused = matches!(refused, None | Some(payee::Reject::NotOpen(_)));
                assert!(excused, "an honest closing is refused: {refused:?}");
            }
            Message::Settled(transaction) => {
                let settled = self.payee_handles(payee::Input::Settled { transaction }, Context::None);
                assert!(matches!(settled, Ok(_) | Err(payee::Reject::WrongClosing)));
            }
            Message::Accepted(signature) => {
                let accepted = self.payer_handles(payer::Input::Accepted(signature), Context::None);
                assert!(accepted.is_ok());
            }
            Message::Served { item } => {
                let mut store = self.payer.memory.clone();
                store.unserved.remove(&item);
                self.payer.save(store);
            }
            Message::Answer { round, answer } => self.payer_gets_answer(round, &answer),
        }
    }

    fn payee_gets_opening(&mut self, opening: &Opening) {
        assert_eq!(opening.params, terms());
        if self.payee.is_some() {
            return self.payee_does(payee::acceptance(&self.payee_setup), Context::None);
        }
        let transition = payee::accept(&self.payee_setup, &opening.signature).expect("the payer signed");
        let crash = self.crash();
        let mut state = None;
        let Ok(effects) = save(transition, crash, |next| state = Some(next.clone())) else { return };
        let state = state.expect("it was saved");
        self.payee = Some(Stored::new(PayeeStore { state, charged: BTreeMap::new() }));
        if crash == Some(Crash::BeforeEffects) {
            return self.restart_payee();
        }
        for effect in effects {
            self.payee_does(effect, Context::None);
        }
    }

    /// An item that was charged is served again, and not charged again.
    fn payee_gets_call(&mut self, item: u32, cost: Msat, payment: Payment) {
        let Some(store) = &self.payee else { return };
        if store.memory.charged.contains_key(&item) {
            return self.wire.push(Message::Served { item });
        }
        let input = payee::Input::Charge { payment: Some(payment), cost };
        let refused = self.payee_handles(input, Context::Item(item, cost)).err();
        let excused =
            matches!(refused, None | Some(payee::Reject::NotOpen(_) | payee::Reject::NotDeepEnough { .. }));
        assert!(excused, "an honest payment is refused: {refused:?}");
    }

    fn payer_gets_answer(&mut self, round: u64, answer: &Answer) {
        let Some((waiting, proposal)) = self.proposal.take() else { return };
        if waiting != round {
            self.proposal = Some((waiting, proposal));
            return;
        }
        let transaction = proposal
            .complete(&self.payer_setup.channel, &self.payer_setup.keys, answer)
            .expect("an honest answer fits");
        let refused =
            self.payer_handles(payer::Input::Countersigned { transaction }, Context::HandOver).err();
        let excused = matches!(refused, None | Some(payer::Reject::WrongClosing));
        assert!(excused, "an honest closing is refused: {refused:?}");
    }

    // What must always hold.

    fn payee_spent_and_paid(&self) -> (Msat, Msat) {
        let ledger = self.payee.as_ref().map(|store| store.memory.state.ledger()).unwrap_or_default();
        (ledger.spent, ledger.paid())
    }

    fn paid_to_payee(&self, transaction: &Transaction) -> Amount {
        Channel::paid_to(transaction, &self.payee_setup.channel.params().payee)
    }

    pub fn check(&mut self) {
        let (spent, paid) = self.payee_spent_and_paid();
        let payer = self.payer.memory.state.ledger();
        assert!(spent <= paid, "serves what was not paid for: {spent} of {paid}");
        assert!(paid <= payer.paid(), "claims more than was signed: {paid} of {}", payer.paid());
        assert!(payer.spent <= payer.paid());
        assert!(paid >= self.claim, "the claim fell from {} to {paid}", self.claim);
        self.claim = paid;

        let Some(store) = &self.payee else { return };
        let charged: Msat = store.memory.charged.values().copied().sum();
        assert_eq!(spent, charged, "every item is charged once");
        if let Some(newest) = store.memory.state.ledger().newest {
            let (channel, keys) = (&self.payee_setup.channel, &self.payee_setup.keys);
            let commitment = commitment::complete(channel, keys, &newest);
            assert!(self.paid_to_payee(&commitment) >= paid.floor());
            self.chain.judge(&commitment);
        }
    }

    pub fn payer_awaits_acceptance(&self) -> bool {
        matches!(self.payer.memory.state, payer::State::AwaitingAcceptance)
    }

    pub fn has_unserved(&self) -> bool {
        !self.payer.memory.unserved.is_empty()
    }

    /// Both machines are done.
    pub fn is_over(&self) -> bool {
        let payer = matches!(self.payer.memory.state, payer::State::Abandoned | payer::State::Closed(_));
        let payee = self.payee.as_ref().map(|store| &store.memory.state);
        payer && matches!(payee, None | Some(payee::State::Closed(_)))
    }

    /// What the chain gave to whom. Both machines know it.
    pub fn balances(&self) -> Option<Balances> {
        let by = self.chain.spent_by()?;
        let params = self.payer_setup.channel.params();
        let [payer, payee] = [&params.payer, &params.payee].map(|party| Channel::paid_to(by, party));
        let payer::State::Closed(closed) = &self.payer.memory.state else { panic!("the payer is not done") };
        assert_eq!((closed.ending.txid, closed.ending.received), (by.compute_txid(), payer));
        if let Some(payee::State::Closed(closed)) = self.payee.as_ref().map(|store| &store.memory.state) {
            // Without an ending it had nothing to claim.
            assert!(closed.ending.is_none_or(|ending| ending.received == payee));
        }
        let (payee_spent, _) = self.payee_spent_and_paid();
        Some(Balances { payer, payee, payer_spent: self.payer.memory.state.ledger().spent, payee_spent })
    }

    /// What is due to the payee for what it served.
    pub fn due(&self) -> Amount {
        let (spent, paid) = self.payee_spent_and_paid();
        closing::due(spent, paid)
    }

    pub fn payer_paid(&self) -> Msat {
        self.payer.memory.state.ledger().paid()
    }
}

/// The program died.
struct Died;

/// Commits, and hands the next state to `store` while the effects are still locked up.
fn save<S, E>(
    transition: Transition<S, E>,
    crash: Option<Crash>,
    mut store: impl FnMut(&S),
) -> Result<Vec<E>, Died> {
    let committed = transition.commit(|next| match crash {
        Some(Crash::BeforeSave) => Err(Died),
        Some(Crash::BeforeEffects) | None => {
            store(next);
            Ok(())
        }
    });
    committed.map(|(_, effects)| effects)
}
