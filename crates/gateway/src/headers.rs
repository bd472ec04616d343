//! Which headers a device is sent: those above where it stands, a page at a time.
//!
//! Each header costs the bitcoind two questions. So one page is read for a device at a time, a few for all devices together, and none for a
//! device that is not enrolled.

use bitcoin::BlockHash;
use bitcoin::block::Header;
use farthing_chain::{Chain, ChainError};
use farthing_protocol::device::wire::MOST_HEADERS;

/// A device that does not know our chain gets headers from this many blocks below where it stands.
const BACK: u32 = 100;

/// A block, by height and hash.
pub(crate) type Position = (u32, BlockHash);

/// Headers in order, at most [`MOST_HEADERS`].
pub(crate) struct Page {
    pub headers: Vec<Header>,
    /// The last block that whoever has this page has.
    pub up_to: Position,
}

impl Page {
    /// The page above what was sent last, or the first one above what the device said of itself. Blocks.
    ///
    /// # Errors
    /// When the bitcoind gives no answer.
    pub(crate) fn read(chain: &Chain, sent: Option<Position>, said: Position) -> Result<Self, ChainError> {
        let (mut height, mut hash) = match sent {
            Some(sent) => still_there(chain, sent)?,
            None => start(chain, said)?,
        };
        let mut headers = Vec::new();
        while headers.len() < MOST_HEADERS {
            let Some(next) = chain.block_hash(height + 1)? else { break };
            let header = chain.header(&next)?;
            // Another chain, since the last question: the next page begins below it.
            if header.prev_blockhash != hash {
                break;
            }
            headers.push(header);
            (height, hash) = (height + 1, next);
        }
        Ok(Self { headers, up_to: (height, hash) })
    }

    /// Whether there may be more above it now.
    pub(crate) fn is_full(&self) -> bool {
        self.headers.len() >= MOST_HEADERS
    }
}

/// The newest of the blocks that were sent which is still in the chain.
fn still_there(chain: &Chain, (mut height, mut hash): Position) -> Result<Position, ChainError> {
    while chain.block_hash(height)? != Some(hash) {
        hash = chain.header(&hash)?.prev_blockhash;
        height = height.saturating_sub(1);
    }
    Ok((height, hash))
}

/// The last header that both know, or one well below.
fn start(chain: &Chain, (height, hash): Position) -> Result<Position, ChainError> {
    if chain.block_hash(height)? == Some(hash) {
        return Ok((height, hash));
    }
    let back = height.min(chain.tip()?.height).saturating_sub(BACK);
    let hash = chain.block_hash(back)?.unwrap_or(hash);
    Ok((back, hash))
}

#[cfg(test)]
mod tests {
    use bitcoin::{Address, Amount, Network, Script};
    use farthing_chain::RegtestNode;

    use super::*;

    #[test]
    fn a_page_ends_at_the_limit_and_the_next_one_goes_on() {
        let regtest = RegtestNode::start().unwrap();
        let chain = regtest.chain();
        let genesis = (0, chain.block_hash(0).unwrap().unwrap());
        let most = u32::try_from(MOST_HEADERS).unwrap();
        while chain.tip().unwrap().height < most + 3 {
            regtest.mine(150).unwrap();
        }
        let tip = chain.tip().unwrap();

        let first = Page::read(&chain, None, genesis).unwrap();
        assert!(first.is_full());
        assert_eq!((first.headers.len(), first.up_to.0), (MOST_HEADERS, most));
        let second = Page::read(&chain, Some(first.up_to), genesis).unwrap();
        assert!(!second.is_full());
        assert_eq!(second.headers[0].prev_blockhash, first.up_to.1);
        assert_eq!(second.up_to, (tip.height, tip.hash));

        // What was sent is no longer in the chain.
        regtest.invalidate(&tip.hash).unwrap();
        // Else the same block would be mined again.
        let address = Address::p2wsh(Script::new(), Network::Regtest);
        regtest.send(&address, Amount::from_sat(10_000)).unwrap();
        regtest.mine(2).unwrap();
        let third = Page::read(&chain, Some(second.up_to), genesis).unwrap();
        assert_eq!((third.headers.len(), third.up_to.0), (2, tip.height + 1));
    }
}
