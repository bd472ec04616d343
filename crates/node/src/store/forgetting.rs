//! What is deleted, and what is asked about channels that are on disk only.

use std::collections::HashSet;

use bitcoin::OutPoint;
use bitcoin::consensus::encode::serialize;
use farthing_protocol::ChannelId;
use rusqlite::{TransactionBehavior, params};

use super::{Store, StoreError, id, journal};
use crate::machine::Machine;

impl Store {
    /// Deletes a channel of a role with all that is stored of it: to be asked for only where nothing of value can be in it.
    ///
    /// # Errors
    /// When the database cannot be written. Then all of it stays.
    pub fn forget<M: Machine>(&mut self, channel: ChannelId) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // A state that stayed in the journal would find no row to go to, and would count for a channel of the same id that is
        // opened later.
        let journal = journal::fold(&transaction)?;
        let bytes = channel.as_bytes();
        transaction
            .execute("DELETE FROM channels WHERE id = ?1 AND role = ?2", params![bytes, M::ROLE as i64])?;
        for table in ["purchases", "chains", "wishes"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE channel = ?1"), [bytes])?;
        }
        transaction.commit()?;
        self.journal = journal;
        Ok(())
    }

    /// Takes note that channels of a role have ended, where that was not noted yet.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn end_all<M: Machine>(&mut self, ended: impl Iterator<Item = ChannelId>) -> Result<(), StoreError> {
        let mut unnoted: HashSet<ChannelId> = {
            let mut statement =
                self.connection.prepare("SELECT id FROM channels WHERE role = ?1 AND NOT ended")?;
            let rows = statement.query_map([M::ROLE as i64], |row| id(row, 0))?;
            rows.collect::<Result<_, _>>()?
        };
        let unnoted: Vec<ChannelId> = ended.filter(|id| unnoted.remove(id)).collect();
        if unnoted.is_empty() {
            return Ok(());
        }
        let batch = self.batch()?;
        unnoted.into_iter().try_for_each(|id| batch.end::<M>(id))?;
        batch.commit()
    }

    /// Whether an output funds a channel of a role, also one that is over.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn is_funding<M: Machine>(&self, funding: &OutPoint) -> Result<bool, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM channels WHERE role = ?1 AND funding = ?2)")?;
        Ok(statement.query_row(params![M::ROLE as i64, serialize(funding)], |row| row.get(0))?)
    }

    /// Whether there is a channel of a role, be it over or not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn is_there<M: Machine>(&self, channel: ChannelId) -> Result<bool, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM channels WHERE id = ?1 AND role = ?2)")?;
        Ok(statement.query_row(params![channel.as_bytes(), M::ROLE as i64], |row| row.get(0))?)
    }
}
