//! What the wallet must be able to pay to publish the outputs of batches, in flat mode: all of them at once, since all payers may
//! be gone at once. A batch is taken only while the balance covers them all.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use bitcoin::Amount;
use farthing_protocol::ChannelId;

/// The fee for the present batch of each channel, from when it is looked at until the channel is over.
#[derive(Debug, Default)]
pub(super) struct Fees(Mutex<HashMap<ChannelId, Amount>>);

/// The balance does not cover all batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    /// What would.
    pub(super) needed: Amount,
}

impl Fees {
    /// Those of the batches that were stored.
    pub(super) fn of(stored: impl IntoIterator<Item = (ChannelId, Amount)>) -> Self {
        Self(Mutex::new(stored.into_iter().collect()))
    }

    /// Sets aside the fee for another batch of a channel, while it is being verified. Those of channels that are over are free
    /// again.
    ///
    /// # Errors
    /// When the balance does not cover this one and those of all other channels. Nothing changed then.
    pub(super) fn set_aside(
        &self,
        id: ChannelId,
        fee: Amount,
        balance: Amount,
        is_live: impl Fn(ChannelId) -> bool,
    ) -> Result<(), Short> {
        let mut fees = self.fees();
        fees.retain(|id, _| is_live(*id));
        let others = fees.iter().filter(|(other, _)| **other != id).map(|(_, fee)| *fee);
        let needed = others.fold(fee, |sum, fee| sum.checked_add(fee).unwrap_or(Amount::MAX_MONEY));
        if balance < needed {
            return Err(Short { needed });
        }
        // The batch before counts until this one has taken its place.
        let own = fees.entry(id).or_default();
        *own = fee.max(*own);
        Ok(())
    }

    /// The fee for the batch that a channel has now.
    pub(super) fn is(&self, id: ChannelId, fee: Amount) {
        self.fees().insert(id, fee);
    }

    fn fees(&self) -> MutexGuard<'_, HashMap<ChannelId, Amount>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> ChannelId {
        ChannelId::from_bytes([byte; 32])
    }

    fn sat(sat: u64) -> Amount {
        Amount::from_sat(sat)
    }

    #[test]
    fn one_coin_covers_so_many_batches_and_no_more() {
        let fees = Fees::of([(id(1), sat(400))]);
        let set_aside = |of, fee| fees.set_aside(id(of), sat(fee), sat(1_000), |_| true);
        assert_eq!(set_aside(2, 500), Ok(()));
        assert_eq!(set_aside(3, 200), Err(Short { needed: sat(1_100) }));
        assert_eq!(set_aside(2, 600), Ok(()), "it takes the place of its own");
        assert_eq!(set_aside(2, 601), Err(Short { needed: sat(1_001) }));
        assert_eq!(set_aside(2, 100), Ok(()));
        assert_eq!(set_aside(3, 1), Err(Short { needed: sat(1_001) }), "600 until the smaller one is taken");
        fees.is(id(2), sat(100));
        assert_eq!(set_aside(3, 500), Ok(()));
    }

    #[test]
    fn a_channel_that_is_over_needs_no_fee() {
        let fees = Fees::of([(id(1), sat(400))]);
        assert_eq!(fees.set_aside(id(2), sat(1_000), sat(1_000), |of| of != id(1)), Ok(()));
    }
}
