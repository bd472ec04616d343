//! The payee's tab: what one payer has paid with words and payments, and what its calls cost.
//!
//! `paid` is the newest plain payment's total, or `base + index·unit` of the newest word. `spent` is what served calls
//! cost. A call is admitted when `spent + pending + cost ≤ paid`; its cost is pending while it runs, then spent, or free
//! again when it failed. Words and calls are counted apart, so calls may run in parallel and arrive in any order: one
//! that brings an older word than the newest needs no hashing.
//!
//! The tab lives in memory and is stored, as a whole, before an answer leaves (or, when the operator chose so, a little
//! later). What runs is not stored: after a crash it costs nothing.

mod refusal;

use serde::{Deserialize, Serialize};

use crate::amount::{DUST, Msat};
use crate::channel::Channel;
use crate::child;
use crate::commitment;
use crate::hashlock;
use crate::ledger::Ledger;
use crate::lightspeed::call::{Call, CallNumber};
use crate::lightspeed::ladder::{Ladder, RungClaim};
use crate::lightspeed::numbers::{Numbers, Standing};
pub use crate::lightspeed::tab::refusal::{BadPay, Refused};
use crate::lightspeed::terms::ChainTerms;
use crate::lightspeed::word::Word;
use crate::payment::Payment;

/// The most words that one call may be ahead of the newest: what a payee hashes for one call, 3 ms.
pub const MOST_STEPS: u32 = 65_536;
/// The most calls of one payer that run at once.
pub const MOST_RUNNING: usize = 1_024;

/// Where the payer stands on its present chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    terms: ChainTerms,
    base: Msat,
    index: u32,
    word: Word,
}

impl Position {
    fn at_the_start_of(ladder: &Ladder) -> Self {
        let terms = *ladder.terms();
        Self { terms, base: ladder.base(), index: 0, word: terms.anchor }
    }

    fn paid(&self) -> Msat {
        self.base.saturating_add(self.terms.shape.worth(self.index))
    }

    fn end(&self) -> Msat {
        self.base.saturating_add(self.terms.shape.worth(self.terms.shape.words))
    }
}

/// One payer's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tab {
    plain: Payment,
    spent: Msat,
    position: Option<Position>,
    /// A chain that is announced and not begun.
    next: Option<ChainTerms>,
    /// The highest number of a chain that was announced, taken or not.
    chains: u32,
    /// The newest rung whose word is known.
    best: Option<RungClaim>,
    numbers: Numbers,
    /// A rung's lock was not that of its word: this payer is not served any more.
    lied: bool,
}

/// What a payee can publish when it closes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// A commitment that pays it plainly.
    Plain(Payment),
    /// A rung, whose locked output it claims with a word.
    Rung(RungClaim),
}

impl Tab {
    /// A tab that goes on where the plain payments of a channel stand.
    pub fn new(plain: Payment, spent: Msat) -> Self {
        Self {
            plain,
            spent,
            position: None,
            next: None,
            chains: 0,
            best: None,
            numbers: Numbers::default(),
            lied: false,
        }
    }

    /// Everything paid.
    pub fn paid(&self) -> Msat {
        let words = self.position.map_or(Msat::ZERO, |position| position.paid());
        words.max(self.plain.total)
    }

    /// The cost of everything served.
    pub fn spent(&self) -> Msat {
        self.spent
    }

    /// The tab as a ledger of plain payments has it.
    pub fn ledger(&self) -> Ledger {
        Ledger { newest: Some(self.plain), words: self.paid(), spent: self.spent }
    }

    /// The calls that run, and those that were served.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Chain and index of the newest word.
    pub fn newest_word(&self) -> Option<(u32, u32, Word)> {
        self.position.map(|position| (position.terms.number, position.index, position.word))
    }

    /// The best that can be published.
    pub fn claim(&self) -> Claim {
        match self.best {
            Some(best) if best.is_enforceable() && best.total > self.plain.total => Claim::Rung(best),
            Some(_) | None => Claim::Plain(self.plain),
        }
    }

    /// What would be lost if the payer vanished now: what was served and no commitment covers.
    pub fn uncovered(&self) -> Msat {
        let covered = match self.claim() {
            Claim::Plain(payment) => payment.total,
            Claim::Rung(rung) => rung.total,
        };
        self.spent.saturating_sub(covered)
    }

    /// The most that this payer can ever owe uncovered on its present chain: the words between two rungs, or dust and
    /// what a claim costs.
    pub fn exposure(&self, channel: &Channel) -> Msat {
        let fee_rate = channel.params().fee_rate;
        let claim = fee_rate.checked_mul_by_weight(hashlock::claim_weight(1)).unwrap_or_default();
        let floor = Msat::from_amount(DUST + claim.max(child::cost(fee_rate))).unwrap_or_default();
        self.position
            .map_or(floor, |position| floor.max(position.terms.shape.worth(position.terms.shape.stretch())))
    }

    /// The least number that the next chain may have, and the total that it must stand on.
    ///
    /// # Errors
    /// When a chain is waiting already.
    pub fn next_chain(&self) -> Result<(u32, Msat), BadPay> {
        match (&self.next, &self.position) {
            (Some(next), _) => Err(BadPay::Waiting(next.number)),
            (None, Some(position)) => Ok((self.chains.saturating_add(1), position.end())),
            (None, None) => Ok((self.chains.saturating_add(1), self.plain.total)),
        }
    }

    /// Whether this very chain was taken and is not over. An announcement that comes again is answered as the first was, or
    /// the payer would drop a chain that waits here.
    pub fn has_taken(&self, terms: &ChainTerms) -> bool {
        self.is_current(terms.number, |taken| taken == terms)
    }

    fn is_current(&self, number: u32, holds: impl Fn(&ChainTerms) -> bool) -> bool {
        let present = self.position.as_ref().map(|position| &position.terms);
        [present, self.next.as_ref()]
            .into_iter()
            .flatten()
            .any(|taken| taken.number == number && holds(taken))
    }

    /// Whether [`Self::announce`] would take a chain. To be asked before its rungs are stored, or those of another chain under
    /// its number would be lost.
    ///
    /// # Errors
    /// When it is not the next one.
    pub fn expects(&self, ladder: &Ladder) -> Result<(), BadPay> {
        let (expected, base) = self.next_chain()?;
        let got = ladder.terms().number;
        // The number of a chain that was refused is never used again, so the payer may have skipped some.
        if got < expected || got <= self.chains {
            return Err(BadPay::Number { expected, got });
        }
        if ladder.base() != base {
            return Err(BadPay::Base { expected: base, got: ladder.base() });
        }
        Ok(())
    }

    /// Takes a verified chain. The first begins at once; another waits until the one before is paid out.
    ///
    /// # Errors
    /// When it is not the next one.
    pub fn announce(&mut self, ladder: &Ladder) -> Result<(), BadPay> {
        self.expects(ladder)?;
        self.chains = ladder.terms().number;
        match self.position {
            None => self.position = Some(Position::at_the_start_of(ladder)),
            Some(_) => self.next = Some(*ladder.terms()),
        }
        Ok(())
    }

    /// Takes note that a chain was refused. Its payer hears that and announces another, so a copy of the announcement that
    /// comes late must not be taken after all. To be stored before the refusal leaves.
    pub fn refuse_chain(&mut self, number: u32) {
        if !self.is_current(number, |_| true) {
            self.chains = self.chains.max(number);
        }
    }

    /// Takes a plain payment. It ends the chain, and voids one that was announced ahead.
    ///
    /// # Errors
    /// When it does not cover everything that was paid, is above the capacity, or is not signed.
    pub fn pay(&mut self, channel: &Channel, payment: Payment) -> Result<(), BadPay> {
        let (paid, most) = (self.paid(), channel.max_total());
        if payment.total <= paid {
            return Err(BadPay::NotIncreasing { paid, got: payment.total });
        }
        if payment.total > most {
            return Err(BadPay::OverCapacity { most, got: payment.total });
        }
        commitment::verify(channel, &payment)?;
        self.plain = payment;
        self.position = None;
        self.next = None;
        Ok(())
    }

    /// Turns to the payee's present epoch.
    pub fn begin(&mut self, epoch: u32) {
        self.numbers.begin(epoch);
    }

    /// Admits an authentic call: sets its cost aside. What its word pays counts even when the call is refused; its number
    /// is void then. `ladders` are those of the chains that are announced and not over.
    ///
    /// # Errors
    /// When it is not to be served. Then it costs nothing.
    pub fn admit<'a>(
        &mut self,
        ladders: impl IntoIterator<Item = &'a Ladder>,
        call: &Call,
        cap: Option<Msat>,
    ) -> Result<(), Refused> {
        match self.numbers.standing(call.number) {
            Standing::New => {}
            Standing::Served => return Err(Refused::Served(call.number)),
            Standing::Running => return Err(Refused::Running(call.number)),
            Standing::Void => {
                return Err(Refused::Void { number: call.number, epoch: self.numbers.epoch() });
            }
            Standing::Forgotten => {
                return Err(Refused::Forgotten { number: call.number, epoch: self.numbers.epoch() });
            }
        }
        let room = if self.numbers.running() < MOST_RUNNING { Ok(()) } else { Err(Refused::TooMany) };
        let covered =
            room.and_then(|()| self.raise(ladders, call)).and_then(|()| self.set_aside(call.cost, cap));
        match covered {
            Ok(()) => self.numbers.start(call.number.counter, call.cost),
            Err(_) => self.numbers.refuse(call.number.counter),
        }
        covered
    }

    /// Refuses an authentic call before it is admitted, for a reason that the tab does not know. Its payer hears that it
    /// is free, so a copy that comes late must not be served.
    pub fn refuse(&mut self, number: CallNumber) {
        if self.numbers.standing(number) == Standing::New {
            self.numbers.refuse(number.counter);
        }
    }

    /// What is spent in all, for a payer that has lost track; `None` while calls run. `last` is the newest number that it
    /// has sent: none up to it is served after this, so the sum stays what it is.
    pub fn reconcile(&mut self, last: CallNumber) -> Option<Msat> {
        self.numbers.refuse_up_to(last);
        (self.numbers.running() == 0).then_some(self.spent)
    }

    /// Sets more aside for a call that runs, paid by the word of another call.
    ///
    /// # Errors
    /// When it is not paid for, or no such call runs.
    pub fn top_up(&mut self, number: CallNumber, by: Msat, cap: Option<Msat>) -> Result<Msat, Refused> {
        self.set_aside(by, cap)?;
        let void = Refused::Void { number, epoch: self.numbers.epoch() };
        self.numbers.raise(number, by).ok_or(void)
    }

    fn set_aside(&self, cost: Msat, cap: Option<Msat>) -> Result<(), Refused> {
        let paid = self.paid();
        let taken = self.spent.checked_add(self.numbers.pending());
        let needed = taken.and_then(|taken| taken.checked_add(cost)).unwrap_or(Msat::new(u64::MAX));
        if needed > paid {
            return Err(Refused::Unpaid { needed, paid });
        }
        match cap {
            Some(cap) if needed > cap => Err(Refused::NotDeepEnough { cap }),
            Some(_) | None => Ok(()),
        }
    }

    /// Ends a call: served for `charged`, or failed and free. Gives what was charged, never more than was set aside.
    pub fn end(&mut self, number: CallNumber, charged: Option<Msat>) -> Msat {
        let charged = self.numbers.end(number, charged).unwrap_or(Msat::ZERO);
        self.spent = self.spent.saturating_add(charged);
        charged
    }

    /// Raises what is paid by the call's words.
    fn raise<'a>(
        &mut self,
        ladders: impl IntoIterator<Item = &'a Ladder>,
        call: &Call,
    ) -> Result<(), Refused> {
        let unknown = Refused::UnknownChain { newest: self.chains, got: call.chain };
        let position = self.position.ok_or(unknown.clone())?;
        if self.lied {
            return Err(Refused::LyingRung { chain: position.terms.number, rung: 0 });
        }
        if call.chain < position.terms.number {
            return Ok(()); // it was sent before the chain turned, and everything of its chain is paid
        }
        if call.chain == position.terms.number {
            if call.index <= position.index {
                return Ok(());
            }
            let mut ladders = ladders.into_iter();
            let ladder = ladders.find(|ladder| *ladder.terms() == position.terms).ok_or(unknown)?;
            return self.reveal(ladder, call.index, call.word);
        }
        let announced = self.next.filter(|next| next.number == call.chain).ok_or(unknown.clone())?;
        let (mut present, mut next) = (None, None);
        for ladder in ladders {
            if *ladder.terms() == position.terms {
                present = Some(ladder);
            } else if *ladder.terms() == announced {
                next = Some(ladder);
            }
        }
        let (present, next) = (present.ok_or(unknown.clone())?, next.ok_or(unknown)?);
        let words = position.terms.shape.words;
        if position.index < words {
            let last = call.last.ok_or(Refused::LastWordMissing(call.chain))?;
            self.reveal(present, words, last)?;
        }
        self.position = Some(Position::at_the_start_of(next));
        self.next = None;
        if call.index == 0 { Ok(()) } else { self.reveal(next, call.index, call.word) }
    }

    /// Hashes a word down to the newest one that is known, and checks the lock of each rung on the way. So a payer whose
    /// rung is locked with something else is found out at that rung, and has been served no further.
    fn reveal(&mut self, ladder: &Ladder, index: u32, word: Word) -> Result<(), Refused> {
        let position = self.position.as_mut().expect("a word is revealed on the present chain");
        let (shape, chain) = (position.terms.shape, position.terms.number);
        if index > shape.words {
            return Err(Refused::BeyondChain { words: shape.words, got: index });
        }
        let steps = index.saturating_sub(position.index);
        if steps > MOST_STEPS {
            return Err(Refused::TooFar { index: position.index, got: index });
        }
        let mut rung = shape.rungs_below(index);
        let lowest = shape.rungs_below(position.index);
        let (mut at, mut below) = (index, word);
        let mut newest = None;
        let mut lie = None;
        while at > position.index {
            if rung > lowest && at == shape.rung_index(rung) {
                let is_locked = ladder.rung(rung).is_some_and(|known| known.lock == below.lock());
                if !is_locked {
                    (lie, newest) = (Some(rung), None); // what is below it still counts
                } else if newest.is_none() {
                    newest = Some((rung, below));
                }
                rung -= 1;
            }
            below = below.before();
            at -= 1;
        }
        if below != position.word {
            return Err(Refused::WrongWord { chain, index });
        }
        if let Some((rung, word)) = newest {
            self.best = ladder.claim(rung, word);
        }
        match (lie, newest) {
            (None, _) => (position.index, position.word) = (index, word),
            (Some(_), Some((rung, word))) => (position.index, position.word) = (shape.rung_index(rung), word),
            (Some(_), None) => {}
        }
        match lie {
            None => Ok(()),
            Some(rung) => {
                self.lied = true;
                Err(Refused::LyingRung { chain, rung })
            }
        }
    }
}
