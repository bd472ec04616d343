//! The chains of words of one payer, as the payee counts them.

use serde::{Deserialize, Serialize};

use super::{BadPay, MOST_STEPS, MOST_WRONG_WORDS, Refused};
use crate::amount::Msat;
use crate::lightspeed::call::Call;
use crate::lightspeed::ladder::{Ladder, RungClaim};
use crate::lightspeed::terms::ChainTerms;
use crate::lightspeed::word::Word;

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

/// The present chain, and the one after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chains {
    position: Option<Position>,
    /// A chain that is announced and not begun.
    next: Option<ChainTerms>,
    /// The newest rung whose word is known.
    best: Option<RungClaim>,
    /// A rung's lock was not that of its word: this payer is not served any more.
    lied: bool,
    /// How many words came that are none of the chain's.
    wrong: u8,
}

impl Chains {
    /// Whether no chain was ever taken.
    pub(super) fn is_new(&self) -> bool {
        *self == Self::default()
    }

    /// What words have paid; nothing without a chain.
    pub(super) fn paid(&self) -> Msat {
        self.position.map_or(Msat::ZERO, |position| position.paid())
    }

    pub(super) fn newest_word(&self) -> Option<(u32, u32, Word)> {
        self.position.map(|position| (position.terms.number, position.index, position.word))
    }

    pub(super) fn best(&self) -> Option<RungClaim> {
        self.best
    }

    /// What is paid when the present chain is used up; `None` without one.
    pub(super) fn end(&self) -> Result<Option<Msat>, BadPay> {
        match self.next {
            Some(next) => Err(BadPay::Waiting(next.number)),
            None => Ok(self.position.map(|position| position.end())),
        }
    }

    pub(super) fn between_rungs(&self) -> Msat {
        self.position.map_or(Msat::ZERO, |position| {
            let shape = position.terms.shape;
            shape.worth(shape.stretch())
        })
    }

    pub(super) fn is_current(&self, number: u32, holds: impl Fn(&ChainTerms) -> bool) -> bool {
        let present = self.position.as_ref().map(|position| &position.terms);
        [present, self.next.as_ref()]
            .into_iter()
            .flatten()
            .any(|taken| taken.number == number && holds(taken))
    }

    /// The first begins at once; another waits until the one before is paid out.
    pub(super) fn take(&mut self, ladder: &Ladder) {
        match self.position {
            None => self.position = Some(Position::at_the_start_of(ladder)),
            Some(_) => self.next = Some(*ladder.terms()),
        }
    }

    /// A plain payment ends the chain, and voids one that was announced ahead.
    pub(super) fn end_all(&mut self) {
        self.position = None;
        self.next = None;
    }

    /// Raises what is paid by the call's words.
    pub(super) fn raise<'a>(
        &mut self,
        ladders: impl IntoIterator<Item = &'a Ladder>,
        call: &Call,
        unknown: Refused,
    ) -> Result<(), Refused> {
        let position = self.position.ok_or(unknown.clone())?;
        if self.lied {
            return Err(Refused::LyingRung { chain: position.terms.number, rung: 0 });
        }
        if call.chain < position.terms.number {
            return Ok(()); // it was sent before the chain turned, and everything of its chain is paid
        }
        if call.chain == position.terms.number && call.index <= position.index {
            return Ok(());
        }
        if self.wrong >= MOST_WRONG_WORDS {
            return Err(Refused::TooManyWrongWords);
        }
        if call.chain == position.terms.number {
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
            self.wrong = self.wrong.saturating_add(1);
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
