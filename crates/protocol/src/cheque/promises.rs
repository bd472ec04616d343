//! What a payer signs while promises are open: one encrypted signature for each way in which they may turn out.
//!
//! A *promise* is an amount that the payer adds to its total once the secret of a point is known: a cheque towards the
//! agent, a lock towards the payee. Only one commitment can ever be published, so if several promises are open, each
//! combination of those whose secrets come out needs one of its own:
//!
//! ```text
//!   for every non-empty subset U of the open promises, above the base (the newest plain total):
//!     commitment to  base + Σ amounts of U   encrypted under   T_i if U = {i}, else Σ a_i·T_i
//!     a_i = H_tag(all points of U, ordered ‖ T_i)
//! ```
//!
//! Four promises take 15 signatures, and all are signed again above each new base.
//!
//! Two cheaper ways lose money, and the tests show how: one signature for the sum of all, under the last point, lets an
//! agent with an accomplice as the last payee take the others' amounts too; plain sums of points fall to a prekey that is
//! built from another cheque's point.
//!
//! A combined secret yields no single one, so combinations are used towards the agent only, which has bought each.

use bitcoin::Transaction;
use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use super::adaptor::{self, EncryptedSignature};
use super::point::{AdaptorPoint, AdaptorSecret, joint_point, joint_secret};
use crate::amount::Msat;
use crate::channel::Channel;
use crate::commitment::{self, WrongSignature};
use crate::keys::{self, ChannelKeys};
use crate::payment::Payment;
use crate::tagged;

/// The most promises that are open in a channel at once.
pub const MOST_OPEN: usize = 4;

/// The most points that an update names as settled: a payee has heard of more than these long ago, and what is mailed must fit into a
/// letter.
pub const MOST_SETTLED: usize = 64;

const _: () = assert!(MOST_OPEN < usize::BITS as usize, "a subset is a binary number");

const STATEMENT: &str = "farthing/promises";

/// An amount that the payer owes once the secret of a point is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// What it adds to the total.
    pub amount: Msat,
    /// What its signatures are encrypted under.
    pub point: AdaptorPoint,
}

/// The newest plain payment and the promises above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Grows with each update, so that an older one that comes late changes nothing.
    pub number: u64,
    /// The newest plain payment; `None` before the first.
    pub base: Option<Payment>,
    /// At most [`MOST_OPEN`].
    pub promises: Vec<Promise>,
    /// Points whose secrets the payer has, at most [`MOST_SETTLED`], newest last: the base pays for them. Of any other point that
    /// its holder has the secret of, the base pays nothing, however large it is.
    pub settled: Vec<AdaptorPoint>,
}

/// Terms with a signature for every way in which they may turn out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The terms.
    pub terms: Terms,
    /// One for each non-empty subset of the promises, in the order of the subsets as binary numbers, the first promise the
    /// lowest digit.
    pub signatures: Vec<EncryptedSignature>,
}

/// An update of a channel, as the payer sends it. It replaces what was before, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// What is new.
    pub signed: Signed,
    /// The payer's signature on all of it: without it whoever carries the message could leave promises out.
    statement: schnorr::Signature,
}

/// Why an update is not what a payer may send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadUpdate {
    /// Not by this channel's payer.
    #[error("the update is not signed by this channel's payer")]
    Statement,
    /// The plain payment's signature does not fit.
    #[error(transparent)]
    Base(#[from] WrongSignature),
    /// Too many promises.
    #[error("{0} promises, but at most {MOST_OPEN} may be open")]
    TooMany(usize),
    /// A promise of nothing.
    #[error("a promise of nothing")]
    Nothing,
    /// A plain payment of nothing, which no payer signs.
    #[error("a plain payment of nothing")]
    EmptyBase,
    /// Too many points that are paid.
    #[error("{0} points are named as paid, but at most {MOST_SETTLED} may be")]
    TooManySettled(usize),
    /// One point twice.
    #[error("two promises under the same point")]
    SamePoint,
    /// More than is locked.
    #[error("the promises come to a total above the {most} that this channel can pay")]
    OverCapacity {
        /// The most that it can pay.
        most: Msat,
    },
    /// A signature too few or too many.
    #[error("{got} encrypted signatures, but these promises take {needed}")]
    Count {
        /// One for each subset.
        needed: usize,
        /// What came.
        got: usize,
    },
    /// An encrypted signature under another point, for another total or by another key.
    #[error("the encrypted signature for a total of {0} does not fit")]
    Encrypted(Msat),
}

/// A non-empty choice of promises, as a binary number.
type Subset = usize;

impl Terms {
    /// The total that is paid whatever becomes of the promises.
    pub fn base_total(&self) -> Msat {
        self.base.map_or(Msat::ZERO, |payment| payment.total)
    }

    /// The total when every promise has to be paid. `None` beyond what can be counted.
    pub fn most(&self) -> Option<Msat> {
        self.promises.iter().try_fold(self.base_total(), |sum, promise| sum.checked_add(promise.amount))
    }

    /// The promise under that point.
    pub fn promise(&self, point: &AdaptorPoint) -> Option<&Promise> {
        self.promises.iter().find(|promise| promise.point == *point)
    }

    fn subsets(&self) -> std::ops::Range<Subset> {
        1..1 << self.promises.len()
    }

    fn members(&self, subset: Subset) -> impl Iterator<Item = &Promise> {
        let is_in = move |index: usize| subset >> index & 1 == 1;
        self.promises.iter().enumerate().filter(move |(index, _)| is_in(*index)).map(|(_, promise)| promise)
    }

    fn total(&self, subset: Subset) -> Msat {
        let amounts: Msat = self.members(subset).map(|promise| promise.amount).sum();
        self.base_total().saturating_add(amounts)
    }

    fn point(&self, subset: Subset) -> AdaptorPoint {
        let points: Vec<AdaptorPoint> = self.members(subset).map(|promise| promise.point).collect();
        joint_point(&points)
    }

    /// Terms that a channel can carry.
    pub(super) fn check(&self, channel: &Channel) -> Result<(), BadUpdate> {
        if self.promises.len() > MOST_OPEN {
            return Err(BadUpdate::TooMany(self.promises.len()));
        }
        if self.promises.iter().any(|promise| promise.amount == Msat::ZERO) {
            return Err(BadUpdate::Nothing);
        }
        if self.base.is_some_and(|base| base.total == Msat::ZERO) {
            return Err(BadUpdate::EmptyBase);
        }
        if self.settled.len() > MOST_SETTLED {
            return Err(BadUpdate::TooManySettled(self.settled.len()));
        }
        let mut points: Vec<AdaptorPoint> = self.promises.iter().map(|promise| promise.point).collect();
        points.sort_unstable();
        if points.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(BadUpdate::SamePoint);
        }
        let most = channel.max_total();
        match self.most() {
            Some(total) if total <= most => Ok(()),
            Some(_) | None => Err(BadUpdate::OverCapacity { most }),
        }
    }

    fn statement(&self, channel: &Channel, signatures: &[EncryptedSignature]) -> [u8; 32] {
        let mut parts: Vec<Vec<u8>> = vec![
            channel.id().as_bytes().to_vec(),
            self.number.to_be_bytes().to_vec(),
            self.base.map(|payment| payment.to_bytes().to_vec()).unwrap_or_default(),
            self.settled.iter().flat_map(|point| point.to_bytes()).collect(),
        ];
        for promise in &self.promises {
            parts.push([&promise.amount.get().to_be_bytes()[..], &promise.point.to_bytes()].concat());
        }
        parts.extend(signatures.iter().map(|signature| signature.to_bytes().to_vec()));
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        tagged::hash("farthing/promises-update", &parts)
    }

    /// Signs all of it, as the payer. The same terms are always signed alike.
    pub(super) fn sign(&self, channel: &Channel, keys: &ChannelKeys) -> Update {
        let sign = |subset| {
            let digest = digest(channel, self.total(subset));
            adaptor::sign(&keys.funding, &self.point(subset), &digest)
        };
        let signatures: Vec<EncryptedSignature> = self.subsets().map(sign).collect();
        let statement = keys.sign_statement(STATEMENT, &self.statement(channel, &signatures));
        Update { signed: Signed { terms: self.clone(), signatures }, statement }
    }
}

/// The secret that a commitment on chain gives away, as its payer: which of these choices of points it pays, and the secret of
/// their joint point. Whatever else was promised and whatever the base was when it was signed, the same commitment under the same point was
/// signed alike, so it is signed again here and compared.
pub(super) fn given_away(
    channel: &Channel,
    keys: &ChannelKeys,
    commitment: &Transaction,
    choices: impl IntoIterator<Item = Vec<AdaptorPoint>>,
) -> Option<(Vec<AdaptorPoint>, AdaptorSecret)> {
    let paid = Channel::paid_to(commitment, &channel.params().payee);
    let digest = digest(channel, Msat::from_amount(paid)?);
    let input = commitment.input.iter().find(|input| input.previous_output == channel.params().funding)?;
    let signature = schnorr::Signature::from_slice(input.witness.nth(1)?).ok()?;
    choices.into_iter().find_map(|points| {
        let point = joint_point(&points);
        let encrypted = adaptor::sign(&keys.funding, &point, &digest);
        let secret = adaptor::recover(&point, &encrypted, &signature)?;
        Some((points, secret))
    })
}

impl Update {
    /// Whether this channel's payer made it, and every signature in it opens with the secrets of its subset.
    pub(super) fn check(&self, channel: &Channel) -> Result<(), BadUpdate> {
        self.check_above(channel, None)
    }

    /// Whether this channel's payer made it, whatever it says: what is answered is for the payer only.
    pub(super) fn check_statement(&self, channel: &Channel) -> Result<(), BadUpdate> {
        let Self { signed: Signed { terms, signatures }, statement } = self;
        let (key, digest) = (channel.params().payer.funding_xonly(), terms.statement(channel, signatures));
        if keys::statement_holds(&key, STATEMENT, &digest, statement) {
            Ok(())
        } else {
            Err(BadUpdate::Statement)
        }
    }

    /// [`Self::check`] for whoever has checked the base before.
    pub(super) fn check_above(&self, channel: &Channel, known: Option<&Payment>) -> Result<(), BadUpdate> {
        let Signed { terms, signatures } = &self.signed;
        terms.check(channel)?;
        let (needed, got) = (terms.subsets().len(), signatures.len());
        if needed != got {
            return Err(BadUpdate::Count { needed, got });
        }
        self.check_statement(channel)?;
        let key = channel.params().payer.funding_xonly();
        if let Some(base) = terms.base.as_ref().filter(|base| Some(*base) != known) {
            commitment::verify(channel, base)?;
        }
        for (subset, signature) in terms.subsets().zip(signatures) {
            let total = terms.total(subset);
            if !adaptor::verify(&key, &terms.point(subset), &digest(channel, total), signature) {
                return Err(BadUpdate::Encrypted(total));
            }
        }
        Ok(())
    }
}

impl Signed {
    /// The payment that pays the base and every promise whose secret is given, in the order of the promises. `None` when none
    /// is given, or a wrong one.
    pub(super) fn open(&self, channel: &Channel, secrets: &[Option<AdaptorSecret>]) -> Option<Payment> {
        let known: Vec<&AdaptorSecret> = secrets.iter().flatten().collect();
        let subset: Subset =
            secrets.iter().enumerate().map(|(index, secret)| usize::from(secret.is_some()) << index).sum();
        let encrypted = self.signatures.get(subset.checked_sub(1)?)?;
        let total = self.terms.total(subset);
        let key = channel.params().payer.funding_xonly();
        let signature = adaptor::decrypt(&key, &digest(channel, total), encrypted, &joint_secret(&known))?;
        Some(Payment { total, signature })
    }
}

/// The least total that can be enforced in a channel: dust and the cost of closing, as agreed.
pub(super) fn least(channel: &Channel) -> Msat {
    Msat::from_amount(channel.params().prepaid).expect("at most the capacity")
}

/// What a payer signs in the commitment to a total.
fn digest(channel: &Channel, total: Msat) -> secp256k1::Message {
    commitment::digest_paying(channel, total, &channel.params().payee.output)
}

#[cfg(test)]
mod tests;
