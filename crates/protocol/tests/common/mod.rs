//! One channel between two fixed parties, looks at the chain, and the judgement of Bitcoin's own consensus code.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod call_story;
pub mod flat_story;
pub mod payee_story;
pub mod payer_story;

use std::convert::Infallible;
use std::sync::LazyLock;

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, FeeRate, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness,
};
use farthing_protocol::channel::Expiry;
use farthing_protocol::closing::{self, Proposal, Settlement};
use farthing_protocol::keys::{ChannelKeys, KeyId, Seed};
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{
    Channel, Msat, Params, Party, Payment, Transition, commitment, payee, payer, refund,
};
use secp256k1::SECP256K1;

/// The expiry of the channel of most stories.
pub const EXPIRY: u32 = 900_000;
/// The tip when most stories begin.
pub const TIP: u32 = 899_000;

pub const POLICY: payee::Policy = payee::Policy {
    confirmations: 3,
    unconfirmed_cap: Msat::new(1_000_000),
    margin: 36,
    patience: 6,
    finality: 6,
};
/// How deep the payer wants a spend.
pub const FINALITY: u32 = 6;

pub fn sat(sat: u64) -> Msat {
    Msat::new(sat * 1_000)
}

pub fn rate(sat_per_vbyte: u32) -> FeeRate {
    FeeRate::from_sat_per_vb_u32(sat_per_vbyte)
}

fn keys(byte: u8) -> ChannelKeys {
    Seed::new([byte; 64], Network::Regtest).channel_keys(KeyId::from_entropy([byte; 8]))
}

pub fn payer_keys() -> ChannelKeys {
    keys(1)
}

pub fn payee_keys() -> ChannelKeys {
    keys(2)
}

fn party(keys: &ChannelKeys) -> Party {
    let output_key = keys.session().x_only_public_key().0;
    let output = ScriptBuf::new_p2tr(SECP256K1, output_key, None);
    Party { funding: keys.funding(), session: keys.session(), output }
}

/// 100,000 sat at 2 sat/vB: a commitment costs 408 sat, so at most 99,592 sat can be paid.
pub fn params() -> Params {
    let terms = Params {
        network: Network::Regtest,
        funding: OutPoint { txid: Txid::all_zeros(), vout: 0 },
        capacity: Amount::from_sat(100_000),
        expiry: Expiry::at_height(EXPIRY),
        fee_rate: rate(2),
        prepaid: Amount::from_sat(600),
        payer: party(&payer_keys()),
        payee: party(&payee_keys()),
    };
    funded(terms)
}

/// The parameters with the outpoint of the transaction that funds them.
pub fn funded(terms: Params) -> Params {
    let channel = Channel::new(terms.clone()).expect("the fixture makes a channel");
    Params { funding: OutPoint { txid: funding_transaction(&channel).compute_txid(), vout: 0 }, ..terms }
}

pub fn channel() -> Channel {
    channel_with(|_| {})
}

pub fn channel_with(change: impl FnOnce(&mut Params)) -> Channel {
    let mut params = params();
    change(&mut params);
    Channel::new(params).expect("the fixture makes a channel")
}

/// What the payer's wallet would build: spends a coin of its own into the funding output.
pub fn funding_transaction(channel: &Channel) -> Transaction {
    let coin = OutPoint { txid: Txid::from_byte_array([5; 32]), vout: 0 };
    transaction(coin, vec![channel.funding_txout()])
}

/// An unsigned transaction that spends one output.
pub fn transaction(from: OutPoint, output: Vec<TxOut>) -> Transaction {
    let (script_sig, sequence, witness) =
        (ScriptBuf::new(), Sequence::ENABLE_RBF_NO_LOCKTIME, Witness::new());
    let input = vec![TxIn { previous_output: from, script_sig, sequence, witness }];
    Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input, output }
}

pub fn payee_setup() -> payee::Setup {
    payee::Setup { channel: channel(), keys: payee_keys(), policy: POLICY }
}

pub fn payer_setup() -> payer::Setup {
    let channel = channel();
    let funding = funding_transaction(&channel);
    payer::Setup { channel, keys: payer_keys(), funding, finality: FINALITY }
}

/// The channel with the payer's and the payee's keys, made once.
static FIXTURE: LazyLock<(Channel, ChannelKeys, ChannelKeys)> =
    LazyLock::new(|| (channel(), payer_keys(), payee_keys()));

/// The payer's signature on a total.
pub fn payment(total: Msat) -> Payment {
    let (channel, payer, _) = &*FIXTURE;
    commitment::sign(channel, payer, total)
}

/// The complete commitment to a total.
pub fn commitment_to(total: Msat) -> Transaction {
    let (channel, _, payee) = &*FIXTURE;
    commitment::complete(channel, payee, &payment(total))
}

/// A settlement at 2 sat/vB.
pub fn settlement(to_payee: u64) -> Settlement {
    Settlement { to_payee: Amount::from_sat(to_payee), fee_rate: rate(2) }
}

/// The complete closing of a settlement.
pub fn closing_of(settlement: &Settlement) -> Transaction {
    let (channel, payer, payee) = &*FIXTURE;
    let proposal = Proposal::new(channel, payer, *settlement, [1; 32]).expect("a settlement that fits");
    let answer = closing::cosign(channel, payee, settlement, &proposal.public_nonce(), [2; 32])
        .expect("a settlement that fits");
    proposal.complete(channel, payer, &answer).expect("both halves of one closing")
}

/// The complete refund.
pub fn refund_at(fee_rate: FeeRate) -> Transaction {
    let (channel, payer, _) = &*FIXTURE;
    refund::complete(channel, payer, fee_rate).expect("the capacity covers the fee")
}

pub fn unconfirmed() -> Funding {
    Funding::Unconfirmed(FIXTURE.0.funding_txout())
}

pub fn confirmed(confirmations: u32) -> Funding {
    Funding::Confirmed { output: FIXTURE.0.funding_txout(), confirmations }
}

pub fn spent(by: &Transaction, confirmations: u32) -> Funding {
    Funding::Spent { by: by.clone().into(), confirmations }
}

/// A look at the chain while 2 sat/vB confirms.
pub fn at(height: u32, funding: Funding) -> Sighting {
    Sighting { height, fee_rate: rate(2), funding, locked: Vec::new() }
}

/// Stores nothing and never fails: the next state and its effects.
pub fn commit<S, E>(transition: Transition<S, E>) -> (S, Vec<E>) {
    match transition.commit(|_| Ok::<_, Infallible>(())) {
        Ok(committed) => committed,
        Err(never) => match never {},
    }
}

/// Whether Bitcoin Core's consensus code lets the transaction spend the funding output.
pub fn spends_funding(channel: &Channel, transaction: &Transaction) -> bool {
    spends(&[channel.funding_txout()], transaction)
}

/// Whether it lets every input of the transaction spend its output of these.
pub fn spends(outputs: &[TxOut], transaction: &Transaction) -> bool {
    let utxo = |output: &TxOut| bitcoinconsensus::Utxo {
        script_pubkey: output.script_pubkey.as_bytes().as_ptr(),
        script_pubkey_len: output.script_pubkey.len().try_into().expect("34 bytes"),
        value: output.value.to_sat().try_into().expect("at most 21 million bitcoin"),
    };
    let utxos: Vec<_> = outputs.iter().map(utxo).collect();
    let bytes = serialize(transaction);
    outputs.iter().enumerate().all(|(index, output)| {
        let script = output.script_pubkey.as_bytes();
        bitcoinconsensus::verify(script, output.value.to_sat(), &bytes, Some(&utxos), index).is_ok()
    })
}

/// Valid by consensus, and what goes in comes out or to the miner.
pub fn assert_valid(channel: &Channel, transaction: &Transaction) {
    assert!(spends_funding(channel, transaction), "consensus rejects {transaction:#?}");
    let out: Amount = transaction.output.iter().map(|output| output.value).sum();
    assert!(out <= channel.params().capacity, "pays out more than is locked: {transaction:#?}");
}
