//! A payer's signature on a commitment, encrypted under a point: an *adaptor signature*.
//!
//! Whoever holds it can check that it becomes the payer's BIP340 signature on exactly this commitment once it is decrypted
//! with the point's secret, and cannot use it before. And once the payer sees the decrypted signature, it learns the
//! secret: so the secret is sold for the update, and the two change hands at once.
//!
//! ```text
//!   r̂ = H(x ‖ X ‖ T ‖ digest)      R = r̂·G + T, negated to an even one if need be      ŝ = ±r̂ + e·x
//!   check: ŝ·G − e·X = R ∓ T        decrypt: s = ŝ ± t        learn: t = ±(s − ŝ)
//! ```
//!
//! **The point is bound before the nonce.** The nonce is a hash of the key, the point and the digest, so two encrypted
//! signatures under two points never share one. If they did, their difference would give the key away
//! (`a_nonce_that_does_not_bind_the_point_gives_the_key_away`). For that reason the adaptor functions of a MuSig2 library
//! whose nonce does not commit to the point are not used here.
//!
//! The nonce needs no randomness, and the same key, point and digest always give the same encrypted signature: that is
//! how a payer learns the secret from a commitment on chain without having kept what it signed ([`super::drawn`]).
//!
//! The library is `schnorr_fun`, unaudited, in Rust; this is the only file that names it. Signatures that come out are
//! checked with libsecp256k1, and the tests check it against another implementation.
//!
//! L. Fournier, *One-Time Verifiably Encrypted Signatures A.K.A. Adaptor Signatures* (2019); BIP340.

use schnorr_fun::adaptor::{Adaptor, EncryptedSign, EncryptedSignature as Ciphertext};
use schnorr_fun::fun::marker::{EvenY, NonZero, Normal, Public, Secret, Zero};
use schnorr_fun::fun::nonce::Deterministic;
use schnorr_fun::fun::{Point, Scalar};
use schnorr_fun::{Message as Raw, Schnorr, Signature};
use secp256k1::{Keypair, Message, SECP256K1, XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::point::{AdaptorPoint, AdaptorSecret};

/// A BIP340 signature that a secret is missing from: 65 bytes of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptedSignature {
    /// The signature's nonce as it will be.
    nonce: XOnlyPublicKey,
    /// The signature's scalar, the secret still missing.
    scalar: [u8; 32],
    /// Whether the secret is subtracted instead of added.
    subtracts: bool,
}

type Library = Schnorr<Sha256, Deterministic<Sha256>>;

fn library() -> Library {
    schnorr_fun::new_with_deterministic_nonces()
}

impl EncryptedSignature {
    /// Nonce, scalar, and 1 if the secret is subtracted.
    pub fn to_bytes(&self) -> [u8; 65] {
        let mut bytes = [u8::from(self.subtracts); 65];
        bytes[..32].copy_from_slice(&self.nonce.serialize());
        bytes[32..64].copy_from_slice(&self.scalar);
        bytes
    }

    fn to_library(self) -> Option<Ciphertext> {
        Some(Ciphertext {
            R: Point::<EvenY, Public>::from_xonly_bytes(self.nonce.serialize())?,
            s_hat: Scalar::<Public, Zero>::from_bytes(self.scalar)?,
            needs_negation: self.subtracts,
        })
    }
}

fn library_point(point: &AdaptorPoint) -> Point<Normal, Public, NonZero> {
    Point::from_bytes(point.to_bytes()).expect("libsecp256k1 took it for a point")
}

fn library_key(key: &XOnlyPublicKey) -> Point<EvenY, Public> {
    Point::from_xonly_bytes(key.serialize()).expect("libsecp256k1 took it for a point")
}

/// Signs `digest`, encrypted under `point`. No randomness: the same arguments give the same.
pub(crate) fn sign(key: &Keypair, point: &AdaptorPoint, digest: &Message) -> EncryptedSignature {
    let secret = Scalar::<Secret, NonZero>::from_bytes(key.secret_bytes());
    let pair = library().new_keypair(secret.expect("libsecp256k1 took it for a secret key"));
    let signed = library().encrypted_sign(&pair, &library_point(point), Raw::raw(digest.as_ref()));
    EncryptedSignature {
        nonce: XOnlyPublicKey::from_slice(&signed.R.to_xonly_bytes()).expect("a point of the curve"),
        scalar: signed.s_hat.to_bytes(),
        subtracts: signed.needs_negation,
    }
}

/// Whether the secret of `point` would make it the signature of `key` on `digest`.
pub(crate) fn verify(
    key: &XOnlyPublicKey,
    point: &AdaptorPoint,
    digest: &Message,
    encrypted: &EncryptedSignature,
) -> bool {
    encrypted.to_library().is_some_and(|signature| {
        let message = Raw::raw(digest.as_ref());
        library().verify_encrypted_signature(&library_key(key), &library_point(point), message, &signature)
    })
}

/// The signature of `key` on `digest`, if `secret` opens it. Checked by libsecp256k1, so what comes out is good.
pub(crate) fn decrypt(
    key: &XOnlyPublicKey,
    digest: &Message,
    encrypted: &EncryptedSignature,
    secret: &AdaptorSecret,
) -> Option<schnorr::Signature> {
    let mut bytes = secret.to_bytes();
    let scalar = Scalar::<Secret, NonZero>::from_bytes(bytes);
    zeroize::Zeroize::zeroize(&mut bytes);
    let signature = library().decrypt_signature(scalar?, encrypted.to_library()?);
    let signature = schnorr::Signature::from_slice(&signature.to_bytes()).expect("64 bytes");
    SECP256K1.verify_schnorr(&signature, digest, key).is_ok().then_some(signature)
}

/// The secret of `point`, out of the decrypted signature. `None` when that is not this signature decrypted.
pub(crate) fn recover(
    point: &AdaptorPoint,
    encrypted: &EncryptedSignature,
    signature: &schnorr::Signature,
) -> Option<AdaptorSecret> {
    let signature = Signature::from_bytes(*signature.as_ref())?;
    let secret =
        library().recover_decryption_key(&library_point(point), &encrypted.to_library()?, &signature)?;
    AdaptorSecret::from_bytes(&secret.to_bytes())
}

#[cfg(test)]
mod tests;
