//! Chains of words in the channel of the stories, for a payee and a payer that trade calls.

use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::tab::Refused;
use farthing_protocol::lightspeed::{Call, CallNumber, ChainTerms, Ladder, Rung, Shape, Tab, Words, ladder};
use farthing_protocol::payer::call;
use farthing_protocol::{Msat, payee, payer};

use super::payee_story::Payee;
use super::payer_story::Payer;
use super::*;

/// What the payee needs to claim a rung.
pub const LEAST_DELAY: u16 = 36;
/// 50 words of 10 sat, and every tenth has a rung.
pub const SHAPE: Shape =
    Shape { unit: Msat::new(10_000), words: 50, rungs: 5, delay: Delay::blocks(LEAST_DELAY) };
/// What the first chain stands on.
pub const PREPAID: Msat = Msat::new(600_000);

pub fn words(shape: Shape, number: u32) -> Words {
    Words::draw(&payer_keys(), FIXTURE.0.id(), &shape, number)
}

pub fn terms(shape: Shape, number: u32) -> ChainTerms {
    *words(shape, number).terms()
}

pub fn rungs(shape: Shape, number: u32, base: Msat) -> Vec<Rung> {
    ladder::sign(&FIXTURE.0, &payer_keys(), &words(shape, number), base).expect("the chain fits")
}

pub fn ladder(shape: Shape, number: u32, base: Msat) -> Ladder {
    let (terms, rungs) = (terms(shape, number), rungs(shape, number, base));
    Ladder::verify(&FIXTURE.0, terms, base, rungs, LEAST_DELAY).expect("the payer signed")
}

pub fn number(epoch: u32, counter: u64) -> CallNumber {
    CallNumber { epoch, counter }
}

/// A payee's tab with the ladders of its chains.
pub struct Counter {
    pub tab: Tab,
    pub ladders: Vec<Ladder>,
}

impl Counter {
    /// In epoch 1, with chain 1 of that shape on the prepayment.
    pub fn of(shape: Shape) -> Self {
        Self::with(ladder(shape, 1, PREPAID))
    }

    pub fn with(ladder: Ladder) -> Self {
        let mut tab = Tab::new(payment(PREPAID), Msat::ZERO);
        tab.begin(1);
        let mut counter = Self { tab, ladders: Vec::new() };
        counter.takes(ladder);
        counter
    }

    pub fn takes(&mut self, ladder: Ladder) {
        self.tab.announce(&ladder).expect("the next chain");
        self.ladders.push(ladder);
    }

    /// And the next chain of that shape ahead of time.
    pub fn and_next(mut self, shape: Shape) -> Self {
        let (number, base) = self.tab.next_chain().expect("no chain waits");
        self.takes(ladder(shape, number, base));
        self
    }

    fn shape(&self, chain: u32) -> Shape {
        let ladder = self.ladders.iter().find(|ladder| ladder.terms().number == chain);
        ladder.expect("it was announced").terms().shape
    }

    /// An honest call of this epoch, without the last word of the chain before.
    pub fn call(&self, counter: u64, chain: u32, index: u32, cost: Msat) -> Call {
        let word = words(self.shape(chain), chain).word(index).expect("on the chain");
        let number = number(self.tab.numbers().epoch(), counter);
        Call { channel: FIXTURE.0.id(), number, cost, chain, index, word, last: None }
    }

    /// With that last word, of the chain before.
    pub fn carrying(&self, call: Call) -> Call {
        let before = call.chain - 1;
        let shape = self.shape(before);
        Call { last: words(shape, before).word(shape.words), ..call }
    }

    pub fn admits(&mut self, call: &Call) {
        self.tab.admit(&self.ladders, call, None).expect("an honest call");
    }

    /// Admitted, and charged what it may cost.
    pub fn serves(&mut self, call: &Call) {
        self.admits(call);
        assert_eq!(self.tab.end(call.number, Some(call.cost)), call.cost);
    }

    /// Refused, at no cost.
    pub fn refuses(&mut self, call: &Call) -> Refused {
        let before = (self.tab.spent(), self.tab.numbers().pending());
        let refused = self.tab.admit(&self.ladders, call, None).expect_err("a call that does not fit");
        assert_eq!((self.tab.spent(), self.tab.numbers().pending()), before, "a refused call costs nothing");
        refused
    }
}

/// A payee that is open and serves calls; chain 2 waits.
pub fn payee_of_calls() -> Payee {
    let mut payee = Payee::with(PREPAID, Msat::ZERO);
    let mut counter = Counter::of(SHAPE).and_next(SHAPE);
    counter.tab.begin(7);
    counter.serves(&counter.call(3, 1, 23, sat(829)));
    // This one cost more than it stated.
    counter.admits(&counter.call(4, 1, 23, Msat::ZERO));
    counter.tab.top_up(number(7, 4), sat(1), None).expect("it is paid");
    counter.tab.end(number(7, 4), Some(sat(1)));
    payee.takes(payee::Input::Fold(Box::new(counter.tab)));
    payee
}

impl Payer {
    /// What the payee says is spent by all calls that were sent.
    pub fn sum(&self, spent: Msat) -> call::Input {
        let last = self.state.purse().expect("it pays for calls").last_number();
        call::Input::Reconcile { last, spent }
    }

    pub fn calls(&mut self, input: call::Input) -> Vec<payer::Effect> {
        self.takes(payer::Input::Call(input))
    }
}

/// A payer that is open and calls: one call was answered, one was not, and chain 2 is announced.
pub fn payer_of_calls() -> Payer {
    let mut payer = Payer::open();
    payer.calls(call::Input::Announce(terms(SHAPE, 1)));
    payer.calls(call::Input::Taken { chain: 1, epoch: 7 });
    payer.calls(call::Input::call(sat(830)));
    payer.calls(call::Input::Answered { number: number(7, 1), charged: Some(sat(829)) });
    payer.calls(call::Input::call(Msat::new(31_234)));
    payer.calls(call::Input::Announce(terms(SHAPE, 2)));
    payer
}
