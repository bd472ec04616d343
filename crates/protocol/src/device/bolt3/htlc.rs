//! A hash time-locked contract inside a commitment, and the scripts of its output.

use bitcoin::absolute::LockTime;
use bitcoin::blockdata::opcodes::all::{
    OP_CHECKMULTISIG, OP_CHECKSIG, OP_CLTV, OP_DROP, OP_DUP, OP_ELSE, OP_ENDIF, OP_EQUAL, OP_EQUALVERIFY,
    OP_HASH160, OP_IF, OP_NOTIF, OP_PUSHNUM_2, OP_SIZE, OP_SWAP,
};
use bitcoin::hashes::{Hash, hash160, ripemd160, sha256};
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{Amount, FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};

use super::commitment::{Commitment, CommitmentKeys, HtlcOutput};
use super::digest::Digest;
use super::fees;
use super::terms::Side;
use super::{htlc_success, htlc_timeout};
use crate::amount::Msat;

/// The hash whose preimage is paid for: SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaymentHash(pub [u8; 32]);

/// What hashes to a payment hash: the proof of payment, public once a payment has gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Preimage(pub [u8; 32]);

impl Preimage {
    /// Its hash.
    pub fn hash(&self) -> PaymentHash {
        PaymentHash(sha256::Hash::hash(&self.0).to_byte_array())
    }
}

/// A conditional payment from one side to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Htlc {
    /// Who pays if the preimage is shown.
    pub offered_by: Side,
    /// How much.
    pub amount: Msat,
    /// For whose preimage.
    pub payment_hash: PaymentHash,
    /// From this block height on it goes back.
    pub expiry: u32,
}

impl Htlc {
    /// What its output holds: whole satoshi, rounded down.
    pub fn value(&self) -> Amount {
        self.amount.floor()
    }

    /// The fee of the second-stage transaction that would spend it in the broadcaster's own commitment.
    pub fn second_stage_fee(&self, broadcaster: Side, rate: FeeRate) -> Amount {
        let weight = if self.offered_by == broadcaster { fees::HTLC_TIMEOUT } else { fees::HTLC_SUCCESS };
        fees::fee(rate, weight)
    }

    /// Whether it is too small for an output of its own; then it goes to the miner if the commitment is published.
    pub fn is_trimmed(&self, broadcaster: Side, rate: FeeRate, dust_limit: Amount) -> bool {
        self.value() < dust_limit + self.second_stage_fee(broadcaster, rate)
    }

    /// The script that its output in that commitment pays (by P2WSH).
    pub(super) fn witness_script(&self, broadcaster: Side, keys: &CommitmentKeys) -> ScriptBuf {
        if self.offered_by == broadcaster { self.offered(keys) } else { self.received(keys) }
    }

    fn offered(&self, keys: &CommitmentKeys) -> ScriptBuf {
        start(keys)
            .push_opcode(OP_NOTIF)
            .push_opcode(OP_DROP)
            .push_opcode(OP_PUSHNUM_2)
            .push_opcode(OP_SWAP)
            .push_slice(keys.htlc.serialize())
            .push_opcode(OP_PUSHNUM_2)
            .push_opcode(OP_CHECKMULTISIG)
            .push_opcode(OP_ELSE)
            .push_opcode(OP_HASH160)
            .push_slice(ripemd160::Hash::hash(&self.payment_hash.0).to_byte_array())
            .push_opcode(OP_EQUALVERIFY)
            .push_opcode(OP_CHECKSIG)
            .push_opcode(OP_ENDIF)
            .push_opcode(OP_ENDIF)
            .into_script()
    }

    fn received(&self, keys: &CommitmentKeys) -> ScriptBuf {
        start(keys)
            .push_opcode(OP_IF)
            .push_opcode(OP_HASH160)
            .push_slice(ripemd160::Hash::hash(&self.payment_hash.0).to_byte_array())
            .push_opcode(OP_EQUALVERIFY)
            .push_opcode(OP_PUSHNUM_2)
            .push_opcode(OP_SWAP)
            .push_slice(keys.htlc.serialize())
            .push_opcode(OP_PUSHNUM_2)
            .push_opcode(OP_CHECKMULTISIG)
            .push_opcode(OP_ELSE)
            .push_opcode(OP_DROP)
            .push_int(i64::from(self.expiry))
            .push_opcode(OP_CLTV)
            .push_opcode(OP_DROP)
            .push_opcode(OP_CHECKSIG)
            .push_opcode(OP_ENDIF)
            .push_opcode(OP_ENDIF)
            .into_script()
    }
}

impl HtlcOutput {
    /// What both sides sign of the second-stage transaction that this output leads to.
    pub fn second_stage_digest(&self, commitment: &Commitment) -> Digest {
        if self.htlc.offered_by == commitment.broadcaster() {
            htlc_timeout::digest(commitment, self)
        } else {
            htlc_success::digest(commitment, self)
        }
    }
}

/// What HTLC-timeout and HTLC-success have in common: all but the lock time.
pub(super) fn second_stage(commitment: &Commitment, output: &HtlcOutput, lock_time: LockTime) -> Transaction {
    let fee = output.htlc.second_stage_fee(commitment.broadcaster(), commitment.fee_rate());
    let value =
        output.htlc.value().checked_sub(fee).expect("an HTLC that does not cover this fee is trimmed");
    Transaction {
        version: Version::TWO,
        lock_time,
        input: vec![TxIn {
            previous_output: OutPoint { txid: commitment.txid(), vout: output.vout },
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ZERO,
            witness: Witness::new(),
        }],
        output: vec![TxOut { value, script_pubkey: commitment.delayed_script().to_p2wsh() }],
    }
}

/// What offered and received HTLCs begin with: the way out with the revocation key, and the size of a preimage.
fn start(keys: &CommitmentKeys) -> Builder {
    Builder::new()
        .push_opcode(OP_DUP)
        .push_opcode(OP_HASH160)
        .push_slice(key_hash(&keys.revocation))
        .push_opcode(OP_EQUAL)
        .push_opcode(OP_IF)
        .push_opcode(OP_CHECKSIG)
        .push_opcode(OP_ELSE)
        .push_slice(keys.other_htlc.serialize())
        .push_opcode(OP_SWAP)
        .push_opcode(OP_SIZE)
        .push_int(32)
        .push_opcode(OP_EQUAL)
}

fn key_hash(key: &PublicKey) -> [u8; 20] {
    hash160::Hash::hash(&key.serialize()).to_byte_array()
}
