//! The books of payments as they were written before [`Spent`](super::spent::Spent): every payment of a day had an entry.

use secp256k1::PublicKey;
use serde::Deserialize;

use super::spent::{AHEAD, Spent};
use super::{Payment, Payments, Source};
use crate::amount::Msat;
use crate::device::bolt3::{PaymentHash, Preimage};

/// As they are read. They become [`Payments`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FormerPayments {
    list: Vec<FormerPayment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct FormerPayment {
    payment_hash: PaymentHash,
    amount: Msat,
    most_fee: Msat,
    expires_at: u64,
    payee: PublicKey,
    source: Source,
    counted_at: u64,
    offered: Option<Msat>,
    preimage: Option<Preimage>,
}

impl From<FormerPayments> for Payments {
    fn from(former: FormerPayments) -> Self {
        let list = former.list.into_iter().map(Payment::from).collect();
        Self { list, spent: Spent::default() }
    }
}

impl From<FormerPayment> for Payment {
    fn from(former: FormerPayment) -> Self {
        let FormerPayment {
            payment_hash,
            amount,
            most_fee,
            expires_at,
            payee,
            source,
            counted_at,
            offered,
            preimage,
        } = former;
        // When the invoice was made was not written down, but before it expired, and before it was approved, unless it was from the future:
        // this it shall not be, since so few of those are taken.
        let made_at = expires_at.min(counted_at.saturating_add(AHEAD));
        Self {
            payment_hash,
            amount,
            most_fee,
            made_at,
            expires_at,
            payee,
            source,
            counted_at,
            offered,
            preimage,
        }
    }
}
