//! The payer and the chain: when it stops paying, how it gets its money back, and what a restart repeats.

mod common;

use bitcoin::{Amount, FeeRate, Transaction};
use common::payer_story::*;
use common::*;
use farthing_protocol::channel::{Ending, SpendKind};
use farthing_protocol::payer::{Effect, Input, Reject, State};
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, Msat};

/// A look at the unspent funding after the expiry, while that fee rate confirms.
fn expired(fee_rate: FeeRate) -> Input {
    Input::Sighted(Sighting { height: EXPIRY + 5, fee_rate, funding: confirmed(900), locked: Vec::new() })
}

fn assert_ending(payer: &Payer, kind: SpendKind, by: &Transaction, received: u64) {
    let ending =
        Ending { kind, txid: by.compute_txid(), received: Amount::from_sat(received), left: Amount::ZERO };
    assert!(matches!(&payer.state, State::Closed(closed) if closed.ending == ending), "{:?}", payer.state);
}

#[test]
fn it_opens_with_the_first_block_and_steps_back_when_the_funding_is_reorganised_away() {
    let mut payer = Payer::awaiting_funding();
    payer.buys(sat(1_000));
    let again = broadcast(&funding());
    let looks = [
        (Funding::Unseen, "awaiting funding", again.clone()),
        (unconfirmed(), "awaiting funding", again.clone()),
        (confirmed(1), "open", vec![]),
        (Funding::Unseen, "awaiting funding", again.clone()),
        (confirmed(3), "open", vec![]),
        (unconfirmed(), "awaiting funding", again),
    ];
    for (funding, state, effects) in looks {
        assert_eq!(payer.sees(TIP, funding), effects);
        assert_eq!(state_of(&payer), state);
        assert_eq!(payer.paid_and_spent(), (sat(1_000), sat(1_000)));
    }
}

#[test]
fn looks_at_the_chain_change_nothing_before_the_acceptance_and_after_the_end() {
    for mut payer in [Payer::awaiting_acceptance(), Payer::abandoned(), Payer::closed()] {
        let before = payer.state.clone();
        for funding in [Funding::Unseen, unconfirmed(), confirmed(9), spent(&refund_at(rate(2)), 9)] {
            assert_eq!(payer.sees(EXPIRY, funding), []);
            assert_eq!(payer.state, before);
        }
    }
}

#[test]
fn the_payees_commitment_stops_payments() {
    let own = commitment_to(sat(40_000));
    for mut payer in [Payer::with_spent(), Payer::awaiting_funding()] {
        assert_eq!(payer.sees(TIP, spent(&own, 0)), []);
        assert_eq!(payer.refuses(Input::Buy { cost: sat(1) }), Reject::NotOpen("closing"));
    }
}

#[test]
fn a_commitment_that_is_reorganised_away_resumes_no_payment_and_the_expiry_gives_all_back() {
    let mut payer = Payer::with_spent();
    payer.sees(TIP, spent(&commitment_to(sat(40_000)), 2));
    payer.sees(TIP + 1, confirmed(9));
    assert_eq!(payer.refuses(Input::Buy { cost: sat(1) }), Reject::NotOpen("closing"));
    assert_eq!(payer.sees(TIP + 2, Funding::Unseen), broadcast(&funding()));
    assert_eq!(payer.refuses(Input::Buy { cost: sat(1) }), Reject::NotOpen("closing"));
    assert_eq!(payer.sees(EXPIRY, confirmed(9)), broadcast(&refund_at(rate(2))));
    assert_eq!(state_of(&payer), "refunding");
}

#[test]
fn a_complete_closing_is_broadcast_until_it_is_seen_and_ends_when_final() {
    let mut payer = Payer::closing_complete();
    let closing = closing_of(&settlement(40_000));
    assert_eq!(payer.sees(TIP, confirmed(9)), broadcast(&closing));
    assert_eq!(payer.sees(TIP, spent(&closing, 0)), []);
    assert_eq!(payer.sees(TIP, spent(&closing, FINALITY - 1)), []);
    assert_eq!(state_of(&payer), "closing");
    assert_eq!(payer.sees(TIP + 6, spent(&closing, FINALITY)), []);
    assert_ending(&payer, SpendKind::Closing, &closing, 100_000 - 40_000 - 308);
}

#[test]
fn a_closing_that_nobody_answers_ends_in_a_refund() {
    let mut payer = Payer::closing();
    assert_eq!(payer.sees(EXPIRY - 1, confirmed(900)), []);
    assert_eq!(state_of(&payer), "closing");
    assert_eq!(payer.sees(EXPIRY, confirmed(901)), broadcast(&refund_at(rate(2))));
    assert_eq!(state_of(&payer), "refunding");
}

#[test]
fn the_payees_commitment_may_end_it_in_every_state() {
    let commitment = commitment_to(sat(40_000));
    let rest = 100_000 - 40_000 - 408;
    for mut payer in [Payer::with_spent(), Payer::closing(), Payer::closing_complete(), Payer::refunding()] {
        assert_eq!(payer.sees(TIP, spent(&commitment, FINALITY - 1)), []);
        assert!(!matches!(payer.state, State::Closed(_)));
        assert_eq!(payer.sees(TIP, spent(&commitment, FINALITY)), []);
        assert_ending(&payer, SpendKind::Commitment, &commitment, rest);
    }
}

#[test]
fn it_takes_everything_back_from_the_expiry_on_and_not_before() {
    for mut payer in [Payer::with_spent(), Payer::awaiting_funding(), Payer::closing_complete()] {
        payer.sees(EXPIRY - 1, confirmed(900));
        assert_ne!(state_of(&payer), "refunding");
        let [Effect::Broadcast(refund)] = &payer.sees(EXPIRY, confirmed(901))[..] else { panic!("a refund") };
        assert_valid(&payer.setup.channel, refund);
        assert_eq!(refund.lock_time.to_consensus_u32(), EXPIRY);
        let back = Channel::paid_to(refund, &payer.setup.channel.params().payer);
        assert_eq!(back, Amount::from_sat(100_000 - 276));
        payer.sees(EXPIRY + 5, spent(refund, FINALITY - 1));
        assert_eq!(state_of(&payer), "refunding");
        payer.sees(EXPIRY + 6, spent(refund, FINALITY));
        assert_ending(&payer, SpendKind::Refund, refund, 100_000 - 276);
    }
}

#[test]
fn a_refund_that_nobody_has_goes_out_at_the_rate_of_the_moment() {
    let kwu = FeeRate::from_sat_per_kwu;
    let mut payer = Payer::refunding();
    for now in [624, 5_000, 300] {
        assert_eq!(payer.takes(expired(kwu(now))), broadcast(&refund_at(kwu(now))));
        assert_eq!(payer.state.resume(&payer.setup), broadcast(&refund_at(kwu(now))));
    }
}

#[test]
fn a_refund_that_waits_is_replaced_only_when_fees_have_risen_by_a_quarter_and_by_one_sat_per_vbyte() {
    let kwu = FeeRate::from_sat_per_kwu;
    let mut payer = Payer::refunding();
    let mut waiting = refund_at(kwu(500));
    // Replacing takes 250 sat/kwu more at least, which is 1 sat/vB.
    for (now, is_replaced) in
        [(624, false), (749, false), (750, true), (999, false), (1_000, true), (1_249, false), (1_250, true)]
    {
        let funding = spent(&waiting, 0);
        let look = Sighting { height: EXPIRY + 5, fee_rate: kwu(now), funding, locked: Vec::new() };
        let expected = if is_replaced { broadcast(&refund_at(kwu(now))) } else { vec![] };
        assert_eq!(payer.takes(Input::Sighted(look)), expected, "at {now} sat/kwu");
        if is_replaced {
            waiting = refund_at(kwu(now));
        }
    }
}

#[test]
fn a_refund_that_waits_for_a_block_is_replaced_too_and_nobody_elses_spend_is() {
    let kwu = FeeRate::from_sat_per_kwu;
    let look = |by: &Transaction, confirmations| {
        let funding = spent(by, confirmations);
        Input::Sighted(Sighting { height: EXPIRY + 5, fee_rate: kwu(5_000), funding, locked: Vec::new() })
    };
    let (refund, commitment) = (refund_at(kwu(500)), commitment_to(sat(40_000)));
    assert_eq!(Payer::refunding().takes(look(&refund, 0)), broadcast(&refund_at(kwu(5_000))));
    assert_eq!(Payer::refunding().takes(look(&refund, 1)), []);
    assert_eq!(Payer::refunding().takes(look(&commitment, 0)), []);
}

#[test]
fn whatever_fees_are_half_of_the_capacity_comes_back() {
    for now in [FeeRate::from_sat_per_kwu(181_219), FeeRate::MAX] {
        let mut payer = Payer::with_spent();
        let refund = payer.takes(expired(now));
        let [Effect::Broadcast(refund)] = &refund[..] else { panic!("a refund") };
        assert!(refund.output[0].value >= Amount::from_sat(50_000));
        assert_eq!(payer.takes(expired(rate(2))), broadcast(&refund_at(rate(2))), "a spike is over again");
    }
}

#[test]
fn a_refund_needs_the_funding_in_the_chain() {
    let mut payer = Payer::refunding();
    for funding in [Funding::Unseen, unconfirmed()] {
        assert_eq!(payer.sees(EXPIRY + 1, funding), broadcast(&self::funding()));
        assert_eq!(state_of(&payer), "refunding");
    }
    assert_eq!(payer.sees(EXPIRY + 2, confirmed(1)), broadcast(&refund_at(rate(2))));
}

#[test]
fn a_restart_repeats_what_each_state_needs() {
    let mut payee_closes = Payer::with_spent();
    let commitment = commitment_to(sat(40_000));
    payee_closes.sees(TIP, spent(&commitment, 0));
    let proposal = commit(farthing_protocol::payer::propose(&payer_setup())).1;
    let states = [
        (Payer::awaiting_acceptance(), proposal),
        (Payer::abandoned(), vec![Effect::ReleaseCoins]),
        (Payer::awaiting_funding(), broadcast(&funding())),
        (Payer::with_spent(), vec![]),
        // A new round for the same settlement, never the old one again.
        (Payer::closing(), vec![Effect::ProposeClosing(settlement(40_000))]),
        (Payer::closing_complete(), broadcast(&closing_of(&settlement(40_000)))),
        // What the payee published is for the payee to repeat.
        (payee_closes, vec![]),
        (Payer::refunding(), broadcast(&refund_at(rate(2)))),
        (Payer::closed(), vec![]),
    ];
    for (payer, effects) in states {
        assert_eq!(payer.state.resume(&payer.setup), effects, "{}", state_of(&payer));
    }
}

#[test]
fn what_it_spent_is_never_more_than_what_it_paid() {
    let mut payer = Payer::awaiting_funding();
    for cost in [0, 1, 700_000, 999, 50_000_000, 0] {
        payer.buys(Msat::new(cost));
        let (paid, spent) = payer.paid_and_spent();
        assert!(spent <= paid);
        assert!(paid >= sat(600));
    }
}
