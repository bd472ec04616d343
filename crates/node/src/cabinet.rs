//! Many values, each by its place, in one SQLite database: WAL, and every write reaches the disk before it returns. For LNGate's gateway, which
//! stores for all its devices and for its Lightning node.
//!
//! Threads that write at the same time share one commit: whoever comes first writes what all have brought by then. What is brought in one
//! call is stored whole or not at all. When a commit fails, everybody in it is told, and nothing of it stays.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, ffi, params};

use crate::crash;
use crate::store::{StoreError, connect};

/// The layout this code writes, kept in `PRAGMA user_version`.
const SCHEMA: i32 = 1;

// Values may be long; a table without row ids would keep most of each in a page of its own.
const TABLES: &str = "
CREATE TABLE kept (
    room TEXT NOT NULL, drawer TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (room, drawer, name)
) STRICT;
";

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// What kind of thing it belongs to.
    pub room: String,
    /// Which of them.
    pub drawer: String,
    /// Which value of it.
    pub name: String,
}

impl Place {
    /// A place by its three names.
    pub fn new(room: &str, drawer: &str, name: &str) -> Self {
        Self { room: room.into(), drawer: drawer.into(), name: name.into() }
    }
}

/// A value that is to be at a place; `None` removes what is there.
pub type Change = (Place, Option<Vec<u8>>);

/// The database.
pub struct Cabinet {
    brought: Mutex<Brought>,
    writer: Mutex<Writer>,
}

/// What waits for the next commit, in the order in which it came.
#[derive(Default)]
struct Brought {
    /// The number of the last that came.
    last: u64,
    waiting: Vec<(u64, Vec<Change>)>,
}

struct Writer {
    connection: Connection,
    /// Up to this number everybody's commit was tried.
    tried: u64,
    /// Those of them that were not stored and do not know it yet.
    failed: HashMap<u64, rusqlite::Error>,
}

impl Cabinet {
    /// Opens the database, and makes it when it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened or is from a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path, SCHEMA, &[(0, TABLES)])?;
        let writer = Writer { connection, tried: 0, failed: HashMap::new() };
        Ok(Self { brought: Mutex::default(), writer: Mutex::new(writer) })
    }

    /// Stores changes, all or none. They are on the disk when this returns.
    ///
    /// # Errors
    /// When the database cannot be written. Then nothing changed.
    pub fn put(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        crash::point();
        let number = {
            let mut brought = self.brought();
            brought.last += 1;
            let number = brought.last;
            brought.waiting.push((number, changes));
            number
        };
        let mut writer = self.writer();
        if writer.tried < number {
            let batch = std::mem::take(&mut self.brought().waiting);
            writer.write(&batch);
        }
        let failed = writer.failed.remove(&number);
        drop(writer);
        crash::point();
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// A value, if there is one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn get(&self, place: &Place) -> Result<Option<Vec<u8>>, StoreError> {
        let Place { room, drawer, name } = place;
        let writer = self.writer();
        let mut statement = writer
            .connection
            .prepare_cached("SELECT value FROM kept WHERE room = ?1 AND drawer = ?2 AND name = ?3")?;
        Ok(statement.query_row([room, drawer, name], |row| row.get(0)).optional()?)
    }

    /// The names of all values of a drawer.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn names(&self, room: &str, drawer: &str) -> Result<Vec<String>, StoreError> {
        let writer = self.writer();
        let mut statement = writer
            .connection
            .prepare_cached("SELECT name FROM kept WHERE room = ?1 AND drawer = ?2 ORDER BY name")?;
        let names = statement.query_map([room, drawer], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    fn brought(&self) -> MutexGuard<'_, Brought> {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing can be written, or can again: as if the disk were full.
    #[cfg(test)]
    fn fail(&self, fails: bool) {
        self.writer().connection.pragma_update(None, "query_only", fails).unwrap();
    }
}

impl Writer {
    /// Tries one commit for everybody.
    fn write(&mut self, batch: &[(u64, Vec<Change>)]) {
        if let Err(error) = self.commit(batch.iter().flat_map(|(_, changes)| changes)) {
            self.failed.extend(batch.iter().map(|(number, _)| (*number, same(&error))));
        }
        self.tried = batch.last().map_or(self.tried, |(number, _)| *number);
    }

    fn commit<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (Place { room, drawer, name }, value) in changes {
            match value {
                Some(value) => transaction
                    .prepare_cached(
                        "INSERT INTO kept VALUES (?1, ?2, ?3, ?4)
                         ON CONFLICT (room, drawer, name) DO UPDATE SET value = ?4",
                    )?
                    .execute(params![room, drawer, name, value])?,
                None => transaction
                    .prepare_cached("DELETE FROM kept WHERE room = ?1 AND drawer = ?2 AND name = ?3")?
                    .execute([room, drawer, name])?,
            };
        }
        transaction.commit()
    }
}

/// An error again, for the next of those whom it concerns.
fn same(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => rusqlite::Error::SqliteFailure(*code, text.clone()),
        other => {
            let code = ffi::Error::new(ffi::SQLITE_ERROR);
            rusqlite::Error::SqliteFailure(code, Some(other.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn cabinet() -> (tempfile::TempDir, Cabinet) {
        let folder = tempfile::tempdir().unwrap();
        let cabinet = Cabinet::open(&folder.path().join("kept.sqlite")).unwrap();
        (folder, cabinet)
    }

    fn place(name: &str) -> Place {
        Place::new("room", "drawer", name)
    }

    fn one(name: &str, value: u8) -> Vec<Change> {
        vec![(place(name), Some(vec![value]))]
    }

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let (folder, cabinet) = cabinet();
        cabinet.put(one("kept", 1)).unwrap();
        cabinet.put(one("kept", 2)).unwrap();
        cabinet.put(one("removed", 3)).unwrap();
        cabinet.put(vec![(place("removed"), None)]).unwrap();
        drop(cabinet);
        let cabinet = Cabinet::open(&folder.path().join("kept.sqlite")).unwrap();
        assert_eq!(cabinet.get(&place("kept")).unwrap(), Some(vec![2]));
        assert_eq!(cabinet.get(&place("removed")).unwrap(), None);
        assert_eq!(cabinet.get(&Place::new("room", "other", "kept")).unwrap(), None);
        assert_eq!(cabinet.names("room", "drawer").unwrap(), ["kept"]);
    }

    #[test]
    fn a_write_that_fails_changes_nothing_and_says_so() {
        let (_folder, cabinet) = cabinet();
        cabinet.put(one("kept", 1)).unwrap();
        cabinet.fail(true);
        let both = [one("kept", 2), one("new", 2)].concat();
        assert!(cabinet.put(both).is_err());
        cabinet.fail(false);
        assert_eq!(cabinet.get(&place("kept")).unwrap(), Some(vec![1]));
        // It is not written with the next one either.
        cabinet.put(one("other", 3)).unwrap();
        assert_eq!(cabinet.names("room", "drawer").unwrap(), ["kept", "other"]);
    }

    /// The others wait while the first commit is held back; then one commit is for all of them, and its failure too.
    #[test]
    fn those_who_share_a_commit_share_its_outcome() {
        for fails in [false, true] {
            let (_folder, cabinet) = cabinet();
            let cabinet = Arc::new(cabinet);
            let held = cabinet.writer();
            let writers: Vec<_> = (0..8)
                .map(|number| {
                    let cabinet = cabinet.clone();
                    thread::spawn(move || cabinet.put(one(&number.to_string(), number)))
                })
                .collect();
            while cabinet.brought().waiting.len() < writers.len() {
                thread::yield_now();
            }
            held.connection.pragma_update(None, "query_only", fails).unwrap();
            drop(held);
            for writer in writers {
                assert_eq!(writer.join().unwrap().is_err(), fails);
            }
            assert!(cabinet.writer().failed.is_empty(), "everybody was told");
            assert_eq!(cabinet.names("room", "drawer").unwrap().len(), if fails { 0 } else { 8 });
        }
    }

    #[test]
    fn what_came_later_is_what_stays() {
        let (_folder, cabinet) = cabinet();
        for value in 0..100 {
            cabinet.put([one("kept", value), one("kept", value + 1)].concat()).unwrap();
            assert_eq!(cabinet.get(&place("kept")).unwrap(), Some(vec![value + 1]));
        }
    }
}
