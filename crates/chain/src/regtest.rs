//! A private regtest node: blocks on demand, under the policy of mainnet.
//!
//! The node talks to nobody, listens only on the loopback interface, keeps everything in one folder (in memory where
//! the system offers that) and is gone with its owner: [`RegtestNode`]'s `Drop` kills it, and a guard does when the
//! owner is killed. Bitcoin Knots is told to follow Bitcoin Core's policy, without which it takes no version 3 package.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bitcoin::address::NetworkUnchecked;
use bitcoin::amount::Denomination;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Address, Amount, BlockHash, Network, Transaction, Txid};
use rustix::fs::statvfs;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use thiserror::Error;

use crate::find::{BitcoindNotFound, find_bitcoind};
use crate::guard::{Guard, pid_file};
use crate::{Chain, ChainError, ConnectError, RpcAuth, RpcConfig, rpc::Rpc};

/// A file system in memory, where there is one: a node starts faster on it and wears no disk.
const MEMORY: &str = "/dev/shm";
/// What must be free there, in bytes: a node takes about 20 MB, and many run at once.
const ROOM: u64 = 512 << 20;
/// The node's own wallet.
const WALLET: &str = "default";
/// How long it may take to answer.
const TIME_TO_START: Duration = Duration::from_secs(180);
/// Blocks that one call asks for: on a busy machine a thousand take longer than a call may.
const MOST_AT_ONCE: u32 = 100;
/// How long going back or forth over many blocks may take.
const TIME_TO_TURN: Duration = Duration::from_secs(600);
/// More than one, since another process may take the free port first.
const ATTEMPTS: usize = 3;
/// Blocks mined at the start: the coins of the first 100 of them are mature.
const FIRST_BLOCKS: u32 = 200;

/// How the node differs from a mainnet one: it is small, and it stays on its own.
const ARGUMENTS: [&str; 11] = [
    "-regtest",
    "-connect=0",
    "-dnsseed=0",
    "-natpmp=0",
    "-txindex=0",
    "-par=1",
    "-printtoconsole=0",
    // A thousand keys, the default, take half a second to make.
    "-keypool=10",
    // Regtest has no estimates. 2 sat/vB.
    "-fallbackfee=0.00002",
    // Otherwise change may be of a kind that no Lightning node takes for a funding.
    "-changetype=bech32m",
    "-persistmempool=0",
];

/// A private regtest node with a wallet of 100 mature coins. Dropping it stops the node and removes its folder.
#[derive(Debug)]
pub struct RegtestNode {
    chain: Chain,
    wallet: Rpc,
    own_address: Address,
    // Dropped in this order: stop the node, dismiss its guard, remove the folder.
    _process: Process,
    _guard: Guard,
    _folder: TempDir,
}

/// A private node that could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// There is no `bitcoind` to run.
    #[error(transparent)]
    NotFound(#[from] BitcoindNotFound),
    /// The program cannot be run at all.
    #[error("cannot run {}", program.display())]
    Run {
        /// The `bitcoind` that was found.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program does not accept its arguments.
    #[error("{} does not start: {reason}", program.display())]
    Refused {
        /// The `bitcoind` that was found.
        program: PathBuf,
        /// Its own words.
        reason: String,
    },
    /// No folder could be made for the node's data, or no guard could be set over it.
    #[error("cannot prepare a folder for the node")]
    Folder(#[source] io::Error),
    /// The node does not come up.
    #[error("{} does not come up: {reason}", program.display())]
    Launch {
        /// The `bitcoind` that was found.
        program: PathBuf,
        /// What it wrote to standard error, or why it does not answer.
        reason: String,
    },
    /// The node is up but cannot be used.
    #[error("the private node cannot be used")]
    Connect(#[from] ConnectError),
    /// The node is up, but filling its wallet failed.
    #[error("the private node's wallet cannot be filled")]
    Fill(#[from] ChainError),
}

impl RegtestNode {
    /// Starts a node with the `bitcoind` that [`find_bitcoind`] finds.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start() -> Result<RegtestNode, StartError> {
        RegtestNode::start_with(&[])
    }

    /// Starts a node with more arguments, for example `-minrelaytxfee=0.0001`. They win over the usual ones.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_with(arguments: &[&str]) -> Result<RegtestNode, StartError> {
        let program = find_bitcoind()?;
        let folder = temporary_folder("farthing-regtest-").map_err(StartError::Folder)?;
        let pid = format!("-pid={}", pid_file(folder.path()).display());

        let mut all = ARGUMENTS.to_vec();
        all.push(&pid);
        if is_knots(&program, arguments)? {
            all.push("-corepolicy");
        }
        all.extend(arguments);

        let guard = Guard::over(folder.path()).map_err(StartError::Folder)?;
        let (process, config) = launch(&program, folder.path(), &all)?;
        Rpc::new(config.clone()).call::<Value>("createwallet", &[json!(WALLET)])?;
        let wallet_url = format!("{}/wallet/{WALLET}", config.url);
        let wallet = Rpc::new(RpcConfig { url: wallet_url, ..config.clone() });
        let own_address = new_address(&wallet)?;
        let chain = Chain::connect(&config, Network::Regtest)?;

        let node =
            RegtestNode { chain, wallet, own_address, _process: process, _guard: guard, _folder: folder };
        node.mine(FIRST_BLOCKS)?;
        Ok(node)
    }

    /// The node, as everything but its owner sees it.
    pub fn chain(&self) -> Chain {
        self.chain.clone()
    }

    /// How another program, or another [`Chain`], reaches the node.
    pub fn rpc_config(&self) -> RpcConfig {
        self.chain.rpc.config().clone()
    }

    /// Mines blocks with whatever is in the mempool, and returns their hashes in order.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn mine(&self, blocks: u32) -> Result<Vec<BlockHash>, ChainError> {
        let mut hashes = Vec::new();
        let mut left = blocks;
        while left > 0 {
            let some = left.min(MOST_AT_ONCE);
            let mined: Vec<BlockHash> =
                self.wallet.call("generatetoaddress", &[json!(some), json!(self.own_address)])?;
            hashes.extend(mined);
            left -= some;
        }
        Ok(hashes)
    }

    /// What waits to be mined.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn mempool(&self) -> Result<Vec<Txid>, ChainError> {
        self.wallet.call("getrawmempool", &[])
    }

    /// Mines one block without any transaction, whatever is in the mempool.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn mine_empty(&self) -> Result<BlockHash, ChainError> {
        self.mine_with(&[])
    }

    /// Mines one block with exactly these transactions, parents first. They need not be in the mempool: a miner is
    /// bound by consensus only, not by policy.
    ///
    /// # Errors
    /// [`ChainError::Refused`] when the block would be invalid; else as for every call.
    pub fn mine_with(&self, transactions: &[Transaction]) -> Result<BlockHash, ChainError> {
        let raw: Vec<String> = transactions.iter().map(serialize_hex).collect();
        let Mined { hash } = self.wallet.call("generateblock", &[json!(self.own_address), json!(raw)])?;
        Ok(hash)
    }

    /// Pays from the node's own wallet, at 2 sat/vB or the node's minimum if that is higher. The transaction signals
    /// replaceability and is in the mempool when this returns.
    ///
    /// # Errors
    /// [`ChainError::Refused`] when the wallet has too little; else as for every call.
    pub fn send(&self, address: &Address, amount: Amount) -> Result<Txid, ChainError> {
        let btc = amount.to_string_in(Denomination::Bitcoin);
        self.wallet.call("sendtoaddress", &[json!(address), json!(btc)])
    }

    /// [`Self::send`], and what was sent.
    ///
    /// # Errors
    /// As for that.
    pub fn pay(&self, address: &Address, amount: Amount) -> Result<Transaction, ChainError> {
        let txid = self.send(address, amount)?;
        let sent = self.chain.mempool_transaction(&txid)?;
        sent.ok_or_else(|| ChainError::unexpected("sendtoaddress", "what was sent is not in the mempool"))
    }

    /// Sets the node's clock (UNIX time, in seconds), and so the time that its next blocks state.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn set_time(&self, seconds: u64) -> Result<(), ChainError> {
        self.wallet.call("setmocktime", &[json!(seconds)])
    }

    /// Declares a block invalid: the node goes back to its parent, and returns its transactions to the mempool. Mine
    /// on from there to make another branch.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn invalidate(&self, hash: &BlockHash) -> Result<(), ChainError> {
        self.wallet.call_within::<Value>(TIME_TO_TURN, "invalidateblock", &[json!(hash)])?;
        Ok(())
    }

    /// Takes [`invalidate`](Self::invalidate) back: the block counts again, and if its branch is the longer one the
    /// node returns to it.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn reconsider(&self, hash: &BlockHash) -> Result<(), ChainError> {
        self.wallet.call_within::<Value>(TIME_TO_TURN, "reconsiderblock", &[json!(hash)])?;
        Ok(())
    }
}

#[derive(Deserialize)]
struct Mined {
    hash: BlockHash,
}

fn new_address(wallet: &Rpc) -> Result<Address, ChainError> {
    const METHOD: &str = "getnewaddress";
    let address: Address<NetworkUnchecked> = wallet.call(METHOD, &[json!(""), json!("bech32m")])?;
    address.require_network(Network::Regtest).map_err(|error| ChainError::unexpected(METHOD, error))
}

/// A temporary folder for a node or a test, in memory where there is room: a save then costs no wait for a disk.
///
/// # Errors
/// When none can be made.
pub fn temporary_folder(prefix: &str) -> io::Result<TempDir> {
    let mut named = tempfile::Builder::new();
    let named = named.prefix(prefix);
    let in_memory = if has_room(MEMORY) { named.tempdir_in(MEMORY) } else { named.tempdir() };
    in_memory.or_else(|_| named.tempdir())
}

/// Containers often have a very small file system in memory, and bitcoind stops when less than 50 MiB are free.
fn has_room(folder: &str) -> bool {
    statvfs(folder).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= ROOM)
}

/// Asks the program which one it is. It checks the names of its arguments on the way, so that a misspelt one is
/// reported at once and in the program's own words.
fn is_knots(program: &Path, arguments: &[&str]) -> Result<bool, StartError> {
    let answer = Command::new(program)
        .arg("-version")
        .args(arguments)
        .output()
        .map_err(|source| StartError::Run { program: program.into(), source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if answer.status.success() {
        Ok(text(&answer.stdout).contains("Knots"))
    } else {
        Err(StartError::Refused { program: program.into(), reason: text(&answer.stderr) })
    }
}

/// Starts the node and waits until it answers.
fn launch(program: &Path, folder: &Path, arguments: &[&str]) -> Result<(Process, RpcConfig), StartError> {
    let failed = |reason: String| StartError::Launch { program: program.into(), reason };
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let port = free_port().map_err(StartError::Folder)?;
        let complaints = folder.join("stderr");
        let stderr = File::create(&complaints).map_err(StartError::Folder)?;
        let child = Command::new(program)
            .arg(format!("-datadir={}", folder.display()))
            .args(["-listen=0".to_owned(), format!("-rpcport={port}")])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(|source| StartError::Run { program: program.into(), source })?;
        let mut process = Process(child);
        let config = RpcConfig {
            url: format!("http://127.0.0.1:{port}"),
            auth: RpcAuth::Cookie(folder.join("regtest").join(".cookie")),
        };
        let rpc = Rpc::new(config.clone());
        let deadline = Instant::now() + TIME_TO_START;
        loop {
            match rpc.call::<Value>("getblockchaininfo", &[]) {
                Ok(_answer) => return Ok((process, config)),
                Err(error) if !error.is_transient() || Instant::now() > deadline => {
                    return Err(failed(error.to_string()));
                }
                Err(_starting) => {}
            }
            if process.0.try_wait().map_err(StartError::Folder)?.is_some() {
                break; // perhaps another process took the port first
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        last = std::fs::read_to_string(&complaints).unwrap_or_default().trim().to_owned();
    }
    Err(failed(last))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The running node, which is killed when dropped. There is nothing in its folder that anybody will read again.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
