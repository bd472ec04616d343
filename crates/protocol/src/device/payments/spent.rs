//! What was paid, in little room: sums for the limits, and the hashes of invoices, so that none is paid twice.
//!
//! A device at a toll road pays all day, and its state is written several times for each payment. So what was paid before the last few
//! payments has no entry of its own here:
//!
//! - **Sums.** The payments of five minutes are one sum, and all of it counts until the last of these minutes has left the limit. So a limit
//!   is never exceeded, and what it allows again comes five minutes late at most. What has an entry counts as long.
//! - **Hashes.** An invoice that was paid is refused until it expires, however long that is: its preimage is known, and whoever is on the way
//!   would keep what is paid for it again. When there are too many such hashes, that of the oldest invoice is forgotten, and from then on
//!   no invoice is taken that was made when it was, or before. When an invoice was made is under the payee's signature, so no one else can
//!   bring it back in new clothes. Payees date invoices as they like, so only a few are taken that come from the future: else those of
//!   one payee could have all others refused until that future comes.

use serde::{Deserialize, Serialize};

use super::super::bolt3::PaymentHash;
use super::super::invoice::Invoice;
use super::super::policy::DAY;
use super::super::reject::Reject;
use super::Payment;
use crate::amount::Msat;

/// How many seconds have one sum.
const STEP: u64 = 300;
/// How many hashes are remembered, beside those of the newest payments.
const MOST_HASHES: usize = 1_000;

/// How far a payee's clock may be ahead of the newest blocks, in seconds. Their time is that of the sixth newest, an hour behind on average: more
/// than two hours for one look in 50, more than four for three in a million.
pub(super) const AHEAD: u64 = 14_400;
/// How many invoices from further ahead are taken until they expire, for a chain that stands still.
const MOST_AHEAD: usize = 100;

/// Payments that were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spent {
    sums: Vec<Sum>,
    hashes: Vec<Known>,
    /// When the newest invoice was made whose hash was forgotten before it expired.
    forgotten: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sum {
    /// When it begins, a multiple of [`STEP`].
    begins: u64,
    amount: Msat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    payment_hash: PaymentHash,
    made_at: u64,
    expires_at: u64,
}

impl Spent {
    /// Takes a payment that was made.
    pub fn add(&mut self, payment: &Payment) {
        let begins = begins(payment.counted_at);
        match self.sums.iter_mut().find(|sum| sum.begins == begins) {
            Some(sum) => sum.amount = sum.amount.saturating_add(payment.weight()),
            None => self.sums.push(Sum { begins, amount: payment.weight() }),
        }
        let Payment { payment_hash, made_at, expires_at, .. } = *payment;
        self.hashes.push(Known { payment_hash, made_at, expires_at });
    }

    /// Drops what matters no more, and what is too much.
    pub fn tidy(&mut self, now: u64) {
        self.sums.retain(|sum| sum.counts(DAY, now));
        self.hashes.retain(|known| known.expires_at > now);
        while self.hashes.len() > MOST_HASHES {
            let oldest = self.hashes.iter().enumerate().min_by_key(|(_, known)| known.made_at);
            let Some((oldest, _)) = oldest else { break };
            self.forgotten = self.forgotten.max(self.hashes.swap_remove(oldest).made_at);
        }
    }

    /// Whether an invoice may be paid, as far as that is known here.
    pub fn check(&self, invoice: &Invoice) -> Result<(), Reject> {
        if self.hashes.iter().any(|known| known.payment_hash == invoice.payment_hash()) {
            return Err(Reject::HashUsed);
        }
        let (made, forgotten) = (invoice.made_at(), self.forgotten);
        if made <= forgotten { Err(Reject::InvoiceTooOld { made, forgotten }) } else { Ok(()) }
    }

    /// Whether there is room for an invoice by when it was made, beside the others that are approved.
    pub fn check_date(&self, invoice: &Invoice, approved: &[Payment], now: u64) -> Result<(), Reject> {
        let is_ahead = |made_at: u64| made_at > now.saturating_add(AHEAD);
        let others = approved.iter().filter(|payment| payment.payment_hash != invoice.payment_hash());
        let made_at = others.map(|payment| payment.made_at);
        let known = made_at.chain(self.hashes.iter().map(|known| known.made_at));
        let made = invoice.made_at();
        if is_ahead(made) && known.filter(|made_at| is_ahead(*made_at)).count() >= MOST_AHEAD {
            return Err(Reject::InvoiceAhead { made, now });
        }
        Ok(())
    }

    /// What was spent in that many seconds, and perhaps some minutes more.
    pub fn within(&self, seconds: u64, now: u64) -> Msat {
        let counted = self.sums.iter().filter(|sum| sum.counts(seconds, now));
        counted.fold(Msat::ZERO, |all, sum| all.saturating_add(sum.amount))
    }
}

impl Sum {
    fn counts(&self, seconds: u64, now: u64) -> bool {
        is_within(self.begins, seconds, now)
    }
}

/// Whether a limit for so many seconds still has what was counted at that time: until all of its five minutes has left. For what has an
/// entry too, or it would come back into the limit when it becomes part of a sum.
pub(super) fn is_within(counted_at: u64, seconds: u64, now: u64) -> bool {
    let last = begins(counted_at).saturating_add(STEP - 1);
    last.saturating_add(seconds) > now
}

fn begins(time: u64) -> u64 {
    time - time % STEP
}
