//! The agent's signed word that it holds a promise no more.
//!
//! It binds nobody on chain: the encrypted signatures that the agent once had die only under a plain total at least their own
//! ([`super::drawn`]). But if the agent publishes one of them all the same, the writer has the agent's signature under both: under
//! this word, and under the commitment on the chain that breaks it. The secret alone proves nothing: the payee can hand it to the writer by
//! itself, and what the agent answers has only a MAC, which the writer could have made.
//!
//! An agent that has signed it takes no promise under that point any more ([`super::held`]). So nobody can have it sign for a point
//! that is not promised yet, promise under it then, and accuse it of a broken word.
//!
//! **Replay.** It names the newest update that the agent has taken by then. A writer that promises the same again does so under a new
//! point, of which this says nothing.

use secp256k1::schnorr;
use serde::{Deserialize, Serialize};

use super::point::AdaptorPoint;
use crate::channel::{Channel, ChannelId};
use crate::keys::{self, ChannelKeys};
use crate::tagged;

const CANCELS: &str = "farthing/cancellation";

/// A promise that an agent has given up, with its signature: BIP340, by the payee's funding key of the channel, over a tagged
/// SHA-256 of the other fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    /// The channel that promised it.
    pub channel: ChannelId,
    /// The promise's point.
    pub point: AdaptorPoint,
    /// The newest update that the agent had taken by then, which leaves the promise out.
    pub number: u64,
    signature: schnorr::Signature,
}

/// A word that is not the agent's, or not about that promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not the agent's signed word that the cheque is taken back")]
pub struct NotCancelled;

impl Cancellation {
    /// Signs it for a state that is stored ([`super::held::Effect::GiveUp`]). The same is always signed alike.
    pub fn sign(channel: ChannelId, point: AdaptorPoint, number: u64, keys: &ChannelKeys) -> Self {
        let signature = keys.sign_statement(CANCELS, &digest(&channel, &point, number));
        Self { channel, point, number, signature }
    }

    /// Whether the payee of this channel has signed it for that promise.
    ///
    /// # Errors
    /// When anything differs.
    pub fn check(&self, channel: &Channel, point: &AdaptorPoint) -> Result<(), NotCancelled> {
        let digest = digest(&channel.id(), point, self.number);
        let key = channel.params().payee.funding_xonly();
        let is_theirs = keys::statement_holds(&key, CANCELS, &digest, &self.signature);
        if is_theirs && self.channel == channel.id() && self.point == *point {
            Ok(())
        } else {
            Err(NotCancelled)
        }
    }
}

fn digest(channel: &ChannelId, point: &AdaptorPoint, number: u64) -> [u8; 32] {
    tagged::hash(CANCELS, &[channel.as_bytes(), &point.to_bytes(), &number.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cheque::point::AdaptorSecret;
    use crate::testing;

    #[test]
    fn only_the_agents_word_about_that_promise_counts() {
        let channel = testing::channel();
        let point = |byte| AdaptorSecret::from_bytes(&[byte; 32]).unwrap().point();
        let word = Cancellation::sign(channel.id(), point(1), 7, &testing::payee_keys());
        assert_eq!(word.check(&channel, &point(1)), Ok(()));
        assert_eq!(word.check(&channel, &point(2)), Err(NotCancelled));
        let later = Cancellation { number: 8, ..word.clone() };
        let elsewhere = Cancellation { channel: ChannelId::from_bytes([9; 32]), ..word.clone() };
        let by_the_payer = Cancellation::sign(channel.id(), point(1), 7, &testing::payer_keys());
        for wrong in [later, elsewhere, by_the_payer] {
            assert_eq!(wrong.check(&channel, &point(1)), Err(NotCancelled), "{wrong:?}");
        }
    }
}
