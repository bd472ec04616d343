//! Prekeys: the payee's nonces, published ahead, so that a cheque can be written while it is offline.
//!
//! A cheque's point must be known before the payee signs, so the receipt's nonce must be. A prekey is a **pair**
//! `(R1, R2)`, and the nonce of the receipt `m` is
//!
//! ```text
//!   R = R1 + c·R2     c = H_tag(R1 ‖ R2 ‖ B ‖ m)          Z = lift(R) + e·B,   e = BIP340's challenge over R, B, m
//! ```
//!
//! so `Z = z·G` where `(R, z)` is the receipt's BIP340 signature: whoever pays for `z` has bought a receipt. The nonce
//! depends on what is signed. With a single public nonce it would not, and whoever writes 256 cheques may choose each
//! receipt's salt after it has seen all nonces: the 256 signatures add up to one that was never made (the ROS attack;
//! F. Benhamouda et al., *On the (in)security of ROS*, 2020). The tests run that forgery.
//!
//! A prekey is used once: three receipts under one would give the receipt key away. Its secrets are derived from the
//! payee's seed by generation and number. A payee whose state comes from a backup may have forgotten which it has used, so
//! it begins a new *generation*, and cheques under older ones are worth nothing to it ([`super::book`]).

use secp256k1::{Parity, PublicKey, SECP256K1, Scalar, XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};

use super::adaptor;
use super::point::{AdaptorPoint, AdaptorSecret};
use super::receipt::{Receipt, Terms};
use crate::keys::{self, ChequeKeys};
use crate::tagged;

const STATEMENT: &str = "farthing/prekey";

/// All prekeys that a payee issues until its state is lost: 8 random bytes, so that no two are ever alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation([u8; 8]);

impl Generation {
    /// A generation from fresh randomness.
    pub fn from_entropy(entropy: [u8; 8]) -> Self {
        Self(entropy)
    }

    /// The 8 bytes.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

/// Names a prekey of one payee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PrekeyId {
    /// When it was issued.
    pub generation: Generation,
    /// Counted from zero within its generation.
    pub number: u32,
}

/// The public pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prekey {
    /// Its name.
    pub id: PrekeyId,
    first: PublicKey,
    second: PublicKey,
}

/// A prekey as the payee publishes it: bound to its receipt key by its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPrekey {
    /// The payee's receipt key.
    pub payee: XOnlyPublicKey,
    /// The pair.
    pub prekey: Prekey,
    /// By the payee's identity key.
    signature: schnorr::Signature,
}

/// A prekey that the payee's identity did not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this prekey is not signed by the identity that it is said to belong to")]
pub struct NotTheirs;

impl SignedPrekey {
    pub(super) fn new(keys: &ChequeKeys, id: PrekeyId) -> Self {
        Self::of(keys, Prekey::derive(keys, id))
    }

    pub(super) fn of(keys: &ChequeKeys, prekey: Prekey) -> Self {
        let payee = keys.receipt();
        let signature = keys.sign_statement(STATEMENT, &prekey.statement(&payee));
        Self { payee, prekey, signature }
    }

    /// Whether the payee's identity signed it. Whoever could put in prekeys of its own would be paid instead.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify(&self, identity: &XOnlyPublicKey) -> Result<(), NotTheirs> {
        let statement = self.prekey.statement(&self.payee);
        keys::statement_holds(identity, STATEMENT, &statement, &self.signature).then_some(()).ok_or(NotTheirs)
    }
}

impl Prekey {
    pub(super) fn derive(keys: &ChequeKeys, id: PrekeyId) -> Self {
        let [first, second] = [1, 2].map(|half| secret(keys, id, half).point());
        Self { id, first: *first.as_key(), second: *second.as_key() }
    }

    /// A pair that its payee did not draw, but chose.
    #[cfg(test)]
    pub(super) fn chosen(id: PrekeyId, first: AdaptorPoint, second: AdaptorPoint) -> Self {
        Self { id, first: *first.as_key(), second: *second.as_key() }
    }

    /// What a payee knows of the receipt's scalar under a rogue prekey: all but the discrete logarithm of the point that the
    /// rogue one has too much. `None` where the rogue nonce is odd.
    #[cfg(test)]
    pub(super) fn rogue_secret(
        rogue: &Self,
        keys: &ChequeKeys,
        terms: &Terms,
        halves: &[AdaptorSecret; 2],
    ) -> Option<AdaptorSecret> {
        let (nonce, parity) = rogue.nonce(terms)?;
        let second = AdaptorSecret::from_key(halves[1].as_key().mul_tweak(&rogue.coefficient(terms)).ok()?);
        let drawn = halves[0].plus(&second)?;
        let (_, key_parity) = keys.receipt.x_only_public_key();
        let key = keys.receipt.secret_key();
        let key = if key_parity == Parity::Odd { key.negate() } else { key };
        let challenged = AdaptorSecret::from_key(key.mul_tweak(&challenge(&nonce, terms)).ok()?);
        (parity == Parity::Even).then(|| drawn.plus(&challenged)).flatten()
    }

    fn statement(&self, payee: &XOnlyPublicKey) -> [u8; 32] {
        tagged::hash(
            "farthing/prekey-pair",
            &[
                &payee.serialize(),
                &self.id.generation.0,
                &self.id.number.to_be_bytes(),
                &self.first.serialize(),
                &self.second.serialize(),
            ],
        )
    }

    /// What the second half counts in the nonce of one receipt.
    fn coefficient(&self, terms: &Terms) -> Scalar {
        adaptor::scalar(tagged::hash(
            "farthing/prekey-coefficient",
            &[&self.first.serialize(), &self.second.serialize(), &terms.payee.serialize(), &terms.digest()],
        ))
    }

    /// The nonce of one receipt. `None` when the halves cancel out, which only a payee can bring about, to its own loss.
    fn nonce(&self, terms: &Terms) -> Option<(XOnlyPublicKey, Parity)> {
        let second = self.second.mul_tweak(SECP256K1, &self.coefficient(terms)).ok()?;
        Some(self.first.combine(&second).ok()?.x_only_public_key())
    }

    /// `Z`: its secret is the scalar of the payee's signature on these terms. `None` for a pair that makes no nonce.
    pub fn receipt_point(&self, terms: &Terms) -> Option<AdaptorPoint> {
        let (nonce, _) = self.nonce(terms)?;
        let key = terms.payee.public_key(Parity::Even);
        let challenged = key.mul_tweak(SECP256K1, &challenge(&nonce, terms)).ok()?;
        let point = nonce.public_key(Parity::Even).combine(&challenged).ok()?;
        Some(AdaptorPoint::from_key(point))
    }

    /// The receipt, from the secret of [`Self::receipt_point`]. `None` when the secret is another.
    pub fn receipt(&self, terms: Terms, secret: &AdaptorSecret) -> Option<Receipt> {
        let (nonce, _) = self.nonce(&terms)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&nonce.serialize());
        bytes[32..].copy_from_slice(&secret.to_bytes());
        let signature = schnorr::Signature::from_slice(&bytes).ok()?;
        let receipt = Receipt { terms, signature };
        receipt.verify().is_ok().then_some(receipt)
    }
}

/// One half's secret.
fn secret(keys: &ChequeKeys, id: PrekeyId, half: u8) -> AdaptorSecret {
    let parts: [&[u8]; 4] = [&keys.prekeys, &id.generation.0, &id.number.to_be_bytes(), &[half]];
    AdaptorSecret::from_bytes(&tagged::hash("farthing/prekey-secret", &parts))
        .expect("a hash in the range of scalars, but for odds of 2^-127")
}

/// The scalar of the payee's signature on these terms: the secret of [`Prekey::receipt_point`]. To be let out for one
/// prekey with one receipt only, which [`super::book::Book`] sees to. `None` for terms of another payee.
pub(super) fn sign(keys: &ChequeKeys, id: PrekeyId, terms: &Terms) -> Option<AdaptorSecret> {
    let (key, key_parity) = keys.receipt.x_only_public_key();
    if terms.payee != key {
        return None;
    }
    let [first, second] = [1, 2].map(|half| secret(keys, id, half));
    let prekey = Prekey { id, first: *first.point().as_key(), second: *second.point().as_key() };
    let weighted = AdaptorSecret::from_key(second.as_key().mul_tweak(&prekey.coefficient(terms)).ok()?);
    let drawn = first.plus(&weighted)?;
    let (nonce, nonce_parity) = drawn.point().as_key().x_only_public_key();
    let drawn = if nonce_parity == Parity::Odd { drawn.negated() } else { drawn };
    let mut signer = keys.receipt.secret_key();
    let turned = AdaptorSecret::from_key(if key_parity == Parity::Odd { signer.negate() } else { signer });
    signer.non_secure_erase();
    let challenged = turned.as_key().mul_tweak(&challenge(&nonce, terms)).ok()?;
    drawn.plus(&AdaptorSecret::from_key(challenged))
}

fn challenge(nonce: &XOnlyPublicKey, terms: &Terms) -> Scalar {
    adaptor::challenge(nonce, &terms.payee, &terms.digest())
}

#[cfg(test)]
mod tests;
