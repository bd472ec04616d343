//! What became of a payment, and one invoice in two channels.

use farthing_protocol::device::bolt3::PaymentHash;

use super::*;
use crate::device::fate::Fate;
use crate::device::store::{Outcome, Paid};

const COST: Msat = Msat::new(20_000_000);

impl World {
    /// As `farthing device pay` does.
    fn approve_and_note(&mut self) {
        self.approve().unwrap();
        let paid = Paid { invoice: INVOICE.into(), amount_msat: COST.get(), outcome: Outcome::Pending };
        let (channel, (invoice, _)) = (self.channel, invoice());
        self.device().store().note(&invoice.payment_hash().0, channel, &paid, NOW).unwrap();
    }

    fn hear_that_it_failed(&mut self, payment_hash: PaymentHash) -> Option<Outcome> {
        let report = Report::Failed { payment_hash, why: "64 orders wait".into() };
        self.device().hear(&report, NOW).unwrap()
    }

    /// What people are told.
    fn told(&mut self) -> Outcome {
        let mut payments = self.device().payments(20).unwrap();
        payments.pop().unwrap().outcome
    }

    fn noted(&mut self, hash: PaymentHash) -> Outcome {
        self.device().store().payment(&hash.0).unwrap().unwrap().outcome
    }

    fn open_another(&mut self) {
        self.begin_another();
        let got = self.ask(&|_| Request::Fund, None);
        assert!(matches!(got, Got::Answer(Answer::Fund(_))), "{got:?}");
    }
}

/// The gateway had forgotten it, or had no room for the order, while its HTLC was under way. Then comes the preimage.
#[test]
fn what_was_said_to_have_failed_and_is_paid_is_paid() {
    let mut world = World::open();
    let (_, preimage) = invoice();
    let (hash, ours, channel) = (preimage.hash(), htlc(&preimage), world.channel);
    world.approve_and_note();
    assert_eq!(world.device().fate(&hash), Fate::Nothing);
    world.sign_bridge(&[], add(ours));
    world.bridge_revokes();
    world.validate_holder(&[], add(ours));
    world.revoke();
    assert_eq!(world.device().fate(&hash), Fate::Live);
    assert_eq!(world.hear_that_it_failed(hash), None);
    assert_eq!(world.noted(hash), Outcome::Pending);

    world.validate_holder(&[preimage], fulfil(ours));
    let paid = Outcome::Paid { preimage: preimage.0, fee_msat: Some(0) };
    let fate = Fate::Paid { channel, preimage, cost: COST };
    assert_eq!(world.device().fate(&hash), fate, "while it may still be taken back");
    world.revoke();
    world.sign_bridge(&[preimage], fulfil(ours));
    world.bridge_revokes();
    world.restart();
    assert_eq!(world.device().fate(&hash), fate);
    assert_eq!(world.hear_that_it_failed(hash), Some(paid.clone()));
    assert_eq!(world.noted(hash), paid);
}

#[test]
fn what_failed_and_is_not_under_way_has_failed_until_there_is_a_proof() {
    let mut world = World::open();
    let (_, preimage) = invoice();
    let hash = preimage.hash();
    assert!(world.hear_that_it_failed(hash).is_some(), "a payment that is not known");
    assert_eq!(world.device().store().payment(&hash.0).unwrap(), None);
    world.approve_and_note();
    let failed = Outcome::Failed("64 orders wait".into());
    assert_eq!(world.hear_that_it_failed(hash), Some(failed.clone()));
    assert_eq!(world.noted(hash), failed);
    let report = Report::Paid { preimage, fee: Msat::new(7) };
    let paid = Outcome::Paid { preimage: preimage.0, fee_msat: Some(7) };
    assert_eq!(world.device().hear(&report, NOW).unwrap(), Some(paid.clone()));
    assert_eq!(world.hear_that_it_failed(hash), Some(paid.clone()));
    assert_eq!(world.noted(hash), paid);
}

/// The gateway says first that it failed, then has its HTLC signed and takes it, and tells nobody.
#[test]
fn people_are_told_what_the_channels_have_whatever_was_reported() {
    let mut world = World::open();
    let (_, preimage) = invoice();
    let (hash, ours) = (preimage.hash(), htlc(&preimage));
    world.approve_and_note();
    assert_eq!(world.told(), Outcome::Pending);
    assert!(world.hear_that_it_failed(hash).is_some());
    assert_eq!(world.told(), Outcome::Failed("64 orders wait".into()));
    world.sign_bridge(&[], add(ours));
    assert_eq!(world.told(), Outcome::Pending);
    world.bridge_revokes();
    world.validate_holder(&[], add(ours));
    world.revoke();
    world.validate_holder(&[preimage], fulfil(ours));
    assert_eq!(world.told(), Outcome::Paid { preimage: preimage.0, fee_msat: Some(0) });
}

/// Else it would be the gateway that says which payments are the newest.
#[test]
fn a_payment_that_failed_again_is_no_newer() {
    let mut world = World::open();
    let (_, preimage) = invoice();
    world.approve_and_note();
    assert!(world.hear_that_it_failed(preimage.hash()).is_some());
    let newer = Paid { invoice: "newer".into(), amount_msat: 1, outcome: Outcome::Pending };
    let channel = world.channel;
    world.device().store().note(&[7; 32], channel, &newer, NOW).unwrap();
    assert!(world.hear_that_it_failed(preimage.hash()).is_some());
    assert_eq!(world.device().payments(1).unwrap(), [newer]);
}

/// Gateway and bridge could take it from both with one preimage.
#[test]
fn what_is_under_way_in_a_channel_that_closes_is_not_approved_in_the_next() {
    let mut world = World::open();
    let (_, preimage) = invoice();
    let first = world.channel;
    world.approve().unwrap();
    world.sign_bridge(&[], add(htlc(&preimage)));
    world.device().give(first, Input::CloseAlone).unwrap();
    world.open_another();
    let refused = world.approve().unwrap_err();
    assert!(matches!(refused, GiveError::Rule(Reject::Live(hash)) if hash == preimage.hash()), "{refused}");
    assert_eq!(world.device().fate(&preimage.hash()), Fate::Live);
}

#[test]
fn what_was_paid_in_a_channel_is_not_approved_in_the_next() {
    let mut world = World::open();
    let (_, preimage) = invoice();
    let first = world.channel;
    world.approve().unwrap();
    world.pay(htlc(&preimage), preimage);
    world.device().give(first, Input::CloseAlone).unwrap();
    world.open_another();
    let refused = world.approve().unwrap_err();
    assert!(matches!(refused, GiveError::Rule(Reject::HashUsed)), "{refused}");
    let fate = world.device().fate(&preimage.hash());
    assert_eq!(fate, Fate::Paid { channel: first, preimage, cost: COST });
}
