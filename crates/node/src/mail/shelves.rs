//! The mailbox's database: SQLite in WAL mode, written through to the disk at every commit, as [`crate::store`] does it.
//!
//! | table | holds |
//! |---|---|
//! | `boxes` | whose they are, the newest request's time, how many letters and prekeys they hold |
//! | `letters` | sealed letters until their expiry; of one that was deleted, the hash |
//! | `prekeys` | those that were not given out |
//! | `generations` | up to which number prekeys were published |
//! | `totals` | how many boxes there are |
//!
//! Nothing in it names who posted or took. When a box was last asked for is kept by the day.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use farthing_protocol::cheque::prekey::{Generation, PrekeyId, SignedPrekey};
use rusqlite::{OptionalExtension as _, Transaction, TransactionBehavior, params};
use secp256k1::XOnlyPublicKey;

use super::{Bounds, Kept, MOST_GENERATIONS, MailError, Owned, Posted, Refused, Standing, WINDOW};
use crate::store::{self, StoreError};

/// The layout this code writes, kept in `PRAGMA user_version`.
const SCHEMA: i32 = 1;
const DAY: u64 = 86_400;
/// Room for what a write needs beside the letter.
const SPARE: u64 = 64 << 10;
/// How many letters one sweep throws away at most: those that wait for the write wait no longer for that.
const SWEPT: i64 = 2_048;

const TABLES: &str = "
CREATE TABLE boxes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, identity BLOB NOT NULL UNIQUE, request INTEGER NOT NULL, day INTEGER NOT NULL,
    letters INTEGER NOT NULL, prekeys INTEGER NOT NULL, generation BLOB
) STRICT;
CREATE TABLE letters (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT, box INTEGER NOT NULL, expiry INTEGER NOT NULL, id BLOB NOT NULL, blob BLOB
) STRICT;
CREATE UNIQUE INDEX letters_by_id ON letters (box, id);
CREATE INDEX letters_waiting ON letters (box, cursor) WHERE blob IS NOT NULL;
CREATE INDEX letters_by_expiry ON letters (expiry);
CREATE TABLE prekeys (
    box INTEGER NOT NULL, number INTEGER NOT NULL, prekey BLOB NOT NULL, PRIMARY KEY (box, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE generations (
    box INTEGER NOT NULL, generation BLOB NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (box, generation)
) STRICT, WITHOUT ROWID;
CREATE INDEX boxes_by_day ON boxes (day);
CREATE TABLE totals (id INTEGER PRIMARY KEY CHECK (id = 0), boxes INTEGER NOT NULL) STRICT;
INSERT INTO totals VALUES (0, 0);
";

/// The database.
#[derive(Debug)]
pub(super) struct Database(rusqlite::Connection);

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self(store::connect(path, SCHEMA, &[(0, TABLES)])?))
    }

    /// Begins a durable write at a time, in microseconds since 1970.
    pub(super) fn shelves<'a>(
        &'a mut self,
        bounds: &'a Bounds,
        now: u64,
    ) -> Result<Shelves<'a>, Arc<StoreError>> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = transaction.map_err(|error| Arc::new(error.into()))?;
        Ok(Shelves { transaction, bounds, now })
    }
}

/// One durable write. Dropped without [`Self::commit`], nothing of it stays.
pub(super) struct Shelves<'a> {
    transaction: Transaction<'a>,
    bounds: &'a Bounds,
    now: u64,
}

/// A box as it stands.
struct Found {
    number: i64,
    letters: u32,
    prekeys: u32,
    generation: Option<[u8; 8]>,
}

impl Shelves<'_> {
    pub(super) fn commit(self) -> Result<(), Arc<StoreError>> {
        self.transaction.commit().map_err(|error| Arc::new(error.into()))
    }

    /// Carries out one order by itself: what of it cannot be stored or read fails nobody else's in the same write.
    pub(super) fn alone<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, MailError>,
    ) -> rusqlite::Result<Result<T, MailError>> {
        let run = |sql| self.transaction.prepare_cached(sql)?.execute([]);
        run("SAVEPOINT one_order")?;
        let outcome = work(self);
        if let Err(MailError::Store(_)) = &outcome {
            run("ROLLBACK TO one_order")?;
        }
        run("RELEASE one_order")?;
        Ok(outcome)
    }

    fn seconds(&self) -> u64 {
        self.now / 1_000_000
    }

    /// Throws away letters that have expired, at most [`SWEPT`], and boxes that nobody asks for. Whether there may be more.
    pub(super) fn sweep(&self) -> rusqlite::Result<bool> {
        let tx = &self.transaction;
        let mut statement = tx.prepare_cached(
            "DELETE FROM letters WHERE cursor IN (SELECT cursor FROM letters WHERE expiry <= ?1 LIMIT ?2)
             RETURNING box, blob IS NOT NULL",
        )?;
        let rows = statement.query_map([sql(self.seconds()), SWEPT], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let gone: Vec<(i64, bool)> = rows.collect::<Result<_, _>>()?;
        let has_more = gone.len() as u64 == SWEPT.unsigned_abs();
        let mut waited: BTreeMap<i64, i64> = BTreeMap::new();
        for (number, _) in gone.iter().filter(|(_, waited)| *waited) {
            *waited.entry(*number).or_default() += 1;
        }
        for (number, count) in waited {
            self.count_letters(number, -count)?;
        }
        let day = sql(self.seconds().saturating_sub(self.bounds.idle) / DAY);
        let mut statement =
            tx.prepare_cached("SELECT number FROM boxes WHERE day < ?1 AND letters = 0 LIMIT ?2")?;
        let idle = statement.query_map([day, SWEPT], |row| row.get(0))?;
        let idle: Vec<i64> = idle.collect::<Result<_, _>>()?;
        for number in &idle {
            for table in ["letters", "prekeys", "generations"] {
                tx.prepare_cached(&format!("DELETE FROM {table} WHERE box = ?1"))?.execute([number])?;
            }
            tx.prepare_cached("DELETE FROM boxes WHERE number = ?1")?.execute([number])?;
        }
        if !idle.is_empty() {
            tx.execute("UPDATE totals SET boxes = boxes - ?1", [sql(idle.len() as u64)])?;
        }
        Ok(has_more)
    }

    fn find(&self, identity: &XOnlyPublicKey) -> Result<Found, MailError> {
        let mut statement = self
            .transaction
            .prepare_cached("SELECT number, letters, prekeys, generation FROM boxes WHERE identity = ?1")?;
        let found = statement.query_row([identity.serialize()], |row| {
            Ok(Found {
                number: row.get(0)?,
                letters: row.get(1)?,
                prekeys: row.get(2)?,
                generation: row.get(3)?,
            })
        });
        Ok(found.optional()?.ok_or(Refused::NoBox)?)
    }

    /// The box of a request's owner, if the request is newer than all before.
    fn find_owned(&self, owned: Owned) -> Result<Found, MailError> {
        let found = self.find(&owned.identity)?;
        let mut statement = self.transaction.prepare_cached("SELECT request FROM boxes WHERE number = ?1")?;
        let newest: i64 = statement.query_row([found.number], |row| row.get(0))?;
        self.check_time(owned.time, newest.unsigned_abs())?;
        let mut statement =
            self.transaction.prepare_cached("UPDATE boxes SET request = ?2, day = ?3 WHERE number = ?1")?;
        statement.execute([found.number, sql(owned.time), sql(self.seconds() / DAY)])?;
        Ok(found)
    }

    fn check_time(&self, time: u64, newest: u64) -> Result<(), Refused> {
        let window = WINDOW * 1_000_000;
        // The clock may have been set back since the newest request.
        let (earliest, latest) = (self.now.saturating_sub(window), self.now.max(newest) + window);
        if time > newest && (earliest..=latest).contains(&time) {
            return Ok(());
        }
        Err(Refused::Stale { least: self.now.max(newest + 1) })
    }

    pub(super) fn open_box(&self, owned: Owned) -> Result<(), MailError> {
        match self.find_owned(owned) {
            Err(MailError::Refused(Refused::NoBox)) => {}
            known => return known.map(drop),
        }
        self.check_time(owned.time, 0)?;
        let boxes: u32 = self.transaction.query_row("SELECT boxes FROM totals", [], |row| row.get(0))?;
        if boxes >= self.bounds.most_boxes {
            return Err(Refused::TooManyBoxes(self.bounds.most_boxes).into());
        }
        self.check_room()?;
        self.transaction.execute("UPDATE totals SET boxes = boxes + 1", [])?;
        self.transaction.execute(
            "INSERT INTO boxes (identity, request, day, letters, prekeys) VALUES (?1, ?2, ?3, 0, 0)",
            params![owned.identity.serialize(), sql(owned.time), sql(self.seconds() / DAY)],
        )?;
        Ok(())
    }

    pub(super) fn post(
        &self,
        to: &XOnlyPublicKey,
        id: &[u8; 32],
        blob: &[u8],
        expiry: u64,
    ) -> Result<Posted, MailError> {
        let kept = self.find(to)?;
        let keep = expiry.checked_sub(self.seconds()).filter(|keep| *keep > 0).ok_or(Refused::Expired)?;
        if keep > self.bounds.most_keep {
            return Err(Refused::KeptTooLong { most: self.bounds.most_keep }.into());
        }
        let mut statement =
            self.transaction.prepare_cached("SELECT 1 FROM letters WHERE box = ?1 AND id = ?2")?;
        if statement.exists(params![kept.number, id])? {
            return Ok(Posted::Before);
        }
        if kept.letters >= self.bounds.most_letters && self.waiting(&kept)? >= self.bounds.most_letters {
            return Err(Refused::BoxFull(self.bounds.most_letters).into());
        }
        self.check_room()?;
        let mut statement = self
            .transaction
            .prepare_cached("INSERT INTO letters (box, expiry, id, blob) VALUES (?1, ?2, ?3, ?4)")?;
        statement.execute(params![kept.number, sql(expiry), id, blob])?;
        self.count_letters(kept.number, 1)?;
        Ok(Posted::New)
    }

    /// The letters of a box that have not expired: it may hold others until the next sweep.
    fn waiting(&self, kept: &Found) -> Result<u32, MailError> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT count(*) FROM letters WHERE box = ?1 AND blob IS NOT NULL AND expiry > ?2",
        )?;
        Ok(statement.query_row([kept.number, sql(self.seconds())], |row| row.get(0))?)
    }

    fn count_letters(&self, number: i64, by: i64) -> rusqlite::Result<()> {
        let mut statement =
            self.transaction.prepare_cached("UPDATE boxes SET letters = letters + ?2 WHERE number = ?1")?;
        statement.execute([number, by])?;
        Ok(())
    }

    /// Whether the database may grow.
    fn check_room(&self) -> Result<(), MailError> {
        let pragma = |name| -> Result<i64, rusqlite::Error> {
            self.transaction.pragma_query_value(None, name, |row| row.get(0))
        };
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        let used = (pages * pragma("page_size")?).unsigned_abs();
        if used.saturating_add(SPARE) > self.bounds.most_bytes {
            return Err(Refused::Full.into());
        }
        Ok(())
    }

    pub(super) fn fetch(&self, owned: Owned, after: u64, most: u32) -> Result<Vec<Kept>, MailError> {
        let kept = self.find_owned(owned)?;
        let mut statement = self.transaction.prepare_cached(
            "SELECT cursor, blob FROM letters WHERE box = ?1 AND cursor > ?2 AND blob IS NOT NULL AND expiry > ?3
             ORDER BY cursor LIMIT ?4",
        )?;
        let now = sql(self.seconds());
        let rows = statement.query_map([kept.number, sql(after), now, most.into()], |row| {
            Ok(Kept { cursor: row.get::<_, i64>(0)?.unsigned_abs(), blob: row.get(1)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn delete(&self, owned: Owned, id: &[u8; 32]) -> Result<(), MailError> {
        let kept = self.find_owned(owned)?;
        let mut statement = self.transaction.prepare_cached(
            "UPDATE letters SET blob = NULL WHERE box = ?1 AND id = ?2 AND blob IS NOT NULL",
        )?;
        let deleted = statement.execute(params![kept.number, id])?;
        if deleted > 0 {
            self.count_letters(kept.number, -1)?;
        }
        Ok(())
    }

    pub(super) fn standing(&self, owned: Owned) -> Result<Standing, MailError> {
        let kept = self.find_owned(owned)?;
        self.standing_of(&kept)
    }

    fn standing_of(&self, kept: &Found) -> Result<Standing, MailError> {
        let next = kept.generation.map(|generation| {
            let number = self.next_number(kept, generation)?.unwrap_or(0);
            Ok::<_, MailError>(PrekeyId { generation: Generation::from_entropy(generation), number })
        });
        Ok(Standing { unused: kept.prekeys, next: next.transpose()? })
    }

    /// The least number of a generation that was not published yet; `None` for a generation that is new.
    fn next_number(&self, kept: &Found, generation: [u8; 8]) -> Result<Option<u32>, MailError> {
        let mut statement = self
            .transaction
            .prepare_cached("SELECT next FROM generations WHERE box = ?1 AND generation = ?2")?;
        let next = statement.query_row(params![kept.number, generation], |row| row.get::<_, i64>(0));
        Ok(next.optional()?.map(|next| u32::try_from(next).unwrap_or(u32::MAX)))
    }

    pub(super) fn publish(&self, owned: Owned, prekeys: &[SignedPrekey]) -> Result<Standing, MailError> {
        let mut kept = self.find_owned(owned)?;
        let Some(generation) = prekeys.first().map(|first| first.prekey.id.generation.to_bytes()) else {
            return self.standing_of(&kept);
        };
        if prekeys.iter().any(|prekey| prekey.prekey.id.generation.to_bytes() != generation) {
            return Err(Refused::MixedGenerations.into());
        }
        let known = self.next_number(&kept, generation)?;
        let mut new: Vec<&SignedPrekey> =
            prekeys.iter().filter(|prekey| prekey.prekey.id.number >= known.unwrap_or(0)).collect();
        new.sort_unstable_by_key(|prekey| prekey.prekey.id.number);
        new.dedup_by_key(|prekey| prekey.prekey.id.number);
        let Some(last) = new.last().map(|prekey| prekey.prekey.id.number) else {
            return self.standing_of(&kept);
        };
        let is_another = kept.generation != Some(generation);
        // One that was replaced comes from an old copy of its owner's book: the answer says so.
        if is_another && known.is_some() {
            return self.standing_of(&kept);
        }
        let mut unused = if is_another { 0 } else { kept.prekeys };
        // They are given up below: what is refused changes nothing.
        let too_many = match new.len() {
            1 => (unused + 1).saturating_sub(self.bounds.most_prekeys).min(unused),
            _more => 0,
        };
        unused -= too_many;
        let room = self.bounds.most_prekeys.saturating_sub(unused);
        if new.len() > room as usize {
            return Err(Refused::TooManyPrekeys { most: self.bounds.most_prekeys, room }.into());
        }
        if known.is_none() {
            let mut statement =
                self.transaction.prepare_cached("SELECT count(*) FROM generations WHERE box = ?1")?;
            let generations: u32 = statement.query_row([kept.number], |row| row.get(0))?;
            if generations >= MOST_GENERATIONS {
                return Err(Refused::TooManyGenerations.into());
            }
        }
        if too_many > 0 {
            self.give_up_first(&kept, too_many)?;
        } else {
            self.check_room()?;
        }
        if is_another {
            self.transaction.execute("DELETE FROM prekeys WHERE box = ?1", [kept.number])?;
        }
        let mut statement = self.transaction.prepare_cached("INSERT INTO prekeys VALUES (?1, ?2, ?3)")?;
        for prekey in &new {
            statement.execute(params![kept.number, prekey.prekey.id.number, store::encode(prekey)])?;
        }
        self.transaction.execute(
            "INSERT INTO generations VALUES (?1, ?2, ?3)
             ON CONFLICT (box, generation) DO UPDATE SET next = excluded.next",
            params![kept.number, generation, i64::from(last) + 1],
        )?;
        kept.prekeys = unused + u32::try_from(new.len()).unwrap_or(u32::MAX);
        kept.generation = Some(generation);
        self.transaction.execute(
            "UPDATE boxes SET prekeys = ?2, generation = ?3 WHERE number = ?1",
            params![kept.number, kept.prekeys, generation],
        )?;
        self.standing_of(&kept)
    }

    /// A full box takes one more in the place of its first, or its owner could not have it know more than an old copy of its book does.
    fn give_up_first(&self, kept: &Found, count: u32) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare_cached(
            "DELETE FROM prekeys WHERE box = ?1 AND number IN
             (SELECT number FROM prekeys WHERE box = ?1 ORDER BY number LIMIT ?2)",
        )?;
        statement.execute([kept.number, count.into()])?;
        Ok(())
    }

    pub(super) fn take(&self, of: &XOnlyPublicKey) -> Result<SignedPrekey, MailError> {
        let kept = self.find(of)?;
        let mut statement = self
            .transaction
            .prepare_cached("SELECT number, prekey FROM prekeys WHERE box = ?1 ORDER BY number LIMIT 1")?;
        let first =
            statement.query_row([kept.number], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)));
        let (number, prekey) = first.optional()?.ok_or(Refused::NoPrekeys)?;
        let prekey = store::decode("prekey", &prekey).map_err(|error| MailError::Store(Arc::new(error)))?;
        let mut statement =
            self.transaction.prepare_cached("DELETE FROM prekeys WHERE box = ?1 AND number = ?2")?;
        statement.execute([kept.number, number])?;
        let mut statement =
            self.transaction.prepare_cached("UPDATE boxes SET prekeys = prekeys - 1 WHERE number = ?1")?;
        statement.execute([kept.number])?;
        Ok(prekey)
    }
}

/// A number as SQLite has it.
fn sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
