//! The micropayment transaction: spends the LSF output into N equal hash-locked outputs, one for each call. The payer
//! signs it before it signs the commitment; only the payee can complete and publish it.
//!
//! * version 2, so that it may be as large as relays: it follows once the version 3 commitment has confirmed (BIP431: a
//!   version 2 transaction may not spend an unconfirmed version 3 one);
//! * input 0 is the LSF output, through its micropayment leaf. It pays for the outputs to the last satoshi, so the fee
//!   comes from one or two coins of the payee's wallet, key-path Taproot, added when it publishes. There is no change:
//!   that output would be missing in what the payer signed. The wallet makes coins of the right size first;
//! * both sign ALL|ANYONECANPAY (BIP341): their own input and every output, not the other inputs. So the payer can sign
//!   before the fee coins exist, and the payee raises the fee by other coins (BIP125) without another signature of the
//!   payer's.
//!
//! **Anybody who sees it can exchange the fee inputs** for better ones of his own; all outputs stay as they are. So its
//! txid is known only when it has confirmed: look for what spends [`LsfOutput::outpoint`], and ask
//! [`Micropayment::published_as`].

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::psbt::{Input, Psbt};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Weight, Witness, taproot,
};
use secp256k1::{Message, SECP256K1, schnorr};

use crate::channel::Channel;
use crate::flat::lsf::{Lsf, LsfOutput};
use crate::flat::outputs::Outputs;
use crate::flat::spends::{MOST_WEIGHT, fee};
use crate::keys::ChannelKeys;

/// How many fee inputs there are at most.
pub const FEE_INPUTS: u32 = 2;
/// The most outputs of a standard version 2 micropayment transaction with two fee inputs.
pub const MOST_OUTPUTS: u32 = most_outputs(MOST_WEIGHT);
/// The same for version 3: 10,000 vB (BIP431). With no fee input at all it would be two more.
pub const MOST_OUTPUTS_V3: u32 = most_outputs(Weight::from_wu(40_000));

const SIGHASH: TapSighashType = TapSighashType::AllPlusAnyoneCanPay;

/// The weight of a complete micropayment transaction: 43 vB for each output, and 176 vB with one fee input or 234 with
/// two (2 vB more from 253 outputs on).
pub const fn weight(outputs: u32, fee_inputs: u32) -> Weight {
    const OUTPUT: u64 = 43;
    const INPUT: u64 = 41;
    const LSF_WITNESS: u64 = 1 + 66 + 66 + 69 + 66; // count, two signatures with their sighash, leaf, control block
    const FEE_WITNESS: u64 = 1 + 65; // count, one signature under SIGHASH_DEFAULT
    let count = match outputs {
        0..=0xfc => 1,
        0xfd..=0xffff => 3,
        0x1_0000..=u32::MAX => 5,
    };
    let base = 8 + 1 + count + INPUT * (1 + fee_inputs as u64) + OUTPUT * outputs as u64;
    Weight::from_wu(4 * base + 2 + LSF_WITNESS + FEE_WITNESS * fee_inputs as u64)
}

const fn most_outputs(limit: Weight) -> u32 {
    let mut outputs = 0;
    while weight(outputs + 1, FEE_INPUTS).to_wu() <= limit.to_wu() {
        outputs += 1;
    }
    outputs
}

/// The fee of a micropayment transaction at that rate: what its fee inputs must hold together.
pub fn fee_at(outputs: u32, fee_inputs: u32, fee_rate: FeeRate) -> Amount {
    fee(fee_rate, weight(outputs, fee_inputs))
}

/// A coin of the payee's wallet that pays the fee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeeInput {
    /// Where it is.
    pub outpoint: OutPoint,
    /// What it is: a Taproot output that the wallet spends by the key path.
    pub output: TxOut,
}

/// An LSF output that does not hold what the outputs pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the LSF output holds {} sat, and the outputs {} sat", .lsf.to_sat(), .outputs.to_sat())]
pub struct Uneven {
    /// What the LSF output holds.
    pub lsf: Amount,
    /// What the outputs hold together.
    pub outputs: Amount,
}

/// A payer's signature that does not fit a micropayment transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit the micropayment transaction of this commitment")]
pub struct WrongSignature;

/// Coins that cannot pay the fee.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadFeeInputs {
    /// Not one or two.
    #[error("{0} fee inputs, but there are from 1 to {FEE_INPUTS}")]
    Count(usize),
    /// Sizes are computed for Taproot inputs.
    #[error("{outpoint} is not a Taproot output: {script}")]
    NotTaproot {
        /// Which coin.
        outpoint: OutPoint,
        /// Its script.
        script: ScriptBuf,
    },
    /// One coin twice, or the LSF output itself.
    #[error("{0} is spent already")]
    Twice(OutPoint),
    /// It would not relay.
    #[error("the fee inputs hold {} sat, and nothing relays below {} sat", .got.to_sat(), .needed.to_sat())]
    TooLittle {
        /// What they hold together.
        got: Amount,
        /// The least fee.
        needed: Amount,
    },
    /// All that the coins hold goes to the miner: there is no change.
    #[error("the fee inputs hold {} sat, and the fee may be {} sat", .got.to_sat(), .most.to_sat())]
    TooMuch {
        /// What they hold together.
        got: Amount,
        /// The highest fee that the caller pays.
        most: Amount,
    },
}

/// An unsigned micropayment transaction, still without fee inputs.
#[derive(Clone, Debug)]
pub struct Micropayment {
    unsigned: Transaction,
    digest: Message,
    lsf: LsfOutput,
}

impl Micropayment {
    /// The micropayment transaction of one commitment's LSF output.
    ///
    /// # Errors
    /// When the outputs are not of the terms that the commitment has: what they hold differs.
    pub fn new(lsf: &LsfOutput, outputs: &Outputs) -> Result<Self, Uneven> {
        let sum = outputs.sum().unwrap_or(Amount::MAX);
        if sum != lsf.value {
            return Err(Uneven { lsf: lsf.value, outputs: sum });
        }
        let unsigned = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![input(lsf.outpoint)],
            output: outputs.txouts(),
        };
        Ok(Self { digest: digest(&unsigned, lsf), unsigned, lsf: lsf.clone() })
    }

    /// The output that it spends.
    pub fn lsf(&self) -> &LsfOutput {
        &self.lsf
    }

    /// Signs, as the payer; before the commitment.
    pub fn sign(&self, keys: &ChannelKeys) -> schnorr::Signature {
        SECP256K1.sign_schnorr_no_aux_rand(&self.digest, &keys.funding)
    }

    /// Checks the payer's signature, as the payee; before it takes the commitment's.
    ///
    /// # Errors
    /// When the signature is for another commitment, other locks or another key.
    pub fn verify(&self, channel: &Channel, signature: &schnorr::Signature) -> Result<(), WrongSignature> {
        SECP256K1
            .verify_schnorr(signature, &self.digest, &channel.params().payer.funding_xonly())
            .map_err(|_| WrongSignature)
    }

    /// Adds the payee's signature and the coins that pay the fee, all that they hold. Input 0 is final; the wallet
    /// signs the others, key path and SIGHASH_DEFAULT.
    ///
    /// # Errors
    /// When the coins cannot pay a fee that relays, or hold more than `most_fee`.
    pub fn complete(
        &self,
        keys: &ChannelKeys,
        signature: &schnorr::Signature,
        fee_inputs: &[FeeInput],
        most_fee: Amount,
    ) -> Result<Psbt, BadFeeInputs> {
        self.check(fee_inputs, most_fee)?;
        let mut unsigned = self.unsigned.clone();
        unsigned.input.extend(fee_inputs.iter().map(|coin| input(coin.outpoint)));
        let mut psbt = Psbt::from_unsigned_tx(unsigned).expect("the transaction has no signatures");
        let spent = [self.lsf.txout()].into_iter().chain(fee_inputs.iter().map(|coin| coin.output.clone()));
        for (input, output) in psbt.inputs.iter_mut().zip(spent) {
            *input = Input { witness_utxo: Some(output), ..Input::default() };
        }
        psbt.inputs[0].final_script_witness = Some(self.witness(keys, signature));
        Ok(psbt)
    }

    fn check(&self, fee_inputs: &[FeeInput], most_fee: Amount) -> Result<(), BadFeeInputs> {
        let count = match fee_inputs.len() {
            1 => 1,
            2 => 2,
            other => return Err(BadFeeInputs::Count(other)),
        };
        let mut spent = vec![self.lsf.outpoint];
        let mut got = Amount::ZERO;
        for FeeInput { outpoint, output } in fee_inputs {
            if !output.script_pubkey.is_p2tr() {
                let script = output.script_pubkey.clone();
                return Err(BadFeeInputs::NotTaproot { outpoint: *outpoint, script });
            }
            if spent.contains(outpoint) {
                return Err(BadFeeInputs::Twice(*outpoint));
            }
            spent.push(*outpoint);
            got = got.checked_add(output.value).unwrap_or(Amount::MAX);
        }
        let outputs = self.unsigned.output.len() as u32; // `Locks` has no more than `MOST_OUTPUTS`
        let needed = fee_at(outputs, count, FeeRate::BROADCAST_MIN);
        if got < needed {
            return Err(BadFeeInputs::TooLittle { got, needed });
        }
        if got > most_fee {
            return Err(BadFeeInputs::TooMuch { got, most: most_fee });
        }
        Ok(())
    }

    fn witness(&self, keys: &ChannelKeys, payer: &schnorr::Signature) -> Witness {
        let payee = SECP256K1.sign_schnorr_no_aux_rand(&self.digest, &keys.funding);
        let with_sighash =
            |signature| taproot::Signature { signature, sighash_type: SIGHASH }.serialize().to_vec();
        let mut witness = Witness::new();
        witness.push(with_sighash(payee));
        witness.push(with_sighash(*payer));
        self.lsf.scripts.push_leaf(&mut witness, self.lsf.scripts.micropayment_leaf());
        witness
    }

    /// The txid of a transaction on chain, if it is this one: whichever fee inputs it has, and whoever added them.
    pub fn published_as(&self, seen: &Transaction) -> Option<Txid> {
        let spends = seen.input.iter().any(|input| input.previous_output == self.lsf.outpoint);
        (spends && seen.output == self.unsigned.output).then(|| seen.compute_txid())
    }
}

fn input(previous_output: OutPoint) -> TxIn {
    TxIn {
        previous_output,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness: Witness::new(),
    }
}

fn digest(transaction: &Transaction, lsf: &LsfOutput) -> Message {
    let leaf = Lsf::leaf_hash(lsf.scripts.micropayment_leaf());
    let digest = SighashCache::new(transaction)
        .taproot_script_spend_signature_hash(0, &Prevouts::One(0, lsf.txout()), leaf, SIGHASH)
        .expect("ANYONECANPAY needs no other previous output than the one given");
    Message::from_digest(digest.to_byte_array())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Msat;
    use crate::flat::testing::{self as flat, coins, terms, wallet_signs};
    use crate::flat::{Commitment, Terms};
    use crate::hashlock::{Delay, HashLock};
    use crate::testing;

    const MOST_FEE: Amount = Amount::from_sat(1_000_000);

    /// The micropayment transaction of a batch, and the payer's signature on it.
    fn signed(channel: &Channel, terms: &Terms) -> (Micropayment, schnorr::Signature) {
        let outputs = flat::outputs(channel, terms);
        let micropayment = Micropayment::new(&flat::lsf(channel, terms), &outputs).unwrap();
        let signature = micropayment.sign(&testing::payer_keys());
        micropayment.verify(channel, &signature).unwrap();
        (micropayment, signature)
    }

    /// Complete, with the outputs that it spends.
    fn complete(channel: &Channel, terms: &Terms, coins: &[FeeInput]) -> (Vec<TxOut>, Transaction) {
        let (micropayment, signature) = signed(channel, terms);
        let psbt = micropayment.complete(&testing::payee_keys(), &signature, coins, MOST_FEE).unwrap();
        wallet_signs(psbt)
    }

    #[test]
    fn is_valid_with_one_or_two_fee_inputs_and_conserves_value() {
        let channel = testing::channel();
        for coins in [coins(&[6_000]), coins(&[1_000, 5_000])] {
            let (spent, transaction) = complete(&channel, &terms(), &coins);
            assert!(testing::spends(&spent, &transaction));
            assert_eq!(transaction.version, Version::TWO);
            assert_eq!(transaction.weight(), weight(20, coins.len() as u32));
            let paid: Amount = transaction.output.iter().map(|output| output.value).sum();
            assert_eq!(paid, spent[0].value); // the LSF output pays all outputs, the coins are the fee
            assert!(transaction.output.iter().all(|output| output.value == terms().unit));
        }
        assert_eq!([1, 2].map(|coins| weight(0, coins).to_vbytes_ceil()), [176, 234]);
    }

    #[test]
    fn output_i_opens_to_preimage_i() {
        let channel = testing::channel();
        let outputs = flat::outputs(&channel, &terms());
        let (_, transaction) = complete(&channel, &terms(), &coins(&[6_000]));
        let txid = transaction.compute_txid();
        for (index, output) in (0..).zip(&transaction.output) {
            let preimage = flat::preimages(&channel).preimage(index);
            assert!(outputs.locks().opens(index, &preimage));
            let expected = HashLock::new(&channel, &preimage.lock(), terms().d2);
            assert_eq!(output.script_pubkey, *expected.script_pubkey());
            let locked = outputs.locked(txid, index).unwrap();
            assert_eq!(locked.outpoint, OutPoint { txid, vout: index });
        }
        assert!(outputs.locked(txid, 20).is_none());
    }

    #[test]
    fn as_many_outputs_as_stated_fit_a_standard_transaction_and_not_one_more() {
        let channel = flat::large_channel();
        let terms = Terms { outputs: MOST_OUTPUTS, ..terms() };
        let (spent, transaction) = complete(&channel, &terms, &coins(&[300_000, 300_000]));
        assert_eq!(MOST_OUTPUTS, 2_320);
        assert_eq!(transaction.weight(), weight(MOST_OUTPUTS, FEE_INPUTS));
        assert!(transaction.weight() <= MOST_WEIGHT);
        assert!(weight(MOST_OUTPUTS + 1, FEE_INPUTS) > MOST_WEIGHT);
        assert!(testing::spends(&spent, &transaction));
    }

    #[test]
    fn version_3_would_carry_a_tenth() {
        let most = Weight::from_vb(10_000).unwrap();
        assert_eq!(MOST_OUTPUTS_V3, 227);
        let channel = testing::channel_with(|params| params.capacity = Amount::from_sat(1_000_000));
        let of = |outputs| {
            let terms = Terms { outputs, ..terms() };
            complete(&channel, &terms, &coins(&[50_000, 50_000])).1.weight()
        };
        assert!(of(227) <= most && of(228) > most);
        assert!(weight(229, 0) <= most && weight(230, 0) > most);
        assert_eq!(of(252), weight(252, 2));
        assert_eq!(of(253), weight(253, 2)); // the count takes two bytes more
    }

    #[test]
    fn the_fee_inputs_can_be_exchanged_and_it_is_recognised() {
        let channel = testing::channel();
        let (micropayment, signature) = signed(&channel, &terms());
        let (payee, all) = (testing::payee_keys(), coins(&[6_000, 9_000, 40]));
        let psbt = micropayment.complete(&payee, &signature, &all[..1], MOST_FEE).unwrap();
        let (_, first) = wallet_signs(psbt);
        let psbt = micropayment.complete(&payee, &signature, &all[1..], MOST_FEE).unwrap();
        let (mut spent, mut other) = wallet_signs(psbt);
        // Neither signature of the first is for its fee inputs.
        other.input[0].witness = first.input[0].witness.clone();
        assert!(testing::spends(&spent, &other));
        for published in [&first, &other] {
            assert_eq!(micropayment.published_as(published), Some(published.compute_txid()));
        }
        // Nor for its place: whoever exchanges them may put his own first.
        other.input.swap(0, 1);
        spent.swap(0, 1);
        assert!(flat::spends_input(&spent, &other, 1));
        assert_eq!(micropayment.published_as(&other), Some(other.compute_txid()));
        let refund = crate::flat::refund::lsf(
            &channel,
            &testing::payer_keys(),
            &micropayment.lsf,
            FeeRate::BROADCAST_MIN,
        );
        assert_eq!(micropayment.published_as(&refund.unwrap()), None);
        let mut elsewhere = first;
        elsewhere.input[0].previous_output.vout = 0;
        assert_eq!(micropayment.published_as(&elsewhere), None);
    }

    #[test]
    fn a_signature_for_another_lsf_output_other_locks_or_of_another_key_does_not_fit() {
        let channel = testing::channel();
        let (micropayment, signature) = signed(&channel, &terms());
        let outputs = flat::outputs(&channel, &terms());
        // A plain payment makes another commitment: the old signature is not for its LSF output.
        let later = Commitment::new(&channel, &terms(), Msat::new(6_000_000)).unwrap();
        let later = Micropayment::new(later.lsf(), &outputs).unwrap();
        assert_eq!(later.verify(&channel, &signature), Err(WrongSignature));
        // Other locks.
        let preimages = crate::flat::Preimages::new([3; 32], channel.id(), 2);
        let locks = preimages.locks(&terms()).unwrap();
        let others = Outputs::new(&channel, &terms(), locks);
        let others = Micropayment::new(&flat::lsf(&channel, &terms()), &others).unwrap();
        assert_eq!(others.verify(&channel, &signature), Err(WrongSignature));
        // Another delay for the payer's way out.
        let sooner = Terms { d2: Delay::blocks(39), ..terms() };
        let sooner =
            Micropayment::new(&flat::lsf(&channel, &terms()), &flat::outputs(&channel, &sooner)).unwrap();
        assert_eq!(sooner.verify(&channel, &signature), Err(WrongSignature));
        let by_payee = micropayment.sign(&testing::payee_keys());
        assert_eq!(micropayment.verify(&channel, &by_payee), Err(WrongSignature));
    }

    #[test]
    fn consensus_rejects_it_with_other_outputs_or_with_one_signature() {
        let channel = testing::channel();
        let (spent, transaction) = complete(&channel, &terms(), &coins(&[6_000]));
        let lsf_is_valid = |transaction: &Transaction| flat::spends_input(&spent, transaction, 0);
        assert!(lsf_is_valid(&transaction));
        let mut redirected = transaction.clone();
        redirected.output[4].script_pubkey = channel.params().payee.output.clone();
        assert!(!lsf_is_valid(&redirected));
        let mut fewer = transaction.clone();
        fewer.output.pop();
        assert!(!lsf_is_valid(&fewer));
        let (micropayment, signature) = signed(&channel, &terms());
        let payee = testing::payee_keys();
        let by_payee_alone = micropayment.sign(&payee);
        let coins = coins(&[6_000]);
        let psbt = micropayment.complete(&payee, &by_payee_alone, &coins, MOST_FEE).unwrap();
        assert!(!lsf_is_valid(&wallet_signs(psbt).1));
        let psbt = micropayment.complete(&testing::payer_keys(), &signature, &coins, MOST_FEE).unwrap();
        assert!(!lsf_is_valid(&wallet_signs(psbt).1));
    }

    #[test]
    fn outputs_of_other_terms_than_the_commitments_are_refused() {
        let channel = testing::channel();
        let lsf = flat::lsf(&channel, &terms());
        let fewer = flat::outputs(&channel, &Terms { outputs: 19, ..terms() });
        let uneven = Uneven { lsf: Amount::from_sat(50_000), outputs: Amount::from_sat(47_500) };
        assert_eq!(Micropayment::new(&lsf, &fewer).map(|_| ()), Err(uneven));
        let endless = flat::outputs(&channel, &Terms { unit: Amount::MAX, ..terms() });
        assert!(Micropayment::new(&lsf, &endless).is_err());
    }

    #[test]
    fn coins_that_cannot_pay_the_fee_are_refused() {
        let channel = testing::channel();
        let (micropayment, signature) = signed(&channel, &terms());
        let complete = |coins: &[FeeInput], most| {
            micropayment.complete(&testing::payee_keys(), &signature, coins, most).map(|_| ())
        };
        assert_eq!(complete(&[], MOST_FEE), Err(BadFeeInputs::Count(0)));
        assert_eq!(complete(&coins(&[2_000; 3]), MOST_FEE), Err(BadFeeInputs::Count(3)));
        let needed = fee_at(20, 1, FeeRate::BROADCAST_MIN);
        assert_eq!(complete(&coins(&[needed.to_sat()]), needed), Ok(()));
        let got = needed - Amount::from_sat(1);
        let short = complete(&coins(&[got.to_sat()]), MOST_FEE);
        assert_eq!(short, Err(BadFeeInputs::TooLittle { got, needed }));
        let (got, most) = (Amount::from_sat(6_000), Amount::from_sat(5_999));
        assert_eq!(complete(&coins(&[3_000, 3_000]), most), Err(BadFeeInputs::TooMuch { got, most }));
        let endless = complete(&coins(&[u64::MAX, u64::MAX]), MOST_FEE);
        assert_eq!(endless, Err(BadFeeInputs::TooMuch { got: Amount::MAX, most: MOST_FEE }));
        let twice = [coins(&[3_000]), coins(&[3_000])].concat();
        assert_eq!(complete(&twice, MOST_FEE), Err(BadFeeInputs::Twice(twice[0].outpoint)));
        let mut itself = coins(&[6_000]);
        itself[0].outpoint = micropayment.lsf.outpoint;
        assert_eq!(complete(&itself, MOST_FEE), Err(BadFeeInputs::Twice(itself[0].outpoint)));
        let mut other = coins(&[6_000]);
        other[0].output.script_pubkey = ScriptBuf::new();
        assert!(matches!(complete(&other, MOST_FEE), Err(BadFeeInputs::NotTaproot { .. })));
    }
}
