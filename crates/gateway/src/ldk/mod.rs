//! A Lightning node on LDK: channels, peers, gossip, a real bitcoind. How its channels are signed is the parameter.
//!
//! | file | does |
//! |---|---|
//! | [`blocks`] | feeds blocks of a bitcoind, through reorganisations |
//! | [`broadcaster`], [`fees`], [`log`] | what LDK asks its surroundings for |
//! | [`ear`] | hears what a bridge answers to an opening |
//! | `gossip` | whom the node believes about the network |
//! | `map` | what is known of the network, and which routes failed |
//! | `peers`, `dial` | connects to other nodes, until the node stops |
//! | [`vault`] | writes LDK's state in an order that survives crashes |
//!
//! What LDK must not lose lies in one database, `lightning.sqlite`: monitors (what protects a channel's money, written before a
//! message that depends on it leaves) and the manager.

pub mod blocks;
pub mod broadcaster;
mod dial;
pub mod ear;
pub mod fees;
mod gossip;
pub mod log;
mod map;
mod peers;
pub mod vault;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use farthing_chain::{Chain, ChainError};
use farthing_node::entropy;
use farthing_node::store::StoreError;
use lightning::chain::chainmonitor::ChainMonitor;
use lightning::chain::{BestBlock, Filter};
use lightning::events::{Event, EventsProvider as _, ReplayEvent};
use lightning::ln::channelmanager::{ChainParameters, ChannelManager, ChannelManagerReadArgs};
use lightning::ln::peer_handler::{IgnoringMessageHandler, MessageHandler, PeerManager};
use lightning::ln::types::ChannelId;
use lightning::onion_message::messenger::NullMessageRouter;
use lightning::routing::router::DefaultRouter;
use lightning::routing::scoring::ProbabilisticScoringFeeParameters;
use lightning::sign::{KeysManager, NodeSigner as _, SignerProvider};
use lightning::util::config::UserConfig;
use lightning::util::persist::read_channel_monitors;
use lightning::util::ser::{ReadableArgs as _, Writeable as _};
use lightning::util::wakers::Sleeper;
use lightning_net_tokio::SocketDescriptor;
use secp256k1::PublicKey;
use tokio::task::JoinSet;

use blocks::{Both, OneMonitor, Position};
use broadcaster::Broadcaster;
use ear::Ear;
use fees::{FeeRates, Fees};
use gossip::Gossip;
use log::Log;
use map::{Graph, Map, Scorer};
use vault::Vault;

/// LDK's router.
pub type Router = DefaultRouter<
    Arc<Graph>,
    Arc<Log>,
    Arc<KeysManager>,
    Arc<RwLock<Scorer>>,
    ProbabilisticScoringFeeParameters,
    Scorer,
>;
type Signer<P> = <P as SignerProvider>::EcdsaSigner;

/// LDK's channel monitors.
pub type Monitors<P> = ChainMonitor<
    Signer<P>,
    Arc<dyn Filter + Send + Sync>,
    Arc<Broadcaster>,
    Arc<Fees>,
    Arc<Log>,
    Arc<Vault>,
    Arc<KeysManager>,
>;

/// LDK's channel manager.
pub type Channels<P> = ChannelManager<
    Arc<Monitors<P>>,
    Arc<Broadcaster>,
    Arc<KeysManager>,
    Arc<KeysManager>,
    Arc<P>,
    Arc<Fees>,
    Arc<Router>,
    Arc<NullMessageRouter>,
    Arc<Log>,
>;

/// LDK's peers.
pub type Peers<P> = PeerManager<
    SocketDescriptor,
    Arc<Ear<P>>,
    Arc<Gossip>,
    IgnoringMessageHandler,
    Arc<Log>,
    IgnoringMessageHandler,
    Arc<KeysManager>,
    Arc<Monitors<P>>,
>;

/// How often the map of the network is written.
const MAP: Duration = Duration::from_secs(600);
/// How long after its start a node may have heard too little of the network to find a way: peers tell their maps when they connect.
const NEW: Duration = Duration::from_secs(60);
/// How long the background thread sleeps when nothing happens.
const IDLE: Duration = Duration::from_millis(500);
/// How often LDK wants to be told that time passes, and its peers.
const TICK: Duration = Duration::from_secs(60);
const PEER_TICK: Duration = Duration::from_secs(10);
/// How often the bitcoind is asked what fees are.
const ESTIMATES: Duration = Duration::from_secs(30);
/// How often claims that are not in a block are sent again.
const REBROADCAST: Duration = Duration::from_secs(30);

/// How a Lightning node is set up.
pub struct Setup {
    /// The node's name in logs.
    pub name: &'static str,
    /// Its folder.
    pub folder: PathBuf,
    /// The secret that its node key and its onions come from.
    pub seed: [u8; 32],
    /// Its bitcoind.
    pub chain: Chain,
    /// Fee rates.
    pub fees: FeeRates,
    /// LDK's own settings.
    pub config: UserConfig,
    /// How often to look for blocks.
    pub poll: Duration,
}

/// Why a Lightning node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored cannot be read.
    #[error("what LDK stored in {} cannot be read: {reason}", path.display())]
    Stored {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The bitcoind.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// A Lightning node. It runs once [`Self::run`] was called, until [`Self::stop`].
pub struct Node<P: SignerProvider + Send + Sync + 'static> {
    /// Its channels.
    pub channels: Arc<Channels<P>>,
    /// What watches them.
    pub monitors: Arc<Monitors<P>>,
    /// Its peers.
    pub peers: Arc<Peers<P>>,
    /// What bridges answered.
    pub ear: Arc<Ear<P>>,
    /// Finds routes.
    pub router: Arc<Router>,
    /// Sends what they publish.
    pub broadcaster: Arc<Broadcaster>,
    /// What they pay to miners.
    pub fees: Arc<Fees>,
    name: &'static str,
    gossip: Arc<Gossip>,
    map: Map,
    keys: Arc<KeysManager>,
    chain: Chain,
    vault: Arc<Vault>,
    poll: Duration,
    opened: Instant,
    position: Mutex<Position>,
    is_stopped: AtomicBool,
    /// Held while a connection is registered, and while the node is told to stop.
    door: Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<P> Node<P>
where
    P: SignerProvider + Send + Sync + 'static,
    Signer<P>: Send + Sync,
{
    /// Sets a node up from what its folder holds, or anew. Brings everything to the chain's tip.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn open(setup: Setup, provider: Arc<P>) -> Result<Arc<Self>, StartError> {
        let Setup { name, folder, seed, chain, fees, config, poll } = setup;
        let log = Arc::new(Log { node: name });
        let fees = Arc::new(Fees::new(fees));
        fees.ask(&chain);
        let network = chain.network();
        let broadcaster = Arc::new(Broadcaster::new(chain.clone()));
        std::fs::create_dir_all(&folder)
            .map_err(|source| StartError::File { path: folder.clone(), source })?;
        let vault = Arc::new(Vault::open(&folder)?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let keys = Arc::new(KeysManager::new(&seed, now.as_secs(), now.subsec_nanos(), true));
        let monitors = Arc::new(Monitors::<P>::new(
            None,
            broadcaster.clone(),
            log.clone(),
            fees.clone(),
            vault.clone(),
            keys.clone(),
            keys.get_peer_storage_key(),
        ));
        let stored = |reason: &dyn std::fmt::Display| StartError::Stored {
            path: folder.clone(),
            reason: reason.to_string(),
        };
        let map = Map::open(vault.clone(), network, log.clone()).map_err(|error| stored(&error))?;
        let router = Arc::new(Router::new(
            map.graph.clone(),
            log.clone(),
            keys.clone(),
            map.scorer.clone(),
            ProbabilisticScoringFeeParameters::default(),
        ));

        let read = read_channel_monitors(&vault.room(), keys.clone(), provider.clone());
        let stored_monitors = read.map_err(|error| stored(&error))?;
        for (_, monitor) in &stored_monitors {
            let apply = |update: &_| monitor.update_monitor(update, &broadcaster, &fees, &log).is_ok();
            vault.catch_up(monitor, apply).map_err(|error| stored(&error))?;
        }
        let tip = chain.tip()?;
        let (channels, position) = match vault.manager()? {
            None if !stored_monitors.is_empty() => {
                return Err(stored(&"there are channels, and the channel manager is gone"));
            }
            None => {
                let best_block = BestBlock::new(tip.hash, tip.height);
                let channels = Channels::<P>::new(
                    fees.clone(),
                    monitors.clone(),
                    broadcaster.clone(),
                    router.clone(),
                    Arc::new(NullMessageRouter {}),
                    log.clone(),
                    keys.clone(),
                    keys.clone(),
                    provider,
                    config,
                    ChainParameters { network, best_block },
                    seconds(now),
                );
                (Arc::new(channels), Position::from(best_block))
            }
            Some(bytes) => {
                let arguments = ChannelManagerReadArgs::new(
                    keys.clone(),
                    keys.clone(),
                    provider,
                    fees.clone(),
                    monitors.clone(),
                    broadcaster.clone(),
                    router.clone(),
                    Arc::new(NullMessageRouter {}),
                    log.clone(),
                    config,
                    stored_monitors.iter().map(|(_, monitor)| monitor).collect(),
                );
                let read = <(bitcoin::BlockHash, Channels<P>)>::read(&mut &bytes[..], arguments);
                let (_, channels) = read.map_err(|error| stored(&format!("{error:?}")))?;
                let position = Position::from(channels.current_best_block());
                (Arc::new(channels), position)
            }
        };
        let mut position = position;
        position.follow(&chain, &*channels)?;
        for (_, monitor) in stored_monitors {
            let mut position = Position::from(monitor.current_best_block());
            let listener = OneMonitor(monitor, broadcaster.clone(), fees.clone(), log.clone());
            position.follow(&chain, &listener)?;
            let OneMonitor(monitor, ..) = listener;
            let channel = monitor.channel_id();
            let loaded = monitors.load_existing_monitor(channel, monitor);
            loaded.map_err(|()| stored(&format!("two monitors of channel {channel}")))?;
        }

        let ear = Arc::new(Ear::new(channels.clone()));
        let gossip = Arc::new(Gossip::new(map.graph.clone(), log.clone()));
        let handlers = MessageHandler {
            chan_handler: ear.clone(),
            route_handler: gossip.clone(),
            onion_message_handler: IgnoringMessageHandler {},
            custom_message_handler: IgnoringMessageHandler {},
            send_only_message_handler: monitors.clone(),
        };
        let peers = Peers::<P>::new(handlers, seconds(now), &entropy::bytes(), log, keys.clone());
        Ok(Arc::new(Self {
            channels,
            monitors,
            peers: Arc::new(peers),
            ear,
            router,
            broadcaster,
            name,
            gossip,
            fees,
            map,
            keys,
            chain,
            vault,
            poll,
            opened: Instant::now(),
            position: Mutex::new(position),
            is_stopped: AtomicBool::new(false),
            door: Mutex::default(),
            tasks: Mutex::default(),
            threads: Mutex::default(),
        }))
    }

    /// The node's public key.
    pub fn id(&self) -> PublicKey {
        self.channels.get_our_node_id()
    }

    /// How many channels of the network it has heard of.
    pub fn known_channels(&self) -> usize {
        self.map.graph.read_only().channels().len()
    }

    /// Whether it started so lately that it may not have heard of all channels yet.
    pub fn is_new(&self) -> bool {
        self.opened.elapsed() < NEW
    }

    /// The node's own keys, not those of its channels.
    pub fn keys(&self) -> &KeysManager {
        &self.keys
    }

    /// Runs the node: its events go to `handler`, which must not block for long. One that could not be handled comes again. The node's
    /// threads carry its name.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn run(
        self: &Arc<Self>,
        handler: impl Fn(Event) -> Result<(), ReplayEvent> + Send + 'static,
    ) -> Result<(), std::io::Error> {
        let node = self.clone();
        let thread = |does: &str| thread::Builder::new().name(format!("{} {does}", self.name));
        let background = thread("events").spawn(move || node.work(&handler))?;
        let node = self.clone();
        let blocks = thread("blocks").spawn(move || node.watch())?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.extend([background, blocks]);
        Ok(())
    }

    /// Learns from a payment of another node of ours.
    pub(crate) fn learn(&self, event: &Event) {
        self.map.learn(event);
    }

    /// Lets LDK go on with a channel whose signer has an answer now.
    pub fn unblock(&self, peer: PublicKey, channel: ChannelId) {
        self.channels.signer_unblocked(Some((peer, channel)));
        self.peers.process_events();
    }

    /// The same for every channel.
    pub fn unblock_all(&self) {
        self.channels.signer_unblocked(None);
        self.peers.process_events();
    }

    /// Ends connections and threads, and stores what LDK wants kept. Nobody gets an answer of it afterwards.
    pub fn stop(&self) {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_stopped.store(true, Ordering::SeqCst);
        drop(door);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.peers.disconnect_all_peers();
        let threads: Vec<_> = self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        for thread in threads {
            // A thread that panicked has said so.
            let _ended = thread.join();
        }
        self.save();
        self.map.save();
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    fn work(&self, handler: &dyn Fn(Event) -> Result<(), ReplayEvent>) {
        let handle = |event: Event| -> Result<(), ReplayEvent> {
            self.map.learn(&event);
            handler(event)
        };
        let (mut tick, mut peer_tick, mut rebroadcast) = (Instant::now(), Instant::now(), Instant::now());
        self.channels.timer_tick_occurred();
        while !self.is_stopped() {
            self.channels.process_pending_events(&handle);
            self.monitors.process_pending_events(&handle);
            if self.channels.needs_pending_htlc_processing() {
                self.channels.process_pending_htlc_forwards();
            }
            self.peers.process_events();
            let is_saved =
                (self.channels.get_and_clear_needs_persistence() || self.vault.is_waiting()) && self.save();
            if tick.elapsed() > TICK {
                self.channels.timer_tick_occurred();
                tick = Instant::now();
            }
            if peer_tick.elapsed() > PEER_TICK {
                self.peers.timer_tick_occurred();
                peer_tick = Instant::now();
            }
            if rebroadcast.elapsed() > REBROADCAST {
                self.monitors.rebroadcast_pending_claims();
                rebroadcast = Instant::now();
            }
            if is_saved {
                // What waited for the disk goes on at once.
                continue;
            }
            let channels = self.channels.get_event_or_persistence_needed_future();
            Sleeper::from_two_futures(&channels, &self.monitors.get_update_future()).wait_timeout(IDLE);
        }
    }

    fn watch(&self) {
        let (mut mapped, mut estimated) = (Instant::now(), Instant::now());
        while !self.is_stopped() {
            // Before the blocks: what LDK does about them pays these.
            if estimated.elapsed() > ESTIMATES {
                self.fees.ask(&self.chain);
                estimated = Instant::now();
            }
            let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
            let listener = Both(&*self.channels, &*self.monitors);
            let followed = position.follow(&self.chain, &listener);
            drop(position);
            match followed {
                Ok(true) => self.broadcaster.send_again(),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "no blocks"),
            }
            if mapped.elapsed() > MAP {
                self.map.save();
                mapped = Instant::now();
            }
            thread::park_timeout(self.poll);
        }
    }

    /// Whether everything is on the disk that was there to be stored.
    fn save(&self) -> bool {
        match self.vault.save(|| self.channels.encode()) {
            Ok(stored) => {
                for (channel, update) in stored {
                    if self.monitors.channel_monitor_updated(channel, update).is_err() {
                        tracing::debug!(%channel, "a channel that is gone has no monitor to update");
                    }
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "channels stand still until the disk works again");
                false
            }
        }
    }
}

fn seconds(since_1970: Duration) -> u32 {
    u32::try_from(since_1970.as_secs()).unwrap_or(u32::MAX)
}
