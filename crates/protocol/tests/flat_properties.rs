//! Whatever the wire loses, doubles and reorders, and whoever crashes: calls paid with preimages never stall, an honest call
//! is never refused for want of money, each served call is charged once, and the channel's money can all be spent.

mod common;

use std::collections::BTreeMap;

use common::call_story::PREPAID;
use common::flat_story::*;
use common::payee_story::Payee;
use common::payer_story::Payer;
use common::*;
use farthing_protocol::flat::BatchTerms;
use farthing_protocol::lightspeed::purse::{Purse, Unable};
use farthing_protocol::lightspeed::tab::{Claim, Refused};
use farthing_protocol::lightspeed::{Call, CallNumber, Tab};
use farthing_protocol::payer::call::Input;
use farthing_protocol::payer::{Effect, Reject};
use farthing_protocol::{Channel, Msat, payee, payer};
use proptest::collection::vec;
use proptest::prelude::*;

const UNIT: u64 = 2_000_000;

#[derive(Clone)]
enum Up {
    Batch(BatchTerms),
    Call(Call),
    Sum(CallNumber),
}

#[derive(Clone)]
enum Down {
    Taken { batch: u32, epoch: u32 },
    Refused(u32),
    Served(CallNumber, Msat),
    Free(CallNumber, u32),
    Forgotten(u32),
    Spent(CallNumber, Msat),
}

#[derive(Clone, Debug)]
enum Action {
    Call(u64),
    DeliverUp { which: usize, refuse: bool },
    DeliverDown(usize),
    LoseUp(usize),
    LoseDown(usize),
    DoubleDown(usize),
    Finish { which: usize, charged: Option<u64> },
    AskAgain,
    AskForTheSum,
    RestartPayer,
    CrashPayee,
}

fn action() -> impl Strategy<Value = Action> {
    let cost = prop_oneof![1 => Just(0), 3 => 1..UNIT, 3 => Just(UNIT)];
    let charged = prop_oneof![1 => Just(None), 6 => Just(Some(UNIT)), 2 => (0..UNIT).prop_map(Some)];
    prop_oneof![
        16 => cost.prop_map(Action::Call),
        20 => (any::<usize>(), prop::bool::weighted(0.1))
            .prop_map(|(which, refuse)| Action::DeliverUp { which, refuse }),
        14 => any::<usize>().prop_map(Action::DeliverDown),
        3 => any::<usize>().prop_map(Action::LoseUp),
        3 => any::<usize>().prop_map(Action::LoseDown),
        2 => any::<usize>().prop_map(Action::DoubleDown),
        14 => (any::<usize>(), charged).prop_map(|(which, charged)| Action::Finish { which, charged }),
        2 => Just(Action::AskAgain),
        3 => Just(Action::AskForTheSum),
        1 => Just(Action::RestartPayer),
        2 => Just(Action::CrashPayee),
    ]
}

struct World {
    payer: Payer,
    /// In memory, and as it was stored before the last answer.
    tab: Tab,
    disk: Vec<u8>,
    epoch: u32,
    running: Vec<CallNumber>,
    /// What the payer sends again until it is answered.
    log: BTreeMap<CallNumber, Call>,
    up: Vec<Up>,
    down: Vec<Down>,
}

impl World {
    fn new() -> Self {
        let tab = Tab::new(payment(PREPAID), Msat::ZERO);
        let mut world = Self {
            payer: Payer::open(),
            disk: Vec::new(),
            tab,
            epoch: 0,
            running: Vec::new(),
            log: BTreeMap::new(),
            up: Vec::new(),
            down: Vec::new(),
        };
        world.store();
        world.crash();
        world
    }

    fn store(&mut self) {
        self.disk = postcard::to_stdvec(&self.tab).expect("every tab has an encoding");
    }

    /// A new process of the payee's: nothing but what was stored.
    fn crash(&mut self) {
        self.tab = postcard::from_bytes(&self.disk).expect("what was written");
        self.running.clear();
        self.epoch += 1;
        self.tab.begin(self.epoch);
        self.store();
    }

    fn purse(&self) -> Option<&Purse> {
        self.payer.state.purse()
    }

    fn input(&mut self, input: Input) -> Result<Vec<Effect>, Unable> {
        let input = payer::Input::Call(input);
        match self.payer.state.handle(&self.payer.setup, input) {
            Ok(transition) => {
                let (state, effects) = commit(transition);
                self.payer.state = state;
                Ok(effects)
            }
            Err(Reject::Call(unable)) => Err(unable),
            Err(Reject::PaysForPieces) => Err(Unable::NeedsChain),
            Err(other) => panic!("{other}"),
        }
    }

    /// Sends a call, or the batch that it needs first. Whether it did anything.
    fn call(&mut self, cost: Msat) -> bool {
        match self.input(Input::call(cost)) {
            Ok(effects) => {
                let [Effect::Call(ticket)] = effects[..] else { panic!("a call, not {effects:?}") };
                let batches = self.purse().expect("it pays for calls").batches();
                let batch = *batches.iter().find(|batch| batch.number == ticket.chain).expect("announced");
                let call = call_of(&batch, ticket.number, ticket.cost, ticket.index);
                self.log.insert(ticket.number, call);
                self.up.push(Up::Call(call));
                true
            }
            Err(Unable::NeedsChain) => self.announce(),
            Err(Unable::OverCapacity { .. } | Unable::TooDear { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    }

    fn announce(&mut self) -> bool {
        let channel = &self.payer.setup.channel;
        let fit = match self.purse() {
            Some(purse) => match purse.fit_batch(channel, &TERMS) {
                Ok(fit) => fit,
                Err(Unable::Waiting(_)) => return false,
                Err(other) => panic!("{other}"),
            },
            None => BatchTerms::fit(channel, 1, PREPAID, &TERMS),
        };
        let Some(batch) = fit else { return false };
        let effects = self.input(Input::AnnounceBatch(batch)).expect("it fits");
        assert_eq!(effects, [Effect::AnnounceBatch(batch)]);
        self.up.push(Up::Batch(batch));
        true
    }

    fn ask_again(&mut self) {
        self.up.extend(self.log.values().copied().map(Up::Call));
        self.up.extend(self.purse().and_then(Purse::announced_batch).map(Up::Batch));
    }

    fn ask_for_the_sum(&mut self) {
        self.up.extend(self.purse().map(|purse| Up::Sum(purse.last_number())));
    }

    fn deliver_up(&mut self, which: usize, refuse: bool) {
        if self.up.is_empty() {
            return;
        }
        let which = which % self.up.len();
        match self.up.remove(which) {
            Up::Batch(batch) => {
                let number = batch.number;
                let is_taken = self.tab.has_taken_batch(&batch)
                    || (!refuse && self.tab.take_batch(verified(batch)).is_ok());
                if !is_taken {
                    self.tab.refuse_chain(number);
                }
                self.store();
                let (batch, epoch) = (number, self.epoch);
                self.down.push(if is_taken { Down::Taken { batch, epoch } } else { Down::Refused(number) });
            }
            Up::Call(call) => match self.tab.admit([], &call, None) {
                Ok(()) => self.running.push(call.number),
                Err(Refused::Running(_)) => {}
                Err(Refused::Served(number)) => {
                    let charged = self.tab.numbers().other_cost(number).unwrap_or(call.cost);
                    self.down.push(Down::Served(number, charged));
                }
                Err(Refused::Void { number, .. }) => self.down.push(Down::Free(number, self.epoch)),
                Err(Refused::Forgotten { .. }) => self.down.push(Down::Forgotten(self.epoch)),
                Err(other) => panic!("an honest call is refused: {other}"),
            },
            Up::Sum(last) => {
                let spent = self.tab.reconcile(last);
                self.store();
                self.down.extend(spent.map(|spent| Down::Spent(last, spent)));
            }
        }
    }

    fn finish(&mut self, which: usize, charged: Option<Msat>) {
        if self.running.is_empty() {
            return;
        }
        let number = self.running.remove(which % self.running.len());
        let cost = self.tab.end(number, charged);
        self.store();
        self.down.push(match charged {
            Some(_) => Down::Served(number, cost),
            None => Down::Free(number, self.epoch),
        });
    }

    fn deliver_down(&mut self, which: usize) {
        if self.down.is_empty() {
            return;
        }
        let which = which % self.down.len();
        let heard = match self.down.remove(which) {
            Down::Taken { batch, epoch } => self.input(Input::Taken { chain: batch, epoch }),
            Down::Refused(batch) => self.input(Input::Refused { chain: batch }),
            Down::Served(number, charged) => {
                self.log.remove(&number);
                self.input(Input::Answered { number, charged: Some(charged) })
            }
            Down::Free(number, epoch) => {
                self.log.remove(&number);
                self.input(Input::Epoch(epoch)).expect("an epoch is always heard");
                self.input(Input::Answered { number, charged: None })
            }
            Down::Forgotten(epoch) => self.input(Input::Epoch(epoch)),
            Down::Spent(last, spent) => match self.input(Input::Reconcile { last, spent }) {
                Err(Unable::SentSince { .. }) => Ok(Vec::new()),
                heard => heard.inspect(|_| self.log.clear()),
            },
        };
        match heard {
            Ok(_) | Err(Unable::WrongChain(_)) => {} // a copy of an answer that came before
            Err(other) => panic!("an honest payee is refused: {other}"),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Call(cost) => drop(self.call(Msat::new(cost))),
            Action::DeliverUp { which, refuse } => self.deliver_up(which, refuse),
            Action::DeliverDown(which) => self.deliver_down(which),
            Action::LoseUp(which) if !self.up.is_empty() => {
                let which = which % self.up.len();
                self.up.swap_remove(which);
            }
            Action::LoseDown(which) if !self.down.is_empty() => {
                let which = which % self.down.len();
                self.down.swap_remove(which);
            }
            Action::DoubleDown(which) if !self.down.is_empty() => {
                let copy = self.down[which % self.down.len()].clone();
                self.down.push(copy);
            }
            Action::LoseUp(_) | Action::LoseDown(_) | Action::DoubleDown(_) => {}
            Action::Finish { which, charged } => self.finish(which, charged.map(Msat::new)),
            Action::AskAgain => self.ask_again(),
            Action::AskForTheSum => self.ask_for_the_sum(),
            Action::RestartPayer => {
                let stored = postcard::to_stdvec(&self.payer.state).expect("every state has an encoding");
                self.payer.state = postcard::from_bytes(&stored).expect("what was written");
                self.ask_again();
            }
            Action::CrashPayee => self.crash(),
        }
    }

    /// The wire is good now: until every call is answered and every batch is taken or refused.
    fn settle(&mut self) {
        for round in 0..10 {
            while !self.up.is_empty() || !self.down.is_empty() || !self.running.is_empty() {
                self.deliver_up(0, false);
                self.finish(0, Some(Msat::new(UNIT)));
                self.deliver_down(0);
            }
            let waits = self.purse().is_some_and(|purse| purse.announced_batch().is_some());
            if self.log.is_empty() && !waits {
                return;
            }
            if round > 2 {
                self.ask_for_the_sum(); // what is left now is what nobody remembers
            } else {
                self.ask_again();
            }
        }
        panic!("it stalls: {:?}", self.payer.state);
    }

    /// What must hold after every step.
    fn check(&self) {
        let ledger = self.payer.state.ledger();
        let tab = &self.tab;
        let taken = tab.spent().saturating_add(tab.numbers().pending());
        assert!(taken <= tab.paid(), "serves what was not paid for");
        assert!(tab.paid() <= ledger.paid().max(PREPAID), "has preimages that were not sent");
        assert!(tab.spent() <= ledger.spent, "charged more than was sent");
        let channel = &self.payer.setup.channel;
        assert!(tab.uncovered(channel) <= tab.exposure(channel), "more at stake than was said");
        assert!(ledger.paid() <= self.payer.setup.channel.max_total());
    }

    /// The payee closes alone: consensus takes what it publishes, and that pays everything that was revealed.
    fn judge(&self) {
        let channel = &self.payer.setup.channel;
        let stored: Tab = postcard::from_bytes(&self.disk).expect("what was written");
        match stored.claim() {
            Claim::Plain(newest) => assert_eq!(newest.total, stored.paid()),
            Claim::Rung(_) => panic!("no words in flat mode"),
            Claim::Batch(batch) => {
                let (commitment, _) = batch.commitment(channel, &payee_keys()).expect("a batch");
                assert_valid(channel, &commitment);
                assert_eq!(batch.paid(), stored.paid());
                let base = Channel::paid_to(&commitment, &channel.params().payee);
                assert_eq!(base, batch.terms().terms.prepaid);
                let (payments, signature, outputs) = batch.micropayment(channel).expect("a batch");
                payments.verify(channel, &signature).expect("it was verified when it was taken");
                let opens = |(index, preimage): (u32, farthing_protocol::lightspeed::Word)| {
                    let preimage = farthing_protocol::flat::Preimage::from_bytes(*preimage.as_bytes());
                    outputs.locks().opens(index, &preimage)
                };
                assert!(batch.preimages().all(opens));
            }
        }
        let mut payee = Payee::with(PREPAID, Msat::ZERO);
        payee.takes(payee::Input::Fold(Box::new(stored)));
        assert_eq!(payee.takes(payee::Input::Close).len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_never_stalls_and_all_the_money_can_be_spent(actions in vec(action(), 0..160)) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
            world.check();
        }
        world.settle();
        world.check();
        prop_assert_eq!(world.payer.state.ledger().spent, world.tab.spent());
        world.judge();
        // Calls until nothing is left.
        while world.call(Msat::new(UNIT)) {
            world.settle();
            world.check();
        }
        prop_assert_eq!(world.payer.state.ledger().spent, world.tab.spent());
        let most = world.payer.setup.channel.max_total();
        let unspent = most.saturating_sub(world.tab.spent());
        // Three outputs are the fewest that are worth their fees.
        prop_assert!(unspent < Msat::new(4 * UNIT), "{unspent} cannot be spent");
        world.judge();
    }
}
