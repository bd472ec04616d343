//! A payee's channel that holds promises: the channel's life ([`crate::payee`]) and its promises ([`super::held`]) in one state,
//! stored together.
//!
//! The life counts the best payment that can be made of the promises as if it had come plainly, so it closes, publishes and
//! settles with it as ever. What this machine adds are the rules between the two:
//!
//! * promises are taken while the channel takes payments, and something is handed over on their strength only while the
//!   funding is deep enough;
//! * while a lock depends on a promise nothing is closed or settled; only the margin before the expiry closes all the same;
//! * once a closing may be signed, nothing is taken, locked or cashed any more;
//! * plain payments come with updates only, so that they never leave a promise out.
//!
//! A secret is never refused, whatever the channel is doing.

use serde::{Deserialize, Serialize};

use super::held::{self, Held};
use crate::amount::Msat;
use crate::closing;
use crate::payee::{self, Setup, State};
use crate::transition::Transition;

/// A channel that holds promises, for its payee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    life: State,
    held: Held,
}

/// What can happen to it.
#[derive(Clone, Debug)]
pub enum Input {
    /// To its promises. Whether the funding is deep enough is for the channel to say, whatever the input says.
    Promises(held::Input),
    /// To the channel.
    Channel(payee::Input),
}

/// What is to be done, once its state is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// For its promises.
    Promises(held::Effect),
    /// For the channel.
    Channel(payee::Effect),
}

/// Why an input changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// The promises'.
    #[error(transparent)]
    Promises(#[from] held::Reject),
    /// The channel's.
    #[error(transparent)]
    Channel(#[from] payee::Reject),
    /// Not as a plain payment or by words.
    #[error("this channel holds promises: it is paid by updates")]
    PaysByUpdates,
}

impl Holder {
    /// Turns a channel that was paid plainly into one that holds promises. `None` where it pays for calls: it does so until its
    /// end.
    pub fn new(life: State) -> Option<Self> {
        let ledger = life.ledger();
        let held = Held::new(ledger.newest, ledger.spent);
        (life.tab().is_none() && held.ledger() == ledger).then_some(Self { life, held })
    }

    /// The channel's life.
    pub fn life(&self) -> &State {
        &self.life
    }

    /// Its promises.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Decides what an input does.
    ///
    /// # Errors
    /// When the other side is wrong, or too late. Then nothing changes.
    pub fn handle(&self, setup: &Setup, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        match input {
            Input::Promises(input) => self.promises(setup, input),
            Input::Channel(input) => self.channel(setup, input),
        }
    }

    /// What a restart must do again.
    pub fn resume(&self, setup: &Setup) -> Vec<Effect> {
        let life = self.life.resume(setup).into_iter().map(Effect::Channel);
        life.chain(self.held.resume().into_iter().map(Effect::Promises)).collect()
    }

    fn promises(&self, setup: &Setup, mut input: held::Input) -> Result<Transition<Self, Effect>, Reject> {
        let deep = match &self.life {
            State::Open(_) => true,
            State::AwaitingDepth(_)
            | State::ClosingTogether(_)
            | State::ClosingAlone(_)
            | State::Closed(_) => false,
        };
        let closes = || Reject::from(payee::Reject::NotOpen(self.life.name()));
        let must_fit = match &mut input {
            held::Input::Take { .. } => true,
            held::Input::Lock(_, held::Conditions { is_deep, .. })
            | held::Input::Cash { is_deep, .. }
            | held::Input::Authorise(held::Wish { is_deep, .. })
            | held::Input::Collect { is_deep, .. } => {
                *is_deep = deep;
                true
            }
            // A channel that was never funded may be forgotten, and must not take with it what this side has signed.
            held::Input::GiveUp(_) if self.life.is_unfunded() => return Err(held::Reject::NotDeep.into()),
            held::Input::Unlocked(_)
            | held::Input::Learned(_)
            | held::Input::GiveUp(_)
            | held::Input::Release(_)
            | held::Input::Height(_) => false,
        };
        if must_fit && !self.life.is_open() {
            // The payer is told more than that.
            if let held::Input::Take { update, .. } = &input {
                update.check_statement(&setup.channel).map_err(held::Reject::from)?;
            }
            return Err(closes());
        }
        let promises = self.held.handle(&setup.channel, input)?;
        let life = match self.counted(setup, promises.next()) {
            Ok(life) => life,
            Err(reject) if must_fit => return Err(reject.into()),
            Err(_) => self.counted_in_part(setup, promises.next()),
        };
        Ok(promises.join(
            Transition::to(life),
            |held, life| Self { life, held },
            Effect::Promises,
            Effect::Channel,
        ))
    }

    fn channel(&self, setup: &Setup, input: payee::Input) -> Result<Transition<Self, Effect>, Reject> {
        match &input {
            payee::Input::Charge { .. } | payee::Input::Fold(_) => return Err(Reject::PaysByUpdates),
            payee::Input::Settle { settlement, .. } => {
                self.held.may_close()?;
                // The life may count less: what was bought while a reorganisation had taken the funding away.
                let ledger = self.held.ledger();
                let (due, got) = (closing::due(ledger.spent, ledger.paid()), settlement.to_payee);
                if got < due {
                    return Err(payee::Reject::Underpaid { due, got }.into());
                }
            }
            payee::Input::Close => self.held.may_close()?,
            payee::Input::Settled { .. } | payee::Input::Sighted(_) => {}
        }
        let life =
            self.counted(setup, &self.held).unwrap_or_else(|_| self.counted_in_part(setup, &self.held));
        let life = life.handle(setup, input)?;
        let held = Transition::to(self.held.clone());
        Ok(life.join(held, |life, held| Self { life, held }, Effect::Channel, Effect::Promises))
    }

    /// The life with what the promises come to. Whatever they come to was verified when it came, or when it was opened.
    fn counted(&self, setup: &Setup, held: &Held) -> Result<State, payee::Reject> {
        let (counts, new) = (self.life.ledger(), held.ledger());
        let payment = new.newest.filter(|payment| payment.total > counts.paid());
        let cost = new.spent.saturating_sub(counts.spent);
        if payment.is_none() && cost == Msat::ZERO {
            return Ok(self.life.clone());
        }
        self.life.count(setup, payment, cost)
    }

    /// At least the payment, so that it can be claimed; or, when the channel is closing, nothing.
    fn counted_in_part(&self, setup: &Setup, held: &Held) -> State {
        let ledger = held.ledger();
        let payment = ledger.newest.filter(|payment| payment.total > self.life.ledger().paid());
        let raised = payment.and_then(|payment| self.life.count(setup, Some(payment), Msat::ZERO).ok());
        raised.unwrap_or_else(|| self.life.clone())
    }
}

#[cfg(test)]
mod tests;
