//! The gateway: a Lightning node, the devices that may connect, and their channels.
//!
//! **Locks.** LDK calls the signers with its own locks held, and they lock what is here. So nothing here calls LDK while it holds
//! `Gateway::books`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitcoin::{Amount, FeeRate};
use farthing_chain::Chain;
use farthing_node::cabinet::Cabinet;
use farthing_node::store::StoreError;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{Contents, Side, Terms};
use farthing_protocol::device::wire::Report;
use farthing_threshold::Share;
use lightning::events::ReplayEvent;
use lightning::util::config::UserConfig;
use secp256k1::PublicKey;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::bans::Bans;
use crate::books::Books;
pub use crate::books::Tally;
use crate::clerk::ClerkError;
use crate::ends::Ends;
use crate::ldk::fees::FeeRates;
use crate::ldk::{Node, Setup, StartError};
use crate::operator::Operator;
use crate::payments::MOST_INBOUND;
use crate::records::{ChannelRecord, DeviceRecord, PaymentRecord, Stage};
use crate::shelf::{Shelf, ShelfError};
use crate::signer::desk::Desk;
use crate::signer::provider::JointProvider;

/// For so many devices at once the bitcoind is asked for headers.
const HEADER_READERS: usize = 4;
/// What an operator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything is kept. For this program's eyes only.
    pub folder: PathBuf,
    /// The node at the other end of devices' channels.
    pub bridge: PublicKey,
    /// Where it is.
    pub bridge_address: SocketAddr,
    /// The service fee, in millionths.
    pub fee_ppm: u32,
    /// The service fee's fixed part.
    pub fee_base: Msat,
    /// The word that lets a device in; empty where anybody may come.
    pub invitation: String,
    /// What a commitment pays to miners.
    pub commitment_fee_rate: FeeRate,
    /// What else pays to miners.
    pub onchain_fee_rate: FeeRate,
    /// What a closing together may cost above the commitment's fee rate, for a bridge that wants more. Some bridges (LDK) take all of it.
    pub closing_margin: Amount,
    /// How many blocks a bridge waits for its money after it published a commitment.
    pub bridge_delay: u16,
    /// How many keys are kept ready for each device.
    pub keys_ready: usize,
    /// How much devices may take.
    pub limits: Limits,
    /// How often to look for blocks.
    pub poll: Duration,
}

/// How much of a gateway devices may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many may be enrolled.
    pub devices: usize,
    /// How many connections there may be at once.
    pub connections: usize,
    /// How many of them from one address: many devices may come from behind one of a mobile network.
    pub connections_of_one_address: usize,
    /// How many channels of one device may wait for their fundings.
    pub unfunded: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { devices: 10_000, connections: 2_048, connections_of_one_address: 512, unfunded: 4 }
    }
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its Lightning node.
    #[error(transparent)]
    Node(#[from] StartError),
    /// The database of devices and channels.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it stored of devices and channels.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// A stored share.
    #[error("the share of channel {channel} cannot be read: {source}")]
    Share {
        /// Whose.
        channel: String,
        /// Why.
        source: farthing_threshold::BadShare,
    },
    /// A thread or a socket.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The gateway. One process serves many devices.
pub struct Gateway {
    /// What the operator decided.
    pub settings: Settings,
    /// Its Lightning node.
    pub node: Arc<Node<JointProvider>>,
    pub(crate) chain: Chain,
    pub(crate) provider: Arc<JointProvider>,
    pub(crate) channel_shelf: Shelf,
    pub(crate) device_shelf: Shelf,
    pub(crate) payment_shelf: Shelf,
    pub(crate) books: Mutex<Books>,
    /// Channels whose device cheated.
    pub(crate) bans: Bans,
    pub(crate) header_readers: Arc<Semaphore>,
    pub(crate) ends: Ends,
    operator: OnceLock<Arc<Operator>>,
}

impl Gateway {
    /// Opens what the folder holds, or begins anew, and runs the Lightning node.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(settings: Settings, seed: [u8; 32], chain: Chain) -> Result<Arc<Self>, OpenError> {
        let cabinet = open_cabinet(&settings.folder)?;
        let [channel_shelf, device_shelf, payment_shelf] =
            ["channel", "device", "payment"].map(|room| Shelf::new(cabinet.clone(), room));
        let provider = Arc::new(JointProvider::default());
        let this: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let told = this.clone();
        provider.on_parameters(Arc::new(move |channel, parameters| {
            if let Some(gateway) = told.get().and_then(Weak::upgrade) {
                gateway.agreed(channel, parameters);
            }
        }));

        let bans = Bans::open(channel_shelf.clone())?;
        let mut books = Books::default();
        for device in device_shelf.owners()? {
            if let Some(record) = device_shelf.get(&device, "record")? {
                books.devices.insert(device, record);
            }
            if let Some(settled) = device_shelf.get(&device, SETTLED)? {
                books.arrears.restore(device, settled);
            }
        }
        for channel in channel_shelf.owners()? {
            let Some(mut record) = channel_shelf.get::<ChannelRecord>(&channel, "record")? else { continue };
            // LDK forgets such a channel. Its keys signed nothing.
            if matches!(record.stage, Stage::Opening { .. }) {
                record.stage = Stage::Ready;
            }
            if let Some(bytes) = channel_shelf.get::<Zeroizing<Vec<u8>>>(&channel, "share")? {
                let name = || bitcoin::hex::DisplayHex::to_lower_hex_string(&channel[..]);
                let share = Share::from_bytes(&bytes)
                    .map_err(|source| OpenError::Share { channel: name(), source })?;
                books.shares.insert(channel, Arc::new(share));
            }
            if let Some(ledger) = channel_shelf.get(&channel, "ledger")? {
                books.ledgers.insert(channel, ledger);
            }
            let bell = books.bell(record.device);
            if let Some(why) = bans.of(&channel) {
                books.trouble.insert(channel, ClerkError::Banned(why).to_string());
            }
            provider.add(record.keys.clone(), Desk::open(channel, channel_shelf.clone(), bell)?);
            books.channels.insert(channel, record);
        }
        let mut payments = Vec::new();
        for payment in payment_shelf.owners()? {
            payments.extend(payment_shelf.get::<PaymentRecord>(&payment, "record")?);
        }
        payments.sort_by_key(|record| record.ordered_at);
        payments.into_iter().for_each(|record| books.note(record));

        let mut config = UserConfig::default();
        let handshake = &mut config.channel_handshake_config;
        handshake.negotiate_anchors_zero_fee_htlc_tx = false;
        handshake.announce_for_forwarding = false;
        // Devices receive nothing; what a bridge offers all the same must leave room for what they pay.
        handshake.our_max_accepted_htlcs = MOST_INBOUND;
        handshake.our_to_self_delay = settings.bridge_delay;
        handshake.commit_upfront_shutdown_pubkey = true;
        config.channel_config.force_close_avoidance_max_fee_satoshis = settings.closing_margin.to_sat();
        config.manually_accept_inbound_channels = true;
        config.reject_inbound_splices = true;
        let fees = FeeRates {
            commitment: settings.commitment_fee_rate,
            onchain: settings.onchain_fee_rate,
            follows_estimates: false,
        };
        let setup = Setup {
            name: "gateway",
            folder: settings.folder.join("lightning"),
            seed,
            chain: chain.clone(),
            fees,
            config,
            poll: settings.poll,
        };
        let node = Node::open(setup, provider.clone())?;
        let gateway = Arc::new(Self {
            settings,
            node,
            chain,
            provider,
            channel_shelf,
            device_shelf,
            payment_shelf,
            books: Mutex::new(books),
            bans,
            header_readers: Arc::new(Semaphore::new(HEADER_READERS)),
            ends: Ends::default(),
            operator: OnceLock::new(),
        });
        this.get_or_init(|| Arc::downgrade(&gateway));
        gateway.send_closings();
        // A version before this one forgot none.
        gateway.forget_old_payments(&mut gateway.books())?;
        gateway.keep_fee_rate();
        gateway.books().under_way = gateway.payments_of_ldk();
        let handler = Arc::downgrade(&gateway);
        gateway.node.run(move |event| match handler.upgrade().map(|gateway| gateway.event(event)) {
            // LDK tells it again.
            Some(Err(error)) => {
                tracing::error!(%error, "what a channel or a payment came to was not stored");
                Err(ReplayEvent())
            }
            Some(Ok(())) | None => Ok(()),
        })?;
        gateway.node.keep_connected(gateway.settings.bridge, gateway.settings.bridge_address);
        Ok(gateway)
    }

    /// From now on payments go through the operator's ordinary node where they can.
    pub fn earn_through(&self, operator: Arc<Operator>) {
        let _the_first_stays = self.operator.set(operator);
    }

    /// The operator's ordinary node, if there is one.
    pub(crate) fn operator(&self) -> Option<&Arc<Operator>> {
        self.operator.get()
    }

    /// Ends the Lightning nodes.
    pub fn stop(&self) {
        self.node.stop();
        if let Some(operator) = self.operator() {
            operator.node.stop();
        }
    }

    /// What was done since the start.
    pub fn tally(&self) -> Tally {
        self.books().tally
    }

    /// A channel's terms and the holder's newest state, as they were proposed to the device.
    pub fn holder_state(&self, channel: [u8; 32]) -> Option<(Terms, Contents)> {
        let books = self.books();
        let terms = books.channels.get(&channel)?.terms()?;
        Some((terms, books.ledgers.get(&channel)?.newest(Side::Holder)?.clone()))
    }

    /// How many orders of a channel wait for its device.
    pub fn orders(&self, channel: [u8; 32]) -> usize {
        self.desk(&channel).map_or(0, |desk| desk.waiting())
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn desk(&self, channel: &[u8; 32]) -> Option<Arc<Desk>> {
        self.provider.desk(channel)
    }

    /// Removes payments that need not be remembered.
    pub(crate) fn forget_old_payments(&self, books: &mut Books) -> Result<(), ShelfError> {
        let Some(too_many) = books.too_many() else { return Ok(()) };
        let settled = too_many.settled.iter();
        let settled = settled.map(|(device, settled)| self.device_shelf.change(device, SETTLED, settled));
        self.payment_shelf.remove_all(&too_many.hashes, &["record"], settled.collect())?;
        books.forget(too_many);
        Ok(())
    }

    pub(crate) fn save_device(&self, device: [u8; 32], record: &DeviceRecord) -> Result<(), ShelfError> {
        self.device_shelf.put_first(&device, "record", record)
    }

    pub(crate) fn save_channel(&self, record: &ChannelRecord) -> Result<(), ShelfError> {
        self.channel_shelf.put(&record.keys.channel, "record", record)
    }

    /// Tells a device, if it is here, what became of an order.
    pub(crate) fn report(&self, device: [u8; 32], order: u64, report: Report) {
        let session = self.books().sessions.get(&device).cloned();
        if let Some(session) = session {
            session.report(order, report);
        }
    }
}

/// What a device owes by payments that are forgotten.
const SETTLED: &str = "settled";

/// Where devices, channels and payments are stored.
pub(crate) fn open_cabinet(folder: &Path) -> Result<Arc<Cabinet>, StoreError> {
    Ok(Arc::new(Cabinet::open(&folder.join("devices.sqlite"))?))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
