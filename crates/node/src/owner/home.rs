//! The folder of the owner's store, `owner-store` in the data folder of a network.
//!
//! | file | holds |
//! |---|---|
//! | `key` | the store's key on links, mode 0600, in hex: devices have its public half from their enrolment |
//! | `store.sqlite` | what is kept ([`super::store`]), mode 0600. **In no backup**: an old copy may hold states that were revoked |

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bitcoin::Network;
use bitcoin::hex::{DisplayHex as _, FromHex as _};
use zeroize::Zeroizing;

use super::store::OwnerStore;
use crate::entropy;
use crate::home::{Home, HomeError, write_whole};
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
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|source| HomeError::File { path: folder.clone(), source })?;
        if !folder.join("key").is_file() {
            let key = Zeroizing::new(entropy::bytes::<32>());
            let text = Zeroizing::new(key.to_lower_hex_string());
            write_whole(&folder, "key", text.as_bytes())?;
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
        let path = self.folder.join("key");
        let failed = |source| HomeError::File { path: path.clone(), source };
        let text = fs::read_to_string(&path).map(Zeroizing::new).map_err(failed)?;
        let bytes = <[u8; 32]>::from_hex(text.trim())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        Ok(StaticKey::new(bytes))
    }

    /// The database.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn store(&self) -> Result<OwnerStore, HomeError> {
        let path = self.folder.join("store.sqlite");
        // SQLite gives its other files the database's mode.
        let created = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        drop(created.map_err(|source| HomeError::File { path: path.clone(), source })?);
        Ok(OwnerStore::open(&path)?)
    }
}
