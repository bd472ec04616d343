//! An ordinary Lightning node: LDK with LDK's own signer. The gateway runs one beside its joint one, to earn the service fee by
//! forwarding; demo and tests run others as bridge and destination.

use std::collections::HashSet;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::{Amount, FeeRate, ScriptBuf, Transaction, Txid};
use farthing_protocol::device::bolt3::{PaymentHash, Preimage};
use lightning::bolt11_invoice::Bolt11Invoice;
use lightning::events::{Event, FundingInfo, ReplayEvent};
use lightning::ln::channelmanager::{Bolt11InvoiceParameters, PaymentId, RecipientOnionFields};
pub use lightning::ln::types::ChannelId;
use lightning::routing::router::{PaymentParameters, RouteParameters, Router as _};
use lightning::sign::{KeysManager, SpendableOutputDescriptor};
use lightning::types::payment::{PaymentHash as LdkPaymentHash, PaymentPreimage};
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
        /// The number that the opening was given.
        opening: u128,
        /// The channel, for now.
        temporary: ChannelId,
        /// The peer.
        peer: PublicKey,
        /// What it pays.
        script: ScriptBuf,
        /// What it holds.
        capacity: Amount,
    },
    /// A channel is signed and stored: its funding may be mined.
    Signed {
        /// The number that the opening was given.
        opening: u128,
        /// The funding.
        funding: Txid,
    },
    /// A funding was given and will never be sent.
    Discarded(Txid),
    /// A channel can be used.
    Ready(ChannelId),
    /// A payment of its own arrived. By payment hash.
    Paid([u8; 32]),
    /// A payment of its own did not arrive, and nothing is under way for it any more. By payment hash, and why.
    NotPaid([u8; 32], String),
    /// A payment for an invoice of [`Ordinary::hold_invoice`] is here.
    Waiting(PaymentHash),
    /// Somebody paid one of its invoices.
    Received(u64),
    /// A payment was forwarded, and this was earned (millisatoshi).
    Forwarded(u64),
    /// A channel is closed, or was never opened.
    Closed {
        /// The number that the opening was given; 0 when the peer opened it.
        opening: u128,
        /// What is known of it.
        why: String,
    },
}

/// An ordinary node.
pub struct Ordinary {
    pub(crate) node: Arc<Node<KeysManager>>,
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
    /// Nothing to close.
    #[error("the ordinary node has no channel with {0}")]
    NoChannel(PublicKey),
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
    let low = FeeRate::from_sat_per_kwu(1_000);
    FeeRates { commitment: low, onchain: low, follows_estimates: false }
}

impl Ordinary {
    /// Starts one. What it has to say comes through `news`. What its closed channels leave in the chain stays there: for demo and tests.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(setup: Setup, news: mpsc::UnboundedSender<News>) -> Result<Self, StartError> {
        Self::start_keeping(setup, news, |_left_in_the_chain| Ok(()))
    }

    /// The same. `keep` stores what closed channels left in the chain; LDK names it again when that failed.
    pub(crate) fn start_keeping(
        setup: Setup,
        news: mpsc::UnboundedSender<News>,
        keep: impl Fn(&[SpendableOutputDescriptor]) -> Result<(), ReplayEvent> + Send + 'static,
    ) -> Result<Self, StartError> {
        // The time makes keys of new channels differ from those of every earlier start.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let keys = Arc::new(KeysManager::new(&setup.seed, now.as_secs(), now.subsec_nanos(), true));
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
                    user_channel_id,
                } => News::FundingWanted {
                    opening: user_channel_id,
                    temporary: temporary_channel_id,
                    peer: counterparty_node_id,
                    script: output_script,
                    capacity: Amount::from_sat(channel_value_satoshis),
                },
                Event::ChannelPending { counterparty_node_id, funding_txo, user_channel_id, .. } => {
                    signed_with.lock().unwrap_or_else(PoisonError::into_inner).insert(counterparty_node_id);
                    News::Signed { opening: user_channel_id, funding: funding_txo.txid }
                }
                Event::DiscardFunding { funding_info, .. } => News::Discarded(match funding_info {
                    FundingInfo::Tx { transaction } => transaction.compute_txid(),
                    FundingInfo::OutPoint { outpoint } => outpoint.txid,
                }),
                Event::PaymentSent { payment_hash, .. } => News::Paid(payment_hash.0),
                Event::PaymentFailed { payment_hash: Some(payment_hash), reason, .. } => {
                    News::NotPaid(payment_hash.0, format!("{reason:?}"))
                }
                Event::PaymentClaimable { payment_hash, purpose, .. } => match purpose.preimage() {
                    Some(preimage) => {
                        if let Some(node) = claiming.upgrade() {
                            node.channels.claim_funds(preimage);
                        }
                        return Ok(());
                    }
                    None => News::Waiting(PaymentHash(payment_hash.0)),
                },
                Event::PaymentClaimed { amount_msat, .. } => News::Received(amount_msat),
                Event::PaymentForwarded { total_fee_earned_msat, .. } => {
                    let earned = total_fee_earned_msat.unwrap_or_default();
                    counted.fetch_add(earned, Ordering::SeqCst);
                    News::Forwarded(earned)
                }
                Event::ChannelReady { channel_id, .. } => News::Ready(channel_id),
                Event::ChannelClosed { user_channel_id, reason, .. } => {
                    News::Closed { opening: user_channel_id, why: reason.to_string() }
                }
                Event::SpendableOutputs { outputs, .. } => return keep(&outputs),
                // The rest needs nobody.
                _other => return Ok(()),
            };
            let _nobody = news.send(told);
            Ok(())
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

    /// Asks a peer for a channel, to be announced or not. What becomes of it is told with the opening's number.
    ///
    /// # Errors
    /// When LDK refuses.
    pub fn open_channel(
        &self,
        opening: u128,
        peer: PublicKey,
        capacity: Amount,
        is_public: bool,
    ) -> Result<(), OrdinaryError> {
        let mut config = self.node.channels.get_current_config();
        config.channel_handshake_config.announce_for_forwarding = is_public;
        let asked =
            self.node.channels.create_channel(peer, capacity.to_sat(), 0, opening, None, Some(config));
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

    /// How many of its channels others can be told the way through: their peers have said what they ask for forwarding to it.
    pub fn reachable(&self) -> usize {
        let channels = self.node.channels.list_usable_channels();
        channels.iter().filter(|details| details.counterparty.forwarding_info.is_some()).count()
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

    /// Pays an invoice out of a channel of its own, in one part, and says by which payment hash it will be known.
    ///
    /// # Errors
    /// When the invoice cannot be read, there is no way to the payee, or LDK refuses. Then nothing is under way.
    pub fn pay(&self, from: ChannelId, invoice: &str) -> Result<[u8; 32], OrdinaryError> {
        let refused = |why: &dyn Debug| OrdinaryError::Refused(format!("{why:?}"));
        let invoice = Bolt11Invoice::from_str(invoice).map_err(|error| refused(&error))?;
        let hash = *AsRef::<[u8; 32]>::as_ref(invoice.payment_hash());
        let amount =
            invoice.amount_milli_satoshis().ok_or_else(|| refused(&"the invoice names no amount"))?;
        let all = self.node.channels.list_usable_channels();
        let first = all.iter().find(|details| details.channel_id == from);
        let first = first.ok_or_else(|| refused(&"the channel cannot be used now"))?;
        let parameters = PaymentParameters::from_bolt11_invoice(&invoice).with_max_path_count(1);
        let wanted = RouteParameters::from_payment_params_and_value(parameters, amount);
        let in_flight = self.node.channels.compute_inflight_htlcs();
        let route = self.node.router.find_route(&self.node.id(), &wanted, Some(&[first]), in_flight);
        let route = route.map_err(|why| refused(&why))?;
        let mut onion = RecipientOnionFields::secret_only(*invoice.payment_secret());
        onion.payment_metadata = invoice.payment_metadata().cloned();
        let sent =
            self.node.channels.send_payment_with_route(route, LdkPaymentHash(hash), onion, PaymentId(hash));
        sent.map_err(|error| refused(&error))?;
        self.node.peers.process_events();
        Ok(hash)
    }

    /// The height of the newest block that it knows.
    pub fn height(&self) -> u32 {
        self.node.channels.current_best_block().height
    }

    /// An invoice of whose payment hash only the caller knows the preimage: what is paid for it waits until [`Self::claim`], or goes
    /// back when it expires.
    ///
    /// # Errors
    /// When LDK refuses.
    pub fn hold_invoice(&self, msat: u64, hash: PaymentHash) -> Result<String, OrdinaryError> {
        let payment_hash = Some(LdkPaymentHash(hash.0));
        let parameters =
            Bolt11InvoiceParameters { amount_msats: Some(msat), payment_hash, ..Default::default() };
        let invoice = self.node.channels.create_bolt11_invoice(parameters);
        Ok(invoice.map_err(|error| OrdinaryError::Refused(format!("{error:?}")))?.to_string())
    }

    /// Gives back what waits for this hash.
    pub fn give_back(&self, hash: &PaymentHash) {
        self.node.channels.fail_htlc_backwards(&LdkPaymentHash(hash.0));
        self.node.peers.process_events();
    }

    /// Takes what waits for this preimage.
    pub fn claim(&self, preimage: &Preimage) {
        self.node.channels.claim_funds(PaymentPreimage(preimage.0));
        self.node.peers.process_events();
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

    /// How many channels there are with a peer.
    pub fn channels_with(&self, peer: &PublicKey) -> usize {
        self.node.channels.list_channels_with_counterparty(peer).len()
    }

    /// Ends it.
    pub fn stop(&self) {
        self.node.stop();
    }
}
