//! What became of a payment. The gateway's word for it is not enough: what a channel has of it, the payee may still take, or has taken.

use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{PaymentHash, Preimage};
use farthing_protocol::device::wire::{ChannelKeysId, Report};
use farthing_protocol::device::{Input, Invoice, Reject};

use super::store::{Outcome, Paid};
use super::{Device, GiveError};
use crate::store::StoreError;

/// What the books of all channels say of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The proof is there.
    Paid {
        /// Who paid.
        channel: ChannelKeysId,
        /// The proof.
        preimage: Preimage,
        /// What it cost, fees included.
        cost: Msat,
    },
    /// An HTLC may still be fulfilled.
    Live,
    /// No HTLC is there, and no proof.
    Nothing,
}

impl Device {
    /// What became of a payment, by the books of all channels.
    pub fn fate(&self, hash: &PaymentHash) -> Fate {
        let proof = self.lives().find_map(|(channel, life)| {
            let (preimage, cost) = life.state.account().payments().paid(hash)?;
            Some(Fate::Paid { channel, preimage, cost })
        });
        let is_live = || self.lives().any(|(_, life)| life.state.account().is_live(hash));
        proof.unwrap_or_else(|| if is_live() { Fate::Live } else { Fate::Nothing })
    }

    /// The newest payments, at most so many, with what the books of all channels have of them: a gateway may not tell of an end, or tell
    /// of one that is none.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn payments(&self, most: u32) -> Result<Vec<Paid>, StoreError> {
        let as_known = |noted: Paid| {
            let Ok(invoice) = Invoice::parse(&noted.invoice, self.enrolled.enrolment.network) else {
                return noted;
            };
            let outcome = match (&noted.outcome, self.fate(&invoice.payment_hash())) {
                (Outcome::Paid { .. }, _) => return noted,
                (_, Fate::Paid { preimage, cost, .. }) => paid(preimage, cost, Some(invoice.amount())),
                (_, Fate::Live) => Outcome::Pending,
                // No HTLC is signed for it any more.
                (Outcome::Pending, Fate::Nothing) if invoice.expires_at() <= self.headers.tip().time => {
                    Outcome::Failed("its invoice has expired, and no channel has it".to_owned())
                }
                (Outcome::Pending | Outcome::Failed(_), Fate::Nothing) => return noted,
            };
            Paid { outcome, ..noted }
        };
        Ok(self.store.payments(most)?.into_iter().map(as_known).collect())
    }

    /// Takes note of a payment's end, of which the gateway reports; other reports are none. Gives what is known then.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn hear(&mut self, report: &Report, now: u64) -> Result<Option<Outcome>, GiveError> {
        match report {
            Report::Paid { preimage, fee } => {
                let outcome = Outcome::Paid { preimage: preimage.0, fee_msat: Some(fee.get()) };
                Ok(Some(self.ended(&preimage.hash(), outcome, now)?))
            }
            Report::Failed { payment_hash, why } => self.failed(payment_hash, why, now),
            _other => Ok(None),
        }
    }

    /// The gateway says that a payment failed. Whether it did, the channels say: `None` while its payee may still take it; then nothing is
    /// noted.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn failed(&mut self, hash: &PaymentHash, why: &str, now: u64) -> Result<Option<Outcome>, GiveError> {
        let outcome = match self.fate(hash) {
            Fate::Live => return Ok(None),
            Fate::Paid { preimage, cost, .. } => {
                let amount = self.store.payment(&hash.0)?.map(|paid| Msat::new(paid.amount_msat));
                paid(preimage, cost, amount)
            }
            Fate::Nothing => {
                if let Some((channel, _)) = self.paying() {
                    self.give(channel, Input::GiveUp(*hash))?;
                }
                Outcome::Failed(why.to_owned())
            }
        };
        Ok(Some(self.ended(hash, outcome, now)?))
    }

    /// Notes the end of a payment that was noted before. A proof stays one, whatever comes after it.
    fn ended(&mut self, hash: &PaymentHash, outcome: Outcome, now: u64) -> Result<Outcome, GiveError> {
        let Some(before) = self.store.payment(&hash.0)? else { return Ok(outcome) };
        match (&before.outcome, &outcome) {
            (Outcome::Paid { .. }, _) => return Ok(before.outcome),
            // Nothing new. The order of payments is no affair of the gateway's: penalties know the newest.
            (Outcome::Failed(_), Outcome::Failed(_)) => return Ok(outcome),
            (Outcome::Pending | Outcome::Failed(_), _) => {}
        }
        let channel = self.paying().map_or(ChannelKeysId([0; 32]), |(id, _)| id);
        self.store.note(&hash.0, channel, &Paid { outcome: outcome.clone(), ..before }, now)?;
        Ok(outcome)
    }

    /// Whether no other channel has to do with an invoice: its books do not know of theirs, and one preimage would take its payment from both.
    pub(super) fn check_others(&self, id: ChannelKeysId, invoice: &Invoice) -> Result<(), Reject> {
        let hash = invoice.payment_hash();
        for (_, life) in self.lives().filter(|(other, _)| *other != id) {
            let account = life.state.account();
            account.payments().check_unpaid(invoice)?;
            if account.is_live(&hash) {
                return Err(Reject::Live(hash));
            }
        }
        Ok(())
    }
}

fn paid(preimage: Preimage, cost: Msat, amount: Option<Msat>) -> Outcome {
    let fee = amount.map(|amount| cost.saturating_sub(amount).get());
    Outcome::Paid { preimage: preimage.0, fee_msat: fee }
}
