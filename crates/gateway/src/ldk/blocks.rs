//! Feeds blocks of a bitcoind to LDK, in order, through reorganisations.

use std::sync::Arc;

use bitcoin::BlockHash;
use bitcoin::block::Header;
use farthing_chain::{Chain, ChainError};
use lightning::chain::channelmonitor::ChannelMonitor;
use lightning::chain::transaction::TransactionData;
use lightning::chain::{BestBlock, Listen};
use lightning::sign::ecdsa::EcdsaChannelSigner;

use super::broadcaster::Broadcaster;
use super::fees::Fees;
use super::log::Log;

/// A block that a listener has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    height: u32,
    hash: BlockHash,
}

/// Where a listener stands in the chain.
#[derive(Clone, Copy, Debug)]
pub struct Position(Seen);

impl From<BestBlock> for Position {
    fn from(best: BestBlock) -> Self {
        Self(Seen { height: best.height, hash: best.block_hash })
    }
}

impl Position {
    /// The height of the last block that was connected.
    pub fn height(&self) -> u32 {
        self.0.height
    }

    /// Connects what is new up to the node's tip, after disconnecting what is no longer in its chain. Returns whether there was
    /// anything.
    ///
    /// # Errors
    /// When the node gives no usable answer. What was connected stays connected; the next call goes on from there.
    pub fn follow(&mut self, chain: &Chain, listener: &impl Listen) -> Result<bool, ChainError> {
        let before = self.0;
        let mut fork = self.0;
        while chain.block_hash(fork.height)? != Some(fork.hash) {
            let parent = chain.block(&fork.hash)?.header.prev_blockhash;
            fork = Seen { height: fork.height - 1, hash: parent };
        }
        if fork != self.0 {
            listener.blocks_disconnected(BestBlock::new(fork.hash, fork.height));
            self.0 = fork;
        }
        while let Some(hash) = chain.block_hash(self.0.height + 1)? {
            let block = chain.block(&hash)?;
            if block.header.prev_blockhash != self.0.hash {
                // Another reorganisation, between two questions.
                return self.follow(chain, listener).map(|_| true);
            }
            let height = self.0.height + 1;
            listener.block_connected(&block, height);
            self.0 = Seen { height, hash };
        }
        Ok(self.0 != before)
    }
}

/// Two listeners, the second after the first.
pub(super) struct Both<'a, A, B>(pub(super) &'a A, pub(super) &'a B);

impl<A: Listen, B: Listen> Listen for Both<'_, A, B> {
    fn filtered_block_connected(&self, header: &Header, transactions: &TransactionData<'_>, height: u32) {
        self.0.filtered_block_connected(header, transactions, height);
        self.1.filtered_block_connected(header, transactions, height);
    }

    fn blocks_disconnected(&self, fork: BestBlock) {
        self.0.blocks_disconnected(fork);
        self.1.blocks_disconnected(fork);
    }
}

/// A monitor that is not among the others yet.
pub(super) struct OneMonitor<S: EcdsaChannelSigner>(
    pub(super) ChannelMonitor<S>,
    pub(super) Arc<Broadcaster>,
    pub(super) Arc<Fees>,
    pub(super) Arc<Log>,
);

impl<S: EcdsaChannelSigner> Listen for OneMonitor<S> {
    fn filtered_block_connected(&self, header: &Header, transactions: &TransactionData<'_>, height: u32) {
        let Self(monitor, broadcaster, fees, log) = self;
        monitor.block_connected(header, transactions, height, broadcaster.clone(), fees.clone(), log);
    }

    fn blocks_disconnected(&self, fork: BestBlock) {
        let Self(monitor, broadcaster, fees, log) = self;
        monitor.blocks_disconnected(fork, broadcaster.clone(), fees.clone(), log);
    }
}
