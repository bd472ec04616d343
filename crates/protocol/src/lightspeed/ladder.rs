//! The rungs of a chain: commitments that the payer signs ahead of time, each worth something once its word is out.
//!
//! A rung is a commitment ([`crate::commitment`]) whose payee output is hash-locked ([`crate::hashlock`]). Version 3,
//! 204 vB; its claim is its one child, pays for both, and weighs 154 vB.

use bitcoin::{Amount, FeeRate, OutPoint, Transaction};
use secp256k1::{SECP256K1, schnorr};
use serde::{Deserialize, Serialize};

use crate::amount::{DUST, Msat};
use crate::channel::Channel;
use crate::commitment;
use crate::hashlock::{self, Delay, HashLock, Locked, NotWorthIt};
use crate::keys::ChannelKeys;
use crate::lightspeed::terms::{BadShape, ChainTerms, Shape};
use crate::lightspeed::word::{Word, Words};

/// One rung as it travels: 96 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// SHA256 of the rung's word.
    pub lock: [u8; 32],
    /// The payer's signature on the rung's commitment.
    pub signature: schnorr::Signature,
}

/// A chain whose rungs were all verified: what the payee relies on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ladder {
    terms: ChainTerms,
    base: Msat,
    rungs: Vec<Rung>,
}

/// Why a payee does not take a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadLadder {
    /// The numbers make no chain.
    #[error(transparent)]
    Shape(#[from] BadShape),
    /// Too little time to claim.
    #[error("the payer could take a rung back after {got} blocks, but the payee needs {least} to claim it")]
    Delay {
        /// What the payee needs.
        least: u16,
        /// What was announced.
        got: u16,
    },
    /// More rungs than this payee verifies, or fewer than were announced.
    #[error("the chain has {got} rungs, where {expected} were to come")]
    Count {
        /// How many there should be.
        expected: u32,
        /// How many there are.
        got: usize,
    },
    /// A rung's signature does not fit.
    #[error("the signature of rung {0} does not fit its commitment")]
    Signature(u32),
    /// The chain promises more than is locked.
    #[error(
        "a chain of {words} words at {unit} on top of {base} is above the {most} that the channel can pay"
    )]
    OverCapacity {
        /// How many words.
        words: u32,
        /// What each pays.
        unit: Msat,
        /// What was paid before.
        base: Msat,
        /// What the channel can pay.
        most: Msat,
    },
}

/// What a chain's last word pays in all; `None` when nobody could count it.
fn end(base: Msat, shape: &Shape) -> Option<Msat> {
    base.checked_add(shape.unit.checked_mul(shape.words.into())?)
}

/// What a rung pays. [`check`] has seen that it can be counted; what a damaged store gives back is no reason to panic.
fn total(base: Msat, shape: &Shape, rung: u32) -> Msat {
    base.saturating_add(shape.worth(shape.rung_index(rung)))
}

/// Checks what a chain would come to in a channel.
///
/// # Errors
/// When it makes no chain or promises more than is locked.
pub fn check(channel: &Channel, shape: &Shape, base: Msat) -> Result<(), BadLadder> {
    shape.check()?;
    let most = channel.max_total();
    match end(base, shape) {
        Some(end) if end <= most => Ok(()),
        Some(_) | None => Err(BadLadder::OverCapacity { words: shape.words, unit: shape.unit, base, most }),
    }
}

/// Signs all rungs of a chain, as the payer: 40 µs each.
///
/// # Errors
/// When the chain makes no sense in this channel.
pub fn sign(
    channel: &Channel,
    keys: &ChannelKeys,
    words: &Words,
    base: Msat,
) -> Result<Vec<Rung>, BadLadder> {
    let shape = words.terms().shape;
    check(channel, &shape, base)?;
    let rung = |rung: u32| {
        let lock = words.rung(rung).map(Word::lock).expect("there is a word for each rung");
        let scripts = HashLock::new(channel, &lock, shape.delay);
        let digest = commitment::digest_paying(channel, total(base, &shape, rung), scripts.script_pubkey());
        Rung { lock, signature: SECP256K1.sign_schnorr_no_aux_rand(&digest, &keys.funding) }
    };
    Ok((1..=shape.rungs).map(rung).collect())
}

impl Ladder {
    /// Verifies an announced chain on top of `base`, as the payee: 50 µs a rung.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(
        channel: &Channel,
        terms: ChainTerms,
        base: Msat,
        rungs: Vec<Rung>,
        least_delay: u16,
    ) -> Result<Self, BadLadder> {
        let shape = terms.shape;
        check(channel, &shape, base)?;
        if shape.delay.get() < least_delay {
            return Err(BadLadder::Delay { least: least_delay, got: shape.delay.get() });
        }
        if rungs.len() != shape.rungs as usize {
            return Err(BadLadder::Count { expected: shape.rungs, got: rungs.len() });
        }
        let payer = channel.params().payer.funding_xonly();
        for (number, rung) in (1..).zip(&rungs) {
            let scripts = HashLock::new(channel, &rung.lock, shape.delay);
            let digest =
                commitment::digest_paying(channel, total(base, &shape, number), scripts.script_pubkey());
            SECP256K1
                .verify_schnorr(&rung.signature, &digest, &payer)
                .map_err(|_| BadLadder::Signature(number))?;
        }
        Ok(Self { terms, base, rungs })
    }

    /// What was announced.
    pub fn terms(&self) -> &ChainTerms {
        &self.terms
    }

    /// The total on which the chain stands.
    pub fn base(&self) -> Msat {
        self.base
    }

    /// Rung 1 to the last; `None` for any other number.
    pub(crate) fn rung(&self, rung: u32) -> Option<&Rung> {
        self.rungs.get((rung as usize).checked_sub(1)?)
    }

    /// What the payee can publish now that it has the word of that rung.
    pub(crate) fn claim(&self, rung: u32, word: Word) -> Option<RungClaim> {
        let Rung { signature, .. } = *self.rung(rung)?;
        let shape = self.terms.shape;
        Some(RungClaim { total: total(self.base, &shape, rung), delay: shape.delay, word, signature })
    }
}

/// A rung whose word is known: a commitment that the payee may publish and claim at any time before the expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungClaim {
    /// Everything up to its word.
    pub total: Msat,
    /// How long the payee has to claim it once it is in a block.
    pub delay: Delay,
    /// Its word.
    pub word: Word,
    /// The payer's signature.
    pub signature: schnorr::Signature,
}

impl RungClaim {
    /// The scripts of its locked output.
    pub fn scripts(&self, channel: &Channel) -> HashLock {
        HashLock::new(channel, &self.word.lock(), self.delay)
    }

    /// The complete commitment.
    pub fn commitment(&self, channel: &Channel, keys: &ChannelKeys) -> Transaction {
        let scripts = self.scripts(channel);
        commitment::complete_paying(channel, keys, self.total, scripts.script_pubkey(), &self.signature)
    }

    /// The claim of the commitment's locked output, in a transaction with the commitment's version.
    ///
    /// # Errors
    /// When the fee leaves nothing above dust.
    pub fn claim(
        &self,
        channel: &Channel,
        keys: &ChannelKeys,
        commitment: &Transaction,
        fee: Amount,
    ) -> Result<Transaction, NotWorthIt> {
        let scripts = self.scripts(channel);
        let outpoint = OutPoint { txid: commitment.compute_txid(), vout: 0 };
        let locked = Locked { outpoint, value: self.total.floor(), scripts: &scripts };
        hashlock::claim(channel, keys, &[(locked, *self.word.as_bytes())], commitment.version, fee)
    }

    /// What the claim pays at that rate, when its commitment pays that rate itself. Nodes count whole virtual bytes, so a fee
    /// by weight could be just below what they relay.
    pub fn cost(fee_rate: FeeRate) -> Amount {
        fee_rate.fee_vb(hashlock::claim_weight(1).to_vbytes_ceil()).unwrap_or(Amount::MAX)
    }

    /// What it pays, less the cost of a claim at that rate; `None` when there is no such claim.
    pub fn net(&self, fee_rate: FeeRate) -> Option<Msat> {
        let cost = Self::cost(fee_rate);
        self.total.floor().checked_sub(cost).filter(|left| *left >= DUST)?;
        Some(self.total.saturating_sub(Msat::from_amount(cost)?))
    }

    /// Whether the chain relays its locked output at all.
    pub fn is_enforceable(&self) -> bool {
        self.total.floor() >= DUST
    }
}

/// Finds the rung that a published commitment belongs to, as the payer, who can draw every word again: the scripts and
/// the value of its locked output.
pub fn find<'a>(
    channel: &Channel,
    keys: &ChannelKeys,
    chains: impl IntoIterator<Item = &'a (ChainTerms, Msat)>,
    commitment: &Transaction,
) -> Option<(HashLock, Amount)> {
    let output = commitment.output.first()?;
    for (terms, base) in chains {
        let shape = terms.shape;
        if check(channel, &shape, *base).is_err() {
            continue; // a damaged store: nothing was signed for it, and its words may be more than anybody can draw
        }
        let rungs = (1..=shape.rungs).filter(|rung| total(*base, &shape, *rung).floor() == output.value);
        let mut words = None;
        for rung in rungs {
            let words = words.get_or_insert_with(|| Words::draw(keys, channel.id(), &shape, terms.number));
            let scripts = HashLock::new(channel, &words.rung(rung)?.lock(), shape.delay);
            if *scripts.script_pubkey() == output.script_pubkey {
                return Some((scripts, output.value));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bitcoin::{FeeRate, TxOut};

    use super::*;
    use crate::testing;

    const BASE: Msat = Msat::new(600_000);

    fn shape() -> Shape {
        Shape { unit: Msat::new(10_000), words: 1_000, rungs: 7, delay: Delay::blocks(36) }
    }

    fn chain() -> (Channel, Words, Vec<Rung>) {
        let channel = testing::channel();
        let words = Words::draw(&testing::payer_keys(), channel.id(), &shape(), 1);
        let rungs = sign(&channel, &testing::payer_keys(), &words, BASE).unwrap();
        (channel, words, rungs)
    }

    #[test]
    fn every_rung_is_a_valid_commitment_and_its_word_claims_everything_up_to_it() {
        let (channel, words, rungs) = chain();
        let ladder = Ladder::verify(&channel, *words.terms(), BASE, rungs, 36).unwrap();
        for rung in 1..=7 {
            let word = *words.rung(rung).unwrap();
            let claim = ladder.claim(rung, word).unwrap();
            let commitment = claim.commitment(&channel, &testing::payee_keys());
            testing::assert_spends_funding(&channel, &commitment);
            assert_eq!(commitment.vsize(), 204);
            let fee = Amount::from_sat(400);
            let child = claim.claim(&channel, &testing::payee_keys(), &commitment, fee).unwrap();
            assert!(testing::spends(&commitment.output[..1], &child));
            let paid = Channel::paid_to(&child, &channel.params().payee);
            assert_eq!(
                paid + fee,
                (BASE.floor() + Amount::from_sat(10) * u64::from(shape().rung_index(rung)))
            );
            assert_eq!(child.vsize(), 154);
        }
    }

    #[test]
    fn without_the_word_a_rung_pays_nothing_and_the_payer_takes_it_back() {
        let (channel, words, rungs) = chain();
        let ladder = Ladder::verify(&channel, *words.terms(), BASE, rungs, 36).unwrap();
        let claim = ladder.claim(3, *words.rung(3).unwrap()).unwrap();
        let commitment = claim.commitment(&channel, &testing::payee_keys());
        // The word of a lower rung is all that the payee has.
        let scripts = claim.scripts(&channel);
        let outpoint = OutPoint { txid: commitment.compute_txid(), vout: 0 };
        let locked = Locked { outpoint, value: commitment.output[0].value, scripts: &scripts };
        let lower = *words.rung(2).unwrap().as_bytes();
        let fee = Amount::from_sat(400);
        let theft =
            hashlock::claim(&channel, &testing::payee_keys(), &[(locked, lower)], commitment.version, fee)
                .unwrap();
        let spent: Vec<TxOut> = commitment.output[..1].to_vec();
        assert!(!testing::spends(&spent, &theft));

        let chains = [(*words.terms(), BASE)];
        let (scripts, value) = find(&channel, &testing::payer_keys(), &chains, &commitment).unwrap();
        let locked = Locked { outpoint, value, scripts: &scripts };
        let rate = FeeRate::from_sat_per_vb_u32(2);
        let back = hashlock::take_back(&channel, &testing::payer_keys(), &[locked], rate).unwrap();
        assert!(testing::spends(&spent, &back));
    }

    #[test]
    fn a_plain_commitment_is_no_rung() {
        let (channel, words, _) = chain();
        let payment = commitment::sign(&channel, &testing::payer_keys(), total(BASE, &shape(), 3));
        let commitment = commitment::complete(&channel, &testing::payee_keys(), &payment);
        assert!(find(&channel, &testing::payer_keys(), &[(*words.terms(), BASE)], &commitment).is_none());
    }

    #[test]
    fn a_payee_refuses_rungs_that_it_could_not_publish() {
        let (channel, words, rungs) = chain();
        let terms = *words.terms();
        let verify = |terms, base, rungs: &[Rung], delay| {
            Ladder::verify(&channel, terms, base, rungs.to_vec(), delay).map(drop)
        };
        assert_eq!(verify(terms, BASE, &rungs, 36), Ok(()));
        assert_eq!(verify(terms, BASE, &rungs, 37), Err(BadLadder::Delay { least: 37, got: 36 }));
        assert_eq!(verify(terms, BASE, &rungs[1..], 36), Err(BadLadder::Count { expected: 7, got: 6 }));
        let other_base = Msat::new(601_000);
        assert_eq!(verify(terms, other_base, &rungs, 36), Err(BadLadder::Signature(1)));
        let mut swapped = rungs.clone();
        swapped.swap(3, 4);
        assert_eq!(verify(terms, BASE, &swapped, 36), Err(BadLadder::Signature(4)));
        let mut other_lock = rungs.clone();
        other_lock[6].lock[0] ^= 1;
        assert_eq!(verify(terms, BASE, &other_lock, 36), Err(BadLadder::Signature(7)));
        let rich = Msat::new(channel.max_total().get() - 9_999_999);
        assert!(matches!(verify(terms, rich, &rungs, 36), Err(BadLadder::OverCapacity { .. })));
        assert!(matches!(
            verify(terms, Msat::new(u64::MAX), &rungs, 36),
            Err(BadLadder::OverCapacity { .. })
        ));
    }
}
