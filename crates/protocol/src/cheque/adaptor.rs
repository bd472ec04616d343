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
//! All arithmetic is libsecp256k1's, with secrets in constant time; how it is put together is ours, and not audited. Signatures that come
//! out are checked by libsecp256k1 as any others, and the tests check everything here against `schnorr_fun`, which others wrote (ADR 0023).
//!
//! L. Fournier, *One-Time Verifiably Encrypted Signatures A.K.A. Adaptor Signatures* (2019); BIP340.

use bitcoin::hashes::{Hash, HashEngine, sha256};
use secp256k1::{Keypair, Message, Parity, PublicKey, SECP256K1, Scalar, SecretKey, XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::point::{AdaptorPoint, AdaptorSecret};
use crate::tagged;

/// The nonce is drawn under a tag of its own.
const NONCE: &str = "farthing/adaptor-nonce";

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

impl EncryptedSignature {
    /// Nonce, scalar, and 1 if the secret is subtracted.
    pub fn to_bytes(&self) -> [u8; 65] {
        let mut bytes = [u8::from(self.subtracts); 65];
        bytes[..32].copy_from_slice(&self.nonce.serialize());
        bytes[32..64].copy_from_slice(&self.scalar);
        bytes
    }

    /// What the secret is encrypted under as the nonce demands: the point, or the opposite one.
    fn turned(&self, point: &AdaptorPoint) -> PublicKey {
        if self.subtracts { point.as_key().negate(SECP256K1) } else { *point.as_key() }
    }
}

/// Signs `digest`, encrypted under `point`. No randomness: the same arguments give the same.
pub(crate) fn sign(key: &Keypair, point: &AdaptorPoint, digest: &Message) -> EncryptedSignature {
    let (public, parity) = key.x_only_public_key();
    let mut own = key.secret_key();
    let secret = AdaptorSecret::from_key(if parity == Parity::Odd { own.negate() } else { own });
    own.non_secure_erase();
    let mut bytes = secret.to_bytes();
    let mut hash = tagged::hash(NONCE, &[&bytes, &public.serialize(), &point.to_bytes(), digest.as_ref()]);
    let drawn = AdaptorSecret::from_bytes(&hash);
    bytes.zeroize();
    hash.zeroize();
    let drawn = drawn.expect("a hash in the range of scalars, but for odds of 2^-127");
    let nonce = drawn.point().plus(point).expect("a point by a hash that binds the other cancels none");
    let (nonce, parity) = nonce.as_key().x_only_public_key();
    let drawn = if parity == Parity::Odd { drawn.negated() } else { drawn };
    let e = challenge(&nonce, &public, digest.as_ref());
    let challenged = secret.as_key().mul_tweak(&e).map(AdaptorSecret::from_key);
    let scalar = drawn.plus(&challenged.expect("a product of two numbers that are not zero"));
    let scalar = scalar.expect("a number by a hash is not the opposite of the other").to_bytes();
    EncryptedSignature { nonce, scalar, subtracts: parity == Parity::Odd }
}

/// Whether the secret of `point` would make it the signature of `key` on `digest`: whether `ŝ·G = R ∓ T + e·X`.
pub(crate) fn verify(
    key: &XOnlyPublicKey,
    point: &AdaptorPoint,
    digest: &Message,
    encrypted: &EncryptedSignature,
) -> bool {
    let e = challenge(&encrypted.nonce, key, digest.as_ref());
    let expected = || {
        let drawn = encrypted.turned(point).negate(SECP256K1);
        let challenged = key.public_key(Parity::Even).mul_tweak(SECP256K1, &e).ok()?;
        PublicKey::combine_keys(&[&encrypted.nonce.public_key(Parity::Even), &drawn, &challenged]).ok()
    };
    let scalar = SecretKey::from_slice(&encrypted.scalar);
    scalar.is_ok_and(|scalar| expected() == Some(scalar.public_key(SECP256K1)))
}

/// BIP340's `e`.
pub(super) fn challenge(nonce: &XOnlyPublicKey, key: &XOnlyPublicKey, digest: &[u8; 32]) -> Scalar {
    let mut engine = tagged::engine("BIP0340/challenge");
    for part in [nonce.serialize(), key.serialize(), *digest] {
        engine.input(&part);
    }
    scalar(sha256::Hash::from_engine(engine).to_byte_array())
}

/// A hash as a factor of points.
pub(super) fn scalar(hash: [u8; 32]) -> Scalar {
    SecretKey::from_slice(&hash).expect("a hash in the range of scalars, but for odds of 2^-127").into()
}

/// The signature of `key` on `digest`, if `secret` opens it. Checked by libsecp256k1, so what comes out is good.
pub(crate) fn decrypt(
    key: &XOnlyPublicKey,
    digest: &Message,
    encrypted: &EncryptedSignature,
    secret: &AdaptorSecret,
) -> Option<schnorr::Signature> {
    let missing = if encrypted.subtracts { secret.negated() } else { secret.clone() };
    let scalar = AdaptorSecret::from_bytes(&encrypted.scalar)?.plus(&missing)?;
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&encrypted.nonce.serialize());
    bytes[32..].copy_from_slice(&scalar.to_bytes());
    let signature = schnorr::Signature::from_slice(&bytes).expect("64 bytes");
    SECP256K1.verify_schnorr(&signature, digest, key).is_ok().then_some(signature)
}

/// The secret of `point`, out of the decrypted signature. `None` when that is not this signature decrypted.
pub(crate) fn recover(
    point: &AdaptorPoint,
    encrypted: &EncryptedSignature,
    signature: &schnorr::Signature,
) -> Option<AdaptorSecret> {
    let (nonce, scalar) = signature.as_ref().split_first_chunk::<32>()?;
    if *nonce != encrypted.nonce.serialize() {
        return None;
    }
    let scalar = AdaptorSecret::from_bytes(scalar.first_chunk()?)?;
    let missing = scalar.plus(&AdaptorSecret::from_bytes(&encrypted.scalar)?.negated())?;
    let secret = if encrypted.subtracts { missing.negated() } else { missing };
    (secret.point() == *point).then_some(secret)
}

#[cfg(test)]
mod tests;
