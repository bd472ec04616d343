//! Coins that anybody may spend, so that the tests are about the chain and not about keys.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

use std::thread;
use std::time::{Duration, Instant};

use bitcoin::absolute::LockTime;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, opcodes,
};
use farthing_chain::RegtestNode;

/// A satoshi amount.
pub fn sat(sat: u64) -> Amount {
    Amount::from_sat(sat)
}

fn anyone() -> ScriptBuf {
    Builder::new().push_opcode(opcodes::OP_TRUE).into_script()
}

/// Where the coins go that anybody may spend.
pub fn address() -> Address {
    Address::p2wsh(&anyone(), Network::Regtest)
}

/// An unconfirmed coin of this amount, and the transaction that makes it.
pub fn coin(node: &RegtestNode, amount: Amount) -> (OutPoint, Transaction) {
    let txid = node.send(&address(), amount).unwrap();
    let transaction = node.chain().mempool_transaction(&txid).unwrap().unwrap();
    let ours = |output: &TxOut| output.script_pubkey == address().script_pubkey();
    let vout = transaction.output.iter().position(ours).unwrap();
    (OutPoint { txid, vout: vout.try_into().unwrap() }, transaction)
}

/// A coin of this amount with one confirmation.
pub fn confirmed_coin(node: &RegtestNode, amount: Amount) -> OutPoint {
    let (coin, _) = coin(node, amount);
    node.mine(1).unwrap();
    coin
}

/// A transaction that spends these coins into coins of these amounts; what is missing is its fee.
pub fn spend(coins: &[OutPoint], amounts: &[Amount]) -> Transaction {
    let input = |coin: &OutPoint| TxIn {
        previous_output: *coin,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness: Witness::from_slice(&[anyone().into_bytes()]),
    };
    let output = |amount: &Amount| TxOut { value: *amount, script_pubkey: address().script_pubkey() };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: coins.iter().map(input).collect(),
        output: amounts.iter().map(output).collect(),
    }
}

/// Like [`spend`], as version 3.
pub fn spend_v3(coins: &[OutPoint], amounts: &[Amount]) -> Transaction {
    Transaction { version: Version(3), ..spend(coins, amounts) }
}

/// An output of a transaction.
pub fn output_of(transaction: &Transaction, vout: u32) -> OutPoint {
    OutPoint { txid: transaction.compute_txid(), vout }
}

/// Waits until the condition holds, for two minutes at most.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
