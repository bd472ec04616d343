//! What a mailbox keeps: 7,168 bytes, whatever is inside, so that they fit one padded OHTTP message of 8,192 (BIP77).
//!
//! ```text
//!   encapsulated key, 65 ‖ HPKE( length, 2 ‖ content, up to 7,085 ‖ zeros ), 7,087 + a tag of 16
//! ```
//!
//! HPKE (RFC 9180) in base mode with DHKEM(secp256k1, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305. The sender is nobody in
//! particular. The payee's identity is part of the info string, so mail for one identity opens under no other.

use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin_hpke::aead::ChaCha20Poly1305;
use bitcoin_hpke::kdf::HkdfSha256;
use bitcoin_hpke::kem::SecpK256HkdfSha256;
use bitcoin_hpke::rand_core::{CryptoRng, Error, RngCore};
use bitcoin_hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal};
use farthing_protocol::keys::Seed;
use secp256k1::{PublicKey, XOnlyPublicKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::address::Address;

/// The length of every blob, in bytes.
pub const LENGTH: usize = 7_168;
/// The most content, in bytes.
pub const MOST_CONTENT: usize = PADDED - 2;
const ENCAPSULATED: usize = 65;
/// The tag of an uncompressed point (SEC 1, 2.3.3), which is how RFC 9180 writes an encapsulated key.
const UNCOMPRESSED: u8 = 4;
const TAG: usize = 16;
const PADDED: usize = LENGTH - ENCAPSULATED - TAG;
const INFO: &[u8] = b"farthing/mail/1";

type Key = <SecpK256HkdfSha256 as Kem>::PrivateKey;
type PublicHalf = <SecpK256HkdfSha256 as Kem>::PublicKey;
type Encapsulated = <SecpK256HkdfSha256 as Kem>::EncappedKey;

/// A sealed letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob(Box<[u8; LENGTH]>);

/// The key that opens a payee's mail. Neither `Clone` nor `Debug`; the library wipes it when it is dropped.
pub struct MailKey(Key);

/// Bytes of another length than a blob's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a blob is {LENGTH} bytes, got {0}")]
pub struct WrongLength(pub usize);

/// Why content cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsealed {
    /// Too long.
    #[error("a letter has at most {MOST_CONTENT} bytes, got {0}")]
    TooLong(usize),
    /// The library refused, which it does for keys that are none.
    #[error("the letter could not be encrypted to this address")]
    Encryption,
}

/// A blob that does not open: for somebody else, damaged or forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this blob is not mail for this key and identity, or it is damaged")]
pub struct Unopened;

impl MailKey {
    /// The mail key of a seed.
    pub fn of(seed: &Seed) -> Self {
        let mut secret = seed.mail_secret();
        let key = Key::from_bytes(&secret).expect("a derived key is a valid one");
        secret.zeroize();
        Self(key)
    }

    /// What goes into the address.
    pub fn public(&self) -> PublicKey {
        let public = SecpK256HkdfSha256::sk_to_pk(&self.0).to_bytes();
        PublicKey::from_slice(&public).expect("an encoded point")
    }

    /// Opens a blob for `identity`.
    ///
    /// # Errors
    /// When it was sealed for another key or identity, or changed since.
    pub fn open(&self, identity: &XOnlyPublicKey, blob: &Blob) -> Result<Vec<u8>, Unopened> {
        let (encapsulated, sealed) = blob.0.split_at(ENCAPSULATED);
        // The library also reads the hybrid encodings of a point (tags 6 and 7) and computes with the usual one: without this
        // look, one blob would have a second form that opens alike.
        if encapsulated[0] != UNCOMPRESSED {
            return Err(Unopened);
        }
        let encapsulated = Encapsulated::from_bytes(encapsulated).map_err(|_| Unopened)?;
        let mut padded = single_shot_open::<ChaCha20Poly1305, HkdfSha256, SecpK256HkdfSha256>(
            &OpModeR::Base,
            &self.0,
            &encapsulated,
            &info(identity),
            sealed,
            &[],
        )
        .map_err(|_| Unopened)?;
        let content = unpadded(&padded).map(<[u8]>::to_vec);
        padded.zeroize();
        content.ok_or(Unopened)
    }
}

impl Blob {
    /// Seals content for an address. `entropy` must be fresh randomness: the same seals the same content alike.
    ///
    /// # Errors
    /// When the content is longer than [`MOST_CONTENT`].
    pub fn seal(address: &Address, content: &[u8], entropy: [u8; 32]) -> Result<Self, Unsealed> {
        let mut padded = padded(content).ok_or(Unsealed::TooLong(content.len()))?;
        let key = PublicHalf::from_bytes(&address.mail.serialize_uncompressed());
        let key = key.map_err(|_| Unsealed::Encryption)?;
        let sealed = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, SecpK256HkdfSha256, _>(
            &OpModeS::Base,
            &key,
            &info(&address.identity),
            &padded,
            &[],
            &mut Stream { entropy, next: 0 },
        );
        padded.zeroize();
        let (encapsulated, sealed) = sealed.map_err(|_| Unsealed::Encryption)?;
        let bytes = [encapsulated.to_bytes().as_slice(), &sealed].concat();
        Ok(Self::from_bytes(&bytes).expect("key, padded content and tag are this long"))
    }

    /// Takes bytes for a blob. Whether they open is for [`MailKey::open`] to say.
    ///
    /// # Errors
    /// When they are not exactly 7,168.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WrongLength> {
        let blob: Box<[u8]> = bytes.into();
        blob.try_into().map(Self).map_err(|_| WrongLength(bytes.len()))
    }

    /// The 7,168 bytes.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

fn info(identity: &XOnlyPublicKey) -> Vec<u8> {
    [INFO, &identity.serialize()].concat()
}

fn padded(content: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(content.len()).ok().filter(|length| usize::from(*length) <= MOST_CONTENT)?;
    let mut padded = length.to_be_bytes().to_vec();
    padded.extend(content);
    padded.resize(PADDED, 0);
    Some(padded)
}

fn unpadded(padded: &[u8]) -> Option<&[u8]> {
    let (length, rest) = padded.split_first_chunk()?;
    let (content, padding) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    padding.iter().all(|byte| *byte == 0).then_some(content)
}

/// The caller's randomness as the library wants it: SHA-256 of it and a counter.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Stream {
    entropy: [u8; 32],
    next: u64,
}

impl RngCore for Stream {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_be_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let mut engine = sha256::Hash::engine();
            engine.input(&self.entropy);
            engine.input(&self.next.to_be_bytes());
            self.next += 1;
            chunk.copy_from_slice(&sha256::Hash::from_engine(engine).as_byte_array()[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Stream {}

#[cfg(test)]
mod tests {
    use bitcoin::Network;
    use proptest::prelude::*;

    use super::*;
    use crate::address::Host;

    fn payee(byte: u8) -> (Address, MailKey) {
        let seed = Seed::new([byte; 64], Network::Regtest);
        let key = MailKey::of(&seed);
        let identity = seed.cheque_keys().identity();
        let host = Host::new("mail.example").unwrap();
        (Address { network: Network::Regtest, identity, mail: key.public(), host }, key)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever is inside, a blob is as long as any other, and one changed bit anywhere is seen.
        #[test]
        fn a_blob_opens_for_its_payee_alone(
            content in prop::collection::vec(any::<u8>(), 0..=MOST_CONTENT), entropy: [u8; 32], bit in 0..LENGTH * 8
        ) {
            let (address, key) = payee(1);
            let blob = Blob::seal(&address, &content, entropy).unwrap();
            prop_assert_eq!(key.open(&address.identity, &blob), Ok(content));

            let (stranger, other_key) = payee(2);
            prop_assert_eq!(other_key.open(&address.identity, &blob), Err(Unopened));
            prop_assert_eq!(key.open(&stranger.identity, &blob), Err(Unopened));
            let mut bytes = *blob.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = Blob::from_bytes(&bytes).unwrap();
            prop_assert_eq!(key.open(&address.identity, &changed), Err(Unopened));
        }
    }

    #[test]
    fn no_content_is_longer_and_no_blob_of_another_length() {
        let (address, key) = payee(1);
        let blob = Blob::seal(&address, &[7; MOST_CONTENT], [1; 32]).unwrap();
        assert_eq!(key.open(&address.identity, &blob), Ok(vec![7; MOST_CONTENT]));
        let too_long = Blob::seal(&address, &[7; MOST_CONTENT + 1], [1; 32]);
        assert_eq!(too_long, Err(Unsealed::TooLong(MOST_CONTENT + 1)));
        for length in [0, LENGTH - 1, LENGTH + 1] {
            assert_eq!(Blob::from_bytes(&vec![1; length]), Err(WrongLength(length)));
        }
    }

    #[test]
    fn the_hybrid_encoding_of_its_key_does_not_open() {
        let (address, key) = payee(1);
        for entropy in 0..8 {
            let blob = Blob::seal(&address, b"content", [entropy; 32]).unwrap();
            let mut bytes = *blob.as_bytes();
            bytes[0] = 6 | (bytes[ENCAPSULATED - 1] & 1);
            let hybrid = Blob::from_bytes(&bytes).unwrap();
            assert!(Encapsulated::from_bytes(&bytes[..ENCAPSULATED]).is_ok(), "the library reads it");
            assert_eq!(key.open(&address.identity, &hybrid), Err(Unopened));
        }
    }

    #[test]
    fn the_same_content_looks_different_with_other_randomness_and_all_of_it_counts() {
        let (address, _) = payee(1);
        let seal = |entropy| Blob::seal(&address, b"content", entropy).unwrap();
        assert_eq!(seal([1; 32]), seal([1; 32]));
        let mut entropies = [[1; 32]; 3];
        entropies[1][0] = 2;
        entropies[2][31] = 2;
        let [first, second, third] = entropies.map(seal);
        assert!(first != second && second != third && first != third);
        assert_ne!(first.as_bytes()[..ENCAPSULATED], second.as_bytes()[..ENCAPSULATED]);
    }

    #[test]
    fn padding_is_zeros_and_nothing_else() {
        let good = padded(b"content").unwrap();
        assert_eq!((good.len(), unpadded(&good)), (PADDED, Some(&b"content"[..])));
        let mut dirty = good.clone();
        dirty[PADDED - 1] = 1;
        assert_eq!(unpadded(&dirty), None);
        let mut long = good;
        long[..2].copy_from_slice(&u16::MAX.to_be_bytes());
        assert_eq!(unpadded(&long), None);
    }
}
