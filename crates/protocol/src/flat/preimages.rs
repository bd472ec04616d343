//! Preimages: N independent secrets, one for each call, and the locks that a payee gets of them ahead of time.
//!
//! Preimage i is a tagged hash of a secret, the channel, a batch number and i: the payer stores no more than how far
//! it is, and what one call reveals says nothing about the others. Unlike the words of a hash chain they are
//! independent, so calls may be lost or come in any order.

use std::collections::HashSet;

use bitcoin::hashes::{Hash, sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::channel::ChannelId;
use crate::flat::micropayment::MOST_OUTPUTS;
use crate::flat::terms::Terms;
use crate::keys::ChannelKeys;
use crate::tagged;

const TAG: &str = "farthing/flat/preimage";
const SECRET: &str = "farthing/flat/secret";

/// Opens one output. Worth money until the payee has it: neither `Clone` nor `Debug`, and wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Preimage([u8; 32]);

impl Preimage {
    /// A preimage as it was sent or stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What a script is locked with that this opens: its plain SHA-256.
    pub fn lock(&self) -> [u8; 32] {
        sha256::Hash::hash(&self.0).to_byte_array()
    }
}

/// The payer's preimages of one batch. Neither `Clone` nor `Debug`; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Preimages {
    secret: [u8; 32],
    #[zeroize(skip)]
    channel: ChannelId,
    #[zeroize(skip)]
    batch: u32,
}

impl Preimages {
    /// The preimages of that batch in that channel, from 32 secret bytes that the payer keeps for nothing else.
    ///
    /// **A batch number is never used again in a channel**, also not after its batch was given up: the payee knows
    /// what was revealed of it, and a lock that is used again is open to it from the start. The payer stores the number
    /// before the locks leave.
    pub const fn new(secret: [u8; 32], channel: ChannelId, batch: u32) -> Self {
        Self { secret, channel, batch }
    }

    /// The preimages of that batch in that channel, from the channel's own keys.
    pub fn of(keys: &ChannelKeys, channel: ChannelId, batch: u32) -> Self {
        Self::new(tagged::hash(SECRET, &[&keys.words]), channel, batch)
    }

    /// The preimage of one output, counted from 0.
    pub fn preimage(&self, index: u32) -> Preimage {
        let (batch, index) = (self.batch.to_be_bytes(), index.to_be_bytes());
        Preimage(tagged::hash(TAG, &[&self.secret, self.channel.as_bytes(), &batch, &index]))
    }

    /// The locks of all outputs.
    ///
    /// # Errors
    /// When the terms have none, or more than a transaction can carry.
    pub fn locks(&self, terms: &Terms) -> Result<Locks, BadLocks> {
        let outputs = terms.outputs.min(MOST_OUTPUTS);
        Locks::new((0..outputs).map(|index| self.preimage(index).lock()).collect(), terms)
    }
}

/// Locks that make no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadLocks {
    /// Not one for each output, or more outputs than a transaction can carry.
    #[error("{got} locks for {expected} outputs, of which there are at most {MOST_OUTPUTS}")]
    Count {
        /// How many outputs the terms have.
        expected: u32,
        /// How many locks came.
        got: usize,
    },
    /// One preimage would pay for two calls.
    #[error("lock {index} is the same as one before it")]
    Twice {
        /// The later of the two, counted from 0.
        index: u32,
    },
}

/// The locks of one batch: as many as there are outputs, and all distinct. Public; sent ahead of time, 32 bytes each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locks(Vec<[u8; 32]>);

impl Locks {
    /// Takes over what the payer sent.
    ///
    /// # Errors
    /// When there is not one for each output, or two are the same. Whether one was used in an *earlier* batch is the
    /// payer's own concern: it would only give money away.
    pub fn new(locks: Vec<[u8; 32]>, terms: &Terms) -> Result<Self, BadLocks> {
        let fits = u32::try_from(locks.len()) == Ok(terms.outputs);
        if !fits || !(1..=MOST_OUTPUTS).contains(&terms.outputs) {
            return Err(BadLocks::Count { expected: terms.outputs, got: locks.len() });
        }
        let mut seen = HashSet::with_capacity(locks.len());
        for (index, lock) in (0..).zip(&locks) {
            if !seen.insert(lock) {
                return Err(BadLocks::Twice { index });
            }
        }
        Ok(Self(locks))
    }

    /// Each lock, in the order of the outputs.
    pub fn as_slice(&self) -> &[[u8; 32]] {
        &self.0
    }

    /// Whether the preimage opens that output: what a payee checks of a call.
    pub fn opens(&self, index: u32, preimage: &Preimage) -> bool {
        self.0.get(index as usize).is_some_and(|lock| *lock == preimage.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::testing::terms;

    fn preimages(secret: u8, channel: u8, batch: u32) -> Preimages {
        Preimages::new([secret; 32], ChannelId::from_bytes([channel; 32]), batch)
    }

    #[test]
    fn the_same_secret_gives_the_same_preimages_and_everything_else_others() {
        let bytes =
            |secret, channel, batch, index| *preimages(secret, channel, batch).preimage(index).as_bytes();
        assert_eq!(bytes(1, 1, 1, 1), bytes(1, 1, 1, 1));
        let all =
            [bytes(1, 1, 1, 1), bytes(2, 1, 1, 1), bytes(1, 2, 1, 1), bytes(1, 1, 2, 1), bytes(1, 1, 1, 2)];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn a_preimage_opens_its_own_output_only() {
        let preimages = preimages(1, 1, 1);
        let locks = preimages.locks(&terms()).unwrap();
        assert_eq!(locks.as_slice().len(), terms().outputs as usize);
        for index in 0..terms().outputs {
            assert!(locks.opens(index, &preimages.preimage(index)));
            assert!(!locks.opens(index, &preimages.preimage(index + 1)));
        }
        assert!(!locks.opens(terms().outputs, &preimages.preimage(terms().outputs)));
    }

    #[test]
    fn locks_that_are_too_few_or_too_many_or_come_twice_are_refused() {
        let locks = preimages(1, 1, 1).locks(&terms()).unwrap().0;
        let count = terms().outputs;
        let short = locks[1..].to_vec();
        let wrong = BadLocks::Count { expected: count, got: short.len() };
        assert_eq!(Locks::new(short, &terms()), Err(wrong));
        let long = [locks.clone(), vec![[0; 32]]].concat();
        let wrong = BadLocks::Count { expected: count, got: long.len() };
        assert_eq!(Locks::new(long, &terms()), Err(wrong));
        let mut twice = locks;
        twice[7] = twice[3];
        assert_eq!(Locks::new(twice, &terms()), Err(BadLocks::Twice { index: 7 }));
    }

    #[test]
    fn no_count_makes_a_batch_that_no_transaction_carries() {
        for outputs in [0, MOST_OUTPUTS + 1, u32::MAX] {
            let terms = Terms { outputs, ..terms() };
            let refused = preimages(1, 1, 1).locks(&terms);
            assert!(matches!(refused, Err(BadLocks::Count { expected, .. }) if expected == outputs));
        }
        let none = Terms { outputs: 0, ..terms() };
        assert_eq!(Locks::new(Vec::new(), &none), Err(BadLocks::Count { expected: 0, got: 0 }));
        let many = Terms { outputs: MOST_OUTPUTS + 1, ..terms() };
        let locks = (0..=MOST_OUTPUTS).map(|index| preimages(1, 1, 1).preimage(index).lock()).collect();
        assert!(Locks::new(locks, &many).is_err());
    }
}
