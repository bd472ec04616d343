//! What transactions weigh by BOLT 3's formula, and what they pay ([BOLT 3, fees]).
//!
//! The formula is fixed: it counts signatures of 73 bytes and, in a commitment, always both main outputs. So what is paid is at
//! least the fee rate by the true weight.
//!
//! [BOLT 3, fees]: https://github.com/lightning/bolts/blob/master/03-transactions.md#fees

use bitcoin::{Amount, FeeRate, Weight};

/// A commitment without HTLC outputs.
const COMMITMENT: u64 = 724;
/// Each HTLC output of a commitment.
const HTLC_OUTPUT: u64 = 172;

/// A complete HTLC-timeout transaction.
pub const HTLC_TIMEOUT: Weight = Weight::from_wu(663);

/// A complete HTLC-success transaction. One more than it weighs, as BOLT 3 has it "for historical reasons".
pub const HTLC_SUCCESS: Weight = Weight::from_wu(703);

/// A complete commitment with so many HTLC outputs.
pub fn commitment_weight(htlc_outputs: usize) -> Weight {
    Weight::from_wu(COMMITMENT + HTLC_OUTPUT * htlc_outputs as u64)
}

/// The fee for that weight, rounded down to whole satoshi as BOLT 3 does (rust-bitcoin's own product rounds up).
pub fn fee(rate: FeeRate, weight: Weight) -> Amount {
    Amount::from_sat(rate.to_sat_per_kwu().saturating_mul(weight.to_wu()) / 1_000)
}
