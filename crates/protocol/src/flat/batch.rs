//! One batch: what the payer announces, and what the payee keeps of it.
//!
//! A batch has a number, which is never used again in its channel, and stands on a plain total, its *base*: what the payee
//! gets by the commitment itself. It is announced with its locks and the payer's two signatures. The payee checks all of it,
//! and from then on keeps this batch alone: its commitment pays at least what every older one does.
//!
//! A revealed preimage takes the place of its lock, so a batch takes the same room from the first call to the last: 33
//! bytes for each output.

use bitcoin::{Amount, Transaction};
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::channel::Channel;
use crate::flat::commitment::{self, BadCommitment, Commitment};
use crate::flat::micropayment::{self, Micropayment, Uneven};
use crate::flat::outputs::Outputs;
use crate::flat::preimages::{BadLocks, Locks, Preimages};
use crate::flat::terms::{BadTerms, Terms};
use crate::keys::ChannelKeys;
use crate::lightspeed::word::Word;

/// A batch without its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchTerms {
    /// Counts a channel's batches from 1; never used again.
    pub number: u32,
    /// Its terms. What is prepaid is the base: everything paid before the batch, in whole satoshi.
    pub terms: Terms,
}

/// What comes with the terms: 32 bytes for each output, and two signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The locks, in the order of the outputs.
    pub locks: Vec<[u8; 32]>,
    /// The payer's signature on the micropayment transaction.
    pub micropayment: schnorr::Signature,
    /// The payer's signature on the commitment.
    pub commitment: schnorr::Signature,
}

/// Why a batch is not signed, or not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadBatch {
    /// A term breaks a limit.
    #[error(transparent)]
    Terms(#[from] BadTerms),
    /// The locks make no batch.
    #[error(transparent)]
    Locks(#[from] BadLocks),
    /// The amounts make no commitment.
    #[error(transparent)]
    Amounts(#[from] BadCommitment),
    /// The LSF output does not hold what the outputs pay.
    #[error(transparent)]
    Uneven(#[from] Uneven),
    /// The payer's signature on the micropayment transaction.
    #[error(transparent)]
    Micropayment(#[from] micropayment::WrongSignature),
    /// The payer's signature on the commitment.
    #[error(transparent)]
    Commitment(#[from] commitment::WrongSignature),
}

/// A preimage that pays nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPreimage {
    /// The batch has not so many outputs.
    #[error("the batch has {outputs} outputs, counted from 0, so there is no output {got}")]
    NoOutput {
        /// How many there are.
        outputs: u32,
        /// The stated one.
        got: u32,
    },
    /// It does not open the output.
    #[error("this does not open output {0}")]
    Wrong(u32),
}

impl BatchTerms {
    /// The largest batch of those terms, on top of `paid`, that the capacity still covers; `None` when it covers none that is
    /// worth its fees.
    pub fn fit(channel: &Channel, number: u32, paid: Msat, offered: &Terms) -> Option<Self> {
        let prepaid = paid.ceil();
        let left = channel.max_total().floor().checked_sub(prepaid)?;
        let outputs = u32::try_from(left.to_sat() / offered.unit.to_sat().max(1)).unwrap_or(u32::MAX);
        let terms = Terms { prepaid, outputs: outputs.min(offered.outputs), ..*offered };
        terms.check(channel, 1).is_ok().then_some(Self { number, terms })
    }

    /// The plain total that the batch stands on.
    pub fn base(&self) -> Msat {
        Msat::from_amount(self.terms.prepaid).unwrap_or(Msat::new(u64::MAX))
    }

    /// What one output pays.
    pub fn unit(&self) -> Msat {
        Msat::from_amount(self.terms.unit).unwrap_or(Msat::new(u64::MAX))
    }

    /// The total once so many outputs are revealed.
    pub fn worth(&self, outputs: u32) -> Msat {
        self.base().saturating_add(Msat::new(self.unit().get().saturating_mul(outputs.into())))
    }

    /// The payer's preimages.
    pub fn preimages(&self, channel: &Channel, keys: &ChannelKeys) -> Preimages {
        Preimages::of(keys, channel.id(), self.number)
    }

    /// Signs the batch, as the payer: 50 µs for each output. The micropayment transaction first.
    ///
    /// # Errors
    /// When the terms make no sense in this channel.
    pub fn sign(&self, channel: &Channel, keys: &ChannelKeys) -> Result<Signed, BadBatch> {
        let locks = self.preimages(channel, keys).locks(&self.terms)?;
        let outputs = Outputs::new(channel, &self.terms, locks);
        let commitment = Commitment::new(channel, &self.terms, Msat::ZERO)?;
        let micropayment = Micropayment::new(commitment.lsf(), &outputs)?.sign(keys);
        let locks = outputs.locks().as_slice().to_vec();
        Ok(Signed { locks, micropayment, commitment: commitment.sign(keys) })
    }
}

/// One output, as the payee knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Slot {
    Locked([u8; 32]),
    Revealed(Word),
}

impl Slot {
    fn lock(&self) -> [u8; 32] {
        match self {
            Self::Locked(lock) => *lock,
            Self::Revealed(preimage) => preimage.lock(),
        }
    }
}

/// A batch whose signatures were verified, with the preimages that were revealed: what the payee relies on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    announced: BatchTerms,
    slots: Vec<Slot>,
    revealed: u32,
    micropayment: schnorr::Signature,
    commitment: schnorr::Signature,
}

impl Batch {
    /// Verifies an announced batch, as a payee that closes `margin` blocks before the expiry: 50 µs for each output.
    /// Whether the base covers what was earned is for the account to say ([`crate::lightspeed::Tab::take_batch`]).
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(
        channel: &Channel,
        announced: BatchTerms,
        signed: Signed,
        margin: u32,
    ) -> Result<Self, BadBatch> {
        let terms = &announced.terms;
        terms.check(channel, margin)?;
        let outputs = Outputs::new(channel, terms, Locks::new(signed.locks, terms)?);
        let commitment = Commitment::new(channel, terms, Msat::ZERO)?;
        Micropayment::new(commitment.lsf(), &outputs)?.verify(channel, &signed.micropayment)?;
        commitment.verify(channel, &signed.commitment)?;
        Ok(Self {
            announced,
            slots: outputs.locks().as_slice().iter().copied().map(Slot::Locked).collect(),
            revealed: 0,
            micropayment: signed.micropayment,
            commitment: signed.commitment,
        })
    }

    /// What was announced.
    pub fn terms(&self) -> &BatchTerms {
        &self.announced
    }

    /// How many preimages were revealed.
    pub fn revealed(&self) -> u32 {
        self.revealed
    }

    /// The base and a unit for each revealed preimage.
    pub fn paid(&self) -> Msat {
        self.announced.worth(self.revealed)
    }

    /// Takes a preimage. One that is known already pays nothing more.
    ///
    /// # Errors
    /// When it does not open its output. Nothing changed.
    pub fn reveal(&mut self, index: u32, preimage: Word) -> Result<(), BadPreimage> {
        let outputs = self.announced.terms.outputs;
        let none = BadPreimage::NoOutput { outputs, got: index };
        let slot = self.slots.get_mut(index as usize).ok_or(none)?;
        if slot.lock() != preimage.lock() {
            return Err(BadPreimage::Wrong(index));
        }
        if matches!(slot, Slot::Locked(_)) {
            *slot = Slot::Revealed(preimage);
            self.revealed += 1;
        }
        Ok(())
    }

    /// The revealed preimages, by their outputs.
    pub fn preimages(&self) -> impl Iterator<Item = (u32, Word)> + '_ {
        (0..).zip(&self.slots).filter_map(|(index, slot)| match slot {
            Slot::Revealed(preimage) => Some((index, *preimage)),
            Slot::Locked(_) => None,
        })
    }

    /// The batch's outputs, with their scripts: 50 µs each.
    ///
    /// # Errors
    /// When a damaged store gave back what makes no batch.
    pub fn outputs(&self, channel: &Channel) -> Result<Outputs, BadLocks> {
        let terms = &self.announced.terms;
        Ok(Outputs::new(channel, terms, Locks::new(self.slots.iter().map(Slot::lock).collect(), terms)?))
    }

    /// The complete commitment, and its fee.
    ///
    /// # Errors
    /// When a damaged store gave back what makes no batch.
    pub fn commitment(
        &self,
        channel: &Channel,
        keys: &ChannelKeys,
    ) -> Result<(Transaction, Amount), BadCommitment> {
        let commitment = Commitment::new(channel, &self.announced.terms, Msat::ZERO)?;
        Ok((commitment.complete(channel, keys, &self.commitment), commitment.fee()))
    }

    /// The micropayment transaction, and the payer's signature on it.
    ///
    /// # Errors
    /// When a damaged store gave back what makes no batch.
    pub fn micropayment(
        &self,
        channel: &Channel,
    ) -> Result<(Micropayment, schnorr::Signature, Outputs), BadBatch> {
        let outputs = self.outputs(channel)?;
        let commitment = Commitment::new(channel, &self.announced.terms, Msat::ZERO)?;
        Ok((Micropayment::new(commitment.lsf(), &outputs)?, self.micropayment, outputs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::DUST;
    use crate::flat::testing::{MARGIN, terms};
    use crate::testing::{self, payee_keys, payer_keys};

    const BATCH: BatchTerms = BatchTerms { number: 1, terms: terms() };

    fn signed() -> Signed {
        BATCH.sign(&testing::channel(), &payer_keys()).unwrap()
    }

    fn batch() -> Batch {
        Batch::verify(&testing::channel(), BATCH, signed(), MARGIN).unwrap()
    }

    fn preimage(index: u32) -> Word {
        Word::from_bytes(*BATCH.preimages(&testing::channel(), &payer_keys()).preimage(index).as_bytes())
    }

    #[test]
    fn preimages_pay_in_any_order_and_each_once() {
        let mut batch = batch();
        assert_eq!(batch.paid(), Msat::new(1_000_000));
        for index in [19, 0, 7, 19, 0] {
            batch.reveal(index, preimage(index)).unwrap();
        }
        assert_eq!((batch.revealed(), batch.paid()), (3, Msat::new(8_500_000)));
        let known: Vec<_> = batch.preimages().map(|(index, _)| index).collect();
        assert_eq!(known, [0, 7, 19]);
        assert_eq!(batch.reveal(3, preimage(4)), Err(BadPreimage::Wrong(3)));
        assert_eq!(batch.reveal(7, preimage(4)), Err(BadPreimage::Wrong(7)));
        assert_eq!(batch.reveal(20, preimage(20)), Err(BadPreimage::NoOutput { outputs: 20, got: 20 }));
        assert_eq!(batch.revealed(), 3);
        assert_eq!(batch.outputs(&testing::channel()).unwrap().locks().as_slice(), signed().locks);
    }

    #[test]
    fn its_commitment_is_valid_and_pays_the_base() {
        let channel = testing::channel();
        let (commitment, fee) = batch().commitment(&channel, &payee_keys()).unwrap();
        testing::assert_spends_funding(&channel, &commitment);
        assert_eq!(Channel::paid_to(&commitment, &channel.params().payee), BATCH.terms.prepaid);
        let paid: Amount = commitment.output.iter().map(|output| output.value).sum();
        assert_eq!(paid + fee, channel.params().capacity);
    }

    /// Whatever a payer sends but what belongs together is refused before a call counts.
    #[test]
    fn what_does_not_belong_together_is_refused() {
        let channel = testing::channel();
        let good = signed();
        let refused =
            |announced, signed| Batch::verify(&channel, announced, signed, MARGIN).expect_err("refused");
        let swapped = Signed { micropayment: good.commitment, commitment: good.micropayment, ..good.clone() };
        assert!(matches!(refused(BATCH, swapped), BadBatch::Micropayment(_)));
        let other = Signed { commitment: good.micropayment, ..good.clone() };
        assert!(matches!(refused(BATCH, other), BadBatch::Commitment(_)));
        let mut locks = good.locks.clone();
        locks.swap(0, 1);
        assert!(matches!(refused(BATCH, Signed { locks, ..good.clone() }), BadBatch::Micropayment(_)));
        let mut locks = good.locks.clone();
        locks[5] = locks[4];
        assert!(matches!(refused(BATCH, Signed { locks, ..good.clone() }), BadBatch::Locks(_)));
        let cheaper = BatchTerms { terms: Terms { prepaid: DUST, ..terms() }, ..BATCH };
        assert!(matches!(refused(cheaper, good.clone()), BadBatch::Micropayment(_)));
        let dust = BatchTerms { terms: Terms { prepaid: Amount::ZERO, ..terms() }, ..BATCH };
        assert!(matches!(refused(dust, good), BadBatch::Terms(BadTerms::Prepaid { .. })));
        let forged = BATCH.sign(&channel, &payee_keys()).unwrap();
        assert!(matches!(refused(BATCH, forged), BadBatch::Micropayment(_)));
    }

    #[test]
    fn no_two_batches_share_a_lock() {
        let (channel, keys) = (testing::channel(), payer_keys());
        let next = BatchTerms { number: 2, ..BATCH }.sign(&channel, &keys).unwrap();
        let first = signed();
        assert!(next.locks.iter().all(|lock| !first.locks.contains(lock)));
    }
}
