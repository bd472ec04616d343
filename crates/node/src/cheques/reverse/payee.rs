//! The payee's end: it authorises a payer before it goes offline, and collects when it is back.

use farthing_protocol::cheque::held::{self, Wish};
use farthing_protocol::cheque::holder;
use farthing_protocol::cheque::point::AdaptorPoint;
use farthing_protocol::cheque::receipt::Memo;
use farthing_protocol::cheque::reverse::authorisation::{Authorisation, Release, Terms, Until};
use farthing_protocol::cheque::reverse::purchase::Delivery;
use farthing_protocol::cheque::route::Route;
use farthing_protocol::cheque::side::{Effect, Setup, Side};
use farthing_protocol::{ChannelId, Msat};
use secp256k1::XOnlyPublicKey;

use crate::books::OrderError;
use crate::cheques::cashing::CashError;
use crate::cheques::machine::held;
use crate::cheques::paper::{Paper, Presented};
use crate::cheques::{Failed, Teller};

/// What a payee authorises.
#[derive(Clone, Debug)]
pub struct Permit {
    /// In which channel the payer may add something.
    pub channel: ChannelId,
    /// Who.
    pub payer: XOnlyPublicKey,
    /// How much.
    pub amount: Msat,
    /// Until when nothing else is taken; as long as the channel allows if it says nothing.
    pub until: Option<Until>,
    /// What for.
    pub memo: Memo,
}

impl Teller {
    /// Authorises a payer to add to one of this payee's channels: stored before it is signed. The same again is the same. Blocks.
    ///
    /// # Errors
    /// When something else is open in the channel, it could not be claimed in time, or it could not be stored.
    pub fn authorise(&self, permit: Permit) -> Result<Authorisation, CashError> {
        let Permit { channel, payer, amount, until, memo } = permit;
        let setup = self.books.setup(&channel).ok_or(OrderError::NoChannel(channel))?;
        let Setup::Holder(holder) = &*setup else { return Err(OrderError::NoChannel(channel).into()) };
        let margin = self.terms.paid.margin;
        let longest = holder.channel.params().expiry.height().saturating_sub(margin + 1);
        let wish = Wish {
            payer,
            amount,
            until: until.unwrap_or(Until::height(longest)),
            memo,
            // The channel's own state says so.
            is_deep: false,
            height: self.chain.tip()?.height,
            margin,
        };
        if self.has_lock(channel)? {
            return Err(OrderError::Rejected(holder::Reject::Promises(held::Reject::NotFree).into()).into());
        }
        let outcome = self.books.handle_blocking(channel, held(held::Input::Authorise(wish)))?;
        let terms = outcome.effects.into_iter().find_map(|effect| match effect {
            Effect::Holder(holder::Effect::Promises(held::Effect::Authorise(terms))) => Some(terms),
            Effect::Holder(_) | Effect::Drawer(_) => None,
        });
        let terms = terms.expect("what is open is to be signed");
        Ok(Authorisation::sign(terms, &self.seed.cheque_keys(), &holder.keys))
    }

    /// Whether a channel has a lock for a cheque that is not cashed: it could not be while a payer is authorised there. Blocks.
    fn has_lock(&self, channel: ChannelId) -> Result<bool, CashError> {
        let state = self.books.state_blocking(channel)?;
        let Some(holder) = state.as_ref().and_then(Side::holder) else { return Ok(false) };
        let promised: Vec<AdaptorPoint> =
            holder.held().promises().map(|(promise, _)| promise.point).collect();
        if promised.is_empty() {
            return Ok(false);
        }
        let is_locked = |paper: &Paper| match paper {
            Paper::Got(Presented { point, sale: Some(sale), cashed: false, .. }) => {
                let route = Route::new(point, &sale.tweaks).filter(|_| sale.channel == channel);
                route.and_then(|route| route.hops.last().map(|hop| promised.contains(&hop.point)))
                    == Some(true)
            }
            Paper::Got(_) | Paper::Written(_) | Paper::Bought(_) | Paper::Sold(_) => false,
        };
        Ok(self.papers()?.iter().any(is_locked))
    }

    /// Whether a payer may be authorised in a channel as it stands. Blocks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_free(&self, channel: ChannelId) -> Result<bool, CashError> {
        let state = self.books.state_blocking(channel)?;
        let is_free = state.as_ref().and_then(Side::holder).is_some_and(|holder| holder.held().is_free());
        Ok(is_free && !self.has_lock(channel)?)
    }

    /// The authorisations that are open. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn authorised(&self) -> Result<Vec<Terms>, Failed> {
        let open = |state: &Side| state.holder().and_then(|holder| holder.held().authorised()).cloned();
        Ok(self.books.present_blocking()?.iter().filter_map(|entry| open(&entry.state)).collect())
    }

    /// Whether the authorisation of that number is open in a channel. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn is_authorised(&self, channel: ChannelId, serial: u64) -> Result<bool, Failed> {
        let is_it = |terms: &Terms| terms.channel == channel && terms.serial == serial;
        Ok(self.authorised()?.iter().any(is_it))
    }

    /// Takes what a payer has mailed: the increment that it bought, completed and stored. Returns what it adds; zero when it was
    /// there before. Blocks.
    ///
    /// # Errors
    /// When it is not what was authorised, the channel could not be closed in time, or it could not be stored.
    pub fn collect(&self, channel: ChannelId, delivery: Delivery) -> Result<Msat, CashError> {
        let before = self.earned(channel)?;
        let input = held::Input::Collect {
            delivery: Box::new(delivery),
            // The channel's own state says so.
            is_deep: false,
            height: self.chain.tip()?.height,
            margin: self.terms.paid.margin,
        };
        let outcome = self.books.handle_blocking(channel, held(input))?;
        self.carry_out(channel, outcome.effects);
        Ok(self.earned(channel)?.saturating_sub(before))
    }

    /// Takes an authorisation back that its payer gave back. Anything else changes nothing. Blocks.
    ///
    /// # Errors
    /// When there is no such channel, or it could not be stored.
    pub fn take_release(&self, release: Release) -> Result<(), Failed> {
        self.books.handle_blocking(release.channel, held(held::Input::Release(release))).map(drop)
    }

    /// Ends the authorisations whose time is over. Blocks.
    ///
    /// # Errors
    /// When the node cannot be asked, or it could not be stored.
    pub fn end_authorisations(&self) -> Result<(), CashError> {
        let height = self.chain.tip()?.height;
        for terms in self.authorised()?.iter().filter(|terms| terms.until.is_over(height)) {
            self.books.handle_blocking(terms.channel, held(held::Input::Height(height)))?;
        }
        Ok(())
    }

    /// The channels whose payer may pay plainly what was bought, or has still to hear a secret; with the authorisation that is
    /// open. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn to_answer(&self) -> Result<Vec<(ChannelId, Option<Terms>)>, Failed> {
        let mut waiting = Vec::new();
        for entry in self.books.present_blocking()? {
            let Some(holder) = entry.state.holder().filter(|holder| holder.life().is_open()) else {
                continue;
            };
            let authorised = holder.held().authorised().cloned();
            if entry.record.peer().is_some() && (authorised.is_some() || holder.held().owes_secrets()) {
                waiting.push((entry.id, authorised));
            }
        }
        Ok(waiting)
    }

    /// Everything that was earned in a channel. Blocks.
    ///
    /// # Errors
    /// When there is no such channel.
    pub fn earned(&self, id: ChannelId) -> Result<Msat, Failed> {
        Ok(self.books.state_blocking(id)?.ok_or(OrderError::NoChannel(id))?.ledger().spent)
    }
}
