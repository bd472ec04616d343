//! Reads what a gateway that does not run has stored of its channels: for operators' tools, and for tests that play a gateway that
//! cheats with all that the real one had.

use std::path::Path;

use farthing_protocol::device::bolt3::Terms;
use farthing_protocol::device::wire::ChannelKeysId;

use crate::gateway::open_cabinet;
use crate::ledger::Ledger;
use crate::records::ChannelRecord;
use crate::shelf::{Shelf, ShelfError};

/// A channel as the gateway knows it. Nothing in it is secret.
#[derive(Clone, Debug)]
pub struct StoredChannel {
    /// Which.
    pub id: ChannelKeysId,
    /// Its terms.
    pub terms: Terms,
    /// Its newest states.
    pub ledger: Ledger,
}

/// All channels that have terms and states.
///
/// # Errors
/// When the database cannot be read.
pub fn stored_channels(folder: &Path) -> Result<Vec<StoredChannel>, ShelfError> {
    const ROOM: &str = "channel";
    let cabinet = open_cabinet(folder).map_err(|source| ShelfError::Store {
        drawer: ROOM.into(),
        name: String::new(),
        source,
    })?;
    let shelf = Shelf::new(cabinet, ROOM);
    let mut channels = Vec::new();
    for channel in shelf.owners()? {
        let record = shelf.get::<ChannelRecord>(&channel, "record")?;
        let ledger = shelf.get::<Ledger>(&channel, "ledger")?;
        if let (Some(terms), Some(ledger)) = (record.and_then(|record| record.terms()), ledger) {
            channels.push(StoredChannel { id: ChannelKeysId(channel), terms, ledger });
        }
    }
    Ok(channels)
}
