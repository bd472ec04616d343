//! What a node says about blocks, outputs and its mempool.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

mod common;

use std::fs;

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, FeeRate, OutPoint, TxOut, Txid};
use common::{address, coin, confirmed_coin, output_of, sat, spend};
use farthing_chain::{BlockId, ChainError, OutputStatus, RegtestNode, RpcAuth};
use jsonrpc::bitreq_http::BitreqHttpTransport;
use serde_json::Value;

fn txout(amount: u64) -> TxOut {
    TxOut { value: sat(amount), script_pubkey: address().script_pubkey() }
}

#[test]
fn what_pays_a_script_is_found_until_it_is_spent_in_a_block() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    let script = address().script_pubkey();
    let found = || chain.unspent_paying(std::slice::from_ref(&script)).unwrap();

    assert_eq!(found(), [(coin, txout(100_000))]);
    // To the same script again, with another amount.
    let spender = spend(&[coin], &[sat(99_000)]);
    chain.broadcast(&spender).unwrap();
    assert_eq!(found(), [(coin, txout(100_000))], "the mempool does not count");
    node.mine(1).unwrap();
    assert_eq!(found(), [(output_of(&spender, 0), txout(99_000))]);
    assert_eq!(chain.unspent_paying(&[]).unwrap(), []);
}

#[test]
fn an_output_goes_through_its_states() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let output = || txout(100_000);

    let (coin, _) = coin(&node, sat(100_000));
    assert_eq!(chain.output(&coin).unwrap(), OutputStatus::Unconfirmed { output: output() });

    node.mine(1).unwrap();
    assert_eq!(chain.output(&coin).unwrap(), OutputStatus::Confirmed { confirmations: 1, output: output() });
    node.mine(2).unwrap();
    assert_eq!(chain.output(&coin).unwrap(), OutputStatus::Confirmed { confirmations: 3, output: output() });

    let spender = spend(&[coin], &[sat(99_000)]);
    chain.broadcast(&spender).unwrap();
    let spent = OutputStatus::SpentInMempool { confirmations: 3, output: output() };
    assert_eq!(chain.output(&coin).unwrap(), spent);

    node.mine(1).unwrap();
    assert_eq!(chain.output(&coin).unwrap(), OutputStatus::Absent);
}

#[test]
fn an_output_that_never_was_is_absent() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));

    let unknown = OutPoint { txid: Txid::all_zeros(), vout: 0 };
    let beyond = OutPoint { vout: coin.vout + 1_000, ..coin };

    assert_eq!(chain.output(&unknown).unwrap(), OutputStatus::Absent);
    assert_eq!(chain.output(&beyond).unwrap(), OutputStatus::Absent);
}

#[test]
fn an_unconfirmed_output_that_is_spent_is_absent_and_its_spender_is_known() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let (coin, _) = coin(&node, sat(100_000));
    assert_eq!(chain.mempool_spender(&coin).unwrap(), None);
    let spender = spend(&[coin], &[sat(99_000)]);

    chain.broadcast(&spender).unwrap();

    assert_eq!(chain.output(&coin).unwrap(), OutputStatus::Absent);
    assert_eq!(chain.mempool_spender(&coin).unwrap(), Some(spender));
}

#[test]
fn a_reorganisation_takes_confirmations_back_and_gives_them_back() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let before = chain.tip().unwrap();
    let coin = confirmed_coin(&node, sat(100_000));
    let with_coin = chain.tip().unwrap();

    node.invalidate(&with_coin.hash).unwrap();
    assert_eq!(chain.tip().unwrap(), before);
    assert_eq!(chain.output(&coin).unwrap(), OutputStatus::Unconfirmed { output: txout(100_000) });

    let other = node.mine_empty().unwrap();
    assert_eq!(chain.tip().unwrap(), BlockId { height: with_coin.height, hash: other });
    assert_eq!(chain.output(&coin).unwrap(), OutputStatus::Unconfirmed { output: txout(100_000) });

    // Both branches are as long as each other. The node returns to the one that it knew first.
    node.reconsider(&with_coin.hash).unwrap();
    assert_eq!(chain.tip().unwrap(), with_coin);
    let confirmed = OutputStatus::Confirmed { confirmations: 1, output: txout(100_000) };
    assert_eq!(chain.output(&coin).unwrap(), confirmed);
}

#[test]
fn blocks_are_found_by_height_and_hash_also_after_a_reorganisation() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let (_, transaction) = coin(&node, sat(100_000));
    let [hash] = node.mine(1).unwrap()[..] else { panic!("one block") };
    let tip = chain.tip().unwrap();

    assert_eq!(tip, BlockId { height: 201, hash });
    assert_eq!(chain.block_hash(201).unwrap(), Some(hash));
    assert_eq!(chain.block_hash(202).unwrap(), None);
    let block = chain.block(&hash).unwrap();
    assert_eq!(block.block_hash(), hash);
    assert!(block.txdata.contains(&transaction));

    node.invalidate(&hash).unwrap();
    assert_eq!(chain.block_hash(201).unwrap(), None);
    assert_eq!(chain.block(&hash).unwrap(), block);
    let unknown = chain.block(&BlockHash::all_zeros()).unwrap_err();
    assert!(matches!(unknown, ChainError::Refused { method: "getblock", .. }), "{unknown:?}");
}

#[test]
fn a_transaction_leaves_the_mempool_when_it_is_mined_also_for_a_node_with_an_index() {
    let node = RegtestNode::start_with(&["-txindex=1"]).unwrap();
    let chain = node.chain();
    let (output, transaction) = coin(&node, sat(100_000));
    assert_eq!(chain.mempool_transaction(&output.txid).unwrap(), Some(transaction));

    let [hash] = node.mine(1).unwrap()[..] else { panic!("one block") };
    common::until("the index knows the transaction", || is_indexed(&node, &output.txid, &hash));

    assert_eq!(chain.mempool_transaction(&output.txid).unwrap(), None);
    assert_eq!(chain.mempool_entry(&output.txid).unwrap(), None);
}

#[test]
fn a_mempool_entry_adds_up_the_fees_of_its_relatives() {
    let node = RegtestNode::start().unwrap();
    let chain = node.chain();
    let coin = confirmed_coin(&node, sat(100_000));
    let parent = spend(&[coin], &[sat(99_000)]);
    let child = spend(&[output_of(&parent, 0)], &[sat(96_000)]);
    chain.broadcast(&parent).unwrap();
    chain.broadcast(&child).unwrap();

    let of_parent = chain.mempool_entry(&parent.compute_txid()).unwrap().unwrap();
    let of_child = chain.mempool_entry(&child.compute_txid()).unwrap().unwrap();

    let (first, second) = (parent.vsize() as u64, child.vsize() as u64);
    assert_eq!((of_parent.fee, of_parent.vsize), (sat(1_000), first));
    assert_eq!((of_parent.ancestor_fee, of_parent.ancestor_vsize), (sat(1_000), first));
    assert_eq!((of_parent.descendant_fee, of_parent.descendant_vsize), (sat(4_000), first + second));
    assert_eq!(of_parent.descendants, 1);
    assert_eq!((of_child.fee, of_child.vsize), (sat(3_000), second));
    assert_eq!((of_child.ancestor_fee, of_child.ancestor_vsize), (sat(4_000), first + second));
    assert_eq!((of_child.descendant_fee, of_child.descendant_vsize), (sat(3_000), second));
    assert_eq!(of_child.descendants, 0);
}

#[test]
fn the_minimum_fee_rate_is_the_nodes_and_regtest_has_no_estimate() {
    let node = RegtestNode::start_with(&["-minrelaytxfee=0.0001"]).unwrap();
    let chain = node.chain();

    assert_eq!(chain.minimum_fee_rate().unwrap(), FeeRate::from_sat_per_vb(10).unwrap());
    for target in [0, 1, 6, u16::MAX] {
        assert_eq!(chain.fee_rate(target).unwrap(), None);
    }
}

/// Asks the node itself, since `Chain` has no use for an index.
fn is_indexed(node: &RegtestNode, txid: &Txid, block: &BlockHash) -> bool {
    let RpcAuth::Cookie(cookie) = node.rpc_config().auth else { panic!("a private node has a cookie") };
    let transport = BitreqHttpTransport::builder()
        .url(&node.rpc_config().url)
        .unwrap()
        .cookie_auth(fs::read_to_string(cookie).unwrap())
        .build();
    let asked = jsonrpc::arg((txid, 1));
    let found = jsonrpc::Client::with_transport(transport).call::<Value>("getrawtransaction", Some(&asked));
    found.is_ok_and(|found| found["blockhash"] == block.to_string())
}
