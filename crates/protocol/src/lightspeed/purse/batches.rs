//! The batches of one payee, as the payer counts them: the flat mode ([`crate::flat`]).
//!
//! A preimage pays one unit, so a call reveals one at most, and only when the *certain* credit does not cover it. Certain is
//! what the payee has for sure: the base, and a unit for each preimage that came with a call which was served. A preimage
//! whose call was not served comes again with the next call that needs one: whether the payee has it or not, it pays for
//! that call and for no other. One whose call was forgotten does not; the next batch's base covers it, and so it is credit
//! once more.

use std::collections::BTreeSet;

use bitcoin::Amount;
use serde::{Deserialize, Serialize};

use super::{Outstanding, Shown, Unable};
use crate::amount::Msat;
use crate::flat::BatchTerms;

/// Where the payer stands on its present batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    batch: BatchTerms,
    /// How many preimages were sent: those of the first outputs.
    sent: u32,
    /// Those of them whose calls were not served.
    free: BTreeSet<u32>,
    /// What the payee has for sure.
    certain: Msat,
}

/// The present batch, and the one that is announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batches {
    position: Option<Position>,
    /// Announced and not answered. Meanwhile no preimage of the present batch is sent, or the base would not cover it.
    next: Option<BatchTerms>,
    /// All batches ever announced: the payee may publish the commitment of any.
    all: Vec<BatchTerms>,
}

impl Batches {
    pub(super) fn all(&self) -> &[BatchTerms] {
        &self.all
    }

    /// The base, and a unit for each preimage sent; nothing without a batch.
    pub(super) fn paid(&self) -> Msat {
        self.position.as_ref().map_or(Msat::ZERO, |position| position.batch.worth(position.sent))
    }

    pub(super) fn announced(&self) -> Option<BatchTerms> {
        self.next
    }

    /// The number of the next batch.
    pub(super) fn next_number(&self) -> Result<u32, Unable> {
        match self.next {
            Some(next) => Err(Unable::Waiting(next.number)),
            None => Ok(self.all.last().map_or(1, |batch| batch.number.saturating_add(1))),
        }
    }

    pub(super) fn announce(&mut self, batch: BatchTerms) {
        self.all.push(batch);
        self.next = Some(batch);
    }

    pub(super) fn taken(&mut self, number: u32) -> Result<(), Unable> {
        match self.next {
            Some(batch) if batch.number == number => {
                let (free, certain) = (BTreeSet::new(), batch.base());
                self.position = Some(Position { batch, sent: 0, free, certain });
                self.next = None;
                Ok(())
            }
            Some(_) | None if self.position.as_ref().is_some_and(|at| at.batch.number == number) => Ok(()),
            Some(_) | None => Err(Unable::WrongChain(number)),
        }
    }

    pub(super) fn refused(&mut self, number: u32) -> Result<(), Unable> {
        match self.next {
            Some(batch) if batch.number == number => {
                self.next = None;
                Ok(())
            }
            Some(_) | None => Err(Unable::WrongChain(number)),
        }
    }

    /// The most that one call may cost now.
    pub(super) fn left<'a>(&self, spent: Msat, outstanding: impl Iterator<Item = &'a Outstanding>) -> Msat {
        match (&self.next, &self.position) {
            (None, Some(position)) => position.credit(spent, outstanding).saturating_add(position.one_more()),
            (Some(_), _) | (None, None) => Msat::ZERO,
        }
    }

    /// Which preimage a call of that cost carries.
    pub(super) fn reveal<'a>(
        &mut self,
        cost: Msat,
        spent: Msat,
        outstanding: impl Iterator<Item = &'a Outstanding> + Clone,
    ) -> Result<Shown, Unable> {
        if self.next.is_some() {
            return Err(Unable::NeedsChain);
        }
        let position = self.position.as_mut().ok_or(Unable::NeedsChain)?;
        let credit = position.credit(spent, outstanding.clone());
        if cost <= credit && position.sent > 0 {
            // One that the payee should have by now.
            let (chain, index) = (position.batch.number, position.sent - 1);
            return Ok(Shown { chain, index, last: None, is_fresh: false });
        }
        if cost <= credit.saturating_add(position.one_more())
            && let Some(index) = position.next_preimage()
        {
            return Ok(Shown { chain: position.batch.number, index, last: None, is_fresh: true });
        }
        // On the next batch everything that was sent is certain.
        let waiting = outstanding.fold(spent, |sum, call| sum.saturating_add(call.cost));
        let credit = position.batch.worth(position.sent).saturating_sub(waiting);
        let most = credit.saturating_add(position.batch.unit());
        Err(if cost <= most { Unable::NeedsChain } else { Unable::TooDear { cost, most } })
    }

    /// A call was answered: served, so the payee has its preimage, or not, and then that pays for another call.
    pub(super) fn answered(&mut self, call: &Outstanding, was_served: bool) {
        let position = self.position.as_mut().filter(|position| position.batch.number == call.chain);
        let Some(position) = position.filter(|_| call.is_fresh) else { return };
        if was_served {
            position.certain = position.certain.saturating_add(position.batch.unit());
        } else {
            position.free.insert(call.index);
        }
    }

    /// The payee has served that much, and can have done so only with the preimages for it.
    pub(super) fn reconciled(&mut self, spent: Msat) {
        if let Some(position) = &mut self.position {
            position.certain = position.certain.max(spent);
        }
    }
}

impl Position {
    /// What the payee surely has beyond the calls that were sent, whichever of them arrive.
    fn credit<'a>(&self, spent: Msat, outstanding: impl Iterator<Item = &'a Outstanding>) -> Msat {
        let taken = outstanding.fold(spent, |sum, call| {
            let brings =
                if call.is_fresh && call.chain == self.batch.number { self.batch.unit() } else { Msat::ZERO };
            sum.saturating_add(call.cost.saturating_sub(brings))
        });
        self.certain.saturating_sub(taken)
    }

    /// What the next preimage pays.
    fn one_more(&self) -> Msat {
        let is_left = self.sent < self.batch.terms.outputs || !self.free.is_empty();
        if is_left { self.batch.unit() } else { Msat::ZERO }
    }

    /// One that pays for no call yet, whether it was sent before or not.
    fn next_preimage(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop_first() {
            return Some(index);
        }
        let index = (self.sent < self.batch.terms.outputs).then_some(self.sent)?;
        self.sent += 1;
        Some(index)
    }
}

/// The base that a batch must have: everything paid, up to whole satoshi.
pub(super) fn base(paid: Msat) -> Amount {
    paid.ceil()
}
