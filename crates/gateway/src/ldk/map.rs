//! The map of the network that peers gossip, kept over restarts, and what payments taught of its channels.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::Network;
use farthing_node::store::StoreError;
use lightning::events::Event;
use lightning::ln::msgs::DecodeError;
use lightning::routing::gossip::NetworkGraph;
use lightning::routing::scoring::{
    ProbabilisticScorer, ProbabilisticScoringDecayParameters, ScoreUpdate as _,
};
use lightning::util::ser::{ReadableArgs as _, Writeable as _};

use super::log::Log;
use super::vault::Vault;

/// The network's channels.
pub type Graph = NetworkGraph<Arc<Log>>;
/// How likely each is to carry a payment.
pub type Scorer = ProbabilisticScorer<Arc<Graph>, Arc<Log>>;

/// Why the stored map cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("the map of the network: {0}")]
    Store(#[from] StoreError),
    #[error("the map of the network: {0:?}")]
    Unreadable(DecodeError),
}

/// The map.
pub struct Map {
    pub graph: Arc<Graph>,
    pub scorer: Arc<RwLock<Scorer>>,
    vault: Arc<Vault>,
}

impl Map {
    /// As it was stored, or empty.
    pub fn open(vault: Arc<Vault>, network: Network, log: Arc<Log>) -> Result<Self, MapError> {
        let graph = match vault.graph()? {
            None => Graph::new(network, log.clone()),
            Some(bytes) => Graph::read(&mut &bytes[..], log.clone()).map_err(MapError::Unreadable)?,
        };
        let graph = Arc::new(graph);
        let scorer = Scorer::new(ProbabilisticScoringDecayParameters::default(), graph.clone(), log);
        Ok(Self { graph, scorer: Arc::new(RwLock::new(scorer)), vault })
    }

    /// Routes that failed are avoided for a while.
    pub fn learn(&self, event: &Event) {
        let mut scorer = self.scorer.write().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match event {
            Event::PaymentPathFailed { path, short_channel_id: Some(at), .. } => {
                scorer.payment_path_failed(path, *at, now);
            }
            Event::PaymentPathSuccessful { path, .. } => scorer.payment_path_successful(path, now),
            _other => {}
        }
    }

    /// Stores it. Channels that nobody has spoken of for two weeks are forgotten first.
    pub fn save(&self) {
        self.graph.remove_stale_channels_and_tracking();
        if let Err(error) = self.vault.save_graph(self.graph.encode()) {
            tracing::warn!(%error, "peers have to send the map of the network again after a restart");
        }
    }
}
