//! Spending many equal outputs: how many go into one transaction, and which are not worth their fee.

use bitcoin::policy::MAX_STANDARD_TX_WEIGHT;
use bitcoin::{Amount, FeeRate, Transaction, Weight};

use crate::amount::DUST;
use crate::hashlock::NotWorthIt;

/// What relays: a transaction of at most 400,000 weight units (Bitcoin Core's standardness rules).
pub(crate) const MOST_WEIGHT: Weight = Weight::from_wu(MAX_STANDARD_TX_WEIGHT as u64);

/// Transactions that together spend many outputs, each of them standard and independent of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batches {
    /// Complete and ready to be broadcast.
    pub transactions: Vec<Transaction>,
    /// What they leave.
    pub left: Left,
}

/// Outputs that cost more to spend than they hold. At a lower fee rate they may be worth it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// How many.
    pub outputs: u32,
    /// What they hold together.
    pub value: Amount,
}

/// The fee for that weight, or more than there is.
pub(crate) fn fee(fee_rate: FeeRate, weight: Weight) -> Amount {
    fee_rate.checked_mul_by_weight(weight).unwrap_or(Amount::MAX)
}

/// One kind of spend: the weight of a transaction with so many inputs.
pub(crate) struct Spend<W: Fn(usize) -> Weight> {
    weight: W,
    most: usize,
}

impl<W: Fn(usize) -> Weight> Spend<W> {
    /// Finds out how many inputs fit into a standard transaction.
    pub(crate) fn new(weight: W) -> Self {
        let mut most = 1;
        let mut step = 1 << 12; // no input weighs less than 98 units
        while step > 0 {
            if weight(most + step) <= MOST_WEIGHT {
                most += step;
            }
            step /= 2;
        }
        Self { weight, most }
    }

    /// How many outputs one transaction spends at most.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// The fees of spending so many outputs, whether it is worth it or not.
    pub(crate) fn fee(&self, outputs: usize, fee_rate: FeeRate) -> Amount {
        let fees = self.sizes(outputs).map(|size| fee(fee_rate, (self.weight)(size)).to_sat());
        Amount::from_sat(fees.fold(0, u64::saturating_add))
    }

    /// How many outputs go into each transaction, the best that can be had for outputs of `unit` each. What is missing
    /// in the sum is to be left.
    ///
    /// Even batches, so that no small one remains that would not be worth it; or only full ones, when what they leave
    /// is worth less than one more transaction.
    pub(crate) fn plan(&self, outputs: usize, unit: Amount, fee_rate: FeeRate) -> Vec<usize> {
        let full = outputs - outputs % self.most;
        [outputs, full]
            .into_iter()
            .filter_map(|outputs| Some((self.net(outputs, unit, fee_rate)?, outputs)))
            .max_by_key(|(net, _)| *net)
            .map_or(Vec::new(), |(_, outputs)| self.sizes(outputs).collect())
    }

    /// Builds the transactions of a plan. `build` gets the outputs of each, and its fee.
    pub(crate) fn batches<T>(
        &self,
        outputs: &[T],
        unit: Amount,
        fee_rate: FeeRate,
        build: impl Fn(&[T], Amount) -> Result<Transaction, NotWorthIt>,
    ) -> Batches {
        let (mut transactions, mut rest, mut left) = (Vec::new(), outputs, 0);
        for size in self.plan(outputs.len(), unit, fee_rate) {
            let (batch, others) = rest.split_at(size);
            rest = others;
            match build(batch, fee(fee_rate, (self.weight)(size))) {
                Ok(transaction) => transactions.push(transaction),
                Err(NotWorthIt { .. }) => left += size,
            }
        }
        left += rest.len();
        let value = unit.checked_mul(left as u64).unwrap_or(Amount::MAX);
        Batches { transactions, left: Left { outputs: left as u32, value } }
    }

    /// What arrives, or `None` when one of the transactions would pay out dust.
    fn net(&self, outputs: usize, unit: Amount, fee_rate: FeeRate) -> Option<Amount> {
        self.sizes(outputs).try_fold(Amount::ZERO, |sum, size| {
            let value = unit.checked_mul(size as u64)?;
            let rest = value.checked_sub(fee(fee_rate, (self.weight)(size)))?;
            if rest < DUST { None } else { sum.checked_add(rest) }
        })
    }

    /// As few batches as fit, as even as can be.
    fn sizes(&self, outputs: usize) -> impl Iterator<Item = usize> {
        let batches = outputs.div_ceil(self.most);
        (0..batches).map(move |batch| outputs / batches + usize::from(batch < outputs % batches))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hashlock::claim_weight;

    const RATE: FeeRate = FeeRate::from_sat_per_vb_u32(10);

    #[test]
    fn a_transaction_takes_as_many_as_stay_standard() {
        let spend = Spend::new(claim_weight);
        assert!(claim_weight(spend.most()) <= MOST_WEIGHT);
        assert!(claim_weight(spend.most() + 1) > MOST_WEIGHT);
    }

    #[test]
    fn one_more_than_fits_makes_two_even_batches() {
        let spend = Spend::new(claim_weight);
        let unit = Amount::from_sat(2_000);
        assert_eq!(spend.plan(spend.most(), unit, RATE), [spend.most()]);
        assert_eq!(spend.plan(spend.most() + 1, unit, RATE), [501, 501]);
    }

    #[test]
    fn what_is_worth_less_than_one_more_transaction_is_left() {
        let spend = Spend::new(claim_weight);
        let unit = Amount::from_sat(1_000); // 2.5 sat above what claiming it costs
        assert_eq!(spend.plan(spend.most() + 1, unit, RATE), [spend.most()]);
        assert_eq!(spend.plan(spend.most() - 1, unit, RATE), [spend.most() - 1]);
        assert_eq!(spend.plan(100, unit, RATE), [0; 0]);
        assert_eq!(spend.plan(0, unit, RATE), [0; 0]);
    }

    #[test]
    fn a_transaction_that_would_pay_out_dust_is_not_planned() {
        let spend = Spend::new(claim_weight);
        // One claim costs 1,533 sat.
        assert_eq!(spend.plan(1, Amount::from_sat(1_533 + 329), RATE), [0; 0]);
        assert_eq!(spend.plan(1, Amount::from_sat(1_533 + 330), RATE), [1]);
    }

    #[test]
    fn no_fee_rate_overflows() {
        let spend = Spend::new(claim_weight);
        let rate = FeeRate::from_sat_per_kwu(u64::MAX);
        assert_eq!(spend.plan(5_000, Amount::MAX, rate), [0; 0]);
        assert_eq!(spend.fee(5_000, rate), Amount::MAX);
    }

    proptest! {
        /// A plan loses nothing but what it leaves, fits, and pays out no dust.
        #[test]
        fn every_batch_of_a_plan_fits_and_is_worth_it(
            outputs in 0..3_000_usize, unit in 330..3_000_u64, rate in 1..40_u32
        ) {
            let spend = Spend::new(claim_weight);
            let (unit, rate) = (Amount::from_sat(unit), FeeRate::from_sat_per_vb_u32(rate));
            let plan = spend.plan(outputs, unit, rate);
            prop_assert!(plan.iter().sum::<usize>() <= outputs);
            for size in plan {
                prop_assert!(size <= spend.most());
                prop_assert!(unit * size as u64 >= fee(rate, claim_weight(size)) + DUST);
            }
        }
    }
}
