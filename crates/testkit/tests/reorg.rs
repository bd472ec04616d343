//! Blocks that go away: with the funding, with the end of a channel, and while nobody watches.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use common::*;
use farthing_protocol::channel::SpendKind;

const REST: u64 = 60_000;

#[test]
fn a_funding_that_is_unconfirmed_again_serves_nothing_until_it_is_back() {
    let story = Story::begin();
    let id = story.open(10_000);
    story.reorganise(1);
    story.look();
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("awaiting depth", "awaiting funding"));

    let refused = story.buy(id, 5_000);

    assert!(is_not_deep_enough(&refused), "{refused:?}");
    assert_eq!(story.sellers(id).ledger().spent.floor(), sat(10_000));
    story.mine(1);
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("open", "open"));
    story.buy(id, 7_000).unwrap();
    assert_eq!(story.sellers(id).ledger().spent.floor(), sat(17_000));
}

#[test]
fn a_funding_that_is_double_spent_costs_the_seller_no_more_than_it_served() {
    let story = Story::begin();
    let id = story.open(10_000);
    story.forget(1);
    let elsewhere = story.double_spend(id);
    story.node.mine_with(&[elsewhere]).unwrap();
    story.mine(1);
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("awaiting depth", "awaiting funding"));

    assert!(is_not_deep_enough(&story.buy(id, 1)));

    assert_eq!(story.buyer().balance().total(), PURSE - DOUBLE_SPEND_FEE);
    story.mine_to(story.expiry(id) + FINALITY);
    story.look();
    assert_eq!(story.sellers_end(id), None);
    assert_eq!(story.sellers(id).ledger().spent.floor(), sat(10_000));
}

/// Another branch had double-spent it, and is gone as well.
#[test]
fn a_funding_that_left_the_mempool_is_broadcast_again() {
    let story = Story::begin();
    let id = story.open(10_000);
    story.forget(1);
    let elsewhere = story.double_spend(id);
    story.node.mine_with(&[elsewhere]).unwrap();
    story.look();
    story.forget(1);
    let funding = story.funding_transaction(id);
    assert!(!story.is_in_mempool(&funding));

    story.mine_empty(1);

    assert!(story.is_in_mempool(&funding));
    story.mine(1);
    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("open", "open"));
    story.buy(id, 1_000).unwrap();
}

#[test]
fn a_closing_that_is_unconfirmed_again_confirms_again() {
    let story = Story::begin();
    let id = story.open(40_000);
    let before = story.buyer().balance().total();
    let closing = story.close_together(id);
    story.mine(2);
    assert_eq!(story.seller().balance().confirmed, sat(40_000));

    story.reorganise(2);
    story.look();

    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closing", "closing"));
    assert_eq!(story.seller().balance().confirmed, sat(0));
    assert_eq!(story.spender(id), Some(closing));
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Closing, 40_000, REST - 2 * CLOSING);
    assert_eq!(story.seller().balance().confirmed, sat(40_000));
    assert_eq!(story.buyer().balance().confirmed, before + sat(REST - 2 * CLOSING));
}

/// The other branch has the commitment, which the seller had handed to a miner as well.
#[test]
fn a_reorganisation_may_end_a_channel_in_another_way() {
    let story = Story::begin();
    let id = story.open(40_000);
    let commitment = story.commitment(id);
    story.close_together(id);
    story.mine(3);

    story.forget(3);
    story.node.mine_with(&[commitment]).unwrap();
    story.mine(3);

    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
    assert_eq!(story.seller().balance().confirmed, sat(40_000));
}

#[test]
fn a_commitment_that_is_unconfirmed_again_confirms_again() {
    let story = Story::begin();
    let id = story.open(40_000);
    story.close_alone(id);
    story.mine(3);

    story.reorganise(3);
    story.look();

    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closing alone", "closing"));
    assert_eq!(story.seller().balance().confirmed, sat(0));
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
    assert_eq!(story.seller().balance().confirmed, sat(40_000));
}

/// The commitment is version 3 and its funding version 2, so it cannot be in the mempool until the funding is in a block.
#[test]
fn a_commitment_and_its_funding_that_go_together_come_back_one_after_the_other() {
    let story = Story::begin();
    let id = story.open(40_000);
    story.close_alone(id);
    story.mine(1);

    story.reorganise(2);
    story.look();

    let commitment = story.commitment(id);
    assert!(story.is_in_mempool(&story.funding_transaction(id)));
    story.mine(FINALITY + 1);
    story.assert_ended(id, SpendKind::Commitment, 40_000, REST - 2 * COMMITMENT);
    assert_eq!(story.sellers_end(id).unwrap().txid, commitment.compute_txid());
}

#[test]
fn a_refund_that_is_unconfirmed_again_confirms_again() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    let before = story.buyer().balance().total();
    let expiry = story.expiry(id);
    story.stop_seller();
    story.mine_to(expiry);
    story.look();
    story.mine(2);

    story.reorganise(2);
    story.look();

    assert_eq!((story.buyers(id).name(), story.buyer().balance().total()), ("refunding", before));
    story.mine(FINALITY);
    assert_eq!(story.buyers_end(id).kind, SpendKind::Refund);
    assert_eq!(story.buyer().balance().confirmed, before + CAPACITY - sat(refund_fee(2)));
}

#[test]
fn both_were_off_while_five_blocks_with_the_closing_went_away() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    let before = story.buyer().balance().total();
    story.close_together(id);
    story.mine(5);
    story.stop_seller();
    story.stop_buyer();
    story.reorganise(5);

    story.start_seller();
    story.start_buyer();
    story.look();

    assert_eq!((story.sellers(id).name(), story.buyers(id).name()), ("closing", "closing"));
    assert_eq!(story.seller().balance().confirmed, sat(0));
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Closing, 40_000, REST - 2 * CLOSING);
    assert_eq!(story.seller().balance().confirmed, sat(40_000));
    assert_eq!(story.buyer().balance().confirmed, before + sat(REST - 2 * CLOSING));
}

#[test]
fn the_seller_was_off_while_the_block_with_the_funding_went_away() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    story.mine(3);
    story.stop_seller();
    story.reorganise(4);

    story.start_seller();
    story.look();

    assert_eq!(story.sellers(id).name(), "awaiting depth");
    assert!(is_not_deep_enough(&story.buy(id, 1)));
    story.mine(1);
    story.buy(id, 1).unwrap();
}
