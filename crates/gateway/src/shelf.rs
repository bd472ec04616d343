//! What the gateway keeps of devices and channels, beside what LDK keeps: small values, each written whole and durably.

use std::sync::Arc;

use farthing_node::cabinet::{Cabinet, Change, Place};
use farthing_node::store::StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// Where those who have values are listed.
const OWNERS: &str = "owners";

/// Why something could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShelfError {
    /// The database.
    #[error("{drawer}/{name}: {source}")]
    Store {
        /// What it belongs to.
        drawer: String,
        /// Which.
        name: String,
        /// Why.
        source: StoreError,
    },
    /// What is there is not what it should be.
    #[error("{drawer}/{name} cannot be read: {source}")]
    Unreadable {
        /// What it belongs to.
        drawer: String,
        /// Which.
        name: String,
        /// Why.
        source: postcard::Error,
    },
}

/// Values by owner and name. A value is on the disk when `put` returns.
#[derive(Clone)]
pub struct Shelf {
    cabinet: Arc<Cabinet>,
    room: &'static str,
}

impl Shelf {
    /// In that cabinet; `room` keeps apart what has the same owner and name.
    pub fn new(cabinet: Arc<Cabinet>, room: &'static str) -> Self {
        Self { cabinet, room }
    }

    /// A value, if there is one.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn get<T: DeserializeOwned>(&self, owner: &[u8; 32], name: &str) -> Result<Option<T>, ShelfError> {
        let drawer = hex(owner);
        let value = self.cabinet.get(&Place::new(self.room, &drawer, name));
        let value = value.map_err(|source| failed(&drawer, name, source))?;
        let Some(bytes) = value.map(Zeroizing::new) else { return Ok(None) };
        let read = postcard::from_bytes(&bytes);
        read.map(Some).map_err(|source| ShelfError::Unreadable { drawer, name: name.into(), source })
    }

    /// Writes a value.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn put<T: Serialize>(&self, owner: &[u8; 32], name: &str, value: &T) -> Result<(), ShelfError> {
        let written = self.cabinet.put(vec![self.change(owner, name, value)]);
        written.map_err(|source| failed(&hex(owner), name, source))
    }

    /// Writes a value, and makes whose it is an owner in the same write.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn put_first<T: Serialize>(&self, owner: &[u8; 32], name: &str, value: &T) -> Result<(), ShelfError> {
        self.put_first_with(owner, name, value, Vec::new())
    }

    /// The same, with values of other owners: all of them or none.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub(crate) fn put_first_with<T: Serialize>(
        &self,
        owner: &[u8; 32],
        name: &str,
        value: &T,
        others: Vec<Change>,
    ) -> Result<(), ShelfError> {
        let listed = (Place::new(self.room, OWNERS, &hex(owner)), Some(vec![1]));
        let own = [self.change(owner, name, value), listed];
        let written = self.cabinet.put(own.into_iter().chain(others).collect());
        written.map_err(|source| failed(&hex(owner), name, source))
    }

    /// Removes values of an owner, who is none any more, and writes values of others in the same write.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub(crate) fn remove(
        &self,
        owner: &[u8; 32],
        names: &[&str],
        others: Vec<Change>,
    ) -> Result<(), ShelfError> {
        let written = self.cabinet.put(self.removal(owner, names).into_iter().chain(others).collect());
        written.map_err(|source| failed(&hex(owner), OWNERS, source))
    }

    /// Removes values of owners, who are none any more, and writes values of others: all of it or nothing.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub(crate) fn remove_all(
        &self,
        owners: &[[u8; 32]],
        names: &[&str],
        others: Vec<Change>,
    ) -> Result<(), ShelfError> {
        let Some((last, before)) = owners.split_last() else { return Ok(()) };
        let removed = before.iter().flat_map(|owner| self.removal(owner, names));
        self.remove(last, names, removed.chain(others).collect())
    }

    fn removal(&self, owner: &[u8; 32], names: &[&str]) -> Vec<Change> {
        let drawer = hex(owner);
        let own = names.iter().map(|name| (Place::new(self.room, &drawer, name), None));
        own.chain([(Place::new(self.room, OWNERS, &drawer), None)]).collect()
    }

    /// A value, to be written with others.
    pub(crate) fn change<T: Serialize>(&self, owner: &[u8; 32], name: &str, value: &T) -> Change {
        let bytes = postcard::to_stdvec(value).expect("values of ours can be encoded into memory");
        (Place::new(self.room, &hex(owner), name), Some(bytes))
    }

    /// That there is no such value, to be written with others.
    pub(crate) fn absence(&self, owner: &[u8; 32], name: &str) -> Change {
        (Place::new(self.room, &hex(owner), name), None)
    }

    /// Who has values here.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn owners(&self) -> Result<Vec<[u8; 32]>, ShelfError> {
        let names = self.cabinet.names(self.room, OWNERS);
        let names = names.map_err(|source| failed(self.room, OWNERS, source))?;
        Ok(names.iter().filter_map(|name| unhex(name)).collect())
    }
}

fn failed(drawer: &str, name: &str, source: StoreError) -> ShelfError {
    ShelfError::Store { drawer: drawer.into(), name: name.into(), source }
}

fn hex(bytes: &[u8; 32]) -> String {
    bitcoin::hex::DisplayHex::to_lower_hex_string(&bytes[..])
}

fn unhex(digits: &str) -> Option<[u8; 32]> {
    bitcoin::hex::FromHex::from_hex(digits).ok()
}
