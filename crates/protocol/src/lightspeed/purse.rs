//! The payer's purse: what it has revealed, what its calls cost, and the numbers it has used.
//!
//! `spent` is what answered calls cost; a call whose answer has not come is outstanding and counts in full. Each call
//! reveals just the word that covers `spent` and everything outstanding, so whatever order calls arrive in, none lacks
//! a word. Number and cost are stored before the call is sent.
//!
//! A chain that does not cover a call is left for the next one, whose rungs the payee has already. The first calls on it
//! carry the last word of the chain before, until one of them was answered.

mod batches;
mod words;

use std::collections::BTreeMap;

use bitcoin::Amount;
use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::channel::Channel;
use crate::flat::{self, BadTerms, BatchTerms};
use crate::ledger::Ledger;
use crate::lightspeed::call::CallNumber;
use crate::lightspeed::ladder::{self, BadLadder};
use crate::lightspeed::numbers::WINDOW;
use crate::lightspeed::purse::batches::Batches;
use crate::lightspeed::purse::words::Chains;
use crate::lightspeed::terms::{ChainTerms, Shape};
use crate::payment::Payment;

/// How many calls may be outstanding: half of what the payee's window holds. It bounds how many wait, not how far apart their
/// numbers are: of one that waits while more than a window of others pass, the payee may have forgotten all but a receipt.
pub const MOST_OUTSTANDING: usize = (WINDOW / 2) as usize;

/// A call whose answer has not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Outstanding {
    cost: Msat,
    chain: u32,
    index: u32,
    /// Its preimage pays for it, in flat mode.
    is_fresh: bool,
}

/// What a call shows.
#[derive(Clone, Copy, Debug)]
struct Shown {
    /// The chain or batch.
    chain: u32,
    /// The index of its word or preimage.
    index: u32,
    /// The chain and index of the word to carry besides.
    last: Option<(u32, u32)>,
    /// Whether it is a preimage that pays for no other call.
    is_fresh: bool,
}

/// One payee's account, kept by the payer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purse {
    plain: Payment,
    spent: Msat,
    epoch: u32,
    counter: u64,
    outstanding: BTreeMap<CallNumber, Outstanding>,
    pays: Pays,
}

/// What calls are paid with. The first announcement decides, for as long as the channel lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Pays {
    Words(Chains),
    Preimages(Batches),
}

/// A call to be sent: which number it has, and which words to reveal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The call's number.
    pub number: CallNumber,
    /// The most that it may cost.
    pub cost: Msat,
    /// The chain.
    pub chain: u32,
    /// The index of the word.
    pub index: u32,
    /// The chain and index of the word to carry besides.
    pub last: Option<(u32, u32)>,
}

/// Why nothing is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unable {
    /// Another chain or batch is needed first.
    #[error("what was announced does not cover this call: another chain or batch must be announced first")]
    NeedsChain,
    /// The channel cannot pay that much.
    #[error("this would make a total of {got}, but the channel can pay only {most}")]
    OverCapacity {
        /// The most that the channel can pay.
        most: Msat,
        /// What would be paid.
        got: Msat,
    },
    /// The word for this call would pay more than its sender allows.
    #[error("the word for this call would make it {got} that the seller can claim, and {most} is allowed")]
    OverAllowed {
        /// What is allowed.
        most: Msat,
        /// What would be paid.
        got: Msat,
    },
    /// Too many answers are missing.
    #[error("too many calls wait for an answer: {0}")]
    TooManyOutstanding(usize),
    /// The call is dearer than words can pay at once.
    #[error("a call of {cost} takes more words at once than the {most} that a chain pays")]
    TooDear {
        /// The call's cost.
        cost: Msat,
        /// The most that a call may cost here.
        most: Msat,
    },
    /// A chain is waiting already.
    #[error("chain {0} is announced already and not begun")]
    Waiting(u32),
    /// The first announcement decides whether a channel pays with words or with preimages.
    #[error("this channel pays in the other mode: words and preimages do not mix")]
    OtherMode,
    /// The batch makes no sense in this channel.
    #[error(transparent)]
    BadTerms(#[from] BadTerms),
    /// The batch stands on another total than what was paid.
    #[error("the batch stands on {got}, but {expected} is paid")]
    WrongBase {
        /// Everything paid, in whole satoshi.
        expected: Amount,
        /// The batch's base.
        got: Amount,
    },
    /// Not the next number, or not the chain that is waiting.
    #[error("chain {0} is not the one that is due")]
    WrongChain(u32),
    /// The chain makes no sense in this channel.
    #[error(transparent)]
    BadChain(#[from] BadLadder),
    /// The call has its answer.
    #[error("call {0:?} was answered already")]
    Answered(CallNumber),
    /// The payee claims to have charged more than the call allowed.
    #[error("the seller says that it charged {got} for a call of at most {most}")]
    Overcharged {
        /// What the call allowed.
        most: Msat,
        /// What the payee says.
        got: Msat,
    },
    /// What the payee says is spent may lack what was sent after it was asked.
    #[error("the seller was asked what is spent by the calls up to {asked:?}, and {last:?} was sent since")]
    SentSince {
        /// The newest number when it was asked.
        asked: CallNumber,
        /// The newest number.
        last: CallNumber,
    },
    /// The payee claims to have earned more than the calls allow.
    #[error("the seller says that {got} is spent; by the calls that were sent it is {most} at most")]
    WrongSum {
        /// What answered calls cost, with those outstanding.
        most: Msat,
        /// What the payee says.
        got: Msat,
    },
}

impl Purse {
    /// A purse that goes on where the plain payments of a channel stand.
    pub fn new(plain: Payment, spent: Msat) -> Self {
        Self {
            plain,
            spent,
            epoch: 0,
            counter: 0,
            outstanding: BTreeMap::new(),
            pays: Pays::Words(Chains::default()),
        }
    }

    /// Everything paid: the newest plain payment or the highest word sent.
    pub fn paid(&self) -> Msat {
        let revealed = match &self.pays {
            Pays::Words(chains) => chains.paid(),
            Pays::Preimages(batches) => batches.paid(),
        };
        revealed.max(self.plain.total)
    }

    /// What answered calls cost.
    pub fn spent(&self) -> Msat {
        self.spent
    }

    /// What calls without an answer may cost.
    pub fn outstanding(&self) -> Msat {
        self.outstanding.values().fold(Msat::ZERO, |sum, call| sum.saturating_add(call.cost))
    }

    /// The calls without an answer.
    pub fn unanswered(&self) -> impl Iterator<Item = (CallNumber, Msat)> + '_ {
        self.outstanding.iter().map(|(number, call)| (*number, call.cost))
    }

    /// The purse as a ledger of plain payments has it. What is outstanding counts as spent.
    pub fn ledger(&self) -> Ledger {
        let spent = self.spent.saturating_add(self.outstanding());
        Ledger { newest: Some(self.plain), words: self.paid(), spent }
    }

    /// The newest plain payment.
    pub fn plain(&self) -> Payment {
        self.plain
    }

    /// The epoch that calls are sent in.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The newest number that was used.
    pub fn last_number(&self) -> CallNumber {
        CallNumber { epoch: self.epoch, counter: self.counter }
    }

    /// All chains ever announced, with what they stand on.
    pub fn chains(&self) -> &[(ChainTerms, Msat)] {
        match &self.pays {
            Pays::Words(chains) => chains.all(),
            Pays::Preimages(_) => &[],
        }
    }

    /// All batches ever announced, in flat mode.
    pub fn batches(&self) -> &[BatchTerms] {
        match &self.pays {
            Pays::Words(_) => &[],
            Pays::Preimages(batches) => batches.all(),
        }
    }

    /// What can still be paid without another announcement that the payee has to take first: by the words that are left on
    /// its chains, or in flat mode by one call. Nothing without a chain or a batch, whatever was paid before.
    pub fn left(&self) -> Msat {
        match &self.pays {
            Pays::Words(chains) => {
                let Some(end) = chains.end_of_taken() else { return Msat::ZERO };
                let taken = self.spent.checked_add(self.outstanding()).unwrap_or(end);
                end.saturating_sub(taken)
            }
            Pays::Preimages(batches) => batches.left(self.spent, self.outstanding.values()),
        }
    }

    /// Whether a chain waits for the payee's answer: which, and what it stands on.
    pub fn announced(&self) -> Option<(ChainTerms, Msat)> {
        match &self.pays {
            Pays::Words(chains) => chains.announced(),
            Pays::Preimages(_) => None,
        }
    }

    /// Whether a batch waits for the payee's answer.
    pub fn announced_batch(&self) -> Option<BatchTerms> {
        match &self.pays {
            Pays::Words(_) => None,
            Pays::Preimages(batches) => batches.announced(),
        }
    }

    /// The number of the next chain and what it stands on.
    ///
    /// # Errors
    /// When a chain is waiting already, or the channel pays with preimages.
    pub fn next_chain(&self) -> Result<(u32, Msat), Unable> {
        match &self.pays {
            Pays::Words(chains) => chains.next(self.plain.total),
            Pays::Preimages(_) => Err(Unable::OtherMode),
        }
    }

    /// The longest chain of that shape that the capacity still covers; `None` when it covers none.
    pub fn fit(&self, channel: &Channel, shape: Shape) -> Option<Shape> {
        let (_, base) = self.next_chain().ok()?;
        shape.fit(channel, base)
    }

    /// The next batch of those terms, with as many outputs as the capacity still covers on top of everything paid; `None`
    /// when it covers none that is worth its fees.
    ///
    /// # Errors
    /// When a batch is waiting already, or the channel pays with words.
    pub fn fit_batch(&self, channel: &Channel, offered: &flat::Terms) -> Result<Option<BatchTerms>, Unable> {
        Ok(BatchTerms::fit(channel, self.next_batch()?, self.paid(), offered))
    }

    fn next_batch(&self) -> Result<u32, Unable> {
        match &self.pays {
            Pays::Words(chains) if chains.all().is_empty() => Ok(1),
            Pays::Words(_) => Err(Unable::OtherMode),
            Pays::Preimages(batches) => batches.next_number(),
        }
    }

    /// Takes note of a chain that is about to be announced.
    pub(crate) fn announce(&mut self, channel: &Channel, terms: ChainTerms) -> Result<Msat, Unable> {
        let (number, base) = self.next_chain()?;
        if terms.number != number {
            return Err(Unable::WrongChain(terms.number));
        }
        ladder::check(channel, &terms.shape, base)?;
        if let Pays::Words(chains) = &mut self.pays {
            chains.announce(terms, base);
        }
        Ok(base)
    }

    /// Takes note of a batch that is about to be announced. Its base is everything paid.
    pub(crate) fn announce_batch(&mut self, channel: &Channel, batch: BatchTerms) -> Result<(), Unable> {
        if batch.number != self.next_batch()? {
            return Err(Unable::WrongChain(batch.number));
        }
        let (expected, got) = (batches::base(self.paid()), batch.terms.prepaid);
        if got != expected {
            return Err(Unable::WrongBase { expected, got });
        }
        batch.terms.check(channel, 1)?;
        if matches!(self.pays, Pays::Words(_)) {
            self.pays = Pays::Preimages(Batches::default());
        }
        if let Pays::Preimages(batches) = &mut self.pays {
            batches.announce(batch);
        }
        Ok(())
    }

    /// The payee took the chain or batch, in that epoch.
    pub(crate) fn taken(&mut self, number: u32, epoch: u32) -> Result<(), Unable> {
        self.turn_to(epoch);
        match &mut self.pays {
            Pays::Words(chains) => chains.taken(number),
            Pays::Preimages(batches) => batches.taken(number),
        }
    }

    /// The payee refused the chain or batch: its number is not used again.
    pub(crate) fn refused(&mut self, number: u32) -> Result<(), Unable> {
        match &mut self.pays {
            Pays::Words(chains) => chains.refused(number),
            Pays::Preimages(batches) => batches.refused(number),
        }
    }

    /// The payee began another epoch.
    pub(crate) fn turn_to(&mut self, epoch: u32) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.counter = 0;
            match &mut self.pays {
                Pays::Words(chains) => chains.carry_again(),
                // What was served was stored: flat mode is sold in no other way.
                Pays::Preimages(_) => {}
            }
        }
    }

    /// Prepares a call of at most `cost`.
    pub(crate) fn call(&mut self, channel: &Channel, cost: Msat) -> Result<Ticket, Unable> {
        let waiting = self.outstanding.len();
        if waiting >= MOST_OUTSTANDING {
            return Err(Unable::TooManyOutstanding(waiting));
        }
        let most = channel.max_total();
        let sum = [self.outstanding(), cost].into_iter().try_fold(self.spent, Msat::checked_add);
        let total = sum.filter(|total| *total <= most);
        let total = total.ok_or(Unable::OverCapacity { most, got: sum.unwrap_or(Msat::new(u64::MAX)) })?;
        let Self { spent, outstanding, pays, .. } = self;
        let shown = match pays {
            Pays::Words(chains) => chains.reveal(total, cost, waiting)?,
            Pays::Preimages(batches) => batches.reveal(cost, *spent, outstanding.values())?,
        };
        let Shown { chain, index, last, is_fresh } = shown;
        self.counter = self.counter.saturating_add(1);
        let number = CallNumber { epoch: self.epoch, counter: self.counter };
        self.outstanding.insert(number, Outstanding { cost, chain, index, is_fresh });
        Ok(Ticket { number, cost, chain, index, last })
    }

    /// Prepares a call of no cost that lets a call without an answer cost `by` more. Its word covers that.
    pub(crate) fn top_up(
        &mut self,
        channel: &Channel,
        number: CallNumber,
        by: Msat,
    ) -> Result<Ticket, Unable> {
        if !self.outstanding.contains_key(&number) {
            return Err(Unable::Answered(number));
        }
        let mut ticket = self.call(channel, by)?;
        // What the new call reveals is for the one that runs.
        ticket.cost = Msat::ZERO;
        if let Some(call) = self.outstanding.get_mut(&ticket.number) {
            call.cost = Msat::ZERO;
        }
        if let Some(call) = self.outstanding.get_mut(&number) {
            call.cost = call.cost.saturating_add(by);
        }
        Ok(ticket)
    }

    /// A call was answered: served for `charged`, or refused and free.
    pub(crate) fn answered(&mut self, number: CallNumber, charged: Option<Msat>) -> Result<(), Unable> {
        let Some(call) = self.outstanding.get(&number).copied() else { return Ok(()) };
        let got = charged.unwrap_or(Msat::ZERO);
        if got > call.cost {
            return Err(Unable::Overcharged { most: call.cost, got });
        }
        self.outstanding.remove(&number);
        self.spent = self.spent.saturating_add(got);
        match (&mut self.pays, charged) {
            // What was served before the payee started afresh says nothing of what it has now.
            (Pays::Words(chains), Some(_)) => {
                chains.served(call.chain, call.index, number.epoch == self.epoch);
            }
            (Pays::Words(_), None) => {}
            (Pays::Preimages(batches), _) => batches.answered(&call, charged.is_some()),
        }
        Ok(())
    }

    /// The payee says what is spent in all, now that nothing up to `asked` runs any more. Never more than the calls that were sent
    /// allow. A payee that forgot what it had not stored says less than was answered; then what was answered counts.
    pub(crate) fn reconcile(&mut self, asked: CallNumber, stated: Msat) -> Result<(), Unable> {
        let last = self.last_number();
        if asked != last {
            return Err(Unable::SentSince { asked, last });
        }
        let most = self.ledger().spent;
        if stated > most {
            return Err(Unable::WrongSum { most, got: stated });
        }
        self.outstanding.clear();
        self.spent = self.spent.max(stated);
        match &mut self.pays {
            Pays::Words(chains) => chains.reconciled(stated),
            Pays::Preimages(batches) => batches.reconciled(self.spent),
        }
        Ok(())
    }
}
