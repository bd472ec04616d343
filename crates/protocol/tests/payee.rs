//! The payee and the payer: what it accepts, and what it refuses with which numbers, in each state.

mod common;

use bitcoin::{Amount, FeeRate};
use common::payee_story::*;
use common::*;
use farthing_protocol::channel::Expiry;
use farthing_protocol::closing::{BadSettlement, Settlement};
use farthing_protocol::commitment::WrongSignature;
use farthing_protocol::opening::Refusal;
use farthing_protocol::payee::{self, Effect, Input, Reject};
use farthing_protocol::{Msat, Payment, commitment};

// Opening.

#[test]
fn it_accepts_only_what_the_payer_signed_for_this_channel() {
    let setup = payee_setup();
    let (state, effects) = commit(payee::accept(&setup, &opening_signature()).unwrap());
    assert_eq!(effects, [payee::acceptance(&setup)]);
    assert_eq!(state.name(), "awaiting depth");

    let other = payee::Setup { channel: channel_with(|p| p.expiry = Expiry::at_height(EXPIRY + 1)), ..setup };
    assert_eq!(payee::accept(&other, &opening_signature()).unwrap_err(), Refusal::Signature);
    let Effect::Accept(by_payee) = payee::acceptance(&payee_setup()) else { panic!("an acceptance") };
    assert_eq!(payee::accept(&payee_setup(), &by_payee).unwrap_err(), Refusal::Signature);
}

// Charging.

#[test]
fn the_first_payment_must_be_worth_claiming() {
    let mut payee = Payee::open();
    let got = Msat::new(599_999);
    assert_eq!(
        payee.refuses(charge(Some(payment(got)), Msat::new(1))),
        Reject::FirstTooSmall { least: sat(600), got }
    );
    assert_eq!(payee.takes(charge(Some(payment(sat(600))), Msat::new(1))), served(Msat::new(1)));
    assert_eq!(payee.paid_and_spent(), (sat(600), Msat::new(1)));
    // Later ones may be as small as they like.
    payee.takes(charge(Some(payment(Msat::new(600_001))), Msat::ZERO));
    assert_eq!(payee.paid_and_spent(), (Msat::new(600_001), Msat::new(1)));
}

#[test]
fn a_total_that_is_lower_or_repeated_pays_nothing_ahead() {
    let payee = Payee::with(sat(1_000), sat(100));
    for got in [sat(700), sat(1_000)] {
        let reject = payee.refuses(charge(Some(payment(got)), Msat::ZERO));
        assert_eq!(reject, Reject::NotIncreasing { paid: sat(1_000), got });
    }
}

#[test]
fn a_total_that_is_lower_or_repeated_is_not_needed_while_the_credit_lasts() {
    let mut payee = Payee::with(sat(1_000), sat(100));
    assert_eq!(payee.takes(charge(Some(payment(sat(700))), sat(400))), served(sat(400)));
    assert_eq!(payee.takes(charge(Some(payment(sat(1_000))), sat(400))), served(sat(400)));
    assert_eq!(payee.takes(charge(None, sat(100))), served(sat(100)));
    assert_eq!(payee.paid_and_spent(), (sat(1_000), sat(1_000)));
    let needed = Msat::new(1_000_001);
    for old in [None, Some(payment(sat(700))), Some(payment(sat(1_000)))] {
        let reject = payee.refuses(charge(old, Msat::new(1)));
        assert_eq!(reject, Reject::Unpaid { needed, paid: sat(1_000) });
    }
}

#[test]
fn nothing_above_the_capacity_is_taken() {
    let mut payee = Payee::with(sat(1_000), sat(100));
    let most = sat(99_592);
    for got in [Msat::new(99_592_001), Msat::new(u64::MAX)] {
        let reject = payee.refuses(charge(Some(payment(got)), Msat::ZERO));
        assert_eq!(reject, Reject::OverCapacity { most, got });
    }
    let overflow = payee.refuses(charge(None, Msat::new(u64::MAX)));
    assert_eq!(overflow, Reject::OverCapacity { most, got: Msat::new(u64::MAX) });
    payee.takes(charge(Some(payment(most)), sat(99_492)));
    assert_eq!(payee.paid_and_spent(), (most, most));
}

#[test]
fn a_signature_for_another_channel_or_total_or_by_another_key_is_refused() {
    let payee = Payee::with(sat(1_000), sat(100));
    let total = sat(2_000);
    let elsewhere = |change: fn(&mut farthing_protocol::Params)| {
        commitment::sign(&channel_with(change), &payer_keys(), total)
    };
    let forgeries = [
        Payment { total, ..payment(sat(1_999)) },
        Payment { total, ..payment(sat(2_001)) },
        commitment::sign(&channel(), &payee_keys(), total),
        elsewhere(|p| p.funding.vout = 1),
        elsewhere(|p| p.expiry = Expiry::at_height(EXPIRY + 1)),
        elsewhere(|p| p.capacity = Amount::from_sat(100_001)),
        elsewhere(|p| p.fee_rate = rate(3)),
        elsewhere(|p| p.payer.output = p.payee.output.clone()),
    ];
    for forged in forgeries {
        let reject = payee.refuses(charge(Some(forged), Msat::new(1)));
        assert_eq!(reject, Reject::WrongSignature(WrongSignature(total)));
    }
}

#[test]
fn a_payment_that_does_not_cover_the_cost_leaves_no_trace() {
    let mut payee = Payee::with(sat(1_000), sat(900));
    let reject = payee.refuses(charge(Some(payment(sat(1_050))), sat(151)));
    assert_eq!(reject, Reject::Unpaid { needed: sat(1_051), paid: sat(1_050) });
    assert_eq!(payee.paid_and_spent(), (sat(1_000), sat(900)));
    assert_eq!(payee.takes(charge(Some(payment(sat(1_050))), sat(150))), served(sat(150)));
}

#[test]
fn before_the_funding_is_deep_only_the_cap_is_sold() {
    let mut payee = Payee::awaiting_depth();
    let cap = Msat::ZERO;
    let nothing = payee.refuses(charge(Some(payment(sat(5_000))), Msat::new(1)));
    assert_eq!(nothing, Reject::NotDeepEnough { cap, got: Msat::new(1) }, "anybody can name a funding");
    payee.sees(TIP, unconfirmed());
    let cap = POLICY.unconfirmed_cap;
    let reject = payee.refuses(charge(Some(payment(sat(5_000))), Msat::new(1_000_001)));
    assert_eq!(reject, Reject::NotDeepEnough { cap, got: Msat::new(1_000_001) });
    assert_eq!(payee.takes(charge(Some(payment(sat(5_000))), sat(1_000))), served(sat(1_000)));
    let one_more = payee.refuses(charge(None, Msat::new(1)));
    assert_eq!(one_more, Reject::NotDeepEnough { cap, got: Msat::new(1_000_001) });
    payee.sees(TIP + 3, confirmed(POLICY.confirmations));
    assert_eq!(payee.takes(charge(None, sat(4_000))), served(sat(4_000)));
}

#[test]
fn the_same_refusals_hold_before_the_funding_is_deep() {
    let payee = Payee::awaiting_depth();
    let got = sat(599);
    let first = payee.refuses(charge(Some(payment(got)), Msat::ZERO));
    assert_eq!(first, Reject::FirstTooSmall { least: sat(600), got });
    let forged = Payment { total: sat(700), ..payment(sat(701)) };
    let wrong = payee.refuses(charge(Some(forged), Msat::ZERO));
    assert_eq!(wrong, Reject::WrongSignature(WrongSignature(sat(700))));
    let unpaid = payee.refuses(charge(None, sat(1)));
    assert_eq!(unpaid, Reject::Unpaid { needed: sat(1), paid: Msat::ZERO });
}

#[test]
fn closing_and_closed_channels_charge_nothing() {
    let closing = [
        (Payee::closing_together(), "closing"),
        (Payee::closing_alone(), "closing alone"),
        (Payee::closed(), "closed"),
    ];
    for (payee, name) in closing {
        for payment in [None, Some(payment(sat(60_000)))] {
            assert_eq!(payee.refuses(charge(payment, sat(1))), Reject::NotOpen(name));
            assert_eq!(payee.refuses(charge(payment, Msat::ZERO)), Reject::NotOpen(name));
        }
        assert_eq!(payee.paid_and_spent(), (sat(50_000), sat(40_000)));
    }
}

// Settling.

#[test]
fn it_signs_no_closing_below_what_was_spent() {
    let mut payee = Payee::with(sat(50_000), Msat::new(40_000_999));
    let [due, got] = [40_000, 39_999].map(Amount::from_sat);
    assert_eq!(payee.refuses(settle(settlement(39_999))), Reject::Underpaid { due, got });
    assert_eq!(payee.takes(settle(settlement(40_000))), [Effect::Cosign(settlement(40_000))]);
    // Neither later, when a closing is agreed on already.
    assert_eq!(payee.refuses(settle(settlement(39_999))), Reject::Underpaid { due, got });
}

#[test]
fn what_was_spent_is_never_settled_below_dust_and_what_was_not_spent_goes_back() {
    let mut payee = Payee::with(sat(600), Msat::new(1));
    let [due, got] = [330, 329].map(Amount::from_sat);
    assert_eq!(payee.refuses(settle(settlement(329))), Reject::Underpaid { due, got });
    payee.takes(settle(settlement(330)));

    let mut unspent = Payee::with(sat(50_000), Msat::ZERO);
    assert_eq!(unspent.takes(settle(settlement(0))), [Effect::Cosign(settlement(0))]);
    let mut unpaid = Payee::awaiting_depth();
    assert_eq!(unpaid.takes(settle(settlement(0))), [Effect::Cosign(settlement(0))]);
}

#[test]
fn it_signs_no_closing_that_would_not_confirm_or_pays_out_too_much() {
    let payee = Payee::with(sat(50_000), sat(40_000));
    let cheap = Settlement { fee_rate: FeeRate::from_sat_per_kwu(499), ..settlement(40_000) };
    assert_eq!(payee.refuses(settle(cheap)), Reject::FeeTooLow { least: 500, got: 499 });

    let capacity = Amount::from_sat(100_000);
    for (settlement, fee) in [
        (settlement(99_693), Amount::from_sat(308)),
        (settlement(u64::MAX), Amount::from_sat(308)),
        (Settlement { fee_rate: FeeRate::MAX, ..settlement(40_000) }, Amount::MAX),
    ] {
        let over = BadSettlement::OverCapacity { capacity, to_payee: settlement.to_payee, fee };
        assert_eq!(payee.refuses(settle(settlement)), Reject::BadSettlement(over));
    }
}

#[test]
fn a_closing_may_be_asked_for_again_the_same_or_better() {
    let mut payee = Payee::closing_together();
    let dearer = Settlement { fee_rate: rate(9), ..settlement(40_000) };
    for again in [settlement(40_000), dearer, settlement(41_000)] {
        assert_eq!(payee.takes(settle(again)), [Effect::Cosign(again)]);
        assert_eq!(state_of(&payee), "closing");
    }
    // The newest is the agreed one.
    let agreed = closing_of(&settlement(41_000));
    payee.refuses(Input::Settled { transaction: closing_of(&dearer) });
    assert_eq!(payee.takes(Input::Settled { transaction: agreed.clone() }), [Effect::Broadcast(agreed)]);
}

#[test]
fn it_settles_no_more_once_it_closes_alone() {
    for (payee, name) in [(Payee::closing_alone(), "closing alone"), (Payee::closed(), "closed")] {
        assert_eq!(payee.refuses(settle(settlement(40_000))), Reject::NotOpen(name));
    }
}

#[test]
fn only_the_agreed_closing_completely_signed_is_taken() {
    let mut payee = Payee::closing_together();
    let agreed = closing_of(&settlement(40_000));
    let change = |change: fn(&mut bitcoin::Transaction)| {
        let mut transaction = agreed.clone();
        change(&mut transaction);
        transaction
    };
    let wrong = [
        change(|t| t.input[0].witness.clear()),
        change(|t| t.input[0].witness = vec![vec![0; 64]].into()),
        change(|t| t.input[0].witness.push([0])),
        change(|t| t.output[0].value -= Amount::from_sat(1)),
        change(|t| t.input.clear()),
        closing_of(&settlement(41_000)),
        commitment_to(sat(40_000)),
    ];
    for transaction in wrong {
        assert_eq!(payee.refuses(Input::Settled { transaction }), Reject::WrongClosing);
    }
    let broadcast = [Effect::Broadcast(agreed.clone())];
    assert_eq!(payee.takes(Input::Settled { transaction: agreed.clone() }), broadcast);
    assert_eq!(payee.state.resume(&payee.setup), broadcast);
}

#[test]
fn a_closing_that_nobody_agreed_on_is_refused() {
    let transaction = closing_of(&settlement(40_000));
    for payee in [Payee::awaiting_depth(), Payee::open(), Payee::closing_alone(), Payee::closed()] {
        let reject = payee.refuses(Input::Settled { transaction: transaction.clone() });
        assert_eq!(reject, Reject::WrongClosing);
    }
}
