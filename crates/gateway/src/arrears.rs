//! What devices owe: the service fee of payments that found no way through the ordinary node.

use std::collections::HashMap;

use farthing_protocol::Msat;
use serde::{Deserialize, Serialize};

use crate::records::{Outcome, PaymentRecord};

/// What devices owe for payments that went without the service fee. Nothing is owed for a payment that failed, and what a payment that
/// failed was to carry is owed as before.
#[derive(Debug, Default)]
pub struct Arrears {
    accounts: HashMap<[u8; 32], Account>,
    /// What there is in them of payments that are remembered no more.
    settled: HashMap<[u8; 32], Account>,
}

/// One device's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Of payments that arrived.
    due: Msat,
    /// By payments that arrived or are under way.
    carried: Msat,
}

impl Account {
    fn count(&mut self, record: &PaymentRecord) {
        match record.outcome {
            Outcome::Pending => self.carried = self.carried.saturating_add(record.arrears),
            Outcome::Paid { .. } => {
                self.carried = self.carried.saturating_add(record.arrears);
                self.due = self.due.saturating_add(record.service_due);
            }
            Outcome::Failed(_) => {}
        }
    }
}

impl Arrears {
    /// What a device owes.
    pub fn of(&self, device: &[u8; 32]) -> Msat {
        self.accounts.get(device).map_or(Msat::ZERO, |account| account.due.saturating_sub(account.carried))
    }

    /// Counts a payment as it was ordered, or as it was read from the store.
    pub fn count(&mut self, device: [u8; 32], record: &PaymentRecord) {
        self.accounts.entry(device).or_default().count(record);
    }

    /// Takes in what was stored of payments that are remembered no more, before any other is counted.
    pub fn restore(&mut self, device: [u8; 32], settled: Account) {
        self.accounts.insert(device, settled);
        self.settled.insert(device, settled);
    }

    /// What is to be stored of that device, so that these payments need not be remembered.
    pub fn settled_with<'a>(
        &self,
        device: &[u8; 32],
        records: impl Iterator<Item = &'a PaymentRecord>,
    ) -> Account {
        let mut account = self.settled.get(device).copied().unwrap_or_default();
        records.for_each(|record| account.count(record));
        account
    }

    /// That was stored, and the payments with it forgotten.
    pub fn settle(&mut self, device: [u8; 32], settled: Account) {
        self.settled.insert(device, settled);
    }

    /// Takes back what [`Self::count`] did, before the payment's outcome changes.
    pub fn forget(&mut self, device: [u8; 32], record: &PaymentRecord) {
        let account = self.accounts.entry(device).or_default();
        match record.outcome {
            Outcome::Pending => account.carried = account.carried.saturating_sub(record.arrears),
            Outcome::Paid { .. } => {
                account.carried = account.carried.saturating_sub(record.arrears);
                account.due = account.due.saturating_sub(record.service_due);
            }
            Outcome::Failed(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use farthing_protocol::device::bolt3::{PaymentHash, Preimage};

    use super::*;

    const DEVICE: [u8; 32] = [1; 32];

    fn record(service_due: u64, arrears: u64, outcome: Outcome) -> PaymentRecord {
        PaymentRecord {
            channel: [2; 32],
            payment_hash: PaymentHash([3; 32]),
            amount: Msat::new(20_000_000),
            ordered_at: 0,
            service_due: Msat::new(service_due),
            arrears: Msat::new(arrears),
            outcome,
        }
    }

    fn paid() -> Outcome {
        Outcome::Paid { preimage: Preimage([4; 32]), fee: Msat::ZERO }
    }

    /// What is owed after each step of one payment, first ordered and then at its end.
    fn ends(arrears: &mut Arrears, due: u64, carried: u64, end: Outcome) -> [u64; 2] {
        let ordered = record(due, carried, Outcome::Pending);
        arrears.count(DEVICE, &ordered);
        let meanwhile = arrears.of(&DEVICE).get();
        arrears.forget(DEVICE, &ordered);
        let ended = record(due, carried, end);
        arrears.count(DEVICE, &ended);
        // LDK tells of an end again after some crashes.
        arrears.forget(DEVICE, &ended);
        arrears.count(DEVICE, &ended);
        [meanwhile, arrears.of(&DEVICE).get()]
    }

    #[test]
    fn only_what_arrived_is_owed_and_each_due_is_carried_once() {
        let mut arrears = Arrears::default();
        assert_eq!(ends(&mut arrears, 1_000, 0, Outcome::Failed("no".into())), [0, 0]);
        assert_eq!(ends(&mut arrears, 1_000, 0, paid()), [0, 1_000]);
        // What is under way is not asked for twice; what failed on the way is owed as before.
        assert_eq!(ends(&mut arrears, 0, 700, Outcome::Failed("no".into())), [300, 1_000]);
        assert_eq!(ends(&mut arrears, 0, 700, paid()), [300, 300]);
        assert_eq!(ends(&mut arrears, 0, 300, paid()), [0, 0]);
        assert_eq!(arrears.of(&[9; 32]), Msat::ZERO);
    }
}
