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

use super::bolt3::commitment::{CommitmentKeys, delayed_script, number_of, to_remote_script};
use super::bolt3::fees;
use super::bolt3::keys::secret_key;
use super::bolt3::{Digest, Side};
use super::policy::{Policy, SignedPolicy};
use super::setup::Setup;
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

    /// What a bridge's commitment pays, of whatever channel: how the owner finds its money when the device is lost.
    pub fn payment_script(&self) -> ScriptBuf {
        to_remote_script(&self.payment())
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

    /// An output that pays [`OwnerKeys::payment_script`].
    pub fn of_payment(outpoint: OutPoint, value: Amount) -> Self {
        Self { outpoint, value, lock: Lock::Payment }
    }

    /// What a commitment of the holder's pays, whichever it is; `None` when it is none, or pays the holder nothing.
    pub fn of_holder_commitment(setup: &Setup, commitment: &Transaction) -> Option<Self> {
        let point = setup.point(number_of(&setup.terms, commitment)?);
        let keys = CommitmentKeys::derive(&setup.terms, Side::Holder, &point);
        let delay = setup.terms.holder.delay;
        Self::delayed(commitment, &delayed_script(&keys, delay), point, delay)
    }

    /// What the bridge's commitment pays to this payment key, if anything.
    pub fn of_bridge_commitment(commitment: &Transaction, payment: &PublicKey) -> Option<Self> {
        let (outpoint, value) = find(commitment, &to_remote_script(payment))?;
        Some(Self::of_payment(outpoint, value))
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

#[cfg(test)]
mod tests {
    use bitcoin::consensus::encode::serialize;
    use bitcoin::hashes::Hash as _;
    use bitcoin::{Network, WPubkeyHash};

    use super::super::bolt3::{Basepoints, Commitment, CommitmentNumber, Contents, PartyTerms, Terms};
    use super::*;
    use crate::amount::Msat;
    use crate::keys::Seed;

    fn keys(device: u32) -> OwnerKeys {
        Seed::new([9; 64], Network::Regtest).owner_keys(device)
    }

    fn public(byte: u8) -> PublicKey {
        SecretKey::from_slice(&[byte; 32]).unwrap().public_key(SECP256K1)
    }

    /// A commitment of one side, over a channel of the owner of `keys`.
    fn commitment(keys: &OwnerKeys, broadcaster: Side) -> (Commitment, PublicKey) {
        let (payment, delayed_payment) = (keys.payment(), keys.delayed_payment());
        let own = Basepoints { payment, delayed_payment, htlc: public(1), revocation: public(2) };
        let point = public(3);
        let bridge = Basepoints { payment: point, delayed_payment: point, htlc: point, revocation: point };
        let party = |funding_key, basepoints| PartyTerms {
            funding_key,
            basepoints,
            dust_limit: Amount::from_sat(354),
            delay: 144,
        };
        let terms = Terms {
            funding: OutPoint { txid: Txid::from_byte_array([5; 32]), vout: 0 },
            capacity: Amount::from_sat(100_000),
            holder: party(public(4), own),
            bridge: party(public(5), bridge),
        };
        let point = public(6);
        let contents = Contents {
            number: CommitmentNumber::FIRST,
            point,
            fee_rate: FeeRate::from_sat_per_kwu(500),
            to_holder: Msat::new(90_000_000),
            to_bridge: Msat::new(10_000_000),
            htlcs: vec![],
        };
        (Commitment::build(&terms, broadcaster, &contents), point)
    }

    fn delayed(keys: &OwnerKeys) -> Claim {
        let (built, point) = commitment(keys, Side::Holder);
        Claim::delayed(built.unsigned(), built.delayed_script(), point, 144).unwrap()
    }

    fn payment(keys: &OwnerKeys) -> Claim {
        let (built, _) = commitment(keys, Side::Bridge);
        Claim::of_bridge_commitment(built.unsigned(), &keys.payment()).unwrap()
    }

    /// What Bitcoin Core's consensus code says of each input.
    fn verdicts(claims: &[Claim], keys: &OwnerKeys, sweep: &Transaction) -> Vec<bool> {
        let script = |claim: &Claim| match &claim.lock {
            Lock::Payment => to_remote_script(&keys.payment()),
            Lock::Delayed { script, .. } => script.to_p2wsh(),
        };
        let verify = |(index, claim): (usize, &Claim)| {
            let (script, value) = (script(claim), claim.value.to_sat());
            bitcoinconsensus::verify(script.as_bytes(), value, &serialize(sweep), None, index).is_ok()
        };
        claims.iter().enumerate().map(verify).collect()
    }

    fn to() -> ScriptBuf {
        ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([8; 20]))
    }

    #[test]
    fn what_either_sides_commitment_leaves_is_swept_in_one_transaction() {
        let keys = keys(0);
        let claims = [delayed(&keys), payment(&keys)];
        let rate = FeeRate::from_sat_per_kwu(1_000);
        let sweep = keys.sweep(&claims, &to(), rate).unwrap();
        assert_eq!(verdicts(&claims, &keys, &sweep), [true, true]);
        let fee = claims[0].value + claims[1].value - sweep.output[0].value;
        assert!(fee.to_sat() >= sweep.weight().to_wu(), "{fee} for {}", sweep.weight());
        assert!(fee.to_sat() <= sweep.weight().to_wu() + 10, "{fee} for {}", sweep.weight());
    }

    #[test]
    fn before_the_delay_and_with_other_keys_nothing_is_valid() {
        let keys = keys(0);
        let claims = [delayed(&keys)];
        let mut early = keys.sweep(&claims, &to(), FeeRate::BROADCAST_MIN).unwrap();
        early.input[0].sequence = Sequence::from_height(143);
        assert_eq!(verdicts(&claims, &keys, &early), [false]);
        let other = super::tests::keys(1);
        assert_ne!(other.delayed_payment(), keys.delayed_payment());
        let stolen = other.sweep(&claims, &to(), FeeRate::BROADCAST_MIN).unwrap();
        assert_eq!(verdicts(&claims, &keys, &stolen), [false]);
    }

    #[test]
    fn what_is_not_worth_the_fee_stays() {
        let keys = keys(0);
        let rate = FeeRate::from_sat_per_kwu(200_000);
        assert_eq!(keys.sweep(&[delayed(&keys)], &to(), rate), None);
        assert_eq!(keys.sweep(&[], &to(), rate), None);
    }
}
