//! What ties a payment to one request.
//!
//! A signed total says how much, not what for. Whoever reads it on a wire or in a log could send it with another
//! request and have the payer's credit spent on that. So every call carries a MAC under a key that is never sent:
//! `K = H_tag(ECDH(session keys) ‖ channel id)`. The session keys are derived apart from the funding keys, and both are
//! part of the channel id that each side signs at the opening.
//!
//! The hash is a BIP340-style tagged SHA-256, the MAC is HMAC-SHA256 (RFC 2104).

use bitcoin::hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256};
use secp256k1::PublicKey;
use secp256k1::ecdh::SharedSecret;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::amount::Msat;
use crate::channel::ChannelId;
use crate::keys::ChannelKeys;
use crate::tagged;

/// The key that authenticates one channel's calls. The same on both sides; never sent, stored or printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct CallKey([u8; 32]);

/// A call that does not carry the right MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the call's authentication code does not fit the request it came with")]
pub struct NotAuthentic;

/// Everything that a call's MAC covers.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The channel that pays.
    pub channel: ChannelId,
    /// What is bought: the same item is charged once, however often it is asked for.
    pub item: [u8; 32],
    /// What the payer will pay for it.
    pub cost: Msat,
    /// The total that the payer has signed, this call included.
    pub total: Msat,
    /// The request's method.
    pub method: &'a str,
    /// The host and port that the request is for.
    pub authority: &'a str,
    /// The request's path.
    pub target: &'a str,
    /// The credential's challenge, so that the terms cannot be exchanged.
    pub challenge: &'a str,
}

impl CallKey {
    /// Agrees on the key of `channel` with the other side's public session key.
    pub fn agree(keys: &ChannelKeys, theirs: &PublicKey, channel: ChannelId) -> Self {
        let mut shared = SharedSecret::new(theirs, &keys.session).secret_bytes();
        let key = tagged::hash("farthing/call-key", &[&shared, channel.as_bytes()]);
        shared.zeroize();
        Self(key)
    }

    /// The call's MAC.
    pub fn mac(&self, call: &Call<'_>) -> [u8; 32] {
        self.hmac(call).to_byte_array()
    }

    /// Checks a call's MAC, in constant time.
    ///
    /// # Errors
    /// When anything that the MAC covers differs.
    pub fn verify(&self, call: &Call<'_>, mac: &[u8; 32]) -> Result<(), NotAuthentic> {
        let expected = self.hmac(call).to_byte_array();
        if bitcoin::hashes::cmp::fixed_time_eq(&expected, mac) { Ok(()) } else { Err(NotAuthentic) }
    }

    /// A key for another purpose, which tells nothing of this one.
    pub(crate) fn derive(&self, tag: &str) -> [u8; 32] {
        tagged::hash(tag, &[&self.0])
    }

    fn hmac(&self, call: &Call<'_>) -> Hmac<sha256::Hash> {
        let mut engine = HmacEngine::<sha256::Hash>::new(&self.0);
        engine.input(call.channel.as_bytes());
        engine.input(&call.item);
        engine.input(&call.cost.get().to_be_bytes());
        engine.input(&call.total.get().to_be_bytes());
        for text in [call.method, call.authority, call.target, call.challenge] {
            engine.input(&(text.len() as u64).to_be_bytes());
            engine.input(text.as_bytes());
        }
        Hmac::from_engine(engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn both_sides_agree_and_every_field_counts() {
        let channel = testing::channel();
        let params = channel.params();
        let payer = CallKey::agree(&testing::payer_keys(), &params.payee.session, channel.id());
        let payee = CallKey::agree(&testing::payee_keys(), &params.payer.session, channel.id());
        let call = Call {
            channel: channel.id(),
            item: [1; 32],
            cost: Msat::new(10),
            total: Msat::new(700),
            method: "GET",
            authority: "a.example",
            target: "/file",
            challenge: "id",
        };
        let mac = payer.mac(&call);
        assert_eq!(payee.verify(&call, &mac), Ok(()));
        for other in [
            Call { channel: ChannelId::from_bytes([9; 32]), ..call },
            Call { item: [2; 32], ..call },
            Call { cost: Msat::new(11), ..call },
            Call { total: Msat::new(701), ..call },
            Call { method: "POST", ..call },
            Call { authority: "b.example", ..call },
            Call { target: "/other", ..call },
            Call { challenge: "other", ..call },
        ] {
            assert_eq!(payee.verify(&other, &mac), Err(NotAuthentic));
        }
    }

    #[test]
    fn another_channel_has_another_key() {
        let channel = testing::channel();
        let session = &channel.params().payee.session;
        let here = CallKey::agree(&testing::payer_keys(), session, channel.id());
        let there = CallKey::agree(&testing::payer_keys(), session, ChannelId::from_bytes([9; 32]));
        assert_ne!(here.0, there.0);
    }
}
