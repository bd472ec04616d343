//! Listens to what a bridge says when a channel is opened, and hands every message on to LDK.
//!
//! LDK does not tell the signer two of the bridge's terms: its dust limit, without which the device cannot build the bridge's
//! commitments, and the reserve that it asks of us, which the owner bounds. Both are in `accept_channel` (BOLT 2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bitcoin::Amount;
use bitcoin::constants::ChainHash;
use lightning::ln::msgs::*;
use lightning::ln::types::ChannelId;
use lightning::sign::SignerProvider;
use lightning::types::features::{InitFeatures, NodeFeatures};
use secp256k1::PublicKey;

use super::Channels;

/// How many answers are kept.
const MOST_ACCEPTED: usize = 1_024;

/// What a bridge answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Below this its own commitments have no output.
    pub dust_limit: Amount,
    /// What we must leave in the channel.
    pub reserve: Amount,
}

/// LDK's channels, with an ear for `accept_channel`.
pub struct Ear<P: SignerProvider + 'static> {
    channels: Arc<Channels<P>>,
    /// By the bridge's funding key, which is new for every channel.
    accepted: Mutex<HashMap<PublicKey, Accepted>>,
}

impl<P: SignerProvider + 'static> Ear<P> {
    pub(super) fn new(channels: Arc<Channels<P>>) -> Self {
        Self { channels, accepted: Mutex::default() }
    }

    /// What the bridge with that funding key answered. Known until the process ends.
    pub fn accepted(&self, bridge_funding_key: &PublicKey) -> Option<Accepted> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).get(bridge_funding_key).copied()
    }

    fn note(&self, message: &AcceptChannel) {
        let fields = &message.common_fields;
        let accepted = Accepted {
            dust_limit: Amount::from_sat(fields.dust_limit_satoshis),
            reserve: Amount::from_sat(message.channel_reserve_satoshis),
        };
        let mut all = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is connected may say this. What is forgotten costs an opening that is under way, of which there are few.
        if all.len() >= MOST_ACCEPTED {
            all.clear();
        }
        // The first is the one that LDK takes.
        all.entry(fields.funding_pubkey).or_insert(accepted);
    }
}

impl<P: SignerProvider + 'static> BaseMessageHandler for Ear<P> {
    fn get_and_clear_pending_msg_events(&self) -> Vec<MessageSendEvent> {
        self.channels.get_and_clear_pending_msg_events()
    }

    fn peer_disconnected(&self, their_node_id: PublicKey) {
        self.channels.peer_disconnected(their_node_id);
    }

    fn provided_node_features(&self) -> NodeFeatures {
        self.channels.provided_node_features()
    }

    fn provided_init_features(&self, their_node_id: PublicKey) -> InitFeatures {
        self.channels.provided_init_features(their_node_id)
    }

    fn peer_connected(&self, their_node_id: PublicKey, msg: &Init, inbound: bool) -> Result<(), ()> {
        self.channels.peer_connected(their_node_id, msg, inbound)
    }
}

impl<P: SignerProvider + 'static> ChannelMessageHandler for Ear<P> {
    fn handle_open_channel(&self, their_node_id: PublicKey, msg: &OpenChannel) {
        self.channels.handle_open_channel(their_node_id, msg);
    }

    fn handle_open_channel_v2(&self, their_node_id: PublicKey, msg: &OpenChannelV2) {
        self.channels.handle_open_channel_v2(their_node_id, msg);
    }

    fn handle_accept_channel(&self, their_node_id: PublicKey, msg: &AcceptChannel) {
        self.note(msg);
        self.channels.handle_accept_channel(their_node_id, msg);
    }

    fn handle_accept_channel_v2(&self, their_node_id: PublicKey, msg: &AcceptChannelV2) {
        self.channels.handle_accept_channel_v2(their_node_id, msg);
    }

    fn handle_funding_created(&self, their_node_id: PublicKey, msg: &FundingCreated) {
        self.channels.handle_funding_created(their_node_id, msg);
    }

    fn handle_funding_signed(&self, their_node_id: PublicKey, msg: &FundingSigned) {
        self.channels.handle_funding_signed(their_node_id, msg);
    }

    fn handle_channel_ready(&self, their_node_id: PublicKey, msg: &ChannelReady) {
        self.channels.handle_channel_ready(their_node_id, msg);
    }

    fn handle_peer_storage(&self, their_node_id: PublicKey, msg: PeerStorage) {
        self.channels.handle_peer_storage(their_node_id, msg);
    }

    fn handle_peer_storage_retrieval(&self, their_node_id: PublicKey, msg: PeerStorageRetrieval) {
        self.channels.handle_peer_storage_retrieval(their_node_id, msg);
    }

    fn handle_shutdown(&self, their_node_id: PublicKey, msg: &Shutdown) {
        self.channels.handle_shutdown(their_node_id, msg);
    }

    fn handle_closing_signed(&self, their_node_id: PublicKey, msg: &ClosingSigned) {
        self.channels.handle_closing_signed(their_node_id, msg);
    }

    fn handle_stfu(&self, their_node_id: PublicKey, msg: &Stfu) {
        self.channels.handle_stfu(their_node_id, msg);
    }

    fn handle_splice_init(&self, their_node_id: PublicKey, msg: &SpliceInit) {
        self.channels.handle_splice_init(their_node_id, msg);
    }

    fn handle_splice_ack(&self, their_node_id: PublicKey, msg: &SpliceAck) {
        self.channels.handle_splice_ack(their_node_id, msg);
    }

    fn handle_splice_locked(&self, their_node_id: PublicKey, msg: &SpliceLocked) {
        self.channels.handle_splice_locked(their_node_id, msg);
    }

    fn handle_tx_add_input(&self, their_node_id: PublicKey, msg: &TxAddInput) {
        self.channels.handle_tx_add_input(their_node_id, msg);
    }

    fn handle_tx_add_output(&self, their_node_id: PublicKey, msg: &TxAddOutput) {
        self.channels.handle_tx_add_output(their_node_id, msg);
    }

    fn handle_tx_remove_input(&self, their_node_id: PublicKey, msg: &TxRemoveInput) {
        self.channels.handle_tx_remove_input(their_node_id, msg);
    }

    fn handle_tx_remove_output(&self, their_node_id: PublicKey, msg: &TxRemoveOutput) {
        self.channels.handle_tx_remove_output(their_node_id, msg);
    }

    fn handle_tx_complete(&self, their_node_id: PublicKey, msg: &TxComplete) {
        self.channels.handle_tx_complete(their_node_id, msg);
    }

    fn handle_tx_signatures(&self, their_node_id: PublicKey, msg: &TxSignatures) {
        self.channels.handle_tx_signatures(their_node_id, msg);
    }

    fn handle_tx_init_rbf(&self, their_node_id: PublicKey, msg: &TxInitRbf) {
        self.channels.handle_tx_init_rbf(their_node_id, msg);
    }

    fn handle_tx_ack_rbf(&self, their_node_id: PublicKey, msg: &TxAckRbf) {
        self.channels.handle_tx_ack_rbf(their_node_id, msg);
    }

    fn handle_tx_abort(&self, their_node_id: PublicKey, msg: &TxAbort) {
        self.channels.handle_tx_abort(their_node_id, msg);
    }

    fn handle_update_add_htlc(&self, their_node_id: PublicKey, msg: &UpdateAddHTLC) {
        self.channels.handle_update_add_htlc(their_node_id, msg);
    }

    fn handle_update_fulfill_htlc(&self, their_node_id: PublicKey, msg: UpdateFulfillHTLC) {
        self.channels.handle_update_fulfill_htlc(their_node_id, msg);
    }

    fn handle_update_fail_htlc(&self, their_node_id: PublicKey, msg: &UpdateFailHTLC) {
        self.channels.handle_update_fail_htlc(their_node_id, msg);
    }

    fn handle_update_fail_malformed_htlc(&self, their_node_id: PublicKey, msg: &UpdateFailMalformedHTLC) {
        self.channels.handle_update_fail_malformed_htlc(their_node_id, msg);
    }

    fn handle_commitment_signed(&self, their_node_id: PublicKey, msg: &CommitmentSigned) {
        self.channels.handle_commitment_signed(their_node_id, msg);
    }

    fn handle_commitment_signed_batch(
        &self,
        their_node_id: PublicKey,
        channel_id: ChannelId,
        batch: Vec<CommitmentSigned>,
    ) {
        self.channels.handle_commitment_signed_batch(their_node_id, channel_id, batch);
    }

    fn handle_revoke_and_ack(&self, their_node_id: PublicKey, msg: &RevokeAndACK) {
        self.channels.handle_revoke_and_ack(their_node_id, msg);
    }

    fn handle_update_fee(&self, their_node_id: PublicKey, msg: &UpdateFee) {
        self.channels.handle_update_fee(their_node_id, msg);
    }

    fn handle_announcement_signatures(&self, their_node_id: PublicKey, msg: &AnnouncementSignatures) {
        self.channels.handle_announcement_signatures(their_node_id, msg);
    }

    fn handle_channel_reestablish(&self, their_node_id: PublicKey, msg: &ChannelReestablish) {
        self.channels.handle_channel_reestablish(their_node_id, msg);
    }

    fn handle_channel_update(&self, their_node_id: PublicKey, msg: &ChannelUpdate) {
        self.channels.handle_channel_update(their_node_id, msg);
    }

    fn handle_error(&self, their_node_id: PublicKey, msg: &ErrorMessage) {
        self.channels.handle_error(their_node_id, msg);
    }

    fn get_chain_hashes(&self) -> Option<Vec<ChainHash>> {
        self.channels.get_chain_hashes()
    }

    fn message_received(&self) {
        self.channels.message_received();
    }
}
