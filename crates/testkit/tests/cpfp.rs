//! A commitment that pays too little by now, and the child that pays for it.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use bitcoin::FeeRate;
use bitcoin::transaction::Version;
use common::*;
use farthing_protocol::channel::SpendKind;

/// The node relays from 5 sat/vB on, and what the two agreed on is 2.
const DEAR: &[&str] = &["-minrelaytxfee=0.00005"];

#[test]
fn a_commitment_that_does_not_relay_alone_confirms_with_its_child() {
    let story = Story::set(|setting| setting.node = DEAR);
    let id = story.open(40_000);
    let commitment = story.commitment(id);
    assert!(is_too_low(&story.chain.broadcast(&commitment)));

    story.close_alone(id);

    let child = story.sellers_child(id, &commitment).expect("the seller's child is in the mempool");
    assert_eq!((child.version, child.vsize() as u64), (Version(3), CHILD));
    let (fee, vsize) = story.package(&commitment);
    assert!(fee >= 5 * vsize, "{fee} sat for {vsize} vB");
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, 60_000 - 2 * COMMITMENT);
    let cost = 5 * (COMMITMENT + CHILD) - 2 * COMMITMENT;
    assert_eq!(story.seller().balance().confirmed, sat(40_000 - cost));
}

#[test]
fn a_child_of_the_buyers_is_replaced_by_a_better_one_of_the_sellers() {
    let story = Story::set(|setting| {
        setting.node = DEAR;
        setting.pace.fallback_fee_rate = rate(10);
    });
    let id = story.open(40_000);
    let commitment = story.commitment(id);
    let buyers = story.buyer_bears(id, &commitment, rate(7));
    story.chain.broadcast_package(&commitment, &buyers).unwrap();
    assert_eq!(story.buyers_child(id, &commitment), Some(buyers));

    story.close_alone(id);

    assert_eq!(story.buyers_child(id, &commitment), None);
    assert!(story.sellers_child(id, &commitment).is_some());
    let (fee, vsize) = story.package(&commitment);
    assert_eq!(vsize, COMMITMENT + CHILD);
    assert!(fee >= 10 * vsize, "{fee} sat for {vsize} vB");
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, 60_000 - 2 * COMMITMENT);
}

/// 9.9 sat/vB instead of 10, so what is missing to the target is less than what replacing takes.
#[test]
fn a_child_of_the_buyers_that_pays_almost_enough_is_replaced_as_well() {
    let story = Story::set(|setting| {
        setting.node = &["-minrelaytxfee=0.00005", "-incrementalrelayfee=0.00001"];
        setting.pace.fallback_fee_rate = rate(10);
    });
    let id = story.open(40_000);
    let commitment = story.commitment(id);
    let buyers = story.buyer_bears(id, &commitment, FeeRate::from_sat_per_kwu(2_475));
    story.chain.broadcast_package(&commitment, &buyers).unwrap();

    story.close_alone(id);

    assert!(story.sellers_child(id, &commitment).is_some());
    let (fee, _) = story.package(&commitment);
    assert_eq!(fee, 2_475 * 1_260 / 1_000 + 1 + CHILD);
}

#[test]
fn a_child_of_the_buyers_that_pays_enough_is_left_in_place() {
    let story = Story::set(|setting| setting.node = DEAR);
    let id = story.open(40_000);
    let commitment = story.commitment(id);
    let buyers = story.buyer_bears(id, &commitment, rate(8));
    story.chain.broadcast_package(&commitment, &buyers).unwrap();

    story.close_alone(id);

    assert_eq!(story.buyers_child(id, &commitment), Some(buyers));
    story.mine(FINALITY);
    assert_eq!(story.seller().balance().confirmed, sat(40_000), "and nothing is paid for a child");
}

#[test]
fn when_fees_rise_the_child_is_replaced_with_the_next_block() {
    let story = Story::set(|setting| setting.node = &["-minrelaytxfee=0.00005", "-fallbackfee=0.0003"]);
    let id = story.open(40_000);
    story.close_alone(id);
    let commitment = story.commitment(id);
    let first = story.sellers_child(id, &commitment).unwrap();
    story.mine_empty(1);
    assert_eq!(story.sellers_child(id, &commitment), Some(first.clone()), "it still pays enough");

    for _ in 0..10 {
        story.others_pay();
        let (fee, vsize) = story.package(&commitment);
        assert!(sat(fee) >= story.buyer().fee_rate().unwrap().fee_vb(vsize).unwrap());
    }

    assert!(story.buyer().fee_rate().unwrap() >= rate(30));
    assert!(!story.is_in_mempool(&first));
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, 60_000 - 2 * COMMITMENT);
}

#[test]
fn an_output_that_is_not_worth_a_child_goes_without() {
    let mut story = Story::begin();
    let id = story.open(552);
    story.fees_become(100);

    story.close_alone(id);

    let commitment = story.commitment(id);
    assert_eq!(story.package(&commitment), (2 * COMMITMENT, COMMITMENT));
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 552, CAPACITY.to_sat() - 552 - 2 * COMMITMENT);
}

/// The node asks for 1.9 sat/vB and the commitment pays 1: the difference must not be lost in rounding.
#[test]
fn a_fraction_of_a_satoshi_per_byte_counts() {
    let story = Story::set(|setting| {
        setting.node = &["-minrelaytxfee=0.000019"];
        setting.pace.fallback_fee_rate = rate(1);
        setting.terms.fee_rate = (rate(1), rate(1));
    });
    let id = story.open(40_000);
    let commitment = story.commitment(id);
    assert!(is_too_low(&story.chain.broadcast(&commitment)));

    story.close_alone(id);

    assert!(story.sellers_child(id, &commitment).is_some());
    story.mine(1);
    assert_eq!(story.chain.output(&story.funding(id)).unwrap(), farthing_chain::OutputStatus::Absent);
}

/// A version 3 commitment cannot stand on an unconfirmed funding of version 2, so it waits for a block.
#[test]
fn a_commitment_waits_for_its_funding() {
    let story =
        Story::set(|setting| setting.terms.unconfirmed_cap = farthing_protocol::Msat::new(50_000_000));
    let id = story.fund();
    story.buy(id, 40_000).unwrap();
    story.close_alone(id);
    assert_eq!(story.spender(id), None);

    story.mine(1);

    assert!(story.spender(id).is_some());
    story.mine(FINALITY);
    story.assert_ended(id, SpendKind::Commitment, 40_000, 60_000 - 2 * COMMITMENT);
}

/// Also after a restart, which repeats what the stored state asks for.
#[test]
fn a_commitment_in_a_block_gets_no_child() {
    let mut story = Story::begin();
    let id = story.open(40_000);
    story.close_alone(id);
    story.mine(1);

    story.fees_become(20);
    story.mine(FINALITY);

    story.assert_ended(id, SpendKind::Commitment, 40_000, 60_000 - 2 * COMMITMENT);
    assert_eq!(story.seller().balance().confirmed, sat(40_000));
}
