//! What owners decide about their devices, and what devices are told of their channels.

use std::str::FromStr as _;

use farthing_protocol::Msat;
use farthing_protocol::device::SignedPolicy;
use farthing_protocol::device::bolt3::PaymentHash;
use farthing_protocol::device::wire::{Enrol, Report};

use crate::gateway::Gateway;
use crate::payments::PayError;
use crate::records::{DeviceRecord, Stage};

impl Gateway {
    /// Rings for a channel whose stage may ask for something.
    pub(crate) fn ask_again(&self, channel: [u8; 32]) {
        let mut books = self.books();
        if let Some(device) = books.channels.get(&channel).map(|record| record.device) {
            books.bell(device).notify_one();
        }
    }

    /// A policy that an operator got from an owner. Gives how many devices it is for.
    pub(crate) fn owners_policy(&self, policy: &SignedPolicy) -> usize {
        let devices: Vec<[u8; 32]> = {
            let books = self.books();
            let signed = |record: &DeviceRecord| policy.clone().verify(&record.enrol.owner).is_some();
            books.devices.iter().filter(|(_, record)| signed(record)).map(|(device, _)| *device).collect()
        };
        devices.into_iter().filter(|device| self.new_policy(*device, policy.clone()).is_ok()).count()
    }

    /// A newer policy of a device's owner.
    pub(crate) fn new_policy(&self, device: [u8; 32], policy: SignedPolicy) -> Result<(), String> {
        // From reading to storing: an enrolment that comes at the same time must not put the older policy back.
        let mut books = self.books();
        let record = books.devices.get(&device).cloned().ok_or("the device is not enrolled")?;
        let owner = record.enrol.owner;
        let new = policy.clone().verify(&owner).ok_or("the owner did not sign this policy")?;
        let current = record.enrol.policy.clone().verify(&owner);
        if current.is_some_and(|current| {
            new.version < current.version || new.version == current.version && new != current
        }) {
            return Err("a newer policy is in force".into());
        }
        let record = DeviceRecord { enrol: Enrol { policy, ..record.enrol }, ..record };
        self.save_device(device, &record).map_err(|error| error.to_string())?;
        books.devices.insert(device, record);
        Ok(())
    }

    /// What is known of a channel, for its device.
    pub(crate) fn status_of(&self, device: [u8; 32], channel: [u8; 32]) -> Report {
        let record = self.books().channels.get(&channel).filter(|record| record.device == device).cloned();
        let Some(record) = record else { return Report::Refused { why: "there is no such channel".into() } };
        let details = self.details(channel);
        let usable = details.as_ref().is_some_and(|details| details.is_usable);
        let spendable = details.map_or(0, |details| details.next_outbound_htlc_limit_msat);
        let trouble = self.books().trouble.get(&channel).cloned();
        let stage = match (&record.stage, trouble) {
            (_, Some(trouble)) => trouble,
            (Stage::Ready, None) => "ready".into(),
            (Stage::Opening { .. }, None) => "asking the bridge".into(),
            (Stage::Agreed { is_funded: false, .. }, None) => "opening".into(),
            (Stage::Agreed { is_funded: true, .. }, None) if usable => "open".into(),
            (Stage::Agreed { is_funded: true, .. }, None) => "waiting for blocks or for the bridge".into(),
            (Stage::Over(why), None) => why.clone(),
        };
        Report::Channel { usable, stage, spendable: Msat::new(spendable) }
    }

    /// The report about a payment that was not made, if the invoice can be read at all.
    pub(crate) fn not_paid(&self, invoice: &str, error: &PayError) -> Option<Report> {
        let invoice = lightning::bolt11_invoice::Bolt11Invoice::from_str(invoice).ok()?;
        let payment_hash = PaymentHash(*AsRef::<[u8; 32]>::as_ref(invoice.payment_hash()));
        Some(Report::Failed { payment_hash, why: error.to_string() })
    }
}
