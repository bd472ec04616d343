//! From whom the map of the network is learnt.
//!
//! LDK takes announcements of channels from any peer, and without asking a chain it believes them: whoever connects could announce
//! channels between keys of its own without end, and all of them would stay in the memory and on the disk. To ask the bitcoind for
//! each funding would be a whole block for each channel of the network, at every first start, and nothing at all from a pruned one.
//!
//! So those are believed whom this node dials: the bridge, and peers that the operator chose. They are nodes that look at the chain
//! themselves. All others together may tell of a few channels, their own for example; and the whole map has a bound.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lightning::ln::msgs::{
    BaseMessageHandler, ChannelAnnouncement, ChannelUpdate, ErrorAction, Init, LightningError,
    MessageSendEvent, NodeAnnouncement, QueryChannelRange, QueryShortChannelIds, ReplyChannelRange,
    ReplyShortChannelIdsEnd, RoutingMessageHandler,
};
use lightning::routing::gossip::{NetworkGraph, NodeId, P2PGossipSync};
use lightning::routing::utxo::UtxoLookup;
use lightning::types::features::{InitFeatures, NodeFeatures};
use lightning::util::logger::Level;
use secp256k1::PublicKey;

use crate::ldk::log::Log;

/// So many channels the map has at most: several times those of the network.
const MOST_CHANNELS: usize = 250_000;
/// So many of them strangers tell of, all together, while the process runs.
const MOST_OF_STRANGERS: usize = 5_000;

type Graph = NetworkGraph<Arc<Log>>;

/// LDK's gossip, bounded.
pub struct Gossip {
    graph: Arc<Graph>,
    ldk: P2PGossipSync<Arc<Graph>, Arc<dyn UtxoLookup + Send + Sync>, Arc<Log>>,
    chosen: Mutex<HashSet<PublicKey>>,
    /// How many channels strangers have told of.
    of_strangers: AtomicUsize,
    most: usize,
    most_of_strangers: usize,
}

impl Gossip {
    /// Into that map, of nobody yet.
    pub(crate) fn new(graph: Arc<Graph>, log: Arc<Log>) -> Self {
        let ldk = P2PGossipSync::new(graph.clone(), None, log);
        let (chosen, of_strangers) = (Mutex::default(), AtomicUsize::new(0));
        Self { graph, ldk, chosen, of_strangers, most: MOST_CHANNELS, most_of_strangers: MOST_OF_STRANGERS }
    }

    /// From now on this peer is believed.
    pub(crate) fn choose(&self, peer: PublicKey) {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).insert(peer);
    }

    fn is_chosen(&self, peer: &PublicKey) -> bool {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }
}

impl BaseMessageHandler for Gossip {
    fn get_and_clear_pending_msg_events(&self) -> Vec<MessageSendEvent> {
        self.ldk.get_and_clear_pending_msg_events()
    }

    fn peer_disconnected(&self, their_node_id: PublicKey) {
        self.ldk.peer_disconnected(their_node_id);
    }

    fn provided_node_features(&self) -> NodeFeatures {
        self.ldk.provided_node_features()
    }

    fn provided_init_features(&self, their_node_id: PublicKey) -> InitFeatures {
        self.ldk.provided_init_features(their_node_id)
    }

    fn peer_connected(&self, their_node_id: PublicKey, init: &Init, inbound: bool) -> Result<(), ()> {
        self.ldk.peer_connected(their_node_id, init, inbound)
    }
}

impl RoutingMessageHandler for Gossip {
    fn handle_node_announcement(
        &self,
        their_node_id: Option<PublicKey>,
        msg: &NodeAnnouncement,
    ) -> Result<bool, LightningError> {
        self.ldk.handle_node_announcement(their_node_id, msg)
    }

    fn handle_channel_announcement(
        &self,
        their_node_id: Option<PublicKey>,
        msg: &ChannelAnnouncement,
    ) -> Result<bool, LightningError> {
        // This node's own channels come from nobody.
        let Some(peer) = their_node_id else {
            return self.ldk.handle_channel_announcement(their_node_id, msg);
        };
        let ignored = |why: &str| LightningError {
            err: why.to_owned(),
            action: ErrorAction::IgnoreAndLog(Level::Gossip),
        };
        if self.graph.read_only().channels().len() >= self.most {
            return Err(ignored("the map is as large as it may be"));
        }
        let is_chosen = self.is_chosen(&peer);
        if !is_chosen && self.of_strangers.load(Ordering::Relaxed) >= self.most_of_strangers {
            return Err(ignored("strangers have told of enough channels"));
        }
        let is_to_tell = self.ldk.handle_channel_announcement(their_node_id, msg)?;
        if !is_chosen {
            self.of_strangers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(is_to_tell)
    }

    fn handle_channel_update(
        &self,
        their_node_id: Option<PublicKey>,
        msg: &ChannelUpdate,
    ) -> Result<bool, LightningError> {
        self.ldk.handle_channel_update(their_node_id, msg)
    }

    fn get_next_channel_announcement(
        &self,
        starting_point: u64,
    ) -> Option<(ChannelAnnouncement, Option<ChannelUpdate>, Option<ChannelUpdate>)> {
        self.ldk.get_next_channel_announcement(starting_point)
    }

    fn get_next_node_announcement(&self, starting_point: Option<&NodeId>) -> Option<NodeAnnouncement> {
        self.ldk.get_next_node_announcement(starting_point)
    }

    fn handle_reply_channel_range(
        &self,
        their_node_id: PublicKey,
        msg: ReplyChannelRange,
    ) -> Result<(), LightningError> {
        self.ldk.handle_reply_channel_range(their_node_id, msg)
    }

    fn handle_reply_short_channel_ids_end(
        &self,
        their_node_id: PublicKey,
        msg: ReplyShortChannelIdsEnd,
    ) -> Result<(), LightningError> {
        self.ldk.handle_reply_short_channel_ids_end(their_node_id, msg)
    }

    fn handle_query_channel_range(
        &self,
        their_node_id: PublicKey,
        msg: QueryChannelRange,
    ) -> Result<(), LightningError> {
        self.ldk.handle_query_channel_range(their_node_id, msg)
    }

    fn handle_query_short_channel_ids(
        &self,
        their_node_id: PublicKey,
        msg: QueryShortChannelIds,
    ) -> Result<(), LightningError> {
        self.ldk.handle_query_short_channel_ids(their_node_id, msg)
    }

    fn processing_queue_high(&self) -> bool {
        self.ldk.processing_queue_high()
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::{Hash as _, sha256d};
    use bitcoin::{Network, constants::ChainHash};
    use lightning::ln::msgs::UnsignedChannelAnnouncement;
    use lightning::types::features::ChannelFeatures;
    use lightning::util::ser::Writeable as _;
    use secp256k1::{Message, SECP256K1, SecretKey};

    use super::*;

    fn secret(byte: u8) -> SecretKey {
        SecretKey::from_slice(&[byte; 32]).unwrap()
    }

    /// A channel over an output that nobody has seen, signed by all four keys.
    fn made_up(short_channel_id: u64) -> ChannelAnnouncement {
        let keys = [1, 2, 3, 4].map(secret);
        let [node_id_1, node_id_2, bitcoin_key_1, bitcoin_key_2] =
            keys.map(|key| NodeId::from_pubkey(&key.public_key(SECP256K1)));
        let contents = UnsignedChannelAnnouncement {
            features: ChannelFeatures::empty(),
            chain_hash: ChainHash::using_genesis_block_const(Network::Regtest),
            short_channel_id,
            node_id_1,
            node_id_2,
            bitcoin_key_1,
            bitcoin_key_2,
            excess_data: Vec::new(),
        };
        let digest = sha256d::Hash::hash(&contents.encode()).to_byte_array();
        let [node_signature_1, node_signature_2, bitcoin_signature_1, bitcoin_signature_2] =
            keys.map(|key| SECP256K1.sign_ecdsa(&Message::from_digest(digest), &key));
        ChannelAnnouncement {
            node_signature_1,
            node_signature_2,
            bitcoin_signature_1,
            bitcoin_signature_2,
            contents,
        }
    }

    #[test]
    fn strangers_announce_channels_that_do_not_exist_and_few_are_kept() {
        let log = Arc::new(Log { node: "test" });
        let graph = Arc::new(Graph::new(Network::Regtest, log.clone()));
        let gossip = Gossip { most: 5, most_of_strangers: 2, ..Gossip::new(graph.clone(), log) };
        let [bridge, one, other] = [7, 8, 9].map(|byte| secret(byte).public_key(SECP256K1));
        gossip.choose(bridge);
        let known = || graph.read_only().channels().len();
        for (id, stranger) in (1..=100).zip([one, other].into_iter().cycle()) {
            let taken = gossip.handle_channel_announcement(Some(stranger), &made_up(id));
            assert_eq!(taken.is_ok(), id <= 2, "{id}");
        }
        assert_eq!(known(), 2, "of all strangers together");
        // The bridge is believed, and so is this node itself; but not without bound.
        gossip.handle_channel_announcement(None, &made_up(101)).unwrap();
        for id in 102..=110 {
            let taken = gossip.handle_channel_announcement(Some(bridge), &made_up(id));
            assert_eq!(taken.is_ok(), id <= 103, "{id}");
        }
        assert_eq!(known(), 5);
    }
}
