//! Amounts. A payment counts in millisatoshi, so that one piece or one call can cost less than a satoshi; the
//! chain counts in satoshi. The only way from one to the other that loses anything is [`Msat::floor`].

use std::fmt;
use std::iter::Sum;

use bitcoin::Amount;
use serde::{Deserialize, Serialize};

/// The smallest output that relays when it pays a Taproot script, in satoshi (Bitcoin Core's dust limit for
/// P2TR at its default dust relay fee). What is below it cannot be enforced on chain.
pub const DUST: Amount = Amount::from_sat(330);

/// Thousandths of a satoshi.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Msat(u64);

impl Msat {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// That many thousandths of a satoshi.
    pub const fn new(msat: u64) -> Self {
        Self(msat)
    }

    /// An amount on chain, counted in millisatoshi. `None` above 2⁶⁴ − 1 msat, which is more than will exist.
    pub fn from_amount(amount: Amount) -> Option<Self> {
        amount.to_sat().checked_mul(1_000).map(Self)
    }

    /// The number of millisatoshi.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// What of it the chain can carry: whole satoshi, rounded down.
    pub const fn floor(self) -> Amount {
        Amount::from_sat(self.0 / 1_000)
    }

    /// Whole satoshi, rounded up: what an offer that states whole satoshi must reach to cover this.
    pub const fn ceil(self) -> Amount {
        Amount::from_sat(self.0.div_ceil(1_000))
    }

    /// The sum, or `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The sum, or the most that can be counted.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or `None` below zero.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The difference, or nothing below zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `units` times this, or `None` on overflow.
    pub fn checked_mul(self, units: u64) -> Option<Self> {
        self.0.checked_mul(units).map(Self)
    }
}

impl fmt::Display for Msat {
    /// Satoshi with up to three decimals: `1.5 sat`, `700 sat`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sat, rest) = (self.0 / 1_000, self.0 % 1_000);
        if rest == 0 {
            return write!(f, "{sat} sat");
        }
        let decimals = format!("{rest:03}");
        write!(f, "{sat}.{} sat", decimals.trim_end_matches('0'))
    }
}

impl Sum for Msat {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        Self(iter.map(|amount| amount.0).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_down_on_chain_and_up_in_offers() {
        assert_eq!(Msat::new(1_999).floor(), Amount::from_sat(1));
        assert_eq!(Msat::new(1_001).ceil(), Amount::from_sat(2));
        assert_eq!(Msat::new(2_000).ceil(), Amount::from_sat(2));
    }

    #[test]
    fn prints_satoshi() {
        assert_eq!(Msat::new(1_500).to_string(), "1.5 sat");
        assert_eq!(Msat::new(10).to_string(), "0.01 sat");
        assert_eq!(Msat::new(700_000).to_string(), "700 sat");
    }
}
