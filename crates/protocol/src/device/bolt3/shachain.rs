//! Per-commitment secrets: one seed gives 2⁴⁸ of them, and who gets them in order stores at most 49
//! ([BOLT 3, per-commitment secret requirements]).
//!
//! BOLT 3 counts these secrets downwards from 2⁴⁸ − 1; a [`CommitmentNumber`] counts commitments upwards from 0.
//!
//! [BOLT 3, per-commitment secret requirements]:
//! https://github.com/lightning/bolts/blob/master/03-transactions.md#per-commitment-secret-requirements

use std::fmt;

use bitcoin::hashes::{Hash, sha256};
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The index of the first secret.
const FIRST_INDEX: u64 = (1 << 48) - 1;

/// Which commitment of one side: 0 is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct CommitmentNumber(u64);

/// A number above 2⁴⁸ − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is above the last commitment number, 2^48 - 1")]
pub struct BadNumber(u64);

impl CommitmentNumber {
    /// The commitment that a channel starts with.
    pub const FIRST: Self = Self(0);

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number after this; `None` after the last.
    pub fn next(self) -> Option<Self> {
        Self::try_from(self.0 + 1).ok()
    }

    /// The number before this; `None` before the first.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }

    /// BOLT 3's index of its secret.
    fn index(self) -> u64 {
        FIRST_INDEX - self.0
    }
}

impl TryFrom<u64> for CommitmentNumber {
    type Error = BadNumber;

    fn try_from(number: u64) -> Result<Self, BadNumber> {
        if number <= FIRST_INDEX { Ok(Self(number)) } else { Err(BadNumber(number)) }
    }
}

impl From<CommitmentNumber> for u64 {
    fn from(number: CommitmentNumber) -> Self {
        number.0
    }
}

impl fmt::Display for CommitmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The seed of one side's secrets. Neither `Clone` nor `Debug`; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct CommitmentSeed([u8; 32]);

impl CommitmentSeed {
    /// A seed from fresh randomness.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// The secret that revokes a commitment.
    pub fn secret(&self, number: CommitmentNumber) -> CommitmentSecret {
        CommitmentSecret(derive(self.0, 48, number.index()))
    }

    /// The point of a commitment: public.
    pub fn point(&self, number: CommitmentNumber) -> PublicKey {
        self.secret(number).point().expect("a hash is a valid secret key but for odds of 2^-127")
    }
}

/// The secret that revokes one commitment. Not `Debug`; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitmentSecret([u8; 32]);

impl CommitmentSecret {
    /// As the other side sent it in `revoke_and_ack`.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The bytes, to be sent.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Its point; `None` for bytes that are no secret key.
    pub fn point(&self) -> Option<PublicKey> {
        self.key().map(|key| key.public_key(SECP256K1))
    }

    /// As a secret key.
    pub(crate) fn key(&self) -> Option<SecretKey> {
        SecretKey::from_slice(&self.0).ok()
    }
}

impl fmt::Debug for CommitmentSecret {
    /// Says nothing of the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CommitmentSecret(..)")
    }
}

/// All secrets that the other side has revealed so far, in order from the first, in at most 49 entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedSecrets {
    known: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    index: u64,
    secret: CommitmentSecret,
}

/// A secret that was not made from the same seed as an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret of commitment {0} was not derived from the same seed as an earlier one")]
pub struct WrongSecret(pub CommitmentNumber);

impl RevokedSecrets {
    /// Takes the next secret.
    ///
    /// # Errors
    /// When an earlier secret does not follow from it.
    pub fn insert(&mut self, number: CommitmentNumber, secret: CommitmentSecret) -> Result<(), WrongSecret> {
        let index = number.index();
        let place = place_of(index);
        let follows = |entry: &Entry| derive(secret.0, place as u32, entry.index) == entry.secret.to_bytes();
        if place > self.known.len() || !self.known[..place].iter().all(follows) {
            return Err(WrongSecret(number));
        }
        let entry = Entry { index, secret };
        match self.known.get_mut(place) {
            Some(old) => *old = entry,
            None => self.known.push(entry),
        }
        Ok(())
    }

    /// A secret that was inserted, or `None`.
    pub fn get(&self, number: CommitmentNumber) -> Option<CommitmentSecret> {
        let index = number.index();
        self.known.iter().take(49).enumerate().find_map(|(bits, entry)| {
            let prefix = index & !((1 << bits) - 1);
            (prefix == entry.index).then(|| CommitmentSecret(derive(entry.secret.0, bits as u32, index)))
        })
    }
}

/// BOLT 3's `where_to_put_secret`.
fn place_of(index: u64) -> usize {
    index.trailing_zeros().min(48) as usize
}

/// BOLT 3's `derive_secret`; from a seed, with 48 bits, its `generate_from_seed`.
fn derive(base: [u8; 32], bits: u32, index: u64) -> [u8; 32] {
    let mut secret = base;
    for bit in (0..bits).rev() {
        if index & (1 << bit) != 0 {
            secret[bit as usize / 8] ^= 1 << (bit % 8);
            secret = sha256::Hash::hash(&secret).to_byte_array();
        }
    }
    secret
}

#[cfg(test)]
mod tests {
    use bitcoin::hex::FromHex;

    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        Vec::from_hex(hex).unwrap().try_into().unwrap()
    }

    #[test]
    fn bolt_3_appendix_d_generation() {
        for (seed, index, secret) in [
            ([0; 32], FIRST_INDEX, "02a40c85b6f28da08dfdbe0926c53fab2de6d28c10301f8f7c4073d5e42e3148"),
            ([0xff; 32], FIRST_INDEX, "7cc854b54e3e0dcdb010d7a3fee464a9687be6e8db3be6854c475621e007a5dc"),
            ([0xff; 32], 0xaaa_aaaa_aaaa, "56f4008fb007ca9acf0e15b054d5c9fd12ee06cea347914ddbaed70d1c13a528"),
            (
                [0xff; 32],
                0x5555_5555_5555,
                "9015daaeb06dba4ccc05b91b2f73bd54405f2be9f217fbacd3c5ac2e62327d31",
            ),
            ([1; 32], 1, "915c75942a26bb3a433a8ce2cb0427c29ec6c1775cfc78328b57f6ba7bfeaa9c"),
        ] {
            assert_eq!(derive(seed, 48, index), bytes(secret));
        }
    }

    /// Each story of the appendix: secrets for the commitments from 0 on; only the last one may be refused.
    #[test]
    fn bolt_3_appendix_d_storage() {
        let text = include_str!("../../../tests/vectors/bolt3-appendix-d.txt");
        let mut stories = 0;
        for story in text.split("name:").skip(1) {
            stories += 1;
            let mut known = RevokedSecrets::default();
            let field = |name: &'static str| {
                story.lines().filter_map(move |line| line.trim().strip_prefix(name)).map(str::trim)
            };
            let entries = field("I:").zip(field("secret:")).zip(field("output:"));
            for ((index, secret), output) in entries {
                let number = CommitmentNumber(FIRST_INDEX - index.parse::<u64>().unwrap());
                let secret = CommitmentSecret::new(bytes(secret.strip_prefix("0x").unwrap()));
                assert_eq!(known.insert(number, secret).is_ok(), output == "OK", "{story}");
            }
        }
        assert_eq!(stories, 9);
    }

    #[test]
    fn gives_back_every_secret_and_holds_few() {
        let seed = CommitmentSeed::new([7; 32]);
        let mut known = RevokedSecrets::default();
        for number in (0..1_000).map(CommitmentNumber) {
            known.insert(number, seed.secret(number)).unwrap();
        }
        assert!(known.known.len() <= 11);
        for number in (0..1_000).map(CommitmentNumber) {
            assert_eq!(known.get(number), Some(seed.secret(number)));
        }
        assert_eq!(known.get(CommitmentNumber(1_000)), None);
    }

    #[test]
    fn a_skipped_secret_is_refused() {
        let seed = CommitmentSeed::new([7; 32]);
        let mut known = RevokedSecrets::default();
        let second = CommitmentNumber(1);
        assert_eq!(known.insert(second, seed.secret(second)), Err(WrongSecret(second)));
    }
}
