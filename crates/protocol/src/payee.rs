//! The payee: what it does with each input, and what it can lose.
//!
//! ```text
//!             accept                  deep enough               closing agreed
//!   (opening) ──────▶ AwaitingDepth ◀────────────▶ Open ─────────────────────▶ ClosingTogether
//!                           │         reorganised    │ margin reached,              │ patience
//!                           │                        │ or the operator closes       ▼ exhausted
//!                           └────────────────────────┴───────────────────────▶ ClosingAlone
//!                                                                                   │
//!                     Closed ◀──────── the funding's spend is deep enough ──────────┘
//! ```
//!
//! **What the payee can lose.** It serves only what was paid for, so never a served piece. At stake are: what is below
//! dust or below the cost of closing (so the first payment covers both: [`crate::opening::Offer::prepaid`]); fractions
//! of a satoshi; before the funding is deep enough, what [`Policy::unconfirmed_cap`] allows; and everything, if it
//! does not publish its commitment before the expiry: so it closes [`Policy::margin`] blocks earlier by itself.
//!
//! **Replay.** A commitment, a closing or a child may be broadcast any number of times. A closing signature is made
//! only in memory, with a fresh nonce each time, and only in the state [`ClosingTogether`], which accepts no payment.

mod account;
mod charge;
mod ending;
mod publishing;

use bitcoin::{FeeRate, Transaction};
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::channel::{Channel, Ending, SpendKind};
use crate::closing::{self, Settlement};
use crate::flat::Batch;
use crate::keys::ChannelKeys;
use crate::ledger::Ledger;
use crate::lightspeed::tab::{Claim, Tab};
use crate::opening::{self, Refusal};
pub use crate::payee::account::Account;
use crate::payee::charge::Check;
pub use crate::payee::charge::Reject;
pub use crate::payee::publishing::Publication;
use crate::payee::publishing::publication;
use crate::payment::Payment;
use crate::sighting::{Funding, Sighting};
use crate::transition::Transition;

/// How careful this payee is in one channel. Fixed at the opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How deep the funding must be before payments count in full.
    pub confirmations: u32,
    /// What may be sold before that: what a double-spent funding costs.
    pub unconfirmed_cap: Msat,
    /// How many blocks before the expiry it closes by itself.
    pub margin: u32,
    /// How many blocks it gives the payer to publish an agreed closing before it publishes its commitment.
    pub patience: u32,
    /// How deep a spend must be before the channel is forgotten.
    pub finality: u32,
}

/// What stays the same over a channel's life.
pub struct Setup {
    /// The agreement.
    pub channel: Channel,
    /// The payee's keys.
    pub keys: ChannelKeys,
    /// Its policy.
    pub policy: Policy,
}

/// Where a channel stands, for the payee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The funding is not deep enough.
    AwaitingDepth(AwaitingDepth),
    /// Payments count.
    Open(Open),
    /// The payer may publish the closing that both agreed on.
    ClosingTogether(ClosingTogether),
    /// The payee publishes its newest commitment.
    ClosingAlone(ClosingAlone),
    /// It is over.
    Closed(Closed),
}

/// The funding is not in the chain yet, or not deep enough, or was lost in a reorganisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitingDepth {
    account: Account,
    /// Whether the last look at the chain found the funding at all.
    seen: bool,
}

impl AwaitingDepth {
    /// What may be spent: nothing of a funding that nobody has seen, since anybody can name one.
    fn cap(&self, setup: &Setup) -> Msat {
        if self.seen { setup.policy.unconfirmed_cap } else { Msat::ZERO }
    }
}

/// The funding is deep enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    account: Account,
}

/// No payment is accepted any more; a signature on this settlement may have left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingTogether {
    account: Account,
    settlement: Settlement,
    /// The finished closing, once the payer has handed it over.
    transaction: Option<Transaction>,
    /// When the payee stops waiting for it, a block height.
    publish_at: u32,
}

/// No payment is accepted any more; the commitment is being published. The ledger's newest payment takes a rung's place where
/// that brings more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingAlone {
    ledger: Ledger,
    claim: Claim,
}

/// Nothing is left to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    ledger: Ledger,
    /// How it ended on chain; `None` when there was nothing to claim or no valid funding.
    pub ending: Option<Ending>,
}

/// What can happen to a payee.
#[derive(Clone, Debug)]
pub enum Input {
    /// An authentic call ([`crate::session`]) asks for something that costs `cost`, and may bring a payment.
    Charge {
        /// The newest signed total, if the call brings one.
        payment: Option<Payment>,
        /// What the call costs. Zero for a payment ahead.
        cost: Msat,
    },
    /// The tab of a channel that pays for calls ([`crate::lightspeed`]), as it stands now. The first one turns a channel that
    /// paid for pieces into one that pays for calls.
    Fold(Box<Tab>),
    /// The payer asks for a cooperative close.
    Settle {
        /// What it wants settled.
        settlement: Settlement,
        /// The tip's height.
        height: u32,
    },
    /// The payer handed over the finished closing.
    Settled {
        /// The complete transaction.
        transaction: Transaction,
    },
    /// The operator wants its money now.
    Close,
    /// A look at the chain.
    Sighted(Sighting),
}

/// What the payee is to do, once its state is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer the opening with this signature on the channel id.
    Accept(schnorr::Signature),
    /// Serve what was charged.
    Serve {
        /// What it cost.
        cost: Msat,
    },
    /// Release the answers of the calls that the stored tab has as served.
    Answer,
    /// Make the payee's half of this closing and answer with it.
    Cosign(Settlement),
    /// Bring this into a block.
    Publish(Box<Publication>),
    /// Bring the micropayment transaction of this batch into a block, its fee paid by the wallet's own coins at that rate.
    Spread {
        /// The batch, whose commitment is in a block.
        batch: Box<Batch>,
        /// What confirms soon.
        fee_rate: FeeRate,
    },
    /// Broadcast this complete closing, or this claim.
    Broadcast(Transaction),
}

/// Accepts an opening that has passed [`opening::Offer::check`].
///
/// # Errors
/// When the payer's signature on the channel id does not verify.
pub fn accept(setup: &Setup, signature: &schnorr::Signature) -> Result<Transition<State, Effect>, Refusal> {
    if !opening::opening_holds(&setup.channel, signature) {
        return Err(Refusal::Signature);
    }
    Ok(Transition::to(State::AwaitingDepth(AwaitingDepth { account: Account::default(), seen: false }))
        .then(acceptance(setup)))
}

/// The acceptance again, for a payer that did not get it. It says only that the channel is known.
pub fn acceptance(setup: &Setup) -> Effect {
    Effect::Accept(opening::sign_acceptance(&setup.channel, &setup.keys))
}

impl State {
    /// Decides what an input does.
    ///
    /// # Errors
    /// When the other side is wrong, or too late. Then nothing changes.
    pub fn handle(&self, setup: &Setup, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        match (self, input) {
            (_, Input::Charge { payment, cost }) => self.charge(setup, payment, cost, Check::Needed),

            (Self::AwaitingDepth(state), Input::Fold(tab)) => {
                let account = state.account.folded(tab)?;
                Ok(Transition::to(Self::AwaitingDepth(AwaitingDepth { account, ..*state }))
                    .then(Effect::Answer))
            }
            (Self::Open(state), Input::Fold(tab)) => {
                let account = state.account.folded(tab)?;
                Ok(Transition::to(Self::Open(Open { account })).then(Effect::Answer))
            }
            // What was served before the settlement was stored is settled already; what came later is not served.
            (Self::ClosingTogether(_) | Self::ClosingAlone(_) | Self::Closed(_), Input::Fold(_)) => {
                Err(Reject::NotOpen(self.name()))
            }

            (
                Self::AwaitingDepth(AwaitingDepth { account, .. })
                | Self::Open(Open { account })
                | Self::ClosingTogether(ClosingTogether { account, .. }),
                Input::Settle { settlement, height },
            ) => self.settle(setup, account, settlement, height),
            (Self::ClosingAlone(_) | Self::Closed(_), Input::Settle { .. }) => {
                Err(Reject::NotOpen(self.name()))
            }

            (Self::ClosingTogether(state), Input::Settled { transaction }) => {
                state.settled(setup, transaction)
            }
            (
                Self::AwaitingDepth(_) | Self::Open(_) | Self::ClosingAlone(_) | Self::Closed(_),
                Input::Settled { .. },
            ) => Err(Reject::WrongClosing),

            (Self::AwaitingDepth(_) | Self::Open(_) | Self::ClosingTogether(_), Input::Close) => {
                Ok(self.close_alone(setup))
            }
            (Self::ClosingAlone(_) | Self::Closed(_), Input::Close) => Ok(Transition::to(self.clone())),

            (Self::AwaitingDepth(_) | Self::Open(_), Input::Sighted(sighting)) => {
                Ok(self.sighted_while_open(setup, &sighting))
            }
            (Self::ClosingTogether(state), Input::Sighted(sighting)) => {
                Ok(self.sighted_while_closing_together(setup, state, &sighting))
            }
            (Self::ClosingAlone(state), Input::Sighted(sighting)) => match self.ended(setup, &sighting) {
                Some(closed) => Ok(Transition::to(closed)),
                None if setup.is_hopeless(&sighting) => Ok(self.close_without_claim()),
                None => {
                    let next = state.publishes(setup, &sighting);
                    Ok(next.into_iter().fold(Transition::to(self.clone()), Transition::then))
                }
            },
            (Self::Closed(_), Input::Sighted(_)) => Ok(Transition::to(self.clone())),
        }
    }

    /// What a restart must do again.
    pub fn resume(&self, setup: &Setup) -> Vec<Effect> {
        match self {
            Self::ClosingAlone(state) => publication(setup, &state.claim, state.ledger.newest.as_ref()),
            Self::ClosingTogether(ClosingTogether { transaction: Some(transaction), .. }) => {
                vec![Effect::Broadcast(transaction.clone())]
            }
            Self::AwaitingDepth(_) | Self::Open(_) | Self::ClosingTogether(_) | Self::Closed(_) => Vec::new(),
        }
    }

    /// The channel's money as this side counts it.
    pub fn ledger(&self) -> Ledger {
        match self {
            Self::AwaitingDepth(AwaitingDepth { account, .. })
            | Self::Open(Open { account })
            | Self::ClosingTogether(ClosingTogether { account, .. }) => account.ledger(),
            Self::ClosingAlone(ClosingAlone { ledger, .. }) | Self::Closed(Closed { ledger, .. }) => *ledger,
        }
    }

    /// The tab of a channel that pays for calls and serves them.
    pub fn tab(&self) -> Option<&Tab> {
        match self {
            Self::AwaitingDepth(AwaitingDepth { account, .. }) | Self::Open(Open { account }) => {
                account.tab()
            }
            Self::ClosingTogether(_) | Self::ClosingAlone(_) | Self::Closed(_) => None,
        }
    }

    /// Whether payments are taken at all.
    pub fn is_open(&self) -> bool {
        match self {
            Self::AwaitingDepth(_) | Self::Open(_) => true,
            Self::ClosingTogether(_) | Self::ClosingAlone(_) | Self::Closed(_) => false,
        }
    }

    /// What may be spent now: `None` for everything that is paid, or a cap while the funding is not deep enough, or nothing
    /// when the channel is not open.
    pub fn cap(&self, setup: &Setup) -> Option<Msat> {
        match self {
            Self::AwaitingDepth(state) => Some(state.cap(setup)),
            Self::Open(_) => None,
            Self::ClosingTogether(_) | Self::ClosingAlone(_) | Self::Closed(_) => Some(Msat::ZERO),
        }
    }

    /// The state in words, for people and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AwaitingDepth(_) => "awaiting depth",
            Self::Open(_) => "open",
            Self::ClosingTogether(_) => "closing",
            Self::ClosingAlone(_) => "closing alone",
            Self::Closed(_) => "closed",
        }
    }

    /// Whether the channel waits for a funding that the last look at the chain did not find.
    pub fn is_unfunded(&self) -> bool {
        match self {
            Self::AwaitingDepth(state) => !state.seen,
            Self::Open(_) | Self::ClosingTogether(_) | Self::ClosingAlone(_) | Self::Closed(_) => false,
        }
    }

    /// Publishes the best commitment; without one there is nothing to claim.
    fn close_alone(&self, setup: &Setup) -> Transition<Self, Effect> {
        match self.claim() {
            Some(claim) => {
                let ledger = self.ledger();
                let effects = publication(setup, &claim, ledger.newest.as_ref());
                let next = Self::ClosingAlone(ClosingAlone { ledger, claim });
                effects.into_iter().fold(Transition::to(next), Transition::then)
            }
            None => self.close_without_claim(),
        }
    }

    /// The most that this side can publish; `None` when nothing was paid, or the channel is over.
    pub fn claim(&self) -> Option<Claim> {
        match self {
            Self::AwaitingDepth(AwaitingDepth { account, .. })
            | Self::Open(Open { account })
            | Self::ClosingTogether(ClosingTogether { account, .. }) => account.claim(),
            Self::ClosingAlone(ClosingAlone { claim, .. }) => Some(claim.clone()),
            Self::Closed(_) => None,
        }
    }

    fn close_without_claim(&self) -> Transition<Self, Effect> {
        Transition::to(Self::Closed(Closed { ledger: self.ledger(), ending: None }))
    }

    /// Stores *closing* before the payee's half of the closing leaves. A payer that asks again gains no time by it, and a
    /// closing that it handed over before stays as good as it was.
    fn settle(
        &self,
        setup: &Setup,
        account: &Account,
        settlement: Settlement,
        height: u32,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let ledger = account.ledger();
        let running = account.tab().map_or(0, |tab| tab.numbers().running());
        if running > 0 {
            return Err(Reject::CallsRunning(running));
        }
        let due = closing::due(ledger.spent, ledger.paid());
        if settlement.to_payee < due {
            return Err(Reject::Underpaid { due, got: settlement.to_payee });
        }
        let least: FeeRate = setup.channel.params().fee_rate;
        if settlement.fee_rate < least {
            let got = settlement.fee_rate.to_sat_per_kwu();
            return Err(Reject::FeeTooLow { least: least.to_sat_per_kwu(), got });
        }
        closing::build(&setup.channel, &settlement)?;
        let patience = height.saturating_add(setup.policy.patience);
        let (transaction, publish_at) = match self {
            Self::ClosingTogether(state) => (state.transaction.clone(), state.publish_at.min(patience)),
            Self::AwaitingDepth(_) | Self::Open(_) | Self::ClosingAlone(_) | Self::Closed(_) => {
                (None, patience)
            }
        };
        let account = account.clone();
        let next = ClosingTogether { account, settlement, transaction, publish_at };
        Ok(Transition::to(Self::ClosingTogether(next)).then(Effect::Cosign(settlement)))
    }

    fn sighted_while_open(&self, setup: &Setup, sighting: &Sighting) -> Transition<Self, Effect> {
        let (Self::AwaitingDepth(AwaitingDepth { account, .. }) | Self::Open(Open { account })) = self else {
            return Transition::to(self.clone());
        };
        let account = || account.clone();
        let ledger = self.ledger();
        let awaiting_depth =
            |seen| Transition::to(Self::AwaitingDepth(AwaitingDepth { account: account(), seen }));
        let expected = setup.channel.funding_txout();
        match &sighting.funding {
            Funding::Confirmed { output, .. } | Funding::Unconfirmed(output) if *output != expected => {
                Transition::to(Self::Closed(Closed { ledger, ending: None }))
            }
            Funding::Confirmed { .. } if setup.must_close(sighting.height) => self.close_alone(setup),
            Funding::Confirmed { confirmations, .. } if *confirmations >= setup.policy.confirmations => {
                Transition::to(Self::Open(Open { account: account() }))
            }
            Funding::Unseen if setup.is_hopeless(sighting) => self.close_without_claim(),
            // After a reorganisation the funding may come back, and the commitment stays valid until a refund confirms.
            Funding::Unseen | Funding::Unconfirmed(_) if setup.expired(sighting.height) => {
                self.close_alone(setup)
            }
            Funding::Unseen => awaiting_depth(false),
            Funding::Unconfirmed(_) | Funding::Confirmed { .. } => awaiting_depth(true),
            Funding::Spent { .. } => match self.ended(setup, sighting) {
                Some(closed) => Transition::to(closed),
                None => self.close_alone(setup),
            },
        }
    }

    fn sighted_while_closing_together(
        &self,
        setup: &Setup,
        state: &ClosingTogether,
        sighting: &Sighting,
    ) -> Transition<Self, Effect> {
        if let Some(closed) = self.ended(setup, sighting) {
            return Transition::to(closed);
        }
        // From the expiry on a refund could replace it, so by then it must be in a block, whatever it pays.
        let is_late = setup.must_close(sighting.height);
        let agreed_closing_is_out = match &sighting.funding {
            Funding::Spent { by, confirmations } => {
                setup.channel.spend_kind(by) == Some(SpendKind::Closing) && (*confirmations > 0 || !is_late)
            }
            Funding::Unseen | Funding::Unconfirmed(_) | Funding::Confirmed { .. } => false,
        };
        let patience_is_over = sighting.height >= state.publish_at || setup.must_close(sighting.height);
        match (&state.transaction, agreed_closing_is_out) {
            (_, true) => Transition::to(self.clone()),
            (Some(transaction), false) if !patience_is_over => {
                Transition::to(self.clone()).then(Effect::Broadcast(transaction.clone()))
            }
            (None, false) if !patience_is_over => Transition::to(self.clone()),
            // The commitment pays everything that was paid, so it never pays less than what is due.
            (Some(_) | None, false) => self.close_alone(setup),
        }
    }
}

impl ClosingTogether {
    fn settled(&self, setup: &Setup, transaction: Transaction) -> Result<Transition<State, Effect>, Reject> {
        if !closing::is_complete(&setup.channel, &self.settlement, &transaction) {
            return Err(Reject::WrongClosing);
        }
        let effect = Effect::Broadcast(transaction.clone());
        let next = Self { transaction: Some(transaction), ..self.clone() };
        Ok(Transition::to(State::ClosingTogether(next)).then(effect))
    }
}

impl Setup {
    fn must_close(&self, height: u32) -> bool {
        height.saturating_add(self.policy.margin) >= self.channel.params().expiry.height()
    }

    /// A funding that a reorganisation took and that has not come back long after the expiry was spent elsewhere.
    fn is_hopeless(&self, sighting: &Sighting) -> bool {
        let long_after = self.channel.params().expiry.height().saturating_add(self.policy.finality);
        matches!(sighting.funding, Funding::Unseen) && sighting.height >= long_after
    }

    fn expired(&self, height: u32) -> bool {
        height >= self.channel.params().expiry.height()
    }
}
