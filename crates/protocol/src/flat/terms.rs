//! What both agree on for one flat batch, and the limits that follow from it.
//!
//! [`Terms::check`] refuses what breaks a limit; [`Terms::explain`] gives every limit and cost in numbers, to be shown
//! before anything is locked.

use bitcoin::{Amount, FeeRate};
use serde::{Deserialize, Serialize};

use crate::amount::DUST;
use crate::channel::Channel;
use crate::flat::explanation::Explanation;
use crate::flat::lsf::Lsf;
use crate::flat::micropayment::{MOST_OUTPUTS, MOST_OUTPUTS_V3};
use crate::flat::spends::fee;
use crate::flat::{claim, commitment, refund};
use crate::hashlock::Delay;

/// The longest delay, in blocks: two weeks. A payee could otherwise keep the payer from its money for more than a year.
pub const MOST_DELAY: u16 = 2_016;

/// One batch of calls, all at one price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// N: how many calls, each with an output of its own.
    pub outputs: u32,
    /// What a call costs and each output holds, in whole satoshi: flat outputs carry no less.
    pub unit: Amount,
    /// What the payee gets by every commitment of this batch, revealed or not. Whether it is credited against what is
    /// bought later is for the parties to say.
    pub prepaid: Amount,
    /// The payer's way out of the LSF output, counted from when the commitment confirmed.
    pub d1: Delay,
    /// The payer's way out of each micropayment output, counted from when the micropayment transaction confirmed.
    pub d2: Delay,
    /// Up to which fee rate every output must be worth its refund and its claim.
    pub most_fee_rate: FeeRate,
}

/// What terms must keep to in one channel. All of it follows from sizes; none is anybody's choice but the margin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most outputs that a standard micropayment transaction of version 2 has beside two fee inputs.
    pub most_outputs: u32,
    /// The same for version 3, limited to 10,000 vB (BIP431). Shown to say why version 2 is used.
    pub most_outputs_v3: u32,
    /// How many outputs one standard transaction claims at most.
    pub claims_at_once: u32,
    /// How many outputs one standard transaction takes back at most.
    pub refunds_at_once: u32,
    /// The least unit: no dust, and worth its share of what it costs to claim or to take back all N, up to the highest
    /// fee rate. With many outputs that is 100 vB each.
    pub least_unit: Amount,
    /// The least payee output: dust, or there is nothing that a child could spend to raise the commitment's fee.
    pub least_prepaid: Amount,
    /// The least d1 and d2, in blocks: the payee's margin, and never 0, which no script of ours can be spent with.
    pub least_delay: u32,
    /// The least highest fee rate: what relays at all.
    pub least_fee_rate: FeeRate,
    /// The capacity that the batch, the prepayment and the commitment's fee take.
    pub least_capacity: Amount,
}

/// A term that breaks a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTerms {
    /// No outputs, or more than fit.
    #[error("outputs: {got}, but a standard transaction has from 1 to {most} of them beside two fee inputs")]
    Outputs {
        /// What was proposed.
        got: u32,
        /// What fits.
        most: u32,
    },
    /// The highest fee rate would not relay.
    #[error("most_fee_rate: {} sat/kwu, but nothing relays below {}", .got.to_sat_per_kwu(), .needed.to_sat_per_kwu())]
    FeeRate {
        /// What was proposed.
        got: FeeRate,
        /// What relays.
        needed: FeeRate,
    },
    /// An output is dust, or costs more to spend than it holds.
    #[error("unit: {} sat, but an output is worth its refund and its claim only from {} sat on", .got.to_sat(), .needed.to_sat())]
    Unit {
        /// What was proposed.
        got: Amount,
        /// What it must at least be.
        needed: Amount,
    },
    /// The payee's output is dust, so the commitment's fee could not be raised.
    #[error("prepaid: {} sat, but the payee's output is at least {} sat", .got.to_sat(), .needed.to_sat())]
    Prepaid {
        /// What was proposed.
        got: Amount,
        /// What it must at least be.
        needed: Amount,
    },
    /// The payee might not be done before the payer may take the LSF output.
    #[error("d1: {} blocks, but the payee's margin is {needed}", .got.get())]
    D1 {
        /// What was proposed.
        got: Delay,
        /// The margin, in blocks.
        needed: u32,
    },
    /// The payee might not be done before the payer may take the micropayment outputs.
    #[error("d2: {} blocks, but the payee's margin is {needed}", .got.get())]
    D2 {
        /// What was proposed.
        got: Delay,
        /// The margin, in blocks.
        needed: u32,
    },
    /// The payer's money would come back too late.
    #[error("d1 or d2: {} blocks, but neither is longer than {MOST_DELAY}", .0.get())]
    Late(Delay),
    /// The channel does not hold that much.
    #[error("outputs × unit and prepaid: {} sat with the commitment's fee, but the capacity is {} sat", .needed.to_sat(), .got.to_sat())]
    Capacity {
        /// The channel's capacity.
        got: Amount,
        /// What the batch takes.
        needed: Amount,
    },
}

impl Terms {
    /// What the LSF output holds: N units. `None` when that is more than can be counted.
    pub fn locked(&self) -> Option<Amount> {
        self.unit.checked_mul(self.outputs.into())
    }

    /// The limits in a channel whose payee closes `margin` blocks before the expiry.
    pub fn limits(&self, channel: &Channel, margin: u32) -> Limits {
        let commitment_fee = fee(channel.params().fee_rate, commitment::WEIGHT_WITHOUT_REST);
        let least_capacity = self
            .locked()
            .and_then(|locked| locked.checked_add(self.prepaid))
            .and_then(|sum| sum.checked_add(commitment_fee));
        Limits {
            most_outputs: MOST_OUTPUTS,
            most_outputs_v3: MOST_OUTPUTS_V3,
            claims_at_once: claim::spend().most() as u32,
            refunds_at_once: refund::spend(channel, self.d2).most() as u32,
            least_unit: self.least_unit(channel),
            least_prepaid: DUST,
            least_delay: margin.max(1),
            least_fee_rate: FeeRate::BROADCAST_MIN,
            least_capacity: least_capacity.unwrap_or(Amount::MAX),
        }
    }

    fn least_unit(&self, channel: &Channel) -> Amount {
        let rate = self.most_fee_rate;
        let outputs = self.outputs.clamp(1, MOST_OUTPUTS);
        let (claims, refunds) = (claim::spend(), refund::spend(channel, self.d2));
        let lsf = fee(rate, refund::lsf_weight(&Lsf::new(channel, self.d1)));
        // What a spend of all N costs, dust on top, shared among them: more than what each adds, so that many of them
        // are worth it as well. Claims weigh most, whatever the delays are.
        let share = |fees: Amount| {
            let sum = fees.checked_add(DUST).unwrap_or(Amount::MAX);
            Amount::from_sat(sum.to_sat().div_ceil(outputs.into()))
        };
        [
            DUST,
            share(claims.fee(outputs as usize, rate)),
            share(refunds.fee(outputs as usize, rate)),
            share(lsf),
        ]
        .into_iter()
        .fold(Amount::ZERO, Amount::max)
    }

    /// Checks the terms in a channel whose payee closes `margin` blocks before the expiry.
    ///
    /// # Errors
    /// The first term that breaks a limit.
    pub fn check(&self, channel: &Channel, margin: u32) -> Result<(), BadTerms> {
        let limits = self.limits(channel, margin);
        if !(1..=limits.most_outputs).contains(&self.outputs) {
            return Err(BadTerms::Outputs { got: self.outputs, most: limits.most_outputs });
        }
        if self.most_fee_rate < limits.least_fee_rate {
            return Err(BadTerms::FeeRate { got: self.most_fee_rate, needed: limits.least_fee_rate });
        }
        if self.unit < limits.least_unit {
            return Err(BadTerms::Unit { got: self.unit, needed: limits.least_unit });
        }
        if self.prepaid < limits.least_prepaid {
            return Err(BadTerms::Prepaid { got: self.prepaid, needed: limits.least_prepaid });
        }
        if u32::from(self.d1.get()) < limits.least_delay {
            return Err(BadTerms::D1 { got: self.d1, needed: limits.least_delay });
        }
        if u32::from(self.d2.get()) < limits.least_delay {
            return Err(BadTerms::D2 { got: self.d2, needed: limits.least_delay });
        }
        let longest = self.d1.max(self.d2);
        if longest.get() > MOST_DELAY {
            return Err(BadTerms::Late(longest));
        }
        let capacity = channel.params().capacity;
        if capacity < limits.least_capacity {
            return Err(BadTerms::Capacity { got: capacity, needed: limits.least_capacity });
        }
        Ok(())
    }

    /// Everything that a program should show before it locks anything: the limits, and what each transaction costs at
    /// `fee_rate` (the rate of the moment) and at the highest one.
    pub fn explain(&self, channel: &Channel, margin: u32, fee_rate: FeeRate) -> Explanation {
        Explanation::new(self, channel, margin, fee_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::testing::{MARGIN, large_channel, terms};
    use crate::testing;

    fn check(terms: Terms) -> Result<(), BadTerms> {
        terms.check(&testing::channel(), MARGIN)
    }

    #[test]
    fn terms_within_all_limits_are_accepted() {
        assert_eq!(check(terms()), Ok(()));
        let largest = Terms { outputs: MOST_OUTPUTS, ..terms() };
        assert_eq!(largest.check(&large_channel(), MARGIN), Ok(()));
    }

    #[test]
    fn outputs_that_do_not_fit_a_transaction_are_refused() {
        for got in [0, MOST_OUTPUTS + 1, u32::MAX] {
            let refused = Terms { outputs: got, ..terms() }.check(&large_channel(), MARGIN);
            assert_eq!(refused, Err(BadTerms::Outputs { got, most: 2_320 }));
        }
    }

    #[test]
    fn a_unit_is_worth_its_refund_and_its_claim_and_no_dust() {
        // 20 claims weigh 8,194 units; with dust above it that is 41,300 sat at 20 sat/vB, 2,065 for each.
        let needed = Amount::from_sat(2_065);
        assert_eq!(check(Terms { unit: needed, ..terms() }), Ok(()));
        let got = Amount::from_sat(2_064);
        assert_eq!(check(Terms { unit: got, ..terms() }), Err(BadTerms::Unit { got, needed }));
        // Of many outputs, each is worth the 99.75 vB that it adds, and its part of one transaction and dust.
        let many = Terms { outputs: 1_000, unit: Amount::ZERO, ..terms() };
        assert_eq!(many.limits(&large_channel(), MARGIN).least_unit, Amount::from_sat(1_997));
        let cheap = Terms { most_fee_rate: FeeRate::BROADCAST_MIN, unit: Amount::from_sat(329), ..terms() };
        assert_eq!(check(cheap), Err(BadTerms::Unit { got: cheap.unit, needed: DUST }));
        assert_eq!(check(Terms { unit: DUST, ..cheap }), Ok(()));
    }

    #[test]
    fn a_batch_of_one_is_worth_a_transaction_of_its_own() {
        let one = Terms { outputs: 1, unit: Amount::from_sat(3_395), ..terms() };
        assert_eq!(check(one), Ok(()));
        let got = Amount::from_sat(3_394); // a claim of one output: 613 units, 3,065 sat
        let needed = Amount::from_sat(3_395);
        assert_eq!(check(Terms { unit: got, ..one }), Err(BadTerms::Unit { got, needed }));
    }

    #[test]
    fn a_transaction_claims_1001_outputs_or_takes_1196_back() {
        let limits = terms().limits(&testing::channel(), MARGIN);
        assert_eq!((limits.claims_at_once, limits.refunds_at_once), (1_001, 1_196));
    }

    #[test]
    fn with_long_delays_the_refunds_still_pay() {
        // Leaves with delays of three bytes. Claims are dearer whatever the delay, so the limit is theirs.
        let long = Terms { d1: Delay::blocks(u16::MAX), d2: Delay::blocks(u16::MAX), ..terms() };
        let channel = testing::channel();
        let unit = long.limits(&channel, MARGIN).least_unit;
        let refunds = refund::spend(&channel, long.d2);
        let plan = refunds.plan(20, unit, long.most_fee_rate);
        assert_eq!(plan, [20]);
    }

    #[test]
    fn a_highest_fee_rate_that_does_not_relay_is_refused() {
        let (got, needed) = (FeeRate::from_sat_per_kwu(249), FeeRate::BROADCAST_MIN);
        assert_eq!(check(Terms { most_fee_rate: got, ..terms() }), Err(BadTerms::FeeRate { got, needed }));
        let absurd = Terms { most_fee_rate: FeeRate::from_sat_per_kwu(u64::MAX), ..terms() };
        assert!(matches!(check(absurd), Err(BadTerms::Unit { .. })));
    }

    #[test]
    fn a_prepayment_below_dust_is_refused() {
        let (got, needed) = (Amount::from_sat(329), DUST);
        assert_eq!(check(Terms { prepaid: got, ..terms() }), Err(BadTerms::Prepaid { got, needed }));
        assert_eq!(check(Terms { prepaid: DUST, ..terms() }), Ok(()));
    }

    #[test]
    fn delays_below_the_margin_and_none_at_all_are_refused() {
        let got = Delay::blocks(35);
        assert_eq!(check(Terms { d1: got, ..terms() }), Err(BadTerms::D1 { got, needed: 36 }));
        assert_eq!(check(Terms { d2: got, ..terms() }), Err(BadTerms::D2 { got, needed: 36 }));
        let none = Delay::blocks(0);
        let refused = Terms { d1: none, ..terms() }.check(&testing::channel(), 0);
        assert_eq!(refused, Err(BadTerms::D1 { got: none, needed: 1 }));
        let refused = Terms { d2: none, ..terms() }.check(&testing::channel(), 0);
        assert_eq!(refused, Err(BadTerms::D2 { got: none, needed: 1 }));
        let beyond = terms().check(&testing::channel(), u32::MAX);
        assert_eq!(beyond, Err(BadTerms::D1 { got: terms().d1, needed: u32::MAX }));
    }

    #[test]
    fn delays_that_keep_the_payer_from_its_money_are_refused() {
        let (most, longer) = (Delay::blocks(MOST_DELAY), Delay::blocks(MOST_DELAY + 1));
        assert_eq!(check(Terms { d1: most, d2: most, ..terms() }), Ok(()));
        assert_eq!(check(Terms { d1: longer, ..terms() }), Err(BadTerms::Late(longer)));
        assert_eq!(check(Terms { d2: longer, ..terms() }), Err(BadTerms::Late(longer)));
    }

    #[test]
    fn a_batch_that_the_capacity_does_not_cover_is_refused() {
        // 50,000 in the LSF output, 1,000 prepaid, and 204 vB at 2 sat/vB.
        let needed = Amount::from_sat(51_408);
        let at = |capacity| {
            let channel = testing::channel_with(|params| params.capacity = capacity);
            terms().check(&channel, MARGIN)
        };
        assert_eq!(at(needed), Ok(()));
        let got = Amount::from_sat(51_407);
        assert_eq!(at(got), Err(BadTerms::Capacity { got, needed }));
        let endless = Terms { unit: Amount::MAX, ..terms() };
        assert!(matches!(check(endless), Err(BadTerms::Capacity { .. })));
    }

    #[test]
    fn an_error_names_the_term_what_came_and_what_is_needed() {
        let refused = check(Terms { prepaid: Amount::from_sat(329), ..terms() }).unwrap_err();
        assert_eq!(refused.to_string(), "prepaid: 329 sat, but the payee's output is at least 330 sat");
    }
}
