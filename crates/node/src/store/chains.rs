//! The chains of words that a payee has taken: up to 393 kB each, so those that nobody needs any more are deleted.

use farthing_protocol::ChannelId;
use farthing_protocol::lightspeed::Ladder;
use rusqlite::{Connection, TransactionBehavior, params};

use super::{Batch, Store, StoreError, decode, id};

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

    /// Deletes the chains of words that no channel needs any more: those below `least` of their channel. `None` for a channel
    /// that is not known.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub fn prune_chains(&mut self, least: impl Fn(&ChannelId) -> Option<u64>) -> Result<(), StoreError> {
        let lowest: Vec<(ChannelId, u64)> = self
            .connection
            .prepare("SELECT channel, max(0, min(number)) FROM chains GROUP BY channel")?
            .query_map([], |row| Ok((id(row, 0)?, row.get::<_, i64>(1)?.unsigned_abs())))?
            .collect::<Result<_, _>>()?;
        let needless = lowest.into_iter().filter_map(|(channel, lowest)| {
            Some((channel, least(&channel).filter(|least| lowest < *least)?))
        });
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (channel, least) in needless {
            delete(&transaction, channel, least)?;
        }
        Ok(transaction.commit()?)
    }
}

impl Batch<'_> {
    /// Deletes the chains of words of a channel below number `least`.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn forget_chains(&self, channel: ChannelId, least: u64) -> Result<(), StoreError> {
        delete(&self.transaction, channel, least)
    }
}

fn delete(connection: &Connection, channel: ChannelId, least: u64) -> Result<(), StoreError> {
    let least = i64::try_from(least).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached("DELETE FROM chains WHERE channel = ?1 AND number < ?2")?;
    statement.execute(params![channel.as_bytes(), least])?;
    Ok(())
}
