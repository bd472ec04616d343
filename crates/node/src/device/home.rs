//! The device's folder, `device` in the data folder of a network.
//!
//! | file | holds |
//! |---|---|
//! | `secret` | what the device's keys come from, mode 0600, in hex |
//! | `device.sqlite` | channels with their shares, headers, payments ([`super::store`]), mode 0600 |
//! | `lock` | held while a process runs the device |

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bitcoin::Network;
use bitcoin::hex::{DisplayHex as _, FromHex as _};
use farthing_protocol::device::keys::DeviceSecret;
use zeroize::Zeroizing;

use super::store::DeviceStore;
use crate::entropy;
use crate::home::{Home, HomeError, Lock, write_whole};

/// The device's folder.
#[derive(Debug)]
pub struct DeviceHome {
    folder: PathBuf,
}

impl DeviceHome {
    /// The device's folder in a data folder. It need not be there.
    pub fn of(data: &Path, network: Network) -> Self {
        Self { folder: Home::folder(data, network).join("device") }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether a device lives here.
    pub fn is_there(&self) -> bool {
        self.folder.join("secret").is_file()
    }

    /// Makes the folder, and a secret from fresh randomness, or takes one that an interrupted enrolment left.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn make(&self) -> Result<DeviceSecret, HomeError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|source| HomeError::File { path: self.folder.clone(), source })?;
        if !self.is_there() {
            let secret = DeviceSecret::new(entropy::bytes());
            let text = Zeroizing::new(secret.expose().to_lower_hex_string());
            write_whole(&self.folder, "secret", text.as_bytes())?;
        }
        self.secret()
    }

    /// Makes the folder with the secret of the owner's backup.
    ///
    /// # Errors
    /// When a device lives here already, or the folder cannot be written.
    pub fn restore(&self, secret: &DeviceSecret) -> Result<(), HomeError> {
        let failed = |source| HomeError::File { path: self.folder.clone(), source };
        if self.is_there() {
            let there = io::Error::new(io::ErrorKind::AlreadyExists, "a device lives here already");
            return Err(failed(there));
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(failed)?;
        let text = Zeroizing::new(secret.expose().to_lower_hex_string());
        write_whole(&self.folder, "secret", text.as_bytes())
    }

    /// The secret.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn secret(&self) -> Result<DeviceSecret, HomeError> {
        let path = self.folder.join("secret");
        let read = fs::read_to_string(&path).map(Zeroizing::new);
        let text = read.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => HomeError::Missing(self.folder.clone()),
            _other => HomeError::File { path: path.clone(), source },
        })?;
        let bytes = <[u8; 32]>::from_hex(text.trim()).map_err(|error| HomeError::File {
            path: path.clone(),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })?;
        Ok(DeviceSecret::new(bytes))
    }

    /// The database.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn store(&self) -> Result<DeviceStore, HomeError> {
        let path = self.folder.join("device.sqlite");
        // SQLite gives its other files the database's mode.
        let created = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        drop(created.map_err(|source| HomeError::File { path: path.clone(), source })?);
        Ok(DeviceStore::open(&path)?)
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// When another process runs the device.
    pub fn lock(&self) -> Result<Lock, HomeError> {
        Lock::take(&self.folder)
    }
}
