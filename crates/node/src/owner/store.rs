//! What the owner keeps of its devices' channels: one SQLite database, written through to the disk at every commit.
//!
//! | table | holds |
//! |---|---|
//! | `channels` | one row each: the newest states, and whether the owner closes |
//! | `hashes` | payment hashes of HTLCs that the bridge may have had |
//!
//! **Erasing** is as in [`crate::device::store`]: what a row gave up is overwritten, and the log is emptied before anything is acknowledged.
//!
//! **Two processes** may use it: one takes states, another closes. Each decides in a transaction that writes, so one waits for the other; what a
//! closing found is what stays.

use std::path::Path;

use farthing_protocol::Transition;
use farthing_protocol::device::Enrolment;
use farthing_protocol::device::bolt3::{CommitmentNumber, PaymentHash};
use farthing_protocol::device::kept::{Keeping, Kept, NotKept, StoreEffect};
use farthing_protocol::device::wire::ChannelKeysId;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use zeroize::Zeroizing;

use crate::crash;
use crate::device::MOST_CHANNELS;
use crate::device::alone::MOST_HASHES;
use crate::device::store::{empty_log, forgetful};
use crate::store::{StoreError, decode, encode, lay_out};

/// The layout this code writes, kept in `PRAGMA user_version`.
const SCHEMA: i32 = 1;

const TABLES: &str = "
CREATE TABLE channels (
    device TEXT NOT NULL, channel BLOB NOT NULL, keeping BLOB NOT NULL, PRIMARY KEY (device, channel)
) STRICT;
CREATE TABLE hashes (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, channel BLOB NOT NULL, hash BLOB NOT NULL,
    UNIQUE (device, channel, hash)
) STRICT;
";

const NEW_HASH: &str =
    "INSERT INTO hashes (device, channel, hash) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";

/// Why a state was not kept. Nothing is acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// A rule forbids it.
    #[error(transparent)]
    Rule(#[from] NotKept),
    /// The device could fill the disk with more.
    #[error("store-channels: {MOST_CHANNELS} channels of one device are enough")]
    TooMany,
    /// The disk. The state may be stored all the same; it may come again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What closes a channel, with the device's backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToClose {
    /// The newest states.
    pub kept: Kept,
    /// Payment hashes, the newest first.
    pub hashes: Vec<PaymentHash>,
}

/// The database.
#[derive(Debug)]
pub struct OwnerStore {
    connection: Connection,
}

impl OwnerStore {
    /// Opens the database, and makes it when it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened or is from a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = forgetful(path)?;
        lay_out(&mut connection, SCHEMA, &[(0, TABLES)])?;
        Ok(Self { connection })
    }

    /// Keeps a device's newest state in place of the one before. When this returns, that one is in no file, and the number that it gives may be
    /// acknowledged.
    ///
    /// # Errors
    /// See [`KeepError`].
    pub fn keep(
        &mut self,
        device: &str,
        enrolment: &Enrolment,
        kept: Kept,
    ) -> Result<CommitmentNumber, KeepError> {
        let (channel, hashes): (_, Vec<PaymentHash>) = (kept.channel(), kept.hashes().collect());
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = transaction.map_err(StoreError::from)?;
        let before = read(&transaction, device, channel)?;
        if before.is_none() && count(&transaction, device)? >= MOST_CHANNELS {
            return Err(KeepError::TooMany);
        }
        let decided = Keeping::keep(before.as_ref(), enrolment, kept)?;
        crash::point();
        let (_, effects) = decided.commit(|next| {
            write(&transaction, device, channel, next)?;
            for hash in &hashes {
                transaction.execute(NEW_HASH, params![device, channel.0, hash.0])?;
            }
            Ok::<_, StoreError>(transaction.commit()?)
        })?;
        crash::point();
        let mut acknowledged = None;
        for effect in effects {
            match effect {
                StoreEffect::Erase => empty_log(&self.connection)?,
                StoreEffect::Acknowledge(number) => acknowledged = Some(number),
                StoreEffect::Close(_) => {}
            }
            crash::point();
        }
        Ok(acknowledged.expect("what was kept may be acknowledged"))
    }

    /// The owner closes all channels of a device: from now on none of its states is acknowledged. Again it gives the same.
    ///
    /// # Errors
    /// When the database cannot be written: then nothing may be published.
    pub fn close(&mut self, device: &str) -> Result<Vec<ToClose>, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut batch = Vec::new();
        for channel in channels(&transaction, device)? {
            let keeping = read(&transaction, device, channel)?.expect("it is in this transaction");
            batch.push((channel, keeping.close()));
        }
        let closed = Transition::commit_all(batch, |states| {
            for (channel, state) in states {
                write(&transaction, device, **channel, state)?;
            }
            Ok::<_, StoreError>(transaction.commit()?)
        })?;
        crash::point();
        let effects = closed.into_iter().flat_map(|(_, _, effects)| effects);
        let mut to_close = Vec::new();
        for effect in effects {
            match effect {
                StoreEffect::Close(kept) => {
                    let hashes = self.hashes(device, kept.channel())?;
                    to_close.push(ToClose { kept: *kept, hashes });
                }
                StoreEffect::Erase | StoreEffect::Acknowledge(_) => {}
            }
        }
        Ok(to_close)
    }

    /// How long other users of the database are waited for.
    #[cfg(test)]
    pub(crate) fn patience(&self, patience: std::time::Duration) {
        self.connection.busy_timeout(patience).unwrap();
    }

    fn hashes(&self, device: &str, channel: ChannelKeysId) -> Result<Vec<PaymentHash>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT hash FROM hashes WHERE device = ?1 AND channel = ?2 ORDER BY id DESC LIMIT ?3",
        )?;
        let rows = statement.query_map(params![device, channel.0, MOST_HASHES], |row| row.get(0))?;
        rows.map(|row| Ok(PaymentHash(row?))).collect()
    }
}

fn channels(connection: &Connection, device: &str) -> Result<Vec<ChannelKeysId>, StoreError> {
    let mut statement =
        connection.prepare("SELECT channel FROM channels WHERE device = ?1 ORDER BY channel")?;
    let rows = statement.query_map([device], |row| row.get(0))?;
    rows.map(|row| Ok(ChannelKeysId(row?))).collect()
}

fn count(connection: &Connection, device: &str) -> Result<usize, StoreError> {
    let count = "SELECT count(*) FROM channels WHERE device = ?1";
    let count: u32 = connection.query_row(count, [device], |row| row.get(0))?;
    Ok(count as usize)
}

fn read(
    connection: &Connection,
    device: &str,
    channel: ChannelKeysId,
) -> Result<Option<Keeping>, StoreError> {
    let one = "SELECT keeping FROM channels WHERE device = ?1 AND channel = ?2";
    let row = connection.query_row(one, params![device, channel.0], |row| row.get::<_, Vec<u8>>(0));
    let row = row.optional()?.map(Zeroizing::new);
    row.map(|keeping| decode("kept state", &keeping)).transpose()
}

fn write(
    connection: &Connection,
    device: &str,
    channel: ChannelKeysId,
    keeping: &Keeping,
) -> Result<(), StoreError> {
    // It holds signatures that must not outlive it.
    let keeping = Zeroizing::new(encode(keeping));
    connection.execute(
        "INSERT INTO channels VALUES (?1, ?2, ?3) ON CONFLICT (device, channel) DO UPDATE SET keeping = ?3",
        params![device, channel.0, *keeping],
    )?;
    Ok(())
}
