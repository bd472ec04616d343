//! Taking what payers announce: chains of words with their rungs, and batches of preimages.

use std::sync::Arc;

use bitcoin::Amount;
use farthing_protocol::flat::{BadBatch, Batch, BatchTerms, Signed};
use farthing_protocol::lightspeed::ladder::BadLadder;
use farthing_protocol::lightspeed::tab::BadPay;
use farthing_protocol::lightspeed::{ChainTerms, Ladder, Rung, Tab};
use farthing_protocol::payee::{self, Input, Reject};
use farthing_protocol::{ChannelId, Msat, Payment};

use super::{Session, Tabs};
use crate::books::{Books, OrderError};
use crate::machine::Payee;
use crate::store::Write;

/// How many announcements with wrong signatures a payer may send before no further one is looked at: each takes up to 4,096
/// verifications, 0.1 s.
const MOST_WRONG: u8 = 8;

/// Why a chain was not taken. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// No such channel.
    #[error("channel {0} is not known here")]
    Unknown(ChannelId),
    /// The chain or its rungs.
    #[error(transparent)]
    BadLadder(#[from] BadLadder),
    /// It is not the next one, or the payment does not fit.
    #[error(transparent)]
    BadPay(#[from] BadPay),
    /// The payee would risk too much between two rungs.
    #[error(
        "the words between two rungs are worth {got}, but at most {most} may be served uncovered: use more rungs"
    )]
    Exposure {
        /// The payee's limit.
        most: Msat,
        /// What the chain would come to.
        got: Msat,
    },
    /// The funding was not seen on the chain.
    #[error("the funding of this channel is not to be seen yet")]
    Unfunded,
    /// The batch or its signatures.
    #[error(transparent)]
    BadBatch(#[from] BadBatch),
    /// Words where this seller takes preimages, or the other way round.
    #[error("this seller is paid {0}")]
    OtherMode(&'static str),
    /// The batch is of other terms than this seller's.
    #[error("the batch is not of the terms that this seller offers")]
    OtherTerms,
    /// The payee's wallet could not pay the fee of the micropayment transaction.
    #[error("the seller cannot take a batch of so many outputs now: ask again later, or for fewer")]
    NoCoins {
        /// What its wallet holds.
        got: Amount,
        /// What it would take.
        needed: Amount,
    },
    /// No honest payer signs wrongly, again and again.
    #[error(
        "too many announcements here had wrong signatures: this channel pays with what it has announced, or is closed"
    )]
    TooManyWrong,
    /// The books.
    #[error(transparent)]
    Order(#[from] OrderError<Reject>),
}

/// What a payer announces.
#[derive(Debug)]
pub enum Announced {
    /// A chain of words, with its rungs.
    Chain(ChainTerms, Vec<Rung>),
    /// A batch of preimages, in flat mode.
    Batch(BatchTerms, Signed),
}

impl Announced {
    fn number(&self) -> u32 {
        match self {
            Self::Chain(terms, _) => terms.number,
            Self::Batch(terms, _) => terms.number,
        }
    }

    fn is_taken(&self, tab: &Tab) -> bool {
        match self {
            Self::Chain(terms, _) => tab.has_taken(terms),
            Self::Batch(terms, _) => tab.has_taken_batch(terms),
        }
    }
}

impl Tabs {
    /// Takes a chain or a batch: verifies its signatures, stores it, and only then counts its words or preimages. `payment` is
    /// what the channel's first one stands on. `fits`: whether it is what this seller asks for.
    ///
    /// # Errors
    /// When a signature does not fit or too much would be at stake. Nothing changed then.
    pub async fn announce(
        &self,
        books: &Books<Payee>,
        channel: ChannelId,
        announced: Announced,
        payment: Payment,
        (fits, most): (Result<(), AnnounceError>, Msat),
    ) -> Result<(), AnnounceError> {
        let number = announced.number();
        let setup = books.setup(&channel).ok_or(AnnounceError::Unknown(channel))?;
        if !self.load(books, channel).await? {
            self.begin(books, channel, payment).await?;
        }
        let session = self.session(channel).ok_or(AnnounceError::Unknown(channel))?;
        let mut wrong = session.announcing.lock().await;
        if announced.is_taken(&session.live().tab) {
            // The answer to the first announcement was lost, or it could not be stored.
            return Ok(self.store_now(books, channel).await?);
        }
        let taken = match (fits, announced) {
            (Err(refused), _) => Err(refused),
            (Ok(()), _) if *wrong >= MOST_WRONG => Err(AnnounceError::TooManyWrong),
            (Ok(()), Announced::Chain(terms, rungs)) => {
                self.verify_and_take(books, (channel, &session, &setup), (terms, rungs), most).await
            }
            (Ok(()), Announced::Batch(terms, signed)) => {
                verify_and_take_batch(&session, &setup, terms, signed).await
            }
        };
        if matches!(taken, Err(AnnounceError::BadPay(BadPay::Waiting(_)))) {
            return taken; // it may come again when the one before has begun
        }
        if let Err(AnnounceError::BadLadder(_) | AnnounceError::BadBatch(_)) = &taken {
            *wrong = wrong.saturating_add(1);
        }
        if taken.is_err() {
            // The payer hears that and announces another, so a late copy of this one must not be taken after all.
            session.live().tab.refuse_chain(number);
        }
        self.store_now(books, channel).await?;
        drop(wrong);
        drop(session);
        self.make_room(books);
        taken
    }

    async fn verify_and_take(
        &self,
        books: &Books<Payee>,
        (channel, session, setup): (ChannelId, &Session, &Arc<payee::Setup>),
        (terms, rungs): (ChainTerms, Vec<Rung>),
        most: Msat,
    ) -> Result<(), AnnounceError> {
        let (expected, base) = session.live().tab.next_chain()?;
        if terms.number < expected {
            return Err(BadPay::Number { expected, got: terms.number }.into());
        }
        let between = terms.shape.worth(terms.shape.stretch());
        if between > most {
            return Err(AnnounceError::Exposure { most, got: between });
        }
        let least_delay = u16::try_from(setup.policy.margin).unwrap_or(u16::MAX);
        let verifying = setup.clone();
        let verified = tokio::task::spawn_blocking(move || {
            Ladder::verify(&verifying.channel, terms, base, rungs, least_delay)
        });
        let ladder = verified.await.map_err(|_| OrderError::Ended)??;
        session.live().tab.expects(&ladder)?;
        // The rungs are stored before a word of theirs counts.
        books.write(vec![Write::Ladder(channel, Arc::new(ladder.clone()))]).await?;
        let mut live = session.live();
        live.tab.announce(&ladder)?;
        live.ladders.push(ladder);
        live.weigh();
        Ok(())
    }

    /// Turns a channel that paid for pieces into one that pays for calls.
    async fn begin(
        &self,
        books: &Books<Payee>,
        channel: ChannelId,
        payment: Payment,
    ) -> Result<(), AnnounceError> {
        let setup = books.setup(&channel).ok_or(AnnounceError::Unknown(channel))?;
        // Nothing is stored for a payer that has locked nothing.
        if books.state(channel).await?.ok_or(AnnounceError::Unknown(channel))?.is_unfunded() {
            return Err(AnnounceError::Unfunded);
        }
        let charge = Input::Charge { payment: Some(payment), cost: Msat::ZERO };
        match books.handle(channel, charge, None).await {
            Ok(_) | Err(OrderError::Rejected(Reject::NotIncreasing { .. })) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            let left = self.left();
            let state = books.state(channel).await?.ok_or(AnnounceError::Unknown(channel))?;
            if state.tab().is_some() {
                // Another announcement came first, and its tab has left the memory since.
                self.load(books, channel).await?;
                return Ok(());
            }
            let ledger = state.ledger();
            let newest = ledger.newest.ok_or(AnnounceError::Unknown(channel))?;
            let new = (Tab::new(newest, ledger.spent), Vec::new(), state.cap(&setup));
            if self.insert(channel, &setup, new, left) {
                return Ok(());
            }
        }
    }
}

/// Nothing of a batch is stored apart: it is in the tab, which is stored before the payer hears of it.
async fn verify_and_take_batch(
    session: &Session,
    setup: &Arc<payee::Setup>,
    terms: BatchTerms,
    signed: Signed,
) -> Result<(), AnnounceError> {
    let verifying = setup.clone();
    let verified = tokio::task::spawn_blocking(move || {
        Batch::verify(&verifying.channel, terms, signed, verifying.policy.margin)
    });
    let batch = verified.await.map_err(|_| OrderError::Ended)??;
    let mut live = session.live();
    live.tab.take_batch(batch)?;
    live.weigh();
    Ok(())
}
