//! The cheque itself: what the writer mails to the payee, and what it keeps to get its receipt.
//!
//! Its point is `T = t·G + Z`. `Z`'s secret is the receipt's signature, which only the payee can make; `t` is the
//! writer's, mailed to the payee alone. So only the payee can sell the secret of `T`, the agent who buys it learns nothing
//! of the receipt, and the writer, who knows `t`, gets the receipt out of it.

use serde::{Deserialize, Serialize};

use super::point::{AdaptorPoint, AdaptorSecret};
use super::prekey::{NotTheirs, PrekeyId, SignedPrekey};
use super::receipt::{Memo, Receipt, Terms};
use crate::amount::Msat;
use crate::channel::Expiry;

/// What the payee needs to cash it. Whoever reads it can link payer and payee, but not cash it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cheque {
    /// What the receipt will say.
    pub terms: Terms,
    /// The nonce that the payee is to use for it.
    pub prekey: PrekeyId,
    /// The writer's secret `t`.
    pub blinding: AdaptorSecret,
    /// The latest expiry of a channel in which it can be cashed: the agent needs time to claim from the writer afterwards.
    pub latest: Expiry,
}

/// A cheque as its writer keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// What was mailed.
    pub cheque: Cheque,
    /// The prekey that it was written on.
    pub prekey: SignedPrekey,
    /// `T`, what the agent's promise is encrypted under.
    pub point: AdaptorPoint,
}

/// Why no cheque can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unwritten {
    /// The prekey is somebody else's.
    #[error(transparent)]
    NotTheirs(#[from] NotTheirs),
    /// The prekey makes no nonce, or the randomness no secret.
    #[error("this prekey and this randomness make no point: take others")]
    NoPoint,
}

/// What a writer decides.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What the payee is to get.
    pub amount: Msat,
    /// What for.
    pub memo: Memo,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The latest expiry of a channel in which it can be cashed.
    pub latest: Expiry,
}

impl Written {
    /// Writes a cheque to the payee of that identity. The prekey must never have been used before; `salt` and `blinding` are
    /// each 32 bytes of fresh randomness.
    ///
    /// # Errors
    /// When the identity did not sign the prekey.
    pub fn new(
        draft: Draft,
        identity: &secp256k1::XOnlyPublicKey,
        prekey: SignedPrekey,
        salt: [u8; 32],
        blinding: &[u8; 32],
    ) -> Result<Self, Unwritten> {
        prekey.verify(identity)?;
        let Draft { amount, memo, time, latest } = draft;
        let terms = Terms { payee: prekey.payee, amount, memo, time, salt };
        let blinding = AdaptorSecret::from_bytes(blinding).ok_or(Unwritten::NoPoint)?;
        let sold = prekey.prekey.receipt_point(&terms).ok_or(Unwritten::NoPoint)?;
        let point = sold.tweaked(&blinding).ok_or(Unwritten::NoPoint)?;
        Ok(Self { cheque: Cheque { terms, prekey: prekey.prekey.id, blinding, latest }, prekey, point })
    }

    /// The payee's receipt, from the secret that the agent bought. `None` when that is not this cheque's secret.
    pub fn receipt(&self, secret: &AdaptorSecret) -> Option<Receipt> {
        let scalar = secret.plus(&self.cheque.blinding.negated())?;
        self.prekey.prekey.receipt(self.cheque.terms.clone(), &scalar)
    }
}
