//! What the gateway knows of devices, channels and payments.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use farthing_protocol::device::bolt3::PaymentHash;
use farthing_threshold::{Gateway as GatewaySide, Share};
use lightning::ln::types::ChannelId;
use tokio::sync::Notify;

use crate::arrears::{Account, Arrears};
use crate::caller::Caller;
use crate::ledger::Ledger;
use crate::records::{ChannelRecord, DeviceRecord, Outcome, PaymentRecord};

/// So many payments that failed are remembered, for operators. Nothing depends on them: one that is ordered again is tried again.
pub(crate) const MOST_FAILED: usize = 1_000;
/// So many that arrived are: for operators, and for devices that ask again. What their devices owe by older ones is kept as a sum.
pub(crate) const MOST_PAID: usize = 10_000;
/// So many too many are forgotten in one write.
const AT_ONCE: usize = 100;

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
    /// Those that LDK has, or whose end it has still to tell: it forgets a payment before it tells.
    pub under_way: HashSet<PaymentHash>,
    /// Those that failed, oldest first.
    failed: VecDeque<PaymentHash>,
    /// Those that arrived.
    paid: VecDeque<PaymentHash>,
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

/// Payments to forget.
#[derive(Debug)]
pub(crate) struct TooMany {
    pub hashes: Vec<[u8; 32]>,
    pub settled: Vec<([u8; 32], Account)>,
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
        let had_arrived = |before: &PaymentRecord| matches!(before.outcome, Outcome::Paid { .. });
        match record.outcome {
            Outcome::Failed(_) => self.failed.push_back(record.payment_hash),
            Outcome::Paid { .. } if !before.as_ref().is_some_and(had_arrived) => {
                self.paid.push_back(record.payment_hash);
            }
            Outcome::Paid { .. } | Outcome::Pending => {}
        }
        let Some(device) = device else { return };
        if let Some(before) = before {
            self.arrears.forget(device, &before);
        }
        self.arrears.count(device, &record);
    }

    /// The oldest payments that failed or arrived, when there are too many, and what is to be stored of their devices in their place.
    pub fn too_many(&self) -> Option<TooMany> {
        let failed = self.failed.len().saturating_sub(MOST_FAILED);
        let paid = Some(self.paid.len().saturating_sub(MOST_PAID)).filter(|paid| *paid >= AT_ONCE);
        let hashes = self.failed.iter().take(failed).chain(self.paid.iter().take(paid.unwrap_or_default()));
        let records: Vec<&PaymentRecord> = hashes.filter_map(|hash| self.payments.get(hash)).collect();
        if records.is_empty() {
            return None;
        }
        let device = |record: &PaymentRecord| Some(self.channels.get(&record.channel)?.device);
        let devices: HashSet<[u8; 32]> = records.iter().filter_map(|record| device(record)).collect();
        let settled = devices.into_iter().map(|owed_by| {
            let its = records.iter().copied().filter(|record| device(record) == Some(owed_by));
            (owed_by, self.arrears.settled_with(&owed_by, its))
        });
        let settled = settled.collect();
        Some(TooMany { hashes: records.iter().map(|record| record.payment_hash.0).collect(), settled })
    }

    /// Forgets them, once that is stored.
    pub fn forget(&mut self, too_many: TooMany) {
        for hash in too_many.hashes.into_iter().map(PaymentHash) {
            self.payments.remove(&hash);
            for oldest in [&mut self.failed, &mut self.paid] {
                oldest.pop_front_if(|oldest| *oldest == hash);
            }
        }
        for (device, settled) in too_many.settled {
            self.arrears.settle(device, settled);
        }
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
    use bitcoin::ScriptBuf;
    use farthing_protocol::Msat;
    use farthing_protocol::device::bolt3::{Basepoints, Preimage};
    use secp256k1::{SECP256K1, SecretKey};

    use super::*;
    use crate::records::{ChannelKeys, Stage};

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
        let too_many = books.too_many().unwrap();
        assert_eq!(too_many.hashes, [1, 2].map(|number| record(number, failed()).payment_hash.0));
        books.forget(too_many);
        assert!(books.too_many().is_none());
        assert_eq!(books.payments.len(), MOST_FAILED + 1);
        assert!(books.payments.contains_key(&record(0, failed()).payment_hash));
    }

    #[test]
    fn of_payments_that_arrived_the_newest_are_remembered_and_what_is_owed_for_all() {
        const DEVICE: [u8; 32] = [3; 32];
        let point = SecretKey::from_slice(&[5; 32]).unwrap().public_key(SECP256K1);
        let keys = ChannelKeys {
            channel: [2; 32],
            funding_key: point,
            basepoints: Basepoints { payment: point, delayed_payment: point, htlc: point, revocation: point },
            closing_script: ScriptBuf::new(),
        };
        let channel = ChannelRecord { device: DEVICE, keys, stage: Stage::Ready };
        let paid = || Outcome::Paid { preimage: Preimage([4; 32]), fee: Msat::ZERO };
        let owed = |number| PaymentRecord {
            service_due: Msat::new(5),
            arrears: Msat::new(2),
            ..record(number, paid())
        };
        let mut books = Books::default();
        books.channels.insert(channel.keys.channel, channel);
        for number in 1..=MOST_PAID + AT_ONCE {
            assert!(books.too_many().is_none(), "{number}");
            books.note(PaymentRecord { outcome: Outcome::Pending, ..owed(number) });
            books.note(owed(number));
        }
        let (owes, too_many) = (books.arrears.of(&DEVICE), books.too_many().unwrap());
        assert_eq!(owes, Msat::new(3 * u64::try_from(MOST_PAID + AT_ONCE).unwrap()));
        let settled = too_many.settled.clone();
        books.forget(too_many);
        assert_eq!((books.payments.len(), books.arrears.of(&DEVICE)), (MOST_PAID, owes));
        assert!(!books.payments.contains_key(&owed(AT_ONCE).payment_hash));
        assert!(books.payments.contains_key(&owed(AT_ONCE + 1).payment_hash));

        // As after a restart, from what was stored.
        let mut restored = Arrears::default();
        settled.into_iter().for_each(|(device, settled)| restored.restore(device, settled));
        books.payments.values().for_each(|record| restored.count(DEVICE, record));
        assert_eq!(restored.of(&DEVICE), owes);
    }
}
