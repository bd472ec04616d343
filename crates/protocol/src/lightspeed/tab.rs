//! The payee's tab: what one payer has paid with words and payments, and what its calls cost.
//!
//! `paid` is the newest plain payment's total, or `base + index·unit` of the newest word, or in flat mode
//! ([`crate::flat`]) `base + revealed·unit` of the newest batch. `spent` is what served calls
//! cost. A call is admitted when `spent + pending + cost ≤ paid`; its cost is pending while it runs, then spent, or free
//! again when it failed. Words and calls are counted apart, so calls may run in parallel and arrive in any order: one
//! that brings an older word than the newest needs no hashing.
//!
//! The tab lives in memory and is stored, as a whole, before an answer leaves (or, when the operator chose so, a little
//! later). What runs is not stored: after a crash it costs nothing.

mod refusal;
mod words;

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::channel::Channel;
use crate::commitment;
use crate::flat::{Batch, BatchTerms};
use crate::ledger::Ledger;
use crate::lightspeed::call::{Call, CallNumber};
use crate::lightspeed::ladder::{Ladder, RungClaim};
use crate::lightspeed::numbers::{Charged, Numbers, Standing};
pub use crate::lightspeed::tab::refusal::{BadPay, Refused};
use crate::lightspeed::tab::words::Chains;
use crate::lightspeed::terms::ChainTerms;
use crate::lightspeed::word::Word;
use crate::payment::Payment;

/// The most words that one call may be ahead of the newest: what a payee hashes for one call, 3 ms.
pub const MOST_STEPS: u32 = 65_536;
/// How many words that are none of its chain's a payer may send before no further one is looked at.
pub const MOST_WRONG_WORDS: u8 = 8;
/// The most calls of one payer that run at once.
pub const MOST_RUNNING: usize = 1_024;

/// One payer's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tab {
    plain: Payment,
    spent: Msat,
    pays: Pays,
    /// The highest number of a chain or a batch that was announced, taken or not.
    chains: u32,
    numbers: Numbers,
}

/// What calls are paid with. The first announcement decides, for as long as the channel lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "a tab is boxed where states are kept, and words are the rule")]
enum Pays {
    /// The words of chains.
    Words(Chains),
    /// The preimages of the newest batch; none before the first, and after a plain payment.
    Preimages(Option<Box<Batch>>),
}

/// What a payee can publish when it closes alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// A commitment that pays it plainly.
    Plain(Payment),
    /// A rung, whose locked output it claims with a word.
    Rung(RungClaim),
    /// The commitment of a batch, whose outputs it claims with preimages.
    Batch(Box<Batch>),
}

impl Tab {
    /// A tab that goes on where the plain payments of a channel stand.
    pub fn new(plain: Payment, spent: Msat) -> Self {
        Self { plain, spent, pays: Pays::Words(Chains::default()), chains: 0, numbers: Numbers::default() }
    }

    /// Everything paid.
    pub fn paid(&self) -> Msat {
        let revealed = match &self.pays {
            Pays::Words(chains) => chains.paid(),
            Pays::Preimages(batch) => batch.as_ref().map_or(Msat::ZERO, |batch| batch.paid()),
        };
        revealed.max(self.plain.total)
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
        match &self.pays {
            Pays::Words(chains) => chains.newest_word(),
            Pays::Preimages(_) => None,
        }
    }

    /// The batch whose preimages pay, in flat mode.
    pub fn batch(&self) -> Option<&Batch> {
        match &self.pays {
            Pays::Words(_) => None,
            Pays::Preimages(batch) => batch.as_deref(),
        }
    }

    /// The most that can be published. A rung's claim costs a fee, which may be more than it pays above the plain payment: which
    /// of the two is published is decided by [`crate::payee::Publication::best`], at the fee rate of that moment.
    pub fn claim(&self) -> Claim {
        match &self.pays {
            Pays::Words(chains) => match chains.best() {
                Some(best) if best.is_enforceable() && best.total > self.plain.total => Claim::Rung(best),
                Some(_) | None => Claim::Plain(self.plain),
            },
            Pays::Preimages(Some(batch)) if batch.paid() > self.plain.total => Claim::Batch(batch.clone()),
            Pays::Preimages(_) => Claim::Plain(self.plain),
        }
    }

    /// What closing alone brings at the channel's own fee rate: the plain payment, which pays that rate itself, or a rung less
    /// the cost of its claim, whichever is more. In flat mode the base alone: the outputs of few preimages cost more than
    /// they bring.
    pub fn net(&self, channel: &Channel) -> Msat {
        match self.claim() {
            Claim::Plain(payment) => payment.total,
            Claim::Rung(rung) => {
                rung.net(channel.params().fee_rate).unwrap_or_default().max(self.plain.total)
            }
            Claim::Batch(batch) => batch.terms().base(),
        }
    }

    /// What would be lost if the payer vanished now: what was served and closing alone does not bring.
    pub fn uncovered(&self, channel: &Channel) -> Msat {
        self.spent.saturating_sub(self.net(channel))
    }

    /// The most that this payer can ever owe uncovered, at the channel's own fee rate: the words between two rungs of its
    /// present chain, and what a claim costs. In flat mode all outputs of the batch; [`crate::flat::Costs::break_even`] says
    /// how many of them have to be revealed before they are worth their fees.
    pub fn exposure(&self, channel: &Channel) -> Msat {
        match &self.pays {
            Pays::Words(chains) => {
                let claim = Msat::from_amount(RungClaim::cost(channel.params().fee_rate)).unwrap_or_default();
                chains.between_rungs().saturating_add(claim)
            }
            Pays::Preimages(batch) => batch.as_ref().map_or(Msat::ZERO, |batch| {
                let BatchTerms { terms, .. } = batch.terms();
                terms.locked().and_then(Msat::from_amount).unwrap_or_default()
            }),
        }
    }

    /// The least number that the next chain may have, and the total that it must stand on.
    ///
    /// # Errors
    /// When a chain is waiting already, or the channel pays with preimages.
    pub fn next_chain(&self) -> Result<(u32, Msat), BadPay> {
        match &self.pays {
            Pays::Words(chains) => {
                Ok((self.chains.saturating_add(1), chains.end()?.unwrap_or(self.plain.total)))
            }
            Pays::Preimages(_) => Err(BadPay::OtherMode),
        }
    }

    /// Whether this very chain was taken and is not over. An announcement that comes again is answered as the first was, or
    /// the payer would drop a chain that waits here.
    pub fn has_taken(&self, terms: &ChainTerms) -> bool {
        match &self.pays {
            Pays::Words(chains) => chains.is_current(terms.number, |taken| taken == terms),
            Pays::Preimages(_) => false,
        }
    }

    /// Whether the batch of these terms is the present one: its announcement comes again.
    pub fn has_taken_batch(&self, terms: &BatchTerms) -> bool {
        self.batch().is_some_and(|batch| batch.terms() == terms)
    }

    fn is_current(&self, number: u32) -> bool {
        match &self.pays {
            Pays::Words(chains) => chains.is_current(number, |_| true),
            Pays::Preimages(batch) => batch.as_ref().is_some_and(|batch| batch.terms().number == number),
        }
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
        if let Pays::Words(chains) = &mut self.pays {
            chains.take(ladder);
        }
        self.chains = ladder.terms().number;
        Ok(())
    }

    /// Takes a verified batch, at once in the place of the one before: its base covers everything that was revealed.
    ///
    /// # Errors
    /// When it is not the next one, its base does not cover what was paid, or the channel pays with words.
    pub fn take_batch(&mut self, batch: Batch) -> Result<(), BadPay> {
        let BatchTerms { number: got, .. } = *batch.terms();
        if matches!(&self.pays, Pays::Words(chains) if !chains.is_new()) {
            return Err(BadPay::OtherMode);
        }
        let expected = self.chains.saturating_add(1);
        if got < expected {
            return Err(BadPay::Number { expected, got });
        }
        let (paid, base) = (self.paid(), batch.terms().base());
        if base < paid {
            return Err(BadPay::Base { expected: paid, got: base });
        }
        self.chains = got;
        self.pays = Pays::Preimages(Some(Box::new(batch)));
        Ok(())
    }

    /// Takes note that a chain was refused. Its payer hears that and announces another, so a copy of the announcement that
    /// comes late must not be taken after all. To be stored before the refusal leaves.
    pub fn refuse_chain(&mut self, number: u32) {
        if !self.is_current(number) {
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
        match &mut self.pays {
            Pays::Words(chains) => chains.end_all(),
            Pays::Preimages(batch) => *batch = None,
        }
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
        self.check_new(call.number)?;
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
    ///
    /// # Errors
    /// When the number is not new: what became of it is what its payer is to hear instead.
    pub fn refuse(&mut self, number: CallNumber) -> Result<(), Refused> {
        self.check_new(number)?;
        self.numbers.refuse(number.counter);
        Ok(())
    }

    fn check_new(&self, number: CallNumber) -> Result<(), Refused> {
        let epoch = self.numbers.epoch();
        match self.numbers.standing(number) {
            Standing::New => Ok(()),
            Standing::Served => Err(Refused::Served(number)),
            Standing::Running => Err(Refused::Running(number)),
            Standing::Void => Err(Refused::Void { number, epoch }),
            Standing::Forgotten => Err(Refused::Forgotten { number, epoch }),
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

    /// Charges a call for what it has answered so far, never more than was set aside. It counts as served from then on, so its
    /// payer gets a receipt for that much even if this payee crashes before its end.
    pub fn settle(&mut self, number: CallNumber, so_far: Msat) {
        if let Some(Charged { more, .. }) = self.numbers.settle(number, so_far) {
            self.spent = self.spent.saturating_add(more);
        }
    }

    /// Ends a call: served for `charged`, or failed and free. Gives what was charged, never more than was set aside, nor less
    /// than it was charged while it ran.
    pub fn end(&mut self, number: CallNumber, charged: Option<Msat>) -> Msat {
        let Some(Charged { total, more }) = self.numbers.end(number, charged) else { return Msat::ZERO };
        self.spent = self.spent.saturating_add(more);
        total
    }

    /// Raises what is paid by what the call reveals.
    fn raise<'a>(
        &mut self,
        ladders: impl IntoIterator<Item = &'a Ladder>,
        call: &Call,
    ) -> Result<(), Refused> {
        let unknown = Refused::UnknownChain { newest: self.chains, got: call.chain };
        match &mut self.pays {
            Pays::Words(chains) => chains.raise(ladders, call, unknown),
            Pays::Preimages(batch) => {
                let batch = batch.as_mut().ok_or(unknown.clone())?;
                match call.chain.cmp(&batch.terms().number) {
                    // It was sent before this batch was taken, whose base covers all of the one before.
                    Ordering::Less => Ok(()),
                    Ordering::Equal => Ok(batch.reveal(call.index, call.word)?),
                    Ordering::Greater => Err(unknown),
                }
            }
        }
    }
}
