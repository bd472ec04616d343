//! The payer's purse: what it has revealed, what its calls cost, and the numbers it has used.
//!
//! `spent` is what answered calls cost; a call whose answer has not come is outstanding and counts in full. Each call
//! reveals just the word that covers `spent` and everything outstanding, so whatever order calls arrive in, none lacks
//! a word. Number and cost are stored before the call is sent.
//!
//! A chain that does not cover a call is left for the next one, whose rungs the payee has already. The first calls on it
//! carry the last word of the chain before, until one of them was answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::channel::Channel;
use crate::ledger::Ledger;
use crate::lightspeed::call::CallNumber;
use crate::lightspeed::ladder::{self, BadLadder};
use crate::lightspeed::numbers::WINDOW;
use crate::lightspeed::tab::MOST_STEPS;
use crate::lightspeed::terms::{ChainTerms, Shape};
use crate::payment::Payment;

/// How many calls may be outstanding: fewer than the payee's window holds, so that each may be retried.
pub const MOST_OUTSTANDING: usize = (WINDOW / 2) as usize;

/// Where the payer stands on its present chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    terms: ChainTerms,
    base: Msat,
    /// The highest word that was sent.
    index: u32,
    /// The highest word that came with a call which was served: the payee has it.
    confirmed: u32,
    /// The number and the last index of the chain before.
    before: Option<(u32, u32)>,
    /// Whether calls carry its last word: until one on this chain was answered, and again when the payee has started
    /// afresh, since it may have lost what it had not stored.
    carries: bool,
}

impl Position {
    fn paid(&self) -> Msat {
        self.base.saturating_add(self.terms.shape.worth(self.index))
    }

    fn end(&self) -> Msat {
        self.base.saturating_add(self.terms.shape.worth(self.terms.shape.words))
    }

    /// Goes to a word, if the payee hashes that far from the newest one that it certainly has. So calls that are lost on the
    /// way never leave the payee behind for good.
    fn reach(&mut self, index: u32, waiting: usize, cost: Msat) -> Result<(), Unable> {
        if index.saturating_sub(self.confirmed) > MOST_STEPS {
            let shape = self.terms.shape;
            return Err(match waiting {
                0 => Unable::TooDear { cost, most: shape.worth(shape.words.min(MOST_STEPS)) },
                waiting => Unable::TooManyOutstanding(waiting),
            });
        }
        self.index = self.index.max(index);
        Ok(())
    }
}

/// A call whose answer has not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Outstanding {
    cost: Msat,
    chain: u32,
    index: u32,
}

/// A chain that was announced and not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Next {
    terms: ChainTerms,
    base: Msat,
    /// Whether the payee has taken it.
    is_taken: bool,
}

/// One payee's account, kept by the payer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purse {
    plain: Payment,
    spent: Msat,
    epoch: u32,
    counter: u64,
    outstanding: BTreeMap<CallNumber, Outstanding>,
    position: Option<Position>,
    next: Option<Next>,
    /// All chains ever announced, with what they stand on: the payee may publish a rung of any.
    chains: Vec<(ChainTerms, Msat)>,
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
    /// Another chain is needed first.
    #[error("the chain of words does not cover this call: another must be announced first")]
    NeedsChain,
    /// The channel cannot pay that much.
    #[error("this would make a total of {got}, but the channel can pay only {most}")]
    OverCapacity {
        /// The most that the channel can pay.
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
            position: None,
            next: None,
            chains: Vec::new(),
        }
    }

    /// Everything paid: the newest plain payment or the highest word sent.
    pub fn paid(&self) -> Msat {
        self.position.map_or(Msat::ZERO, |position| position.paid()).max(self.plain.total)
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
        &self.chains
    }

    /// What the words that are left on the chains which the payee has taken still pay. Nothing without a chain, whatever was
    /// paid before: a call needs one.
    pub fn left(&self) -> Msat {
        let end = match (&self.next, &self.position) {
            (Some(next), _) if next.is_taken => {
                next.base.checked_add(next.terms.shape.worth(next.terms.shape.words)).unwrap_or(next.base)
            }
            (_, Some(position)) => position.end(),
            (_, None) => return Msat::ZERO,
        };
        let taken = self.spent.checked_add(self.outstanding()).unwrap_or(end);
        end.saturating_sub(taken)
    }

    /// Whether a chain waits for the payee's answer: which, and what it stands on.
    pub fn announced(&self) -> Option<(ChainTerms, Msat)> {
        self.next.filter(|next| !next.is_taken).map(|next| (next.terms, next.base))
    }

    /// The number of the next chain and what it stands on.
    ///
    /// # Errors
    /// When a chain is waiting already.
    pub fn next_chain(&self) -> Result<(u32, Msat), Unable> {
        let number = self.chains.last().map_or(1, |(terms, _)| terms.number.saturating_add(1));
        match (&self.next, &self.position) {
            (Some(next), _) => Err(Unable::Waiting(next.terms.number)),
            (None, Some(position)) => Ok((number, position.end())),
            (None, None) => Ok((number, self.plain.total)),
        }
    }

    /// The longest chain of that shape that the capacity still covers; `None` when it covers none.
    pub fn fit(&self, channel: &Channel, shape: Shape) -> Option<Shape> {
        let (_, base) = self.next_chain().ok()?;
        let left = channel.max_total().checked_sub(base)?;
        let words = u32::try_from(left.get() / shape.unit.get().max(1)).unwrap_or(u32::MAX).min(shape.words);
        let shape = Shape { words, rungs: shape.rungs.min(words), ..shape };
        shape.check().is_ok().then_some(shape)
    }

    /// Takes note of a chain that is about to be announced.
    pub(crate) fn announce(&mut self, channel: &Channel, terms: ChainTerms) -> Result<Msat, Unable> {
        let (number, base) = self.next_chain()?;
        if terms.number != number {
            return Err(Unable::WrongChain(terms.number));
        }
        ladder::check(channel, &terms.shape, base)?;
        self.chains.push((terms, base));
        self.next = Some(Next { terms, base, is_taken: false });
        Ok(base)
    }

    /// The payee took the chain, in that epoch.
    pub(crate) fn taken(&mut self, number: u32, epoch: u32) -> Result<(), Unable> {
        self.turn_to(epoch);
        match &mut self.next {
            Some(next) if next.terms.number == number => next.is_taken = true,
            _ if self.position.is_some_and(|position| position.terms.number == number) => {}
            Some(_) | None => return Err(Unable::WrongChain(number)),
        }
        if self.position.is_none()
            && let Some(Next { terms, base, .. }) = self.next.take()
        {
            self.position =
                Some(Position { terms, base, index: 0, confirmed: 0, before: None, carries: false });
        }
        Ok(())
    }

    /// The payee refused the chain: its number is not used again.
    pub(crate) fn refused(&mut self, number: u32) -> Result<(), Unable> {
        match self.next {
            Some(next) if next.terms.number == number && !next.is_taken => {
                self.next = None;
                Ok(())
            }
            Some(_) | None => Err(Unable::WrongChain(number)),
        }
    }

    /// The payee began another epoch.
    pub(crate) fn turn_to(&mut self, epoch: u32) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.counter = 0;
            if let Some(position) = &mut self.position {
                position.carries = true;
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
        let mut position = self.position.ok_or(Unable::NeedsChain)?;
        if total > position.end() {
            let next = self.next.filter(|next| next.is_taken).ok_or(Unable::NeedsChain)?;
            let Next { terms, base, .. } = next;
            let last = position.terms.shape.words;
            position.reach(last, waiting, cost)?;
            let before = Some((position.terms.number, last));
            position = Position { terms, base, index: 0, confirmed: 0, before, carries: true };
        }
        let shape = position.terms.shape;
        let words = shape.words_for(total.saturating_sub(position.base));
        let words = words.ok_or(Unable::TooDear { cost, most: shape.worth(shape.words.min(MOST_STEPS)) })?;
        position.reach(words, waiting, cost)?;
        if self.next.is_some_and(|next| next.terms.number == position.terms.number) {
            self.next = None;
        }
        self.position = Some(position);
        self.counter = self.counter.saturating_add(1);
        let number = CallNumber { epoch: self.epoch, counter: self.counter };
        let (chain, index) = (position.terms.number, position.index);
        self.outstanding.insert(number, Outstanding { cost, chain, index });
        Ok(Ticket { number, cost, chain, index, last: position.before.filter(|_| position.carries) })
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
        // Whoever was served on a chain has shown its word, and with it the last one of the chain before.
        let position = self.position.as_mut().filter(|position| position.terms.number == call.chain);
        if let (Some(position), Some(_served)) = (position, charged) {
            position.confirmed = position.confirmed.max(call.index);
            // What was served before the payee started afresh says nothing of what it has now.
            position.carries &= number.epoch != self.epoch;
        }
        Ok(())
    }

    /// The payee says what is spent in all, now that nothing runs any more. Never more than the calls that were sent allow. A
    /// payee that forgot what it had not stored says less than was answered; then what was answered counts.
    pub(crate) fn reconcile(&mut self, stated: Msat) -> Result<(), Unable> {
        let most = self.ledger().spent;
        if stated > most {
            return Err(Unable::WrongSum { most, got: stated });
        }
        self.outstanding.clear();
        self.spent = self.spent.max(stated);
        // It can have served that much only with the words for it.
        if let Some(position) = &mut self.position {
            let words = position.terms.shape.words_for(stated.saturating_sub(position.base)).unwrap_or(0);
            position.confirmed = position.confirmed.max(words.min(position.index));
        }
        Ok(())
    }
}
