//! The private chain that the demo plays on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, Amount, Network, OutPoint, Transaction, Txid};
use farthing_chain::{Chain, RegtestNode};
use tempfile::TempDir;

/// How long anything on the private chain may take.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How often the miner looks at the mempool, and when it mines a block without any transaction.
const PACE: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_secs(2);

/// A private chain and a folder for everybody's data.
pub struct Stage {
    node: Arc<RegtestNode>,
    folder: TempDir,
}

impl Stage {
    /// Starts a bitcoind of its own.
    pub fn new() -> anyhow::Result<Self> {
        let node = Arc::new(RegtestNode::start()?);
        let folder = TempDir::with_prefix("farthing-demo-")?;
        Ok(Self { node, folder })
    }

    /// The node.
    pub fn node(&self) -> &RegtestNode {
        &self.node
    }

    /// The chain.
    pub fn chain(&self) -> Chain {
        self.node.chain()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sends coins to an address and mines them.
    pub fn give(&self, address: &str, amount: Amount) -> anyhow::Result<()> {
        let address: Address<NetworkUnchecked> = address.parse()?;
        self.node.send(&address.require_network(Network::Regtest)?, amount)?;
        self.node.mine(1)?;
        Ok(())
    }

    /// Mines up to a height.
    pub fn mine_to(&self, height: u32) -> anyhow::Result<()> {
        let now = self.chain().tip()?.height;
        self.node.mine(height.saturating_sub(now))?;
        Ok(())
    }

    /// Until dropped: mines what is in the mempool at once, and an empty block now and then, for what waits for depth. No faster, since
    /// channels expire by blocks, and a slow machine has no more of them than a quick one.
    pub fn miner(&self) -> Miner {
        let stop = Arc::new(AtomicBool::new(false));
        let (node, stopping) = (self.node.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut mined = Instant::now();
            while !stopping.load(Ordering::Relaxed) {
                let is_due =
                    node.mempool().is_ok_and(|waiting| !waiting.is_empty()) || mined.elapsed() > IDLE;
                if is_due {
                    if let Err(error) = node.mine(1) {
                        tracing::warn!(%error, "no block was mined");
                    }
                    mined = Instant::now();
                }
                std::thread::park_timeout(PACE);
            }
        });
        Miner { stop, thread: Some(thread) }
    }

    /// Waits until the mempool spends an output.
    pub fn await_spend(&self, outpoint: &OutPoint) -> anyhow::Result<Transaction> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(spender) = self.chain().mempool_spender(outpoint)? {
                return Ok(spender);
            }
            if Instant::now() > deadline {
                bail!("nobody spent {outpoint} within {} seconds", PATIENCE.as_secs());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Every transaction in the chain, read from the blocks.
    pub fn transactions(&self) -> anyhow::Result<HashMap<Txid, Transaction>> {
        let chain = self.chain();
        let mut all = HashMap::new();
        for height in 0..=chain.tip()?.height {
            let hash = chain.block_hash(height)?.context("a block below the tip")?;
            for transaction in chain.block(&hash)?.txdata {
                all.insert(transaction.compute_txid(), transaction);
            }
        }
        Ok(all)
    }
}

/// Mines while it lives.
pub struct Miner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _panicked = thread.join();
        }
    }
}
