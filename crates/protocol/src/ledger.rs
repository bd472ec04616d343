//! What one side knows of a channel's money: the total paid, and the sum of what it bought.

use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::payment::Payment;

/// Both sides keep one and add up for themselves; no total that the other side states goes in unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The newest payment, whose total is the largest.
    pub newest: Option<Payment>,
    /// The total that words pay ([`crate::lightspeed`]), what was paid before them included; zero without words.
    pub words: Msat,
    /// The cost of everything bought.
    pub spent: Msat,
}

impl Ledger {
    /// Everything paid.
    pub fn paid(&self) -> Msat {
        self.newest.map_or(Msat::ZERO, |payment| payment.total).max(self.words)
    }

    /// Paid and not spent.
    pub fn credit(&self) -> Msat {
        self.paid().saturating_sub(self.spent)
    }
}
