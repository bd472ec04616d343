//! The payee's end: cheques that came, the locks for them, and their secrets.

use farthing_chain::ChainError;
use farthing_protocol::cheque::book;
use farthing_protocol::cheque::cheque::Cheque;
use farthing_protocol::cheque::point::AdaptorPoint;
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_protocol::cheque::route::{self, Route};
use farthing_protocol::cheque::side::{Reject, Side};
use farthing_protocol::cheque::{held, holder};
use farthing_protocol::{ChannelId, Msat};
use secp256k1::XOnlyPublicKey;

use super::machine::held;
use super::paper::{Paper, Presented, Sale};
use super::{Failed, Teller, now};
use crate::books::OrderError;
use crate::prekeys::BookError;
use crate::store::{StoreError, Write};

/// Why a cheque is not cashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CashError {
    /// The book.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The channel refuses, or it could not be stored.
    #[error(transparent)]
    Order(#[from] Failed),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No such cheque.
    #[error("no cheque came under that point")]
    Unknown,
    /// It has no sale yet.
    #[error("nobody was asked for a lock yet")]
    NotAsked,
    /// No lock under the point that was asked for.
    #[error("no lock was made for this cheque")]
    NoLock,
    /// Tweaks that cancel out.
    #[error("the tweaks make no point: ask again")]
    NoPoint,
    /// The node cannot be asked for the height.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl CashError {
    /// Whether the same may be taken another time: what it concerns must be kept.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Chain(_) | Self::Store(_) | Self::Book(BookError::Store(_)) => true,
            Self::Book(BookError::Rejected(_)) => false,
            Self::Order(error) => match error {
                OrderError::Rejected(reject) => {
                    matches!(reject, Reject::Holder(holder::Reject::Promises(held::Reject::NotDeep)))
                }
                OrderError::NoChannel(_) => false,
                OrderError::FundingTaken(_)
                | OrderError::Store(_)
                | OrderError::Blind(_)
                | OrderError::Ended => true,
            },
            Self::Unknown | Self::NotAsked | Self::NoLock | Self::NoPoint => false,
        }
    }
}

impl Teller {
    /// Who this payee is.
    pub fn identity(&self) -> XOnlyPublicKey {
        self.seed.cheque_keys().identity()
    }

    /// Issues prekeys, to be published. Blocks.
    ///
    /// # Errors
    /// When there are too many, or that they are issued could not be stored.
    pub fn issue_prekeys(&self, count: u32) -> Result<Vec<SignedPrekey>, BookError> {
        self.prekeys.lock().expect("no holder of this lock panics").issue(count)
    }

    /// Takes in a cheque that came, if it is one to cash. The same again is the same. Blocks.
    ///
    /// # Errors
    /// When it is for somebody else, its prekey was used or is unknown, or it comes too late.
    pub fn receive(&self, cheque: Cheque, agent: String) -> Result<Presented, CashError> {
        let input = book::Input::Present {
            expiry: cheque.latest,
            height: self.chain.tip()?.height,
            margin: self.terms.paid.margin,
            cheque: Box::new(cheque.clone()),
        };
        let effects = self.prekeys.lock().expect("no holder of this lock panics").handle(input)?;
        let point = effects.into_iter().find_map(|effect| match effect {
            book::Effect::Ask(point) => Some(point),
            book::Effect::Publish(_) | book::Effect::Cash => None,
        });
        let point = point.expect("what may be presented is asked for");
        if let Some(known) = self.router.presented(&point)? {
            return Ok(known);
        }
        let presented = Presented { cheque, point, agent, at: now(), sale: None, cashed: false };
        self.write(Paper::Got(presented.clone()))?;
        Ok(presented)
    }

    /// Fixes how a cheque is cashed: in which channel, through whom, and what each node on the way gets. A way that was fixed before and then
    /// left has the same points when it is taken again: so a lock that was made on it is not lost. Nor is it by a fee that has changed since: what
    /// was fixed stays. Blocks.
    ///
    /// # Errors
    /// When there is no such cheque, the channel ends too late for it, or it could not be stored.
    pub fn plan_sale(
        &self,
        point: &AdaptorPoint,
        channel: ChannelId,
        via: Vec<String>,
        fees: &[Msat],
    ) -> Result<(Presented, Route), CashError> {
        let presented = self.router.presented(point)?.ok_or(CashError::Unknown)?;
        let setup = self.books.setup(&channel).ok_or(OrderError::NoChannel(channel))?;
        let input = book::Input::Present {
            cheque: Box::new(presented.cheque.clone()),
            expiry: setup.channel().params().expiry,
            height: self.chain.tip()?.height,
            margin: self.terms.paid.margin,
        };
        self.prekeys.lock().expect("no holder of this lock panics").handle(input)?;
        let planned = presented.sale.as_ref().filter(|sale| sale.channel == channel && sale.via == via);
        let sale = match planned {
            Some(sale) => sale.clone(),
            None => {
                let tweaks = route::tweaks(&self.seed.cheque_keys(), point, &channel, &via);
                let amounts = amounts(presented.cheque.terms.amount, fees);
                Sale { channel, tweaks, via, amounts }
            }
        };
        let route = Route::new(point, &sale.tweaks).ok_or(CashError::NoPoint)?;
        let is_new = presented.sale.as_ref() != Some(&sale);
        let presented = Presented { sale: Some(sale), ..presented };
        if is_new {
            self.write(Paper::Got(presented.clone()))?;
        }
        Ok((presented, route))
    }

    /// Cashes the lock for a cheque: what its prekey is used for is stored first, then the completed signature, and only then
    /// the secret may leave ([`Teller::secrets`]). Returns what was paid. Blocks.
    ///
    /// # Errors
    /// When there is no such lock, it pays too little, or the channel could not be closed in time.
    pub fn cash(&self, point: &AdaptorPoint) -> Result<Msat, CashError> {
        let presented = self.router.presented(point)?.ok_or(CashError::Unknown)?;
        let sale = presented.sale.as_ref().ok_or(CashError::NotAsked)?;
        let route = Route::new(point, &sale.tweaks).ok_or(CashError::NoPoint)?;
        let lock = route.hops.last().expect("a route has a hop").point;
        let state = self.books.state_blocking(sale.channel)?.ok_or(OrderError::NoChannel(sale.channel))?;
        let holder = state.holder().ok_or(CashError::NoLock)?;
        let promise = holder.held().promises().map(|(promise, _)| *promise);
        let Some(promise) = promise.into_iter().find(|promise| promise.point == lock) else {
            return Err(CashError::NoLock);
        };
        let cheque = &presented.cheque;
        let secret = {
            let mut prekeys = self.prekeys.lock().expect("no holder of this lock panics");
            let endorse = book::Input::Endorse { cheque: Box::new(cheque.clone()), offered: promise.amount };
            prekeys.handle(endorse)?;
            let book = prekeys.book()?;
            book.secret(prekeys.keys(), cheque).ok_or(CashError::NoPoint)?
        };
        let secret = secret.plus(&route.payee).ok_or(CashError::NoPoint)?;
        let input = held::Input::Cash {
            secret,
            least: cheque.terms.amount,
            // The channel's own state says so.
            is_deep: false,
            height: self.chain.tip()?.height,
            margin: self.terms.paid.margin,
        };
        let writes =
            vec![Write::Cheque(Box::new(Paper::Got(Presented { cashed: true, ..presented.clone() })))];
        let outcome = self.books.handle_and_write_blocking(sale.channel, held(input), writes)?;
        self.carry_out(sale.channel, outcome.effects);
        Ok(promise.amount)
    }

    /// The channels in which this payee is paid by whoever is reached there. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn cashing_channels(&self, payer: &str) -> Result<Vec<(ChannelId, Side)>, Failed> {
        let entries = self.books.present_blocking()?;
        let is_one = |state: &Side| state.holder().is_some_and(|holder| holder.life().is_open());
        let ours =
            entries.into_iter().filter(|entry| entry.record.peer() == Some(payer) && is_one(&entry.state));
        Ok(ours.map(|entry| (entry.id, entry.state)).collect())
    }

    /// A channel's agreement, also when it is over. Blocks.
    pub fn params(&self, id: ChannelId) -> Option<farthing_protocol::Params> {
        if let Some(setup) = self.books.setup(&id) {
            return Some(setup.channel().params().clone());
        }
        let entries = self.books.list_blocking().ok()?;
        Some(entries.iter().find(|entry| entry.id == id)?.record.params().clone())
    }
}

/// What each hop locks, the agent's first: the amount, and the fee of every node behind it.
pub fn amounts(amount: Msat, fees: &[Msat]) -> Vec<Msat> {
    let mut amounts = vec![amount];
    for fee in fees.iter().rev() {
        amounts.push(amounts[amounts.len() - 1].saturating_add(*fee));
    }
    amounts.reverse();
    amounts
}
