//! An ordinary Lightning node: LDK with LDK's own signer. The gateway runs one beside its joint one, to earn the service fee by
//! forwarding; demo and tests run others as bridge and destination.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bitcoin::{Amount, FeeRate, ScriptBuf, Transaction};
use lightning::events::Event;
use lightning::ln::channelmanager::Bolt11InvoiceParameters;
use lightning::ln::types::ChannelId;
use lightning::sign::KeysManager;
use lightning::util::config::UserConfig;
use secp256k1::PublicKey;
use tokio::sync::mpsc;

use crate::ldk::fees::FeeRates;
use crate::ldk::{Node, Setup, StartError};

/// What an ordinary node has to say to who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A peer agreed to a channel: make a signed transaction with this output.
    FundingWanted {
        /// The channel, for now.
        temporary: ChannelId,
        /// The peer.
        peer: PublicKey,
        /// What it pays.
        script: ScriptBuf,
        /// What it holds.
        capacity: Amount,
    },
    /// A channel can be used.
    Ready(ChannelId),
    /// Somebody paid one of its invoices.
    Received(u64),
    /// A payment was forwarded, and this was earned (millisatoshi).
    Forwarded(u64),
    /// A channel is closed.
    Closed(ChannelId, String),
}

/// An ordinary node.
pub struct Ordinary {
    node: Arc<Node<KeysManager>>,
    earned: Arc<AtomicU64>,
    /// Peers with whom a channel is signed, and stored.
    signed: Arc<Mutex<HashSet<PublicKey>>>,
}

/// Why an ordinary node did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrdinaryError {
    /// LDK refused.
    #[error("the Lightning node refused: {0}")]
    Refused(String),
}

/// LDK's defaults, but it forwards to private channels, for that fee in millionths.
pub fn config(fee_ppm: u32) -> UserConfig {
    let mut config = UserConfig { accept_forwards_to_priv_channels: true, ..UserConfig::default() };
    // Public and private channels alike.
    config.channel_handshake_limits.force_announced_channel_preference = false;
    config.channel_config.forwarding_fee_proportional_millionths = fee_ppm;
    config
}

/// Fee rates for a private chain.
pub fn low_fees() -> FeeRates {
    FeeRates { commitment: FeeRate::from_sat_per_kwu(1_000), onchain: FeeRate::from_sat_per_kwu(1_000) }
}

impl Ordinary {
    /// Starts one. What it has to say comes through `news`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(setup: Setup, news: mpsc::UnboundedSender<News>) -> Result<Self, StartError> {
        let keys = Arc::new(KeysManager::new(&setup.seed, 1, 1, true));
        let path = setup.folder.clone();
        let node = Node::open(setup, keys)?;
        let earned = Arc::new(AtomicU64::new(0));
        let (claiming, counted) = (Arc::downgrade(&node), earned.clone());
        let signed: Arc<Mutex<HashSet<PublicKey>>> = Arc::default();
        let signed_with = signed.clone();
        let running = node.run(move |event| {
            let told = match event {
                Event::FundingGenerationReady {
                    temporary_channel_id,
                    counterparty_node_id,
                    channel_value_satoshis,
                    output_script,
                    ..
                } => News::FundingWanted {
                    temporary: temporary_channel_id,
                    peer: counterparty_node_id,
                    script: output_script,
                    capacity: Amount::from_sat(channel_value_satoshis),
                },
                Event::ChannelPending { counterparty_node_id, .. } => {
                    signed_with.lock().unwrap_or_else(PoisonError::into_inner).insert(counterparty_node_id);
                    return;
                }
                Event::PaymentClaimable { purpose, .. } => {
                    if let (Some(node), Some(preimage)) = (claiming.upgrade(), purpose.preimage()) {
                        node.channels.claim_funds(preimage);
                    }
                    return;
                }
                Event::PaymentClaimed { amount_msat, .. } => News::Received(amount_msat),
                Event::PaymentForwarded { total_fee_earned_msat, .. } => {
                    let earned = total_fee_earned_msat.unwrap_or_default();
                    counted.fetch_add(earned, Ordering::SeqCst);
                    News::Forwarded(earned)
                }
                Event::ChannelReady { channel_id, .. } => News::Ready(channel_id),
                Event::ChannelClosed { channel_id, reason, .. } => {
                    News::Closed(channel_id, reason.to_string())
                }
                // The rest needs nobody.
                _other => return,
            };
            let _nobody = news.send(told);
        });
        running.map_err(|source| StartError::File { path, source })?;
        Ok(Self { node, earned, signed })
    }

    /// Its public key.
    pub fn id(&self) -> PublicKey {
        self.node.id()
    }

    /// Takes connections.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr, std::io::Error> {
        self.node.listen(address).await
    }

    /// Keeps a connection to a peer.
    pub fn keep_connected(&self, peer: PublicKey, address: SocketAddr) {
        self.node.keep_connected(peer, address);
    }

    /// Whether a peer is connected.
    pub fn is_connected(&self, peer: &PublicKey) -> bool {
        self.node.peers.peer_by_node_id(peer).is_some()
    }

    /// Asks a peer for a channel, to be announced or not.
    ///
    /// # Errors
    /// When LDK refuses.
    pub fn open_channel(
        &self,
        peer: PublicKey,
        capacity: Amount,
        is_public: bool,
    ) -> Result<(), OrdinaryError> {
        let mut config = self.node.channels.get_current_config();
        config.channel_handshake_config.announce_for_forwarding = is_public;
        let asked = self.node.channels.create_channel(peer, capacity.to_sat(), 0, 1, None, Some(config));
        asked.map_err(|error| OrdinaryError::Refused(format!("{error:?}")))?;
        self.node.peers.process_events();
        Ok(())
    }

    /// Gives the transaction that was wanted.
    ///
    /// # Errors
    /// When LDK refuses.
    pub fn fund(
        &self,
        temporary: ChannelId,
        peer: PublicKey,
        funding: Transaction,
    ) -> Result<(), OrdinaryError> {
        let given = self.node.channels.funding_transaction_generated(temporary, peer, funding);
        given.map_err(|error| OrdinaryError::Refused(format!("{error:?}")))?;
        self.node.peers.process_events();
        Ok(())
    }

    /// How many channels can be used.
    pub fn usable(&self) -> usize {
        self.node.channels.list_usable_channels().len()
    }

    /// Whether a channel with a peer is signed and stored: its funding may be mined.
    pub fn is_funded(&self, peer: &PublicKey) -> bool {
        self.signed.lock().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }

    /// An invoice.
    ///
    /// # Errors
    /// When LDK refuses.
    pub fn invoice(&self, msat: u64) -> Result<String, OrdinaryError> {
        let parameters = Bolt11InvoiceParameters { amount_msats: Some(msat), ..Default::default() };
        let invoice = self.node.channels.create_bolt11_invoice(parameters);
        Ok(invoice.map_err(|error| OrdinaryError::Refused(format!("{error:?}")))?.to_string())
    }

    /// What forwarding earned since the start, in millisatoshi.
    pub fn earned(&self) -> u64 {
        self.earned.load(Ordering::SeqCst)
    }

    /// Closes all channels together with the peers.
    ///
    /// # Errors
    /// When LDK refuses.
    pub fn close_with(&self, peer: &PublicKey) -> Result<(), OrdinaryError> {
        for channel in self.node.channels.list_channels_with_counterparty(peer) {
            let closing = self.node.channels.close_channel(&channel.channel_id, peer);
            closing.map_err(|error| OrdinaryError::Refused(format!("{error:?}")))?;
        }
        self.node.peers.process_events();
        Ok(())
    }

    /// Closes all channels with a peer alone.
    ///
    /// # Errors
    /// When LDK refuses.
    pub fn force_close_with(&self, peer: &PublicKey) -> Result<(), OrdinaryError> {
        for channel in self.node.channels.list_channels_with_counterparty(peer) {
            let why = "the operator closes".to_owned();
            let channels = &self.node.channels;
            let closing = channels.force_close_broadcasting_latest_txn(&channel.channel_id, peer, why);
            closing.map_err(|error| OrdinaryError::Refused(format!("{error:?}")))?;
        }
        self.node.peers.process_events();
        Ok(())
    }

    /// Ends it.
    pub fn stop(&self) {
        self.node.stop();
    }
}
