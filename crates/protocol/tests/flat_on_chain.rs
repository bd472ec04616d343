//! A batch of preimages on the chain: what either machine does until everything in it is settled.

mod common;

use std::collections::BTreeMap;

use bitcoin::{Amount, Transaction};
use common::call_story::PREPAID;
use common::flat_story::*;
use common::payee_story::Payee;
use common::payer_story::Payer;
use common::*;
use farthing_protocol::channel::{Ending, SpendKind};
use farthing_protocol::flat::Batch;
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, payee, payer};

/// What claiming so many outputs costs at 2 sat/vB, by weight.
fn claim_fee(outputs: u64) -> u64 {
    (212 + 2 + 399 * outputs + if outputs < 253 { 0 } else { 8 }).div_ceil(2) // 4 wu a vB, 2 sat a vB
}

fn sees(payee: &mut Payee, sighting: Sighting) -> Vec<payee::Effect> {
    payee.takes(payee::Input::Sighted(sighting))
}

fn looks(payer: &mut Payer, sighting: Sighting) -> Vec<Transaction> {
    let broadcast = |effect| match effect {
        payer::Effect::Broadcast(transaction) => transaction,
        other => panic!("a transaction, not {other:?}"),
    };
    payer.takes(payer::Input::Sighted(sighting)).into_iter().map(broadcast).collect()
}

fn claims(effects: Vec<payee::Effect>) -> Vec<Transaction> {
    let claim = |effect| match effect {
        payee::Effect::Broadcast(claim) => claim,
        other => panic!("a claim, not {other:?}"),
    };
    effects.into_iter().map(claim).collect()
}

fn is_spread(effects: &[payee::Effect]) -> bool {
    match effects {
        [] => false,
        [payee::Effect::Spread { batch, fee_rate }] => {
            assert_eq!((batch.terms(), *fee_rate), (&FIRST, rate(2)));
            true
        }
        other => panic!("the micropayment transaction, not {other:?}"),
    }
}

fn publishes(effects: &[payee::Effect], commitment: &Transaction) {
    let [payee::Effect::Publish(publication)] = effects else { panic!("a commitment: {effects:?}") };
    assert_eq!((&publication.commitment, publication.rung), (commitment, None));
}

fn end(payee: &Payee) -> Ending {
    let payee::State::Closed(closed) = &payee.state else { panic!("it goes on: {:?}", payee.state.name()) };
    closed.ending.expect("there was something to claim")
}

fn payers_end(payer: &Payer) -> Ending {
    let payer::State::Closed(closed) = &payer.state else { panic!("it goes on: {:?}", payer.state.name()) };
    closed.ending
}

fn ending(published: &Published, received: u64, left: u64) -> Ending {
    let (kind, txid) = (SpendKind::Commitment, published.commitment.compute_txid());
    Ending { kind, txid, received: Amount::from_sat(received), left: Amount::from_sat(left) }
}

/// What the payer's output of the commitment holds: 247 vB at 2 sat/vB go to the miner.
const REST: u64 = 100_000 - 600 - 40_000 - 494;

#[test]
fn the_payee_publishes_one_thing_after_the_other_and_each_again_after_a_restart() {
    let published = Published::new();
    let revealed: Vec<u32> = (0..12).map(|call| call * 7 % 20).collect();
    let mut payee = flat_payee(&revealed);
    publishes(&payee.takes(payee::Input::Close), &published.commitment);
    assert_valid(&payee.setup.channel, &published.commitment);
    publishes(&payee.state.resume(&payee.setup), &published.commitment);
    publishes(&payee.sees(TIP, confirmed(9)), &published.commitment);
    publishes(&payee.sees(TIP, spent(&published.commitment, 0)), &published.commitment);
    // The commitment is in a block.
    assert!(is_spread(&sees(&mut payee, published.look(1, published.unspent_lsf(1)))));
    assert!(is_spread(&sees(&mut payee, published.look(2, published.unspent_lsf(2)))));
    assert!(
        is_spread(&sees(&mut payee, published.look(2, spent(&published.micropayment, 0)))),
        "a better fee"
    );
    // So are the outputs.
    let claimed = claims(sees(&mut payee, published.spread(1, &BTreeMap::new())));
    let [claim] = &claimed[..] else { panic!("one claim takes 12 outputs") };
    assert_eq!(claim.input.len(), 12);
    assert!(published.can_be_spent_by(claim));
    assert_eq!(claims(sees(&mut payee, published.spread(2, &BTreeMap::new()))), claimed, "it was not seen");
    assert_eq!(sees(&mut payee, published.spread(2, &published.spenders(&claimed, 0))), []);
    assert_eq!(sees(&mut payee, published.spread(9, &published.spenders(&claimed, 5))), []);
    sees(&mut payee, published.spread(10, &published.spenders(&claimed, 6)));
    assert_eq!(end(&payee), ending(&published, 600 + 24_000 - claim_fee(12), 0));
}

#[test]
fn a_claim_that_pays_too_little_by_now_is_replaced() {
    let published = Published::new();
    let mut payee = flat_payee(&(0..12).collect::<Vec<_>>());
    payee.takes(payee::Input::Close);
    let first = claims(sees(&mut payee, published.spread(1, &BTreeMap::new())));
    let waits = published.spread(2, &published.spenders(&first, 0));
    assert_eq!(sees(&mut payee, Sighting { fee_rate: rate(2), ..waits.clone() }), []);
    let second = claims(sees(&mut payee, Sighting { fee_rate: rate(4), ..waits }));
    assert_eq!(second[0].input.len(), 12);
    assert!(second[0].output[0].value < first[0].output[0].value);
}

/// A reorganisation may take any of the three back; then the one before it is published again.
#[test]
fn what_a_reorganisation_takes_is_published_again() {
    let published = Published::new();
    let mut payee = flat_payee(&(0..12).collect::<Vec<_>>());
    payee.takes(payee::Input::Close);
    let claimed = claims(sees(&mut payee, published.spread(3, &BTreeMap::new())));
    sees(&mut payee, published.spread(4, &published.spenders(&claimed, 1)));
    assert_eq!(claims(sees(&mut payee, published.spread(3, &BTreeMap::new()))), claimed);
    assert!(is_spread(&sees(&mut payee, published.look(2, published.unspent_lsf(2)))));
    publishes(&payee.sees(TIP, confirmed(9)), &published.commitment);
}

/// 20 outputs cost 1,036 vB, one claim 154 vB: at 2 sat/vB, two outputs of 2,000 sat are worth it and one is not.
#[test]
fn outputs_that_cost_more_than_they_bring_are_not_published_and_the_report_says_so() {
    let published = Published::new();
    for (revealed, is_worth_it) in [(1, false), (2, true)] {
        let mut payee = flat_payee(&(0..revealed).collect::<Vec<_>>());
        payee.takes(payee::Input::Close);
        let look = published.look(1, published.unspent_lsf(1));
        assert_eq!(is_spread(&sees(&mut payee, look)), is_worth_it);
    }
    // Nor is more paid for them once they are on their way: at 10 sat/vB they cost more than the 4,000 sat that they hold.
    let mut payee = flat_payee(&(0..2).collect::<Vec<_>>());
    payee.takes(payee::Input::Close);
    let waits = || published.look(2, spent(&published.micropayment, 0));
    assert!(is_spread(&sees(&mut payee, waits())));
    assert_eq!(sees(&mut payee, Sighting { fee_rate: rate(10), ..waits() }), []);
    assert!(is_spread(&sees(&mut payee, waits())), "fees fell again");

    let mut payee = flat_payee(&[5]);
    payee.takes(payee::Input::Close);
    let depth = POLICY.finality + D1;
    sees(&mut payee, published.look(depth - 1, published.unspent_lsf(depth - 1)));
    assert_eq!(payee.state.name(), "closing alone", "fees may fall");
    sees(&mut payee, published.look(depth, published.unspent_lsf(depth)));
    assert_eq!(end(&payee), ending(&published, 600, 2_000));
}

#[test]
fn claims_that_cost_more_than_they_bring_are_left_and_the_report_says_so() {
    let published = Published::new();
    let mut payee = flat_payee(&[3]);
    payee.takes(payee::Input::Close);
    // It was published while fees were low.
    let depth = POLICY.finality + D2;
    for depth in [1, depth - 1] {
        let dear = Sighting { fee_rate: rate(20), ..published.spread(depth, &BTreeMap::new()) };
        assert_eq!(sees(&mut payee, dear), []);
        assert_eq!(payee.state.name(), "closing alone");
    }
    sees(&mut payee, Sighting { fee_rate: rate(20), ..published.spread(depth, &BTreeMap::new()) });
    assert_eq!(end(&payee), ending(&published, 600, 2_000));
}

#[test]
fn nothing_revealed_is_a_plain_commitment() {
    let mut payee = flat_payee(&[]);
    publishes(&payee.takes(payee::Input::Close), &commitment_to(PREPAID));
}

// The payer.

#[test]
fn a_payee_that_withholds_the_micropayment_transaction_holds_nothing_hostage() {
    let published = Published::new();
    let mut payer = flat_payer();
    for depth in [1, FINALITY, D1 - 1] {
        assert_eq!(looks(&mut payer, published.look(depth, published.unspent_lsf(depth))), []);
        assert_eq!(payer.state.name(), "closing");
    }
    let back = looks(&mut payer, published.look(D1, published.unspent_lsf(D1)));
    assert_eq!(back.len(), 1);
    assert!(spends(&published.commitment.output[1..2], &back[0]));
    assert_eq!(back[0].input[0].sequence.to_consensus_u32(), D1);
    assert_eq!(looks(&mut payer, published.look(D1 + 1, published.unspent_lsf(D1 + 1))), back, "not seen");
    assert_eq!(looks(&mut payer, published.look(D1 + 2, spent(&back[0], FINALITY - 1))), []);
    assert_eq!(looks(&mut payer, published.look(D1 + 3, spent(&back[0], FINALITY))), []);
    let received = back[0].output[0].value.to_sat();
    assert_eq!(payers_end(&payer), ending(&published, REST + received, 0));
    // The payee that had revealed preimages and did not use them says what it left.
    let mut payee = flat_payee(&[1, 2]);
    payee.takes(payee::Input::Close);
    sees(&mut payee, published.look(D1 + 9, spent(&back[0], FINALITY)));
    assert_eq!(end(&payee), ending(&published, 600, 4_000));
}

/// While they wait for a block and fees rise; the payee's are left alone.
#[test]
fn refunds_that_wait_are_replaced_once_a_quarter_more_confirms() {
    let published = Published::new();
    let mut payer = flat_payer();
    let fee_of = |back: &Transaction, held| held - back.output[0].value.to_sat();

    let back = looks(&mut payer, published.look(D1, published.unspent_lsf(D1))).remove(0);
    let waits =
        |fee_rate, back| Sighting { fee_rate: rate(fee_rate), ..published.look(D1 + 1, spent(back, 0)) };
    assert_eq!(looks(&mut payer, waits(2, &back)), []);
    let better = looks(&mut payer, waits(4, &back)).remove(0);
    assert!(spends(&published.commitment.output[1..2], &better));
    let held = published.commitment.output[1].value.to_sat();
    assert!(fee_of(&better, held) >= fee_of(&back, held) + better.vsize() as u64);

    let mut spread = |fee_rate, spenders: &BTreeMap<u32, (Transaction, u32)>| {
        let sighting = Sighting { fee_rate: rate(fee_rate), ..published.spread(D2, spenders) };
        looks(&mut payer, sighting)
    };
    let back = spread(2, &BTreeMap::new());
    let waiting = published.spenders(&back, 0);
    assert_eq!(spread(2, &waiting), []);
    let [better] = &spread(4, &waiting)[..] else { panic!("one for all") };
    let fees = (fee_of(&back[0], 40_000), fee_of(better, 40_000));
    assert!(published.can_be_spent_by(better) && fees.1 >= fees.0 + better.vsize() as u64, "{fees:?}");

    let mut payee = flat_payee(&(0..20).collect::<Vec<u32>>());
    payee.takes(payee::Input::Close);
    let claimed = claims(sees(&mut payee, published.spread(1, &BTreeMap::new())));
    assert_eq!(spread(9, &published.spenders(&claimed, 0)), []);
}

#[test]
fn the_payer_takes_back_each_output_that_nobody_claimed_after_the_delay() {
    let published = Published::new();
    let mut payee = flat_payee(&[0, 7, 19]);
    payee.takes(payee::Input::Close);
    let claimed = claims(sees(&mut payee, published.spread(1, &BTreeMap::new())));
    let mut payer = flat_payer();
    let mut spenders = published.spenders(&claimed, D2 - 1);
    assert_eq!(looks(&mut payer, published.spread(D2 - 1, &spenders)), []);
    assert_eq!(payer.state.name(), "closing");
    let back = looks(&mut payer, published.spread(D2, &spenders));
    let [refund] = &back[..] else { panic!("one transaction takes 17 outputs") };
    assert_eq!(refund.input.len(), 17);
    assert!(published.can_be_spent_by(refund));
    spenders.extend(published.spenders(&back, FINALITY - 1));
    assert_eq!(looks(&mut payer, published.spread(D2 + 7, &spenders)), []);
    spenders.extend(published.spenders(&back, FINALITY));
    assert_eq!(looks(&mut payer, published.spread(D2 + 8, &spenders)), []);
    let received = refund.output[0].value.to_sat();
    assert_eq!(
        payers_end(&payer),
        ending(&published, REST + received, 0),
        "what was claimed it has not left"
    );
}

/// Above the highest fee rate the refunds wait, for a week; what is then not worth it is left.
#[test]
fn refunds_wait_for_fees_that_are_worth_it() {
    let published = Published::new();
    let mut payer = flat_payer();
    let dear = |depth| Sighting { fee_rate: rate(40), ..published.spread(depth, &BTreeMap::new()) };
    assert_eq!(looks(&mut payer, dear(D2)), []);
    assert_eq!(looks(&mut payer, dear(D2 + 1_007)), []);
    assert_eq!(looks(&mut payer, published.spread(D2 + 1_007, &BTreeMap::new())).len(), 1, "fees fell");
    assert_eq!(looks(&mut payer, dear(D2 + 1_008)), []);
    assert_eq!(payers_end(&payer), ending(&published, REST, 40_000));
}

/// A batch that was refused is signed all the same: the payee may publish it, and the next one on the same base has the
/// same commitment. Whichever outputs come, the payer finds them.
#[test]
fn the_payer_finds_each_batch_that_it_signed() {
    let mut payer = Payer::open();
    payer.calls(payer::call::Input::AnnounceBatch(FIRST));
    payer.calls(payer::call::Input::Refused { chain: 1 });
    payer.calls(payer::call::Input::AnnounceBatch(batch_on(2, PREPAID)));
    payer.calls(payer::call::Input::Taken { chain: 2, epoch: 7 });
    let published = Published::new();
    let second: Batch = verified(batch_on(2, PREPAID));
    let (same, _) = second.commitment(&payer.setup.channel, &payee_keys()).unwrap();
    assert_eq!(same.compute_txid(), published.commitment.compute_txid());
    let back = looks(&mut payer, published.spread(D2, &BTreeMap::new()));
    assert!(published.can_be_spent_by(&back[0]));
}

#[test]
fn after_the_expiry_the_payer_takes_everything_back_as_ever() {
    let mut payer = flat_payer();
    let effects = payer.sees(EXPIRY, confirmed(900));
    let [payer::Effect::Broadcast(refund)] = &effects[..] else { panic!("a refund: {effects:?}") };
    assert_valid(&payer.setup.channel, refund);
}

/// An unconfirmed commitment and one that was replaced change nothing for either.
#[test]
fn what_is_not_in_a_block_moves_nobody() {
    let published = Published::new();
    let mut payer = flat_payer();
    let unconfirmed = Sighting { locked: Vec::new(), ..published.look(0, Funding::Unseen) };
    assert_eq!(looks(&mut payer, unconfirmed), []);
    assert_eq!(payer.state.name(), "closing");
    let mut payee = flat_payee(&[1, 2, 3]);
    payee.takes(payee::Input::Close);
    let refund = refund_at(rate(2));
    payee.sees(EXPIRY + 9, spent(&refund, POLICY.finality));
    assert_eq!(end(&payee).received, Channel::paid_to(&refund, &payee.setup.channel.params().payee));
}
