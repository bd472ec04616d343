//! Each rule of the device, broken once. A refusal names the rule, and nothing changes.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod device;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, FeeRate, ScriptBuf, Txid};
use device::*;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::closing::Settlement;
use farthing_protocol::device::bolt3::commitment::to_remote_script;
use farthing_protocol::device::bolt3::{CommitmentNumber, CommitmentSeed, Htlc, Side, Terms};
use farthing_protocol::device::joint::JointSignature;
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::setup::BadTerms;
use farthing_protocol::device::{Effect, Input, Policy, Reject, State, Tip};
use secp256k1::{Keypair, SECP256K1};

/// The refused request names this rule and leaves the state as it was.
#[track_caller]
fn refused<T: std::fmt::Debug>(
    world: &mut World,
    rule: &str,
    act: impl FnOnce(&mut World) -> Result<T, Reject>,
) -> Reject {
    let before = world.state.clone();
    let reject = act(world).expect_err("the rule is broken");
    assert_eq!(reject.rule(), rule, "{reject}");
    assert_eq!(world.state, before);
    reject
}

/// An open channel with an approved invoice of 50,000 sat for HTLC 1.
fn approved() -> World {
    let mut world = World::open();
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    world
}

/// … and its HTLC irrevocably with both sides.
fn locked_in() -> World {
    let mut world = approved();
    world.lock_in(htlc(1, 50_000_000)).unwrap();
    world
}

fn msat(sat: u64) -> Msat {
    Msat::new(sat * 1_000)
}

fn less(amount: Msat) -> Msat {
    amount.checked_sub(Msat::new(1)).unwrap()
}

fn more(amount: Msat) -> Msat {
    amount.saturating_add(Msat::new(1))
}

// Balances.

#[test]
fn a_wrong_balance() {
    for change in [
        (|next: &mut Next| next.to_holder = less(next.to_holder)) as fn(&mut Next),
        |next| next.to_bridge = more(next.to_bridge),
        |next| (next.to_holder, next.to_bridge) = (less(next.to_holder), more(next.to_bridge)),
        |next| (next.to_holder, next.to_bridge) = (more(next.to_holder), less(next.to_bridge)),
    ] {
        let mut world = World::open();
        world.pay(1, 50_000_000).unwrap();
        let (mut bridge, mut holder) = (world.next_bridge(), world.next_holder());
        change(&mut bridge);
        change(&mut holder);
        refused(&mut world, "commitment-balance", |world| world.commit_bridge(bridge));
        refused(&mut world, "commitment-balance", |world| world.commit_holder(holder));
    }
}

/// The bridge offers more than it has. Its balance cannot be below zero, so the money would come from nowhere.
#[test]
fn an_htlc_that_its_side_cannot_pay() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    let mut next = world.next_holder();
    (next.to_bridge, next.htlcs) = (Msat::ZERO, vec![from_bridge(9, 50_000_001)]);
    refused(&mut world, "commitment-balance", |world| world.commit_holder(next));
}

#[test]
fn money_that_goes_with_an_htlc_whose_preimage_nobody_showed() {
    let mut world = locked_in();
    let stolen = Next { preimages: vec![], ..world.next_holder().fulfil(htlc(1, 50_000_000), preimage(1)) };
    refused(&mut world, "commitment-balance", |world| world.commit_holder(stolen.clone()));
    let wrong = Next { preimages: vec![preimage(2)], ..stolen };
    refused(&mut world, "commitment-balance", |world| world.commit_holder(wrong));
}

#[test]
fn an_htlc_of_the_bridge_that_is_fulfilled() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    let theirs = from_bridge(9, 10_000_000);
    world.lock_in_from_bridge(theirs).unwrap();
    let paid = world.next_bridge().fulfil(theirs, preimage(9));
    refused(&mut world, "htlc-never-fulfilled", |world| world.commit_bridge(paid));
}

#[test]
fn a_first_state_that_does_not_give_everything_to_the_holder() {
    for change in [
        (|next: &mut Next| (next.to_holder, next.to_bridge) = (less(next.to_holder), Msat::new(1)))
            as fn(&mut Next),
        |next| next.to_holder = less(next.to_holder),
        |next| *next = next.clone().add(htlc(1, 1_000_000)),
    ] {
        let mut first = Next::first();
        change(&mut first);
        let mut world = World::new();
        refused(&mut world, "commitment-initial-funding-value", |world| world.commit_bridge(first.clone()));
        refused(&mut world, "commitment-initial-funding-value", |world| world.commit_holder(first));
    }
}

// Transactions.

#[test]
fn a_transaction_with_another_output() {
    let mut world = approved();
    let next = world.next_bridge().add(htlc(1, 50_000_000));
    let other = Txid::from_byte_array([0xee; 32]);
    let reject = refused(&mut world, "commitment-no-unrecognized-outputs", |world| {
        world.commit_bridge_as(next, |proposal| proposal.txid = other)
    });
    assert!(matches!(reject, Reject::OtherTransaction { got, .. } if got == other));
    refused(&mut world, "commitment-no-unrecognized-outputs", |world| {
        world.validate_holder_as(world.next_holder(), |proposal, _, _| proposal.txid = other)
    });
}

#[test]
fn a_higher_and_a_lower_fee_rate() {
    for rate in [499, 10_001] {
        let mut world = World::open();
        let change = |next: Next| Next { fee_rate: FeeRate::from_sat_per_kwu(rate), ..next };
        let (bridge, holder) = (change(world.next_bridge()), change(world.next_holder()));
        refused(&mut world, "commitment-fee-range", |world| world.commit_bridge(bridge));
        refused(&mut world, "commitment-fee-range", |world| world.commit_holder(holder));
    }
}

#[test]
fn a_fee_that_the_holder_cannot_pay() {
    let mut world = World::new();
    world.setup.terms.capacity = Amount::from_sat(700);
    let poor = Next { to_holder: msat(700), ..Next::first() };
    let reject = refused(&mut world, "commitment-fee-covered", |world| world.commit_bridge(poor));
    let expected = Reject::FeeNotCovered { fee: Amount::from_sat(724), balance: Amount::from_sat(700) };
    assert_eq!(reject, expected);
}

#[test]
fn a_signature_of_the_bridge_that_does_not_fit() {
    let mut world = approved();
    let ours = htlc(1, 50_000_000);
    world.commit_bridge(world.next_bridge().add(ours)).unwrap();
    world.revoke_bridge().unwrap();
    let next = || world.holder.last().map(|_| world.next_holder().add(ours)).unwrap();
    let (first, second, third, fourth) = (next(), next(), next(), next());
    refused(&mut world, "commitment-signature", |world| {
        world.validate_holder_as(first, |_, signature, htlcs| *signature = htlcs[0])
    });
    refused(&mut world, "htlc-signature", |world| {
        world.validate_holder_as(second, |_, signature, htlcs| htlcs[0] = *signature)
    });
    refused(&mut world, "htlc-signature", |world| {
        world.validate_holder_as(third, |_, _, htlcs| htlcs.clear())
    });
    refused(&mut world, "htlc-signature", |world| {
        world.validate_holder_as(fourth, |_, signature, htlcs| htlcs.push(*signature))
    });
}

#[test]
fn a_joint_signature_that_does_not_fit() {
    let mut world = World::open();
    let (number, digest) = world.validate_holder(world.next_holder()).unwrap();
    let signature = JointSignature(digest.sign(&secret(0x77)));
    refused(&mut world, "commitment-joint-signature", |world| {
        world.give(Input::HolderSigned { number, signature })
    });
    let next = number.next().unwrap();
    refused(&mut world, "revoke-new-commitment-signed", |world| {
        world.give(Input::HolderSigned { number: next, signature })
    });
}

// Order.

#[test]
fn a_state_that_goes_backwards_or_skips_one() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    let newest = world.bridge.len() as u64 - 1;
    for number in [0, newest - 1, newest + 2] {
        let number = CommitmentNumber::try_from(number).unwrap();
        let (bridge, holder) = (world.next_bridge(), world.next_holder());
        refused(&mut world, "commitment-number", |world| {
            world.commit_bridge_as(bridge, |proposal| proposal.number = number)
        });
        refused(&mut world, "commitment-number", |world| {
            world.validate_holder_as(holder, |proposal, _, _| proposal.number = number)
        });
    }
}

#[test]
fn the_same_number_with_other_contents() {
    let mut world = approved();
    world.commit_bridge(world.next_bridge()).unwrap();
    let newest = world.bridge.last().unwrap().number;
    let other = world.next_bridge().add(htlc(1, 50_000_000));
    refused(&mut world, "commitment-retry-same", |world| {
        world.commit_bridge_as(other, |proposal| proposal.number = newest)
    });
}

#[test]
fn a_third_state_that_is_not_revoked() {
    let mut world = World::open();
    world.commit_bridge(world.next_bridge()).unwrap();
    let next = world.next_bridge();
    refused(&mut world, "commitment-previous-revoked", |world| world.commit_bridge(next.clone()));
    world.revoke_bridge().unwrap();
    world.commit_bridge(next).unwrap();

    world.commit_holder(world.next_holder()).unwrap();
    let next = world.next_holder();
    refused(&mut world, "commitment-previous-revoked", |world| world.commit_holder(next.clone()));
    // Not even while the old one is being erased.
    let number = world.holder[0].number;
    world.give(Input::Revoke { number }).unwrap();
    refused(&mut world, "commitment-previous-revoked", |world| world.commit_holder(next));
}

#[test]
fn a_secret_before_the_next_state_is_complete() {
    let mut world = World::open();
    let number = CommitmentNumber::FIRST;
    refused(&mut world, "revoke-new-commitment-signed", |world| world.give(Input::Revoke { number }));
    let (next, digest) = world.validate_holder(world.next_holder()).unwrap();
    refused(&mut world, "revoke-new-commitment-signed", |world| world.give(Input::Revoke { number }));
    world.complete_holder(next, &digest).unwrap();
    refused(&mut world, "revoke-new-commitment-signed", |world| world.give(Input::Revoke { number: next }));
    world.revoke_holder().unwrap();
}

#[test]
fn a_secret_before_the_old_state_is_erased() {
    let mut world = World::open();
    world.commit_holder(world.next_holder()).unwrap();
    let number = CommitmentNumber::FIRST;
    refused(&mut world, "revoke-erased", |world| world.give(Input::Erased { number }));
    let effects = world.give(Input::Revoke { number }).unwrap();
    assert_eq!(effects, [Effect::Erase(number)], "no secret yet");
    let next = number.next().unwrap();
    refused(&mut world, "revoke-erased", |world| world.give(Input::Erased { number: next }));
    // A closing that comes between keeps the secret in.
    world.give(Input::CloseAlone).unwrap();
    refused(&mut world, "channel-stage", |world| world.give(Input::Erased { number }));
}

#[test]
fn a_secret_of_the_bridge_that_does_not_fit() {
    let mut world = World::open();
    world.commit_bridge(world.next_bridge()).unwrap();
    let number = CommitmentNumber::FIRST;
    let secret = CommitmentSeed::new([0x66; 32]).secret(number);
    refused(&mut world, "revoke-secret-matches-point", |world| {
        world.give(Input::BridgeRevoked { number, secret })
    });
    let (newest, secret) = (number.next().unwrap(), world.seed.secret(number.next().unwrap()));
    refused(&mut world, "revoke-secret-matches-point", |world| {
        world.give(Input::BridgeRevoked { number: newest, secret })
    });
}

#[test]
fn secrets_of_the_bridge_that_come_from_two_seeds() {
    let mut world = World::open();
    // State 1 has a point of another seed. Its own secret fits; that it is the wrong seed shows with state 1's place in the chain.
    world.seed = CommitmentSeed::new([0x66; 32]);
    world.commit_bridge(world.next_bridge()).unwrap();
    let (first, second) = (CommitmentNumber::FIRST, CommitmentNumber::FIRST.next().unwrap());
    let of_first = CommitmentSeed::new([0x55; 32]).secret(first);
    world.give(Input::BridgeRevoked { number: first, secret: of_first }).unwrap();
    world.commit_bridge(world.next_bridge()).unwrap();
    let secret = world.seed.secret(second);
    refused(&mut world, "revoke-secret-derivable", |world| {
        world.give(Input::BridgeRevoked { number: second, secret })
    });
}

#[test]
fn the_funding_before_state_0_is_complete() {
    let mut world = World::new();
    let fund = |world: &mut World| world.give(Input::Fund);
    refused(&mut world, "funding-commitment-complete", fund);
    world.commit_bridge(Next::first()).unwrap();
    refused(&mut world, "funding-commitment-complete", fund);
    let (number, digest) = world.validate_holder(Next::first()).unwrap();
    refused(&mut world, "funding-commitment-complete", fund);
    // Nor does the channel go on before it.
    refused(&mut world, "funding-commitment-complete", |world| world.commit_bridge(world.next_bridge()));
    refused(&mut world, "funding-commitment-complete", |world| world.commit_holder(world.next_holder()));
    refused(&mut world, "channel-stage", |world| world.approve(invoice(1, 1_000_000), Source::Direct));
    world.complete_holder(number, &digest).unwrap();
    assert!(matches!(fund(&mut world).unwrap()[..], [Effect::Fund(_)]));
}

// HTLCs.

#[test]
fn an_htlc_for_another_payment_hash() {
    let mut world = approved();
    let next = world.next_bridge().add(htlc(2, 50_000_000));
    let reject = refused(&mut world, "routing-balanced", |world| world.commit_bridge(next));
    assert_eq!(reject, Reject::NotApproved(preimage(2).hash()));
}

#[test]
fn an_htlc_of_more_than_the_invoice_and_its_fee_or_of_less() {
    // The policy allows 1 sat and one percent.
    let (least, most) = (msat(50_000), msat(50_501));
    for amount in [less(least), more(most)] {
        let mut world = approved();
        let next = world.next_bridge().add(htlc(1, amount.get()));
        let reject = refused(&mut world, "invoice-amount", |world| world.commit_bridge(next));
        assert_eq!(reject, Reject::HtlcAmount { least, most, got: amount });
    }
    for amount in [least, most] {
        let mut world = approved();
        world.lock_in(htlc(1, amount.get())).unwrap();
    }
}

#[test]
fn an_htlc_that_expires_too_soon_or_too_late() {
    for expiry in [NOW.height, NOW.height + 1_001] {
        let mut world = approved();
        let next = world.next_bridge().add(Htlc { expiry, ..htlc(1, 50_000_000) });
        refused(&mut world, "commitment-htlc-cltv-range", |world| world.commit_bridge(next));
    }
}

#[test]
fn a_second_htlc_for_one_payment_hash() {
    let ours = htlc(1, 50_000_000);
    let again = Htlc { expiry: ours.expiry + 1, ..ours };
    let twice = approved().next_bridge().add(ours).add(again);
    refused(&mut approved(), "payment-single-htlc", |world| world.commit_bridge(twice));

    let mut world = locked_in();
    let next = world.next_bridge().add(again);
    refused(&mut world, "payment-single-htlc", |world| world.commit_bridge(next));
    // Failed, but a state that the bridge can still publish has it.
    world.commit_holder(world.next_holder().fail(ours)).unwrap();
    world.revoke_holder().unwrap();
    let next = world.next_bridge().fail(ours).add(again);
    refused(&mut world, "payment-single-htlc", |world| world.commit_bridge(next));
    world.commit_bridge(world.next_bridge().fail(ours)).unwrap();
    let next = world.next_bridge().add(again);
    refused(&mut world, "commitment-previous-revoked", |world| world.commit_bridge(next.clone()));
    world.revoke_bridge().unwrap();
    world.commit_bridge(next).unwrap();
}

#[test]
fn an_htlc_for_a_payment_that_went_through() {
    let mut world = locked_in();
    let ours = htlc(1, 50_000_000);
    world.settle(|next| next.fulfil(ours, preimage(1))).unwrap();
    let next = world.next_bridge().add(ours);
    refused(&mut world, "payment-settled", |world| world.commit_bridge(next));
    refused(&mut world, "invoice-not-paid", |world| world.approve(invoice(1, 50_000_000), Source::Direct));
}

/// The holder's commitment with one HTLC of ours twice: should the device publish it, the bridge would take both.
#[test]
fn an_htlc_twice_in_the_holders_commitment() {
    let ours = htlc(1, 50_000_000);
    let mut world = approved();
    world.commit_bridge(world.next_bridge().add(ours)).unwrap();
    world.revoke_bridge().unwrap();
    let twice = world.next_holder().add(ours).add(ours);
    refused(&mut world, "payment-single-htlc", |world| world.commit_holder(twice));

    let mut world = locked_in();
    let again = world.next_holder().add(ours);
    refused(&mut world, "payment-single-htlc", |world| world.commit_holder(again));
}

/// It was paid on the holder's side and is still in the bridge's commitment: it cannot come back and be paid a second time.
#[test]
fn an_htlc_that_comes_back_after_it_was_paid() {
    let ours = htlc(1, 50_000_000);
    let mut world = locked_in();
    world.commit_holder(world.next_holder().fulfil(ours, preimage(1))).unwrap();
    world.revoke_holder().unwrap();
    let back = world.next_holder().add(ours);
    refused(&mut world, "payment-settled", |world| world.commit_holder(back));
}

#[test]
fn an_htlc_that_a_later_policy_forbids() {
    for (rule, change) in [
        ("payment-amount", (|policy| policy.per_payment = msat(50_000)) as fn(&mut Policy)),
        ("payment-velocity", |policy| policy.per_hour = msat(50_000)),
        ("payment-velocity", |policy| policy.per_day = msat(50_000)),
        ("invoice-payee-allowlisted", |policy| policy.payees.clear()),
    ] {
        let mut world = World::open();
        world.approve(invoice(1, 50_000_000), Source::Gateway).unwrap();
        let mut stricter = Policy { version: 2, ..policy() };
        change(&mut stricter);
        world.give(Input::Policy(signed(stricter))).unwrap();
        let next = world.next_bridge().add(htlc(1, 50_000_000));
        refused(&mut world, rule, |world| world.commit_bridge(next));
    }
}

/// Invoices that were approved one after the other, each within its hour, are not all paid in one.
#[test]
fn htlcs_that_were_saved_up() {
    let mut world = World::open();
    let hours = |world: &mut World, seconds: u64| world.tip.time = NOW.time + seconds;
    for byte in 1..=2 {
        world.approve(invoice(byte, 50_000_000), Source::Direct).unwrap();
    }
    hours(&mut world, 3_599);
    world.lock_in(htlc(1, 50_000_000)).unwrap();
    hours(&mut world, 3_600);
    for byte in 3..=4 {
        let later = invoice_at(world.tip.time, PAYEE, byte, 40_000_000);
        world.approve(later, Source::Direct).unwrap();
    }
    // HTLC 1 left a second ago: it and the two new ones are 131,302 sat with fees.
    let one_more = invoice_at(world.tip.time, PAYEE, 5, 20_000_000);
    refused(&mut world, "payment-velocity", |world| world.approve(one_more, Source::Direct));
}

#[test]
fn an_htlc_that_begins_on_the_holders_side_or_ends_on_the_bridges() {
    let mut world = approved();
    let ours = htlc(1, 50_000_000);
    let next = world.next_holder().add(ours);
    refused(&mut world, "htlc-added-in-order", |world| world.commit_holder(next));

    let mut world = locked_in();
    let next = world.next_bridge().fail(ours);
    refused(&mut world, "htlc-removed-in-order", |world| world.commit_bridge(next));
}

#[test]
fn more_in_flight_than_allowed() {
    let mut world = World::open();
    for byte in 1..=3 {
        world.approve(invoice(byte, 45_000_000), Source::Direct).unwrap();
    }
    for byte in 1..=2 {
        world.lock_in(htlc(byte, 45_000_000)).unwrap();
    }
    let next = world.next_bridge().add(htlc(3, 45_000_000));
    let reject = refused(&mut world, "commitment-htlc-inflight-limit", |world| world.commit_bridge(next));
    assert_eq!(reject, Reject::InFlight { most: msat(120_000), got: msat(135_000) });
}

#[test]
fn more_htlcs_than_allowed() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    let add =
        |next: Next, count: u64| (0..count).fold(next, |next, at| next.add(from_bridge(9, 1_000_000 + at)));
    let eleven = add(world.next_holder(), 11);
    refused(&mut world, "commitment-htlc-count-limit", |world| world.commit_holder(eleven));
    world.commit_holder(add(world.next_holder(), 10)).unwrap();
}

// Invoices and limits.

#[test]
fn a_payment_above_the_limit_for_one() {
    let mut world = World::open();
    // 59,500 sat and one percent and one sat.
    let reject =
        refused(&mut world, "payment-amount", |world| world.approve(invoice(1, 59_500_000), Source::Direct));
    assert_eq!(reject, Reject::PerPayment { most: msat(60_000), got: msat(60_096) });
}

/// Fills the hour with three payments of 49,000 sat made at that time.
fn fill_an_hour(world: &mut World, seconds: u64, first: u8) {
    world.tip.time = NOW.time + seconds;
    for byte in first..first + 3 {
        let ours = htlc(byte, 49_000_000);
        world.approve(invoice_at(world.tip.time, PAYEE, byte, 49_000_000), Source::Direct).unwrap();
        world.lock_in(ours).unwrap();
        world.settle(|next| next.fulfil(ours, preimage(byte))).unwrap();
    }
}

#[test]
fn more_than_allowed_in_an_hour_and_in_a_day() {
    let mut world = World::open();
    let at = |world: &mut World, seconds, msat| {
        world.tip.time = NOW.time + seconds;
        world.approve(invoice_at(world.tip.time, PAYEE, 9, msat), Source::Direct)
    };
    // What is paid 200 s after a multiple of five minutes leaves a limit with the last second of these, 99 s late.
    fill_an_hour(&mut world, 0, 1);
    // With fees and what was paid: 147,000 and 3,031 sat.
    for seconds in [0, 3_698] {
        let reject = refused(&mut world, "payment-velocity", |world| at(world, seconds, 3_000_000));
        assert_eq!(reject, Reject::Velocity { seconds: 3_600, most: msat(150_000), got: msat(150_031) });
    }
    fill_an_hour(&mut world, 3_699, 4);
    for seconds in [7_299, 86_498] {
        let reject = refused(&mut world, "payment-velocity", |world| at(world, seconds, 6_000_000));
        assert_eq!(reject, Reject::Velocity { seconds: 86_400, most: msat(300_000), got: msat(300_061) });
    }
    at(&mut world, 86_499, 6_000_000).unwrap();
}

/// What was approved and never offered counts, with its fee, until its invoice has expired.
#[test]
fn approved_invoices_count_until_they_expire() {
    let mut world = World::open();
    for byte in 1..=2 {
        world.approve(invoice(byte, 50_000_000), Source::Direct).unwrap();
    }
    refused(&mut world, "payment-velocity", |world| world.approve(invoice(3, 50_000_000), Source::Direct));
    world.tip.time = NOW.time + 3_600;
    for byte in 3..=4 {
        let later = invoice_at(world.tip.time, PAYEE, byte, 50_000_000);
        world.approve(later, Source::Direct).unwrap();
    }
}

#[test]
fn a_clock_that_runs_backwards_brings_no_invoice_back() {
    let mut world = approved();
    world.tip.time = NOW.time + 3_600;
    world.approve(invoice_at(world.tip.time, PAYEE, 2, 1_000_000), Source::Direct).unwrap();
    world.tip = NOW;
    let next = world.next_bridge().add(htlc(1, 50_000_000));
    let reject = refused(&mut world, "routing-balanced", |world| world.commit_bridge(next));
    assert_eq!(reject, Reject::NotApproved(preimage(1).hash()), "it was forgotten when it had expired");
    refused(&mut world, "invoice-not-expired", |world| world.approve(invoice(1, 50_000_000), Source::Direct));
}

#[test]
fn an_invoice_that_has_expired() {
    let mut world = approved();
    world.tip.time = NOW.time + 3_600;
    refused(&mut world, "invoice-not-expired", |world| world.approve(invoice(2, 1_000_000), Source::Direct));
    let next = world.next_bridge().add(htlc(1, 50_000_000));
    refused(&mut world, "invoice-not-expired", |world| world.commit_bridge(next));
}

#[test]
fn an_invoice_of_the_gateways_own() {
    let mut world = World::open();
    let own = || invoice_of(0x33, 1, 1_000_000);
    for source in [Source::Gateway, Source::Direct] {
        refused(&mut world, "invoice-payee-allowlisted", |world| world.approve(own(), source));
    }
    let without = Policy { version: 2, payees: Vec::new(), ..policy() };
    world.give(Input::Policy(signed(without))).unwrap();
    refused(&mut world, "invoice-payee-allowlisted", |world| world.approve(own(), Source::Gateway));
    world.approve(own(), Source::Direct).unwrap();
}

#[test]
fn another_invoice_with_the_same_payment_hash() {
    let mut world = approved();
    refused(&mut world, "invoice-not-paid", |world| world.approve(invoice(1, 40_000_000), Source::Direct));
}

#[test]
fn anything_after_the_owner_said_stop() {
    let mut world = approved();
    let stop = Policy { version: 2, paused: true, ..policy() };
    world.give(Input::Policy(signed(stop))).unwrap();
    refused(&mut world, "policy-paused", |world| world.approve(invoice(2, 1_000_000), Source::Direct));
    let next = world.next_bridge().add(htlc(1, 50_000_000));
    refused(&mut world, "policy-paused", |world| world.commit_bridge(next));
}

#[test]
fn a_policy_that_is_older_or_not_the_owners() {
    let mut world = World::open();
    let lax = Policy { per_payment: msat(1_000_000), ..policy() };
    let forged = lax.clone().sign(&Keypair::from_secret_key(SECP256K1, &secret(0x77)));
    refused(&mut world, "policy-signature", |world| world.give(Input::Policy(forged.clone())));
    assert_eq!(State::open(&world.setup, forged).err(), Some(Reject::PolicySignature));
    refused(&mut world, "policy-version", |world| world.give(Input::Policy(signed(lax.clone()))));
    let older = Policy { version: 0, ..lax };
    refused(&mut world, "policy-version", |world| world.give(Input::Policy(signed(older))));
}

#[test]
fn every_field_of_a_policy_is_signed() {
    let changes: [fn(&mut Policy); 12] = [
        |policy| policy.version += 1,
        |policy| policy.paused = true,
        |policy| policy.payees.clear(),
        |policy| policy.per_payment = msat(1),
        |policy| policy.per_hour = msat(1),
        |policy| policy.per_day = msat(1),
        |policy| policy.in_flight = msat(1),
        |policy| policy.fee_base = msat(5),
        |policy| policy.fee_ppm += 1,
        |policy| policy.least_fee_rate = FeeRate::ZERO,
        |policy| policy.most_fee_rate = FeeRate::MAX,
        |policy| (policy.most_htlcs, policy.most_expiry_delta) = (11, 999),
    ];
    let owner = enrolment().owner;
    let whole = serde_json::to_value(signed(policy())).unwrap();
    for change in changes {
        let mut changed = policy();
        change(&mut changed);
        let mut forged = whole.clone();
        forged["policy"] = serde_json::to_value(&changed).unwrap();
        let forged: farthing_protocol::device::SignedPolicy = serde_json::from_value(forged).unwrap();
        assert_eq!(forged.verify(&owner), None, "{changed:?}");
    }
    assert_eq!(signed(policy()).verify(&owner), Some(policy()));
}

// Closing together.

fn settlement(world: &World) -> Settlement {
    let newest = world.holder.last().unwrap();
    Settlement {
        to_holder: newest.to_holder.floor() - Amount::from_sat(500),
        holder_script: owner_script(),
        to_bridge: newest.to_bridge.floor(),
        bridge_script: to_remote_script(&public(0x66)),
    }
}

#[test]
fn a_close_that_pays_somebody_else() {
    let mut world = World::open();
    let elsewhere = Settlement { holder_script: to_remote_script(&public(0x67)), ..settlement(&world) };
    refused(&mut world, "mutual-destination-allowlisted", |world| {
        world.give(Input::CloseTogether(elsewhere))
    });
    let long = ScriptBuf::from_bytes(vec![0x51; 10_000]);
    let heavy = Settlement { bridge_script: long, ..settlement(&world) };
    refused(&mut world, "mutual-counterparty-script", |world| world.give(Input::CloseTogether(heavy)));
    let to_nobody = Settlement { holder_script: ScriptBuf::new(), ..settlement(&world) };
    refused(&mut world, "mutual-destination-allowlisted", |world| {
        world.give(Input::CloseTogether(to_nobody))
    });
}

#[test]
fn a_close_with_other_amounts() {
    let mut world = World::open();
    world.pay(1, 50_000_000).unwrap();
    let sat = Amount::from_sat;
    for change in [
        (|settlement: &mut Settlement| settlement.to_bridge += Amount::from_sat(1)) as fn(&mut Settlement),
        |settlement| settlement.to_bridge -= Amount::from_sat(1),
        |settlement| settlement.to_bridge = Amount::ZERO,
        |settlement| settlement.to_holder += Amount::from_sat(501),
        |settlement| settlement.to_holder = Amount::ZERO,
    ] {
        let mut changed = settlement(&world);
        change(&mut changed);
        refused(&mut world, "mutual-value-matches-commitment", |world| {
            world.give(Input::CloseTogether(changed))
        });
    }
    for fee in [sat(0), sat(100), sat(20_000)] {
        let mut changed = settlement(&world);
        changed.to_holder = world.holder.last().unwrap().to_holder.floor() - fee;
        refused(&mut world, "mutual-fee-range", |world| world.give(Input::CloseTogether(changed)));
    }
}

/// A channel that was given up before it was funded.
#[test]
fn a_close_of_what_was_never_opened() {
    let mut world = World::open();
    let now = settlement(&world);
    world = World::new();
    refused(&mut world, "channel-stage", |world| world.give(Input::CloseTogether(now.clone())));
    assert!(world.give(Input::CloseAlone).unwrap().is_empty());
    refused(&mut world, "funding-commitment-complete", |world| world.give(Input::CloseTogether(now)));
}

#[test]
fn a_close_with_an_htlc_under_way() {
    let mut world = locked_in();
    let now = settlement(&world);
    refused(&mut world, "mutual-no-pending-htlcs", |world| world.give(Input::CloseTogether(now)));
    // Nor while only an old state of the bridge has it.
    let ours = htlc(1, 50_000_000);
    world.commit_holder(world.next_holder().fail(ours)).unwrap();
    world.revoke_holder().unwrap();
    world.commit_bridge(world.next_bridge().fail(ours)).unwrap();
    let now = settlement(&world);
    refused(&mut world, "mutual-no-pending-htlcs", |world| world.give(Input::CloseTogether(now.clone())));
    world.revoke_bridge().unwrap();
    world.give(Input::CloseTogether(now)).unwrap();
}

// Terms.

#[test]
fn terms_that_the_owner_does_not_accept() {
    let refused = |change: fn(&mut Terms)| {
        let mut changed = terms();
        change(&mut changed);
        setup_with(changed).err().map(|error| error.to_string())
    };
    assert_eq!(refused(|_| {}), None);
    for (start, change) in [
        ("channel-dust-limit", (|terms| terms.bridge.dust_limit = Amount::from_sat(547)) as fn(&mut Terms)),
        ("channel-dust-limit", |terms| terms.holder.dust_limit = Amount::from_sat(547)),
        ("channel-dust-limit", |terms| terms.holder.dust_limit = Amount::from_sat(353)),
        ("channel-contest-delay-range-counterparty", |terms| terms.bridge.delay = 1_007),
        ("channel-contest-delay-range-holder", |terms| terms.holder.delay = 2_017),
        ("channel-capacity", |terms| terms.capacity = CAPACITY + Amount::from_sat(1)),
        ("channel-keys", |terms| terms.holder.funding_key = public(0x77)),
        ("channel-keys", |terms| terms.bridge.funding_key = terms.holder.funding_key),
        ("channel-keys", |terms| terms.holder.basepoints.payment = public(0x77)),
        ("channel-keys", |terms| terms.holder.basepoints.delayed_payment = public(0x77)),
        ("channel-keys", |terms| terms.holder.basepoints.htlc = public(0x77)),
        ("channel-keys", |terms| terms.holder.basepoints.revocation = public(0x77)),
    ] {
        let text = refused(change).expect(start);
        assert!(text.starts_with(start), "{text}");
    }
    let reserve = Amount::from_sat(10_001);
    let greedy =
        farthing_protocol::device::Setup::new(enrolment(), device_keys(), terms(), public(JOINT), reserve);
    assert!(matches!(greedy.err(), Some(BadTerms::Reserve { .. })));
}

/// A wrong delay shows as another transaction: the device builds with the one that was agreed on.
#[test]
fn a_commitment_with_another_delay() {
    use farthing_protocol::device::bolt3::{Commitment, Contents};
    let mut world = World::open();
    let mut other = world.setup.terms;
    other.bridge.delay = 1;
    let next = world.next_bridge();
    let number = World::number(&world.bridge);
    let (fee_rate, to_holder, to_bridge) = (next.fee_rate, next.to_holder, next.to_bridge);
    let point = world.seed.point(number);
    let contents = Contents { number, point, fee_rate, to_holder, to_bridge, htlcs: vec![] };
    // The bridge has no output yet, so there is no delay in it: pay first.
    assert_eq!(
        Commitment::build(&other, Side::Bridge, &contents).txid(),
        Commitment::build(&world.setup.terms, Side::Bridge, &contents).txid()
    );
    world.pay(1, 50_000_000).unwrap();
    let next = world.next_bridge();
    let number = World::number(&world.bridge);
    let (to_holder, to_bridge) = (next.to_holder, next.to_bridge);
    let point = world.seed.point(number);
    let contents = Contents { number, point, fee_rate, to_holder, to_bridge, htlcs: vec![] };
    let txid = Commitment::build(&other, Side::Bridge, &contents).txid();
    refused(&mut world, "commitment-no-unrecognized-outputs", |world| {
        world.commit_bridge_as(next, |proposal| proposal.txid = txid)
    });
}

#[test]
fn heights_and_times_only_go_up() {
    let mut world = approved();
    world.tip = Tip { height: NOW.height + 5_000, ..NOW };
    world.approve(invoice(2, 1_000_000), Source::Direct).unwrap();
    // An older height does not bring an expired range back.
    world.tip = NOW;
    let next = world.next_bridge().add(htlc(1, 50_000_000));
    refused(&mut world, "commitment-htlc-cltv-range", |world| world.commit_bridge(next));
}
