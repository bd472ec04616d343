//! The chain of block headers, as the device checks it: each block names the one before, shows the work that the rules demand, and
//! has a time that they allow. Height and time come from here, whoever brought the headers.
//!
//! It begins at a checkpoint that the owner took from its own node. Whoever brings headers can hold back new ones, which
//! makes the device stricter: hours and days do not pass, and HTLCs seem to expire later. To invent some costs the work of real
//! blocks; on test networks that is little, on regtest nothing.
//!
//! Rules: [BIP113] (median time), Bitcoin Core's `pow.cpp` (difficulty), [BIP94] (testnet4). Signet's signatures of blocks are not
//! in headers and are not checked.
//!
//! [BIP94]: https://github.com/bitcoin/bips/blob/master/bip-0094.mediawiki
//! [BIP113]: https://github.com/bitcoin/bips/blob/master/bip-0113.mediawiki

use bitcoin::block::Header;
use bitcoin::params::Params;
use bitcoin::{BlockHash, CompactTarget, Network, Target, Work};
use serde::{Deserialize, Serialize};

use super::policy::Tip;

/// Difficulty changes every so many blocks.
pub const EPOCH: u32 = 2_016;
/// A branch that leaves the chain deeper than that is not taken.
pub const MOST_REORGANISED: usize = 100;
/// A block's time is later than the median of so many before it.
const MEDIAN: usize = 11;
/// A block's time is at most so many seconds ahead.
const MOST_AHEAD: u64 = 7_200;
/// Testnet4: after so many seconds without a block, the next may have the least difficulty.
const LULL: u32 = 1_200;

/// Where the owner says the chain begins: the first block of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// A multiple of [`EPOCH`].
    pub height: u32,
    /// The block.
    pub header: Header,
}

/// Headers that make no chain, or not a better one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadHeader {
    /// The checkpoint is in the middle of an epoch.
    #[error("a checkpoint at height {0}, which is no multiple of {EPOCH}")]
    Checkpoint(u32),
    /// The block before it is not known, or too deep.
    #[error("block {0} follows none of the newest blocks that are known")]
    Disconnected(BlockHash),
    /// Another difficulty than the rules demand.
    #[error("block {height} states difficulty {got:#x}, the rules demand {expected:#x}")]
    Difficulty {
        /// The block.
        height: u32,
        /// By the rules, compact.
        expected: u32,
        /// Stated, compact.
        got: u32,
    },
    /// Its hash is above its target.
    #[error("block {0} does not show the work that it states")]
    Work(u32),
    /// Not later than the median of the blocks before it.
    #[error("block {height} is of {got}, not after {median}")]
    TooEarly {
        /// The block.
        height: u32,
        /// Median time past, seconds since 1970.
        median: u64,
        /// The block's time.
        got: u64,
    },
    /// From the future.
    #[error("block {height} is of {got}, too far after {now}")]
    TooLate {
        /// The block.
        height: u32,
        /// The device's clock, seconds since 1970.
        now: u64,
        /// The block's time.
        got: u64,
    },
}

/// The headers that the device knows: those of the newest epoch and of the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    network: Network,
    /// The height of the first in `known`.
    start: u32,
    /// Never empty.
    known: Vec<Header>,
}

/// What an extension changed: everything from that height on is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The lowest new height.
    pub from: u32,
}

impl Headers {
    /// Begins at the checkpoint.
    ///
    /// # Errors
    /// When it is not the first block of an epoch.
    pub fn new(network: Network, checkpoint: Checkpoint) -> Result<Self, BadHeader> {
        if !checkpoint.height.is_multiple_of(EPOCH) {
            return Err(BadHeader::Checkpoint(checkpoint.height));
        }
        Ok(Self { network, start: checkpoint.height, known: vec![checkpoint.header] })
    }

    /// Goes on from headers that were stored, the first one's height, and all that follow it. They were checked when they came.
    #[must_use]
    pub fn restore(self, (start, known): (u32, Vec<Header>)) -> Self {
        if known.is_empty() || start < self.start {
            return self;
        }
        if start == self.start + 1 {
            let known = self.known.into_iter().take(1).chain(known).collect();
            return Self { known, ..self };
        }
        Self { start, known, ..self }
    }

    /// The height of the oldest that is known.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The newest block, by height and hash.
    pub fn newest(&self) -> (u32, BlockHash) {
        (self.height(self.known.len() - 1), self.last().block_hash())
    }

    /// Height and median time past of the newest block.
    pub fn tip(&self) -> Tip {
        let height = self.height(self.known.len() - 1);
        Tip { height, time: median(&self.known).into() }
    }

    /// The known headers from a height on, with their heights.
    pub fn from(&self, height: u32) -> impl Iterator<Item = (u32, &Header)> {
        let skipped = height.saturating_sub(self.start) as usize;
        (self.start.max(height)..).zip(self.known.iter().skip(skipped))
    }

    /// Takes headers in the order of their heights, the first of which follows a known one. What is known already is skipped. A branch
    /// replaces what is there if it shows more work. `None` when nothing changed.
    ///
    /// # Errors
    /// See [`BadHeader`]; then nothing changed.
    pub fn extend(&mut self, headers: &[Header], now: u64) -> Result<Option<Changed>, BadHeader> {
        let is_known = |header: &&Header| self.position(&header.block_hash()).is_some();
        let headers = &headers[headers.iter().take_while(is_known).count()..];
        let Some(first) = headers.first() else { return Ok(None) };
        let parent =
            self.position(&first.prev_blockhash).ok_or(BadHeader::Disconnected(first.block_hash()))?;
        let replaced = &self.known[parent + 1..];
        if replaced.len() > MOST_REORGANISED {
            return Err(BadHeader::Disconnected(first.block_hash()));
        }
        let mut branch = Self {
            network: self.network,
            start: self.start,
            // Without its end, which may be replaced.
            known: self.known[..=parent].to_vec(),
        };
        for header in headers {
            branch.push(header, now)?;
        }
        if !replaced.is_empty() && work(headers) <= work(replaced) {
            return Ok(None);
        }
        let from = self.height(parent + 1);
        branch.forget();
        *self = branch;
        Ok(Some(Changed { from }))
    }

    fn push(&mut self, header: &Header, now: u64) -> Result<(), BadHeader> {
        let height = self.height(self.known.len());
        let hash = header.block_hash();
        if header.prev_blockhash != self.last().block_hash() {
            return Err(BadHeader::Disconnected(hash));
        }
        let (expected, got) = (self.difficulty(height, header), header.bits);
        if expected != got {
            let (expected, got) = (expected.to_consensus(), got.to_consensus());
            return Err(BadHeader::Difficulty { height, expected, got });
        }
        if !Target::from(got).is_met_by(hash) {
            return Err(BadHeader::Work(height));
        }
        let got = u64::from(header.time);
        // Near a checkpoint too few blocks before it are known.
        if self.known.len() >= MEDIAN || self.start == 0 {
            let median = u64::from(median(&self.known));
            if got <= median {
                return Err(BadHeader::TooEarly { height, median, got });
            }
        }
        if got > now.saturating_add(MOST_AHEAD) {
            return Err(BadHeader::TooLate { height, now, got });
        }
        self.known.push(*header);
        Ok(())
    }

    /// What the rules demand of the next block.
    fn difficulty(&self, height: u32, next: &Header) -> CompactTarget {
        let params = Params::new(self.network);
        let last = self.last();
        if params.no_pow_retargeting {
            return last.bits;
        }
        let least = params.max_attainable_target.to_compact_lossy();
        if height.is_multiple_of(EPOCH) {
            let first = &self.known[(height - EPOCH - self.start) as usize];
            let timespan = last.time.saturating_sub(first.time);
            // BIP94: the last block of an epoch may have had the least difficulty.
            let bits = if self.network == Network::Testnet4 { first.bits } else { last.bits };
            return CompactTarget::from_next_work_required(bits, timespan.into(), &params);
        }
        if self.network != Network::Testnet4 {
            return last.bits;
        }
        if next.time > last.time.saturating_add(LULL) {
            return least;
        }
        // The last block of this epoch whose difficulty is not due to a lull; the epoch's first block is always one.
        let epoch = (0..self.known.len()).rev().map(|at| (&self.known[at], self.height(at)));
        let mut epoch = epoch.take_while(|(_, at)| at / EPOCH == height / EPOCH);
        let real = epoch.find(|(header, at)| header.bits != least || at.is_multiple_of(EPOCH));
        real.map_or(last.bits, |(header, _)| header.bits)
    }

    /// Drops what no rule looks at any more.
    fn forget(&mut self) {
        let newest = self.height(self.known.len() - 1);
        let least = (newest / EPOCH).saturating_sub(1) * EPOCH;
        if least > self.start {
            self.known.drain(..(least - self.start) as usize);
            self.start = least;
        }
    }

    fn position(&self, hash: &BlockHash) -> Option<usize> {
        let deepest = self.known.len().saturating_sub(MOST_REORGANISED + 1);
        (deepest..self.known.len()).rev().find(|at| self.known[*at].block_hash() == *hash)
    }

    fn height(&self, position: usize) -> u32 {
        self.start + u32::try_from(position).expect("two epochs at most are known")
    }

    fn last(&self) -> &Header {
        self.known.last().expect("a checkpoint is known at least")
    }
}

/// The median time of the last eleven.
fn median(headers: &[Header]) -> u32 {
    let skipped = headers.len().saturating_sub(MEDIAN);
    let mut times: Vec<u32> = headers[skipped..].iter().map(|header| header.time).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn work(headers: &[Header]) -> Work {
    let mut works = headers.iter().map(Header::work);
    let first = works.next().expect("a branch has a block");
    works.fold(first, |sum, work| sum + work)
}

#[cfg(test)]
mod tests;
