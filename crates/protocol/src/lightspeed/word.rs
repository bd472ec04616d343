//! Words: a hash chain in which each word proves all that were revealed before it (PayWord, Rivest and Shamir, 1996).
//!
//! The payer draws the last word `w_N` and hashes back: `w_{i-1} = H(w_i)`, down to the anchor `w_0`, which the payee
//! gets first. Revealing `w_i` pays for `i` words; the payee hashes it forward to the last word it has.
//!
//! **`H` is not the hash of the scripts.** A rung is locked with `SHA256(w_i)` and handed over long before `w_i` is due.
//! Were `H` plain SHA-256, that lock would *be* the word `w_{i-1}`. So `H` is a tagged SHA-256 (BIP340), whose tag is
//! absorbed once: one compression a step.

use std::fmt;
use std::sync::LazyLock;

use bitcoin::hashes::{Hash, sha256};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::channel::ChannelId;
use crate::keys::ChannelKeys;
use crate::lightspeed::terms::ChainTerms;
use crate::tagged;

static STEP: LazyLock<sha256::HashEngine> = LazyLock::new(|| tagged::engine("farthing/word"));

/// One word of a chain. Worth money until the payee has it, so it is never printed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word([u8; 32]);

impl Word {
    /// A word as it was sent or stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `w_{i-1}` of `w_i`.
    pub fn before(&self) -> Self {
        Self(tagged::finish::<64>(STEP.clone(), &self.0))
    }

    /// `w_{i-steps}` of `w_i`.
    pub fn back(&self, steps: u32) -> Self {
        (0..steps).fold(*self, |word, _| word.before())
    }

    /// What a script is locked with that this word opens: its plain SHA-256.
    pub fn lock(&self) -> [u8; 32] {
        sha256::Hash::hash(&self.0).to_byte_array()
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Word(…)")
    }
}

/// The payer's way through a chain. It goes forward, and hashing goes back; so it keeps the words of all rungs, and those
/// of one stretch between two rungs.
pub struct Words {
    terms: ChainTerms,
    /// The word of each rung, the anchor before the first.
    rungs: Vec<Word>,
    /// The words after rung `stretch.0`, up to the next one.
    stretch: (u32, Vec<Word>),
}

impl Drop for Words {
    fn drop(&mut self) {
        self.rungs.iter_mut().chain(&mut self.stretch.1).for_each(|word| word.0.zeroize());
    }
}

impl Words {
    /// Draws the whole chain from the channel's keys: 50 ns a word. The last word is bound to the channel and to the
    /// chain's number and shape, so no two chains share a word.
    pub fn draw(keys: &ChannelKeys, channel: ChannelId, shape: &super::terms::Shape, number: u32) -> Self {
        let number_bytes = number.to_be_bytes();
        let shape_bytes = shape.to_bytes();
        let last =
            tagged::hash("farthing/chain", &[&keys.words, channel.as_bytes(), &number_bytes, &shape_bytes]);
        let mut word = Word(last);
        let mut rungs = vec![word; shape.rungs as usize + 1];
        let mut index = shape.words;
        for rung in (0..=shape.rungs).rev() {
            let at = shape.rung_index(rung);
            word = word.back(index - at);
            index = at;
            rungs[rung as usize] = word;
        }
        let terms = ChainTerms { number, shape: *shape, anchor: rungs[0] };
        Self { terms, rungs, stretch: (u32::MAX, Vec::new()) }
    }

    /// The chain's terms, with its anchor.
    pub fn terms(&self) -> &ChainTerms {
        &self.terms
    }

    /// The word of a rung; rung 0 is the anchor.
    pub(crate) fn rung(&self, rung: u32) -> Option<&Word> {
        self.rungs.get(rung as usize)
    }

    /// Word `index`, or `None` beyond the chain's end.
    pub fn word(&mut self, index: u32) -> Option<Word> {
        let shape = self.terms.shape;
        if index > shape.words {
            return None;
        }
        let below = shape.rungs_below(index);
        let at = shape.rung_index(below);
        if index == at {
            return Some(self.rungs[below as usize]);
        }
        if self.stretch.0 != below {
            let next = shape.rung_index(below + 1);
            let mut word = self.rungs[below as usize + 1];
            let mut words = Vec::with_capacity((next - at) as usize);
            for _ in at + 1..next {
                word = word.before();
                words.push(word);
            }
            words.reverse();
            self.stretch = (below, words);
        }
        self.stretch.1.get((index - at - 1) as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Msat;
    use crate::hashlock::Delay;
    use crate::lightspeed::terms::Shape;
    use crate::testing;

    fn shape(words: u32, rungs: u32) -> Shape {
        Shape { unit: Msat::new(10), words, rungs, delay: Delay::blocks(36) }
    }

    #[test]
    fn every_word_leads_to_the_one_before_down_to_the_anchor() {
        let channel = testing::channel();
        for (words, rungs) in [(1, 1), (10, 3), (100, 100), (1_000, 7)] {
            let mut chain = Words::draw(&testing::payer_keys(), channel.id(), &shape(words, rungs), 1);
            let mut last = chain.terms().anchor;
            assert_eq!(chain.word(0), Some(last));
            for index in 1..=words {
                let word = chain.word(index).unwrap();
                assert_eq!(word.before(), last, "{index} of {words} with {rungs} rungs");
                last = word;
            }
            assert_eq!(chain.word(words + 1), None);
            assert_eq!(chain.word(words).unwrap().back(words), chain.terms().anchor);
        }
    }

    #[test]
    fn a_lock_is_no_word() {
        let channel = testing::channel();
        let mut chain = Words::draw(&testing::payer_keys(), channel.id(), &shape(100, 10), 1);
        for index in 2..=100 {
            let lock = chain.word(index).unwrap().lock();
            let twice = sha256::Hash::hash(&lock).to_byte_array();
            for lower in 0..index {
                let word = chain.word(lower).unwrap();
                assert_ne!(*word.as_bytes(), lock);
                assert_ne!(*word.as_bytes(), twice);
            }
        }
    }

    #[test]
    fn chains_share_no_words() {
        let id = testing::channel().id();
        let anchor = |keys: &ChannelKeys, id, shape: &Shape, number| {
            Words::draw(keys, id, shape, number).terms().anchor
        };
        let (payer, payee) = (testing::payer_keys(), testing::payee_keys());
        let first = anchor(&payer, id, &shape(100, 10), 1);
        assert_eq!(first, anchor(&payer, id, &shape(100, 10), 1));
        assert_ne!(first, anchor(&payer, id, &shape(100, 10), 2));
        assert_ne!(first, anchor(&payer, id, &shape(101, 10), 1));
        assert_ne!(first, anchor(&payee, id, &shape(100, 10), 1));
        assert_ne!(first, anchor(&payer, ChannelId::from_bytes([1; 32]), &shape(100, 10), 1));
    }

    #[test]
    fn a_word_is_not_printed() {
        assert_eq!(format!("{:?}", Word::from_bytes([7; 32])), "Word(…)");
    }
}
