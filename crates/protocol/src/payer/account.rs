//! What a channel pays for: pieces, one signature each, or calls, one word or preimage each.

use serde::{Deserialize, Serialize};

use super::{Effect, Reject, Setup, call};
use crate::amount::Msat;
use crate::commitment;
use crate::ledger::Ledger;
use crate::lightspeed::Purse;
use crate::payment::Payment;

/// The account of one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Account {
    /// Plain payments only.
    Pieces(Ledger),
    /// Words or preimages, on top of plain payments.
    Calls(Box<Purse>),
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
            Self::Calls(purse) => purse.ledger(),
        }
    }

    /// The purse, if it pays for calls.
    pub fn purse(&self) -> Option<&Purse> {
        match self {
            Self::Pieces(_) => None,
            Self::Calls(purse) => Some(purse),
        }
    }

    pub(super) fn bought(
        &self,
        setup: &Setup,
        cost: Msat,
        signed: Option<Payment>,
    ) -> Result<(Self, Payment), Reject> {
        match self {
            Self::Pieces(ledger) => {
                let (ledger, payment) = ledger.bought(setup, cost, signed)?;
                Ok((Self::Pieces(ledger), payment))
            }
            Self::Calls(_) => Err(Reject::PaysForCalls),
        }
    }

    pub(super) fn call(&self, setup: &Setup, input: call::Input) -> Result<(Self, Option<Effect>), Reject> {
        let mut purse = match self {
            Self::Calls(purse) => purse.clone(),
            // The first chain or batch stands on the prepayment, which is signed now if nothing was paid yet.
            Self::Pieces(ledger)
                if matches!(input, call::Input::Announce(_) | call::Input::AnnounceBatch(_)) =>
            {
                let (ledger, payment) = ledger.bought(setup, Msat::ZERO, None)?;
                Box::new(Purse::new(payment, ledger.spent))
            }
            Self::Pieces(_) => return Err(Reject::PaysForPieces),
        };
        let effect = purse.handle(&setup.channel, input)?;
        Ok((Self::Calls(purse), effect))
    }
}

impl Ledger {
    /// The ledger after buying something, and the payment that covers it: the credit first, then a larger total, but
    /// never less than the agreed first payment.
    fn bought(&self, setup: &Setup, cost: Msat, signed: Option<Payment>) -> Result<(Self, Payment), Reject> {
        let most = setup.channel.max_total();
        let over = |got| Reject::OverCapacity { most, got };
        let spent = self.spent.checked_add(cost).ok_or(over(Msat::new(u64::MAX)))?;
        let prepaid = Msat::from_amount(setup.channel.params().prepaid).expect("at most the capacity");
        let total = spent.max(self.paid()).max(prepaid);
        if total > most {
            return Err(over(total));
        }
        let known = [self.newest, signed].into_iter().flatten().find(|known| known.total == total);
        let payment = known.unwrap_or_else(|| commitment::sign(&setup.channel, &setup.keys, total));
        Ok((Self { newest: Some(payment), spent, ..*self }, payment))
    }
}
