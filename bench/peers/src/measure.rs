//! The clock: checks take turns, so that a slow moment of the machine does not hit one of them alone.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Odd, for the median.
const ROUNDS: usize = 7;

/// What a check is timed for in a round, at least.
const ROUND: Duration = Duration::from_secs(1);

/// Payments that were accepted one after the other, and how long that took.
pub struct Batch {
    payments: usize,
    took: Duration,
}

impl Batch {
    /// Times `accept`, which accepts so many payments or fails.
    pub fn time(payments: usize, accept: impl FnOnce() -> Result<()>) -> Result<Self> {
        let started = Instant::now();
        accept()?;
        Ok(Self { payments, took: started.elapsed() })
    }
}

/// A way of accepting payments, with the rates of its rounds.
pub struct Check<'a> {
    name: &'static str,
    batch: Box<dyn Fn() -> Result<Batch> + 'a>,
    /// Payments a second, in the order of the rounds.
    rates: Vec<f64>,
}

impl<'a> Check<'a> {
    /// `batch` prepares payments, untimed, and accepts them.
    pub fn new(name: &'static str, batch: impl Fn() -> Result<Batch> + 'a) -> Self {
        Self { name, batch: Box::new(batch), rates: Vec::new() }
    }

    /// The rate of the middle round.
    pub fn median(&self) -> f64 {
        self.sorted()[ROUNDS / 2]
    }

    fn sorted(&self) -> Vec<f64> {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates
    }

    fn round(&self) -> Result<f64> {
        let mut sum = Batch { payments: 0, took: Duration::ZERO };
        while sum.took < ROUND {
            let batch = (self.batch)()?;
            sum.payments += batch.payments;
            sum.took += batch.took;
        }
        Ok(sum.payments as f64 / sum.took.as_secs_f64())
    }
}

impl fmt::Display for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rates = self.sorted();
        let (slowest, fastest) = (rates[0], rates[ROUNDS - 1]);
        write!(f, "{}: {:.0}/s (of {slowest:.0} to {fastest:.0})", self.name, self.median())
    }
}

/// Every check in every round.
pub fn interleaved(checks: &mut [Check<'_>]) -> Result<()> {
    for _ in 0..ROUNDS {
        for check in checks.iter_mut() {
            let rate = check.round()?;
            check.rates.push(rate);
        }
    }
    Ok(())
}
