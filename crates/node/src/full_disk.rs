//! A disk that is full for a while, for stories: with the feature `crash-points` alone.

use std::path::Path;

use rusqlite::Connection;

/// Tables of a database into which nothing more can be written, until this is dropped.
#[derive(Debug)]
pub struct Full {
    database: Connection,
    tables: &'static [&'static str],
}

impl Full {
    /// From now on. `database` is the file.
    ///
    /// # Panics
    /// When it is none of ours.
    pub fn of(database: &Path, tables: &'static [&'static str]) -> Self {
        let database = Connection::open(database).expect("a story has its database");
        for table in tables {
            let trigger = format!(
                "CREATE TRIGGER full_{table} BEFORE INSERT ON {table}
                 BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            );
            database.execute_batch(&trigger).expect("the table is there");
        }
        Self { database, tables }
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        for table in self.tables {
            let dropped = self.database.execute_batch(&format!("DROP TRIGGER full_{table}"));
            dropped.expect("the trigger is there");
        }
    }
}
