//! The owner's side of a device's channels: keys that the device never has. They sign policies, and spend what closings leave.
//!
//! | key | what it does |
//! |---|---|
//! | policy | signs what the device may pay ([`super::policy`]) |
//! | payment | spends what the bridge's commitment pays the owner |
//! | delayed payment | spends, after a delay, what the device's own commitment pays the owner |

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use secp256k1::{Keypair, PublicKey, SECP256K1, SecretKey, XOnlyPublicKey};
use serde::{Deserialize, Serialize};

use super::bolt3::Digest;
use super::bolt3::commitment::to_remote_script;
use super::bolt3::fees;
use super::bolt3::keys::secret_key;
use super::policy::{Policy, SignedPolicy};
use crate::amount::DUST;

/// A signature at its longest, with the byte for its type.
const LONGEST_SIGNATURE: usize = 73;

/// The owner's keys for one device. Neither `Clone` nor `Debug`; wiped when dropped.
pub struct OwnerKeys {
    policy: Keypair,
    payment: SecretKey,
    delayed_payment: SecretKey,
}

impl Drop for OwnerKeys {
    fn drop(&mut self) {
        self.policy.non_secure_erase();
        self.payment.non_secure_erase();
        self.delayed_payment.non_secure_erase();
    }
}

impl OwnerKeys {
    pub(crate) fn new([mut policy, payment, delayed_payment]: [SecretKey; 3]) -> Self {
        let keys = Self { policy: Keypair::from_secret_key(SECP256K1, &policy), payment, delayed_payment };
        policy.non_secure_erase();
        keys
    }

    /// Signs policies.
    pub fn policy(&self) -> XOnlyPublicKey {
        self.policy.x_only_public_key().0
    }

    /// Receives the owner's money when the bridge closes.
    pub fn payment(&self) -> PublicKey {
        self.payment.public_key(SECP256K1)
    }

    /// Receives the owner's money when the device closes.
    pub fn delayed_payment(&self) -> PublicKey {
        self.delayed_payment.public_key(SECP256K1)
    }

    /// Signs a policy.
    pub fn sign(&self, policy: Policy) -> SignedPolicy {
        policy.sign(&self.policy)
    }

    /// One transaction that takes all of these to `to`. Valid when the longest delay among them has passed. `None` when they are not
    /// worth the fee.
    pub fn sweep(&self, claims: &[Claim], to: &ScriptBuf, fee_rate: FeeRate) -> Option<Transaction> {
        let total = claims.iter().map(|claim| claim.value).sum();
        let mut transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: claims.iter().map(|claim| claim.input(self)).collect(),
            output: vec![TxOut { value: total, script_pubkey: to.clone() }],
        };
        let fee = fees::fee(fee_rate, transaction.weight());
        transaction.output[0].value = total.checked_sub(fee).filter(|value| *value >= DUST)?;
        let witnesses: Vec<Witness> =
            claims.iter().enumerate().map(|(index, claim)| claim.sign(self, &transaction, index)).collect();
        for (input, witness) in transaction.input.iter_mut().zip(witnesses) {
            input.witness = witness;
        }
        Some(transaction)
    }
}

/// An output that only the owner can spend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Where it is.
    pub outpoint: OutPoint,
    /// What it holds.
    pub value: Amount,
    /// By which key, and from when on.
    pub lock: Lock,
}

/// How an output of the owner's is locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    /// To the payment key: spendable at once.
    Payment,
    /// To the delayed payment key of one commitment.
    Delayed {
        /// That commitment's point.
        point: PublicKey,
        /// The script behind the output.
        script: ScriptBuf,
        /// How many blocks after the output's own it can be spent.
        delay: u16,
    },
}

impl Claim {
    /// The output of this transaction with that delayed script, if there is one.
    pub(super) fn delayed(
        paying: &Transaction,
        script: &ScriptBuf,
        point: PublicKey,
        delay: u16,
    ) -> Option<Self> {
        let (outpoint, value) = find(paying, &script.to_p2wsh())?;
        Some(Self { outpoint, value, lock: Lock::Delayed { point, script: script.clone(), delay } })
    }

    /// What the bridge's commitment pays to this payment key, if anything.
    pub fn of_bridge_commitment(commitment: &Transaction, payment: &PublicKey) -> Option<Self> {
        let (outpoint, value) = find(commitment, &to_remote_script(payment))?;
        Some(Self { outpoint, value, lock: Lock::Payment })
    }

    fn input(&self, keys: &OwnerKeys) -> TxIn {
        let sequence = match &self.lock {
            Lock::Payment => Sequence::ENABLE_RBF_NO_LOCKTIME,
            Lock::Delayed { delay, .. } => Sequence::from_height(*delay),
        };
        let longest = self.witness(keys, vec![0; LONGEST_SIGNATURE]);
        TxIn { previous_output: self.outpoint, script_sig: ScriptBuf::new(), sequence, witness: longest }
    }

    fn witness(&self, keys: &OwnerKeys, signature: Vec<u8>) -> Witness {
        let mut witness = Witness::new();
        witness.push(signature);
        match &self.lock {
            Lock::Payment => witness.push(keys.payment().serialize()),
            Lock::Delayed { script, .. } => {
                witness.push([]);
                witness.push(script);
            }
        }
        witness
    }

    fn sign(&self, keys: &OwnerKeys, transaction: &Transaction, index: usize) -> Witness {
        let (key, digest) = match &self.lock {
            Lock::Payment => {
                let script = to_remote_script(&keys.payment());
                let code = script.p2wpkh_script_code().expect("it is P2WPKH");
                (keys.payment, Digest::of_input(transaction, index, &code, self.value))
            }
            Lock::Delayed { point, script, .. } => {
                let key = secret_key(&keys.delayed_payment, point);
                (key, Digest::of_input(transaction, index, script, self.value))
            }
        };
        let mut signature = digest.sign(&key).serialize_der().to_vec();
        signature.push(bitcoin::EcdsaSighashType::All as u8);
        self.witness(keys, signature)
    }
}

fn find(transaction: &Transaction, script: &ScriptBuf) -> Option<(OutPoint, Amount)> {
    let vout = transaction.output.iter().position(|output| output.script_pubkey == *script)?;
    let txid: Txid = transaction.compute_txid();
    let outpoint = OutPoint { txid, vout: u32::try_from(vout).expect("outputs are counted in 32 bits") };
    Some((outpoint, transaction.output[vout].value))
}
