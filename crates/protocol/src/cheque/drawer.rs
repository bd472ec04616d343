//! A payer's channel that makes promises: the channel's life ([`crate::payer`]) and its promises ([`super::drawn`]) in one
//! state, stored together.
//!
//! The life counts what was spent, so that a closing settles it. A look at the chain goes to both: the life sees how the
//! channel ends, the promises whether that gave a secret away. Promises are made and plain payments paid while the channel is
//! open; a secret is taken whatever the channel is doing.

use serde::{Deserialize, Serialize};

use super::drawn::{self, Drawn, Kind};
use crate::amount::Msat;
use crate::payer::{self, Setup, State};
use crate::transition::Transition;

/// A channel that makes promises, for its payer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawer {
    life: State,
    drawn: Drawn,
}

/// What can happen to it.
#[derive(Clone, Debug)]
pub enum Input {
    /// To its promises.
    Promises(drawn::Input),
    /// To the channel.
    Channel(payer::Input),
}

/// What is to be done, once its state is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// For its promises.
    Promises(drawn::Effect),
    /// For the channel.
    Channel(payer::Effect),
}

/// Why an input changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// The promises'.
    #[error(transparent)]
    Promises(#[from] drawn::Reject),
    /// The channel's.
    #[error(transparent)]
    Channel(#[from] payer::Reject),
    /// Not as a plain payment or by words.
    #[error("this channel makes promises: it pays by updates")]
    PaysByUpdates,
}

impl Drawer {
    /// Turns a channel that has paid plainly into one that makes promises. `None` while it pays by words.
    pub fn new(life: State, kind: Kind) -> Option<Self> {
        let ledger = life.ledger();
        let drawn = Drawn::new(kind, ledger.newest, ledger.spent);
        (life.purse().is_none() && drawn.ledger() == ledger).then_some(Self { life, drawn })
    }

    /// The channel's life.
    pub fn life(&self) -> &State {
        &self.life
    }

    /// Its promises.
    pub fn drawn(&self) -> &Drawn {
        &self.drawn
    }

    /// Decides what an input does.
    ///
    /// # Errors
    /// When the input does not fit. Then nothing changes.
    pub fn handle(&self, setup: &Setup, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        match input {
            Input::Promises(input) => self.promises(setup, input),
            Input::Channel(input) => self.channel(setup, input),
        }
    }

    /// What a restart must do again.
    pub fn resume(&self, setup: &Setup) -> Vec<Effect> {
        let life = self.life.resume(setup).into_iter().map(Effect::Channel);
        let drawn = self.drawn.resume(&setup.channel, &setup.keys);
        life.chain(drawn.into_iter().map(Effect::Promises)).collect()
    }

    fn promises(&self, setup: &Setup, input: drawn::Input) -> Result<Transition<Self, Effect>, Reject> {
        let must_fit = match &input {
            drawn::Input::Promise(_)
            | drawn::Input::Withdraw(_)
            | drawn::Input::StillHeld(_)
            | drawn::Input::Pay { .. } => true,
            drawn::Input::Taken(_)
            | drawn::Input::Dead(_)
            | drawn::Input::Secret(_)
            | drawn::Input::Sighted { .. }
            | drawn::Input::Noted(_) => false,
        };
        let is_open = match &self.life {
            State::AwaitingFunding(_) | State::Open(_) => true,
            State::AwaitingAcceptance
            | State::Abandoned
            | State::Closing(_)
            | State::Refunding(_)
            | State::Closed(_) => false,
        };
        if must_fit && !is_open {
            return Err(payer::Reject::NotOpen(self.life.name()).into());
        }
        let promises = self.drawn.handle(&setup.channel, &setup.keys, input)?;
        let cost = promises.next().ledger().spent.saturating_sub(self.life.ledger().spent);
        let life = if cost == Msat::ZERO {
            self.life.clone()
        } else {
            match self.life.buy(setup, cost, promises.next().ledger().newest) {
                Ok(bought) => bought.next().clone(),
                Err(reject) if must_fit => return Err(reject.into()),
                // The channel is closing: the chain decides what was paid.
                Err(_) => self.life.clone(),
            }
        };
        let life = Transition::to(life);
        Ok(promises.join(life, |drawn, life| Self { life, drawn }, Effect::Promises, Effect::Channel))
    }

    fn channel(&self, setup: &Setup, input: payer::Input) -> Result<Transition<Self, Effect>, Reject> {
        let drawn = match &input {
            payer::Input::Buy { .. } | payer::Input::Call(_) => return Err(Reject::PaysByUpdates),
            payer::Input::Sighted(sighting) => {
                let (sighting, finality) = (Box::new(sighting.clone()), setup.finality);
                let input = drawn::Input::Sighted { sighting, finality };
                self.drawn.handle(&setup.channel, &setup.keys, input)?
            }
            payer::Input::Accepted(_)
            | payer::Input::Refused
            | payer::Input::Close { .. }
            | payer::Input::Countersigned { .. } => Transition::to(self.drawn.clone()),
        };
        let life = self.life.handle(setup, input)?;
        Ok(life.join(drawn, |life, drawn| Self { life, drawn }, Effect::Channel, Effect::Promises))
    }
}

#[cfg(test)]
mod tests;
