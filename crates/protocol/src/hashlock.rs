//! The hash-locked output: money that the payee takes with a preimage, or the payer takes back after a delay.
//!
//! | leaf | who | script |
//! |---|---|---|
//! | claim | payee, with the preimage | `SHA256 <lock> EQUALVERIFY <payee> CHECKSIG` |
//! | timeout | payer, `delay` blocks after the output confirmed (BIP68, BIP112) | `<payer> CHECKSIGVERIFY <delay> CSV` |
//!
//! The payee's signature is part of the claim: without it, whoever sees the preimage in the mempool could send the
//! money elsewhere. The internal key is the point of BIP341 whose discrete logarithm nobody knows, so there is no key
//! path. Both spends are at the end of this file; each may join several outputs.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::opcodes::all::{OP_CHECKSIG, OP_CHECKSIGVERIFY, OP_CSV, OP_EQUALVERIFY, OP_SHA256};
use bitcoin::script::Builder;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::taproot::{LeafVersion, TapLeafHash, TaprootBuilder, TaprootSpendInfo};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Weight, Witness, XOnlyPublicKey,
};
use secp256k1::{Message, SECP256K1, schnorr};
use serde::{Deserialize, Serialize};

use crate::amount::DUST;
use crate::channel::Channel;
use crate::keys::ChannelKeys;

/// BIP341's point `H`: SHA256 of the generator's encoding, lifted to the curve.
const NOBODY: [u8; 32] = [
    0x50, 0x92, 0x9b, 0x74, 0xc1, 0xa0, 0x49, 0x54, 0xb7, 0x8b, 0x4b, 0x60, 0x35, 0xe9, 0x7a, 0x5e, 0x07,
    0x8a, 0x5a, 0x0f, 0x28, 0xec, 0x96, 0xd5, 0x47, 0xbf, 0xee, 0x9a, 0xce, 0x80, 0x3a, 0xc0,
];

/// How many blocks after an output has confirmed the payer may take it back (`OP_CHECKSEQUENCEVERIFY`, BIP112).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Delay(u16);

impl Delay {
    /// A delay of so many blocks.
    pub const fn blocks(blocks: u16) -> Self {
        Self(blocks)
    }

    /// The number of blocks.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The scripts of one hash-locked output.
#[derive(Clone, Debug)]
pub struct HashLock {
    claim_leaf: ScriptBuf,
    timeout_leaf: ScriptBuf,
    spend_info: TaprootSpendInfo,
    script_pubkey: ScriptBuf,
    delay: Delay,
}

impl HashLock {
    /// The output between a channel's two parties that `SHA256(preimage) = lock` opens for the payee.
    pub fn new(channel: &Channel, lock: &[u8; 32], delay: Delay) -> Self {
        let (payer, payee) = (channel.params().payer.funding_xonly(), channel.params().payee.funding_xonly());
        let claim_leaf = Builder::new()
            .push_opcode(OP_SHA256)
            .push_slice(lock)
            .push_opcode(OP_EQUALVERIFY)
            .push_x_only_key(&payee)
            .push_opcode(OP_CHECKSIG)
            .into_script();
        let timeout_leaf = timeout_leaf(&payer, delay);
        let spend_info = TaprootBuilder::new()
            .add_leaf(1, claim_leaf.clone())
            .and_then(|tree| tree.add_leaf(1, timeout_leaf.clone()))
            .expect("two leaves at depth one make a tree")
            .finalize(SECP256K1, nobody())
            .expect("the tree is complete");
        let script_pubkey = ScriptBuf::new_p2tr_tweaked(spend_info.output_key());
        Self { claim_leaf, timeout_leaf, spend_info, script_pubkey, delay }
    }

    /// How long the payee has to claim it.
    pub fn delay(&self) -> Delay {
        self.delay
    }

    /// The script that a transaction pays.
    pub fn script_pubkey(&self) -> &ScriptBuf {
        &self.script_pubkey
    }
}

/// `<payer> CHECKSIGVERIFY <delay> CSV`.
pub(crate) fn timeout_leaf(payer: &XOnlyPublicKey, delay: Delay) -> ScriptBuf {
    Builder::new()
        .push_x_only_key(payer)
        .push_opcode(OP_CHECKSIGVERIFY)
        .push_int(i64::from(delay.0))
        .push_opcode(OP_CSV)
        .into_script()
}

/// The internal key of outputs that have no key path.
pub(crate) fn nobody() -> XOnlyPublicKey {
    XOnlyPublicKey::from_slice(&NOBODY).expect("BIP341's point is on the curve")
}

/// One hash-locked output that is to be spent.
#[derive(Clone, Copy, Debug)]
pub struct Locked<'a> {
    /// Where it is.
    pub outpoint: OutPoint,
    /// What it holds.
    pub value: Amount,
    /// Its scripts.
    pub scripts: &'a HashLock,
}

/// A spend that costs more than it brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the output holds {value}, and to spend it costs {fee}")]
pub struct NotWorthIt {
    /// What there is to take.
    pub value: Amount,
    /// What it would cost.
    pub fee: Amount,
}

/// The weight of a claim of so many outputs: 154 vB for one, 100 vB for each further one (up to 252).
pub fn claim_weight(outputs: usize) -> Weight {
    spend_weight(outputs, CLAIM_WITNESS)
}

const CLAIM_WITNESS: u64 = 235; // count, signature, preimage, leaf of 69 bytes, control block, each with its length

fn spend_weight(inputs: usize, witness: u64) -> Weight {
    const BASE: u64 = (8 + 1 + 43) * 4 + 2; // version and lock time, output count, one Taproot output; marker and flag
    let count = if inputs < 253 { 1 } else { 3 };
    Weight::from_wu(BASE + count * 4 + inputs as u64 * (41 * 4 + witness))
}

/// The payee's claim: takes hash-locked outputs with their preimages into its own output, in a transaction of that
/// version. As the only child of a version 3 commitment it is version 3 itself and pays for both (BIP431).
///
/// # Errors
/// When the fee leaves nothing above dust.
pub fn claim(
    channel: &Channel,
    keys: &ChannelKeys,
    outputs: &[(Locked<'_>, [u8; 32])],
    version: Version,
    fee: Amount,
) -> Result<Transaction, NotWorthIt> {
    let locked: Vec<Locked<'_>> = outputs.iter().map(|(locked, _)| *locked).collect();
    let to = channel.params().payee.output.clone();
    let mut transaction = unsigned(&locked, version, Sequence::ENABLE_RBF_NO_LOCKTIME, to, fee)?;
    let signatures = sign(keys, &transaction, &locked, |scripts| &scripts.claim_leaf);
    for ((input, signature), (locked, preimage)) in transaction.input.iter_mut().zip(signatures).zip(outputs)
    {
        input.witness.push(signature.as_ref());
        input.witness.push(preimage);
        push_leaf(&mut input.witness, locked.scripts, &locked.scripts.claim_leaf);
    }
    Ok(transaction)
}

/// The payer's way: takes hash-locked outputs back, valid from `delay` blocks after they confirmed.
///
/// # Errors
/// When the fee leaves nothing above dust.
pub fn take_back(
    channel: &Channel,
    keys: &ChannelKeys,
    outputs: &[Locked<'_>],
    fee_rate: FeeRate,
) -> Result<Transaction, NotWorthIt> {
    let delay = outputs.first().map_or(Delay(0), |locked| locked.scripts.delay);
    let to = channel.params().payer.output.clone();
    // Nodes count whole virtual bytes: a fee by weight could be just below what they relay.
    let fee = fee_rate.fee_vb(take_back_weight(outputs).to_vbytes_ceil()).unwrap_or(Amount::MAX);
    let sequence = Sequence::from_height(delay.0);
    let mut transaction = unsigned(outputs, Version::TWO, sequence, to, fee)?;
    let signatures = sign(keys, &transaction, outputs, |scripts| &scripts.timeout_leaf);
    for ((input, signature), locked) in transaction.input.iter_mut().zip(signatures).zip(outputs) {
        input.witness.push(signature.as_ref());
        push_leaf(&mut input.witness, locked.scripts, &locked.scripts.timeout_leaf);
    }
    Ok(transaction)
}

/// The weight of taking these outputs back: about 138 vB for one, 84 vB for each further one.
pub fn take_back_weight(outputs: &[Locked<'_>]) -> Weight {
    let leaf = outputs.first().map_or(0, |locked| locked.scripts.timeout_leaf.len() as u64);
    spend_weight(outputs.len(), 1 + 65 + 1 + leaf + 66)
}

fn unsigned(
    outputs: &[Locked<'_>],
    version: Version,
    sequence: Sequence,
    to: ScriptBuf,
    fee: Amount,
) -> Result<Transaction, NotWorthIt> {
    let sum: Amount = outputs.iter().map(|locked| locked.value).sum();
    let value = sum.checked_sub(fee).filter(|value| *value >= DUST).ok_or(NotWorthIt { value: sum, fee })?;
    let input = |locked: &Locked<'_>| TxIn {
        previous_output: locked.outpoint,
        script_sig: ScriptBuf::new(),
        sequence,
        witness: Witness::new(),
    };
    Ok(Transaction {
        version,
        lock_time: LockTime::ZERO,
        input: outputs.iter().map(input).collect(),
        output: vec![TxOut { value, script_pubkey: to }],
    })
}

fn sign<'a>(
    keys: &ChannelKeys,
    transaction: &Transaction,
    outputs: &[Locked<'a>],
    leaf: impl Fn(&'a HashLock) -> &'a ScriptBuf,
) -> Vec<schnorr::Signature> {
    let spent: Vec<TxOut> = outputs
        .iter()
        .map(|locked| TxOut { value: locked.value, script_pubkey: locked.scripts.script_pubkey.clone() })
        .collect();
    let mut cache = SighashCache::new(transaction);
    let mut signature = |(index, locked): (usize, &Locked<'a>)| {
        let leaf = TapLeafHash::from_script(leaf(locked.scripts), LeafVersion::TapScript);
        let digest = cache
            .taproot_script_spend_signature_hash(index, &Prevouts::All(&spent), leaf, TapSighashType::Default)
            .expect("one output is given for each input");
        SECP256K1.sign_schnorr_no_aux_rand(&Message::from_digest(digest.to_byte_array()), &keys.funding)
    };
    outputs.iter().enumerate().map(&mut signature).collect()
}

fn push_leaf(witness: &mut Witness, scripts: &HashLock, leaf: &ScriptBuf) {
    witness.push(leaf.as_bytes());
    let control = scripts.spend_info.control_block(&(leaf.clone(), LeafVersion::TapScript));
    witness.push(control.expect("the leaf is one of the two in the tree").serialize());
}

#[cfg(test)]
mod tests {
    use bitcoin::Txid;
    use bitcoin::hashes::sha256;

    use super::*;
    use crate::testing;

    fn lock(preimage: &[u8; 32]) -> [u8; 32] {
        sha256::Hash::hash(preimage).to_byte_array()
    }

    /// Several outputs of one transaction, each with its own preimage.
    fn outputs(channel: &Channel, count: u8) -> Vec<(HashLock, OutPoint, [u8; 32])> {
        let output = |index: u8| {
            let preimage = [index; 32];
            let scripts = HashLock::new(channel, &lock(&preimage), Delay::blocks(36));
            let txid = Txid::from_byte_array([9; 32]);
            (scripts, OutPoint { txid, vout: index.into() }, preimage)
        };
        (0..count).map(output).collect()
    }

    const VALUE: Amount = Amount::from_sat(5_000);

    fn spent(outputs: &[(HashLock, OutPoint, [u8; 32])]) -> Vec<TxOut> {
        outputs
            .iter()
            .map(|(scripts, ..)| TxOut { value: VALUE, script_pubkey: scripts.script_pubkey.clone() })
            .collect()
    }

    #[test]
    fn the_payee_claims_one_or_many_with_their_preimages_and_weighs_what_is_stated() {
        let channel = testing::channel();
        for count in [1, 2, 5] {
            let outputs = outputs(&channel, count);
            let claims: Vec<_> = outputs
                .iter()
                .map(|(scripts, outpoint, preimage)| {
                    (Locked { outpoint: *outpoint, value: VALUE, scripts }, *preimage)
                })
                .collect();
            let fee = Amount::from_sat(700);
            let claim = claim(&channel, &testing::payee_keys(), &claims, Version(3), fee).unwrap();
            assert_eq!(claim.weight(), claim_weight(claims.len()));
            assert!(testing::spends(&spent(&outputs), &claim));
            let paid = Channel::paid_to(&claim, &channel.params().payee);
            assert_eq!(paid + fee, VALUE * u64::from(count));
        }
        assert_eq!(claim_weight(1).to_vbytes_ceil(), 154);
        assert_eq!((claim_weight(3) - claim_weight(2)).to_vbytes_ceil(), 100);
    }

    #[test]
    fn without_the_preimage_or_without_the_payee_nobody_claims() {
        let channel = testing::channel();
        let outputs = outputs(&channel, 1);
        let (scripts, outpoint, preimage) = &outputs[0];
        let locked = Locked { outpoint: *outpoint, value: VALUE, scripts };
        let fee = Amount::from_sat(700);
        let mut wrong = *preimage;
        wrong[31] ^= 1;
        let guessed = claim(&channel, &testing::payee_keys(), &[(locked, wrong)], Version(3), fee).unwrap();
        assert!(!testing::spends(&spent(&outputs), &guessed));
        let thief = claim(&channel, &testing::payer_keys(), &[(locked, *preimage)], Version(3), fee).unwrap();
        assert!(!testing::spends(&spent(&outputs), &thief));
    }

    #[test]
    fn the_payer_takes_back_after_the_delay_and_only_as_it_was_agreed() {
        let channel = testing::channel();
        let outputs = outputs(&channel, 3);
        let locked: Vec<_> = outputs
            .iter()
            .map(|(scripts, outpoint, _)| Locked { outpoint: *outpoint, value: VALUE, scripts })
            .collect();
        let rate = FeeRate::from_sat_per_vb_u32(3);
        let back = take_back(&channel, &testing::payer_keys(), &locked, rate).unwrap();
        assert_eq!(back.weight(), take_back_weight(&locked));
        assert!(testing::spends(&spent(&outputs), &back));
        let mut early = back.clone();
        early.input[0].sequence = Sequence::from_height(35);
        assert!(!testing::spends(&spent(&outputs), &early));
        let stranger = take_back(&channel, &testing::payee_keys(), &locked, rate).unwrap();
        assert!(!testing::spends(&spent(&outputs), &stranger));
    }

    #[test]
    fn what_costs_more_than_it_brings_is_left() {
        let channel = testing::channel();
        let outputs = outputs(&channel, 1);
        let (scripts, outpoint, preimage) = &outputs[0];
        let locked = Locked { outpoint: *outpoint, value: VALUE, scripts };
        let fee = Amount::from_sat(4_671);
        let refused = claim(&channel, &testing::payee_keys(), &[(locked, *preimage)], Version(3), fee);
        assert_eq!(refused, Err(NotWorthIt { value: VALUE, fee }));
    }
}
