//! The payer's side: it buys the agent's signature on the payee's next commitment.
//!
//! ```text
//!                  the offer holds                  z: by message, or from the chain          mailed
//!   Authorised ──────────────────────▶ Promised ──────────────────────────────────▶ Paid ───────────▶ Delivered
//!        │ given back                      │ the channel ended otherwise
//!        ▼                                 ▼
//!     Released                           Ended
//! ```
//!
//! **What the payer can lose.** The price, if it promises it for something that the payee cannot claim, or does not tell the payee
//! in time. So it promises nothing before it has checked, by itself, that the offer is the agent's signature on exactly the state
//! that the payee has authorised *it* to add, in a channel whose funding is deep in the chain and unspent; that its own channel
//! ends early enough; and what the price is. From then on it must watch its own channel, until that is spent or
//! the agent has answered: whatever the agent takes gives the secret away ([`crate::cheque::drawn`]).
//!
//! An authorisation is used for one promise, and given back only if it was used for none: whichever was stored first counts.
//!
//! **Replay.** The same mail may be sent any number of times.

use secp256k1::XOnlyPublicKey;
use serde::{Deserialize, Serialize};

use super::authorisation::{Authorisation, BadAuthorisation, Release};
use crate::amount::Msat;
use crate::channel::{BadParams, Channel, Expiry, Params};
use crate::cheque::point::{AdaptorPoint, AdaptorSecret};
use crate::cheque::promises::{BadUpdate, Promise, Update};
use crate::keys::ChequeKeys;
use crate::payment::Payment;
use crate::transition::Transition;

/// What the agent answers to an authorisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The channel in which the agent pays the payee.
    pub params: Params,
    /// The update that adds the increment, all of it open but for a secret.
    pub update: Box<Update>,
    /// What the agent wants promised for the secret.
    pub price: Msat,
}

/// A purchase, as the payer keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purchase {
    authorisation: Authorisation,
    state: State,
}

/// Where a purchase stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Nothing was promised.
    Authorised,
    /// The agent may have the promise.
    Promised(Box<Offer>),
    /// The agent has taken the price: the payee is to hear the secret.
    Paid(Box<Offer>, AdaptorSecret),
    /// The payee's mailbox has it.
    Delivered(Box<Offer>, AdaptorSecret),
    /// The channel ended, and the agent has taken nothing.
    Ended,
    /// Given back unused.
    Released,
}

/// What the payer has found out by itself, and its own caution.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// Who the payer is.
    pub payer: XOnlyPublicKey,
    /// Whom it means to pay.
    pub payee: XOnlyPublicKey,
    /// The most that it gives for it.
    pub most: Msat,
    /// When its own channel to the agent expires.
    pub expiry: Expiry,
    /// How many blocks the authorisation must hold longer than that: to see at the chain what the agent took, and to mail it.
    pub delta: u32,
    /// How many blocks before its channel's expiry the payee needs to publish.
    pub margin: u32,
    /// Whether the chain shows the payee's channel deep enough, with the funding that was agreed, and unspent.
    pub is_deep: bool,
    /// The tip's height.
    pub height: u32,
}

/// What can happen to a purchase.
#[derive(Clone, Debug)]
pub enum Input {
    /// The agent made an offer.
    Promise(Box<Offer>, Conditions),
    /// The payer does not want to pay.
    Release,
    /// Its channel to the agent gave this secret away.
    Paid(AdaptorSecret),
    /// The promise under this point can never be paid any more.
    Ended(AdaptorPoint),
    /// The payee's mailbox has taken what was sent.
    Delivered,
}

/// What the payer is to do, once its state is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Promise this to the agent.
    Promise(Promise),
    /// Mail this to the payee.
    Deliver(Delivery),
    /// Mail this to the payee.
    Release(Release),
}

/// What the payee needs to complete its own commitment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Which of the channel's authorisations it is for.
    pub serial: u64,
    /// The agent's update.
    pub update: Box<Update>,
    /// What opens it.
    pub secret: AdaptorSecret,
}

/// Why nothing is promised, or given back. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// The channel's parameters make none.
    #[error(transparent)]
    BadParams(#[from] BadParams),
    /// The authorisation.
    #[error(transparent)]
    Authorisation(#[from] BadAuthorisation),
    /// For somebody else.
    #[error("the authorisation is for another payer: whoever pays under it has paid for somebody else")]
    OtherPayer,
    /// From somebody else.
    #[error("the authorisation is another payee's")]
    OtherPayee,
    /// What the agent signed.
    #[error(transparent)]
    BadUpdate(#[from] BadUpdate),
    /// The payee has a newer one.
    #[error("the offered update has number {got}, but the payee has number {newest}")]
    Stale {
        /// What the payee has.
        newest: u64,
        /// What was offered.
        got: u64,
    },
    /// Another increment than was authorised.
    #[error("the offer adds another increment than the payee has authorised")]
    OtherIncrement,
    /// The total could not be enforced.
    #[error("the payee's total would be {got}, but less than {least} cannot be claimed on chain")]
    Dust {
        /// Dust and the cost of closing.
        least: Msat,
        /// The resulting total.
        got: Msat,
    },
    /// Too dear.
    #[error("the agent wants {price} for it, and at most {most} may be paid")]
    TooDear {
        /// What it wants.
        price: Msat,
        /// The most.
        most: Msat,
    },
    /// The payer could not tell the payee in time.
    #[error(
        "this channel expires at {expiry}; with {delta} blocks to see what the agent took, that is after {until}, when the \
         authorisation ends"
    )]
    EndsTooLate {
        /// The payer's channel's.
        expiry: u32,
        /// The blocks in between.
        delta: u32,
        /// The authorisation's last height.
        until: u32,
    },
    /// The payee could not publish in time.
    #[error("the authorisation ends at {until}, and the payee's channel expires at {expiry}: too soon after")]
    PayeeTooLate {
        /// The authorisation's last height.
        until: u32,
        /// The payee's channel's.
        expiry: u32,
    },
    /// Too near to be worth beginning.
    #[error("this channel expires at {expiry}, at {height} that is too near")]
    TooNear {
        /// The payer's channel's.
        expiry: u32,
        /// The tip's height.
        height: u32,
    },
    /// The payee's channel may not be there when it comes back.
    #[error("the payee's channel is not deep in the chain, or is spent")]
    NotDeep,
    /// One promise for each authorisation.
    #[error("this authorisation was used")]
    Used,
    /// Given back.
    #[error("this authorisation was given back")]
    Released,
    /// Not this purchase's.
    #[error("that secret opens nothing of this purchase")]
    OtherSecret,
}

impl Purchase {
    /// Begins with an authorisation. Nothing of it is checked before something is promised.
    pub fn new(authorisation: Authorisation) -> Self {
        Self { authorisation, state: State::Authorised }
    }

    /// What it is authorised by.
    pub fn authorisation(&self) -> &Authorisation {
        &self.authorisation
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is, or was, promised to the agent.
    pub fn promise(&self) -> Option<Promise> {
        let offer = self.offer()?;
        let [increment] = offer.update.signed.terms.promises.as_slice() else { return None };
        Some(Promise { amount: offer.price, point: increment.point })
    }

    /// The agent's complete signature on what the payee can claim: with the authorisation, the proof that it was paid.
    pub fn proof(&self) -> Option<(Params, Payment)> {
        let (offer, secret) = match &self.state {
            State::Paid(offer, secret) | State::Delivered(offer, secret) => (offer, secret),
            State::Authorised | State::Promised(_) | State::Ended | State::Released => return None,
        };
        let channel = Channel::new(offer.params.clone()).ok()?;
        let payment = offer.update.signed.open(&channel, &[Some(secret.clone())])?;
        Some((offer.params.clone(), payment))
    }

    /// Decides what an input does.
    ///
    /// # Errors
    /// When the agent or the payee is wrong, or it is too late. Then nothing changes.
    pub fn handle(&self, keys: &ChequeKeys, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        match (&self.state, input) {
            (State::Authorised, Input::Promise(offer, conditions)) => {
                self.check(&offer, &conditions)?;
                let next = self.with(State::Promised(offer));
                let promise = next.promise().expect("checked to be one increment");
                Ok(Transition::to(next).then(Effect::Promise(promise)))
            }
            (State::Released, Input::Promise(..)) => Err(Reject::Released),
            (
                State::Promised(_) | State::Paid(..) | State::Delivered(..) | State::Ended,
                Input::Promise(..),
            ) => Err(Reject::Used),

            (State::Authorised | State::Released, Input::Release) => {
                if self.authorisation.terms.payer != keys.identity() {
                    return Err(Reject::OtherPayer);
                }
                let release = Release::sign(&self.authorisation, keys);
                Ok(Transition::to(self.with(State::Released)).then(Effect::Release(release)))
            }
            (State::Promised(_) | State::Paid(..) | State::Delivered(..) | State::Ended, Input::Release) => {
                Err(Reject::Used)
            }

            (State::Promised(offer), Input::Paid(secret)) => {
                if self.promise().is_none_or(|promise| promise.point != secret.point()) {
                    return Err(Reject::OtherSecret);
                }
                let next = self.with(State::Paid(offer.clone(), secret));
                let effects = next.resume(keys);
                Ok(effects.into_iter().fold(Transition::to(next), Transition::then))
            }
            (State::Paid(_, known) | State::Delivered(_, known), Input::Paid(secret)) => {
                if *known == secret {
                    Ok(Transition::to(self.clone()))
                } else {
                    Err(Reject::OtherSecret)
                }
            }
            (State::Authorised | State::Ended | State::Released, Input::Paid(_)) => Err(Reject::OtherSecret),

            (State::Promised(_), Input::Ended(point)) => {
                let is_it = self.promise().is_some_and(|promise| promise.point == point);
                let next = if is_it { self.with(State::Ended) } else { self.clone() };
                Ok(Transition::to(next))
            }
            (State::Paid(offer, secret), Input::Delivered) => {
                Ok(Transition::to(self.with(State::Delivered(offer.clone(), secret.clone()))))
            }
            (
                State::Authorised | State::Paid(..) | State::Delivered(..) | State::Ended | State::Released,
                Input::Ended(_),
            )
            | (
                State::Authorised
                | State::Promised(_)
                | State::Delivered(..)
                | State::Ended
                | State::Released,
                Input::Delivered,
            ) => Ok(Transition::to(self.clone())),
        }
    }

    /// What a restart must do again. What was promised is in the channel, which was stored with it.
    pub fn resume(&self, keys: &ChequeKeys) -> Vec<Effect> {
        match &self.state {
            State::Paid(offer, secret) => vec![Effect::Deliver(Delivery {
                serial: self.authorisation.terms.serial,
                update: offer.update.clone(),
                secret: secret.clone(),
            })],
            State::Released => vec![Effect::Release(Release::sign(&self.authorisation, keys))],
            State::Authorised | State::Promised(_) | State::Delivered(..) | State::Ended => Vec::new(),
        }
    }

    fn check(&self, offer: &Offer, conditions: &Conditions) -> Result<(), Reject> {
        let terms = &self.authorisation.terms;
        if terms.payer != conditions.payer {
            return Err(Reject::OtherPayer);
        }
        if self.authorisation.payee != conditions.payee {
            return Err(Reject::OtherPayee);
        }
        let channel = Channel::new(offer.params.clone())?;
        self.authorisation.check(&channel)?;
        offer.update.check(&channel)?;
        let offered = &offer.update.signed.terms;
        if offered.number <= terms.number {
            return Err(Reject::Stale { newest: terms.number, got: offered.number });
        }
        let is_increment = match offered.promises.as_slice() {
            [one] => one.amount == terms.amount,
            _none_or_several => false,
        };
        if offered.base_total() != terms.base || !is_increment {
            return Err(Reject::OtherIncrement);
        }
        let least = Msat::from_amount(offer.params.prepaid).expect("at most the capacity");
        if terms.total() < least {
            return Err(Reject::Dust { least, got: terms.total() });
        }
        if offer.price > conditions.most {
            return Err(Reject::TooDear { price: offer.price, most: conditions.most });
        }
        self.check_times(offer, conditions)
    }

    /// The agent may take the price in the last block before the payer's channel expires, and the payee needs to hear of it, and
    /// to publish.
    fn check_times(&self, offer: &Offer, conditions: &Conditions) -> Result<(), Reject> {
        let until = self.authorisation.terms.until.get();
        let Conditions { delta, margin, height, .. } = *conditions;
        let expiry = conditions.expiry.height();
        if expiry.saturating_add(delta) > until {
            return Err(Reject::EndsTooLate { expiry, delta, until });
        }
        let theirs = offer.params.expiry.height();
        if until.saturating_add(margin) >= theirs {
            return Err(Reject::PayeeTooLate { until, expiry: theirs });
        }
        if height >= expiry {
            return Err(Reject::TooNear { expiry, height });
        }
        if !conditions.is_deep {
            return Err(Reject::NotDeep);
        }
        Ok(())
    }

    fn offer(&self) -> Option<&Offer> {
        match &self.state {
            State::Promised(offer) | State::Paid(offer, _) | State::Delivered(offer, _) => Some(offer),
            State::Authorised | State::Ended | State::Released => None,
        }
    }

    fn with(&self, state: State) -> Self {
        Self { authorisation: self.authorisation.clone(), state }
    }
}
