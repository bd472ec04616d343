//! What a person asked for from another process.

use farthing_protocol::ChannelId;

use super::{Batch, Store, StoreError, id};

impl Store {
    /// Takes note that a person wants a channel closed, for the process that runs it.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn wish_close(&self, channel: ChannelId) -> Result<(), StoreError> {
        self.connection.execute("INSERT OR IGNORE INTO wishes VALUES (?1)", [channel.as_bytes()])?;
        Ok(())
    }

    /// The channels that a person wants closed.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn wishes(&self) -> Result<Vec<ChannelId>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT channel FROM wishes")?;
        let rows = statement.query_map([], |row| id(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

impl Batch<'_> {
    /// Forgets a wish.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn forget_wish(&self, channel: ChannelId) -> Result<(), StoreError> {
        self.transaction.execute("DELETE FROM wishes WHERE channel = ?1", [channel.as_bytes()])?;
        Ok(())
    }
}
