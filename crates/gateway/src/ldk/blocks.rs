//! Feeds blocks of a bitcoind to LDK, in order, through reorganisations.

use bitcoin::BlockHash;
use farthing_chain::{Chain, ChainError};
use lightning::chain::{BestBlock, Listen};

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
