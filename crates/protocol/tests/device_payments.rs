//! What is approved, again and again and many times a day: retries, policies that change meanwhile, and what is remembered of it all.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod device;

use device::*;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{Htlc, PaymentHash, Preimage, Side};
use farthing_protocol::device::payments::{FormerPayments, Payments, Source};
use farthing_protocol::device::{Input, Invoice, Policy, Reject, Tip};

fn msat(sat: u64) -> Msat {
    Msat::new(sat * 1_000)
}

/// The owner's policy changes.
fn change(world: &mut World, change: impl FnOnce(&mut Policy)) {
    let mut next = world.state.account().policy().clone();
    next.version += 1;
    change(&mut next);
    world.give(Input::Policy(signed(next))).unwrap();
}

/// An approved payment of 50,000 sat that was under way, and came back.
fn failed() -> World {
    let mut world = World::open();
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    come_back(&mut world, htlc(1, 50_000_000));
    world
}

fn come_back(world: &mut World, ours: Htlc) {
    world.lock_in(ours).unwrap();
    world.settle(|next| next.fail(ours)).unwrap();
}

/// The refusal comes with the approval, when the gateway has not been asked for anything, and changes nothing.
#[track_caller]
fn not_approved(world: &mut World, invoice: Invoice, rule: &str) {
    let before = world.state.clone();
    let refused = world.approve(invoice, Source::Direct).unwrap_err();
    assert_eq!(refused.rule(), rule, "{refused}");
    assert_eq!(world.state, before);
}

// Retries.

/// There was no way below the fees that the owner allowed. The owner allows more, and the gateway finds one.
#[test]
fn a_retry_may_cost_what_the_present_policy_allows() {
    let mut world = failed();
    change(&mut world, |policy| policy.fee_ppm = 50_000);
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    come_back(&mut world, htlc(1, 52_501_000));
    change(&mut world, |policy| policy.fee_ppm = 10_000);
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    let refused = world.commit_bridge(world.next_bridge().add(htlc(1, 52_501_000))).unwrap_err();
    assert_eq!(refused.rule(), "invoice-amount");
    world.lock_in(htlc(1, 50_501_000)).unwrap();
}

#[test]
fn a_retry_that_the_present_policy_forbids_is_not_approved() {
    for (rule, stricter) in [
        ("payment-amount", (|policy| policy.per_payment = msat(50_000)) as fn(&mut Policy)),
        ("payment-velocity", |policy| policy.per_hour = msat(50_000)),
        ("payment-velocity", |policy| policy.per_day = msat(50_000)),
        ("invoice-payee-allowlisted", |policy| policy.payees = vec![public(0x33)]),
        ("policy-paused", |policy| policy.paused = true),
    ] {
        let mut world = failed();
        change(&mut world, stricter);
        not_approved(&mut world, invoice(1, 50_000_000), rule);
    }
}

/// … and does not count itself twice: one payment fits into this hour, and is tried three times.
#[test]
fn a_retry_counts_once() {
    let mut world = failed();
    change(&mut world, |policy| policy.per_hour = msat(60_000));
    for _ in 0..3 {
        world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
        come_back(&mut world, htlc(1, 50_000_000));
    }
    not_approved(&mut world, invoice(2, 10_000_000), "payment-velocity");
}

/// An hour after it failed others have used up what an hour may cost. That is said when it is approved: an HTLC that the device refuses
/// would stop the channel.
#[test]
fn a_retry_after_others_used_up_the_hour_is_not_approved() {
    let lasting = || invoice_lasting(86_400, 1, 50_000_000);
    let mut world = World::open();
    world.approve(lasting(), Source::Direct).unwrap();
    come_back(&mut world, htlc(1, 50_000_000));
    world.give(Input::GiveUp(preimage(1).hash())).unwrap();
    world.tip.time = NOW.time + 3_600;
    for byte in 2..=3 {
        let later = invoice_at(world.tip.time, PAYEE, byte, 55_000_000);
        world.approve(later, Source::Direct).unwrap();
    }
    not_approved(&mut world, lasting(), "payment-velocity");
}

/// What is under way is not begun again, so nothing is asked of the policy.
#[test]
fn what_is_under_way_is_approved_as_it_is() {
    let mut world = World::open();
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    world.lock_in(htlc(1, 50_000_000)).unwrap();
    change(&mut world, |policy| policy.paused = true);
    let before = world.state.clone();
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    assert_eq!(world.state, before);
}

/// Under one hash two payees could each be sent one payment.
#[test]
fn another_payee_under_a_known_hash_is_not_approved() {
    let mut world = failed();
    change(&mut world, |policy| policy.payees.clear());
    not_approved(&mut world, invoice_of(0x33, 1, 50_000_000), "invoice-not-paid");
}

// Orders that are carried out late.

/// The device was cut off after it had ordered a payment, and comes back hours later. Whatever it approves then, the HTLC that the gateway
/// cannot take back any more still fits.
#[test]
fn what_was_approved_is_signed_for_hours_later() {
    let mut world = World::open();
    world.approve(invoice_lasting(86_400, 1, 50_000_000), Source::Direct).unwrap();
    world.tip.time = NOW.time + 7_200;
    for byte in 2..=3 {
        let later = invoice_at(world.tip.time, PAYEE, byte, 45_000_000);
        world.approve(later, Source::Direct).unwrap();
    }
    let one_more = invoice_at(world.tip.time, PAYEE, 4, 45_000_000);
    not_approved(&mut world, one_more, "payment-velocity");
    world.lock_in(htlc(1, 50_000_000)).unwrap();
}

// What is given up.

#[test]
fn what_is_given_up_counts_no_more() {
    let mut world = failed();
    change(&mut world, |policy| policy.per_hour = msat(60_000));
    not_approved(&mut world, invoice(2, 50_000_000), "payment-velocity");
    world.give(Input::GiveUp(preimage(1).hash())).unwrap();
    world.approve(invoice(2, 50_000_000), Source::Direct).unwrap();
    let refused = world.commit_bridge(world.next_bridge().add(htlc(1, 50_000_000))).unwrap_err();
    assert_eq!(refused.rule(), "payment-velocity");
}

/// That it failed was said of an order before, when the gateway already carried out the next: that does not stop the channel.
#[test]
fn what_is_given_up_too_soon_is_signed_for_and_counts_again() {
    let mut world = failed();
    world.give(Input::GiveUp(preimage(1).hash())).unwrap();
    world.lock_in(htlc(1, 50_000_000)).unwrap();
    change(&mut world, |policy| policy.per_hour = msat(60_000));
    not_approved(&mut world, invoice(2, 50_000_000), "payment-velocity");
}

/// A payee whose invoices are good for years, and none of which can be paid.
#[test]
fn what_is_given_up_gives_way() {
    let mut road = Road::new();
    for number in 0..1_500 {
        let hash = Road::preimage(number).hash();
        road.approve(&invoice_as(hash, NOW.time, 31_536_000, PAYEE, 1_000)).unwrap();
        road.payments.give_up(&hash);
    }
    for number in 1_500..2_500 {
        road.approve(&invoice_as(Road::preimage(number).hash(), NOW.time, 3_600, PAYEE, 1_000)).unwrap();
    }
    let one_more = invoice_as(Road::preimage(2_500).hash(), NOW.time, 3_600, PAYEE, 1_000);
    assert_eq!(road.approve(&one_more), Err(Reject::TooManyApproved { most: 1_000 }));
}

#[test]
fn what_is_under_way_or_paid_is_not_given_up() {
    let hash = preimage(1).hash();
    let mut world = World::open();
    world.approve(invoice(1, 50_000_000), Source::Direct).unwrap();
    let ours = htlc(1, 50_000_000);
    world.lock_in(ours).unwrap();
    let before = world.state.clone();
    world.give(Input::GiveUp(hash)).unwrap();
    assert_eq!(world.state, before);
    world.settle(|next| next.fulfil(ours, preimage(1))).unwrap();
    let before = world.state.clone();
    world.give(Input::GiveUp(hash)).unwrap();
    assert_eq!(world.state, before);
    not_approved(&mut world, invoice(1, 50_000_000), "invoice-not-paid");
}

// Many payments.

const YEAR: u64 = 31_536_000;

/// The books by themselves: no channel, so that thousands take no time.
struct Road {
    payments: Payments,
    policy: Policy,
    tip: Tip,
    paid: u64,
}

impl Road {
    fn new() -> Self {
        let plenty = msat(1_000_000);
        let policy =
            Policy { per_hour: plenty, per_day: plenty, fee_base: Msat::ZERO, fee_ppm: 0, ..policy() };
        Self { payments: Payments::default(), policy, tip: NOW, paid: 0 }
    }

    fn preimage(number: u64) -> Preimage {
        let mut preimage = [7; 32];
        preimage[..8].copy_from_slice(&number.to_be_bytes());
        Preimage(preimage)
    }

    fn approve(&mut self, invoice: &Invoice) -> Result<(), Reject> {
        self.payments.approve(&self.policy, invoice, Source::Direct, self.tip, |_| false)
    }

    /// Pays the next toll, by an invoice that was made now.
    fn pay(&mut self, amount: Msat, lasting: u64) -> Result<Invoice, Reject> {
        let preimage = Self::preimage(self.paid);
        let invoice = invoice_as(preimage.hash(), self.tip.time, lasting, PAYEE, amount.get());
        self.approve(&invoice)?;
        let (payment_hash, expiry) = (preimage.hash(), self.tip.height + 100);
        let htlc = Htlc { offered_by: Side::Holder, amount, payment_hash, expiry };
        self.payments.offer(&self.policy, &htlc, self.tip)?;
        self.payments.learn(&[preimage]);
        self.paid += 1;
        Ok(invoice)
    }

    fn size(&self) -> usize {
        postcard::to_stdvec(&self.payments).unwrap().len()
    }
}

/// A toll every 20 seconds, each by an invoice that is good for a day.
#[test]
fn as_many_payments_a_day_as_the_amounts_allow_in_bounded_room() {
    let mut road = Road::new();
    let first = road.pay(msat(100), 86_400).unwrap();
    for _ in 1..4_000 {
        road.tip.time += 20;
        road.pay(msat(100), 86_400).unwrap();
    }
    assert!(road.size() < 64 * 1_024, "{} bytes", road.size());
    // What was paid is not paid again: neither what is remembered …
    let newest = invoice_as(Road::preimage(3_999).hash(), road.tip.time, 86_400, PAYEE, 100_000);
    assert_eq!(road.approve(&newest), Err(Reject::HashUsed));
    // … nor what is not.
    let refused = road.approve(&first).unwrap_err();
    assert_eq!(refused.rule(), "invoice-not-paid", "{refused}");
}

/// One payee makes invoices that are good for years, and dates them as it likes: what comes after, of others, is paid all the same.
#[test]
fn invoices_that_last_for_years_and_come_from_the_future_keep_no_others_out() {
    for ahead in [0, 14_400, 2 * YEAR] {
        let mut road = Road::new();
        let mut taken = 0;
        for _ in 0..2_000 {
            road.tip.time += 20;
            let preimage = Road::preimage(road.paid);
            let dated = invoice_as(preimage.hash(), road.tip.time + ahead, YEAR, PAYEE, 1_000);
            match road.approve(&dated) {
                Ok(()) => {
                    road.payments.learn(&[preimage]);
                    (taken, road.paid) = (taken + 1, road.paid + 1);
                }
                Err(refused) => assert_eq!(refused.rule(), "invoice-ahead", "{refused}"),
            }
        }
        assert_eq!(taken, if ahead > 14_400 { 100 } else { 2_000 });
        road.tip.time += 14_400;
        for _ in 0..2_000 {
            road.tip.time += 20;
            road.pay(msat(10), 60).unwrap();
        }
    }
}

/// However payments fall, no window has more than its limit; and what an exact account would still allow is refused for five minutes at most.
#[test]
fn limits_hold_to_the_millisatoshi_when_payments_are_summed_up() {
    let mut road = Road::new();
    (road.policy.per_hour, road.policy.per_day) = (msat(3_000), msat(20_000));
    let mut exact: Vec<(u64, u64)> = Vec::new();
    let spent = |exact: &[(u64, u64)], after: u64| -> u64 {
        exact.iter().filter(|(at, _)| *at > after).map(|(_, amount)| amount).sum()
    };
    let (mut seed, mut refusals) = (1_u64, 0);
    for _ in 0..6_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        road.tip.time += (seed >> 33) % 60;
        let amount = 10_000 + (seed >> 40) % 30_000;
        let now = road.tip.time;
        let would = |window: u64| spent(&exact, now - window) + amount;
        let (hour, day) = (would(3_600), would(86_400));
        match road.pay(Msat::new(amount), 600) {
            Ok(_) => {
                assert!(hour <= 3_000_000 && day <= 20_000_000, "{hour} {day}");
                exact.push((now, amount));
            }
            Err(refused) => {
                assert_eq!(refused.rule(), "payment-velocity", "{refused}");
                let (hour, day) = (would(3_600 + 300), would(86_400 + 300));
                assert!(hour > 3_000_000 || day > 20_000_000, "{hour} {day}");
                refusals += 1;
            }
        }
    }
    assert!(refusals > 100 && exact.len() > 1_000, "{refusals} of {}", exact.len());
}

/// Six blocks may take hours, and so the chain's clock be as far behind: what an honest payee makes meanwhile is not from the future.
#[test]
fn invoices_made_now_are_taken_when_the_newest_blocks_are_hours_behind() {
    let mut road = Road::new();
    let now = road.tip.time + 9_000;
    for number in 0..101 {
        let made_now = invoice_as(Road::preimage(number).hash(), now, 3_600, PAYEE, 1_000);
        road.approve(&made_now).unwrap();
        road.approve(&made_now).unwrap();
    }
}

/// A payee signs an invoice anew, of the same hash and end and with a later date.
#[test]
fn a_retry_with_a_later_date_is_one_more_from_the_future() {
    let mut road = Road::new();
    let hash = |number| Road::preimage(number).hash();
    let ends_at = road.tip.time + 3 * YEAR;
    let dated = |number, made_at| invoice_as(hash(number), made_at, ends_at - made_at, PAYEE, 1_000);
    let (now, ahead) = (road.tip.time, road.tip.time + YEAR);
    for number in 0..100 {
        road.approve(&dated(number, ahead)).unwrap();
    }
    road.approve(&dated(100, now)).unwrap();
    let refused = road.approve(&dated(100, ahead)).unwrap_err();
    assert_eq!(refused.rule(), "invoice-ahead", "{refused}");
    // One of the hundred is no further one.
    road.approve(&dated(0, ahead + 1)).unwrap();
}

/// … or with an earlier one, and keeps the one of before.
#[test]
fn a_retry_with_an_earlier_date_is_not_forgotten_before_the_later_one() {
    let mut road = Road::new();
    let preimage = Road::preimage(9_999);
    let ends_at = road.tip.time + YEAR;
    let dated = |made_at| invoice_as(preimage.hash(), made_at, ends_at - made_at, PAYEE, 1_000);
    let later = dated(road.tip.time + 14_000);
    road.approve(&later).unwrap();
    road.approve(&dated(road.tip.time)).unwrap();
    road.payments.learn(&[preimage]);
    for _ in 0..1_200 {
        road.tip.time += 1;
        road.pay(msat(10), YEAR).unwrap();
    }
    assert_eq!(road.approve(&later).unwrap_err().rule(), "invoice-not-paid");
}

/// Before, it was not written down when an invoice was made.
#[test]
fn what_was_approved_before_dates_were_kept_is_not_from_the_future() {
    let mut road = Road::new();
    let (amount, none, now) = (Msat::new(1_000), None::<Msat>, road.tip.time);
    let former = |number: u64| {
        let times = (now + 2 * YEAR, public(PAYEE), Source::Direct, now);
        (Road::preimage(number).hash(), amount, Msat::ZERO, times, none, Some(Road::preimage(number)))
    };
    let former: Vec<_> = (0..200).map(former).collect();
    let former = postcard::to_stdvec(&former).unwrap();
    road.payments = postcard::from_bytes::<FormerPayments>(&former).unwrap().into();
    let ahead = invoice_as(Road::preimage(200).hash(), now + YEAR, YEAR, PAYEE, 1_000);
    road.approve(&ahead).unwrap();
    let again = invoice_as(Road::preimage(0).hash(), now, 2 * YEAR, PAYEE, 1_000);
    assert_eq!(road.approve(&again), Err(Reject::HashUsed));
}

/// The device was asked again for what is under way, and sums up what was paid meanwhile. What it approved before still fits.
#[test]
fn what_left_a_limit_does_not_come_back_into_it() {
    let mut road = Road::new();
    road.policy.per_hour = msat(1_000);
    for _ in 0..33 {
        road.pay(msat(10), 600).unwrap();
    }
    road.tip.time += 3_601;
    // The last one is still in a state, so nothing is summed up yet. As much as there is room for, counted one way or the other.
    let (last, next) = (Road::preimage(32).hash(), Road::preimage(33).hash());
    let next = [1_000, 670].map(|sat| invoice_as(next, road.tip.time, 600, PAYEE, msat(sat).get()));
    let Road { mut payments, policy, tip, .. } = road;
    let approve = |payments: &mut Payments, invoice: &Invoice, live: PaymentHash| {
        payments.approve(&policy, invoice, Source::Direct, tip, |hash| *hash == live)
    };
    let next = next.iter().find(|next| approve(&mut payments, next, last).is_ok()).unwrap();
    // Now it is not, and another is asked for again that is.
    approve(&mut payments, next, next.payment_hash()).unwrap();
    let (amount, payment_hash) = (next.amount(), next.payment_hash());
    let htlc = Htlc { offered_by: Side::Holder, amount, payment_hash, expiry: tip.height + 100 };
    payments.offer(&policy, &htlc, tip).unwrap();
}
