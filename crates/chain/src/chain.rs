//! The questions that Farthing asks a node.
//!
//! Each answer is a snapshot: a block may arrive right after it. Where one question takes several calls
//! ([`Chain::output`], [`Chain::mempool_spender`]), the order of the calls is chosen so that a block or a transaction
//! that arrives in between cannot produce an answer that was never true.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Amount, Block, BlockHash, FeeRate, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use crate::rpc::{ChainError, Rpc, RpcConfig, code};

/// The first Bitcoin Core with version 3 policy, package replacement and package submission on every network.
const OLDEST_NODE: u32 = 280_000;

/// How long the node may go through all unspent outputs.
const SCAN: Duration = Duration::from_secs(1_800);

/// A `bitcoind`, asked over RPC. Calls block; copies share the configuration and may be used from any thread.
#[derive(Clone, Debug)]
pub struct Chain {
    pub(crate) rpc: Arc<Rpc>,
    network: Network,
}

/// A block's place in the chain and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId {
    /// How many blocks come before it.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
}

/// What has become of a transaction's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputStatus {
    /// The node does not know the output, or a transaction in a block has spent it.
    Absent,
    /// It is in the chain, and a transaction in the mempool spends it: see [`Chain::mempool_spender`].
    SpentInMempool {
        /// Blocks on top of and including the one with the output.
        confirmations: u32,
        /// The output.
        output: TxOut,
    },
    /// Its transaction is in the mempool and nothing spends it.
    Unconfirmed {
        /// The output.
        output: TxOut,
    },
    /// It is in the chain and nothing spends it.
    Confirmed {
        /// Blocks on top of and including the one with the output.
        confirmations: u32,
        /// The output.
        output: TxOut,
    },
}

impl OutputStatus {
    /// The output, if the node knows it and no block has spent it.
    pub fn output(&self) -> Option<&TxOut> {
        match self {
            Self::Absent => None,
            Self::SpentInMempool { output, .. }
            | Self::Unconfirmed { output }
            | Self::Confirmed { output, .. } => Some(output),
        }
    }
}

/// What a transaction in the mempool pays, alone and together with its relatives there. The fees of relatives count
/// what the node's owner has added by `prioritisetransaction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MempoolEntry {
    /// The fee of the transaction itself.
    pub fee: Amount,
    /// Its size in virtual bytes.
    pub vsize: u64,
    /// Its fee and those of all its unconfirmed ancestors.
    pub ancestor_fee: Amount,
    /// Its size and that of all its unconfirmed ancestors, in virtual bytes.
    pub ancestor_vsize: u64,
    /// Its fee and those of all its descendants in the mempool.
    pub descendant_fee: Amount,
    /// Its size and that of all its descendants in the mempool, in virtual bytes.
    pub descendant_vsize: u64,
    /// How many descendants it has in the mempool, without itself.
    pub descendants: u64,
}

/// A node that cannot be used.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The node did not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The node follows another chain than the one configured.
    #[error(
        "bitcoind at {url} is on {found}, but {wanted} is configured: correct the RPC address or the network"
    )]
    WrongNetwork {
        /// The node's address.
        url: String,
        /// The network that was asked for.
        wanted: Network,
        /// The network that the node is on.
        found: Network,
    },
    /// The node does not know the policy that closing a channel relies on.
    #[error(
        "bitcoind at {url} is version {found}, too old for version 3 packages: {oldest} is the first that will do"
    )]
    TooOld {
        /// The node's address.
        url: String,
        /// Its version, as `getnetworkinfo` numbers it.
        found: u32,
        /// The lowest version that can be used.
        oldest: u32,
    },
    /// The node is one (Bitcoin Knots) whose owner can turn version 3 policy off, and it is off. Such a node takes no
    /// transaction without a fee, even with a child that pays for it, so a channel could not be closed through it.
    #[error(
        "bitcoind at {url} does not enforce version 3 policy: start it with -mempooltruc=enforce (or -corepolicy)"
    )]
    NoVersion3Policy {
        /// The node's address.
        url: String,
    },
}

#[derive(Deserialize)]
struct BlockchainInfo {
    #[serde(with = "bitcoin::network::as_core_arg")]
    chain: Network,
    blocks: u32,
    #[serde(rename = "bestblockhash")]
    best_block: BlockHash,
}

#[derive(Deserialize)]
struct NetworkInfo {
    version: u32,
}

#[derive(Deserialize)]
struct MempoolInfo {
    /// The least that the mempool takes, which rises when it is full. In BTC per 1,000 virtual bytes.
    #[serde(rename = "mempoolminfee", with = "bitcoin::amount::serde::as_btc")]
    mempool_minimum: Amount,
    /// The least that the node relays. In BTC per 1,000 virtual bytes.
    #[serde(rename = "minrelaytxfee", with = "bitcoin::amount::serde::as_btc")]
    relay_minimum: Amount,
    /// What Knots says about version 3 policy. Core always enforces it and says nothing.
    truc_policy: Option<String>,
}

#[derive(Deserialize)]
struct UnspentOutput {
    confirmations: u32,
    #[serde(with = "bitcoin::amount::serde::as_btc")]
    value: Amount,
    #[serde(rename = "scriptPubKey")]
    script: Script,
}

impl UnspentOutput {
    fn output(self) -> TxOut {
        TxOut { value: self.value, script_pubkey: self.script.hex }
    }
}

#[derive(Deserialize)]
struct Script {
    hex: ScriptBuf,
}

#[derive(Deserialize)]
struct Spender {
    #[serde(rename = "spendingtxid")]
    txid: Option<Txid>,
}

#[derive(Deserialize)]
struct RawTransaction {
    hex: String,
    /// Present when the transaction is in a block, which only a node with `-txindex` can tell.
    #[serde(rename = "blockhash")]
    block: Option<BlockHash>,
}

#[derive(Deserialize)]
struct Scan {
    unspents: Vec<Scanned>,
}

#[derive(Deserialize)]
struct Scanned {
    txid: Txid,
    vout: u32,
    #[serde(rename = "scriptPubKey")]
    script: ScriptBuf,
    #[serde(with = "bitcoin::amount::serde::as_btc")]
    amount: Amount,
}

#[derive(Deserialize)]
struct Entry {
    vsize: u64,
    fees: EntryFees,
    #[serde(rename = "ancestorsize")]
    ancestor_vsize: u64,
    #[serde(rename = "descendantsize")]
    descendant_vsize: u64,
    /// Counts the transaction itself.
    #[serde(rename = "descendantcount")]
    family: u64,
}

#[derive(Deserialize)]
struct EntryFees {
    #[serde(with = "bitcoin::amount::serde::as_btc")]
    base: Amount,
    #[serde(with = "bitcoin::amount::serde::as_btc")]
    ancestor: Amount,
    #[serde(with = "bitcoin::amount::serde::as_btc")]
    descendant: Amount,
}

#[derive(Deserialize)]
struct Estimate {
    /// In BTC per 1,000 virtual bytes. Absent while the node has seen too few blocks.
    #[serde(rename = "feerate", default, with = "bitcoin::amount::serde::as_btc::opt")]
    fee_rate: Option<Amount>,
}

impl Chain {
    /// Connects to the node and checks that it can be used: it is on `network`, and it is recent enough, and so
    /// configured, that version 3 packages work.
    ///
    /// # Errors
    /// [`ConnectError`]; its text says what the user can do.
    pub fn connect(config: &RpcConfig, network: Network) -> Result<Chain, ConnectError> {
        let chain = Chain { rpc: Arc::new(Rpc::new(config.clone())), network };
        let url = || config.url.clone();

        let found = chain.blockchain()?.chain;
        if found != network {
            return Err(ConnectError::WrongNetwork { url: url(), wanted: network, found });
        }
        let NetworkInfo { version } = chain.rpc.call("getnetworkinfo", &[])?;
        if version < OLDEST_NODE {
            return Err(ConnectError::TooOld { url: url(), found: version, oldest: OLDEST_NODE });
        }
        if chain.mempool()?.truc_policy.is_some_and(|policy| policy != "enforce") {
            return Err(ConnectError::NoVersion3Policy { url: url() });
        }
        Ok(chain)
    }

    /// The network that the node is on.
    pub fn network(&self) -> Network {
        self.network
    }

    /// The last block of the best chain.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer, as for every call of `Chain`.
    pub fn tip(&self) -> Result<BlockId, ChainError> {
        let info = self.blockchain()?;
        Ok(BlockId { height: info.blocks, hash: info.best_block })
    }

    /// The hash of the best chain's block at `height`, or `None` above the tip.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        self.rpc.find("getblockhash", &[json!(height)], code::INVALID_PARAMETER)
    }

    /// A block, of the best chain or of one that a reorganisation has left behind.
    ///
    /// # Errors
    /// [`ChainError::Refused`] when the node does not know the block, or has pruned it; else as for every call.
    pub fn block(&self, hash: &BlockHash) -> Result<Block, ChainError> {
        const METHOD: &str = "getblock";
        let hex: String = self.rpc.call(METHOD, &[json!(hash), json!(0)])?;
        deserialize_hex(&hex).map_err(|error| ChainError::unexpected(METHOD, error))
    }

    /// The header of a block, of the best chain or of one that a reorganisation has left behind.
    ///
    /// # Errors
    /// [`ChainError::Refused`] when the node does not know the block; else as for every call.
    pub fn header(&self, hash: &BlockHash) -> Result<Header, ChainError> {
        const METHOD: &str = "getblockheader";
        let hex: String = self.rpc.call(METHOD, &[json!(hash), json!(false)])?;
        deserialize_hex(&hex).map_err(|error| ChainError::unexpected(METHOD, error))
    }

    /// What has become of an output.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn output(&self, outpoint: &OutPoint) -> Result<OutputStatus, ChainError> {
        // One snapshot settles every case but one: without the output in it, a transaction in the mempool may have
        // spent the output. Then the chain alone still has it. But the output may also have been mined just after the
        // first look, so look again before saying that it is spent.
        if let Some(unspent) = self.unspent(outpoint, With::Mempool)? {
            return Ok(unspent_status(unspent));
        }
        let Some(in_chain) = self.unspent(outpoint, With::ChainOnly)? else {
            return Ok(OutputStatus::Absent);
        };
        Ok(match self.unspent(outpoint, With::Mempool)? {
            Some(unspent) => unspent_status(unspent),
            None => OutputStatus::SpentInMempool {
                confirmations: in_chain.confirmations,
                output: in_chain.output(),
            },
        })
    }

    /// The outputs in the chain that pay one of these scripts and are not spent there. The node goes through all unspent outputs
    /// for it, which takes minutes on mainnet, and does it for one caller at a time.
    ///
    /// # Errors
    /// [`ChainError::Refused`] while it does it for another; else as for every call.
    pub fn unspent_paying(&self, scripts: &[ScriptBuf]) -> Result<Vec<(OutPoint, TxOut)>, ChainError> {
        let wanted: Vec<String> =
            scripts.iter().map(|script| format!("raw({})", script.to_hex_string())).collect();
        let Scan { unspents } =
            self.rpc.call_within(SCAN, "scantxoutset", &[json!("start"), json!(wanted)])?;
        let output = |found: Scanned| {
            let outpoint = OutPoint { txid: found.txid, vout: found.vout };
            (outpoint, TxOut { value: found.amount, script_pubkey: found.script })
        };
        Ok(unspents.into_iter().map(output).collect())
    }

    /// The transaction in the mempool that spends `outpoint`, if there is one.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn mempool_spender(&self, outpoint: &OutPoint) -> Result<Option<Transaction>, ChainError> {
        const METHOD: &str = "gettxspendingprevout";
        let asked = json!([{ "txid": outpoint.txid, "vout": outpoint.vout }]);
        let [Spender { txid }] = self.rpc.call::<[Spender; 1]>(METHOD, &[asked])?;
        match txid {
            // It may leave the mempool before the second call, and then nothing there spends the output.
            Some(txid) => self.mempool_transaction(&txid),
            None => Ok(None),
        }
    }

    /// A transaction that is in the mempool. One that is in a block is `None`.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn mempool_transaction(&self, txid: &Txid) -> Result<Option<Transaction>, ChainError> {
        const METHOD: &str = "getrawtransaction";
        let found: Option<RawTransaction> =
            self.rpc.find(METHOD, &[json!(txid), json!(1)], code::NOT_FOUND)?;
        match found {
            Some(RawTransaction { hex, block: None }) => {
                deserialize_hex(&hex).map(Some).map_err(|error| ChainError::unexpected(METHOD, error))
            }
            Some(RawTransaction { block: Some(_), .. }) | None => Ok(None),
        }
    }

    /// What a transaction in the mempool pays together with its relatives; `None` when it is not in the mempool.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn mempool_entry(&self, txid: &Txid) -> Result<Option<MempoolEntry>, ChainError> {
        let found: Option<Entry> = self.rpc.find("getmempoolentry", &[json!(txid)], code::NOT_FOUND)?;
        Ok(found.map(|entry| MempoolEntry {
            fee: entry.fees.base,
            vsize: entry.vsize,
            ancestor_fee: entry.fees.ancestor,
            ancestor_vsize: entry.ancestor_vsize,
            descendant_fee: entry.fees.descendant,
            descendant_vsize: entry.descendant_vsize,
            descendants: entry.family.saturating_sub(1),
        }))
    }

    /// The fee rate at which a transaction should confirm within `target_blocks` (taken as 1 to 1,008), or `None` when
    /// the node has no estimate, as on regtest. The estimate is the conservative one, which does not follow a short
    /// lull: what Farthing sends has a deadline.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn fee_rate(&self, target_blocks: u16) -> Result<Option<FeeRate>, ChainError> {
        let target = target_blocks.clamp(1, 1_008);
        let estimate: Estimate =
            self.rpc.call("estimatesmartfee", &[json!(target), json!("conservative")])?;
        Ok(estimate.fee_rate.map(per_1000_vbytes))
    }

    /// The least that a transaction, or a package, must pay to enter the node's mempool now.
    ///
    /// # Errors
    /// [`ChainError`] when the node gives no usable answer.
    pub fn minimum_fee_rate(&self) -> Result<FeeRate, ChainError> {
        let info = self.mempool()?;
        Ok(per_1000_vbytes(info.mempool_minimum.max(info.relay_minimum)))
    }

    /// Whether the chain, without the mempool, has this output unspent.
    pub(crate) fn is_unspent_in_chain(&self, outpoint: &OutPoint) -> Result<bool, ChainError> {
        Ok(self.unspent(outpoint, With::ChainOnly)?.is_some())
    }

    fn blockchain(&self) -> Result<BlockchainInfo, ChainError> {
        self.rpc.call("getblockchaininfo", &[])
    }

    fn mempool(&self) -> Result<MempoolInfo, ChainError> {
        self.rpc.call("getmempoolinfo", &[])
    }

    fn unspent(&self, outpoint: &OutPoint, with: With) -> Result<Option<UnspentOutput>, ChainError> {
        let mempool = matches!(with, With::Mempool);
        self.rpc.call("gettxout", &[json!(outpoint.txid), json!(outpoint.vout), json!(mempool)])
    }
}

/// Which transactions count when asking for an unspent output.
enum With {
    ChainOnly,
    Mempool,
}

fn unspent_status(unspent: UnspentOutput) -> OutputStatus {
    match unspent.confirmations {
        0 => OutputStatus::Unconfirmed { output: unspent.output() },
        confirmations => OutputStatus::Confirmed { confirmations, output: unspent.output() },
    }
}

/// A fee per 1,000 virtual bytes, which are 4,000 weight units. Rounded up: a rate just below a minimum is refused.
fn per_1000_vbytes(fee: Amount) -> FeeRate {
    FeeRate::from_sat_per_kwu(fee.to_sat().div_ceil(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fee_rates_are_rounded_up() {
        assert_eq!(per_1000_vbytes(Amount::from_sat(1_000)), FeeRate::from_sat_per_kwu(250));
        assert_eq!(per_1000_vbytes(Amount::from_sat(1_001)), FeeRate::from_sat_per_kwu(251));
    }

    #[test]
    fn an_estimate_that_the_node_does_not_have_is_none() {
        let none: Estimate =
            serde_json::from_str(r#"{"errors":["Insufficient data or no feerate found"],"blocks":2}"#)
                .unwrap();
        let some: Estimate = serde_json::from_str(r#"{"feerate":0.00012345,"blocks":2}"#).unwrap();

        assert_eq!(none.fee_rate, None);
        assert_eq!(some.fee_rate, Some(Amount::from_sat(12_345)));
    }
}
