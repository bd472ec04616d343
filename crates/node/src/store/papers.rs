//! Cheques as writer and payee keep them, and what is bought and sold the other way round.

use rusqlite::{OptionalExtension as _, params};

use super::{Batch, Store, StoreError, decode, encode};
use crate::cheques::paper::{Drawer, Paper};

impl Store {
    /// Every cheque that was written, or got, and every signature that was bought or sold, in the order of time.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that cannot be decoded.
    pub fn papers(&self) -> Result<Vec<Paper>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT cheque FROM cheques ORDER BY at, point")?;
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|row| decode("cheque", &row?)).collect()
    }

    /// The paper under that key, in that drawer.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that cannot be decoded.
    pub fn paper(&self, drawer: Drawer, key: &[u8]) -> Result<Option<Paper>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT cheque FROM cheques WHERE got = ?1 AND point = ?2")?;
        let row: Option<Vec<u8>> =
            statement.query_row(params![drawer as i64, key], |row| row.get(0)).optional()?;
        row.map(|row| decode("cheque", &row)).transpose()
    }
}

impl Batch<'_> {
    /// Adds a cheque, or replaces what was known of it.
    pub(super) fn put_paper(&self, paper: &Paper) -> Result<(), StoreError> {
        let mut statement =
            self.transaction.prepare_cached("INSERT OR REPLACE INTO cheques VALUES (?1, ?2, ?3, ?4)")?;
        let at = i64::try_from(paper.at()).unwrap_or(i64::MAX);
        statement.execute(params![paper.drawer() as i64, paper.key(), at, encode(paper)])?;
        Ok(())
    }
}
