//! The gateway's folder, `gateway` in the data folder of a network.
//!
//! | file | holds |
//! |---|---|
//! | `secret` | what the Lightning node's key and the link's key come from, mode 0600, in hex |
//! | `lightning/` | what LDK keeps |
//! | `ordinary/` | what LDK keeps of the ordinary node |
//! | `devices.sqlite` | devices, channels, shares, payments; shares are secret, so the folder is for its owner alone |
//! | `admin` | where and with which token the operator's commands reach the process |
//! | `lock` | held while a process runs |

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bitcoin::Network;
use bitcoin::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha256};
use bitcoin::hex::{DisplayHex as _, FromHex as _};
use farthing_node::entropy;
use farthing_node::home::Home;
use farthing_node::link::StaticKey;
use zeroize::Zeroizing;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process runs here.
    #[error("another gateway runs in {}", .0.display())]
    Locked(PathBuf),
    /// The secret is not what it was.
    #[error("{} holds no secret of this program", .0.display())]
    Secret(PathBuf),
}

/// The ordinary node's secret: its own, from the gateway's.
pub fn ordinary_seed(seed: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut engine = HmacEngine::<sha256::Hash>::new(seed);
    engine.input(b"farthing/gateway/ordinary");
    Zeroizing::new(Hmac::from_engine(engine).to_byte_array())
}

/// The gateway's folder, locked.
#[derive(Debug)]
pub struct GatewayHome {
    folder: PathBuf,
    _lock: File,
}

impl GatewayHome {
    /// Where it is.
    pub fn folder(data: &Path, network: Network) -> PathBuf {
        Home::folder(data, network).join("gateway")
    }

    /// Makes the folder if there is none, and locks it.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn open(data: &Path, network: Network) -> Result<Self, HomeError> {
        let folder = Self::folder(data, network);
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| HomeError::File { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(at(&folder))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(HomeError::Locked(folder)),
            Err(TryLockError::Error(source)) => Err(HomeError::File { path, source }),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The Lightning node's secret and the link's key, made at the first call.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn secrets(&self) -> Result<(Zeroizing<[u8; 32]>, StaticKey), HomeError> {
        let path = self.folder.join("secret");
        let failed = |source| HomeError::File { path: path.clone(), source };
        if !path.exists() {
            let text = Zeroizing::new(Zeroizing::new(entropy::bytes::<64>()).to_lower_hex_string());
            // There is whole or not at all: the lock keeps others away.
            let partial = self.folder.join("secret.partial");
            let written =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
            let mut file = written.map_err(failed)?;
            let made = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
            made.and_then(|()| fs::rename(&partial, &path))
                .and_then(|()| File::open(&self.folder)?.sync_all())
                .map_err(failed)?;
        }
        let text = Zeroizing::new(fs::read_to_string(&path).map_err(failed)?);
        let bytes = <[u8; 64]>::from_hex(text.trim()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| HomeError::Secret(path.clone()))?;
        let (mut seed, mut link) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        seed.copy_from_slice(&bytes[..32]);
        link.copy_from_slice(&bytes[32..]);
        Ok((seed, StaticKey::new(*link)))
    }
}
