//! The data folder of one network: the seed, the database, and a lock so that one process at a time runs channels.
//!
//! | file | holds |
//! |---|---|
//! | `seed` | the BIP39 words, mode 0600. Whoever reads it has the money |
//! | `farthing.sqlite` | channels, purchases, wallet ([`crate::store`]) |
//! | `prekeys.sqlite` | of a payee of cheques: which prekeys it has issued and used ([`crate::prekeys`]) |
//! | `mailbox.sqlite` | of a mailbox: what it keeps for others ([`crate::mail`]) |
//! | `birthday` | of a restored seed: the block height to look for its coins from |
//! | `lock` | held while a process runs channels; names its process id |

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use bip39::Mnemonic;
use bitcoin::Network;
use bitcoin::hex::{DisplayHex as _, FromHex as _};
use farthing_protocol::keys::Seed;
use zeroize::{Zeroize as _, Zeroizing};

use crate::entropy;
use crate::mail::{Bounds, Mailroom};
use crate::prekeys::Prekeys;
use crate::store::{Store, StoreError};

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// There is none yet.
    #[error("there is no wallet in {}: run `farthing init` first", .0.display())]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is a wallet in {} already; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The words are not a BIP39 mnemonic.
    #[error("the words are not a BIP39 mnemonic: {0}")]
    Words(bip39::Error),
    /// Another process runs channels here.
    #[error("another farthing process ({holder}) uses {}: stop it, or use another --data folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What the lock says about its holder.
        holder: String,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How long a lock is waited for: a process that just ended may have left it to a child that has not begun its own program yet.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// A data folder that has a seed.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
    network: Network,
}

/// Held while a process runs channels in a folder.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Home {
    /// The folder of `network` within `data`.
    pub fn folder(data: &Path, network: Network) -> PathBuf {
        data.join(network.to_string())
    }

    /// Makes a folder with a seed from fresh randomness. Returns the words, to be shown once.
    ///
    /// # Errors
    /// When there is a seed already or the folder cannot be written.
    pub fn init(data: &Path, network: Network) -> Result<(Self, Zeroizing<String>), HomeError> {
        let entropy = Zeroizing::new(entropy::bytes::<16>());
        let mnemonic = Mnemonic::from_entropy(&*entropy).map_err(HomeError::Words)?;
        Self::make(data, network, &mnemonic, None)
    }

    /// Makes a folder with the seed of these words, whose coins are looked for from the block height `birthday` on.
    ///
    /// # Errors
    /// When there is a seed already, the words are wrong, or the folder cannot be written.
    pub fn restore(data: &Path, network: Network, words: &str, birthday: u32) -> Result<Self, HomeError> {
        let mnemonic = Mnemonic::from_str(words).map_err(HomeError::Words)?;
        Ok(Self::make(data, network, &mnemonic, Some(birthday))?.0)
    }

    fn make(
        data: &Path,
        network: Network,
        mnemonic: &Mnemonic,
        birthday: Option<u32>,
    ) -> Result<(Self, Zeroizing<String>), HomeError> {
        let folder = Self::folder(data, network);
        let words = Zeroizing::new(mnemonic.to_string());
        make_folder(&folder)?;
        if folder.join("seed").exists() {
            return Err(HomeError::Exists(folder));
        }
        // Of an attempt that was interrupted before it had a seed.
        let _not_there = fs::remove_file(folder.join("birthday"));
        if let Some(birthday) = birthday {
            write_whole(&folder, "birthday", birthday.to_string().as_bytes())?;
        }
        write_whole(&folder, "seed", words.as_bytes())?;
        Ok((Self { folder, network }, words))
    }

    /// Uses a folder that has a seed.
    ///
    /// # Errors
    /// When it has none.
    pub fn open(data: &Path, network: Network) -> Result<Self, HomeError> {
        let folder = Self::folder(data, network);
        if folder.join("seed").is_file() {
            Ok(Self { folder, network })
        } else {
            Err(HomeError::Missing(folder))
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The network.
    pub fn network(&self) -> Network {
        self.network
    }

    /// From which block height on a restored seed's coins are looked for; `None` for a seed that was made here.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn birthday(&self) -> Result<Option<u32>, HomeError> {
        let path = self.folder.join("birthday");
        match fs::read_to_string(&path) {
            Ok(height) => match height.trim().parse() {
                Ok(height) => Ok(Some(height)),
                Err(error) => {
                    Err(HomeError::File { path, source: io::Error::new(io::ErrorKind::InvalidData, error) })
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::File { path, source }),
        }
    }

    /// Reads the seed.
    ///
    /// # Errors
    /// When the file cannot be read or does not hold BIP39 words.
    pub fn seed(&self) -> Result<Seed, HomeError> {
        let path = self.folder.join("seed");
        let words = fs::read_to_string(&path).map_err(|source| HomeError::File { path, source })?;
        let words = Zeroizing::new(words);
        let mnemonic = Mnemonic::from_str(words.trim()).map_err(HomeError::Words)?;
        let mut bytes = mnemonic.to_seed("");
        let seed = Seed::new(bytes, self.network);
        bytes.zeroize();
        Ok(seed)
    }

    /// Opens the database.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn store(&self) -> Result<Store, HomeError> {
        Ok(Store::open(&database(&self.folder, "farthing.sqlite")?)?)
    }

    /// Opens what a mailbox keeps, and starts its thread. Blocks.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn mailroom(&self, bounds: Bounds) -> Result<Mailroom, HomeError> {
        Ok(Mailroom::open(&database(&self.folder, "mailbox.sqlite")?, bounds)?)
    }

    /// Opens the book of a payee of cheques. Blocks.
    ///
    /// # Errors
    /// When it cannot be opened, or the seed cannot be read.
    pub fn prekeys(&self) -> Result<Prekeys, HomeError> {
        Ok(Prekeys::open(&database(&self.folder, "prekeys.sqlite")?, self.seed()?.cheque_keys())?)
    }

    /// Takes the lock, for as long as the returned value lives. The operating system frees it when the process dies.
    ///
    /// # Errors
    /// When another process holds it.
    pub fn lock(&self) -> Result<Lock, HomeError> {
        Lock::take(&self.folder)
    }
}

impl Lock {
    /// Takes the lock of a folder.
    pub(crate) fn take(folder: &Path) -> Result<Self, HomeError> {
        let path = folder.join("lock");
        let failed = |source| HomeError::File { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _unreadable = file.read_to_string(&mut holder);
                    return Err(HomeError::Locked { path: folder.to_owned(), holder });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "process {}", std::process::id()));
        written.map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Makes a folder for its owner alone, unless it is there.
pub(crate) fn make_folder(folder: &Path) -> Result<(), HomeError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| HomeError::File { path: folder.to_owned(), source })
}

/// The path of a database, which is for its owner alone.
pub(crate) fn database(folder: &Path, name: &str) -> Result<PathBuf, HomeError> {
    let path = folder.join(name);
    // SQLite gives its other files the database's mode.
    let created = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    drop(created.map_err(|source| HomeError::File { path: path.clone(), source })?);
    Ok(path)
}

/// Writes a secret of 32 bytes in hex ([`write_whole`]).
pub(crate) fn write_secret(folder: &Path, name: &str, secret: &[u8; 32]) -> Result<(), HomeError> {
    let text = Zeroizing::new(secret.to_lower_hex_string());
    write_whole(folder, name, text.as_bytes())
}

/// A secret that was written with [`write_secret`]; `None` if it is not there.
pub(crate) fn read_secret(folder: &Path, name: &str) -> Result<Option<Zeroizing<[u8; 32]>>, HomeError> {
    let path = folder.join(name);
    let failed = |source| HomeError::File { path: path.clone(), source };
    let text = match fs::read_to_string(&path).map(Zeroizing::new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(failed)?,
    };
    let bytes = <[u8; 32]>::from_hex(text.trim());
    Ok(Some(
        bytes
            .map(Zeroizing::new)
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?,
    ))
}

/// Writes a file that is there whole, on disk and for its owner alone, or not at all. One that is there already stays.
pub(crate) fn write_whole(folder: &Path, name: &str, content: &[u8]) -> Result<(), HomeError> {
    let (path, partial) = (folder.join(name), folder.join(format!("{name}.partial")));
    let written = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        // Unlike renaming, this fails if somebody else was quicker.
        fs::hard_link(&partial, &path)?;
        File::open(folder)?.sync_all()
    };
    let outcome = written();
    let _not_there = fs::remove_file(&partial);
    outcome.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => HomeError::Exists(folder.to_owned()),
        _other => HomeError::File { path: path.clone(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_seed_is_made_once_read_back_and_private() {
        let data = tempfile::tempdir().unwrap();
        assert!(matches!(Home::open(data.path(), Network::Regtest), Err(HomeError::Missing(_))));
        let (home, words) = Home::init(data.path(), Network::Regtest).unwrap();
        assert_eq!(words.split(' ').count(), 12);
        assert!(matches!(Home::init(data.path(), Network::Regtest), Err(HomeError::Exists(_))));
        let mode = fs::metadata(home.path().join("seed")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let elsewhere = tempfile::tempdir().unwrap();
        let again = Home::restore(elsewhere.path(), Network::Regtest, &words, 7).unwrap();
        assert_eq!((home.birthday().unwrap(), again.birthday().unwrap()), (None, Some(7)));
        assert_eq!(again.seed().unwrap().challenge_secret(), home.seed().unwrap().challenge_secret());
        assert!(matches!(
            Home::restore(elsewhere.path(), Network::Signet, "not words", 0),
            Err(HomeError::Words(_))
        ));
    }

    #[test]
    fn one_process_at_a_time() {
        let data = tempfile::tempdir().unwrap();
        let (home, _) = Home::init(data.path(), Network::Regtest).unwrap();
        let lock = home.lock().unwrap();
        assert!(matches!(home.lock(), Err(HomeError::Locked { .. })));
        drop(lock);
        assert!(home.lock().is_ok());
    }
}
