//! The order in which LDK's state reaches the disk.
//!
//! LDK has two kinds of state: the channel manager, and a monitor for each channel. It refuses to go on with a channel whose monitor is
//! *newer* than the manager, and closes it. So a monitor is written only after a manager that knows of its update: LDK is told that
//! the update is under way, the manager is written (it repeats such updates after a restart), then the monitor, and only then LDK lets
//! the messages out that depend on it. A crash between any two of these loses nothing and closes nothing.

use std::sync::{Arc, Mutex, PoisonError};

use lightning::chain::ChannelMonitorUpdateStatus;
use lightning::chain::chainmonitor::Persist;
use lightning::chain::channelmonitor::{ChannelMonitor, ChannelMonitorUpdate};
use lightning::ln::types::ChannelId;
use lightning::sign::ecdsa::EcdsaChannelSigner;
use lightning::util::persist::{
    CHANNEL_MANAGER_PERSISTENCE_KEY, CHANNEL_MANAGER_PERSISTENCE_PRIMARY_NAMESPACE,
    CHANNEL_MANAGER_PERSISTENCE_SECONDARY_NAMESPACE, CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE,
    CHANNEL_MONITOR_PERSISTENCE_SECONDARY_NAMESPACE, KVStoreSync as _, MonitorName,
};
use lightning::util::ser::Writeable as _;
use lightning_persister::fs_store::FilesystemStore;

/// A monitor that waits to be written.
struct Waiting {
    name: String,
    bytes: Vec<u8>,
    /// What LDK waits for: the channel and the number of the update.
    update: Option<(ChannelId, u64)>,
}

/// Keeps monitors back until the manager is written.
pub struct Vault {
    store: Arc<FilesystemStore>,
    waiting: Mutex<Vec<Waiting>>,
}

/// What the disk said.
#[derive(Debug, thiserror::Error)]
#[error("{what} was not stored: {source}")]
pub struct NotStored {
    what: String,
    source: lightning::io::Error,
}

impl Vault {
    /// In that store.
    pub fn new(store: Arc<FilesystemStore>) -> Self {
        Self { store, waiting: Mutex::default() }
    }

    /// The stored manager, if there is one.
    pub fn manager(&self) -> Option<Vec<u8>> {
        let read = self.store.read(
            CHANNEL_MANAGER_PERSISTENCE_PRIMARY_NAMESPACE,
            CHANNEL_MANAGER_PERSISTENCE_SECONDARY_NAMESPACE,
            CHANNEL_MANAGER_PERSISTENCE_KEY,
        );
        read.ok()
    }

    /// Whether monitors wait.
    pub fn is_waiting(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// Writes the manager, then the monitors that waited before it was encoded. Gives the updates that are now on the disk.
    ///
    /// # Errors
    /// When something was not written. What waited waits on.
    pub fn save(&self, manager: impl FnOnce() -> Vec<u8>) -> Result<Vec<(ChannelId, u64)>, NotStored> {
        let count = self.waiting().len();
        self.store
            .write(
                CHANNEL_MANAGER_PERSISTENCE_PRIMARY_NAMESPACE,
                CHANNEL_MANAGER_PERSISTENCE_SECONDARY_NAMESPACE,
                CHANNEL_MANAGER_PERSISTENCE_KEY,
                manager(),
            )
            .map_err(|source| NotStored { what: "the channel manager".into(), source })?;
        // Of several updates of one channel only the last need be written: it has them all.
        let newest: Vec<(String, Vec<u8>)> = {
            let waiting = self.waiting();
            let (old, _) = waiting.split_at(count);
            let is_last = |place: usize, name: &str| !old[place + 1..].iter().any(|later| later.name == name);
            let last = old.iter().enumerate().filter(|(place, one)| is_last(*place, &one.name));
            last.map(|(_, one)| (one.name.clone(), one.bytes.clone())).collect()
        };
        for (name, bytes) in newest {
            self.store
                .write(
                    CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE,
                    CHANNEL_MONITOR_PERSISTENCE_SECONDARY_NAMESPACE,
                    &name,
                    bytes,
                )
                .map_err(|source| NotStored { what: format!("monitor {name}"), source })?;
        }
        Ok(self.waiting().drain(..count).filter_map(|one| one.update).collect())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put<S: EcdsaChannelSigner>(
        &self,
        name: MonitorName,
        monitor: &ChannelMonitor<S>,
        is_awaited: bool,
    ) -> ChannelMonitorUpdateStatus {
        let update = is_awaited.then(|| (monitor.channel_id(), monitor.get_latest_update_id()));
        self.waiting().push(Waiting { name: name.to_string(), bytes: monitor.encode(), update });
        ChannelMonitorUpdateStatus::InProgress
    }
}

impl<S: EcdsaChannelSigner> Persist<S> for Vault {
    fn persist_new_channel(
        &self,
        name: MonitorName,
        monitor: &ChannelMonitor<S>,
    ) -> ChannelMonitorUpdateStatus {
        self.put(name, monitor, true)
    }

    fn update_persisted_channel(
        &self,
        name: MonitorName,
        update: Option<&ChannelMonitorUpdate>,
        monitor: &ChannelMonitor<S>,
    ) -> ChannelMonitorUpdateStatus {
        // What came out of a block alone, nobody waits for.
        self.put(name, monitor, update.is_some())
    }

    /// A channel that is over for good stays on the disk: it is small, and may be looked at.
    fn archive_persisted_channel(&self, _: MonitorName) {}
}
