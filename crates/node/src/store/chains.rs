//! The chains of words that a payee has taken: up to 393 kB each, so those that nobody needs any more are deleted.

use farthing_protocol::ChannelId;
use farthing_protocol::lightspeed::Ladder;
use rusqlite::params;

use super::{Batch, Store, StoreError, decode};

impl Store {
    /// The chains of words that a payee has taken in a channel, from `least` on.
    ///
    /// # Errors
    /// When the database cannot be read or holds something that cannot be decoded.
    pub fn ladders(&self, channel: ChannelId, least: u64) -> Result<Vec<Ladder>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT ladder FROM chains WHERE channel = ?1 AND number >= ?2 ORDER BY number",
        )?;
        let least = i64::try_from(least).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![channel.as_bytes(), least], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|row| decode("chain", &row?)).collect()
    }
}

impl Batch<'_> {
    /// Deletes the chains of words of a channel below number `least`.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn forget_chains(&self, channel: ChannelId, least: u64) -> Result<(), StoreError> {
        let least = i64::try_from(least).unwrap_or(i64::MAX);
        let mut statement =
            self.transaction.prepare_cached("DELETE FROM chains WHERE channel = ?1 AND number < ?2")?;
        statement.execute(params![channel.as_bytes(), least])?;
        Ok(())
    }
}
