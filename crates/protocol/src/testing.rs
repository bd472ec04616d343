//! A channel between two fixed parties, and the judgement of Bitcoin's own consensus code.

use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, FeeRate, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid, XOnlyPublicKey};
use secp256k1::SECP256K1;

use crate::channel::{Channel, Expiry, Params, Party};
use crate::keys::{ChannelKeys, KeyId, Seed};

pub const EXPIRY: u32 = 900_000;

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
    let output_key: XOnlyPublicKey = keys.session().x_only_public_key().0;
    Party {
        funding: keys.funding(),
        session: keys.session(),
        output: ScriptBuf::new_p2tr(SECP256K1, output_key, None),
    }
}

pub fn channel() -> Channel {
    channel_with(|_| {})
}

pub fn channel_with(change: impl FnOnce(&mut Params)) -> Channel {
    let mut params = Params {
        network: Network::Regtest,
        funding: OutPoint { txid: Txid::from_byte_array([5; 32]), vout: 0 },
        capacity: Amount::from_sat(100_000),
        expiry: Expiry::at_height(EXPIRY),
        fee_rate: FeeRate::from_sat_per_vb_u32(2),
        prepaid: Amount::from_sat(600),
        payer: party(&payer_keys()),
        payee: party(&payee_keys()),
    };
    change(&mut params);
    Channel::new(params).expect("the fixture makes a channel")
}

/// Whether Bitcoin Core's consensus code lets the transaction spend the funding output.
pub fn spends_funding(channel: &Channel, transaction: &Transaction) -> bool {
    spends(&[channel.funding_txout()], transaction)
}

/// Whether it lets every input of the transaction spend its output of these.
pub fn spends(outputs: &[TxOut], transaction: &Transaction) -> bool {
    let utxo = |output: &TxOut| bitcoinconsensus::Utxo {
        script_pubkey: output.script_pubkey.as_bytes().as_ptr(),
        script_pubkey_len: output.script_pubkey.len() as u32,
        value: output.value.to_sat() as i64,
    };
    let utxos: Vec<_> = outputs.iter().map(utxo).collect();
    let bytes = serialize(transaction);
    outputs.iter().enumerate().all(|(index, output)| {
        let script = output.script_pubkey.as_bytes();
        bitcoinconsensus::verify(script, output.value.to_sat(), &bytes, Some(&utxos), index).is_ok()
    })
}

pub fn assert_spends_funding(channel: &Channel, transaction: &Transaction) {
    assert!(spends_funding(channel, transaction), "consensus rejects {transaction:#?}");
}
