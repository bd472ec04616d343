//! What is known of how devices' channels ended in the chain. To find it out may take hours of reading, so nobody waits for it, it is kept over
//! a device's connections, and each block is read once, however often the device comes back. After a restart it is looked for again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::{BlockHash, OutPoint, Transaction};
use farthing_chain::{Chain, ChainError};
use farthing_node::device::alone::{CloseError, Found, Spent, spender_in_blocks, spent};
use tokio::sync::Semaphore;

/// As much as a closing can leave to be done: a commitment has 483 HTLCs of each side, each with a second stage at the most.
const MOST_TRANSACTIONS: usize = 484;
const MOST_INPUTS: usize = 2 * 966 + 1;
/// So many devices' closings are searched for in blocks at once. It is not the headers' turn: those every device waits for.
const SEARCHES: usize = 2;
/// After so many blocks a search that failed is tried again: the bitcoind may have no such old blocks any more.
pub(crate) const TRY_AGAIN: u32 = 6;

/// What is known, by channel.
pub(crate) struct Ends {
    known: Mutex<HashMap<[u8; 32], End>>,
    /// For what reads many blocks.
    pub(crate) searches: Arc<Semaphore>,
}

#[derive(Default)]
struct End {
    /// What spent the funding, and its block.
    found: Option<(Found, BlockHash)>,
    /// Up to this block nothing spends it.
    searched: Option<(u32, BlockHash)>,
    /// Somebody reads blocks for it.
    is_searching: bool,
    /// A search came to nothing at that height: it is tried again later.
    tried_at: Option<u32>,
    /// At which height everything that was to be sent was seen to be spent.
    settled_at: Option<u32>,
}

/// Whether that is more than a device can have to send for one channel.
pub(crate) fn is_too_much(transactions: &[Transaction]) -> bool {
    let inputs: usize = transactions.iter().map(|transaction| transaction.input.len()).sum();
    transactions.len() > MOST_TRANSACTIONS || inputs > MOST_INPUTS
}

impl Default for Ends {
    fn default() -> Self {
        Self { known: Mutex::default(), searches: Arc::new(Semaphore::new(SEARCHES)) }
    }
}

impl Ends {
    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], End>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What spent the funding, if it is known and still in its block.
    ///
    /// # Errors
    /// When the bitcoind gives no answer.
    pub(crate) fn found(&self, chain: &Chain, channel: &[u8; 32]) -> Result<Option<Found>, ChainError> {
        let known = self.known().get(channel).and_then(|end| end.found.clone());
        let Some((found, block)) = known else { return Ok(None) };
        match found.height.map(|height| chain.block_hash(height)).transpose()?.flatten() {
            Some(hash) if hash == block => Ok(Some(found)),
            Some(_) | None => {
                self.known().remove(channel);
                Ok(None)
            }
        }
    }

    /// Looks in the blocks that were not looked at before. Blocks, for long.
    ///
    /// # Errors
    /// See [`CloseError`].
    pub(crate) fn search(
        &self,
        chain: &Chain,
        channel: [u8; 32],
        funding: &OutPoint,
    ) -> Result<Option<Found>, CloseError> {
        // Another connection of the device may have waited for the same.
        if let Some(found) = self.found(chain, &channel)? {
            return Ok(Some(found));
        }
        match spent(chain, funding)? {
            Spent::Not => return Ok(None),
            Spent::By(found) => return Ok(Some(found)),
            Spent::InSomeBlock => {}
        }
        let tip = chain.tip()?;
        let searched = self.known().get(&channel).and_then(|end| end.searched);
        let lowest = match searched {
            Some((height, hash)) if chain.block_hash(height)? == Some(hash) => height + 1,
            Some(_) | None => 0,
        };
        let found = spender_in_blocks(chain, funding, tip.height, lowest)?;
        let block = found.as_ref().and_then(|found| found.height).map(|height| chain.block_hash(height));
        let block = block.transpose()?.flatten();
        let mut known = self.known();
        let end = known.entry(channel).or_default();
        end.searched = Some((tip.height, tip.hash));
        end.found = found.clone().zip(block);
        Ok(found)
    }

    /// Whether what spent a funding is being searched for, or was found meanwhile.
    pub(crate) fn will_know(&self, channel: &[u8; 32]) -> bool {
        self.known().get(channel).is_some_and(|end| end.is_searching || end.found.is_some())
    }

    /// Whether blocks are being read for a channel.
    pub(crate) fn is_searching(&self, channel: &[u8; 32]) -> bool {
        self.known().get(channel).is_some_and(|end| end.is_searching)
    }

    /// Whether blocks are to be read for a channel at that height: then whoever asks has to do it.
    pub(crate) fn begins_search(&self, channel: [u8; 32], height: u32) -> bool {
        let mut known = self.known();
        let end = known.entry(channel).or_default();
        let is_due = end.tried_at.is_none_or(|tried| height >= tried.saturating_add(TRY_AGAIN));
        let begins = is_due && !end.is_searching;
        end.is_searching |= begins;
        begins
    }

    /// Nobody reads blocks for a channel any more. `failed_at` is set when that came to nothing.
    pub(crate) fn ends_search(&self, channel: [u8; 32], failed_at: Option<u32>) {
        let mut known = self.known();
        let end = known.entry(channel).or_default();
        (end.is_searching, end.tried_at) = (false, failed_at);
    }

    /// Notes whether everything that was to be sent is spent at that height. Gives since when it is.
    pub(crate) fn settled_at(&self, channel: [u8; 32], is_spent: bool, height: u32) -> Option<u32> {
        let mut known = self.known();
        let end = known.entry(channel).or_default();
        // A reorganisation may have gone below.
        let since = end.settled_at.map_or(height, |since| since.min(height));
        end.settled_at = is_spent.then_some(since);
        end.settled_at
    }

    /// Nothing waits any more.
    pub(crate) fn forget(&self, channel: &[u8; 32]) {
        self.known().remove(channel);
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::absolute::LockTime;
    use bitcoin::hashes::Hash as _;
    use bitcoin::transaction::Version;
    use bitcoin::{Address, Amount, Network, Script, TxIn, Txid};
    use farthing_chain::RegtestNode;

    use super::*;

    #[test]
    fn no_block_is_read_twice_and_what_was_found_is_kept() {
        let regtest = RegtestNode::start().unwrap();
        let (chain, ends, channel) = (regtest.chain(), Ends::default(), [1; 32]);
        // Nobody knows it: as if it were spent long ago.
        let nowhere = OutPoint { txid: Txid::from_byte_array([7; 32]), vout: 0 };
        assert!(ends.search(&chain, channel, &nowhere).unwrap().is_none());
        let searched = || ends.known().get(&channel).unwrap().searched.unwrap().0;
        assert_eq!(searched(), chain.tip().unwrap().height);

        // The wallet spends a coin of its own, three blocks below the tip.
        let to = Address::p2wsh(Script::new(), Network::Regtest);
        let spender = regtest.pay(&to, Amount::from_sat(10_000)).unwrap();
        let coin = spender.input[0].previous_output;
        regtest.mine(4).unwrap();
        let txid = |found: Option<Found>| found.map(|found| found.transaction.compute_txid());
        let found = ends.search(&chain, channel, &coin).unwrap();
        assert_eq!(txid(found), Some(spender.compute_txid()), "above what was searched");
        assert_eq!(txid(ends.found(&chain, &channel).unwrap()), Some(spender.compute_txid()));

        // Where those blocks were searched already, they are not read again.
        let other = [2; 32];
        assert!(ends.search(&chain, other, &nowhere).unwrap().is_none());
        assert!(ends.search(&chain, other, &coin).unwrap().is_none());
        // Until they are others.
        let tip = chain.tip().unwrap();
        regtest.invalidate(&tip.hash).unwrap();
        regtest.pay(&to, Amount::from_sat(20_000)).unwrap();
        regtest.mine(1).unwrap();
        assert_eq!(txid(ends.search(&chain, other, &coin).unwrap()), Some(spender.compute_txid()));
        assert!(ends.found(&chain, &channel).unwrap().is_some());
    }

    #[test]
    fn what_is_spent_counts_from_when_it_was_first_seen() {
        let (ends, channel) = (Ends::default(), [1; 32]);
        assert_eq!(ends.settled_at(channel, false, 100), None);
        assert_eq!(ends.settled_at(channel, true, 101), Some(101));
        assert_eq!(ends.settled_at(channel, true, 105), Some(101));
        assert_eq!(ends.settled_at(channel, false, 106), None, "a block was taken back");
        assert_eq!(ends.settled_at(channel, true, 107), Some(107));
    }

    #[test]
    fn a_device_gives_no_more_than_a_closing_can_leave() {
        let spending = |inputs| Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn::default(); inputs],
            output: Vec::new(),
        };
        assert!(!is_too_much(&vec![spending(1); MOST_TRANSACTIONS]));
        assert!(is_too_much(&vec![spending(1); MOST_TRANSACTIONS + 1]));
        assert!(!is_too_much(&[spending(MOST_INPUTS)]));
        assert!(is_too_much(&[spending(MOST_INPUTS + 1)]));
    }
}
