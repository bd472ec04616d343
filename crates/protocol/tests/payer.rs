//! The payer and the payee: what it signs, what it refuses with which numbers, and how it closes.

mod common;

use bitcoin::FeeRate;
use common::payer_story::*;
use common::*;
use farthing_protocol::channel::Expiry;
use farthing_protocol::closing::Settlement;
use farthing_protocol::payer::{self, Effect, Input, Reject};
use farthing_protocol::{Msat, closing, commitment, payee};

// Opening.

#[test]
fn it_proposes_what_a_payee_accepts_and_keeps_the_funding_back() {
    let (state, effects) = commit(payer::propose(&payer_setup()));
    assert_eq!(state.name(), "awaiting acceptance");
    let [Effect::Propose(opening)] = effects.as_slice() else { panic!("only a proposal: {effects:?}") };
    assert_eq!(opening.params, params());
    assert!(payee::accept(&payee_setup(), &opening.signature).is_ok());
}

#[test]
fn a_refusal_frees_the_coins_for_good() {
    let mut payer = Payer::awaiting_acceptance();
    assert_eq!(payer.takes(Input::Refused), [Effect::ReleaseCoins]);
    assert_eq!(state_of(&payer), "abandoned");
    // An acceptance comes too late: the coins may be spent elsewhere.
    assert_eq!(payer.takes(Input::Accepted(acceptance())), []);
    assert_eq!(state_of(&payer), "abandoned");
}

#[test]
fn an_acceptance_counts_only_with_the_payees_signature_on_this_channel() {
    let payer = Payer::awaiting_acceptance();
    let elsewhere = payee::Setup {
        channel: channel_with(|params| params.expiry = Expiry::at_height(EXPIRY + 1)),
        ..payee_setup()
    };
    let payee::Effect::Accept(other_channel) = payee::acceptance(&elsewhere) else { panic!("an acceptance") };
    let impostor = payee::Setup { keys: payer_keys(), ..payee_setup() };
    let payee::Effect::Accept(other_key) = payee::acceptance(&impostor) else { panic!("an acceptance") };
    let Effect::Propose(own) = payer.state.resume(&payer.setup).remove(0) else { panic!("a proposal") };
    for wrong in [other_channel, other_key, own.signature] {
        assert_eq!(payer.refuses(Input::Accepted(wrong)), Reject::WrongAcceptance);
    }
}

#[test]
fn the_funding_is_broadcast_once_the_payee_has_accepted() {
    let mut payer = Payer::awaiting_acceptance();
    assert_eq!(payer.takes(Input::Accepted(acceptance())), broadcast(&funding()));
    assert_eq!(state_of(&payer), "awaiting funding");
    // A second acceptance says nothing new, and a refusal comes too late.
    assert_eq!(payer.takes(Input::Accepted(acceptance())), []);
    assert_eq!(payer.takes(Input::Refused), []);
    assert_eq!(state_of(&payer), "awaiting funding");
}

// Buying.

#[test]
fn the_first_payment_prepays_and_the_credit_is_used_first() {
    let mut payer = Payer::awaiting_funding();
    assert_eq!(payer.buys(Msat::new(1)), paid(sat(600)));
    assert_eq!(payer.buys(Msat::new(599_998)), paid(sat(600)));
    assert_eq!(payer.paid_and_spent(), (sat(600), Msat::new(599_999)));
    assert_eq!(payer.buys(Msat::new(2)), paid(Msat::new(600_001)));
    assert_eq!(payer.buys(sat(100)), paid(Msat::new(700_001)));
    assert_eq!(payer.paid_and_spent(), (Msat::new(700_001), Msat::new(700_001)));
}

#[test]
fn every_payment_is_signed_for_its_total() {
    let mut payer = Payer::open();
    for cost in [1, 600_000, 999, 98_000_000] {
        let [Effect::Pay(payment)] = payer.buys(Msat::new(cost))[..] else { panic!("a payment") };
        assert_eq!(commitment::verify(&payer.setup.channel, &payment), Ok(()));
        assert_eq!(payment.total, payer.state.ledger().paid());
    }
}

#[test]
fn it_buys_no_more_than_the_channel_can_pay() {
    let mut payer = Payer::with_spent();
    let most = sat(99_592);
    let got = Msat::new(99_592_001);
    let reject = payer.refuses(Input::Buy { cost: Msat::new(59_592_001) });
    assert_eq!(reject, Reject::OverCapacity { most, got });
    let overflow = payer.refuses(Input::Buy { cost: Msat::new(u64::MAX) });
    assert_eq!(overflow, Reject::OverCapacity { most, got: Msat::new(u64::MAX) });
    assert_eq!(payer.buys(sat(59_592)), paid(most));
    let reject = payer.refuses(Input::Buy { cost: Msat::new(1) });
    assert_eq!(reject, Reject::OverCapacity { most, got });
}

#[test]
fn nothing_is_bought_before_the_acceptance_or_after_the_end() {
    let states = [
        (Payer::awaiting_acceptance(), "awaiting acceptance"),
        (Payer::abandoned(), "abandoned"),
        (Payer::closing(), "closing"),
        (Payer::closing_complete(), "closing"),
        (Payer::refunding(), "refunding"),
        (Payer::closed(), "closed"),
    ];
    for (payer, name) in states {
        for cost in [Msat::ZERO, Msat::new(1)] {
            assert_eq!(payer.refuses(Input::Buy { cost }), Reject::NotOpen(name));
        }
    }
}

// Closing together.

#[test]
fn it_settles_what_it_bought_and_takes_the_rest_of_the_prepayment_back() {
    for (cost, to_payee) in [(1, 330), (500_999, 500), (700_000, 700)] {
        let mut payer = Payer::open();
        payer.buys(Msat::new(cost));
        let settlement = Settlement { fee_rate: rate(7), ..settlement(to_payee) };
        assert_eq!(payer.takes(close(rate(7))), [Effect::ProposeClosing(settlement)]);
        assert_eq!(state_of(&payer), "closing");
    }
    for mut nothing_bought in [Payer::awaiting_funding(), Payer::open()] {
        assert_eq!(nothing_bought.takes(close(rate(2))), [Effect::ProposeClosing(settlement(0))]);
    }
}

#[test]
fn it_offers_no_fee_rate_that_the_payee_refuses() {
    let mut payer = Payer::with_spent();
    assert_eq!(payer.takes(close(FeeRate::ZERO)), [Effect::ProposeClosing(settlement(40_000))]);
}

#[test]
fn it_never_burns_more_than_half_of_what_is_left_for_a_closing() {
    let mut payer = Payer::with_spent();
    let effects = payer.takes(close(rate(9_000)));
    let [Effect::ProposeClosing(settlement)] = effects.as_slice() else { panic!("{effects:?}") };
    let fee = settlement.fee_rate.checked_mul_by_weight(closing::WEIGHT).unwrap().to_sat();
    let left = 100_000 - 40_000;
    assert!(fee <= left / 2 && fee + 200 > left / 2, "{fee} of {left}");
}

#[test]
fn it_may_ask_again_at_another_fee_rate_until_the_closing_is_complete() {
    let mut payer = Payer::closing();
    let dearer = Settlement { fee_rate: rate(9), ..settlement(40_000) };
    assert_eq!(payer.takes(close(rate(9))), [Effect::ProposeClosing(dearer)]);
    payer.refuses(Input::Countersigned { transaction: closing_of(&settlement(40_000)) });
    let transaction = closing_of(&dearer);
    assert_eq!(
        payer.takes(Input::Countersigned { transaction: transaction.clone() }),
        broadcast(&transaction)
    );
    assert_eq!(payer.takes(close(rate(30))), broadcast(&transaction));
}

#[test]
fn a_closing_that_the_rest_does_not_pay_for_is_proposed_at_the_agreed_fee_rate() {
    let mut payer = Payer::open();
    payer.buys(sat(99_592));
    for wanted in [FeeRate::MAX, rate(3), rate(2)] {
        assert_eq!(payer.takes(close(wanted)), [Effect::ProposeClosing(settlement(99_592))]);
    }
}

#[test]
fn there_is_nothing_to_close_before_the_funding_and_after_the_expiry() {
    let states = [
        (Payer::awaiting_acceptance(), "awaiting acceptance"),
        (Payer::abandoned(), "abandoned"),
        (Payer::refunding(), "refunding"),
        (Payer::closed(), "closed"),
    ];
    for (payer, name) in states {
        assert_eq!(payer.refuses(close(rate(2))), Reject::NotOpen(name));
    }
}

#[test]
fn only_the_proposed_closing_completely_signed_is_taken() {
    let mut payer = Payer::closing();
    let proposed = closing_of(&settlement(40_000));
    let mut unsigned = proposed.clone();
    unsigned.input[0].witness.clear();
    let mut forged = proposed.clone();
    forged.input[0].witness = vec![vec![0; 64]].into();
    for transaction in [unsigned, forged, closing_of(&settlement(40_001)), commitment_to(sat(40_000))] {
        assert_eq!(payer.refuses(Input::Countersigned { transaction }), Reject::WrongClosing);
    }
    let done = payer.takes(Input::Countersigned { transaction: proposed.clone() });
    assert_eq!(done, broadcast(&proposed));
    assert_valid(&payer.setup.channel, &proposed);
}

#[test]
fn a_closing_that_it_did_not_propose_is_refused() {
    let transaction = closing_of(&settlement(40_000));
    let mut payee_closes = Payer::with_spent();
    payee_closes.sees(TIP, spent(&commitment_to(sat(40_000)), 0));
    let states = [
        Payer::awaiting_acceptance(),
        Payer::abandoned(),
        Payer::awaiting_funding(),
        Payer::with_spent(),
        payee_closes,
        Payer::refunding(),
        Payer::closed(),
    ];
    for payer in states {
        let reject = payer.refuses(Input::Countersigned { transaction: transaction.clone() });
        assert_eq!(reject, Reject::WrongClosing, "{}", state_of(&payer));
    }
}
