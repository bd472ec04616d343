//! What the device stores, and how it forgets: one SQLite database, written through to the disk at every commit.
//!
//! | table | holds |
//! |---|---|
//! | `enrolled` | one row: owner, gateway, policy |
//! | `channels` | one row each: the share of its key |
//! | `states` | one row for each channel that has begun: its terms and state |
//! | `headers` | the newest block headers |
//! | `payments` | the newest 10,000 payments, for people and penalties: invoice, outcome |
//! | `owner_store` | one row, if the device waits for a store of its owner's: its address |
//!
//! **Erasing.** A holder commitment's signatures must be gone from the disk before its secret leaves the device: whoever has both
//! takes the channel. `secure_delete` overwrites with zeros what a row gave up, in whatever page it was. What is left is then in
//! the write-ahead log only: [`DeviceStore::erase`] copies the log into the database and empties it. What a file system or a
//! flash disk keeps of blocks that were overwritten is beyond this program's reach; encrypt the disk.

use std::path::Path;
use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::consensus::encode::{deserialize, serialize};
use farthing_protocol::device::headers::Checkpoint;
use farthing_protocol::device::machine::FormerState;
use farthing_protocol::device::wire::{ChannelKeysId, OpenTerms};
use farthing_protocol::device::{Enrolment, SignedPolicy, State};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::store::{StoreError, decode, encode, lay_out};

/// The layout this code writes, kept in `PRAGMA user_version`.
const SCHEMA: i32 = 5;

const CHANNELS_STATE: &str = "channel's state";

/// What each layout changed of the one before, the first of an empty file. A program of an older layout opens none of a newer one.
const LAYOUTS: [(i32, &str); 5] = [(0, FIRST), (1, OWNER_STORE), (2, STATES), (3, SPENT), (4, NEWEST)];
/// The encoding of a channel's state. One of before is read, and written in this one when it changes.
const STATE: u8 = 2;

const FIRST: &str = "
CREATE TABLE enrolled (id INTEGER PRIMARY KEY CHECK (id = 0), record BLOB NOT NULL) STRICT;
CREATE TABLE channels (
    id BLOB PRIMARY KEY, share BLOB NOT NULL, terms BLOB, state BLOB, CHECK ((terms IS NULL) = (state IS NULL))
) STRICT;
CREATE TABLE headers (height INTEGER PRIMARY KEY, header BLOB NOT NULL) STRICT;
CREATE TABLE payments (
    hash BLOB PRIMARY KEY, channel BLOB NOT NULL, record BLOB NOT NULL, at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";
/// A program that does not know of it would not wait for the store.
const OWNER_STORE: &str = "
CREATE TABLE owner_store (id INTEGER PRIMARY KEY CHECK (id = 0), address TEXT NOT NULL) STRICT;
";
/// A share is 50 times as long as a state, and SQLite writes a row whole.
const STATES: &str = "
ALTER TABLE channels RENAME TO former;
CREATE TABLE channels (id BLOB PRIMARY KEY, share BLOB NOT NULL) STRICT;
CREATE TABLE states (id BLOB PRIMARY KEY, terms BLOB NOT NULL, state BLOB NOT NULL) STRICT;
INSERT INTO channels SELECT id, share FROM former;
INSERT INTO states SELECT id, terms, state FROM former WHERE state IS NOT NULL;
DROP TABLE former;
";

/// States count what was paid in another way ([`FormerState`]): their rows change one by one.
const SPENT: &str = "";

/// Else each look for the newest payments would read them all.
const NEWEST: &str = "CREATE INDEX payments_at ON payments (at);";

/// How many payments are kept for people. The table would fill a small disk, and a full one stops everything.
const MOST_PAYMENTS: u32 = 10_000;

/// What the owner put into the device, and where its gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// What people call the device.
    pub name: String,
    /// The gateway, as people write it ([`crate::link::GatewayAddress`]).
    pub gateway: String,
    /// Keys, script and bounds of the owner.
    pub enrolment: Enrolment,
    /// What may be paid: the newest that came.
    pub policy: SignedPolicy,
    /// Where the chain begins.
    pub checkpoint: Checkpoint,
}

/// A channel as it is stored.
pub struct StoredChannel {
    /// Which.
    pub id: ChannelKeysId,
    /// The share of its key.
    pub share: Zeroizing<Vec<u8>>,
    /// Once it has begun.
    pub opened: Option<Opened>,
}

/// A channel that has begun, as it is stored.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What was agreed on.
    pub terms: OpenTerms,
    /// Where it stands.
    pub state: State,
}

/// A payment, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// BOLT 11.
    pub invoice: String,
    /// What was asked for, in millisatoshi.
    pub amount_msat: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Approved; nothing more is known.
    Pending,
    /// Paid.
    Paid {
        /// Hashes to the payment hash.
        preimage: [u8; 32],
        /// What routing and service cost, in millisatoshi; not known when the proof came on another way than in a report.
        fee_msat: Option<u64>,
    },
    /// Not paid.
    Failed(String),
}

/// The database.
#[derive(Debug)]
pub struct DeviceStore {
    connection: Connection,
}

impl DeviceStore {
    /// Opens the database, and makes it when it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened or is from a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = forgetful(path)?;
        lay_out(&mut connection, SCHEMA, &LAYOUTS)?;
        Ok(Self { connection })
    }

    /// What the owner put in; `None` before.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn enrolled(&self) -> Result<Option<Enrolled>, StoreError> {
        let row: Option<Vec<u8>> =
            self.connection.query_row("SELECT record FROM enrolled", [], |row| row.get(0)).optional()?;
        row.map(|record| decode("enrolment", &record)).transpose()
    }

    /// Stores what the owner put in, once; with the address of the store that the device is to wait for, if there is one.
    ///
    /// # Errors
    /// When it is there already, or the database cannot be written.
    pub fn enrol(&mut self, enrolled: &Enrolled, owner_store: Option<&str>) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("INSERT INTO enrolled VALUES (0, ?1)", [encode(enrolled)])?;
        if let Some(address) = owner_store {
            transaction.execute("INSERT INTO owner_store VALUES (0, ?1)", [address])?;
        }
        Ok(transaction.commit()?)
    }

    /// Where the owner's store is, as people write it ([`crate::link::GatewayAddress`]); `None` when the device waits for none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn owner_store(&self) -> Result<Option<String>, StoreError> {
        let row = self.connection.query_row("SELECT address FROM owner_store", [], |row| row.get(0));
        Ok(row.optional()?)
    }

    /// Replaces it, for another policy, together with the states of the channels that have begun: both or neither.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn set_enrolled(
        &mut self,
        enrolled: &Enrolled,
        states: &[(&ChannelKeysId, &State)],
    ) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (id, state) in states {
            set_state(&transaction, **id, state)?;
        }
        one(transaction.execute("UPDATE enrolled SET record = ?1", [encode(enrolled)])?)?;
        Ok(transaction.commit()?)
    }

    /// All channels and keys that are ready.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that cannot be decoded.
    pub fn channels(&self) -> Result<Vec<StoredChannel>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT id, share, terms, state FROM channels LEFT JOIN states USING (id) ORDER BY id",
        )?;
        let rows = statement.query_map([], |row| {
            let (terms, state): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(2)?, row.get(3)?);
            Ok((ChannelKeysId(row.get(0)?), Zeroizing::new(row.get(1)?), terms.zip(state)))
        })?;
        rows.map(|row| {
            let (id, share, opened) = row?;
            let opened = opened.map(|(terms, state)| {
                Ok::<_, StoreError>(Opened {
                    terms: decode("channel's terms", &terms)?,
                    state: read(&state)?,
                })
            });
            Ok(StoredChannel { id, share, opened: opened.transpose()? })
        })
        .collect()
    }

    /// Adds a key that is ready.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn add_key(&mut self, id: ChannelKeysId, share: &[u8]) -> Result<(), StoreError> {
        self.connection.execute("INSERT INTO channels VALUES (?1, ?2)", params![id.0, share])?;
        Ok(())
    }

    /// A key's channel begins.
    ///
    /// # Errors
    /// When it has begun already, or the database cannot be written.
    pub fn begin(&mut self, id: ChannelKeysId, terms: &OpenTerms, state: &State) -> Result<(), StoreError> {
        let changed = self.connection.execute(
            "INSERT INTO states SELECT id, ?2, ?3 FROM channels WHERE id = ?1",
            params![id.0, encode(terms), *secret(state)],
        )?;
        one(changed)
    }

    /// Replaces a channel's state.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn set_state(&mut self, id: ChannelKeysId, state: &State) -> Result<(), StoreError> {
        set_state(&self.connection, id, state)
    }

    /// From now on nothing can be written, or can again: as if the disk were full.
    #[cfg(test)]
    pub(super) fn fail(&self, fails: bool) {
        self.connection.pragma_update(None, "query_only", fails).unwrap();
    }

    /// How long other users of the database are waited for.
    #[cfg(test)]
    pub(super) fn patience(&self, patience: Duration) {
        self.connection.busy_timeout(patience).unwrap();
    }

    /// Leaves no copy on the disk of what was replaced.
    ///
    /// # Errors
    /// When it cannot be done, which a second reader of the database would cause: then copies may be left.
    pub fn erase(&mut self) -> Result<(), StoreError> {
        empty_log(&self.connection)
    }

    /// The stored headers, in order from the first height; `None` before there are any.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that cannot be decoded.
    pub fn headers(&self) -> Result<Option<(u32, Vec<Header>)>, StoreError> {
        let mut statement = self.connection.prepare("SELECT height, header FROM headers ORDER BY height")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let mut stored: Option<(u32, Vec<Header>)> = None;
        for row in rows {
            let (height, bytes) = row?;
            let header = deserialize(&bytes).map_err(|error| StoreError::corrupt("header", error))?;
            let (start, headers) = stored.get_or_insert((height, Vec::new()));
            if height as usize != *start as usize + headers.len() {
                return Err(StoreError::corrupt("header", format!("none of height {}", height - 1)));
            }
            headers.push(header);
        }
        Ok(stored)
    }

    /// Replaces everything from a height on, and drops what is below `least`.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn set_headers<'a>(
        &mut self,
        from: u32,
        headers: impl Iterator<Item = (u32, &'a Header)>,
        least: u32,
    ) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("DELETE FROM headers WHERE height >= ?1 OR height < ?2", [from, least])?;
        {
            let mut statement = transaction.prepare_cached("INSERT INTO headers VALUES (?1, ?2)")?;
            for (height, header) in headers {
                statement.execute(params![height, serialize(header)])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Takes note of what became of a payment.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn note(
        &mut self,
        hash: &[u8; 32],
        channel: ChannelKeysId,
        paid: &Paid,
        at: u64,
    ) -> Result<(), StoreError> {
        self.note_within(MOST_PAYMENTS, hash, channel, paid, at)
    }

    /// The same, and forgets all but so many. What is noted last is the newest, also when the clock was set back. Of those that are pending, whose end may still come, it keeps as many more.
    fn note_within(
        &mut self,
        most: u32,
        hash: &[u8; 32],
        channel: ChannelKeysId,
        paid: &Paid,
        at: u64,
    ) -> Result<(), StoreError> {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute(
            "INSERT INTO payments VALUES (?1, ?2, ?3, max(?4, (SELECT ifnull(max(at), 0) + 1 FROM payments)))
             ON CONFLICT (hash) DO UPDATE SET record = excluded.record, at = excluded.at",
            params![hash, channel.0, encode(paid), at],
        )?;
        {
            // The index has all that this reads of the thousands that stay.
            let mut statement = transaction
                .prepare_cached("SELECT hash FROM payments ORDER BY at DESC LIMIT -1 OFFSET ?1")?;
            let rows = statement.query_map([most], |row| row.get::<_, [u8; 32]>(0))?;
            let old: Vec<[u8; 32]> = rows.collect::<Result<_, _>>()?;
            let mut find = transaction.prepare_cached("SELECT record FROM payments WHERE hash = ?1")?;
            let mut forget = transaction.prepare_cached("DELETE FROM payments WHERE hash = ?1")?;
            for (number, hash) in (0..).zip(old) {
                let record: Vec<u8> = find.query_row([hash], |row| row.get(0))?;
                let is_pending =
                    decode("payment", &record).is_ok_and(|paid: Paid| paid.outcome == Outcome::Pending);
                if number >= most || !is_pending {
                    forget.execute([hash])?;
                }
            }
        }
        Ok(transaction.commit()?)
    }

    /// A payment, if it was approved, and not too many since.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn payment(&self, hash: &[u8; 32]) -> Result<Option<Paid>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT record FROM payments WHERE hash = ?1")?;
        let row: Option<Vec<u8>> = statement.query_row([hash], |row| row.get(0)).optional()?;
        row.map(|record| decode("payment", &record)).transpose()
    }

    /// The newest payments first, at most so many.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn payments(&self, most: u32) -> Result<Vec<Paid>, StoreError> {
        let mut statement =
            self.connection.prepare("SELECT record FROM payments ORDER BY at DESC LIMIT ?1")?;
        let rows = statement.query_map([most], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|row| decode("payment", &row?)).collect()
    }
}

/// Opens a database of which nothing is left that was deleted or replaced, once [`empty_log`] succeeds.
pub(crate) fn forgetful(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Copies the write-ahead log into the database, and empties it.
pub(crate) fn empty_log(connection: &Connection) -> Result<(), StoreError> {
    // A cached statement keeps values that were bound to it.
    connection.flush_prepared_statement_cache();
    let busy: i32 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy == 0 {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    Err(rusqlite::Error::SqliteFailure(code, None).into())
}

/// A state as bytes, wiped when dropped: it holds signatures that must not outlive it.
fn secret(state: &State) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(postcard::to_extend(state, vec![STATE]).expect("states can be encoded into memory"))
}

fn read(bytes: &[u8]) -> Result<State, StoreError> {
    match bytes.split_first() {
        Some((&STATE, state)) => {
            postcard::from_bytes(state).map_err(|error| StoreError::corrupt(CHANNELS_STATE, error))
        }
        _former => decode::<FormerState>(CHANNELS_STATE, bytes).map(State::from),
    }
}

fn set_state(connection: &Connection, id: ChannelKeysId, state: &State) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached("UPDATE states SET state = ?2 WHERE id = ?1")?;
    one(statement.execute(params![id.0, *secret(state)])?)
}

fn one(changed: usize) -> Result<(), StoreError> {
    if changed == 1 { Ok(()) } else { Err(rusqlite::Error::StatementChangedRows(changed).into()) }
}

#[cfg(test)]
mod tests {
    use bitcoin::hex::FromHex as _;

    use super::*;

    /// A channel's row as a program of the first layout left it, and a key that was kept ready.
    fn first_layout(path: &Path, terms: &[u8], state: &[u8]) {
        let connection = forgetful(path).unwrap();
        connection.execute_batch(FIRST).unwrap();
        let row = "INSERT INTO channels VALUES (?1, ?2, ?3, ?4)";
        let begun = params![[1_u8; 32], [11_u8; 100], terms, state];
        connection.execute(row, begun).unwrap();
        let ready = params![[2_u8; 32], [12_u8; 100], None::<Vec<u8>>, None::<Vec<u8>>];
        connection.execute(row, ready).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
    }

    /// Id, share, terms, state.
    type Row = (Vec<u8>, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

    fn rows(path: &Path) -> Vec<Row> {
        let connection = Connection::open(path).unwrap();
        let all = "SELECT id, share, terms, state FROM channels LEFT JOIN states USING (id) ORDER BY id";
        let mut statement = connection.prepare(all).unwrap();
        let rows =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn what_older_layouts_hold_is_brought_to_the_newest_once() {
        let folder = tempfile::tempdir().unwrap();
        for made_by in [1, 2, 3, 4] {
            let path = folder.path().join(format!("{made_by}.sqlite"));
            first_layout(&path, b"terms", b"state");
            if made_by > 1 {
                let connection = forgetful(&path).unwrap();
                connection.execute_batch(OWNER_STORE).unwrap();
                connection.execute("INSERT INTO owner_store VALUES (0, 'store')", []).unwrap();
                connection.pragma_update(None, "user_version", 2).unwrap();
                if made_by > 2 {
                    connection.execute_batch(STATES).unwrap();
                    connection.pragma_update(None, "user_version", made_by).unwrap();
                }
            }
            for _ in 0..2 {
                let mut store = DeviceStore::open(&path).unwrap();
                store.erase().unwrap();
                assert_eq!(store.owner_store().unwrap().as_deref(), (made_by > 1).then_some("store"));
                let begun = (vec![1; 32], vec![11; 100], Some(b"terms".to_vec()), Some(b"state".to_vec()));
                assert_eq!(rows(&path), [begun, (vec![2; 32], vec![12; 100], None, None)]);
            }
        }
    }

    /// As a program of layout 3 wrote it, with a payment under way.
    const FORMER: &str = include_str!("../../../protocol/tests/stored/device-v1/open_in_flight.hex");

    #[test]
    fn a_state_of_an_older_layout_is_read_and_written_in_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.sqlite");
        let terms = <Vec<u8>>::from_hex(include_str!("stored/terms.hex").trim()).unwrap();
        let former = [vec![1], <Vec<u8>>::from_hex(FORMER.trim()).unwrap()].concat();
        first_layout(&path, &terms, &former);
        for encoding in [1, STATE] {
            let mut store = DeviceStore::open(&path).unwrap();
            let mut begun = store.channels().unwrap().into_iter().filter_map(|channel| channel.opened);
            let (opened, None) = (begun.next().unwrap(), begun.next()) else { panic!("one has begun") };
            assert_eq!(opened.state.name(), "open");
            assert!(!opened.state.account().is_settled(), "an HTLC is under way");
            assert_eq!(rows(&path)[0].3.as_ref().unwrap()[0], encoding);
            store.set_state(ChannelKeysId([1; 32]), &opened.state).unwrap();
        }
        let damaged = [vec![3], former].concat();
        Connection::open(&path).unwrap().execute("UPDATE states SET state = ?1", [damaged]).unwrap();
        assert!(DeviceStore::open(&path).unwrap().channels().is_err());
    }

    /// Each has its invoice: for years of tolls there is no room. What may still end is kept, for a while.
    #[test]
    fn the_newest_payments_are_kept_and_those_that_are_pending() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DeviceStore::open(&folder.path().join("device.sqlite")).unwrap();
        let note = |store: &mut DeviceStore, number: u8, outcome: Outcome| {
            let paid = Paid { invoice: format!("invoice {number}"), amount_msat: 1, outcome };
            store.note_within(10, &[number; 32], ChannelKeysId([1; 32]), &paid, number.into()).unwrap();
        };
        let count = |store: &DeviceStore| store.payments(1_000).unwrap().len();
        for number in [1, 2] {
            note(&mut store, number, Outcome::Pending);
        }
        for number in 3..=30 {
            note(&mut store, number, Outcome::Failed("no route".into()));
        }
        assert_eq!(count(&store), 12);
        let is_known = |store: &DeviceStore, number: u8| store.payment(&[number; 32]).unwrap().is_some();
        assert!((1..=30).all(|number| is_known(&store, number) == (number <= 2 || number > 20)));
        // One ends.
        let paid =
            Paid { invoice: "invoice 1".into(), amount_msat: 1, outcome: Outcome::Failed("no".into()) };
        store.note_within(10, &[1; 32], ChannelKeysId([1; 32]), &paid, 31).unwrap();
        assert_eq!(store.payments(1).unwrap(), [paid]);
        assert_eq!(count(&store), 11);
        for number in 32..=90 {
            note(&mut store, number, Outcome::Pending);
        }
        assert_eq!(count(&store), 20, "no more than twice as many");
        // The clock is set back.
        for number in 91..=120 {
            let paid =
                Paid { invoice: format!("invoice {number}"), amount_msat: 1, outcome: Outcome::Pending };
            store.note_within(10, &[number; 32], ChannelKeysId([1; 32]), &paid, 0).unwrap();
        }
        assert!((1..=120).all(|number| is_known(&store, number) == (number > 100)));
    }

    #[test]
    fn a_newer_layout_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.sqlite");
        drop(DeviceStore::open(&path).unwrap());
        for other in [SCHEMA + 1, -1] {
            Connection::open(&path).unwrap().pragma_update(None, "user_version", other).unwrap();
            let refused = DeviceStore::open(&path).unwrap_err();
            assert!(
                matches!(refused, StoreError::OtherLayout { found, known: SCHEMA } if found == other),
                "{refused:?}"
            );
        }
    }

    /// A share is written once, however often the state changes.
    #[test]
    fn a_new_state_does_not_write_the_share_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.sqlite");
        first_layout(&path, b"terms", &[0; 600]);
        let mut store = DeviceStore::open(&path).unwrap();
        store.connection.execute("UPDATE channels SET share = zeroblob(52548)", []).unwrap();
        store.erase().unwrap();
        store.connection.execute("UPDATE states SET state = ?1", [[1_u8; 600]]).unwrap();
        let log = std::fs::metadata(path.with_extension("sqlite-wal")).unwrap().len();
        assert!((1..=2 * (4096 + 24) + 32).contains(&log), "the log has {log} bytes");
    }
}
