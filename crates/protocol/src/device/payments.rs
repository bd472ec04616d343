//! What the device has agreed to pay, and what it spent. An HTLC is offered only for an approved invoice; a payment whose preimage is known
//! is never tried again. The gateway keeps the same books for a device, under its own copy of the owner's policy.
//!
//! **An approval** is what the gateway begins a payment on, and its Lightning node cannot take an HTLC back: one that the device refuses stops
//! the channel. So everything is checked at the approval, and at each that follows for a payment that failed, as if it were the first. What
//! was approved and not paid counts in all limits until its invoice expires, since its HTLC may come at any time (for a day, though: who
//! makes an invoice that is good for years shall not use up the limits for years). So the HTLC still fits when it comes, unless the owner has
//! made the policy stricter meanwhile: the newest policy holds for everything that was not signed for. A payment that failed is given up
//! ([`Payments::give_up`]), and counts no more.

use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};

use super::bolt3::{Htlc, PaymentHash, Preimage};
use super::invoice::Invoice;
use super::policy::{DAY, Policy, Tip};
use super::reject::Reject;
use crate::amount::Msat;

mod former;
mod spent;

pub use former::FormerPayments;
use spent::{Spent, is_within};

/// How many invoices may be approved and neither paid nor expired.
const MOST_APPROVED: usize = 1_000;
/// In the place of when a payment counts: long ago.
const GIVEN_UP: u64 = 0;
/// Of so many payments that were made the proof is kept, for a program that had ended when it came.
const MOST_PROOFS: usize = 32;

/// How the device came by an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// By itself, from the payee: over the air, by a camera, by its user.
    Direct,
    /// Through the gateway, which could have put in its own.
    Gateway,
}

/// One approved invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Payment {
    payment_hash: PaymentHash,
    amount: Msat,
    most_fee: Msat,
    made_at: u64,
    expires_at: u64,
    payee: PublicKey,
    source: Source,
    /// When it was approved or, later, last offered: since then it counts in the limits. [`GIVEN_UP`] after it failed.
    counted_at: u64,
    /// What the last HTLC for it held.
    offered: Option<Msat>,
    preimage: Option<Preimage>,
}

impl Payment {
    fn most(&self) -> Msat {
        self.amount.saturating_add(self.most_fee)
    }

    /// What it counts for in the limits: what was paid, or what may be paid.
    fn weight(&self) -> Msat {
        match (self.preimage, self.offered) {
            (Some(_), Some(offered)) => offered,
            (Some(_) | None, _) => self.most(),
        }
    }

    /// Whether it counts in the limit for so many seconds. What is not paid may be offered at any time.
    fn counts(&self, seconds: u64, now: u64) -> bool {
        let is_within = |seconds| is_within(self.counted_at, seconds, now);
        let may_come = self.preimage.is_none() && self.expires_at > now;
        is_within(seconds) || may_come && is_within(DAY)
    }
}

/// The approved invoices that still matter, and what was paid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payments {
    /// Approved, and the last that were paid; in the order in which they came.
    list: Vec<Payment>,
    /// Those that were paid before.
    spent: Spent,
}

impl Payments {
    /// Agrees to pay an invoice. Again for one that failed: by what the policy says now. `is_live` tells whether an HTLC with that hash may
    /// still be fulfilled; such a payment stays what it is.
    ///
    /// # Errors
    /// The rule of the policy that it breaks.
    pub fn approve(
        &mut self,
        policy: &Policy,
        invoice: &Invoice,
        source: Source,
        tip: Tip,
        is_live: impl Fn(&PaymentHash) -> bool,
    ) -> Result<(), Reject> {
        self.tidy(tip, &is_live);
        let mut payment = Payment {
            payment_hash: invoice.payment_hash(),
            amount: invoice.amount(),
            most_fee: policy.most_routing_fee(invoice.amount()),
            made_at: invoice.made_at(),
            expires_at: invoice.expires_at(),
            payee: invoice.payee(),
            source,
            counted_at: tip.time,
            offered: None,
            preimage: None,
        };
        let known = self.list.iter().position(|known| known.payment_hash == payment.payment_hash);
        if let Some(known) = known.and_then(|at| self.list.get_mut(at)) {
            let terms = |payment: &Payment| (payment.amount, payment.expires_at, payment.payee);
            if known.preimage.is_some() || terms(known) != terms(&payment) {
                return Err(Reject::HashUsed);
            }
            if is_live(&payment.payment_hash) {
                return Ok(());
            }
            // Signed anew with another date, the invoice of before is good as well.
            payment.made_at = payment.made_at.max(known.made_at);
        }
        self.spent.check(invoice)?;
        self.check(policy, &payment, tip)?;
        self.spent.check_date(invoice, &self.list, tip.time)?;
        if let Some(known) = known.and_then(|at| self.list.get_mut(at)) {
            *known = payment;
            return Ok(());
        }
        if self.list.iter().filter(|payment| payment.preimage.is_none()).count() >= MOST_APPROVED {
            let gives_way = |payment: &Payment| {
                let is_given_up = payment.counted_at == GIVEN_UP && payment.preimage.is_none();
                is_given_up && !is_live(&payment.payment_hash)
            };
            let oldest = self.list.iter().position(gives_way);
            self.list.remove(oldest.ok_or(Reject::TooManyApproved { most: MOST_APPROVED })?);
        }
        self.list.push(payment);
        Ok(())
    }

    /// Takes note that a payment failed. It counts no more, and gives way when others need the room. An HTLC that comes for it all the same is
    /// held to what the limits leave then: who says that it failed may be wrong. The caller has checked that none is live.
    pub fn give_up(&mut self, hash: &PaymentHash) {
        let unpaid = |payment: &&mut Payment| payment.payment_hash == *hash && payment.preimage.is_none();
        if let Some(payment) = self.list.iter_mut().find(unpaid) {
            payment.counted_at = GIVEN_UP;
        }
    }

    /// Takes note of an HTLC that is to be offered for an approved invoice. The caller has checked that no other one is live.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn offer(&mut self, policy: &Policy, htlc: &Htlc, tip: Tip) -> Result<(), Reject> {
        let hash = htlc.payment_hash;
        let payment = *self.find(&hash).ok_or(Reject::NotApproved(hash))?;
        if payment.preimage.is_some() {
            return Err(Reject::Settled(hash));
        }
        // The policy may have become stricter since the approval. An invoice that has expired since may have been paid another way.
        self.check(policy, &payment, tip)?;
        let (least, most, got) = (payment.amount, payment.most(), htlc.amount);
        if got < least || got > most {
            return Err(Reject::HtlcAmount { least, most, got });
        }
        let least = tip.height.saturating_add(1);
        let most = tip.height.saturating_add(policy.most_expiry_delta);
        if htlc.expiry < least || htlc.expiry > most {
            return Err(Reject::CltvRange { least, most, got: htlc.expiry });
        }
        if let Some(payment) = self.list.iter_mut().find(|payment| payment.payment_hash == hash) {
            payment.offered = Some(htlc.amount);
            payment.counted_at = tip.time;
        }
        Ok(())
    }

    /// Whether the policy allows a payment now, whatever else it allowed in the last hour and day.
    fn check(&self, policy: &Policy, payment: &Payment, tip: Tip) -> Result<(), Reject> {
        if policy.paused {
            return Err(Reject::Paused);
        }
        if payment.expires_at <= tip.time {
            return Err(Reject::InvoiceExpired { expired: payment.expires_at, now: tip.time });
        }
        let is_listed_only = payment.source == Source::Gateway || !policy.payees.is_empty();
        if is_listed_only && !policy.payees.contains(&payment.payee) {
            return Err(Reject::PayeeNotListed);
        }
        let (most, got) = (policy.per_payment, payment.most());
        if got > most {
            return Err(Reject::PerPayment { most, got });
        }
        for (seconds, most) in policy.velocities() {
            let others = self.list.iter().filter(|other| other.payment_hash != payment.payment_hash);
            let counted = others.filter(|other| other.counts(seconds, tip.time));
            let spent = payment.most().saturating_add(self.spent.within(seconds, tip.time));
            let got = counted.fold(spent, |sum, other| sum.saturating_add(other.weight()));
            if got > most {
                return Err(Reject::Velocity { seconds, most, got });
            }
        }
        Ok(())
    }

    /// Takes note of the preimages that are shown. What hashes to no approved invoice is dropped.
    pub fn learn(&mut self, preimages: &[Preimage]) {
        for preimage in preimages {
            let hash = preimage.hash();
            if let Some(payment) = self.list.iter_mut().find(|payment| payment.payment_hash == hash) {
                payment.preimage = Some(*preimage);
            }
        }
    }

    /// The same for who hears of a payment when it is over, and what it cost, fees included.
    pub fn learn_cost(&mut self, preimage: Preimage, cost: Msat) {
        let hash = preimage.hash();
        let paid = self.list.iter_mut().find(|payment| payment.payment_hash == hash);
        if let Some(payment) = paid {
            (payment.preimage, payment.offered) = (Some(preimage), Some(cost));
        }
    }

    /// The proof of payment, once there is one, and while it is kept.
    pub fn preimage(&self, hash: &PaymentHash) -> Option<Preimage> {
        self.find(hash)?.preimage
    }

    /// The proof of payment, and what the HTLC held that was paid, fees included.
    pub fn paid(&self, hash: &PaymentHash) -> Option<(Preimage, Msat)> {
        let payment = self.find(hash)?;
        Some((payment.preimage?, payment.offered?))
    }

    /// Whether an invoice was not paid, for books that are not these.
    ///
    /// # Errors
    /// When it was, or may have been.
    pub fn check_unpaid(&self, invoice: &Invoice) -> Result<(), Reject> {
        if self.preimage(&invoice.payment_hash()).is_some() {
            return Err(Reject::HashUsed);
        }
        self.spent.check(invoice)
    }

    fn find(&self, hash: &PaymentHash) -> Option<&Payment> {
        self.list.iter().find(|payment| payment.payment_hash == *hash)
    }

    /// An expired invoice that has no HTLC can cost nothing any more, and what was spent long ago is in no limit.
    fn tidy(&mut self, tip: Tip, is_live: impl Fn(&PaymentHash) -> bool) {
        self.list.retain(|payment| {
            let is_counted = payment.preimage.is_some() && payment.counts(DAY, tip.time);
            is_live(&payment.payment_hash) || payment.expires_at > tip.time || is_counted
        });
        // Without its preimage the money of an HTLC that is still in a state could not be told.
        let is_over = |payment: &Payment| payment.preimage.is_some() && !is_live(&payment.payment_hash);
        let over = self.list.iter().filter(|payment| is_over(payment)).count();
        let (mut leaving, spent) = (over.saturating_sub(MOST_PROOFS), &mut self.spent);
        self.list.retain(|payment| {
            let leaves = leaving > 0 && is_over(payment);
            if leaves {
                leaving -= 1;
                spent.add(payment);
            }
            !leaves
        });
        self.spent.tidy(tip.time);
    }
}
