//! A channel that carries cheques, as one of its two sides has it: its holder's, or its drawer's.
//!
//! An agent or a node is the holder in one channel and the drawer in another. With one type for both, a program keeps them
//! in one book, and decisions that belong together are stored together.

use std::sync::Arc;

use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use super::drawer::{self, Drawer};
use super::drawn::Kind;
use super::holder::{self, Holder};
use crate::channel::{Channel, Ending};
use crate::ledger::Ledger;
use crate::opening::Refusal;
use crate::sighting::Sighting;
use crate::transition::Transition;
use crate::{payee, payer};

/// What stays the same over a channel's life.
pub enum Setup {
    /// Of the side that is paid.
    Holder(Arc<payee::Setup>),
    /// Of the side that pays.
    Drawer(Arc<payer::Setup>),
}

/// Where a channel stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// For the side that is paid.
    Holder(Box<Holder>),
    /// For the side that pays.
    Drawer(Box<Drawer>),
}

/// What can happen to it.
#[derive(Clone, Debug)]
pub enum Input {
    /// To a holder.
    Holder(holder::Input),
    /// To a drawer.
    Drawer(drawer::Input),
    /// A look at the chain.
    Sighted(Sighting),
}

/// What is to be done, once its state is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// By a holder.
    Holder(holder::Effect),
    /// By a drawer.
    Drawer(drawer::Effect),
}

/// Why an input changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// A holder's.
    #[error(transparent)]
    Holder(#[from] holder::Reject),
    /// A drawer's.
    #[error(transparent)]
    Drawer(#[from] drawer::Reject),
    /// The program is the other side of this channel.
    #[error("this is for the other side of the channel")]
    OtherSide,
}

impl Setup {
    /// The agreement.
    pub fn channel(&self) -> &Channel {
        match self {
            Self::Holder(setup) => &setup.channel,
            Self::Drawer(setup) => &setup.channel,
        }
    }
}

impl Side {
    /// Accepts an opening as the side that is paid.
    ///
    /// # Errors
    /// When the payer's signature on the channel id does not verify.
    pub fn accept(
        setup: &payee::Setup,
        signature: &schnorr::Signature,
    ) -> Result<Transition<Self, Effect>, Refusal> {
        let holder = |life| Holder::new(life).expect("a new channel has paid nothing by words");
        let accepted = payee::accept(setup, signature)?;
        Ok(accepted.map(
            |life| Self::Holder(Box::new(holder(life))),
            |effect| Effect::Holder(holder::Effect::Channel(effect)),
        ))
    }

    /// Proposes a channel as the side that pays.
    pub fn propose(setup: &payer::Setup, kind: Kind) -> Transition<Self, Effect> {
        let drawer = |life| Drawer::new(life, kind).expect("a new channel has paid nothing by words");
        payer::propose(setup).map(
            |life| Self::Drawer(Box::new(drawer(life))),
            |effect| Effect::Drawer(drawer::Effect::Channel(effect)),
        )
    }

    /// The holder, if this is one.
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Holder(holder) => Some(holder),
            Self::Drawer(_) => None,
        }
    }

    /// The drawer, if this is one.
    pub fn drawer(&self) -> Option<&Drawer> {
        match self {
            Self::Holder(_) => None,
            Self::Drawer(drawer) => Some(drawer),
        }
    }

    /// Decides what an input does.
    ///
    /// # Errors
    /// When the input does not fit. Then nothing changes.
    pub fn handle(&self, setup: &Setup, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        let held = |next| Self::Holder(Box::new(next));
        let drawn = |next| Self::Drawer(Box::new(next));
        match (self, setup, input) {
            (Self::Holder(holder), Setup::Holder(setup), Input::Holder(input)) => {
                Ok(holder.handle(setup, input)?.map(held, Effect::Holder))
            }
            (Self::Holder(holder), Setup::Holder(setup), Input::Sighted(sighting)) => {
                let input = holder::Input::Channel(payee::Input::Sighted(sighting));
                Ok(holder.handle(setup, input)?.map(held, Effect::Holder))
            }
            (Self::Drawer(drawer), Setup::Drawer(setup), Input::Drawer(input)) => {
                Ok(drawer.handle(setup, input)?.map(drawn, Effect::Drawer))
            }
            (Self::Drawer(drawer), Setup::Drawer(setup), Input::Sighted(sighting)) => {
                let input = drawer::Input::Channel(payer::Input::Sighted(sighting));
                Ok(drawer.handle(setup, input)?.map(drawn, Effect::Drawer))
            }
            (Self::Holder(_), Setup::Holder(_), Input::Drawer(_))
            | (Self::Drawer(_), Setup::Drawer(_), Input::Holder(_))
            | (Self::Holder(_), Setup::Drawer(_), _)
            | (Self::Drawer(_), Setup::Holder(_), _) => Err(Reject::OtherSide),
        }
    }

    /// What a restart must do again.
    pub fn resume(&self, setup: &Setup) -> Vec<Effect> {
        match (self, setup) {
            (Self::Holder(holder), Setup::Holder(setup)) => {
                holder.resume(setup).into_iter().map(Effect::Holder).collect()
            }
            (Self::Drawer(drawer), Setup::Drawer(setup)) => {
                drawer.resume(setup).into_iter().map(Effect::Drawer).collect()
            }
            (Self::Holder(_), Setup::Drawer(_)) | (Self::Drawer(_), Setup::Holder(_)) => Vec::new(),
        }
    }

    /// The channel's money as this side counts it.
    pub fn ledger(&self) -> Ledger {
        match self {
            Self::Holder(holder) => holder.held().ledger(),
            Self::Drawer(drawer) => drawer.drawn().ledger(),
        }
    }

    /// The state in words, for people and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Holder(holder) => holder.life().name(),
            Self::Drawer(drawer) => drawer.life().name(),
        }
    }

    /// How the channel ended on chain, if it did.
    pub fn ending(&self) -> Option<Ending> {
        match self {
            Self::Holder(holder) => match holder.life() {
                payee::State::Closed(closed) => closed.ending,
                payee::State::AwaitingDepth(_)
                | payee::State::Open(_)
                | payee::State::ClosingTogether(_)
                | payee::State::ClosingAlone(_) => None,
            },
            Self::Drawer(drawer) => match drawer.life() {
                payer::State::Closed(closed) => Some(closed.ending),
                payer::State::AwaitingAcceptance
                | payer::State::Abandoned
                | payer::State::AwaitingFunding(_)
                | payer::State::Open(_)
                | payer::State::Closing(_)
                | payer::State::Refunding(_) => None,
            },
        }
    }

    /// Whether the channel needs to be watched.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Holder(holder) => match holder.life() {
                payee::State::Closed(_) => false,
                payee::State::AwaitingDepth(_)
                | payee::State::Open(_)
                | payee::State::ClosingTogether(_)
                | payee::State::ClosingAlone(_) => true,
            },
            Self::Drawer(drawer) => match drawer.life() {
                payer::State::AwaitingAcceptance | payer::State::Abandoned | payer::State::Closed(_) => false,
                payer::State::AwaitingFunding(_)
                | payer::State::Open(_)
                | payer::State::Closing(_)
                | payer::State::Refunding(_) => true,
            },
        }
    }
}
