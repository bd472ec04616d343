//! What the gateway knows of devices, channels and payments.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use farthing_protocol::device::bolt3::PaymentHash;
use farthing_threshold::{Gateway as GatewaySide, Share};
use lightning::ln::types::ChannelId;
use tokio::sync::Notify;

use crate::arrears::Arrears;
use crate::caller::Caller;
use crate::ledger::Ledger;
use crate::records::{ChannelRecord, DeviceRecord, Outcome, PaymentRecord};

/// So many payments that failed are remembered, for operators. Nothing depends on them: one that is ordered again is tried again.
pub(crate) const MOST_FAILED: usize = 1_000;

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Joint signatures, those that devices finished included.
    pub joint_signatures: u64,
    /// Commitments that LDK and the device's own building agreed on, by transaction id.
    pub commitments: u64,
    /// Those of them that had an HTLC's output.
    pub with_htlcs: u64,
    /// Bytes on devices' links, both ways.
    pub link_bytes: u64,
    /// Messages on devices' links, both ways.
    pub link_messages: u64,
}

/// What the gateway knows of devices and channels. Everything but sessions and what waits is stored.
#[derive(Default)]
pub(crate) struct Books {
    pub devices: HashMap<[u8; 32], DeviceRecord>,
    pub channels: HashMap<[u8; 32], ChannelRecord>,
    pub shares: HashMap<[u8; 32], Arc<Share<GatewaySide>>>,
    pub ledgers: HashMap<[u8; 32], Ledger>,
    pub payments: HashMap<PaymentHash, PaymentRecord>,
    /// Those of them that failed, oldest first.
    failed: VecDeque<PaymentHash>,
    pub arrears: Arrears,
    /// The connections of devices that are here.
    pub sessions: HashMap<[u8; 32], Arc<Caller>>,
    pub bells: HashMap<[u8; 32], Arc<Notify>>,
    /// The device's order to open a channel, close it, and LDK's name for it before it is funded.
    pub opening_orders: HashMap<[u8; 32], u64>,
    pub closing_orders: HashMap<[u8; 32], u64>,
    pub temporary: HashMap<[u8; 32], ChannelId>,
    pub payment_orders: HashMap<PaymentHash, u64>,
    /// Why channels stand still.
    pub trouble: HashMap<[u8; 32], String>,
    pub tally: Tally,
}

impl Books {
    /// Writes down a payment, and what its device owes by it.
    pub fn note(&mut self, record: PaymentRecord) {
        let device = self.channels.get(&record.channel).map(|channel| channel.device);
        let before = self.payments.insert(record.payment_hash, record.clone());
        let had_failed = |before: &PaymentRecord| matches!(before.outcome, Outcome::Failed(_));
        if before.as_ref().is_some_and(had_failed) {
            self.failed.retain(|other| *other != record.payment_hash);
        }
        if let Outcome::Failed(_) = record.outcome {
            self.failed.push_back(record.payment_hash);
        }
        let Some(device) = device else { return };
        if let Some(before) = before {
            self.arrears.forget(device, &before);
        }
        self.arrears.count(device, &record);
    }

    /// Forgets the oldest payment that failed, when there are too many.
    pub fn forget_failed(&mut self) -> Option<PaymentHash> {
        let oldest = if self.failed.len() > MOST_FAILED { self.failed.pop_front() } else { None }?;
        self.payments.remove(&oldest);
        Some(oldest)
    }

    /// Forgets the orders that a device gave about channels on a connection that is over. Payments are told by their hashes.
    pub fn forget_orders(&mut self, device: &[u8; 32]) {
        let channels = &self.channels;
        let is_anothers =
            |channel: &[u8; 32]| channels.get(channel).is_none_or(|record| record.device != *device);
        self.opening_orders.retain(|channel, _| is_anothers(channel));
        self.closing_orders.retain(|channel, _| is_anothers(channel));
    }

    pub fn bell(&mut self, device: [u8; 32]) -> Arc<Notify> {
        self.bells.entry(device).or_default().clone()
    }

    pub fn by_user_channel_id(&self, user_channel_id: u128) -> Option<[u8; 32]> {
        let mut channels = self.channels.iter();
        channels.find_map(|(id, record)| (record.user_channel_id() == Some(user_channel_id)).then_some(*id))
    }
}

#[cfg(test)]
mod tests {
    use farthing_protocol::Msat;

    use super::*;

    fn record(number: usize, outcome: Outcome) -> PaymentRecord {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        PaymentRecord {
            channel: [2; 32],
            payment_hash: PaymentHash(hash),
            amount: Msat::new(1),
            ordered_at: 0,
            service_due: Msat::ZERO,
            arrears: Msat::ZERO,
            outcome,
        }
    }

    #[test]
    fn payments_that_failed_are_forgotten_and_no_others() {
        let mut books = Books::default();
        let failed = || Outcome::Failed("no route".into());
        books.note(record(0, failed()));
        // It was ordered again.
        books.note(record(0, Outcome::Pending));
        for number in 1..=MOST_FAILED + 2 {
            books.note(record(number, failed()));
            books.note(record(number, failed()));
        }
        let forgotten: Vec<_> = std::iter::from_fn(|| books.forget_failed()).collect();
        assert_eq!(forgotten, [1, 2].map(|number| record(number, failed()).payment_hash));
        assert_eq!(books.payments.len(), MOST_FAILED + 1);
        assert!(books.payments.contains_key(&record(0, failed()).payment_hash));
    }
}
