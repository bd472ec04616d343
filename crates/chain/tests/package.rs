//! A version 3 parent and the child that pays for it.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use bitcoin::Transaction;
use bitcoin::absolute::LockTime;
use common::{confirmed_coin, output_of, sat, spend, spend_v3};
use farthing_chain::{BroadcastError, Chain, RegtestNode};

/// A node, and a parent of two coins of 50,000 sat that pays no fee.
fn parent_without_fee() -> (RegtestNode, Chain, Transaction) {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    (node, chain, spend_v3(&[coin], &[sat(50_000), sat(50_000)]))
}

/// A version 3 child of one of the parent's outputs that pays this fee.
fn child(parent: &Transaction, vout: u32, fee: u64) -> Transaction {
    spend_v3(&[output_of(parent, vout)], &[sat(50_000 - fee)])
}

fn is_in_mempool(chain: &Chain, transaction: &Transaction) -> bool {
    chain.mempool_entry(&transaction.compute_txid()).unwrap().is_some()
}

#[test]
fn a_parent_without_a_fee_is_taken_with_a_child_that_pays_for_it_and_mined() {
    let (node, chain, parent) = parent_without_fee();
    let child = child(&parent, 0, 1_000);
    let alone = chain.broadcast(&parent).unwrap_err();
    assert!(matches!(alone, BroadcastError::FeeTooLow { .. }), "{alone:?}");

    chain.broadcast_package(&parent, &child).unwrap();

    let entry = chain.mempool_entry(&parent.compute_txid()).unwrap().unwrap();
    assert_eq!((entry.fee, entry.descendant_fee, entry.descendants), (sat(0), sat(1_000), 1));
    let block = chain.block(&node.mine(1).unwrap()[0]).unwrap();
    assert!(block.txdata.contains(&parent) && block.txdata.contains(&child));
}

#[test]
fn a_package_may_be_repeated_before_and_after_confirmation() {
    let (node, chain, parent) = parent_without_fee();
    let child = child(&parent, 0, 1_000);

    chain.broadcast_package(&parent, &child).unwrap();
    chain.broadcast_package(&parent, &child).unwrap();
    node.mine(1).unwrap();
    chain.broadcast_package(&parent, &child).unwrap();

    // Also when both of the parent's outputs have been spent.
    chain.broadcast(&spend(&[output_of(&parent, 1)], &[sat(49_000)])).unwrap();
    node.mine(1).unwrap();
    chain.broadcast_package(&parent, &child).unwrap();
}

#[test]
fn a_dearer_child_of_the_other_output_takes_its_siblings_place() {
    let (_node, chain, parent) = parent_without_fee();
    let (first, second) = (child(&parent, 0, 1_000), child(&parent, 1, 5_000));
    chain.broadcast_package(&parent, &first).unwrap();

    chain.broadcast_package(&parent, &second).unwrap();

    assert!(is_in_mempool(&chain, &parent) && is_in_mempool(&chain, &second));
    assert!(!is_in_mempool(&chain, &first));
    // And the first one, which pays less, cannot come back.
    let error = chain.broadcast_package(&parent, &first).unwrap_err();
    assert!(matches!(error, BroadcastError::FeeTooLow { .. }), "{error:?}");
}

#[test]
fn a_child_that_pays_too_little_for_both_is_told_apart() {
    let (_node, chain, parent) = parent_without_fee();

    let error = chain.broadcast_package(&parent, &child(&parent, 0, 10)).unwrap_err();

    assert!(matches!(error, BroadcastError::FeeTooLow { .. }), "{error:?}");
    assert!(!is_in_mempool(&chain, &parent));
    chain.broadcast_package(&parent, &child(&parent, 0, 1_000)).unwrap();
}

#[test]
fn a_child_goes_after_its_parent_has_confirmed() {
    let (node, chain, parent) = parent_without_fee();
    node.mine_with(std::slice::from_ref(&parent)).unwrap();
    let child = child(&parent, 0, 1_000);

    chain.broadcast_package(&parent, &child).unwrap();

    assert!(is_in_mempool(&chain, &child));
}

#[test]
fn a_package_replaces_a_conflicting_one_only_for_a_higher_fee() {
    let (_node, chain, parent) = parent_without_fee();
    chain.broadcast_package(&parent, &child(&parent, 0, 5_000)).unwrap();
    let other = spend_v3(&[parent.input[0].previous_output], &[sat(50_000), sat(49_999)]);

    let error = chain.broadcast_package(&other, &child(&other, 0, 1_000)).unwrap_err();
    assert!(matches!(error, BroadcastError::FeeTooLow { .. }), "{error:?}");
    assert!(is_in_mempool(&chain, &parent));

    chain.broadcast_package(&other, &child(&other, 0, 20_000)).unwrap();
    assert!(is_in_mempool(&chain, &other) && !is_in_mempool(&chain, &parent));
}

#[test]
fn a_parent_whose_input_is_spent_misses_it() {
    let (node, chain, parent) = parent_without_fee();
    chain.broadcast(&spend(&[parent.input[0].previous_output], &[sat(99_000)])).unwrap();
    node.mine(1).unwrap();

    let error = chain.broadcast_package(&parent, &child(&parent, 0, 1_000)).unwrap_err();

    assert!(matches!(error, BroadcastError::MissingInputs { .. }), "{error:?}");
}

#[test]
fn a_child_whose_other_input_is_spent_misses_it() {
    let (node, chain, parent) = parent_without_fee();
    let purse = confirmed_coin(&node, sat(10_000));
    chain.broadcast(&spend(&[purse], &[sat(9_000)])).unwrap();
    node.mine(1).unwrap();
    let child = spend_v3(&[output_of(&parent, 0), purse], &[sat(58_000)]);

    let error = chain.broadcast_package(&parent, &child).unwrap_err();

    assert!(matches!(error, BroadcastError::MissingInputs { .. }), "{error:?}");
}

#[test]
fn what_is_wrong_with_a_child_is_not_hidden_by_its_parents_fee() {
    let (_node, chain, parent) = parent_without_fee();
    let good = child(&parent, 0, 1_000);
    let mut unsigned = good.clone();
    unsigned.input[0].witness.clear();
    let early = Transaction { lock_time: LockTime::from_height(5_000).unwrap(), ..good.clone() };
    let large = spend_v3(&[output_of(&parent, 0)], &[sat(400); 40]);

    for bad in [unsigned, large] {
        let error = chain.broadcast_package(&parent, &bad).unwrap_err();
        assert!(matches!(error, BroadcastError::Rejected { .. }), "{error:?}");
    }
    let error = chain.broadcast_package(&parent, &early).unwrap_err();
    assert!(matches!(error, BroadcastError::TooEarly { .. }), "{error:?}");
    chain.broadcast_package(&parent, &good).unwrap();
}

#[test]
fn below_version_3_a_parent_must_pay_for_itself() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    let parent = spend(&[coin], &[sat(50_000), sat(50_000)]);
    let child = spend(&[output_of(&parent, 0)], &[sat(40_000)]);

    let error = chain.broadcast_package(&parent, &child).unwrap_err();

    assert!(matches!(error, BroadcastError::FeeTooLow { .. }), "{error:?}");
}
