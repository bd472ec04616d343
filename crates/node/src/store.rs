//! What is stored, and how: one SQLite database in WAL mode, written through to the disk at every commit
//! (`synchronous = FULL`).
//!
//! | table | holds |
//! |---|---|
//! | `channels` | one row each: role, setup record, state |
//! | `journal` | newer states of channels, as one write brought them |
//! | `purchases` | every item ever charged, so that it is charged once |
//! | `spends` | which watched outputs were spent, in which block |
//! | `spenders` | the transactions that did: one may spend a thousand outputs |
//! | `wallet` | the wallet's change sets, in order |
//! | `chains` | the rungs of chains of words that a payee has taken and may need again |
//! | `epochs` | one row: how often a payee has started |
//! | `days` | what calls cost on each day (UTC), for the payer's daily budget |
//! | `wishes` | what a person asked for from another process: close this channel |
//! | `cheques` | what was written to whom, got from whom, bought or sold (`got`: 0 to 3), and what became of it; by point, or by authorisation |
//!
//! Setups, states and change sets are `postcard` with a leading version byte. What is read back is not trusted: it is
//! decoded, and parameters are checked again.

mod chains;
mod followed;
mod forgetting;
mod journal;
mod papers;
mod wishes;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bdk_wallet::ChangeSet;
use bdk_wallet::chain::Merge as _;
use bitcoin::consensus::encode::{deserialize, serialize};
use bitcoin::hashes::Hash as _;
use bitcoin::{BlockHash, OutPoint, Transaction};
use farthing_protocol::lightspeed::Ladder;
use farthing_protocol::{ChannelId, Msat, Params};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cheques::paper::Paper;
use crate::crash;
use crate::machine::Machine;
pub use crate::store::followed::Followed;
pub(crate) use crate::store::followed::locked_outputs;
use crate::store::journal::{Journal, States};

/// The layout this code writes, kept in `PRAGMA user_version`.
const SCHEMA: i32 = 7;
/// The encoding of a stored value.
const ENCODING: u8 = 1;

/// How many pages the log holds before they are copied into the database: 16 MiB. States are written again and again, so
/// the more of them gather, the fewer are copied.
const CHECKPOINT: u32 = 4_096;

// The rows of channels are long; a table without row ids would keep most of each in a page of its own.
const TABLES: &str = "
CREATE TABLE channels (
    id BLOB PRIMARY KEY, role INTEGER NOT NULL, funding BLOB NOT NULL, parties BLOB NOT NULL, record BLOB NOT NULL,
    state BLOB NOT NULL, opened_at INTEGER NOT NULL, UNIQUE (role, funding)
) STRICT;
CREATE TABLE journal (id INTEGER PRIMARY KEY, states BLOB NOT NULL) STRICT;
CREATE TABLE purchases (
    channel BLOB NOT NULL, item BLOB NOT NULL, cost INTEGER NOT NULL, PRIMARY KEY (channel, item)
) STRICT, WITHOUT ROWID;
CREATE TABLE spends (
    outpoint BLOB NOT NULL, block BLOB NOT NULL, height INTEGER NOT NULL, spender BLOB NOT NULL,
    PRIMARY KEY (outpoint, block)
) STRICT, WITHOUT ROWID;
CREATE TABLE spenders (txid BLOB PRIMARY KEY, spender BLOB NOT NULL) STRICT;
CREATE TABLE wallet (id INTEGER PRIMARY KEY, changes BLOB NOT NULL) STRICT;
CREATE TABLE chains (
    channel BLOB NOT NULL, number INTEGER NOT NULL, ladder BLOB NOT NULL, PRIMARY KEY (channel, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE epochs (id INTEGER PRIMARY KEY CHECK (id = 0), epoch INTEGER NOT NULL) STRICT;
CREATE TABLE days (day INTEGER PRIMARY KEY, spent INTEGER NOT NULL) STRICT;
CREATE TABLE wishes (channel BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE cheques (
    got INTEGER NOT NULL, point BLOB NOT NULL, at INTEGER NOT NULL, cheque BLOB NOT NULL, PRIMARY KEY (got, point)
) STRICT, WITHOUT ROWID;
";
/// A channel that has ended is followed no more.
const ENDED: &str = "ALTER TABLE channels ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;";

/// A read or write that did not succeed. A failed write changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite says why: a full disk, a lost file, a lock.
    #[error("the database cannot be read or written: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored value cannot be decoded.
    #[error("a stored {what} cannot be read: {source}")]
    Corrupt {
        /// What kind of value.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database was written by another version.
    #[error(
        "the database has layout {found}, and this version of farthing knows layout {known}: use the version that made it"
    )]
    OtherLayout {
        /// The layout found.
        found: i32,
        /// The layout that is known here.
        known: i32,
    },
}

impl StoreError {
    pub(crate) fn corrupt(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Corrupt { what, source: source.into() }
    }
}

/// A channel as it is stored.
pub struct StoredChannel<M: Machine> {
    /// The channel.
    pub id: ChannelId,
    /// Its setup record.
    pub record: M::Record,
    /// Where it stands.
    pub state: M::State,
    /// When it was opened, in seconds since 1970.
    pub opened_at: u64,
}

/// A spend of watched outputs that was seen in a block.
#[derive(Clone, Debug)]
pub struct Spend {
    /// What was spent.
    pub outpoints: Vec<OutPoint>,
    /// The transaction that did.
    pub by: Transaction,
    /// The block it is in.
    pub block: BlockHash,
    /// That block's height.
    pub height: u32,
}

/// Something to be written besides states, in the same durable write.
#[derive(Debug)]
pub enum Write {
    /// What changed in the wallet.
    Wallet(Box<ChangeSet>),
    /// A spend that was seen in a block.
    Spend(Box<Spend>),
    /// A verified chain of words of a channel.
    Ladder(ChannelId, Arc<Ladder>),
    /// What payees of calls can claim since a day, counted from 1970: so much more, or less.
    Day {
        /// The day.
        day: u64,
        /// Millisatoshi.
        by: i64,
    },
    /// A cheque, or what became of it.
    Cheque(Box<Paper>),
}

/// The database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    journal: Journal,
}

impl Store {
    /// Opens the database, and makes it when it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened or is from a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path, SCHEMA, &[(0, TABLES), (6, ENDED)])?;
        let journal = Journal::open(&connection)?;
        Ok(Self { connection, journal })
    }

    /// All channels of a role, in the order of their opening.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that cannot be decoded.
    pub fn channels<M: Machine>(&self) -> Result<Vec<StoredChannel<M>>, StoreError> {
        // One view of rows and journal, or what is folded in between would be read in neither.
        let view = self.connection.unchecked_transaction()?;
        let mut newest = journal::newest(&view)?;
        let mut statement = view.prepare(
            "SELECT id, record, state, opened_at FROM channels WHERE role = ?1 ORDER BY opened_at, id",
        )?;
        let rows = statement.query_map([M::ROLE as i64], |row| {
            Ok((id(row, 0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, i64>(3)?))
        })?;
        rows.map(|row| {
            let (id, record, state, opened_at) = row?;
            let state = newest.remove(&id).unwrap_or(state);
            let (record, state) = (decode("channel's setup", &record)?, decode("channel's state", &state)?);
            Ok(StoredChannel { id, record, state, opened_at: opened_at.unsigned_abs() })
        })
        .collect()
    }

    /// What calls cost on a day, counted from 1970, and on all later ones.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn spent_since(&self, day: u64) -> Result<Msat, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT coalesce(sum(spent), 0) FROM days WHERE day >= ?1")?;
        let day = i64::try_from(day).unwrap_or(i64::MAX);
        let spent: i64 = statement.query_row([day], |row| row.get(0))?;
        Ok(Msat::new(spent.unsigned_abs()))
    }

    /// Begins the next epoch: a number that no earlier start has had, stored before it is returned.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn begin_epoch(&self) -> Result<u32, StoreError> {
        crash::point();
        let epoch = self.connection.query_row(
            "INSERT INTO epochs VALUES (0, 1) ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
            [],
            |row| row.get(0),
        )?;
        crash::point();
        Ok(epoch)
    }

    /// What an item cost when it was charged, if it ever was.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn purchase(&self, channel: ChannelId, item: &[u8; 32]) -> Result<Option<Msat>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT cost FROM purchases WHERE channel = ?1 AND item = ?2")?;
        let cost: Option<i64> =
            statement.query_row(params![channel.as_bytes(), item], |row| row.get(0)).optional()?;
        Ok(cost.map(|cost| Msat::new(cost.unsigned_abs())))
    }

    /// The spends of an outpoint that were seen in blocks, the highest first. After a reorganisation some of those blocks
    /// may not be in the best chain.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn spends(&self, outpoint: &OutPoint) -> Result<Vec<Spend>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT block, height, spenders.spender FROM spends JOIN spenders ON txid = spends.spender
             WHERE outpoint = ?1 ORDER BY height DESC",
        )?;
        let rows = statement.query_map([serialize(outpoint)], |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, u32>(1)?, row.get::<_, Vec<u8>>(2)?))
        })?;
        rows.map(|row| {
            let (block, height, by) = row?;
            let (by, block) = (transaction(&by)?, BlockHash::from_byte_array(block));
            Ok(Spend { outpoints: vec![*outpoint], by, block, height })
        })
        .collect()
    }

    /// The wallet's history, merged; `None` before the wallet was made.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that cannot be decoded.
    pub fn wallet(&self) -> Result<Option<ChangeSet>, StoreError> {
        let mut statement = self.connection.prepare("SELECT changes FROM wallet ORDER BY id")?;
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let mut merged: Option<ChangeSet> = None;
        for row in rows {
            let changes: ChangeSet = decode("wallet change", &row?)?;
            merged.get_or_insert_with(ChangeSet::default).merge(changes);
        }
        Ok(merged)
    }

    /// Starts a durable write. Dropped without [`Batch::commit`], nothing of it stays.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn batch(&mut self) -> Result<Batch<'_>, StoreError> {
        let behavior = rusqlite::TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behavior)?;
        Ok(Batch { transaction, journal: &mut self.journal, states: States::default() })
    }
}

/// One durable write of many things.
#[derive(Debug)]
pub struct Batch<'a> {
    transaction: rusqlite::Transaction<'a>,
    journal: &'a mut Journal,
    states: States,
}

impl Batch<'_> {
    /// Adds a channel.
    ///
    /// # Errors
    /// When the database cannot be written, or the channel is there already.
    pub fn add_channel<M: Machine>(
        &self,
        id: ChannelId,
        agreement: &Params,
        record: &M::Record,
        state: &M::State,
        opened_at: u64,
    ) -> Result<(), StoreError> {
        let opened_at = i64::try_from(opened_at).unwrap_or(i64::MAX);
        self.transaction.execute(
            "INSERT INTO channels VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
            params![
                id.as_bytes(),
                M::ROLE as i64,
                serialize(&agreement.funding),
                encode(&[&agreement.payer.output, &agreement.payee.output]),
                encode(record),
                encode(state),
                opened_at
            ],
        )?;
        Ok(())
    }

    /// Replaces the state of a channel that was added by an earlier write.
    pub fn set_state<M: Machine>(&mut self, id: ChannelId, state: &M::State) {
        self.states.push(id, state);
    }

    /// Takes note that a channel has ended: what becomes of its outputs is noted no more.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn end<M: Machine>(&self, id: ChannelId) -> Result<(), StoreError> {
        let mut statement =
            self.transaction.prepare_cached("UPDATE channels SET ended = 1 WHERE id = ?1 AND role = ?2")?;
        statement.execute(params![id.as_bytes(), M::ROLE as i64])?;
        Ok(())
    }

    /// Takes note that an item was charged.
    ///
    /// # Errors
    /// When the database cannot be written, or the item is there already.
    pub fn add_purchase(&self, channel: ChannelId, item: &[u8; 32], cost: Msat) -> Result<(), StoreError> {
        let mut statement = self.transaction.prepare_cached("INSERT INTO purchases VALUES (?1, ?2, ?3)")?;
        statement.execute(params![
            channel.as_bytes(),
            item,
            i64::try_from(cost.get()).unwrap_or(i64::MAX)
        ])?;
        Ok(())
    }

    /// Adds something else.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn write(&self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Wallet(changes) => {
                self.transaction.execute("INSERT INTO wallet (changes) VALUES (?1)", [encode(changes)])?;
            }
            Write::Spend(spend) => {
                let txid = spend.by.compute_txid();
                self.transaction.execute(
                    "INSERT OR IGNORE INTO spenders VALUES (?1, ?2)",
                    params![txid.as_byte_array(), serialize(&spend.by)],
                )?;
                let mut statement = self
                    .transaction
                    .prepare_cached("INSERT OR IGNORE INTO spends VALUES (?1, ?2, ?3, ?4)")?;
                for outpoint in &spend.outpoints {
                    let (block, txid) = (spend.block.as_byte_array(), txid.as_byte_array());
                    statement.execute(params![serialize(outpoint), block, spend.height, txid])?;
                }
            }
            Write::Day { day, by } => {
                let mut statement = self.transaction.prepare_cached(
                    "INSERT INTO days VALUES (?1, max(0, ?2)) ON CONFLICT (day) DO UPDATE SET spent = max(0, spent + ?2)",
                )?;
                statement.execute(params![i64::try_from(*day).unwrap_or(i64::MAX), by])?;
            }
            Write::Cheque(paper) => self.put_paper(paper)?,
            // A chain whose announcement was cut short may come again.
            Write::Ladder(channel, ladder) => {
                self.transaction.execute(
                    "INSERT OR REPLACE INTO chains VALUES (?1, ?2, ?3)",
                    params![channel.as_bytes(), ladder.terms().number, encode(ladder)],
                )?;
            }
        }
        Ok(())
    }

    /// Makes all of it durable.
    ///
    /// # Errors
    /// When the disk does not take it; then nothing of it stays.
    pub fn commit(self) -> Result<(), StoreError> {
        let Self { transaction, journal, states } = self;
        let next = journal.append(&transaction, &states)?;
        crash::point();
        transaction.commit()?;
        *journal = next;
        crash::point();
        Ok(())
    }
}

/// Opens a database of ours, and makes its tables when it is not there: WAL, and every commit reaches the disk.
pub(crate) fn connect(path: &Path, schema: i32, steps: &[(i32, &str)]) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
    lay_out(&mut connection, schema, steps)?;
    Ok(connection)
}

/// Gives a database the layout that this code writes, or leaves it as it is: by what each step changes of the layout that it names, 0 for
/// an empty file.
pub(crate) fn lay_out(
    connection: &mut Connection,
    schema: i32,
    steps: &[(i32, &str)],
) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found != schema && !steps.iter().any(|(from, _)| *from == found) {
        return Err(StoreError::OtherLayout { found, known: schema });
    }
    for (_, changes) in steps.iter().filter(|(from, _)| *from >= found) {
        transaction.execute_batch(changes)?;
    }
    transaction.pragma_update(None, "user_version", schema)?;
    Ok(transaction.commit()?)
}

fn transaction(bytes: &[u8]) -> Result<Transaction, StoreError> {
    deserialize(bytes).map_err(|error| StoreError::corrupt("transaction", error))
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<ChannelId> {
    Ok(ChannelId::from_bytes(row.get(column)?))
}

pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, vec![ENCODING]).expect("values of ours can be encoded into memory")
}

pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&ENCODING, value)) => {
            postcard::from_bytes(value).map_err(|error| StoreError::corrupt(what, error))
        }
        Some((version, _)) => Err(StoreError::corrupt(what, format!("unknown encoding {version}"))),
        None => Err(StoreError::corrupt(what, "nothing is there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uncommitted_batch_leaves_nothing_and_a_newer_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let mut store = Store::open(&path).unwrap();
        let channel = ChannelId::from_bytes([1; 32]);
        store.batch().unwrap().add_purchase(channel, &[2; 32], Msat::new(7)).unwrap();
        assert_eq!(store.purchase(channel, &[2; 32]).unwrap(), None);
        let batch = store.batch().unwrap();
        batch.add_purchase(channel, &[2; 32], Msat::new(7)).unwrap();
        assert!(batch.add_purchase(channel, &[2; 32], Msat::new(7)).is_err(), "an item is charged once");
        batch.commit().unwrap();
        assert_eq!(Store::open(&path).unwrap().purchase(channel, &[2; 32]).unwrap(), Some(Msat::new(7)));

        // One of layout 6 is brought to this one.
        store.connection.execute_batch("ALTER TABLE channels DROP COLUMN ended").unwrap();
        store.connection.pragma_update(None, "user_version", 6).unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(store.purchase(channel, &[2; 32]).unwrap(), Some(Msat::new(7)));
        assert_eq!(store.followed().unwrap().0.len(), 0);

        store.connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::OtherLayout { found: 99, .. })));
    }
}
