//! Channels whose device cheated in a joint round. Each further round under the same share could give the gateway's half of the key away,
//! so none is begun again, whatever connects and whenever.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::shelf::{Shelf, ShelfError};

/// The value that says why a channel is banned.
const BAN: &str = "ban";

/// Which channels are banned, and why.
pub(crate) struct Bans {
    shelf: Shelf,
    known: Mutex<HashMap<[u8; 32], String>>,
}

impl Bans {
    /// Those that were stored.
    ///
    /// # Errors
    /// When the shelf cannot be read.
    pub(crate) fn open(shelf: Shelf) -> Result<Self, ShelfError> {
        let mut known = HashMap::new();
        for channel in shelf.owners()? {
            if let Some(why) = shelf.get(&channel, BAN)? {
                known.insert(channel, why);
            }
        }
        Ok(Self { shelf, known: Mutex::new(known) })
    }

    /// Bans a channel for good. The first reason stays.
    ///
    /// # Errors
    /// When it was not stored: then the ban holds until the process ends.
    pub(crate) fn ban(&self, channel: [u8; 32], why: &str) -> Result<(), ShelfError> {
        // First here: a disk that fails must not allow another round.
        let why = self.known().entry(channel).or_insert_with(|| why.to_owned()).clone();
        self.shelf.put_first(&channel, BAN, &why)
    }

    /// Why a channel is banned, if it is.
    pub(crate) fn of(&self, channel: &[u8; 32]) -> Option<String> {
        self.known().get(channel).cloned()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use farthing_node::cabinet::Cabinet;

    use super::*;

    #[test]
    fn a_ban_is_in_force_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let cabinet = Arc::new(Cabinet::open(&folder.path().join("devices.sqlite")).unwrap());
            Bans::open(Shelf::new(cabinet, "channel")).unwrap()
        };
        let bans = open();
        assert_eq!(bans.of(&[1; 32]), None);
        bans.ban([1; 32], "a wrong sum").unwrap();
        bans.ban([1; 32], "another one").unwrap();
        drop(bans);
        let bans = open();
        assert_eq!(bans.of(&[1; 32]).as_deref(), Some("a wrong sum"));
        assert_eq!(bans.of(&[2; 32]), None);
    }
}
