//! Single transactions: what the node takes, and why it does not take the others.

mod common;

use bitcoin::absolute::LockTime;
use bitcoin::{Sequence, Transaction};
use common::{confirmed_coin, output_of, sat, spend};
use farthing_chain::{BroadcastError, OutputStatus, RegtestNode};

#[test]
fn a_broadcast_may_be_repeated_before_and_after_confirmation() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    let transaction = spend(&[coin], &[sat(49_000), sat(50_000)]);

    chain.broadcast(&transaction).unwrap();
    assert_eq!(chain.mempool_spender(&coin).unwrap().as_ref(), Some(&transaction));
    chain.broadcast(&transaction).unwrap();
    node.mine(1).unwrap();
    chain.broadcast(&transaction).unwrap();

    // Also when one of its outputs has been spent, in the mempool or in a block.
    let next = spend(&[output_of(&transaction, 0)], &[sat(48_000)]);
    chain.broadcast(&next).unwrap();
    chain.broadcast(&transaction).unwrap();
    node.mine(1).unwrap();
    chain.broadcast(&transaction).unwrap();
}

#[test]
fn a_fee_that_is_too_low_is_told_apart() {
    let node = RegtestNode::start_with(&["-minrelaytxfee=0.0001"]).unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    let paying = |rate: u64| {
        let size = spend(&[coin], &[sat(0)]).vsize() as u64;
        spend(&[coin], &[sat(100_000 - rate * size)])
    };

    let error = chain.broadcast(&paying(9)).unwrap_err();

    assert!(matches!(error, BroadcastError::FeeTooLow { .. }), "{error:?}");
    chain.broadcast(&paying(10)).unwrap();
}

#[test]
fn a_replacement_must_pay_more_than_what_it_replaces() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    chain.broadcast(&spend(&[coin], &[sat(95_000)])).unwrap();

    let error = chain.broadcast(&spend(&[coin], &[sat(96_000)])).unwrap_err();

    assert!(matches!(error, BroadcastError::FeeTooLow { .. }), "{error:?}");
    let dearer = spend(&[coin], &[sat(90_000)]);
    chain.broadcast(&dearer).unwrap();
    assert_eq!(chain.mempool_spender(&coin).unwrap(), Some(dearer));
}

#[test]
fn an_input_that_another_transaction_has_spent_is_missing() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    chain.broadcast(&spend(&[coin], &[sat(95_000)])).unwrap();
    node.mine(1).unwrap();

    let error = chain.broadcast(&spend(&[coin], &[sat(90_000)])).unwrap_err();

    assert!(matches!(error, BroadcastError::MissingInputs { .. }), "{error:?}");
}

#[test]
fn a_timelock_that_has_not_passed_is_told_apart() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    let tip = chain.tip().unwrap().height;
    // The next block is one above the tip, and a lock time must lie below the block's height.
    let at = |height| Transaction {
        lock_time: LockTime::from_height(height).unwrap(),
        ..spend(&[coin], &[sat(99_000)])
    };
    let mut relative = spend(&[coin], &[sat(99_000)]);
    relative.input[0].sequence = Sequence::from_height(2);

    for early in [at(tip + 1), relative.clone()] {
        let error = chain.broadcast(&early).unwrap_err();
        assert!(matches!(error, BroadcastError::TooEarly { .. }), "{error:?}");
    }

    node.mine(1).unwrap();
    chain.broadcast(&relative).unwrap();
}

#[test]
fn a_transaction_that_breaks_a_rule_is_rejected() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    let mut unsigned = spend(&[coin], &[sat(99_000)]);
    unsigned.input[0].witness.clear();
    let dust = spend(&[coin], &[sat(99_000), sat(100)]);
    let from_nothing = spend(&[coin], &[sat(100_001)]);
    let without_input = spend(&[], &[sat(1_000)]);
    let mistaken = spend(&[confirmed_coin(&node, sat(10_000_000))], &[sat(99_000)]);

    for bad in [unsigned, dust, from_nothing, without_input, mistaken] {
        let error = chain.broadcast(&bad).unwrap_err();
        assert!(matches!(error, BroadcastError::Rejected { .. }), "{error:?}");
    }
    assert!(matches!(chain.output(&coin).unwrap(), OutputStatus::Confirmed { .. }));
}

#[test]
fn a_node_that_has_gone_away_is_no_verdict_on_the_transaction() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let transaction = spend(&[confirmed_coin(&node, sat(100_000))], &[sat(99_000)]);
    drop(node);

    let single = chain.broadcast(&transaction).unwrap_err();
    let package = chain.broadcast_package(&transaction, &transaction).unwrap_err();

    for error in [single, package] {
        assert!(matches!(&error, BroadcastError::Chain(error) if error.is_transient()), "{error:?}");
    }
}
