//! The payee and the chain: when it opens, closes and is done, and what a restart repeats.

mod common;

use bitcoin::{Amount, FeeRate, ScriptBuf, TxOut};
use common::payee_story::*;
use common::*;
use farthing_protocol::channel::{Ending, SpendKind};
use farthing_protocol::payee::{Effect, Input, Reject, State};
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, Msat};

#[test]
fn a_funding_of_another_amount_or_script_is_no_funding() {
    let good = channel().funding_txout();
    let less = TxOut { value: good.value - Amount::from_sat(1), ..good.clone() };
    let elsewhere = TxOut { script_pubkey: ScriptBuf::new(), ..good };
    for output in [less, elsewhere] {
        for funding in [
            Funding::Unconfirmed(output.clone()),
            Funding::Confirmed { output: output.clone(), confirmations: 9 },
        ] {
            let mut payee = Payee::awaiting_depth();
            assert_eq!(payee.sees(TIP, funding), []);
            assert!(matches!(&payee.state, State::Closed(closed) if closed.ending.is_none()));
        }
    }
}

#[test]
fn it_opens_when_the_funding_is_deep_and_steps_back_when_it_is_reorganised_away() {
    let mut payee = Payee::awaiting_depth();
    let looks = [
        (Funding::Unseen, "awaiting depth"),
        (unconfirmed(), "awaiting depth"),
        (confirmed(2), "awaiting depth"),
        (confirmed(3), "open"),
        (confirmed(2), "awaiting depth"),
        (confirmed(4), "open"),
        (unconfirmed(), "awaiting depth"),
        (confirmed(3), "open"),
        (Funding::Unseen, "awaiting depth"),
    ];
    for (funding, state) in looks {
        assert_eq!(payee.sees(TIP, funding), []);
        assert_eq!(state_of(&payee), state);
    }
}

#[test]
fn it_knows_whether_anybody_has_funded_it() {
    let mut payee = Payee::awaiting_depth();
    assert!(payee.state.is_unfunded());
    for (funding, unfunded) in [
        (unconfirmed(), false),
        (Funding::Unseen, true),
        (confirmed(1), false),
        (confirmed(3), false),
        (Funding::Unseen, true),
    ] {
        payee.sees(TIP, funding);
        assert_eq!(payee.state.is_unfunded(), unfunded);
    }
    payee.sees(TIP, confirmed(1));
    payee.takes(charge(Some(payment(sat(600))), sat(1)));
    assert!(!payee.state.is_unfunded(), "a sale does not change that");
    for payee in [Payee::open(), Payee::closing_together(), Payee::closing_alone(), Payee::closed()] {
        assert!(!payee.state.is_unfunded());
    }
}

#[test]
fn a_reorganisation_keeps_what_was_paid_and_brings_the_cap_back() {
    let mut payee = Payee::with(sat(50_000), sat(40_000));
    payee.sees(TIP, unconfirmed());
    assert_eq!(payee.paid_and_spent(), (sat(50_000), sat(40_000)));
    let reject = payee.refuses(charge(None, sat(1)));
    assert_eq!(reject, Reject::NotDeepEnough { cap: POLICY.unconfirmed_cap, got: sat(40_001) });
    payee.sees(TIP + 4, confirmed(3));
    assert_eq!(payee.takes(charge(None, sat(1))), served(sat(1)));
}

#[test]
fn it_publishes_its_newest_commitment_when_the_margin_is_reached() {
    for confirmations in [1, 500] {
        let mut payee = Payee::with(sat(50_000), sat(40_000));
        payee.takes(charge(Some(payment(sat(60_000))), Msat::ZERO));
        assert_eq!(payee.sees(EXPIRY - 37, confirmed(500)), []);
        assert_eq!(state_of(&payee), "open");
        assert_eq!(payee.sees(EXPIRY - 36, confirmed(confirmations)), published(sat(60_000)));
        assert_eq!(state_of(&payee), "closing alone");
        assert_valid(&payee.setup.channel, &commitment_to(sat(60_000)));
    }
}

#[test]
fn without_a_payment_there_is_nothing_to_claim() {
    let closes: [fn(&mut Payee) -> Vec<Effect>; 3] = [
        |payee| payee.takes(Input::Close),
        |payee| payee.sees(EXPIRY - 36, confirmed(500)),
        |payee| payee.sees(TIP, spent(&refund_at(rate(2)), 0)),
    ];
    for close in closes {
        let mut payee = Payee::open();
        assert_eq!(close(&mut payee), []);
        assert!(matches!(&payee.state, State::Closed(closed) if closed.ending.is_none()));
    }
}

#[test]
fn a_funding_that_never_came_ends_at_the_expiry() {
    for funding in [Funding::Unseen, unconfirmed()] {
        let mut payee = Payee::awaiting_depth();
        payee.sees(EXPIRY - 1, funding.clone());
        assert_eq!(state_of(&payee), "awaiting depth");
        assert_eq!(payee.sees(EXPIRY, funding), []);
        assert_eq!(state_of(&payee), "closed");
    }
}

/// A claim is not forgotten because a reorganisation took the funding for a while.
#[test]
fn a_funding_that_is_lost_at_the_expiry_is_claimed_until_it_is_hopeless() {
    let mut payee = Payee::with(sat(50_000), sat(40_000));
    assert_eq!(payee.sees(EXPIRY, Funding::Unseen), published(sat(50_000)));
    assert_eq!(payee.sees(EXPIRY + POLICY.finality - 1, Funding::Unseen), published(sat(50_000)));
    assert_eq!(payee.sees(EXPIRY + POLICY.finality, unconfirmed()), published(sat(50_000)));
    assert_eq!(payee.sees(EXPIRY + POLICY.finality, Funding::Unseen), []);
    assert_eq!(state_of(&payee), "closed");
}

#[test]
fn an_absent_payer_gets_the_agreed_patience_and_then_the_commitment() {
    let mut payee = Payee::closing_together();
    assert_eq!(payee.sees(TIP + 5, confirmed(9)), []);
    assert_eq!(state_of(&payee), "closing");
    assert_eq!(payee.sees(TIP + 6, confirmed(9)), published(sat(50_000)));
    assert_eq!(state_of(&payee), "closing alone");
}

#[test]
fn a_closing_that_was_handed_over_is_broadcast_until_the_patience_is_over() {
    let mut payee = Payee::closing_together();
    let agreed = closing_of(&settlement(40_000));
    payee.takes(Input::Settled { transaction: agreed.clone() });
    assert_eq!(payee.sees(TIP + 5, confirmed(9)), [Effect::Broadcast(agreed)]);
    assert_eq!(payee.sees(TIP + 6, confirmed(9)), published(sat(50_000)));
}

#[test]
fn the_margin_ends_all_patience() {
    let mut payee = Payee::with(sat(50_000), sat(40_000));
    payee.takes(Input::Settle { settlement: settlement(40_000), height: EXPIRY - 37 });
    assert_eq!(payee.sees(EXPIRY - 37, confirmed(500)), []);
    assert_eq!(payee.sees(EXPIRY - 36, confirmed(500)), published(sat(50_000)));
}

#[test]
fn a_patience_that_overflows_ends_at_the_margin() {
    let mut payee = Payee::with(sat(50_000), sat(40_000));
    payee.takes(Input::Settle { settlement: settlement(40_000), height: u32::MAX });
    assert_eq!(payee.sees(EXPIRY - 36, confirmed(500)), published(sat(50_000)));
}

#[test]
fn when_the_payer_vanishes_without_having_paid_a_closing_ends_with_nothing() {
    let mut payee = Payee::open();
    payee.takes(settle(settlement(0)));
    assert_eq!(payee.sees(TIP + 6, confirmed(9)), []);
    assert!(matches!(&payee.state, State::Closed(closed) if closed.ending.is_none()));
}

#[test]
fn an_agreed_closing_ends_the_channel_when_it_is_final() {
    let mut payee = Payee::closing_together();
    let closing = closing_of(&settlement(40_000));
    assert_valid(&payee.setup.channel, &closing);
    for confirmations in [0, 1, POLICY.finality - 1] {
        assert_eq!(payee.sees(TIP + confirmations, spent(&closing, confirmations)), []);
        assert_eq!(state_of(&payee), "closing");
    }
    payee.sees(TIP + 6, spent(&closing, POLICY.finality));
    let (kind, received) = (SpendKind::Closing, Amount::from_sat(40_000));
    let ending = Ending { kind, txid: closing.compute_txid(), received, left: Amount::ZERO };
    assert!(matches!(&payee.state, State::Closed(closed) if closed.ending == Some(ending)));
}

/// A look at the agreed closing in the mempool, while that fee rate confirms.
fn waiting_closing(height: u32, fee_rate: FeeRate) -> Input {
    let funding = spent(&closing_of(&settlement(40_000)), 0);
    Input::Sighted(Sighting { height, fee_rate, funding, locked: Vec::new() })
}

#[test]
fn an_agreed_closing_that_waits_for_a_block_gives_way_to_the_commitment_at_the_margin() {
    for present in [rate(1), rate(2), rate(300)] {
        let mut payee = Payee::closing_together();
        assert_eq!(payee.takes(waiting_closing(EXPIRY - 37, present)), []);
        assert_eq!(payee.takes(waiting_closing(EXPIRY - 36, present)), published(sat(50_000)));
    }
}

/// A payer that asks again and again cannot hold the payee until the expiry.
#[test]
fn asking_for_the_closing_again_gains_no_time() {
    let mut payee = Payee::closing_together();
    let again = Input::Settle { settlement: settlement(40_000), height: TIP + 5 };
    assert_eq!(payee.takes(again), [Effect::Cosign(settlement(40_000))]);
    assert_eq!(payee.sees(TIP + 6, confirmed(20)), published(sat(50_000)));
}

#[test]
fn an_annex_does_not_make_a_refund_a_closing() {
    let mut refund = refund_at(rate(2));
    refund.input[0].witness.push([0x50]);
    let mut payee = Payee::closing_together();
    assert_eq!(payee.sees(EXPIRY - 40, spent(&refund, 0)), published(sat(50_000)));
}

#[test]
fn an_agreed_closing_that_is_reorganised_away_gives_way_to_the_commitment() {
    let mut payee = Payee::closing_together();
    payee.sees(TIP + 2, spent(&closing_of(&settlement(40_000)), 2));
    assert_eq!(payee.sees(TIP + 6, confirmed(20)), published(sat(50_000)));
}

#[test]
fn a_refund_in_the_way_of_an_agreed_closing_is_answered_with_the_commitment() {
    let mut payee = Payee::closing_together();
    assert_eq!(payee.sees(EXPIRY, spent(&refund_at(rate(2)), 0)), published(sat(50_000)));
}

#[test]
fn a_spend_while_open_is_answered_with_the_commitment_until_it_is_final() {
    let refund = refund_at(rate(2));
    let mut payee = Payee::with(sat(50_000), sat(40_000));
    for confirmations in [0, 1, POLICY.finality - 1] {
        let effects = payee.sees(EXPIRY + confirmations, spent(&refund, confirmations));
        assert_eq!(effects, published(sat(50_000)));
        assert_eq!(state_of(&payee), "closing alone");
    }
    assert_eq!(payee.sees(EXPIRY + 6, spent(&refund, POLICY.finality)), []);
    let (kind, received) = (SpendKind::Refund, Amount::ZERO);
    let ending = Ending { kind, txid: refund.compute_txid(), received, left: Amount::ZERO };
    assert!(matches!(&payee.state, State::Closed(closed) if closed.ending == Some(ending)));
}

#[test]
fn a_spend_that_is_final_when_first_seen_closes_at_once() {
    let commitment = commitment_to(sat(50_000));
    for mut payee in
        [Payee::with(sat(50_000), sat(40_000)), Payee::closing_together(), Payee::closing_alone()]
    {
        assert_eq!(payee.sees(TIP + 9, spent(&commitment, POLICY.finality)), []);
        let (kind, received) = (SpendKind::Commitment, Amount::from_sat(50_000));
        let ending = Ending { kind, txid: commitment.compute_txid(), received, left: Amount::ZERO };
        assert!(matches!(&payee.state, State::Closed(closed) if closed.ending == Some(ending)));
    }
}

#[test]
fn closing_alone_publishes_at_every_look_until_it_is_final() {
    let mut payee = Payee::closing_alone();
    let own = commitment_to(sat(50_000));
    for funding in
        [confirmed(9), spent(&own, 0), spent(&own, 5), confirmed(9), unconfirmed(), Funding::Unseen]
    {
        assert_eq!(payee.sees(TIP, funding), published(sat(50_000)));
        assert_eq!(state_of(&payee), "closing alone");
    }
}

#[test]
fn the_operator_may_close_in_every_state_and_twice() {
    for mut payee in [Payee::with(sat(50_000), sat(40_000)), Payee::closing_together()] {
        assert_eq!(payee.takes(Input::Close), published(sat(50_000)));
        assert_eq!(payee.takes(Input::Close), []);
        assert_eq!(state_of(&payee), "closing alone");
    }
    let mut shallow = Payee::awaiting_depth();
    shallow.sees(TIP, unconfirmed());
    shallow.takes(charge(Some(payment(sat(600))), sat(1)));
    assert_eq!(shallow.takes(Input::Close), published(sat(600)));
    let mut closed = Payee::closed();
    assert_eq!(closed.takes(Input::Close), []);
    assert_eq!(state_of(&closed), "closed");
}

#[test]
fn what_is_closed_stays_closed() {
    let mut payee = Payee::closed();
    let before = payee.state.clone();
    for funding in [Funding::Unseen, confirmed(9), spent(&refund_at(rate(2)), 9)] {
        assert_eq!(payee.sees(EXPIRY, funding), []);
        assert_eq!(payee.state, before);
    }
}

// Restarting.

#[test]
fn a_restart_repeats_what_each_state_needs() {
    let mut handed_over = Payee::closing_together();
    let agreed = closing_of(&settlement(40_000));
    handed_over.takes(Input::Settled { transaction: agreed.clone() });
    let states = [
        (Payee::awaiting_depth(), vec![]),
        (Payee::with(sat(50_000), sat(40_000)), vec![]),
        // No closing signature: it is made afresh when the payer asks again.
        (Payee::closing_together(), vec![]),
        (handed_over, vec![Effect::Broadcast(agreed)]),
        (Payee::closing_alone(), published(sat(50_000))),
        (Payee::closed(), vec![]),
    ];
    for (payee, effects) in states {
        assert_eq!(payee.state.resume(&payee.setup), effects, "{}", state_of(&payee));
    }
}

#[test]
fn what_is_published_pays_the_payee_everything_and_is_valid() {
    let mut payee = Payee::open();
    for msat in [600_000, 600_001, 50_000_999, 99_262_000, 99_262_001, 99_592_000] {
        payee.takes(charge(Some(payment(Msat::new(msat))), Msat::ZERO));
        let (_, effects) = commit(payee.state.handle(&payee.setup, Input::Close).unwrap());
        let [Effect::Publish(publication)] = effects.as_slice() else { panic!("a commitment") };
        let commitment = &publication.commitment;
        assert_valid(&payee.setup.channel, commitment);
        let to_payee = Channel::paid_to(commitment, &payee.setup.channel.params().payee);
        assert_eq!(to_payee, Amount::from_sat(msat / 1_000));
    }
}
