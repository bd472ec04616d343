//! The payer: what it does with each input, and what it can lose.
//!
//! ```text
//!                        accepted                     confirmed            close, or the payee closes
//!   AwaitingAcceptance ──────────▶ AwaitingFunding ◀───────────▶ Open ────────────────▶ Closing
//!        │ refused                                    reorganised  │ expiry                │ expiry
//!        ▼                                                         ▼                       ▼
//!     Abandoned            Closed ◀── the spend is deep enough ── Refunding ◀──────────────┘
//! ```
//!
//! **What the payer can lose.** It pays before it is served, so the pieces in flight: one by default of each request,
//! two requests at a time. The first payment also prepays ([`crate::channel::Params::prepaid`]); an honest payee gives
//! back what was not spent, one that closes alone keeps it. Nothing else: the payee can publish only what the payer
//! signed, and what it does not publish before the expiry is the payer's again.
//!
//! **Replay.** The funding, a closing and a refund may be broadcast any number of times; a payment that was sent may be
//! sent again and is charged once. A closing round is never repeated with the same nonce: each starts afresh.

mod account;
pub mod call;
mod ending;
mod taking_back;

use bitcoin::{FeeRate, Transaction};
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::channel::{Channel, Ending, SpendKind};
use crate::closing::{self, BadSettlement, Settlement};
use crate::flat::BatchTerms;
use crate::keys::ChannelKeys;
use crate::ledger::Ledger;
use crate::lightspeed::ChainTerms;
use crate::lightspeed::purse::{Purse, Ticket, Unable};
use crate::opening::{self, Opening};
pub use crate::payer::account::Account;
use crate::payment::Payment;
use crate::refund;
use crate::replacement;
use crate::sighting::{Funding, Sighting};
use crate::transition::Transition;

/// What stays the same over a channel's life.
pub struct Setup {
    /// The agreement.
    pub channel: Channel,
    /// The payer's keys.
    pub keys: ChannelKeys,
    /// The signed funding transaction. It is broadcast only after the payee has accepted.
    pub funding: Transaction,
    /// How deep a spend must be before the channel is forgotten.
    pub finality: u32,
}

/// Where a channel stands, for the payer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The payee has not answered; nothing is on chain.
    AwaitingAcceptance,
    /// The payee refused; the coins are free again.
    Abandoned,
    /// The funding is broadcast and not in a block.
    AwaitingFunding(AwaitingFunding),
    /// The funding is in a block.
    Open(Open),
    /// No payment is made any more.
    Closing(Closing),
    /// The payer takes everything back.
    Refunding(Refunding),
    /// It is over.
    Closed(Closed),
}

/// The funding is broadcast; payments may be made, and the payee decides how far it trusts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitingFunding {
    account: Account,
}

/// The funding is in a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    account: Account,
}

/// The payer asked to close, or the funding is being spent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    account: Account,
    settlement: Option<Settlement>,
    /// The complete closing. What another transaction that spends the funding does is for the chain to say.
    transaction: Option<Transaction>,
}

/// The expiry has passed and the funding is unspent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refunding {
    account: Account,
    fee_rate: FeeRate,
}

/// Nothing is left to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    ledger: Ledger,
    /// How it ended on chain.
    pub ending: Ending,
}

/// What can happen to a payer.
#[derive(Clone, Debug)]
pub enum Input {
    /// The payee accepted the opening with this signature.
    Accepted(schnorr::Signature),
    /// The payee refused the opening.
    Refused,
    /// Something is to be bought.
    Buy {
        /// What it costs.
        cost: Msat,
    },
    /// A call ([`crate::lightspeed`]).
    Call(call::Input),
    /// The channel is to be closed.
    Close {
        /// The closing's fee rate.
        fee_rate: FeeRate,
        /// What the payee says that it charged in all, if it was asked. Pieces that were paid for and never charged are not paid
        /// then; more than what was bought counts for nothing.
        charged: Option<Msat>,
    },
    /// The payee's half came and completed this closing.
    Countersigned {
        /// The complete transaction.
        transaction: Transaction,
    },
    /// A look at the chain.
    Sighted(Sighting),
}

/// What the payer is to do, once its state is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send the opening to the payee.
    Propose(Box<Opening>),
    /// Free the coins that the funding would have spent.
    ReleaseCoins,
    /// Send this payment with the request.
    Pay(Payment),
    /// Send the rungs of this chain, signed on top of this total.
    Announce(ChainTerms, Msat),
    /// Sign this batch and send it, with its locks.
    AnnounceBatch(BatchTerms),
    /// Send this call with its words.
    Call(Ticket),
    /// Start a closing round for this settlement.
    ProposeClosing(Settlement),
    /// Broadcast this transaction: the funding, a closing or a refund.
    Broadcast(Transaction),
}

/// Why an input changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// The payee's acceptance is not its signature on this channel.
    #[error("the payee's acceptance is not signed by the key that it offered")]
    WrongAcceptance,
    /// The channel cannot pay that much.
    #[error("this would make a total of {got}, but the channel can pay only {most}")]
    OverCapacity {
        /// The most that the channel can pay.
        most: Msat,
        /// What would be paid.
        got: Msat,
    },
    /// No payment in this state.
    #[error("the channel is {0} and pays nothing")]
    NotOpen(&'static str),
    /// Not the closing that was proposed, or not completely signed.
    #[error("this is not the closing that was proposed, or it is not completely signed")]
    WrongClosing,
    /// The settlement makes no transaction.
    #[error(transparent)]
    BadSettlement(#[from] BadSettlement),
    /// The channel pays by words now.
    #[error("this channel pays for calls by words, and for nothing else")]
    PaysForCalls,
    /// The channel does not pay by words.
    #[error("no chain of words was announced in this channel")]
    PaysForPieces,
    /// A call cannot be sent.
    #[error(transparent)]
    Call(#[from] Unable),
    /// What calls cost is not known.
    #[error("{0} calls wait for an answer: ask the seller what they cost before closing")]
    CallsUnanswered(usize),
}

/// Proposes a channel. The funding stays unpublished until the payee has accepted.
pub fn propose(setup: &Setup) -> Transition<State, Effect> {
    Transition::to(State::AwaitingAcceptance).then(proposal(setup))
}

impl State {
    /// Decides what an input does.
    ///
    /// # Errors
    /// When the input does not fit. Then nothing changes.
    pub fn handle(&self, setup: &Setup, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        match (self, input) {
            (Self::AwaitingAcceptance, Input::Accepted(signature)) => {
                if !opening::acceptance_holds(&setup.channel, &signature) {
                    return Err(Reject::WrongAcceptance);
                }
                let next = AwaitingFunding { account: Account::default() };
                Ok(Transition::to(Self::AwaitingFunding(next)).then(Effect::Broadcast(setup.funding.clone())))
            }
            (Self::AwaitingAcceptance, Input::Refused) => {
                Ok(Transition::to(Self::Abandoned).then(Effect::ReleaseCoins))
            }
            // A second acceptance says nothing new, and a refusal comes too late.
            (
                Self::Abandoned
                | Self::AwaitingFunding(_)
                | Self::Open(_)
                | Self::Closing(_)
                | Self::Refunding(_)
                | Self::Closed(_),
                Input::Accepted(_) | Input::Refused,
            ) => Ok(Transition::to(self.clone())),

            (_, Input::Buy { cost }) => self.buy(setup, cost, None),
            (Self::AwaitingFunding(AwaitingFunding { account }), Input::Call(input)) => {
                let (account, effect) = account.call(setup, input)?;
                let next = Self::AwaitingFunding(AwaitingFunding { account });
                Ok(effect.into_iter().fold(Transition::to(next), Transition::then))
            }
            (Self::Open(Open { account }), Input::Call(input)) => {
                let (account, effect) = account.call(setup, input)?;
                let next = Self::Open(Open { account });
                Ok(effect.into_iter().fold(Transition::to(next), Transition::then))
            }
            (
                Self::AwaitingAcceptance
                | Self::Abandoned
                | Self::Closing(_)
                | Self::Refunding(_)
                | Self::Closed(_),
                Input::Call(_),
            ) => Err(Reject::NotOpen(self.name())),

            (
                Self::AwaitingFunding(AwaitingFunding { account })
                | Self::Open(Open { account })
                | Self::Closing(Closing { account, transaction: None, .. }),
                Input::Close { fee_rate, charged },
            ) => {
                let ledger = account.ledger();
                let unanswered = account.purse().map_or(0, |purse| purse.unanswered().count());
                if unanswered > 0 {
                    return Err(Reject::CallsUnanswered(unanswered));
                }
                let spent = charged.map_or(ledger.spent, |charged| charged.min(ledger.spent));
                let to_payee = closing::due(spent, ledger.paid());
                let agreed = setup.channel.params().fee_rate;
                // Half of what is left comes back at least, whatever a node estimates.
                let most = closing::most_fee_rate(&setup.channel, to_payee);
                let wanted = Settlement { to_payee, fee_rate: fee_rate.min(most).max(agreed) };
                // A channel that is spent to the last satoshi has only the commitment's fee left, which always does at the
                // agreed rate.
                let settlement = match closing::build(&setup.channel, &wanted) {
                    Ok(_affordable) => wanted,
                    Err(_too_dear) => Settlement { fee_rate: agreed, ..wanted },
                };
                closing::build(&setup.channel, &settlement)?;
                let next =
                    Closing { account: account.clone(), settlement: Some(settlement), transaction: None };
                Ok(Transition::to(Self::Closing(next)).then(Effect::ProposeClosing(settlement)))
            }
            (Self::Closing(Closing { transaction: Some(transaction), .. }), Input::Close { .. }) => {
                Ok(Transition::to(self.clone()).then(Effect::Broadcast(transaction.clone())))
            }
            (
                Self::AwaitingAcceptance | Self::Abandoned | Self::Refunding(_) | Self::Closed(_),
                Input::Close { .. },
            ) => Err(Reject::NotOpen(self.name())),

            (Self::Closing(state), Input::Countersigned { transaction }) => {
                let settlement = state.settlement.ok_or(Reject::WrongClosing)?;
                if !closing::is_complete(&setup.channel, &settlement, &transaction) {
                    return Err(Reject::WrongClosing);
                }
                let effect = Effect::Broadcast(transaction.clone());
                let next = Closing { transaction: Some(transaction), ..state.clone() };
                Ok(Transition::to(Self::Closing(next)).then(effect))
            }
            (
                Self::AwaitingAcceptance
                | Self::Abandoned
                | Self::AwaitingFunding(_)
                | Self::Open(_)
                | Self::Refunding(_)
                | Self::Closed(_),
                Input::Countersigned { .. },
            ) => Err(Reject::WrongClosing),

            (
                Self::AwaitingFunding(AwaitingFunding { account })
                | Self::Open(Open { account })
                | Self::Closing(Closing { account, .. })
                | Self::Refunding(Refunding { account, .. }),
                Input::Sighted(sighting),
            ) => Ok(self.sighted(setup, account, sighting)),
            (Self::AwaitingAcceptance | Self::Abandoned | Self::Closed(_), Input::Sighted(_)) => {
                Ok(Transition::to(self.clone()))
            }
        }
    }

    /// [`Input::Buy`], for whoever may have signed the payment before: then it is not signed again.
    pub(crate) fn buy(
        &self,
        setup: &Setup,
        cost: Msat,
        signed: Option<Payment>,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let (next, payment) = match self {
            Self::AwaitingFunding(AwaitingFunding { account }) => {
                let (account, payment) = account.bought(setup, cost, signed)?;
                (Self::AwaitingFunding(AwaitingFunding { account }), payment)
            }
            Self::Open(Open { account }) => {
                let (account, payment) = account.bought(setup, cost, signed)?;
                (Self::Open(Open { account }), payment)
            }
            Self::AwaitingAcceptance
            | Self::Abandoned
            | Self::Closing(_)
            | Self::Refunding(_)
            | Self::Closed(_) => return Err(Reject::NotOpen(self.name())),
        };
        Ok(Transition::to(next).then(Effect::Pay(payment)))
    }

    /// What a restart must do again.
    pub fn resume(&self, setup: &Setup) -> Vec<Effect> {
        match self {
            Self::AwaitingAcceptance => vec![proposal(setup)],
            Self::AwaitingFunding(_) => vec![Effect::Broadcast(setup.funding.clone())],
            Self::Closing(Closing { transaction: Some(transaction), .. }) => {
                vec![Effect::Broadcast(transaction.clone())]
            }
            // The round that was under way is void with its nonce; this asks for another.
            Self::Closing(Closing { settlement: Some(settlement), transaction: None, .. }) => {
                vec![Effect::ProposeClosing(*settlement)]
            }
            Self::Refunding(state) => refund_at(setup, state.fee_rate),
            Self::Abandoned => vec![Effect::ReleaseCoins],
            Self::Open(_) | Self::Closing(_) | Self::Closed(_) => Vec::new(),
        }
    }

    /// The channel's money as this side counts it.
    pub fn ledger(&self) -> Ledger {
        match self {
            Self::AwaitingAcceptance | Self::Abandoned => Ledger::default(),
            Self::AwaitingFunding(AwaitingFunding { account })
            | Self::Open(Open { account })
            | Self::Closing(Closing { account, .. })
            | Self::Refunding(Refunding { account, .. }) => account.ledger(),
            Self::Closed(Closed { ledger, .. }) => *ledger,
        }
    }

    /// The purse of a channel that pays for calls.
    pub fn purse(&self) -> Option<&Purse> {
        match self {
            Self::AwaitingFunding(AwaitingFunding { account })
            | Self::Open(Open { account })
            | Self::Closing(Closing { account, .. })
            | Self::Refunding(Refunding { account, .. }) => account.purse(),
            Self::AwaitingAcceptance | Self::Abandoned | Self::Closed(_) => None,
        }
    }

    /// The state in words, for people and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AwaitingAcceptance => "awaiting acceptance",
            Self::Abandoned => "abandoned",
            Self::AwaitingFunding(_) => "awaiting funding",
            Self::Open(_) => "open",
            Self::Closing(_) => "closing",
            Self::Refunding(_) => "refunding",
            Self::Closed(_) => "closed",
        }
    }

    fn sighted(&self, setup: &Setup, account: &Account, sighting: Sighting) -> Transition<Self, Effect> {
        let account = || account.clone();
        let ending = Ending::of(&setup.channel, &setup.channel.params().payer, &sighting, setup.finality);
        if let Some(ending) = ending {
            return Self::spent_for_good(setup, &account(), ending, &sighting);
        }
        match sighting.funding {
            Funding::Unseen | Funding::Unconfirmed(_) => match self {
                Self::AwaitingFunding(_) | Self::Open(_) => {
                    Transition::to(Self::AwaitingFunding(AwaitingFunding { account: account() }))
                        .then(Effect::Broadcast(setup.funding.clone()))
                }
                // Everything that spends the funding needs it in the chain again.
                Self::AwaitingAcceptance
                | Self::Abandoned
                | Self::Closing(_)
                | Self::Refunding(_)
                | Self::Closed(_) => {
                    Transition::to(self.clone()).then(Effect::Broadcast(setup.funding.clone()))
                }
            },
            Funding::Confirmed { .. } if sighting.height >= setup.channel.params().expiry.height() => {
                Self::refund(setup, account(), sighting.fee_rate)
            }
            Funding::Confirmed { .. } => match self {
                Self::AwaitingFunding(_) | Self::Open(_) => {
                    Transition::to(Self::Open(Open { account: account() }))
                }
                Self::Closing(Closing { transaction: Some(transaction), .. }) => {
                    Transition::to(self.clone()).then(Effect::Broadcast(transaction.clone()))
                }
                Self::AwaitingAcceptance
                | Self::Abandoned
                | Self::Closing(_)
                | Self::Refunding(_)
                | Self::Closed(_) => Transition::to(self.clone()),
            },
            // Somebody spends the funding: no payment into it any more.
            Funding::Spent { by, confirmations } => match self {
                // Its own refund waits for a block, and may want a better fee by now.
                Self::Refunding(state)
                    if confirmations == 0 && setup.channel.spend_kind(&by) == Some(SpendKind::Refund) =>
                {
                    state.bump(setup, sighting.fee_rate)
                }
                Self::AwaitingAcceptance
                | Self::Abandoned
                | Self::Closing(_)
                | Self::Refunding(_)
                | Self::Closed(_) => Transition::to(self.clone()),
                Self::AwaitingFunding(_) | Self::Open(_) => {
                    let next = Closing { account: account(), settlement: None, transaction: None };
                    Transition::to(Self::Closing(next))
                }
            },
        }
    }

    /// Takes everything back. Where nothing waits in the mempool, at the rate of the moment.
    fn refund(setup: &Setup, account: Account, now: FeeRate) -> Transition<Self, Effect> {
        let fee_rate = now.min(refund::most_fee_rate(&setup.channel));
        let next = Transition::to(Self::Refunding(Refunding { account, fee_rate }));
        refund_at(setup, fee_rate).into_iter().fold(next, Transition::then)
    }
}

impl Refunding {
    /// Replaces a refund that waits in the mempool where a better one is due.
    fn bump(&self, setup: &Setup, now: FeeRate) -> Transition<State, Effect> {
        if replacement::outbids(now.min(refund::most_fee_rate(&setup.channel)), self.fee_rate) {
            State::refund(setup, self.account.clone(), now)
        } else {
            Transition::to(State::Refunding(self.clone()))
        }
    }
}

fn proposal(setup: &Setup) -> Effect {
    let signature = opening::sign_opening(&setup.channel, &setup.keys);
    Effect::Propose(Box::new(Opening { params: setup.channel.params().clone(), signature }))
}

/// A refund that leaves nothing above dust is not worth publishing.
fn refund_at(setup: &Setup, fee_rate: FeeRate) -> Vec<Effect> {
    refund::complete(&setup.channel, &setup.keys, fee_rate).map(Effect::Broadcast).into_iter().collect()
}
