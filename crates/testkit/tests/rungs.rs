//! Channels that pay for calls, as they end on the chain: together, with a rung and its claim, with a rung that is left, and with
//! the first payment in a rung's place.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use bitcoin::transaction::Version;
use bitcoin::{FeeRate, Transaction};
use common::calls::*;
use common::*;
use farthing_protocol::ChannelId;
use farthing_protocol::channel::SpendKind;

/// What three calls of 1,000 sat pay by their words, on top of the first payment: 552 sat are left of the third word.
const PAID: u64 = PREPAID + 3_000 - 1_000;
/// What the payer's output of that rung's commitment holds.
const REST: u64 = 100_000 - PAID - 2 * COMMITMENT;

/// How long the buyer waits for fees at which a rung is worth taking back, in blocks.
const A_WEEK: u32 = 1_008;

/// Three calls were served, for 2,500 sat.
fn three_calls(story: &Story) -> ChannelId {
    let id = story.open_for_calls(rungs(1_000, 50));
    for sat in [1_000, 1_000, 500] {
        story.call(id, sat).unwrap();
    }
    id
}

/// The seller's ending: with which transaction, and what it received.
fn assert_sellers_end(story: &Story, id: ChannelId, commitment: &Transaction, received: u64) {
    let ending = story.sellers_end(id).unwrap();
    assert_eq!((ending.kind, ending.txid), (SpendKind::Commitment, commitment.compute_txid()));
    assert_eq!(ending.received, sat(received));
    assert_eq!(story.seller().balance().confirmed, sat(received));
}

#[test]
fn a_cooperative_close_pays_what_was_spent_and_not_what_the_words_are_worth() {
    let story = Story::begin();
    let id = three_calls(&story);
    assert_eq!(story.sellers(id).ledger().paid().floor(), sat(PAID));

    story.close_together(id);

    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Closing, 2_500, CAPACITY.to_sat() - 2_500 - 2 * CLOSING);
    assert_eq!(story.seller().balance().confirmed, sat(2_500));
}

#[test]
fn a_rung_and_its_claim_close_without_the_buyer() {
    let story = Story::begin();
    let id = three_calls(&story);
    let (_, commitment) = story.rung(id);
    let before = story.buyer().balance().total();

    story.close_alone(id);

    let claim = story.spender_of_rung(&commitment).expect("the claim is in the mempool");
    assert_eq!((claim.version, claim.vsize() as u64), (Version(3), CLAIM));
    assert_eq!(story.package(&commitment), (2 * (COMMITMENT + CLAIM), COMMITMENT + CLAIM));
    story.mine(FINALITY);
    assert_sellers_end(&story, id, &commitment, PAID - 2 * CLAIM);
    assert_eq!(story.buyers_end(id).received, sat(REST));
    assert_eq!(story.buyer().balance().confirmed, before + sat(REST));
}

/// The node relays from 5 sat/vB on, and what the two agreed on is 2.
#[test]
fn a_rung_that_does_not_relay_alone_confirms_with_its_claim() {
    let story = Story::set(|setting| setting.node = &["-minrelaytxfee=0.00005"]);
    let id = three_calls(&story);
    let (_, commitment) = story.rung(id);
    assert!(is_too_low(&story.chain.broadcast(&commitment)));

    story.close_alone(id);

    assert_eq!(story.package(&commitment), (5 * (COMMITMENT + CLAIM), COMMITMENT + CLAIM));
    story.mine(FINALITY);
    assert_sellers_end(&story, id, &commitment, PAID - (5 * (COMMITMENT + CLAIM) - 2 * COMMITMENT));
}

/// Until the claim is as deep as the end of a channel must be, the channel is not over.
#[test]
fn a_claim_may_confirm_later_than_its_commitment() {
    let story = Story::begin();
    let id = three_calls(&story);
    let (_, commitment) = story.rung(id);
    story.close_alone(id);
    story.node.mine_with(std::slice::from_ref(&commitment)).unwrap();
    story.look();
    assert!(story.spender_of_rung(&commitment).is_some());

    story.mine_empty(FINALITY);
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closing alone", "closing"));
    story.mine(FINALITY - 1);
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closing alone", "closing"));
    story.mine(1);

    assert_sellers_end(&story, id, &commitment, PAID - 2 * CLAIM);
    assert_eq!(story.buyers_end(id).received, sat(REST));
}

#[test]
fn a_claim_that_pays_too_little_by_now_is_replaced() {
    let mut story = Story::begin();
    let id = three_calls(&story);
    let (_, commitment) = story.rung(id);
    story.close_alone(id);
    let first = story.spender_of_rung(&commitment).unwrap();
    story.node.mine_with(std::slice::from_ref(&commitment)).unwrap();

    story.fees_become(10);

    let second = story.spender_of_rung(&commitment).unwrap();
    assert_ne!(first.compute_txid(), second.compute_txid());
    story.mine(FINALITY);
    assert_sellers_end(&story, id, &commitment, PAID - 10 * CLAIM);
}

#[test]
fn a_reorganisation_takes_the_claim_back_and_both_and_they_confirm_again() {
    for depth in [1, 2] {
        let story = Story::begin();
        let id = three_calls(&story);
        let (_, commitment) = story.rung(id);
        story.close_alone(id);
        story.node.mine_with(std::slice::from_ref(&commitment)).unwrap();
        story.mine(1);
        assert_eq!(story.seller().balance().confirmed, sat(PAID - 2 * CLAIM));

        story.reorganise(depth);
        story.look();

        assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closing alone", "closing"));
        assert_eq!(story.seller().balance().confirmed, sat(0));
        story.mine(FINALITY);
        assert_sellers_end(&story, id, &commitment, PAID - 2 * CLAIM);
        assert_eq!(story.buyers_end(id).received, sat(REST));
    }
}

/// The seller published the rung and was never seen again.
#[test]
fn a_rung_that_is_not_claimed_is_the_buyers_again_after_the_delay() {
    let mut story = Story::begin();
    let id = three_calls(&story);
    let (_, commitment) = story.rung(id);
    let before = story.buyer().balance().total();
    story.stop_seller();
    story.chain.broadcast(&commitment).unwrap();
    story.mine(DELAY - 1);
    assert_eq!((story.buyers(id).name(), story.spender_of_rung(&commitment)), ("closing", None));

    story.mine(1);

    assert!(story.spender_of_rung(&commitment).is_some(), "the buyer takes it back");
    story.mine(FINALITY);
    let back = REST + PAID - 2 * TAKE_BACK;
    assert_eq!(
        (story.buyers_end(id).kind, story.buyers_end(id).received),
        (SpendKind::Commitment, sat(back))
    );
    assert_eq!(story.buyer().balance().confirmed, before + sat(back));
    story.start_seller();
    story.look();
    assert_sellers_end(&story, id, &commitment, 0);
}

/// While the seller was off, the buyer took the rung back at 3 sat/vB: more in all than a claim costs at 2.
#[test]
fn a_claim_that_comes_late_outbids_the_buyer_that_takes_the_rung_back() {
    let mut story = Story::set(|setting| setting.pace.fallback_fee_rate = rate(3));
    let id = three_calls(&story);
    let (_, commitment) = story.rung(id);
    story.stop_seller();
    story.chain.broadcast(&commitment).unwrap();
    story.mine(DELAY);
    let back = story.spender_of_rung(&commitment).expect("the buyer takes it back");
    assert_eq!(PAID - back.output[0].value.to_sat(), 3 * TAKE_BACK);

    story.setting.pace.fallback_fee_rate = rate(2);
    story.start_seller();
    story.look();

    let claim = story.spender_of_rung(&commitment).unwrap();
    assert_ne!(claim.compute_txid(), back.compute_txid());
    story.mine(FINALITY);
    assert_sellers_end(&story, id, &commitment, PAID - 3 * TAKE_BACK - CLAIM);
    assert_eq!(story.buyers_end(id).received, sat(REST));
}

/// A rung that holds 10,552 sat, when 10 sat/vB confirm.
fn ten_calls() -> (Story, ChannelId, Transaction) {
    let story = Story::set(|setting| {
        setting.node = &["-incrementalrelayfee=0.00001"];
        setting.pace.fallback_fee_rate = rate(10);
    });
    let id = story.open_for_calls(rungs(1_000, 50));
    for _ in 0..10 {
        story.call(id, 1_000).unwrap();
    }
    let (rung, commitment) = story.rung(id);
    assert_eq!(rung.total.floor(), sat(PREPAID + 10_000));
    (story, id, commitment)
}

/// The two pay more than commitment and claim would have to, and yet too little for their size.
#[test]
fn a_large_child_of_the_buyers_does_not_hold_a_rung_back() {
    let (story, id, commitment) = ten_calls();
    let pin = story.buyer_pins(id, &commitment, rate(4));
    story.chain.broadcast_package(&commitment, &pin).unwrap();
    let (fee, vsize) = story.package(&commitment);
    assert!(10 * (COMMITMENT + CLAIM) < fee && fee < 5 * vsize);

    story.close_alone(id);

    assert!(!story.is_in_mempool(&pin));
    assert!(story.spender_of_rung(&commitment).is_some());
    assert_eq!(story.package(&commitment), (fee + CLAIM, COMMITMENT + CLAIM));
    story.mine(FINALITY);
    assert_sellers_end(&story, id, &commitment, PREPAID + 10_000 - (fee - 2 * COMMITMENT) - CLAIM);
}

/// 9.9 sat/vB instead of 10: to take its place the claim, which is larger, must pay more than what is missing to the target.
#[test]
fn a_small_child_of_the_buyers_gives_way_to_the_claim() {
    let (story, id, commitment) = ten_calls();
    let child = story.buyer_bears(id, &commitment, FeeRate::from_sat_per_kwu(2_475));
    story.chain.broadcast_package(&commitment, &child).unwrap();

    story.close_alone(id);

    assert!(!story.is_in_mempool(&child));
    assert!(story.spender_of_rung(&commitment).is_some());
    story.mine(FINALITY);
    assert_eq!(story.sellers_end(id).unwrap().left, sat(0));
}

/// 100 sat/vB for the claim is more than the rung holds, and for taking it back as well: both leave it, the buyer after a week.
#[test]
fn a_rung_that_costs_more_than_it_brings_is_left_and_the_report_says_so() {
    let (story, id, commitment) = published_while_fees_are_high();
    story.mine(DELAY + FINALITY);
    assert_eq!(story.spender_of_rung(&commitment), None);
    assert_sellers_end(&story, id, &commitment, 0);
    assert_eq!(story.sellers_end(id).unwrap().left, sat(PAID));
    assert_eq!(story.buyers(id).name(), "closing", "fees may fall");
    // Each block is a save.
    story.in_peace(|| {
        story.node.mine(A_WEEK).unwrap();
        story.look();
    });
    let ending = story.buyers_end(id);
    assert_eq!((ending.received, ending.left), (sat(REST), sat(PAID)));
}

/// At 2 sat/vB the claim costs 308 sat. A rung of 20 sat above the first payment would bring nothing above dust, and one of 100 sat
/// 344 sat in the place of 552.
#[test]
fn a_rung_that_brings_less_than_the_first_payment_gives_way_to_it() {
    for unit in [20, 100] {
        let story = Story::begin();
        let id = story.open_for_calls(rungs(unit, 50));
        story.call(id, PREPAID + unit).unwrap();
        let (rung, commitment) = story.rung(id);
        assert_eq!(rung.total.floor(), sat(PREPAID + unit));

        story.close_alone(id);

        assert!(!story.is_in_mempool(&commitment));
        story.mine(FINALITY);
        story.assert_ended(id, SpendKind::Commitment, PREPAID, 100_000 - PREPAID - 2 * COMMITMENT);
        assert_eq!(story.seller().balance().confirmed, sat(PREPAID));
        assert_eq!(story.sellers_end(id).unwrap().left, sat(unit), "what the rung holds above it");
        assert_eq!(story.buyers_end(id).left, sat(0));
    }
}

/// At 1 sat/vB the commitment pays for a part of the claim, so the rung brings 46 sat more. Once it is published it stays, also when
/// the first payment would bring more.
#[test]
fn a_rung_that_was_published_does_not_give_way_any_more() {
    let mut story = Story::begin();
    let id = story.open_for_calls(rungs(200, 50));
    story.call(id, PREPAID + 200).unwrap();
    story.fees_become(1);
    let (_, commitment) = story.rung(id);
    story.close_alone(id);
    assert!(story.is_in_mempool(&commitment));

    story.fees_become(2);

    assert!(story.is_in_mempool(&commitment));
    story.mine(FINALITY);
    assert_sellers_end(&story, id, &commitment, PREPAID + 200 - 2 * CLAIM);
    assert_eq!(story.sellers_end(id).unwrap().left, sat(0));
}

#[test]
fn a_rung_that_was_left_is_claimed_when_fees_fall() {
    let (mut story, id, commitment) = published_while_fees_are_high();
    story.mine(DELAY - 2);
    assert_eq!((story.sellers(id).name(), story.spender_of_rung(&commitment)), ("closing alone", None));

    story.fees_become(2);

    assert!(story.spender_of_rung(&commitment).is_some());
    story.mine(FINALITY);
    assert_sellers_end(&story, id, &commitment, PAID - 2 * CLAIM);
    assert_eq!(story.buyers_end(id).received, sat(REST));
}

/// The rung's commitment is in a block, and its claim was never in the mempool.
fn published_while_fees_are_high() -> (Story, ChannelId, Transaction) {
    let mut story = Story::begin();
    let id = three_calls(&story);
    let (_, commitment) = story.rung(id);
    story.stop_seller();
    story.chain.broadcast(&commitment).unwrap();
    story.node.mine(1).unwrap();
    story.setting.pace.fallback_fee_rate = rate(100);
    story.start_seller();
    story.start_buyer();
    story.look();
    assert_eq!((story.sellers(id).name(), story.spender_of_rung(&commitment)), ("closing alone", None));
    (story, id, commitment)
}

/// Nothing but the first payment is enforceable while no rung's word is out.
#[test]
fn calls_below_the_first_rung_close_with_the_first_payment() {
    let story = Story::begin();
    let id = story.open_for_calls(rungs(1_000, 50));
    story.call(id, 400).unwrap();

    story.close_alone(id);

    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, PREPAID, 100_000 - PREPAID - 2 * COMMITMENT);
}

/// A second chain stands on the whole first one, and its rungs pay for both.
#[test]
fn a_rung_of_the_second_chain_claims_what_both_chains_paid() {
    let mut story = Story::begin();
    let id = story.open_for_calls(rungs(1_000, 3));
    for _ in 0..3 {
        story.call(id, 1_000).unwrap();
    }
    story.announce(id, rungs(500, 20));
    story.call(id, 1_500).unwrap();
    story.start_seller();
    let (rung, commitment) = story.rung(id);
    assert_eq!(rung.total.floor(), sat(PREPAID + 3_000 + 1_000));

    story.close_alone(id);

    story.mine(FINALITY);
    assert_sellers_end(&story, id, &commitment, PREPAID + 4_000 - 2 * CLAIM);
}
