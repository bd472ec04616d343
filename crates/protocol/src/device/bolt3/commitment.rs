//! The commitment: the state of the channel as one side may publish it alone. The other side's signature makes it valid, and
//! the broadcaster revokes it by revealing its per-commitment secret once a newer one stands.
//!
//! | output | who takes it |
//! |---|---|
//! | to the broadcaster | the broadcaster after its delay; at once the other side, if the commitment was revoked |
//! | to the other side | the other side, by its payment basepoint, at once |
//! | each HTLC above dust | by preimage, by expiry, or, if revoked, the other side |

use bitcoin::absolute::LockTime;
use bitcoin::blockdata::opcodes::all::{OP_CHECKSIG, OP_CSV, OP_DROP, OP_ELSE, OP_ENDIF, OP_IF};
use bitcoin::hashes::{Hash, HashEngine, hash160, sha256};
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{Amount, FeeRate, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, WPubkeyHash, Witness};
use secp256k1::{PublicKey, ecdsa};
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::fees;
use super::funding;
use super::htlc::Htlc;
use super::keys::{public_key, revocation_public_key};
use super::shachain::CommitmentNumber;
use super::terms::{Side, Terms};
use crate::amount::Msat;

/// A state of the channel as one commitment has it. Balances are before the fee; with the HTLCs they make up the capacity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Which commitment of its broadcaster.
    pub number: CommitmentNumber,
    /// The broadcaster's per-commitment point.
    pub point: PublicKey,
    /// What commitment and second stage pay to miners; the holder's balance pays for the commitment.
    pub fee_rate: FeeRate,
    /// What is the holder's.
    pub to_holder: Msat,
    /// What is the bridge's.
    pub to_bridge: Msat,
    /// What is neither's yet.
    pub htlcs: Vec<Htlc>,
}

impl Contents {
    /// Balances and HTLCs together; `None` on overflow.
    pub fn total(&self) -> Option<Msat> {
        let balances = self.to_holder.checked_add(self.to_bridge)?;
        self.htlcs.iter().try_fold(balances, |sum, htlc| sum.checked_add(htlc.amount))
    }

    /// The HTLCs that have an output of their own.
    pub fn untrimmed<'a>(&'a self, terms: &Terms, broadcaster: Side) -> impl Iterator<Item = &'a Htlc> {
        let dust_limit = terms.of(broadcaster).dust_limit;
        self.htlcs.iter().filter(move |htlc| !htlc.is_trimmed(broadcaster, self.fee_rate, dust_limit))
    }

    /// BOLT 3's base fee, which the holder pays.
    pub fn fee(&self, terms: &Terms, broadcaster: Side) -> Amount {
        fees::fee(self.fee_rate, fees::commitment_weight(self.untrimmed(terms, broadcaster).count()))
    }
}

/// The keys of one commitment. *Other* is the side that does not publish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitmentKeys {
    /// Takes everything for the other side, if the commitment was revoked.
    pub revocation: PublicKey,
    /// The broadcaster's, after the delay.
    pub delayed: PublicKey,
    /// The broadcaster's, for HTLCs.
    pub htlc: PublicKey,
    /// The other side's, for HTLCs.
    pub other_htlc: PublicKey,
}

impl CommitmentKeys {
    /// The keys of the broadcaster's commitment with that point.
    pub fn derive(terms: &Terms, broadcaster: Side, point: &PublicKey) -> Self {
        let (own, other) = (&terms.of(broadcaster).basepoints, &terms.of(broadcaster.other()).basepoints);
        Self {
            revocation: revocation_public_key(&other.revocation, point),
            delayed: public_key(&own.delayed_payment, point),
            htlc: public_key(&own.htlc, point),
            other_htlc: public_key(&other.htlc, point),
        }
    }
}

/// A commitment that was built here, without signatures.
#[derive(Clone, Debug)]
pub struct Commitment {
    broadcaster: Side,
    fee_rate: FeeRate,
    keys: CommitmentKeys,
    delayed_script: ScriptBuf,
    transaction: Transaction,
    htlcs: Vec<HtlcOutput>,
    txid: Txid,
    digest: Digest,
}

/// An HTLC's output of a commitment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HtlcOutput {
    /// Where it stands.
    pub vout: u32,
    /// What it is for.
    pub htlc: Htlc,
    /// Its script.
    pub witness_script: ScriptBuf,
}

impl Commitment {
    /// Builds the broadcaster's commitment. When the fee exceeds the holder's balance, all of that balance is the fee (BOLT 3).
    pub fn build(terms: &Terms, broadcaster: Side, contents: &Contents) -> Self {
        let keys = CommitmentKeys::derive(terms, broadcaster, &contents.point);
        let own = terms.of(broadcaster);
        let delayed_script = delayed_script(&keys, own.delay);
        let fee = contents.fee(terms, broadcaster);
        let to_holder = contents.to_holder.floor().checked_sub(fee).unwrap_or(Amount::ZERO);
        let to_bridge = contents.to_bridge.floor();
        let (to_broadcaster, to_other) = match broadcaster {
            Side::Holder => (to_holder, to_bridge),
            Side::Bridge => (to_bridge, to_holder),
        };

        let mut outputs: Vec<(TxOut, Option<(Htlc, ScriptBuf)>)> = contents
            .untrimmed(terms, broadcaster)
            .map(|htlc| {
                let script = htlc.witness_script(broadcaster, &keys);
                let output = TxOut { value: htlc.value(), script_pubkey: script.to_p2wsh() };
                (output, Some((*htlc, script)))
            })
            .collect();
        let other_key = terms.of(broadcaster.other()).basepoints.payment;
        let balances =
            [(to_broadcaster, delayed_script.to_p2wsh()), (to_other, to_remote_script(&other_key))];
        let above_dust = balances.into_iter().filter(|(value, _)| *value >= own.dust_limit);
        outputs.extend(above_dust.map(|(value, script_pubkey)| (TxOut { value, script_pubkey }, None)));
        // BIP69, and then by expiry.
        outputs.sort_by(|(a, a_htlc), (b, b_htlc)| {
            let expiry = |htlc: &Option<(Htlc, ScriptBuf)>| htlc.as_ref().map(|(htlc, _)| htlc.expiry);
            let by_value_and_script =
                a.value.cmp(&b.value).then_with(|| a.script_pubkey.cmp(&b.script_pubkey));
            by_value_and_script.then_with(|| expiry(a_htlc).cmp(&expiry(b_htlc)))
        });

        let htlcs = outputs.iter().enumerate().filter_map(|(vout, (_, htlc))| {
            let (htlc, witness_script) = htlc.clone()?;
            Some(HtlcOutput { vout: vout as u32, htlc, witness_script })
        });
        let htlcs = htlcs.collect();
        let obscured = contents.number.get() ^ obscuring_factor(terms);
        let transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::from_consensus(0x2000_0000 | (obscured & 0xff_ffff) as u32),
            input: vec![TxIn {
                previous_output: terms.funding,
                script_sig: ScriptBuf::new(),
                sequence: Sequence(0x8000_0000 | (obscured >> 24) as u32),
                witness: Witness::new(),
            }],
            output: outputs.into_iter().map(|(output, _)| output).collect(),
        };
        let digest = funding::digest(terms, &transaction);
        let (txid, fee_rate) = (transaction.compute_txid(), contents.fee_rate);
        Self { broadcaster, fee_rate, keys, delayed_script, transaction, htlcs, txid, digest }
    }

    /// What both sides sign.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its id; it does not depend on signatures.
    pub fn txid(&self) -> Txid {
        self.txid
    }

    /// The transaction without signatures.
    pub fn unsigned(&self) -> &Transaction {
        &self.transaction
    }

    /// The HTLC outputs, in the order of the outputs: the order of `htlc_signatures` in `commitment_signed`.
    pub fn htlcs(&self) -> &[HtlcOutput] {
        &self.htlcs
    }

    /// The keys of this commitment.
    pub fn keys(&self) -> &CommitmentKeys {
        &self.keys
    }

    /// Who may publish it.
    pub fn broadcaster(&self) -> Side {
        self.broadcaster
    }

    /// What its second stage pays to miners.
    pub fn fee_rate(&self) -> FeeRate {
        self.fee_rate
    }

    /// The script behind the broadcaster's delayed output, here and in the second stage.
    pub fn delayed_script(&self) -> &ScriptBuf {
        &self.delayed_script
    }

    /// Puts both signatures in: ready to be published.
    pub fn complete(
        &self,
        terms: &Terms,
        holder: &ecdsa::Signature,
        bridge: &ecdsa::Signature,
    ) -> Transaction {
        funding::complete(terms, self.transaction.clone(), holder, bridge)
    }
}

/// Which commitment a published transaction is, by the number that it carries obscured; `None` for one that does not spend the
/// funding output as a commitment does. Whoever published it can have lied: the secret of that number shows.
pub fn number_of(terms: &Terms, transaction: &Transaction) -> Option<CommitmentNumber> {
    let [input] = &transaction.input[..] else { return None };
    let (low, high) = (transaction.lock_time.to_consensus_u32(), input.sequence.0);
    if input.previous_output != terms.funding || low >> 24 != 0x20 || high >> 24 != 0x80 {
        return None;
    }
    let obscured = u64::from(high & 0xff_ffff) << 24 | u64::from(low & 0xff_ffff);
    CommitmentNumber::try_from(obscured ^ obscuring_factor(terms)).ok()
}

/// What the other side gets: P2WPKH of its payment basepoint.
pub fn to_remote_script(payment_basepoint: &PublicKey) -> ScriptBuf {
    let hash = hash160::Hash::hash(&payment_basepoint.serialize());
    ScriptBuf::new_p2wpkh(&WPubkeyHash::from_raw_hash(hash))
}

/// `IF <revocation> ELSE <delay> CSV DROP <delayed> ENDIF CHECKSIG`.
pub(in crate::device) fn delayed_script(keys: &CommitmentKeys, delay: u16) -> ScriptBuf {
    Builder::new()
        .push_opcode(OP_IF)
        .push_slice(keys.revocation.serialize())
        .push_opcode(OP_ELSE)
        .push_int(i64::from(delay))
        .push_opcode(OP_CSV)
        .push_opcode(OP_DROP)
        .push_slice(keys.delayed.serialize())
        .push_opcode(OP_ENDIF)
        .push_opcode(OP_CHECKSIG)
        .into_script()
}

/// The lower 48 bits of the hash over both payment basepoints, the opener's first. The holder opens.
fn obscuring_factor(terms: &Terms) -> u64 {
    let mut engine = sha256::Hash::engine();
    engine.input(&terms.holder.basepoints.payment.serialize());
    engine.input(&terms.bridge.basepoints.payment.serialize());
    let hash = sha256::Hash::from_engine(engine).to_byte_array();
    hash[26..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
