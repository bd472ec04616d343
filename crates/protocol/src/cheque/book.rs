//! The payee's book: which prekeys it has issued, and what each was used for.
//!
//! ```text
//!   Issue ──▶ prekeys 0‥n published
//!   Present(cheque) ──▶ ask the agent for a lock        Endorse(cheque) ──▶ prekey used for this receipt ──▶ cash the lock
//! ```
//!
//! **What the payee can lose.** Its receipt key, if it signed different receipts under one prekey; so a prekey's use is
//! stored before the secret is worked out, and the secret of another receipt never is ([`Book::secret`]). Money it cannot
//! lose here: what it sells is only a receipt, and it sells it for a completed signature ([`super::held`]). To ask for a
//! lock takes no secret, so a cheque that nobody pays uses no prekey up.
//!
//! **Replay.** Presenting or endorsing the same cheque again is harmless. A book that comes from a backup may have
//! forgotten what it used: [`Book::new`] with fresh randomness begins a new generation, and no older cheque is endorsed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cheque::Cheque;
use super::point::{AdaptorPoint, AdaptorSecret};
use super::prekey::{self, Generation, PrekeyId, SignedPrekey};
use crate::amount::Msat;
use crate::channel::Expiry;
use crate::keys::ChequeKeys;
use crate::transition::Transition;

/// The most prekeys of one generation: what a book keeps track of.
pub const MOST_PREKEYS: u32 = 1 << 20;

/// A payee's prekeys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    generation: Generation,
    issued: u32,
    /// The digest of the one receipt that each used prekey is for.
    used: BTreeMap<u32, [u8; 32]>,
}

/// What can happen to a book.
#[derive(Clone, Debug)]
pub enum Input {
    /// So many more prekeys are to be published.
    Issue(u32),
    /// A cheque came, to be cashed in a channel.
    Present {
        /// The cheque.
        cheque: Box<Cheque>,
        /// The expiry of the channel that would pay it.
        expiry: Expiry,
        /// The tip's height.
        height: u32,
        /// How many blocks before a channel's expiry the payee closes it.
        margin: u32,
    },
    /// A lock for the cheque came, and its signature was verified.
    Endorse {
        /// The cheque.
        cheque: Box<Cheque>,
        /// What the lock pays.
        offered: Msat,
    },
}

/// What the payee is to do, once its book is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Publish these.
    Publish(Vec<SignedPrekey>),
    /// Ask the agent for a lock: it holds a cheque under this point.
    Ask(AdaptorPoint),
    /// Cash the lock for the cheque, with [`Book::secret`].
    Cash,
}

/// Why a payee does not cash a cheque, or issues no prekeys. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Made out to somebody else.
    #[error("this cheque is made out to another payee")]
    NotOurs,
    /// From before the book was lost.
    #[error("the cheque's prekey is of an older generation: the payer must write another")]
    OldGeneration,
    /// Never issued.
    #[error("prekey {got} was never issued, only {issued} were")]
    NotIssued {
        /// The cheque's.
        got: u32,
        /// How many there are.
        issued: u32,
    },
    /// Used for another receipt.
    #[error("prekey {0} was used for another receipt")]
    Used(u32),
    /// The terms and the payer's secret make no point.
    #[error("the cheque makes no point")]
    NoPoint,
    /// The agent could not be paid in time.
    #[error(
        "this cheque can be cashed in a channel that expires up to {latest}, but ours expires at {expiry}"
    )]
    ExpiresTooLate {
        /// The latest that the cheque states.
        latest: u32,
        /// The channel's.
        expiry: u32,
    },
    /// The payee could not publish in time.
    #[error("the channel expires at {expiry}, at {height} that is too near to start a sale")]
    ExpiresTooSoon {
        /// The channel's expiry.
        expiry: u32,
        /// The tip's height.
        height: u32,
    },
    /// The lock pays less than the receipt would say.
    #[error("the lock pays {got}, but the cheque is for {least}")]
    TooLittle {
        /// The cheque's amount.
        least: Msat,
        /// The lock's.
        got: Msat,
    },
    /// Too many prekeys.
    #[error("a book has at most {MOST_PREKEYS} prekeys")]
    Full,
}

impl Book {
    /// An empty book. `entropy` must be fresh randomness, above all when an older book was lost.
    pub fn new(entropy: [u8; 8]) -> Self {
        Self { generation: Generation::from_entropy(entropy), issued: 0, used: BTreeMap::new() }
    }

    /// Its generation, and how many prekeys it has issued: the number of the next.
    pub fn next(&self) -> PrekeyId {
        PrekeyId { generation: self.generation, number: self.issued }
    }

    /// How many issued prekeys are not used.
    pub fn unused(&self) -> u32 {
        self.issued.saturating_sub(u32::try_from(self.used.len()).unwrap_or(u32::MAX))
    }

    /// Decides what an input does.
    ///
    /// # Errors
    /// When the cheque is not one to cash. Then nothing changes.
    pub fn handle(&self, keys: &ChequeKeys, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        match input {
            Input::Issue(count) => {
                let issued = self.issued.checked_add(count).filter(|issued| *issued <= MOST_PREKEYS);
                let issued = issued.ok_or(Reject::Full)?;
                let id = |number| PrekeyId { generation: self.generation, number };
                let new = (self.issued..issued).map(|number| SignedPrekey::new(keys, id(number))).collect();
                Ok(Transition::to(Self { issued, ..self.clone() }).then(Effect::Publish(new)))
            }
            Input::Present { cheque, expiry, height, margin } => {
                if expiry > cheque.latest {
                    let (latest, expiry) = (cheque.latest.height(), expiry.height());
                    return Err(Reject::ExpiresTooLate { latest, expiry });
                }
                if height.saturating_add(margin) >= expiry.height() {
                    return Err(Reject::ExpiresTooSoon { expiry: expiry.height(), height });
                }
                self.check(keys, &cheque)?;
                let point = point_of(keys, &cheque).ok_or(Reject::NoPoint)?;
                Ok(Transition::to(self.clone()).then(Effect::Ask(point)))
            }
            Input::Endorse { cheque, offered } => {
                let number = self.check(keys, &cheque)?;
                let least = cheque.terms.amount;
                if offered < least {
                    return Err(Reject::TooLittle { least, got: offered });
                }
                let mut next = self.clone();
                next.used.insert(number, cheque.terms.digest());
                Ok(Transition::to(next).then(Effect::Cash))
            }
        }
    }

    /// The cheque's prekey, if it may be used for the cheque's receipt.
    fn check(&self, keys: &ChequeKeys, cheque: &Cheque) -> Result<u32, Reject> {
        let PrekeyId { generation, number } = cheque.prekey;
        if cheque.terms.payee != keys.receipt() {
            return Err(Reject::NotOurs);
        }
        if generation != self.generation {
            return Err(Reject::OldGeneration);
        }
        if number >= self.issued {
            return Err(Reject::NotIssued { got: number, issued: self.issued });
        }
        match self.used.get(&number) {
            Some(digest) if *digest != cheque.terms.digest() => Err(Reject::Used(number)),
            Some(_) | None => Ok(number),
        }
    }

    /// The secret that cashes an endorsed cheque. `None` for any other: it is not worked out before it is stored what its
    /// prekey is used for.
    pub fn secret(&self, keys: &ChequeKeys, cheque: &Cheque) -> Option<AdaptorSecret> {
        let number = self.check(keys, cheque).ok()?;
        // y = t + z
        let receipt = || prekey::sign(keys, cheque.prekey, &cheque.terms);
        self.used.contains_key(&number).then(receipt).flatten()?.plus(&cheque.blinding)
    }
}

/// `T = t·G + Z`, which anybody can work out from the public nonces; whoever has their secrets in less time. The scalar ends here.
fn point_of(keys: &ChequeKeys, cheque: &Cheque) -> Option<AdaptorPoint> {
    Some(prekey::sign(keys, cheque.prekey, &cheque.terms)?.plus(&cheque.blinding)?.point())
}
