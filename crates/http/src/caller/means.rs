//! How a caller pays.

use std::time::Duration;

use bitcoin::{Amount, FeeRate};
use farthing_protocol::flat::Explanation;
use farthing_protocol::opening::Limits;
use farthing_protocol::{ChannelId, Msat};

use super::Budget;
use crate::client::Plan;

/// How a caller pays.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// Its limits for channels.
    pub limits: Limits,
    /// What a new channel can pay in all.
    pub deposit: Msat,
    /// Its budget.
    pub budget: Budget,
    /// How often a call is sent again whose answer does not come.
    pub attempts: u32,
    /// How long it waits for a new channel's funding to be deep enough.
    pub patience: Duration,
    /// Gets to see what a seller's flat terms mean, before anything is locked.
    pub explain: fn(&Explanation),
    /// Gets to see what was locked in a new channel, whose funding may be waited for.
    pub opened: fn(ChannelId, &Plan),
}

impl Default for Means {
    /// Up to 0.1 bitcoin in a channel and at most a week, 20,000 sat in a new one, and no budget.
    fn default() -> Self {
        let limits = Limits {
            most_capacity: Amount::from_sat(10_000_000),
            fee_rate: (FeeRate::from_sat_per_vb_u32(1), FeeRate::from_sat_per_vb_u32(200)),
            most_lifetime: 1_008,
            most_prepaid: Amount::from_sat(50_000),
            most_confirmations: 12,
        };
        Self {
            limits,
            deposit: Msat::new(20_000_000),
            budget: Budget::default(),
            attempts: 10,
            // A new channel's funding must get into a block.
            patience: Duration::from_secs(2 * 3_600),
            explain: |explanation| tracing::warn!("this seller is paid in flat mode:\n{explanation}"),
            opened: |channel, plan| tracing::info!(%channel, capacity = %plan.capacity, "a channel is opened"),
        }
    }
}
