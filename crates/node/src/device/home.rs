//! The device's folder, `device` in the data folder of a network.
//!
//! | file | holds |
//! |---|---|
//! | `secret` | what the device's keys come from, mode 0600, in hex |
//! | `device.sqlite` | channels with their shares, headers, payments ([`super::store`]), mode 0600 |
//! | `lock` | held while a process runs the device |

use std::io;
use std::path::{Path, PathBuf};

use bitcoin::Network;
use farthing_protocol::device::keys::DeviceSecret;

use super::store::DeviceStore;
use crate::entropy;
use crate::home::{Home, HomeError, Lock, database, make_folder, read_secret, write_secret};

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
        make_folder(&self.folder)?;
        if !self.is_there() {
            write_secret(&self.folder, "secret", DeviceSecret::new(entropy::bytes()).expose())?;
        }
        self.secret()
    }

    /// Makes the folder with the secret of the owner's backup, or takes what an interrupted restore of it left. The device is enrolled next,
    /// under the lock.
    ///
    /// # Errors
    /// When a device lives here already, or the folder cannot be written.
    pub fn restore(&self, secret: &DeviceSecret) -> Result<Lock, HomeError> {
        make_folder(&self.folder)?;
        let lock = self.lock()?;
        if !self.is_there() {
            write_secret(&self.folder, "secret", secret.expose())?;
            return Ok(lock);
        }
        let is_same = self.secret()?.identity() == secret.identity();
        if is_same && self.store()?.enrolled()?.is_none() {
            return Ok(lock);
        }
        let source = io::Error::new(io::ErrorKind::AlreadyExists, "a device lives here already");
        Err(HomeError::File { path: self.folder.clone(), source })
    }

    /// The secret.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn secret(&self) -> Result<DeviceSecret, HomeError> {
        let secret = read_secret(&self.folder, "secret")?;
        secret.map(|secret| DeviceSecret::new(*secret)).ok_or_else(|| HomeError::Missing(self.folder.clone()))
    }

    /// The database.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn store(&self) -> Result<DeviceStore, HomeError> {
        Ok(DeviceStore::open(&database(&self.folder, "device.sqlite")?)?)
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// When another process runs the device.
    pub fn lock(&self) -> Result<Lock, HomeError> {
        Lock::take(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crash between the secret and the rest: `restore` said that a device lives here, and everything else that there is none.
    #[test]
    fn a_restore_that_was_cut_off_is_done_again_and_one_that_was_done_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let home = DeviceHome::of(folder.path(), Network::Regtest);
        let secret = DeviceSecret::new([7; 32]);
        for _ in 0..2 {
            drop(home.restore(&secret).unwrap());
            assert_eq!(home.secret().unwrap().identity(), secret.identity());
        }
        assert!(home.restore(&DeviceSecret::new([8; 32])).is_err(), "another device's");
        let _device = crate::device::tests::enrol(home.secret().unwrap(), home.store().unwrap());
        assert!(home.restore(&secret).is_err(), "it lives here");
        assert_eq!(home.secret().unwrap().identity(), secret.identity());
    }
}
