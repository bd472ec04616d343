//! Cheques as writer and payee keep them, by point.

use farthing_protocol::cheque::point::AdaptorPoint;
use rusqlite::{OptionalExtension as _, params};

use super::{Batch, Store, StoreError, decode, encode};
use crate::cheques::paper::Paper;

impl Store {
    /// Every cheque that was written, or got, in the order of time.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that cannot be decoded.
    pub fn papers(&self) -> Result<Vec<Paper>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT cheque FROM cheques ORDER BY at, point")?;
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|row| decode("cheque", &row?)).collect()
    }

    /// The cheque under that point that was got, or written.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that cannot be decoded.
    pub fn paper(&self, is_got: bool, point: &AdaptorPoint) -> Result<Option<Paper>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT cheque FROM cheques WHERE got = ?1 AND point = ?2")?;
        let row: Option<Vec<u8>> =
            statement.query_row(params![is_got, point.to_bytes()], |row| row.get(0)).optional()?;
        row.map(|row| decode("cheque", &row)).transpose()
    }
}

impl Batch<'_> {
    /// Adds a cheque, or replaces what was known of it.
    pub(super) fn put_paper(&self, paper: &Paper) -> Result<(), StoreError> {
        let mut statement =
            self.transaction.prepare_cached("INSERT OR REPLACE INTO cheques VALUES (?1, ?2, ?3, ?4)")?;
        let (point, at) = (paper.point().to_bytes(), i64::try_from(paper.at()).unwrap_or(i64::MAX));
        statement.execute(params![paper.is_got(), point, at, encode(paper)])?;
        Ok(())
    }
}
