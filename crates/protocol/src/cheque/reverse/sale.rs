//! The agent's side: it sells its signature on the payee's next commitment.
//!
//! ```text
//!              offer                     the payer's promise under Z was completed
//!   (nothing) ───────▶ Offered ────────────────────────────────────────────────────▶ Collected
//!                         │ the authorisation is over, or a newer one came
//!                         ▼
//!                      Dropped
//! ```
//!
//! **What the agent can lose.** Nothing: what it offers opens with a secret that nobody else has, and the secret leaves only
//! after a promise of the price under its point was completed and stored ([`super::super::held`], its `Cash`). A sale is
//! collected once, in one channel. After it was dropped it is never collected, so the promise to the payee is dead by then,
//! whatever was signed.
//!
//! **Replay.** The same authorisation again gets the same offer. An older one gets nothing.

use serde::{Deserialize, Serialize};

use super::authorisation::{Authorisation, BadAuthorisation};
use crate::amount::Msat;
use crate::channel::{Channel, ChannelId};
use crate::cheque::point::{AdaptorPoint, AdaptorSecret};
use crate::cheque::promises::Promise;
use crate::transition::Transition;

/// A sale, as the agent keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    authorisation: Authorisation,
    /// What the payer is to promise: the amount and the agent's fee.
    price: Msat,
    secret: AdaptorSecret,
    status: Status,
}

/// How far a sale is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Whoever promises the price gets the secret.
    Offered,
    /// Paid for, in this channel.
    Collected(ChannelId),
    /// Never to be collected any more.
    Dropped,
}

/// What the agent knows of its channel to the payee, and wants.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// The plain total that it has signed there.
    pub base: Msat,
    /// The newest authorisation of that channel that it has made an offer for; zero before the first.
    pub newest: u64,
    /// What it wants for it.
    pub fee: Msat,
    /// The tip's height.
    pub height: u32,
}

/// What can happen to a sale.
#[derive(Clone, Debug)]
pub enum Input {
    /// The price was promised under its point, in this channel: it is being completed in the same write.
    Collect(ChannelId),
    /// A newer authorisation of the same channel came.
    Replaced(Box<Authorisation>),
    /// A look at the chain, at this height.
    Height(u32),
}

/// What the agent is to do, once its state is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Promise this to the payee, and show it to the payer.
    Promise(Promise),
    /// Pay the payee's promise plainly: this is its secret.
    Settle(AdaptorSecret),
    /// The promise to the payee is dead.
    Withdraw(AdaptorPoint),
}

/// Why nothing is sold. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Not the payee's.
    #[error(transparent)]
    Authorisation(#[from] BadAuthorisation),
    /// It begins from another total.
    #[error(
        "the authorisation begins from {got}, but {base} is paid to the payee: it must come and authorise anew"
    )]
    OtherBase {
        /// What the agent has signed.
        base: Msat,
        /// What the payee has.
        got: Msat,
    },
    /// Replaced by another.
    #[error("authorisation {got} is old: number {newest} was seen")]
    Old {
        /// The newest.
        newest: u64,
        /// This one.
        got: u64,
    },
    /// Over.
    #[error("the authorisation was good until block {until}, and this is {height}")]
    Over {
        /// The last height.
        until: u32,
        /// The tip's height.
        height: u32,
    },
    /// Longer than the channel.
    #[error(
        "the authorisation is to be good until block {until}, but the payee's channel expires at {expiry}"
    )]
    TooLong {
        /// The last height.
        until: u32,
        /// The channel's expiry.
        expiry: u32,
    },
    /// Nothing is offered any more.
    #[error("this sale is over")]
    NotOffered,
}

impl Sale {
    /// Offers the increment that was authorised. `secret` must be fresh randomness.
    ///
    /// # Errors
    /// When the authorisation is not the payee's, or fits the channel no more.
    pub fn offer(
        channel: &Channel,
        authorisation: Authorisation,
        conditions: &Conditions,
        secret: AdaptorSecret,
    ) -> Result<Transition<Self, Effect>, Reject> {
        authorisation.check(channel)?;
        let terms = &authorisation.terms;
        if terms.serial <= conditions.newest {
            return Err(Reject::Old { newest: conditions.newest, got: terms.serial });
        }
        if terms.base != conditions.base {
            return Err(Reject::OtherBase { base: conditions.base, got: terms.base });
        }
        if terms.until.is_over(conditions.height) {
            return Err(Reject::Over { until: terms.until.get(), height: conditions.height });
        }
        let expiry = channel.params().expiry.height();
        if terms.until.get() >= expiry {
            return Err(Reject::TooLong { until: terms.until.get(), expiry });
        }
        let price = terms.amount.saturating_add(conditions.fee);
        let sale = Self { authorisation, price, secret, status: Status::Offered };
        let promise = sale.promise();
        Ok(Transition::to(sale).then(Effect::Promise(promise)))
    }

    /// What it was authorised by.
    pub fn authorisation(&self) -> &Authorisation {
        &self.authorisation
    }

    /// What the payer is to promise.
    pub fn price(&self) -> Msat {
        self.price
    }

    /// The point of both promises.
    pub fn point(&self) -> AdaptorPoint {
        self.secret.point()
    }

    /// What is promised to the payee.
    pub fn promise(&self) -> Promise {
        Promise { amount: self.authorisation.terms.amount, point: self.point() }
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The secret, to cash the payer's promise with: for at least [`Self::price`], in the write that stores
    /// [`Status::Collected`]. `None` when nothing is offered any more.
    pub fn secret(&self) -> Option<&AdaptorSecret> {
        match self.status {
            Status::Offered => Some(&self.secret),
            Status::Collected(_) | Status::Dropped => None,
        }
    }

    /// Decides what an input does.
    ///
    /// # Errors
    /// When it does not fit. Then nothing changes.
    pub fn handle(&self, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        match (self.status, input) {
            (Status::Offered, Input::Collect(channel)) => {
                let settle = Effect::Settle(self.secret.clone());
                Ok(Transition::to(self.with(Status::Collected(channel))).then(settle))
            }
            // The promise in the channel that it was collected in may be seen any number of times.
            (Status::Collected(same), Input::Collect(channel)) if same == channel => {
                Ok(Transition::to(self.clone()).then(Effect::Settle(self.secret.clone())))
            }
            (Status::Collected(_) | Status::Dropped, Input::Collect(_)) => Err(Reject::NotOffered),

            (Status::Offered, Input::Replaced(by)) => {
                let (ours, theirs) = (&self.authorisation.terms, &by.terms);
                if ours.channel != theirs.channel {
                    return Err(BadAuthorisation::OtherChannel(theirs.channel).into());
                }
                if theirs.serial <= ours.serial {
                    return Err(Reject::Old { newest: ours.serial, got: theirs.serial });
                }
                Ok(self.dropped())
            }
            (Status::Offered, Input::Height(height)) if self.authorisation.terms.until.is_over(height) => {
                Ok(self.dropped())
            }
            (Status::Offered, Input::Height(_))
            | (Status::Collected(_) | Status::Dropped, Input::Replaced(_) | Input::Height(_)) => {
                Ok(Transition::to(self.clone()))
            }
        }
    }

    /// What a restart must do again.
    pub fn resume(&self) -> Vec<Effect> {
        vec![match self.status {
            Status::Offered => Effect::Promise(self.promise()),
            Status::Collected(_) => Effect::Settle(self.secret.clone()),
            Status::Dropped => Effect::Withdraw(self.point()),
        }]
    }

    fn dropped(&self) -> Transition<Self, Effect> {
        Transition::to(self.with(Status::Dropped)).then(Effect::Withdraw(self.point()))
    }

    fn with(&self, status: Status) -> Self {
        Self { status, ..self.clone() }
    }
}
