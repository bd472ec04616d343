//! What a chain is worth, and where its rungs are.

use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::channel::Channel;
use crate::hashlock::Delay;
use crate::lightspeed::word::Word;

/// The most rungs in a chain: what a payee verifies at most at a time, 50 µs each.
pub const MOST_RUNGS: u32 = 4_096;
/// The most words in a chain: what a payer draws at a time, 50 ns each.
pub const MOST_WORDS: u32 = 1 << 24;

/// A chain without its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// What each word pays.
    pub unit: Msat,
    /// How many words there are after the anchor.
    pub words: u32,
    /// How many of them have a commitment that can be published: the more, the less the payee risks.
    pub rungs: u32,
    /// How long the payee has to claim a published rung.
    pub delay: Delay,
}

/// Why a chain makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadShape {
    /// No words, or more than anybody should draw.
    #[error("a chain has from 1 to {MOST_WORDS} words, not {0}")]
    Words(u32),
    /// No rungs, more than words, or more than anybody should verify.
    #[error("a chain has from 1 to {MOST_RUNGS} rungs and no more than words, not {0}")]
    Rungs(u32),
    /// With a delay of zero nobody could ever take a rung back.
    #[error("a rung must be claimable for a block at least")]
    Delay,
    /// A word is worth nothing, or the chain more than will exist.
    #[error("a word worth {0} makes no chain")]
    Unit(Msat),
}

impl Shape {
    /// As much of this chain as a channel covers on top of `base`; `None` when that is no chain.
    pub fn fit(self, channel: &Channel, base: Msat) -> Option<Self> {
        let left = channel.max_total().checked_sub(base)?;
        let words = u32::try_from(left.get() / self.unit.get().max(1)).unwrap_or(u32::MAX).min(self.words);
        let shape = Self { words, rungs: self.rungs.min(words), ..self };
        shape.check().is_ok().then_some(shape)
    }

    /// Checks that the numbers make a chain.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> Result<(), BadShape> {
        if !(1..=MOST_WORDS).contains(&self.words) {
            return Err(BadShape::Words(self.words));
        }
        if !(1..=MOST_RUNGS.min(self.words)).contains(&self.rungs) {
            return Err(BadShape::Rungs(self.rungs));
        }
        if self.delay.get() == 0 {
            return Err(BadShape::Delay);
        }
        match self.unit.checked_mul(self.words.into()) {
            Some(worth) if worth > Msat::ZERO => Ok(()),
            Some(_) | None => Err(BadShape::Unit(self.unit)),
        }
    }

    /// What so many words pay. At most what [`Self::check`] has found to be countable.
    pub fn worth(&self, words: u32) -> Msat {
        Msat::new(self.unit.get().saturating_mul(words.into()))
    }

    /// How many words pay `amount`; `None` when the chain has not that many.
    pub fn words_for(&self, amount: Msat) -> Option<u32> {
        let words = amount.get().div_ceil(self.unit.get().max(1));
        u32::try_from(words).ok().filter(|words| *words <= self.words)
    }

    /// The index of a rung's word, ⌈rung · words / rungs⌉. Rung 0 is the anchor.
    pub fn rung_index(&self, rung: u32) -> u32 {
        let product = u64::from(rung) * u64::from(self.words);
        product.div_ceil(u64::from(self.rungs.max(1))).min(u64::from(self.words)) as u32
    }

    /// The highest rung whose word is not above `index`.
    pub fn rungs_below(&self, index: u32) -> u32 {
        let product = u64::from(index.min(self.words)) * u64::from(self.rungs);
        (product / u64::from(self.words.max(1))) as u32
    }

    /// The most words between two rungs.
    pub fn stretch(&self) -> u32 {
        self.words.div_ceil(self.rungs.max(1))
    }

    /// For hashing.
    pub(crate) fn to_bytes(self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(&self.unit.get().to_be_bytes());
        bytes[8..12].copy_from_slice(&self.words.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.rungs.to_be_bytes());
        bytes[16..].copy_from_slice(&self.delay.get().to_be_bytes());
        bytes
    }
}

/// A chain as the payer announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainTerms {
    /// Counts a channel's chains from 1; never used again.
    pub number: u32,
    /// Its numbers.
    pub shape: Shape,
    /// The word before the first.
    pub anchor: Word,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The rung below an index is the highest whose word is not above it.
        #[test]
        fn rungs_and_indexes_agree(words in 1..5_000_u32, rungs in 1..5_000_u32, index in 0..5_000_u32) {
            let rungs = rungs.min(words);
            let shape = Shape { unit: Msat::new(1), words, rungs, delay: Delay::blocks(1) };
            let index = index.min(words);
            let below = shape.rungs_below(index);
            prop_assert!(shape.rung_index(below) <= index);
            prop_assert!(below == rungs || shape.rung_index(below + 1) > index);
            prop_assert_eq!(shape.rung_index(rungs), words);
            prop_assert_eq!(shape.rung_index(0), 0);
            prop_assert!(below == rungs || shape.rung_index(below + 1) - shape.rung_index(below) <= shape.stretch());
        }
    }

    #[test]
    fn shapes_that_make_no_chain_are_refused() {
        let good = Shape { unit: Msat::new(10), words: 100, rungs: 10, delay: Delay::blocks(36) };
        assert_eq!(good.check(), Ok(()));
        let cases = [
            (Shape { words: 0, ..good }, BadShape::Words(0)),
            (Shape { words: MOST_WORDS + 1, ..good }, BadShape::Words(MOST_WORDS + 1)),
            (Shape { rungs: 0, ..good }, BadShape::Rungs(0)),
            (Shape { rungs: 101, ..good }, BadShape::Rungs(101)),
            (Shape { delay: Delay::blocks(0), ..good }, BadShape::Delay),
            (Shape { unit: Msat::ZERO, ..good }, BadShape::Unit(Msat::ZERO)),
            (Shape { unit: Msat::new(u64::MAX), ..good }, BadShape::Unit(Msat::new(u64::MAX))),
        ];
        for (shape, error) in cases {
            assert_eq!(shape.check(), Err(error));
        }
        assert_eq!(good.words_for(Msat::new(1)), Some(1));
        assert_eq!(good.words_for(Msat::new(1_000)), Some(100));
        assert_eq!(good.words_for(Msat::new(1_001)), None);
    }
}
