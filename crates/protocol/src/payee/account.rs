//! What a channel pays for: pieces, one signature each, or calls, one word or preimage each.

use serde::{Deserialize, Serialize};

use super::charge::Check;
use super::{Reject, Setup};
use crate::amount::Msat;
use crate::ledger::Ledger;
use crate::lightspeed::tab::{Claim, Tab};
use crate::payment::Payment;

/// The account of one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Account {
    /// Plain payments only.
    Pieces(Ledger),
    /// Words or preimages, on top of plain payments.
    Calls(Box<Tab>),
}

impl Default for Account {
    fn default() -> Self {
        Self::Pieces(Ledger::default())
    }
}

impl Account {
    /// The money in it.
    pub fn ledger(&self) -> Ledger {
        match self {
            Self::Pieces(ledger) => *ledger,
            Self::Calls(tab) => tab.ledger(),
        }
    }

    /// The tab, if it pays for calls.
    pub fn tab(&self) -> Option<&Tab> {
        match self {
            Self::Pieces(_) => None,
            Self::Calls(tab) => Some(tab),
        }
    }

    /// The best that can be published.
    pub(super) fn claim(&self) -> Option<Claim> {
        match self {
            Self::Pieces(ledger) => ledger.newest.map(Claim::Plain),
            Self::Calls(tab) => Some(tab.claim()),
        }
    }

    pub(super) fn charged(
        &self,
        setup: &Setup,
        payment: Option<Payment>,
        cost: Msat,
        check: Check,
    ) -> Result<Self, Reject> {
        match self {
            Self::Pieces(ledger) => ledger.charged(setup, payment, cost, check).map(Self::Pieces),
            Self::Calls(_) => Err(Reject::PaysForCalls),
        }
    }

    /// The account with a newer tab. A tab never goes back.
    pub(super) fn folded(&self, tab: Box<Tab>) -> Result<Self, Reject> {
        let (old, new) = (self.ledger(), tab.ledger());
        if new.spent < old.spent || new.paid() < old.paid() || old.newest.is_none() {
            return Err(Reject::StaleTab);
        }
        Ok(Self::Calls(tab))
    }
}
