//! What a mailbox keeps: sealed letters and prekeys, for payees that are offline.
//!
//! ```text
//!   anybody:  post a letter ──▶ ┌─────────────────────────┐ ◀── open, publish prekeys  :its owner
//!             take a prekey ◀── │ box of one identity     │ ──▶ fetch, delete
//!                               └─────────────────────────┘
//! ```
//!
//! A *box* belongs to an identity, the key that an address names. Its owner shows that it is the owner by signing; the
//! caller of this module has checked the signature, and the box takes each owner's requests in the order of their times, so
//! that none counts twice. Who posts or takes is not asked and not stored.
//!
//! | rule | why |
//! |---|---|
//! | a letter is stored once under its hash, until its expiry, also after it was deleted | a letter that is posted again does not come again |
//! | a prekey is gone from the database before it is given | it is given once, whatever crashes |
//! | numbers of prekeys that were published are remembered, by generation | it is not published again, either |
//! | a generation that was replaced is not taken back | an owner with an old copy of its book would not notice |
//! | a full box takes one more prekey in the place of its first | an owner publishes one before it uses any, so that the box knows more than older copies |
//! | every answer waits for its write | what was answered is on the disk |
//!
//! **Who can lose what.** An operator loses disk space at most, up to [`Bounds::most_bytes`]. An owner whose box is full misses
//! further letters; to fill it costs a stranger the postage of [`Bounds::most_letters`].
//!
//! One thread owns the database. While it writes, further orders gather, and share the next write.

mod keeper;
mod shelves;

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use farthing_protocol::cheque::prekey::{PrekeyId, SignedPrekey};
use secp256k1::XOnlyPublicKey;
use tokio::sync::oneshot;

use crate::mail::keeper::{Ask, Keeper, Order};
use crate::mail::shelves::{Database, Shelves};
use crate::store::StoreError;

/// The most orders that may wait. More callers block until there is room.
const QUEUE: usize = 4_096;
/// How far a request's time may be from the clock here, in seconds.
pub const WINDOW: u64 = 600;
/// The most generations of prekeys of one box: how often its owner may have lost its book.
pub const MOST_GENERATIONS: u32 = 256;

/// How much a mailbox keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Boxes.
    pub most_boxes: u32,
    /// Letters in one box, 7,168 bytes each.
    pub most_letters: u32,
    /// Prekeys of one box that were not given out.
    pub most_prekeys: u32,
    /// Bytes of the whole database; the log beside it takes up to 16 MiB more.
    pub most_bytes: u64,
    /// How long a letter is kept at most, in seconds.
    pub most_keep: u64,
    /// After how many seconds a box is given up that its owner has not asked for and that holds no letters.
    pub idle: u64,
}

impl Default for Bounds {
    /// 10,000 boxes of up to 1,024 letters and 1,024 prekeys, 8 GiB in all; a letter is kept 35 days at most, which is longer
    /// than a channel lives, and an idle box is given up after 90.
    fn default() -> Self {
        const DAY: u64 = 86_400;
        Self {
            most_boxes: 10_000,
            most_letters: 1_024,
            most_prekeys: 1_024,
            most_bytes: 8 << 30,
            most_keep: 35 * DAY,
            idle: 90 * DAY,
        }
    }
}

/// Why a mailbox does not do what it is asked. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No such box.
    #[error("nobody has opened a box for this address here")]
    NoBox,
    /// A request that came before, or that a later one overtook, or by a wrong clock.
    #[error(
        "the request's time is not one that this mailbox takes now: the least is {least}, in microseconds since 1970"
    )]
    Stale {
        /// A time that would be taken.
        least: u64,
    },
    /// Too many letters in the box.
    #[error("the box is full: it holds {0} letters until its owner fetches them")]
    BoxFull(u32),
    /// The mailbox has no room.
    #[error("the mailbox is full; try again later")]
    Full,
    /// Too many boxes.
    #[error("the mailbox has {0} boxes and opens no more")]
    TooManyBoxes(u32),
    /// The letter's expiry is past.
    #[error("the letter's expiry is past")]
    Expired,
    /// The letter's expiry is too far.
    #[error("a letter is kept for {most} seconds at most, and this one's expiry is further away")]
    KeptTooLong {
        /// The most, in seconds.
        most: u64,
    },
    /// All prekeys are given out.
    #[error("this address has no prekeys left here: its owner must publish more")]
    NoPrekeys,
    /// Too many prekeys.
    #[error("a box holds at most {most} prekeys, and has room for {room}")]
    TooManyPrekeys {
        /// The most.
        most: u32,
        /// How many more fit now.
        room: u32,
    },
    /// Prekeys of several generations in one request.
    #[error("prekeys are published one generation at a time")]
    MixedGenerations,
    /// Too many generations.
    #[error("a box takes prekeys of at most {MOST_GENERATIONS} generations")]
    TooManyGenerations,
}

/// Why an order was not carried out. Nothing changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// The mailbox says no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be stored or read.
    #[error("nothing was done, since it could not be stored: {0}")]
    Store(Arc<StoreError>),
    /// The mailbox is closing.
    #[error("the mailbox is closing")]
    Ended,
}

impl From<rusqlite::Error> for MailError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(Arc::new(error.into()))
    }
}

/// What became of a letter that was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is kept.
    New,
    /// It was posted before: nothing changed.
    Before,
}

/// A letter that waits for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it comes among the letters of this mailbox.
    pub cursor: u64,
    /// The sealed letter.
    pub blob: Vec<u8>,
}

/// How many prekeys a box has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Prekeys that were not given out.
    pub unused: u32,
    /// Their generation, and the least number that was not published yet. `None` before the first.
    pub next: Option<PrekeyId>,
}

/// A request of a box's owner, whose signature was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The owner.
    pub identity: XOnlyPublicKey,
    /// The request's time, in microseconds since 1970.
    pub time: u64,
}

/// A running mailbox.
#[derive(Debug)]
pub struct Mailroom {
    orders: mpsc::SyncSender<Option<Order>>,
    bounds: Bounds,
    thread: Option<JoinHandle<()>>,
}

impl Mailroom {
    /// Opens the database, which is made when it is not there, and starts the thread. Blocks.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub fn open(path: &Path, bounds: Bounds) -> Result<Self, StoreError> {
        let keeper = Keeper::new(Database::open(path)?, bounds);
        let (orders, queue) = mpsc::sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("mailbox".to_owned())
            .spawn(move || keeper.run(&queue))
            .expect("the operating system starts a thread");
        Ok(Self { orders, bounds, thread: Some(thread) })
    }

    /// How much it keeps.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Opens a box; one that is open stays as it is.
    ///
    /// # Errors
    /// When there are too many, or it could not be stored.
    pub async fn open_box(&self, owned: Owned) -> Result<(), MailError> {
        self.ask(move |shelves| shelves.open_box(owned)).await
    }

    /// Keeps a letter until `expiry`, in seconds since 1970. `id` is its hash.
    ///
    /// # Errors
    /// When there is no such box, no room, or the expiry is out of bounds; or it could not be stored.
    pub async fn post(
        &self,
        to: XOnlyPublicKey,
        id: [u8; 32],
        blob: Vec<u8>,
        expiry: u64,
    ) -> Result<Posted, MailError> {
        self.ask(move |shelves| shelves.post(&to, &id, &blob, expiry)).await
    }

    /// The letters of a box after a cursor, in the order of their coming, at most so many.
    ///
    /// # Errors
    /// When there is no such box or the request is stale; or it could not be stored that it came.
    pub async fn fetch(&self, owned: Owned, after: u64, most: u32) -> Result<Vec<Kept>, MailError> {
        self.ask(move |shelves| shelves.fetch(owned, after, most)).await
    }

    /// Forgets a letter, but for its hash until its expiry. One that is not there is forgotten already.
    ///
    /// # Errors
    /// When there is no such box or the request is stale; or it could not be stored.
    pub async fn delete(&self, owned: Owned, id: [u8; 32]) -> Result<(), MailError> {
        self.ask(move |shelves| shelves.delete(owned, &id)).await
    }

    /// Adds prekeys of one generation to a box. Those that were published before are passed over, and those of a generation that another
    /// has replaced; unused ones of another generation are given up. A full box takes one more in the place of its first.
    ///
    /// # Errors
    /// When there is no such box, no room, or the request is stale; or it could not be stored.
    pub async fn publish(&self, owned: Owned, prekeys: Vec<SignedPrekey>) -> Result<Standing, MailError> {
        self.ask(move |shelves| shelves.publish(owned, &prekeys)).await
    }

    /// How many prekeys a box has.
    ///
    /// # Errors
    /// When there is no such box or the request is stale; or it could not be stored that it came.
    pub async fn standing(&self, owned: Owned) -> Result<Standing, MailError> {
        self.ask(move |shelves| shelves.standing(owned)).await
    }

    /// Gives out a prekey, which nobody else gets.
    ///
    /// # Errors
    /// When there is none, or it could not be stored that it is given.
    pub async fn take(&self, of: XOnlyPublicKey) -> Result<SignedPrekey, MailError> {
        self.ask(move |shelves| shelves.take(&of)).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelves<'_>) -> Result<T, MailError> + Send + 'static,
    ) -> Result<T, MailError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Some(Ask::order(work, reply))).map_err(|_| MailError::Ended)?;
        answer.await.unwrap_or(Err(MailError::Ended))
    }
}

impl Drop for Mailroom {
    fn drop(&mut self) {
        // Orders that are queued before this one are still carried out.
        let _ended_already = self.orders.send(None);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
