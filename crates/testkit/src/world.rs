//! A private chain, and a folder for everybody's data.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, Amount, Network, OutPoint, Transaction, Txid};
use farthing_chain::{Chain, RegtestNode, RpcConfig};
use tempfile::TempDir;

use crate::wait::until;

/// How deep a spend is final for everybody here, as is the default.
const FINALITY: u32 = 6;
const PACE: Duration = Duration::from_millis(50);

/// Everything that a story needs. Dropped, it leaves nothing behind.
pub struct World {
    node: Arc<RegtestNode>,
    folder: TempDir,
    program: PathBuf,
}

impl World {
    /// A world in which people run `program`.
    ///
    /// # Errors
    /// When no bitcoind can be started.
    pub fn new(program: &str) -> Result<Self> {
        Self::on(RegtestNode::start()?, program)
    }

    /// The same, but the node finds every transaction by its id, which servers of wallets want.
    ///
    /// # Errors
    /// When no bitcoind can be started.
    pub fn indexed(program: &str) -> Result<Self> {
        Self::on(RegtestNode::start_with(&["-txindex=1"])?, program)
    }

    fn on(node: RegtestNode, program: &str) -> Result<Self> {
        let node = Arc::new(node);
        let folder = farthing_chain::temporary_folder("farthing-story-")?;
        Ok(Self { node, folder, program: program.into() })
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How the node is reached.
    pub fn rpc_config(&self) -> RpcConfig {
        self.node.rpc_config()
    }

    /// The chain.
    pub fn chain(&self) -> Chain {
        self.node.chain()
    }

    /// The tip's height.
    ///
    /// # Errors
    /// When the node gives no usable answer.
    pub fn height(&self) -> Result<u32> {
        Ok(self.chain().tip()?.height)
    }

    /// A file of that many bytes, none of which is like its neighbour's.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, bytes: usize) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        let mut state = bytes as u64 + 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let content: Vec<u8> = (0..bytes).map(|_| next()).collect();
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// Mines.
    ///
    /// # Errors
    /// When the node gives no usable answer.
    pub fn mine(&self, blocks: u32) -> Result<()> {
        self.node.mine(blocks)?;
        Ok(())
    }

    /// Mines up to a height.
    ///
    /// # Errors
    /// When the node gives no usable answer, or the chain is higher already.
    pub fn mine_to(&self, height: u32) -> Result<()> {
        let now = self.height()?;
        self.mine(height.checked_sub(now).with_context(|| format!("{height} is past, now is {now}"))?)
    }

    /// Mines whatever waits, and as many blocks more as make it final.
    ///
    /// # Errors
    /// When the node gives no usable answer.
    pub fn make_final(&self) -> Result<()> {
        self.mine(FINALITY + 1)
    }

    /// Sends coins to an address and mines them.
    ///
    /// # Errors
    /// When the node refuses.
    pub fn give(&self, address: &str, sat: u64) -> Result<()> {
        let address: Address<NetworkUnchecked> = address.parse()?;
        self.node.send(&address.require_network(Network::Regtest)?, Amount::from_sat(sat))?;
        self.mine(1)
    }

    /// Pays an address from the node's wallet. The transaction is in the mempool.
    ///
    /// # Errors
    /// When the node refuses.
    pub fn pay(&self, address: &Address, amount: Amount) -> Result<Transaction> {
        Ok(self.node.pay(address, amount)?)
    }

    /// From now on, until dropped, a block comes whenever the mempool holds something.
    pub fn miner(&self) -> Miner {
        let stop = Arc::new(AtomicBool::new(false));
        let (node, stopping) = (self.node.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                // A node that does not answer fails the story elsewhere, where it can be said.
                if node.mempool().is_ok_and(|waiting| !waiting.is_empty()) {
                    let _no_block_this_time = node.mine(1);
                }
                std::thread::park_timeout(PACE);
            }
        });
        Miner { stop, thread: Some(thread) }
    }

    /// The ids of the transactions that wait to be mined.
    ///
    /// # Errors
    /// When the node gives no usable answer.
    pub fn mempool(&self) -> Result<Vec<Txid>> {
        Ok(self.node.mempool()?)
    }

    /// Waits until the mempool spends an output.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn await_spend(&self, outpoint: &OutPoint) -> Result<Transaction> {
        until(&format!("a spend of {outpoint}"), || Ok(self.chain().mempool_spender(outpoint)?))
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
