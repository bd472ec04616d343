//! The folder of the owner's store, `owner-store` in the data folder of a network.
//!
//! | file | holds |
//! |---|---|
//! | `key` | the store's key on links, mode 0600, in hex: devices have its public half from their enrolment |
//! | `store.sqlite` | what is kept ([`super::store`]), mode 0600. **In no backup**: an old copy may hold states that were revoked |

use std::path::{Path, PathBuf};

use bitcoin::Network;
use zeroize::Zeroizing;

use super::store::OwnerStore;
use crate::entropy;
use crate::home::{Home, HomeError, database, make_folder, read_secret, write_secret};
use crate::link::StaticKey;

/// The folder of the owner's store.
#[derive(Debug)]
pub struct OwnerStoreHome {
    folder: PathBuf,
}

impl OwnerStoreHome {
    /// The store's folder in a data folder, with a key of its own from fresh randomness if it has none.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn make(data: &Path, network: Network) -> Result<Self, HomeError> {
        let folder = Home::folder(data, network).join("owner-store");
        make_folder(&folder)?;
        if read_secret(&folder, "key")?.is_none() {
            write_secret(&folder, "key", &Zeroizing::new(entropy::bytes()))?;
        }
        Ok(Self { folder })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The store's key on links.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn key(&self) -> Result<StaticKey, HomeError> {
        let key = read_secret(&self.folder, "key")?.ok_or_else(|| HomeError::Missing(self.folder.clone()))?;
        Ok(StaticKey::new(*key))
    }

    /// The database.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn store(&self) -> Result<OwnerStore, HomeError> {
        Ok(OwnerStore::open(&database(&self.folder, "store.sqlite")?)?)
    }
}
