//! What a payee takes while it has authorised a payer to buy the next increment of its channel ([`crate::cheque::reverse`]).
//!
//! Whatever comes from the agent by itself could use the increment up for something else, or bury it under a point whose
//! secret nobody will ever tell. So it is refused; but a plain total that has the increment in it is paid, whoever paid for it.

use super::{Effect, Held, Reject, Status, above_dust, least};
use crate::amount::Msat;
use crate::channel::Channel;
use crate::cheque::promises;
use crate::cheque::receipt::Memo;
use crate::cheque::reverse::authorisation::{Release, Terms, Until};
use crate::cheque::reverse::purchase::Delivery;
use crate::transition::Transition;

/// Whom a payee authorises to what.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The payer's identity.
    pub payer: secp256k1::XOnlyPublicKey,
    /// What it may add.
    pub amount: Msat,
    /// Up to when nothing else is taken.
    pub until: Until,
    /// What for.
    pub memo: Memo,
    /// Whether this channel's funding is deep enough to count in full.
    pub is_deep: bool,
    /// The tip's height.
    pub height: u32,
    /// How many blocks before its expiry the payee closes the channel.
    pub margin: u32,
}

impl Held {
    /// The authorisation that is open, to be signed and given to its payer.
    pub fn authorised(&self) -> Option<&Terms> {
        self.authorised.as_ref()
    }

    /// Whether whatever is promised here may be taken back, so that a payer may be authorised. An offer that was made under an authorisation
    /// which was given back stays until the agent hears of the next one: if its secret comes out after all, it pays the payee.
    pub fn is_free(&self) -> bool {
        self.authorised.is_none() && self.status.iter().all(|status| matches!(status, Status::Open))
    }

    /// While a payer is authorised nothing that is promised here is counted on: the payer adds to the total that it was told.
    pub(super) fn is_not_authorised(&self) -> Result<(), Reject> {
        match &self.authorised {
            Some(terms) => Err(Reject::Authorised(terms.until.get())),
            None => Ok(()),
        }
    }

    /// The same wish again is the same authorisation.
    pub(super) fn authorise(
        &self,
        channel: &Channel,
        wish: Wish,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let Wish { payer, amount, until, memo, is_deep, height, margin } = wish;
        if let Some(open) = &self.authorised {
            let is_same = open.payer == payer && open.amount == amount && open.memo == memo;
            return if is_same {
                Ok(Transition::to(self.clone()).then(Effect::Authorise(open.clone())))
            } else {
                Err(Reject::NotFree)
            };
        }
        if !self.is_free() {
            return Err(Reject::NotFree);
        }
        let expiry = channel.params().expiry.height();
        if until.get().saturating_add(margin) >= expiry {
            return Err(Reject::TooLong { until: until.get(), expiry, margin });
        }
        if until.is_over(height) || amount == Msat::ZERO {
            return Err(Reject::TooNear { expiry: until.get(), height });
        }
        if !is_deep {
            return Err(Reject::NotDeep);
        }
        let terms = Terms {
            channel: channel.id(),
            serial: self.authorisations + 1,
            number: self.signed.terms.number,
            base: self.signed.terms.base_total(),
            amount,
            payer,
            until,
            memo,
        };
        above_dust(terms.total(), least(channel))?;
        if terms.total() > channel.max_total() {
            return Err(Reject::OverCapacity { most: channel.max_total(), got: terms.total() });
        }
        let next = Self { authorised: Some(terms.clone()), authorisations: terms.serial, ..self.clone() };
        Ok(Transition::to(next).then(Effect::Authorise(terms)))
    }

    /// A release of anything else changes nothing.
    pub(super) fn released(&self, release: &Release) -> Transition<Self, Effect> {
        let is_released = self.authorised.as_ref().is_some_and(|terms| release.is_of(terms));
        self.closed_if(is_released)
    }

    pub(super) fn lapsed(&self, height: u32) -> Transition<Self, Effect> {
        let is_over = self.authorised.as_ref().is_some_and(|terms| terms.until.is_over(height));
        self.closed_if(is_over)
    }

    fn closed_if(&self, is_over: bool) -> Transition<Self, Effect> {
        let authorised = self.authorised.clone().filter(|_| !is_over);
        Transition::to(Self { authorised, ..self.clone() })
    }

    /// What an update from the agent pays of the authorised increment: nothing is authorised, or all of it.
    pub(super) fn increment_in(&self, update: &promises::Terms) -> Result<Msat, Reject> {
        match &self.authorised {
            None => Ok(Msat::ZERO),
            Some(terms) if update.promises.is_empty() && update.base_total() >= terms.total() => {
                Ok(terms.amount)
            }
            Some(terms) => Err(Reject::Authorised(terms.until.get())),
        }
    }

    /// Takes the increment that a payer has mailed, and completes it at once. Mail that comes again, or after the agent has paid
    /// plainly, changes nothing; mail that comes after its authorisation has ended is taken if it still fits.
    pub(super) fn collect(
        &self,
        channel: &Channel,
        delivery: Delivery,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let Delivery { serial, update, secret } = delivery;
        let point = secret.point();
        let offered = &update.signed.terms;
        let authorised = self.authorised.as_ref().filter(|terms| terms.serial == serial);
        let is_over = self.has_bought(&point) || offered.number < self.signed.terms.number;
        if is_over && authorised.is_none() {
            return Ok(Transition::to(self.clone()));
        }
        let [increment] = offered.promises.as_slice() else { return Err(Reject::NotAuthorised) };
        if increment.point != point || serial > self.authorisations {
            return Err(Reject::NotAuthorised);
        }
        let amount = increment.amount;
        let is_it =
            authorised.is_some_and(|terms| amount == terms.amount && offered.base_total() == terms.base);
        if self.authorised.is_some() && !is_it {
            return Err(Reject::NotAuthorised);
        }
        let mut open = Self { authorised: None, ..self.clone() };
        // A payer cannot know under which points something was sold or given up here before, so it is not to lose by an agent that
        // sells under one of them again. The increment is completed at once, and its point is sold anew.
        if is_it {
            open.sold.remove(&point);
            open.given_up.remove(&point);
        }
        let taken = open.take(channel, *update, Msat::ZERO)?;
        let (collected, cashed) = taken.and_then(|held| held.cash(channel, secret, amount));
        cashed?;
        Ok(collected)
    }
}
