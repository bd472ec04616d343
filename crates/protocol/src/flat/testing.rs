//! One flat batch between the two fixed parties, and a payee's wallet with two coins for fees.

use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash;
use bitcoin::key::TapTweak;
use bitcoin::psbt::Psbt;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::{Amount, FeeRate, OutPoint, ScriptBuf, Transaction, TxOut, Txid, Witness};
use secp256k1::{Keypair, Message, SECP256K1};

use crate::amount::Msat;
use crate::channel::Channel;
use crate::flat::{Commitment, FeeInput, LsfOutput, Outputs, Preimages, Terms};
use crate::hashlock::Delay;
use crate::testing;

pub const MARGIN: u32 = 36;
pub const BATCH: u32 = 1;

pub const fn terms() -> Terms {
    Terms {
        outputs: 20,
        unit: Amount::from_sat(2_500),
        prepaid: Amount::from_sat(1_000),
        d1: Delay::blocks(36),
        d2: Delay::blocks(40),
        most_fee_rate: FeeRate::from_sat_per_vb_u32(20),
    }
}

/// A channel that can carry the largest batch.
pub fn large_channel() -> Channel {
    testing::channel_with(|params| params.capacity = Amount::from_sat(10_000_000))
}

pub fn preimages(channel: &Channel) -> Preimages {
    Preimages::new([3; 32], channel.id(), BATCH)
}

pub fn outputs(channel: &Channel, terms: &Terms) -> Outputs {
    Outputs::new(channel, terms, preimages(channel).locks(terms).unwrap())
}

pub fn lsf(channel: &Channel, terms: &Terms) -> LsfOutput {
    Commitment::new(channel, terms, Msat::new(5_000_000)).unwrap().lsf().clone()
}

/// The outputs of a batch as the chain shows them.
pub fn spent(batch: &Outputs, of: &[u32]) -> Vec<TxOut> {
    let all = batch.txouts();
    of.iter().map(|index| all[*index as usize].clone()).collect()
}

/// Whether Bitcoin Core's consensus code accepts that input, whatever the others are.
pub fn spends_input(spent: &[TxOut], transaction: &Transaction, index: usize) -> bool {
    let utxo = |output: &TxOut| bitcoinconsensus::Utxo {
        script_pubkey: output.script_pubkey.as_bytes().as_ptr(),
        script_pubkey_len: output.script_pubkey.len() as u32,
        value: output.value.to_sat() as i64,
    };
    let utxos: Vec<_> = spent.iter().map(utxo).collect();
    let (script, value) = (spent[index].script_pubkey.as_bytes(), spent[index].value.to_sat());
    bitcoinconsensus::verify(script, value, &serialize(transaction), Some(&utxos), index).is_ok()
}

fn wallet_key() -> Keypair {
    Keypair::from_seckey_slice(SECP256K1, &[8; 32]).unwrap()
}

/// Taproot key-path coins (BIP86) of the payee's wallet.
pub fn coins(values: &[u64]) -> Vec<FeeInput> {
    let script = ScriptBuf::new_p2tr(SECP256K1, wallet_key().x_only_public_key().0, None);
    let coin = |(vout, value): (u32, &u64)| FeeInput {
        outpoint: OutPoint { txid: Txid::from_byte_array([4; 32]), vout },
        output: TxOut { value: Amount::from_sat(*value), script_pubkey: script.clone() },
    };
    (0..).zip(values).map(coin).collect()
}

/// What a wallet does with the PSBT: signs its own inputs, and lets those be that are final.
pub fn wallet_signs(mut psbt: Psbt) -> (Vec<TxOut>, Transaction) {
    let spent: Vec<TxOut> = psbt.inputs.iter().map(|input| input.witness_utxo.clone().unwrap()).collect();
    let key = wallet_key().tap_tweak(SECP256K1, None).to_keypair();
    let mut cache = SighashCache::new(&psbt.unsigned_tx);
    for (index, input) in psbt.inputs.iter_mut().enumerate() {
        if input.final_script_witness.is_none() {
            let digest = cache
                .taproot_key_spend_signature_hash(index, &Prevouts::All(&spent), TapSighashType::Default)
                .unwrap();
            let digest = Message::from_digest(digest.to_byte_array());
            let signature = SECP256K1.sign_schnorr_no_aux_rand(&digest, &key);
            input.final_script_witness = Some(Witness::from_slice(&[signature.as_ref()]));
        }
    }
    (spent, psbt.extract_tx_unchecked_fee_rate())
}
