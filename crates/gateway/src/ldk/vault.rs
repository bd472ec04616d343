//! The order in which LDK's state reaches the disk.
//!
//! LDK has two kinds of state: the channel manager, and a monitor for each channel. It refuses to go on with a channel whose monitor is
//! *newer* than the manager, and closes it. So a monitor is written only together with a manager that knows of its update: LDK is told that
//! the update is under way, the manager and the monitors that waited for it are written in one commit, and only then LDK lets the
//! messages out that depend on them. A crash before or after it loses nothing and closes nothing.
//!
//! A monitor remembers every commitment that was ever revoked, so it grows with each payment. It is written whole from time to time only;
//! in between its updates are, each at a place of its own, and a start applies them again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use farthing_node::cabinet::{Cabinet, Change, Place};
use farthing_node::store::StoreError;
use lightning::chain::ChannelMonitorUpdateStatus;
use lightning::chain::chainmonitor::Persist;
use lightning::chain::channelmonitor::{ChannelMonitor, ChannelMonitorUpdate};
use lightning::io::{Error, ErrorKind};
use lightning::ln::types::ChannelId;
use lightning::sign::ecdsa::EcdsaChannelSigner;
use lightning::util::persist::{
    CHANNEL_MANAGER_PERSISTENCE_KEY, CHANNEL_MANAGER_PERSISTENCE_PRIMARY_NAMESPACE,
    CHANNEL_MANAGER_PERSISTENCE_SECONDARY_NAMESPACE, CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE,
    CHANNEL_MONITOR_PERSISTENCE_SECONDARY_NAMESPACE, KVStoreSync, MonitorName, NETWORK_GRAPH_PERSISTENCE_KEY,
    NETWORK_GRAPH_PERSISTENCE_PRIMARY_NAMESPACE, NETWORK_GRAPH_PERSISTENCE_SECONDARY_NAMESPACE,
};
use lightning::util::ser::{Readable as _, Writeable as _};

/// So many updates of a monitor are written before it is written whole again.
const WHOLE_EVERY: u64 = 64;
/// LDK once numbered so whatever came after a channel's end: such updates are in no order.
const AFTER_THE_END: u64 = u64::MAX;
/// Where updates are, by monitor and number.
const UPDATES: &str = "monitor_updates";

/// Something of a monitor that waits to be written.
struct Waiting {
    name: String,
    /// The monitor's last update.
    number: u64,
    what: What,
    /// Whose update LDK waits for.
    awaited: Option<ChannelId>,
}

enum What {
    /// The monitor, as it is after that update.
    Whole(Vec<u8>),
    /// That update alone.
    Update(Vec<u8>),
}

/// Why a monitor is not where it was.
#[derive(Debug, thiserror::Error)]
pub enum NotCaughtUp {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An update.
    #[error("update {number} of monitor {name} cannot be applied after {latest}")]
    Update {
        /// Which monitor.
        name: String,
        /// Which update.
        number: u64,
        /// The monitor's last.
        latest: u64,
    },
}

/// Keeps monitors back until the manager is written.
pub struct Vault {
    cabinet: Cabinet,
    /// The map is long, and nobody should wait while it is written.
    map: Cabinet,
    waiting: Mutex<Vec<Waiting>>,
}

impl Vault {
    /// In the databases of that folder.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let cabinet = Cabinet::open(&folder.join("lightning.sqlite"))?;
        Ok(Self { cabinet, map: Cabinet::open(&folder.join("map.sqlite"))?, waiting: Mutex::default() })
    }

    /// The stored manager, if there is one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn manager(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.cabinet.get(&place_of_manager())
    }

    /// The stored map of the network, if there is one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn graph(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.map.get(&place_of_graph())
    }

    /// Keeps the map of the network, which peers would have to send again otherwise.
    ///
    /// # Errors
    /// When it was not written.
    pub fn save_graph(&self, graph: Vec<u8>) -> Result<(), StoreError> {
        self.map.put(vec![(place_of_graph(), Some(graph))])
    }

    /// Where the stored monitors are.
    pub fn room(&self) -> Room<'_> {
        Room(&self.cabinet)
    }

    /// Whether monitors wait.
    pub fn is_waiting(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// Writes the manager and the monitors that waited before it was encoded. Gives the updates that are now on the disk.
    ///
    /// # Errors
    /// When they were not written. What waited waits on.
    pub fn save(&self, manager: impl FnOnce() -> Vec<u8>) -> Result<Vec<(ChannelId, u64)>, StoreError> {
        let count = self.waiting().len();
        let mut changes = vec![(place_of_manager(), Some(manager()))];
        // A monitor that is written whole has all updates that came before it.
        let mut whole: HashMap<String, u64> = HashMap::new();
        {
            let waiting = self.waiting();
            for one in waiting[..count].iter().rev() {
                if whole.contains_key(&one.name) {
                    continue;
                }
                match &one.what {
                    What::Whole(bytes) => {
                        whole.insert(one.name.clone(), one.number);
                        changes.push((place_of(&one.name), Some(bytes.clone())));
                    }
                    What::Update(bytes) => {
                        changes.push((place_of_update(&one.name, one.number), Some(bytes.clone())));
                    }
                }
            }
        }
        for (name, number) in whole {
            let old = self.updates(&name)?.into_iter().filter(|old| *old <= number);
            changes.extend(old.map(|old| -> Change { (place_of_update(&name, old), None) }));
        }
        self.cabinet.put(changes)?;
        let stored = self.waiting().drain(..count).collect::<Vec<_>>().into_iter();
        Ok(stored.filter_map(|one| Some((one.awaited?, one.number))).collect())
    }

    /// The numbers of a monitor's stored updates, in order.
    fn updates(&self, name: &str) -> Result<Vec<u64>, StoreError> {
        let names = self.cabinet.names(UPDATES, name)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|number| number.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Brings a monitor that was read to where it was: applies each update that is not in it yet. `apply` says whether it could be.
    ///
    /// # Errors
    /// When an update cannot be read or applied, or one is missing.
    pub fn catch_up<S: EcdsaChannelSigner>(
        &self,
        monitor: &ChannelMonitor<S>,
        apply: impl Fn(&ChannelMonitorUpdate) -> bool,
    ) -> Result<(), NotCaughtUp> {
        let name = monitor.persistence_key().to_string();
        for number in self.updates(&name)? {
            let latest = monitor.get_latest_update_id();
            if number <= latest {
                continue;
            }
            let not_caught_up = || NotCaughtUp::Update { name: name.clone(), number, latest };
            let bytes = self.cabinet.get(&place_of_update(&name, number))?.ok_or_else(not_caught_up)?;
            let update = ChannelMonitorUpdate::read(&mut &bytes[..]).map_err(|_| not_caught_up())?;
            if number != latest + 1 || update.update_id != number || !apply(&update) {
                return Err(not_caught_up());
            }
        }
        Ok(())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, name: MonitorName, number: u64, what: What, awaited: Option<ChannelId>) {
        self.waiting().push(Waiting { name: name.to_string(), number, what, awaited });
    }
}

impl<S: EcdsaChannelSigner> Persist<S> for Vault {
    fn persist_new_channel(
        &self,
        name: MonitorName,
        monitor: &ChannelMonitor<S>,
    ) -> ChannelMonitorUpdateStatus {
        let (number, channel) = (monitor.get_latest_update_id(), monitor.channel_id());
        self.put(name, number, What::Whole(monitor.encode()), Some(channel));
        ChannelMonitorUpdateStatus::InProgress
    }

    fn update_persisted_channel(
        &self,
        name: MonitorName,
        update: Option<&ChannelMonitorUpdate>,
        monitor: &ChannelMonitor<S>,
    ) -> ChannelMonitorUpdateStatus {
        // What came out of a block alone has no update, and nobody waits for it.
        let awaited = update.map(|_| monitor.channel_id());
        let is_due = |number: u64| number.is_multiple_of(WHOLE_EVERY) || number == AFTER_THE_END;
        match update.filter(|update| !is_due(update.update_id)) {
            Some(update) => self.put(name, update.update_id, What::Update(update.encode()), awaited),
            None => {
                self.put(name, monitor.get_latest_update_id(), What::Whole(monitor.encode()), awaited);
            }
        }
        ChannelMonitorUpdateStatus::InProgress
    }

    /// A channel that is over for good stays on the disk: it is small, and may be looked at.
    fn archive_persisted_channel(&self, _: MonitorName) {}
}

fn place_of_manager() -> Place {
    Place::new(
        CHANNEL_MANAGER_PERSISTENCE_PRIMARY_NAMESPACE,
        CHANNEL_MANAGER_PERSISTENCE_SECONDARY_NAMESPACE,
        CHANNEL_MANAGER_PERSISTENCE_KEY,
    )
}

fn place_of_graph() -> Place {
    Place::new(
        NETWORK_GRAPH_PERSISTENCE_PRIMARY_NAMESPACE,
        NETWORK_GRAPH_PERSISTENCE_SECONDARY_NAMESPACE,
        NETWORK_GRAPH_PERSISTENCE_KEY,
    )
}

fn place_of(monitor: &str) -> Place {
    Place::new(
        CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE,
        CHANNEL_MONITOR_PERSISTENCE_SECONDARY_NAMESPACE,
        monitor,
    )
}

fn place_of_update(monitor: &str, number: u64) -> Place {
    Place::new(UPDATES, monitor, &number.to_string())
}

/// What LDK reads its monitors from. It writes them through [`Persist`].
pub struct Room<'a>(&'a Cabinet);

impl KVStoreSync for Room<'_> {
    fn read(&self, primary: &str, secondary: &str, key: &str) -> Result<Vec<u8>, Error> {
        let value = self.0.get(&Place::new(primary, secondary, key)).map_err(other)?;
        value.ok_or_else(|| Error::from(ErrorKind::NotFound))
    }

    fn write(&self, primary: &str, secondary: &str, key: &str, value: Vec<u8>) -> Result<(), Error> {
        self.0.put(vec![(Place::new(primary, secondary, key), Some(value))]).map_err(other)
    }

    fn remove(&self, primary: &str, secondary: &str, key: &str, _: bool) -> Result<(), Error> {
        self.0.put(vec![(Place::new(primary, secondary, key), None)]).map_err(other)
    }

    fn list(&self, primary: &str, secondary: &str) -> Result<Vec<String>, Error> {
        self.0.names(primary, secondary).map_err(other)
    }
}

fn other(error: StoreError) -> Error {
    Error::new(ErrorKind::Other, error)
}
