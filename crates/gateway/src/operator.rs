//! The operator's ordinary node beside the joint one: it forwards devices' payments for the service fee. Its channels are paid by the
//! operator's wallet, and what they hold is at stake as with any Lightning node that is online. What they leave in the chain when they are
//! closed goes back to that wallet (`sweeps`).

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bitcoin::{Amount, FeeRate, ScriptBuf, Transaction, Txid};
use farthing_chain::Chain;
use farthing_node::cabinet::Cabinet;
use farthing_node::entropy;
use lightning::events::ReplayEvent;
use lightning::ln::types::ChannelId;
use lightning::sign::SpendableOutputDescriptor;
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::gateway::OpenError;
use crate::ldk::Setup;
use crate::ordinary::{News, Ordinary, OrdinaryError};
use crate::shelf::{Shelf, ShelfError};
use crate::sweeps::Sweeps;

/// How long a connection may take, and then an opening until its funding is signed by both.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// What pays for the ordinary node's channels. It may block.
pub trait Wallet: Send + Sync + 'static {
    /// Makes a signed transaction that pays that much to a script, sets its coins aside, and sends nothing.
    ///
    /// # Errors
    /// When there is too little money, or the wallet cannot be used.
    fn pay(&self, script: ScriptBuf, amount: Amount) -> Result<Transaction, WalletError>;

    /// Frees the coins of a payment that will never be sent.
    ///
    /// # Errors
    /// When the wallet cannot be used.
    fn release(&self, payment: Txid) -> Result<(), WalletError>;

    /// A script of the wallet's own, for what closed channels leave.
    ///
    /// # Errors
    /// When the wallet cannot be used.
    fn address(&self) -> Result<ScriptBuf, WalletError>;
}

/// Why a wallet did not do it.
pub type WalletError = Box<dyn Error + Send + Sync>;

/// Why a channel was not opened. Nothing was paid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenChannelError {
    /// Nobody there.
    #[error("{0} cannot be reached")]
    Unreachable(PublicKey),
    /// LDK.
    #[error(transparent)]
    Ldk(#[from] OrdinaryError),
    /// The peer, or LDK as it listened to the peer.
    #[error("{0}")]
    Refused(String),
    /// No money.
    #[error("the wallet: {0}")]
    Wallet(WalletError),
    /// The process ends.
    #[error("the node is stopping")]
    Stopping,
    /// Storage.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// No answer.
    #[error(
        "the peer has not answered within {} seconds: `farthing gateway status` shows whether a channel opens after all",
        PATIENCE.as_secs()
    )]
    Silent,
}

/// Who waits for an opening, by the number that LDK hands back.
type Openings = HashMap<u128, oneshot::Sender<Result<Txid, OpenChannelError>>>;

/// The ordinary node, with who pays for its channels.
pub struct Operator {
    /// The node.
    pub node: Ordinary,
    wallet: Arc<dyn Wallet>,
    openings: Mutex<Openings>,
    shelf: Shelf,
    kept: Mutex<Kept>,
    sweeps: Arc<Sweeps>,
}

/// What LDK does not keep.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Kept {
    /// Where the peers are with whom channels were opened.
    peers: BTreeMap<PublicKey, SocketAddr>,
    /// What forwarding has brought. LDK tells of a forward again after some crashes; then it counts twice.
    earned_msat: u64,
}

/// The owner's name on the shelf: there is only one.
const HERE: [u8; 32] = [0; 32];

impl Operator {
    /// Starts it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn start(setup: Setup, wallet: impl Wallet) -> Result<Arc<Self>, OpenError> {
        let (sender, news) = mpsc::unbounded_channel();
        std::fs::create_dir_all(&setup.folder)?;
        let cabinet = Arc::new(Cabinet::open(&setup.folder.join("operator.sqlite"))?);
        let shelf = Shelf::new(cabinet.clone(), "operator");
        let kept: Kept = shelf.get(&HERE, "record")?.unwrap_or_default();
        let sweeps = Arc::new(Sweeps::open(Shelf::new(cabinet, "sweep"))?);
        let sweeping =
            Sweeping { chain: setup.chain.clone(), fee_rate: setup.fees.onchain, poll: setup.poll };
        let stored = sweeps.clone();
        let keep = move |outputs: &[SpendableOutputDescriptor]| {
            stored.note(outputs).map_err(|error| {
                tracing::error!(%error, "what a closed channel left is not stored: LDK is asked again");
                ReplayEvent()
            })
        };
        let node = Ordinary::start_keeping(setup, sender, keep)?;
        for (peer, address) in &kept.peers {
            node.keep_connected(*peer, *address);
        }
        let operator = Arc::new(Self {
            node,
            wallet: Arc::new(wallet),
            openings: Mutex::default(),
            shelf,
            kept: Mutex::new(kept),
            sweeps,
        });
        tokio::spawn(operator.clone().hear(news));
        tokio::spawn(sweep(Arc::downgrade(&operator), sweeping));
        Ok(operator)
    }

    async fn hear(self: Arc<Self>, mut news: mpsc::UnboundedReceiver<News>) {
        while let Some(news) = news.recv().await {
            match news {
                News::FundingWanted { opening, temporary, peer, script, capacity } => {
                    if self.is_awaited(opening)
                        && let Err(error) = self.fund(temporary, peer, script, capacity).await
                    {
                        self.answer(opening, Err(error));
                    }
                }
                News::Signed { opening, funding } => self.answer(opening, Ok(funding)),
                News::Closed { opening, why } => {
                    tracing::warn!(why, "a channel of the ordinary node is closed");
                    self.answer(opening, Err(OpenChannelError::Refused(why)));
                }
                News::Discarded(funding) => self.release(funding).await,
                News::Forwarded(msat) => {
                    if let Err(error) = self.keep(|kept| kept.earned_msat += msat) {
                        tracing::error!(%error, "what was earned is not written down");
                    }
                }
                News::Ready(_) | News::Waiting(_) | News::Paid(_) | News::NotPaid(..) | News::Received(_) => {
                }
            }
        }
    }

    async fn fund(
        &self,
        temporary: ChannelId,
        peer: PublicKey,
        script: ScriptBuf,
        capacity: Amount,
    ) -> Result<(), OpenChannelError> {
        let wallet = self.wallet.clone();
        let made = tokio::task::spawn_blocking(move || wallet.pay(script, capacity)).await;
        let funding =
            made.map_err(|_broken_off| OpenChannelError::Stopping)?.map_err(OpenChannelError::Wallet)?;
        let txid = funding.compute_txid();
        if let Err(error) = self.node.fund(temporary, peer, funding) {
            self.release(txid).await;
            return Err(error.into());
        }
        Ok(())
    }

    async fn release(&self, funding: Txid) {
        let wallet = self.wallet.clone();
        let released = tokio::task::spawn_blocking(move || wallet.release(funding)).await;
        if let Ok(Err(error)) = released {
            tracing::warn!(%funding, %error, "coins of a funding that was never sent stay set aside");
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, change: impl FnOnce(&mut Kept)) -> Result<(), ShelfError> {
        let mut kept = self.kept();
        change(&mut kept);
        self.shelf.put(&HERE, "record", &*kept)
    }

    /// Whoever gave up is not made to pay.
    fn is_awaited(&self, opening: u128) -> bool {
        self.openings().get(&opening).is_some_and(|waiting| !waiting.is_closed())
    }

    fn openings(&self) -> MutexGuard<'_, Openings> {
        self.openings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, opening: u128, outcome: Result<Txid, OpenChannelError>) {
        if let Some(waiting) = self.openings().remove(&opening) {
            let _nobody_waits = waiting.send(outcome);
        }
    }

    /// Opens a channel, paid by the wallet. Gives the funding, which both have signed for and which is on its way into a block.
    ///
    /// # Errors
    /// See [`OpenChannelError`].
    pub async fn open_channel(
        &self,
        peer: PublicKey,
        address: SocketAddr,
        capacity: Amount,
        is_public: bool,
    ) -> Result<Txid, OpenChannelError> {
        self.node.keep_connected(peer, address);
        let reached = tokio::time::timeout(PATIENCE, async {
            while !self.node.is_connected(&peer) {
                tokio::time::sleep(PAUSE).await;
            }
        });
        reached.await.map_err(|_elapsed| OpenChannelError::Unreachable(peer))?;
        // The peer may not find its way back to this node.
        self.keep(|kept| {
            let _where_it_was = kept.peers.insert(peer, address);
        })?;
        let opening = u128::from_be_bytes(entropy::bytes());
        let (sender, outcome) = oneshot::channel();
        self.openings().insert(opening, sender);
        let outcome = match self.node.open_channel(opening, peer, capacity, is_public) {
            Ok(()) => tokio::time::timeout(PATIENCE, outcome).await,
            Err(error) => Ok(Ok(Err(error.into()))),
        };
        self.openings().remove(&opening);
        match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_gone)) => Err(OpenChannelError::Stopping),
            Err(_elapsed) => Err(OpenChannelError::Silent),
        }
    }

    /// Closes the channels with a peer: together with it, or alone. Gives how many. What they leave comes to the wallet.
    ///
    /// # Errors
    /// When there is none, or LDK refuses.
    pub fn close_channels(&self, peer: &PublicKey, is_alone: bool) -> Result<usize, OrdinaryError> {
        let count = self.node.channels_with(peer);
        match (count, is_alone) {
            (0, _) => return Err(OrdinaryError::NoChannel(*peer)),
            (_, false) => self.node.close_with(peer)?,
            (_, true) => self.node.force_close_with(peer)?,
        }
        Ok(count)
    }

    /// What it has and has earned.
    pub fn status(&self) -> Value {
        let channels = self.node.node.channels.list_channels();
        let usable = channels.iter().filter(|details| details.is_usable);
        let (mut outbound, mut inbound) = (0, 0);
        for details in usable.clone() {
            outbound += details.outbound_capacity_msat;
            inbound += details.inbound_capacity_msat;
        }
        json!({
            "node": self.node.id().to_string(),
            "channels": channels.len(),
            "usable": usable.count(),
            "outbound_msat": outbound,
            "inbound_msat": inbound,
            "earned_msat": self.kept().earned_msat,
            "to_sweep": self.sweeps.count(),
        })
    }
}

/// What a sweep needs to know.
struct Sweeping {
    chain: Chain,
    fee_rate: FeeRate,
    poll: Duration,
}

/// Sweeps with each new block, and at the start, for as long as there is an operator.
async fn sweep(operator: Weak<Operator>, sweeping: Sweeping) {
    let Sweeping { chain, fee_rate, poll } = sweeping;
    let (mut swept, mut ticks) = (None, tokio::time::interval(poll.max(PAUSE)));
    loop {
        ticks.tick().await;
        let Some(operator) = operator.upgrade() else { return };
        // What LDK names between two blocks waits for neither.
        let now = (operator.node.height(), operator.sweeps.count());
        if swept == Some(now) || now.1 == 0 {
            continue;
        }
        swept = Some(now);
        let chain = chain.clone();
        let work = move || {
            operator.sweeps.sweep(&chain, operator.node.node.keys(), fee_rate, &*operator.wallet);
        };
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::error!(%error, "a sweep was given up");
        }
    }
}
