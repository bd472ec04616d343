//! The chains of words of one payee, as the payer counts them.

use serde::{Deserialize, Serialize};

use super::{Shown, Unable};
use crate::amount::Msat;
use crate::lightspeed::tab::MOST_STEPS;
use crate::lightspeed::terms::ChainTerms;

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

/// A chain that was announced and not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Next {
    terms: ChainTerms,
    base: Msat,
    /// Whether the payee has taken it.
    is_taken: bool,
}

/// The present chain, and the one after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chains {
    position: Option<Position>,
    next: Option<Next>,
    /// All chains ever announced, with what they stand on: the payee may publish a rung of any.
    all: Vec<(ChainTerms, Msat)>,
}

impl Chains {
    pub(super) fn all(&self) -> &[(ChainTerms, Msat)] {
        &self.all
    }

    /// What the words that were sent pay; nothing without a chain.
    pub(super) fn paid(&self) -> Msat {
        self.position.map_or(Msat::ZERO, |position| position.paid())
    }

    /// What will be paid when the chains that the payee has taken are used up; `None` without one.
    pub(super) fn end_of_taken(&self) -> Option<Msat> {
        match (&self.next, &self.position) {
            (Some(next), _) if next.is_taken => Some(
                next.base.checked_add(next.terms.shape.worth(next.terms.shape.words)).unwrap_or(next.base),
            ),
            (_, Some(position)) => Some(position.end()),
            (_, None) => None,
        }
    }

    pub(super) fn announced(&self) -> Option<(ChainTerms, Msat)> {
        self.next.filter(|next| !next.is_taken).map(|next| (next.terms, next.base))
    }

    /// The number of the next chain and what it stands on; the first one on `plain`.
    pub(super) fn next(&self, plain: Msat) -> Result<(u32, Msat), Unable> {
        let number = self.all.last().map_or(1, |(terms, _)| terms.number.saturating_add(1));
        match (&self.next, &self.position) {
            (Some(next), _) => Err(Unable::Waiting(next.terms.number)),
            (None, Some(position)) => Ok((number, position.end())),
            (None, None) => Ok((number, plain)),
        }
    }

    pub(super) fn announce(&mut self, terms: ChainTerms, base: Msat) {
        self.all.push((terms, base));
        self.next = Some(Next { terms, base, is_taken: false });
    }

    pub(super) fn taken(&mut self, number: u32) -> Result<(), Unable> {
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

    pub(super) fn refused(&mut self, number: u32) -> Result<(), Unable> {
        match self.next {
            Some(next) if next.terms.number == number && !next.is_taken => {
                self.next = None;
                Ok(())
            }
            Some(_) | None => Err(Unable::WrongChain(number)),
        }
    }

    /// The payee may have lost the last word of the chain before.
    pub(super) fn carry_again(&mut self) {
        if let Some(position) = &mut self.position {
            position.carries = true;
        }
    }

    /// Which word covers `total`.
    pub(super) fn reveal(&mut self, total: Msat, cost: Msat, waiting: usize) -> Result<Shown, Unable> {
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
        let last = position.before.filter(|_| position.carries);
        Ok(Shown { chain: position.terms.number, index: position.index, last, is_fresh: false })
    }

    /// Whoever was served on a chain has shown its word, and with it the last one of the chain before.
    pub(super) fn served(&mut self, chain: u32, index: u32, is_of_this_epoch: bool) {
        let position = self.position.as_mut().filter(|position| position.terms.number == chain);
        if let Some(position) = position {
            position.confirmed = position.confirmed.max(index);
            position.carries &= !is_of_this_epoch;
        }
    }

    /// The payee can have served that much only with the words for it.
    pub(super) fn reconciled(&mut self, stated: Msat) {
        if let Some(position) = &mut self.position {
            let words = position.terms.shape.words_for(stated.saturating_sub(position.base)).unwrap_or(0);
            position.confirmed = position.confirmed.max(words.min(position.index));
        }
    }
}
