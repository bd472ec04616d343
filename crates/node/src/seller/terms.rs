//! Checks what a seller was configured with, before it decides about money.

use bitcoin::Amount;
use farthing_protocol::opening::{MOST_BLOCKS, Refusal, bounds, fee_rates};

use super::Terms;

impl Terms {
    /// Checks the terms themselves.
    ///
    /// # Errors
    /// The first one that makes no sense: a margin of nothing would lose to the payer's refund, a finality of nothing would
    /// take any transaction in the mempool for the end of a channel.
    pub fn validate(&self) -> Result<(), Refusal> {
        let (least, most) = (self.capacity.0.to_sat(), self.capacity.1.to_sat());
        fee_rates(self.fee_rate)?;
        bounds("the largest capacity in satoshi", most, (1, Amount::MAX_MONEY.to_sat()))?;
        bounds("the smallest capacity in satoshi", least, (1, most))?;
        bounds("the longest lifetime in blocks", self.lifetime.1.into(), (1, MOST_BLOCKS))?;
        bounds("confirmations", self.confirmations.least.into(), (1, MOST_BLOCKS))?;
        bounds("margin in blocks", self.margin.into(), (2, MOST_BLOCKS))?;
        // Else it would close before it has served anything.
        let idle = u64::from(self.confirmations.least) + u64::from(self.margin);
        bounds(
            "the shortest lifetime in blocks",
            self.lifetime.0.into(),
            (idle + 1, self.lifetime.1.into()),
        )?;
        bounds("finality", self.finality.into(), (1, MOST_BLOCKS))?;
        bounds("patience in blocks", self.patience.into(), (1, MOST_BLOCKS))?;
        bounds("most_blind in seconds", self.most_blind.as_secs(), (1, u64::MAX))?;
        bounds("most_unfunded", self.most_unfunded as u64, (1, u64::MAX))?;
        bounds("most_exposure in millisatoshi", self.most_exposure.get(), (1, u64::MAX))?;
        bounds("most_resident in bytes", self.most_resident as u64, (1 << 20, u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bitcoin::FeeRate;
    use farthing_protocol::Msat;
    use farthing_protocol::opening::Confirmations;

    use super::*;

    #[test]
    fn terms_that_would_lose_money_are_named() {
        let good = Terms::default();
        assert_eq!(good.validate(), Ok(()));
        let rate = FeeRate::from_sat_per_vb_u32;
        let never = Confirmations { least: 0, ..good.confirmations };
        for (what, bad) in [
            ("margin", Terms { margin: 0, ..good }),
            ("shortest lifetime", Terms { margin: good.lifetime.0, ..good }),
            ("shortest lifetime", Terms { lifetime: (1, 1), ..good }),
            ("finality", Terms { finality: 0, ..good }),
            ("confirmations", Terms { confirmations: never, ..good }),
            ("lowest fee rate", Terms { fee_rate: (rate(9), rate(8)), ..good }),
            ("smallest capacity", Terms { capacity: (good.capacity.1, good.capacity.0), ..good }),
            ("shortest lifetime", Terms { lifetime: (200, 100), ..good }),
            ("patience", Terms { patience: 0, ..good }),
            ("most_blind", Terms { most_blind: Duration::ZERO, ..good }),
            ("most_unfunded", Terms { most_unfunded: 0, ..good }),
            ("most_exposure", Terms { most_exposure: Msat::ZERO, ..good }),
            ("most_resident", Terms { most_resident: 0, ..good }),
        ] {
            assert!(bad.validate().unwrap_err().to_string().contains(what), "{what}: {bad:?}");
        }
    }
}
