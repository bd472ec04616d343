//! Farthing's view of the Bitcoin chain: a real `bitcoind`, asked over RPC.
//!
//! This is the only crate of the workspace that speaks RPC. It has two halves:
//!
//! - [`Chain`] asks a node on mainnet, testnet4, signet or regtest what the drivers need to know (the tip, whether an
//!   output is still there, who spends it) and hands it transactions, singly or as a parent with the child that pays
//!   for it. Every call blocks and asks the node anew: there is no cache to go stale in a reorganisation, and a node
//!   that restarts in between (and so changes its cookie) is found again by the next call.
//! - [`RegtestNode`] is a private node for demos and tests. It runs the same `bitcoind` binary under the same policy
//!   as mainnet, and never outlives the process that started it. There is no mock chain.
//!
//! What is *not* here: keys, wallets and decisions. The crate reports what the node says; whether a transaction is to
//! be bumped or given up is for the caller, who can tell the cases apart by [`BroadcastError`].

mod broadcast;
mod chain;
mod find;
mod guard;
mod regtest;
mod rpc;

pub use broadcast::BroadcastError;
pub use chain::{BlockId, Chain, ConnectError, MempoolEntry, OutputStatus};
pub use find::{BitcoindNotFound, find_bitcoind};
pub use regtest::{RegtestNode, StartError, temporary_folder};
pub use rpc::{ChainError, RpcAuth, RpcConfig};
