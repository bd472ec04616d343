//! The payer's end: it buys a signature for a payee that is offline.
//!
//! That something is promised is stored with the promise itself, in one write. What the channel gives away later, by message or on
//! the chain, comes here through the router (`cheques/routing.rs`); it is mailed again until the mailbox has it.

use farthing_chain::{ChainError, OutputStatus};
use farthing_protocol::channel::Channel;
use farthing_protocol::cheque::drawn::{self, Kind, Outcome};
use farthing_protocol::cheque::reverse::authorisation::{Authorisation, Release};
use farthing_protocol::cheque::reverse::purchase::{
    self, Conditions, Delivery, Effect, Input, Offer, Purchase, State,
};
use farthing_protocol::{ChannelId, Msat, Params};
use secp256k1::XOnlyPublicKey;

use crate::books::OrderError;
use crate::cheques::machine::drawn;
use crate::cheques::paper::{Bought, Drawer, Paper};
use crate::cheques::routing::Router;
use crate::cheques::{Failed, Teller, now};
use crate::crash;
use crate::store::{StoreError, Write};

/// Why nothing was bought, or given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuyError {
    /// The rules forbid it.
    #[error(transparent)]
    Rejected(#[from] purchase::Reject),
    /// The channel refuses, or it could not be stored.
    #[error(transparent)]
    Order(#[from] Failed),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// No such purchase.
    #[error("nothing was begun under this authorisation")]
    Unknown,
}

/// What is still to be mailed to a payee.
#[derive(Clone, Debug, PartialEq)]
pub enum Mail {
    /// What it can claim.
    Delivery(ChannelId, Delivery),
    /// An authorisation that is given back.
    Release(Release),
}

impl Teller {
    /// Takes note of an authorisation. The same again is the same. Blocks.
    ///
    /// # Errors
    /// When it could not be read or stored.
    pub fn begin_purchase(
        &self,
        authorisation: Authorisation,
        agent: String,
        to: String,
    ) -> Result<Bought, BuyError> {
        let _one_at_a_time = self.router.one_at_a_time();
        if let Some(known) = self.bought(&authorisation.digest())? {
            return Ok(known);
        }
        let bought = Bought { purchase: Purchase::new(authorisation), channel: None, agent, to, at: now() };
        self.write(Paper::Bought(bought.clone()))?;
        Ok(bought)
    }

    /// The channels in which the price of what is authorised could be promised: to that agent, free, large enough, and over early
    /// enough. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn buying_channels(
        &self,
        agent: &str,
        authorisation: &Authorisation,
        price: Msat,
    ) -> Result<Vec<ChannelId>, Failed> {
        let mut fitting = Vec::new();
        for id in self.channels_to(agent, Kind::Purchase)? {
            let (Some(state), Some(params)) = (self.books.state_blocking(id)?, self.params(id)) else {
                continue;
            };
            let Some(drawer) = state.drawer() else { continue };
            let total = drawer.drawn().ledger().paid().saturating_add(price);
            let has_room = Channel::new(params.clone()).is_ok_and(|channel| total <= channel.max_total());
            let ends = params.expiry.height().saturating_add(self.terms.delta);
            if !drawer.drawn().is_open() && has_room && ends <= authorisation.terms.until.get() {
                fitting.push(id);
            }
        }
        Ok(fitting)
    }

    /// Checks an agent's offer, and promises its price in a channel. Its update has to be brought to the agent. Blocks.
    ///
    /// # Errors
    /// When the offer is not what the payee authorised, could not be claimed in time, or is too dear. Then nothing is promised.
    pub fn buy_signature(
        &self,
        digest: &[u8; 32],
        channel: ChannelId,
        offer: Offer,
        payee: XOnlyPublicKey,
        most: Msat,
    ) -> Result<Bought, BuyError> {
        let one_at_a_time = self.router.one_at_a_time();
        let bought = self.bought(digest)?.ok_or(BuyError::Unknown)?;
        let params = self.params(channel).ok_or(OrderError::NoChannel(channel))?;
        let keys = self.seed.cheque_keys();
        let conditions = Conditions {
            payer: keys.identity(),
            payee,
            most,
            expiry: params.expiry,
            delta: self.terms.delta,
            margin: self.terms.paid.margin,
            is_deep: self.is_deep(&offer.params)?,
            height: self.chain.tip()?.height,
        };
        let promised = bought.purchase.handle(&keys, Input::Promise(Box::new(offer), conditions))?;
        let mut carried = Vec::new();
        let with = |purchase: &Purchase| Bought {
            purchase: purchase.clone(),
            channel: Some(channel),
            ..bought.clone()
        };
        let (purchase, _promised_in_the_same_write) = promised.commit(|purchase| {
            let promise = purchase.promise().expect("it was promised just now");
            let paper = Write::Cheque(Box::new(Paper::Bought(with(purchase))));
            let input = drawn(drawn::Input::Promise(promise));
            crash::point();
            carried = self.books.handle_and_write_blocking(channel, input, vec![paper])?.effects;
            Ok::<_, Failed>(())
        })?;
        drop(one_at_a_time);
        self.carry_out(channel, carried);
        Ok(with(&purchase))
    }

    /// Gives an authorisation back under which nothing was promised, and never will be. Blocks.
    ///
    /// # Errors
    /// When something was promised, it is another payer's, or it could not be stored.
    pub fn give_back(&self, digest: &[u8; 32]) -> Result<Bought, BuyError> {
        self.advance(digest, Input::Release)
    }

    /// Takes note that the payee's mailbox has what was to be mailed. Blocks.
    ///
    /// # Errors
    /// When there is no such purchase, or it could not be stored.
    pub fn delivered(&self, digest: &[u8; 32]) -> Result<Bought, BuyError> {
        self.advance(digest, Input::Delivered)
    }

    /// What of a purchase is to be mailed to the payee.
    pub fn to_mail(&self, bought: &Bought) -> Option<Mail> {
        let channel = bought.purchase.authorisation().terms.channel;
        bought.purchase.resume(&self.seed.cheque_keys()).into_iter().find_map(|effect| match effect {
            Effect::Deliver(delivery) => Some(Mail::Delivery(channel, delivery)),
            Effect::Release(release) => Some(Mail::Release(release)),
            Effect::Promise(_) => None,
        })
    }

    /// Everything that was begun. Blocks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn purchases(&self) -> Result<Vec<Bought>, StoreError> {
        Ok(self.papers()?.into_iter().filter_map(of_payer).collect())
    }

    fn advance(&self, digest: &[u8; 32], input: Input) -> Result<Bought, BuyError> {
        let _one_at_a_time = self.router.one_at_a_time();
        let bought = self.bought(digest)?.ok_or(BuyError::Unknown)?;
        let next = bought.purchase.handle(&self.seed.cheque_keys(), input)?;
        let with = |purchase: &Purchase| Bought { purchase: purchase.clone(), ..bought.clone() };
        let (purchase, _repeated_by_resume) =
            next.commit(|purchase| self.write(Paper::Bought(with(purchase))))?;
        Ok(with(&purchase))
    }

    fn bought(&self, digest: &[u8; 32]) -> Result<Option<Bought>, StoreError> {
        Ok(self.router.paper(Drawer::Bought, digest)?.and_then(of_payer))
    }

    /// Whether a channel of others is as deep in the chain as this program asks of its own, and nothing spends it.
    fn is_deep(&self, params: &Params) -> Result<bool, ChainError> {
        let Ok(channel) = Channel::new(params.clone()) else { return Ok(false) };
        let needed = self.terms.paid.confirmations.required(params.capacity);
        Ok(match self.chain.output(&params.funding)? {
            OutputStatus::Confirmed { confirmations, output } => {
                output == channel.funding_txout() && confirmations >= needed
            }
            OutputStatus::Absent | OutputStatus::SpentInMempool { .. } | OutputStatus::Unconfirmed { .. } => {
                false
            }
        })
    }
}

impl Router {
    /// What a payer's channel gave away, or that it never will, is stored with the purchase.
    pub(in crate::cheques) fn keep_bought(&self, id: ChannelId, outcome: &Outcome) -> Result<(), Failed> {
        let input = match outcome {
            Outcome::Paid(secret) => Input::Paid(secret.clone()),
            Outcome::Ended(point) => Input::Ended(*point),
            // Such a channel has one promise, so no two are paid at once.
            Outcome::PaidJointly(points, _) => {
                tracing::error!(channel = %id, count = points.len(), "several purchases were paid at once");
                return Ok(());
            }
        };
        let point = match &input {
            Input::Paid(secret) => secret.point(),
            Input::Ended(point) => *point,
            Input::Promise(..) | Input::Release | Input::Delivered => return Ok(()),
        };
        let _one_at_a_time = self.one_at_a_time();
        let papers = self.reader.lock().expect("no holder of this lock panics").papers();
        let papers = papers.map_err(|error| OrderError::Store(std::sync::Arc::new(error)))?;
        let is_it = |bought: &Bought| {
            bought.channel == Some(id)
                && bought.purchase.promise().is_some_and(|promise| promise.point == point)
        };
        let Some(bought) = papers.into_iter().filter_map(of_payer).find(is_it) else { return Ok(()) };
        match bought.purchase.handle(&self.keys, input) {
            Ok(next) => {
                let with = |purchase: &Purchase| Bought { purchase: purchase.clone(), ..bought.clone() };
                let store = |purchase: &Purchase| {
                    let paper = Paper::Bought(with(purchase));
                    self.books.write_blocking(vec![Write::Cheque(Box::new(paper))])
                };
                next.commit(store).map(drop)
            }
            Err(error) => {
                tracing::error!(channel = %id, %error, "a purchase does not fit what its channel gave away");
                Ok(())
            }
        }
    }
}

impl Bought {
    /// How far it is, in words.
    pub fn state(&self) -> &'static str {
        match self.purchase.state() {
            State::Authorised => "authorised",
            State::Promised(_) => "promised",
            State::Paid(..) => "paid, not mailed",
            State::Delivered(..) => "paid",
            State::Ended => "ended",
            State::Released => "given back",
        }
    }
}

fn of_payer(paper: Paper) -> Option<Bought> {
    match paper {
        Paper::Bought(bought) => Some(bought),
        Paper::Written(_) | Paper::Got(_) | Paper::Sold(_) => None,
    }
}
