//! What a call is charged, and why a payee refuses.

use bitcoin::Amount;

use super::{AwaitingDepth, Effect, Open, Setup, State};
use crate::amount::Msat;
use crate::closing::BadSettlement;
use crate::commitment::{self, WrongSignature};
use crate::ledger::Ledger;
use crate::payment::Payment;
use crate::transition::Transition;

/// The other side is wrong, or too late. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// A payment ahead that does not raise the total.
    #[error("the payment does not raise the total: it is {got}, but {paid} is paid already")]
    NotIncreasing {
        /// The total so far.
        paid: Msat,
        /// The stated total.
        got: Msat,
    },
    /// More than is locked.
    #[error("the total of {got} is above the {most} that this channel can pay")]
    OverCapacity {
        /// The most that the channel can pay.
        most: Msat,
        /// The stated total.
        got: Msat,
    },
    /// The first payment must be enforceable.
    #[error("the first payment is {got}, but must be at least {least}: less cannot be claimed on chain")]
    FirstTooSmall {
        /// The agreed prepayment.
        least: Msat,
        /// The stated total.
        got: Msat,
    },
    /// The signature does not fit.
    #[error(transparent)]
    WrongSignature(#[from] WrongSignature),
    /// The credit does not cover the cost.
    #[error("{needed} must be paid in total for this, but only {paid} is")]
    Unpaid {
        /// What the total must reach.
        needed: Msat,
        /// What it is.
        paid: Msat,
    },
    /// Too much for a funding that may yet disappear.
    #[error(
        "the funding is not deep enough: until then at most {cap} can be spent, this would make it {got}"
    )]
    NotDeepEnough {
        /// The cap.
        cap: Msat,
        /// What would be spent.
        got: Msat,
    },
    /// The channel is closing or closed.
    #[error("the channel is {0} and accepts no payment")]
    NotOpen(&'static str),
    /// The channel pays by words now.
    #[error("this channel pays for calls by words, and for nothing else")]
    PaysForCalls,
    /// The tab is older than the one that is stored.
    #[error("this account was changed meanwhile: try again")]
    StaleTab,
    /// Calls are being served.
    #[error("{0} calls are being served; the channel can be settled when they are done")]
    CallsRunning(usize),
    /// The settlement pays too little.
    #[error("the closing pays {got}, but {due} is due")]
    Underpaid {
        /// What is due.
        due: Amount,
        /// What was offered.
        got: Amount,
    },
    /// The closing would not confirm.
    #[error("the closing's fee rate is {got} sat/kwu, but must be at least {least}")]
    FeeTooLow {
        /// The least, in satoshi per 1,000 weight units.
        least: u64,
        /// What was offered.
        got: u64,
    },
    /// The settlement makes no transaction.
    #[error(transparent)]
    BadSettlement(#[from] BadSettlement),
    /// Not the closing that was agreed on, or not completely signed.
    #[error("this is not the closing that was agreed on, or it is not completely signed")]
    WrongClosing,
}

/// Whether a payment's signature is still to be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Needed,
    /// It was, in this channel.
    Done,
}

impl State {
    /// [`Input::Charge`], for whoever has verified the payment's signature in this very channel.
    pub(crate) fn count(&self, setup: &Setup, payment: Option<Payment>, cost: Msat) -> Result<Self, Reject> {
        Ok(self.charge(setup, payment, cost, Check::Done)?.next().clone())
    }

    pub(super) fn charge(
        &self,
        setup: &Setup,
        payment: Option<Payment>,
        cost: Msat,
        check: Check,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let next = match self {
            Self::AwaitingDepth(state) => {
                let account = state.account.charged(setup, payment, cost, check)?;
                let (cap, got) = (state.cap(setup), account.ledger().spent);
                if cost > Msat::ZERO && got > cap {
                    return Err(Reject::NotDeepEnough { cap, got });
                }
                Self::AwaitingDepth(AwaitingDepth { account, ..*state })
            }
            Self::Open(state) => {
                Self::Open(Open { account: state.account.charged(setup, payment, cost, check)? })
            }
            Self::ClosingTogether(_) | Self::ClosingAlone(_) | Self::Closed(_) => {
                return Err(Reject::NotOpen(self.name()));
            }
        };
        Ok(Transition::to(next).then(Effect::Serve { cost }))
    }
}

impl Ledger {
    /// The ledger after a call: a larger, valid payment raises what is paid; then the credit must cover the cost. A
    /// payment that is not larger is simply not needed, since calls may overtake each other.
    pub(super) fn charged(
        &self,
        setup: &Setup,
        payment: Option<Payment>,
        cost: Msat,
        check: Check,
    ) -> Result<Self, Reject> {
        let mut ledger = *self;
        if let Some(payment) = payment {
            if payment.total > ledger.paid() {
                setup.check_raise(&ledger, &payment, check)?;
                ledger.newest = Some(payment);
            } else if cost == Msat::ZERO {
                return Err(Reject::NotIncreasing { paid: ledger.paid(), got: payment.total });
            }
        }
        let over = Reject::OverCapacity { most: setup.channel.max_total(), got: Msat::new(u64::MAX) };
        let needed = ledger.spent.checked_add(cost).ok_or(over)?;
        if needed > ledger.paid() {
            return Err(Reject::Unpaid { needed, paid: ledger.paid() });
        }
        ledger.spent = needed;
        Ok(ledger)
    }
}

impl Setup {
    fn check_raise(&self, ledger: &Ledger, payment: &Payment, check: Check) -> Result<(), Reject> {
        let most = self.channel.max_total();
        if payment.total > most {
            return Err(Reject::OverCapacity { most, got: payment.total });
        }
        let least = Msat::from_amount(self.channel.params().prepaid).expect("at most the capacity");
        if ledger.newest.is_none() && payment.total < least {
            return Err(Reject::FirstTooSmall { least, got: payment.total });
        }
        match check {
            Check::Needed => Ok(commitment::verify(&self.channel, payment)?),
            Check::Done => Ok(()),
        }
    }
}
