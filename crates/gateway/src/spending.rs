//! What a device spends, as the gateway keeps it under its own copy of the owner's policy: such books as the device keeps for each channel,
//! of all its channels together.

use farthing_protocol::device::payments::{FormerPayments, Payments};

use crate::records::{Outcome, PaymentRecord};
use crate::shelf::{Shelf, ShelfError};

/// Where it is.
pub(crate) const NAME: &str = "spending";
/// Where it was while every payment had an entry.
pub(crate) const FORMER: &str = "payments";

/// What is known of a device.
pub(crate) fn read(shelf: &Shelf, device: &[u8; 32]) -> Result<Payments, ShelfError> {
    if let Some(payments) = shelf.get(device, NAME)? {
        return Ok(payments);
    }
    let former: Option<FormerPayments> = shelf.get(device, FORMER)?;
    Ok(former.map(Payments::from).unwrap_or_default())
}

/// Takes note of a payment's end: it counts for what it cost, as at the device, which saw the HTLC, and no more if it failed.
pub(crate) fn end(payments: &mut Payments, record: &PaymentRecord) {
    match &record.outcome {
        Outcome::Pending => {}
        Outcome::Paid { preimage, fee } => {
            payments.learn_cost(*preimage, record.amount.saturating_add(*fee));
        }
        Outcome::Failed(_) => payments.give_up(&record.payment_hash),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bitcoin::{FeeRate, Network};
    use farthing_node::cabinet::Cabinet;
    use farthing_protocol::Msat;
    use farthing_protocol::device::bolt3::{Htlc, PaymentHash, Preimage, Side};
    use farthing_protocol::device::payments::Source;
    use farthing_protocol::device::{Invoice, Policy, Reject, Tip};
    use lightning::bolt11_invoice::{Currency, InvoiceBuilder};
    use lightning::types::payment::PaymentSecret;
    use secp256k1::{SECP256K1, SecretKey};

    use super::*;

    const NOW: Tip = Tip { height: 100, time: 1_800_000_000 };
    const DEVICE: [u8; 32] = [4; 32];

    fn policy() -> Policy {
        let plenty = Msat::new(1_000_000_000);
        Policy {
            version: 1,
            paused: false,
            payees: vec![],
            per_payment: plenty,
            per_hour: Msat::new(100_000_000),
            per_day: plenty,
            in_flight: plenty,
            fee_base: Msat::ZERO,
            fee_ppm: 100_000,
            least_fee_rate: FeeRate::BROADCAST_MIN,
            most_fee_rate: FeeRate::MAX,
            most_htlcs: 10,
            most_expiry_delta: 1_000,
        }
    }

    fn invoice(preimage: Preimage, msat: u64) -> Invoice {
        let hash = bitcoin::hashes::Hash::from_byte_array(preimage.hash().0);
        let key = SecretKey::from_slice(&[5; 32]).unwrap();
        let invoice = InvoiceBuilder::new(Currency::Regtest)
            .amount_milli_satoshis(msat)
            .description("toll".into())
            .payment_hash(hash)
            .payment_secret(PaymentSecret([1; 32]))
            .duration_since_epoch(std::time::Duration::from_secs(NOW.time))
            .min_final_cltv_expiry_delta(18)
            .build_signed(|digest| SECP256K1.sign_ecdsa_recoverable(digest, &key))
            .unwrap();
        Invoice::parse(&invoice.to_string(), Network::Regtest).unwrap()
    }

    fn approve(payments: &mut Payments, invoice: &Invoice) -> Result<(), Reject> {
        payments.approve(&policy(), invoice, Source::Direct, NOW, |_| false)
    }

    fn record(preimage: Preimage, amount: Msat, outcome: Outcome) -> PaymentRecord {
        PaymentRecord {
            channel: [2; 32],
            payment_hash: preimage.hash(),
            amount,
            ordered_at: NOW.time,
            service_due: Msat::ZERO,
            arrears: Msat::ZERO,
            outcome,
        }
    }

    /// Payments of 10,000 sat that may cost 11,000 each, and cost 10,001. The gateway sees no HTLC, and counts the same.
    #[test]
    fn a_payment_counts_for_what_it_cost_here_and_at_the_device() {
        let (mut here, mut device) = (Payments::default(), Payments::default());
        let (amount, fee) = (Msat::new(10_000_000), Msat::new(1_000));
        let cost = amount.saturating_add(fee);
        for byte in 1..=8 {
            let preimage = Preimage([byte; 32]);
            let invoice = invoice(preimage, amount.get());
            approve(&mut here, &invoice).unwrap();
            end(&mut here, &record(preimage, amount, Outcome::Paid { preimage, fee }));
            approve(&mut device, &invoice).unwrap();
            let payment_hash = preimage.hash();
            let htlc = Htlc { offered_by: Side::Holder, amount: cost, payment_hash, expiry: 200 };
            device.offer(&policy(), &htlc, NOW).unwrap();
            device.learn(&[preimage]);
        }
        assert_eq!(here, device);
        let ninth = invoice(Preimage([9; 32]), amount.get());
        for payments in [&mut here, &mut device] {
            approve(payments, &ninth).unwrap();
        }
        let tenth = invoice(Preimage([10; 32]), amount.get());
        let refused = |payments: &mut Payments| approve(payments, &tenth).unwrap_err();
        assert_eq!(refused(&mut here), refused(&mut device));
    }

    #[test]
    fn a_payment_that_failed_counts_no_more() {
        let (mut payments, amount) = (Payments::default(), Msat::new(60_000_000));
        let (first, second) = (Preimage([1; 32]), Preimage([2; 32]));
        approve(&mut payments, &invoice(first, amount.get())).unwrap();
        assert!(approve(&mut payments, &invoice(second, amount.get())).is_err());
        end(&mut payments, &record(first, amount, Outcome::Pending));
        assert!(approve(&mut payments, &invoice(second, amount.get())).is_err());
        end(&mut payments, &record(first, amount, Outcome::Failed("no route".into())));
        approve(&mut payments, &invoice(second, amount.get())).unwrap();
    }

    #[test]
    fn what_an_older_gateway_kept_still_counts() {
        let folder = tempfile::tempdir().unwrap();
        let cabinet = Cabinet::open(&folder.path().join("cabinet.sqlite")).unwrap();
        let shelf = Shelf::new(Arc::new(cabinet), "device");
        assert_eq!(read(&shelf, &DEVICE).unwrap(), Payments::default());
        let (paid, key) = (Preimage([1; 32]), SecretKey::from_slice(&[5; 32]).unwrap());
        let (amount, fee, none) = (Msat::new(60_000_000), Msat::new(6_000_000), None::<Msat>);
        let hash: PaymentHash = paid.hash();
        let times = (NOW.time + 3_600, key.public_key(SECP256K1), Source::Direct, NOW.time);
        shelf.put(&DEVICE, FORMER, &vec![(hash, amount, fee, times, none, Some(paid))]).unwrap();
        let mut payments = read(&shelf, &DEVICE).unwrap();
        assert_eq!(approve(&mut payments, &invoice(paid, amount.get())), Err(Reject::HashUsed));
        let refused = approve(&mut payments, &invoice(Preimage([2; 32]), amount.get())).unwrap_err();
        assert_eq!(refused.rule(), "payment-velocity");
        approve(&mut payments, &invoice(Preimage([2; 32]), 10_000_000)).unwrap();
        shelf.put(&DEVICE, NAME, &payments).unwrap();
        assert_eq!(read(&shelf, &DEVICE).unwrap(), payments);
    }
}
