//! What the gateway keeps of devices and channels, beside what LDK keeps: small values, each written whole and durably.

use std::sync::Arc;

use lightning::io::ErrorKind;
use lightning::util::persist::KVStoreSync as _;
use lightning_persister::fs_store::FilesystemStore;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// Where those who have values are listed.
const OWNERS: &str = "owners";

/// Why something could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShelfError {
    /// A file.
    #[error("{drawer}/{name}: {source}")]
    File {
        /// What it belongs to.
        drawer: String,
        /// Which.
        name: String,
        /// Why.
        source: lightning::io::Error,
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
    store: Arc<FilesystemStore>,
    room: &'static str,
}

impl Shelf {
    /// In that store, which LDK may use too; `room` keeps apart what has the same owner and name.
    pub fn new(store: Arc<FilesystemStore>, room: &'static str) -> Self {
        Self { store, room }
    }

    /// A value, if there is one.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn get<T: DeserializeOwned>(&self, owner: &[u8; 32], name: &str) -> Result<Option<T>, ShelfError> {
        let drawer = hex(owner);
        match self.store.read(self.room, &drawer, name) {
            Ok(bytes) => {
                let bytes = Zeroizing::new(bytes);
                let read = postcard::from_bytes(&bytes);
                read.map(Some).map_err(|source| ShelfError::Unreadable { drawer, name: name.into(), source })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ShelfError::File { drawer, name: name.into(), source }),
        }
    }

    /// Writes a value.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn put<T: Serialize>(&self, owner: &[u8; 32], name: &str, value: &T) -> Result<(), ShelfError> {
        let drawer = hex(owner);
        let bytes = postcard::to_stdvec(value).expect("values of ours can be encoded into memory");
        let written = self.store.write(self.room, &drawer, name, bytes);
        written.map_err(|source| ShelfError::File { drawer, name: name.into(), source })
    }

    /// Who has values here.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn owners(&self) -> Result<Vec<[u8; 32]>, ShelfError> {
        let list = self.store.list(self.room, OWNERS).map_err(|source| ShelfError::File {
            drawer: self.room.into(),
            name: String::new(),
            source,
        })?;
        Ok(list.iter().filter_map(|name| unhex(name)).collect())
    }

    /// Makes somebody an owner.
    ///
    /// # Errors
    /// See [`ShelfError`].
    pub fn add_owner(&self, owner: &[u8; 32]) -> Result<(), ShelfError> {
        let name = hex(owner);
        let written = self.store.write(self.room, OWNERS, &name, vec![1]);
        written.map_err(|source| ShelfError::File { drawer: self.room.into(), name, source })
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bitcoin::hex::DisplayHex::to_lower_hex_string(&bytes[..])
}

fn unhex(digits: &str) -> Option<[u8; 32]> {
    bitcoin::hex::FromHex::from_hex(digits).ok()
}
