//! What the device has agreed to pay, and what it spent. An invoice is approved once; an HTLC is offered only for an approved
//! invoice; a payment whose preimage is known is never tried again. The gateway keeps the same books for a device, under its own
//! copy of the owner's policy.

use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};

use super::bolt3::{Htlc, PaymentHash, Preimage};
use super::invoice::Invoice;
use super::policy::{Policy, Tip};
use super::reject::Reject;
use crate::amount::Msat;

/// How many invoices are kept at once.
const MOST_APPROVED: usize = 1_000;

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
    expires_at: u64,
    payee: PublicKey,
    source: Source,
    /// When it was approved or, later, last offered: since then it counts in the limits.
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
}

/// The approved invoices that still matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payments {
    list: Vec<Payment>,
}

impl Payments {
    /// Agrees to pay an invoice. The same one again changes nothing. `is_live` tells whether an HTLC with that hash may still be
    /// fulfilled.
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
        self.forget_old(policy, tip, is_live);
        let payment = Payment {
            payment_hash: invoice.payment_hash(),
            amount: invoice.amount(),
            most_fee: policy.most_routing_fee(invoice.amount()),
            expires_at: invoice.expires_at(),
            payee: invoice.payee(),
            source,
            counted_at: tip.time,
            offered: None,
            preimage: None,
        };
        if let Some(known) = self.find(&payment.payment_hash) {
            let same = (known.amount, known.expires_at) == (payment.amount, payment.expires_at);
            return if same && known.preimage.is_none() { Ok(()) } else { Err(Reject::HashUsed) };
        }
        self.check(policy, &payment, tip)?;
        if self.list.len() >= MOST_APPROVED {
            return Err(Reject::TooManyApproved { most: MOST_APPROVED });
        }
        self.list.push(payment);
        Ok(())
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
        // The policy may have changed since the approval, and what was approved hours ago is spent now. An invoice that has expired since
        // may have been paid another way.
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
            let recent = others.filter(|other| other.counted_at.saturating_add(seconds) > tip.time);
            let got = recent.fold(payment.most(), |sum, other| sum.saturating_add(other.weight()));
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

    /// The proof of payment, once there is one.
    pub fn preimage(&self, hash: &PaymentHash) -> Option<Preimage> {
        self.find(hash)?.preimage
    }

    /// The proof of payment, and what the HTLC held that was paid, fees included.
    pub fn paid(&self, hash: &PaymentHash) -> Option<(Preimage, Msat)> {
        let payment = self.find(hash)?;
        Some((payment.preimage?, payment.offered?))
    }

    fn find(&self, hash: &PaymentHash) -> Option<&Payment> {
        self.list.iter().find(|payment| payment.payment_hash == *hash)
    }

    /// An expired invoice that has no HTLC can cost nothing any more, and what was spent long ago is in no limit.
    fn forget_old(&mut self, policy: &Policy, tip: Tip, is_live: impl Fn(&PaymentHash) -> bool) {
        let longest = policy.velocities().iter().map(|(seconds, _)| *seconds).max().unwrap_or_default();
        self.list.retain(|payment| {
            let is_counted =
                payment.preimage.is_some() && payment.counted_at.saturating_add(longest) > tip.time;
            is_live(&payment.payment_hash) || payment.expires_at > tip.time || is_counted
        });
    }
}
