//! What travels with a call: its number, what it may cost, a word, and a MAC that binds them to the request.
//!
//! | bytes | field |
//! |---|---|
//! | 32 | channel id |
//! | 4, 8 | call number: epoch, counter |
//! | 8 | the most that the call may cost, in millisatoshi |
//! | 4, 4, 32 | chain, index, word |
//! | 32 or 0 | the last word of the chain before, until a call on this chain was answered |
//! | 32 | HMAC-SHA256 (RFC 2104) over all of it and the request |
//!
//! Numbers are big-endian. A word pays for every word below it, so whoever reads one in a log could spend it on another
//! request; the MAC's key is never sent ([`crate::session`]).

use bitcoin::hashes::{Hash, HashEngine, cmp, sha256};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::amount::Msat;
use crate::channel::ChannelId;
use crate::lightspeed::word::Word;
use crate::session::{CallKey, NotAuthentic};
use crate::tagged;

/// The length of a call that carries one word, in bytes.
pub const LENGTH: usize = 124;
/// The length of a call that carries the last word of the chain before as well.
pub const LENGTH_WITH_LAST: usize = LENGTH + 32;

/// Names a call of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallNumber {
    /// The payee's start that serves it.
    pub epoch: u32,
    /// Counts the payer's calls.
    pub counter: u64,
}

/// A call's payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which channel pays.
    pub channel: ChannelId,
    /// Which call this is: the same number is charged once.
    pub number: CallNumber,
    /// The most that it may cost.
    pub cost: Msat,
    /// Which chain the word is of.
    pub chain: u32,
    /// The word's index.
    pub index: u32,
    /// The word.
    pub word: Word,
    /// The last word of the chain before.
    pub last: Option<Word>,
}

/// The request that a call pays for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The host and port that it is for.
    pub authority: &'a str,
    /// Its path and query.
    pub uri: &'a str,
    /// SHA256 of its body.
    pub body: [u8; 32],
}

/// SHA256 of nothing: the body of most requests.
pub const NO_BODY: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// Bytes that are no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a call is {LENGTH} or {LENGTH_WITH_LAST} bytes, got {0}")]
pub struct WrongLength(pub usize);

impl Call {
    /// The call and its MAC, as they travel.
    pub fn to_bytes(&self, mac: &[u8; 32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH_WITH_LAST);
        self.feed(|part| bytes.extend_from_slice(part));
        bytes.extend_from_slice(mac);
        bytes
    }

    /// Reads a call and its MAC.
    ///
    /// # Errors
    /// When the length is neither of the two.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Self, [u8; 32]), WrongLength> {
        let wrong = WrongLength(bytes.len());
        if bytes.len() != LENGTH && bytes.len() != LENGTH_WITH_LAST {
            return Err(wrong);
        }
        let mut reader = Reader(bytes);
        let call = Self {
            channel: ChannelId::from_bytes(reader.take().ok_or(wrong)?),
            number: CallNumber {
                epoch: u32::from_be_bytes(reader.take().ok_or(wrong)?),
                counter: u64::from_be_bytes(reader.take().ok_or(wrong)?),
            },
            cost: Msat::new(u64::from_be_bytes(reader.take().ok_or(wrong)?)),
            chain: u32::from_be_bytes(reader.take().ok_or(wrong)?),
            index: u32::from_be_bytes(reader.take().ok_or(wrong)?),
            word: Word::from_bytes(reader.take().ok_or(wrong)?),
            last: if bytes.len() == LENGTH_WITH_LAST { reader.take().map(Word::from_bytes) } else { None },
        };
        Ok((call, reader.take().ok_or(wrong)?))
    }

    fn feed(&self, mut sink: impl FnMut(&[u8])) {
        sink(self.channel.as_bytes());
        sink(&self.number.epoch.to_be_bytes());
        sink(&self.number.counter.to_be_bytes());
        sink(&self.cost.get().to_be_bytes());
        sink(&self.chain.to_be_bytes());
        sink(&self.index.to_be_bytes());
        sink(self.word.as_bytes());
        if let Some(last) = &self.last {
            sink(last.as_bytes());
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}

/// The key of a channel's calls, its two pads absorbed once: the MAC of a short request then takes four compressions.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct MacKey {
    inner: [u8; 32],
    outer: [u8; 32],
}

impl MacKey {
    /// Derives the key from the channel's. It is another one than that of paid pieces, so a MAC for one is never a MAC
    /// for the other.
    pub fn new(key: &CallKey) -> Self {
        let mut derived = key.derive("farthing/lightspeed");
        let mut pads = [[0x36; 64], [0x5c; 64]];
        for pad in &mut pads {
            pad.iter_mut().zip(&derived).for_each(|(byte, key)| *byte ^= key);
        }
        let midstate = |pad: &[u8; 64]| {
            let mut engine = sha256::Hash::engine();
            engine.input(pad);
            engine.midstate().to_byte_array()
        };
        let key = Self { inner: midstate(&pads[0]), outer: midstate(&pads[1]) };
        derived.zeroize();
        pads.zeroize();
        key
    }

    /// Checks a call's MAC, in constant time.
    ///
    /// # Errors
    /// When anything that the MAC covers differs.
    pub fn verify(&self, call: &Call, target: &Target<'_>, mac: &[u8; 32]) -> Result<(), NotAuthentic> {
        let expected = self.mac(call, target);
        if cmp::fixed_time_eq(&expected, mac) { Ok(()) } else { Err(NotAuthentic) }
    }

    /// The MAC of a call with its request.
    pub fn mac(&self, call: &Call, target: &Target<'_>) -> [u8; 32] {
        let engine = |midstate: [u8; 32]| {
            sha256::HashEngine::from_midstate(sha256::Midstate::from_byte_array(midstate), 64)
        };
        let mut inner = Message { engine: engine(self.inner), gathered: [0; MESSAGE], length: 0 };
        call.feed(|part| inner.input(part));
        // Whether there is a last word must not be guessed from the lengths that follow.
        inner.input(&[u8::from(call.last.is_some())]);
        for text in [target.method, target.authority, target.uri] {
            inner.input(&(text.len() as u32).to_be_bytes());
            inner.input(text.as_bytes());
        }
        inner.input(&target.body);
        tagged::finish::<64>(engine(self.outer), &inner.digest())
    }
}

/// How much of a message is gathered before it is hashed: all of it for most requests, and its padding.
const MESSAGE: usize = 512;

/// What a MAC covers, gathered: to feed the engine in small parts takes longer than to hash them.
struct Message {
    engine: sha256::HashEngine,
    gathered: [u8; MESSAGE],
    length: usize,
}

impl Message {
    fn input(&mut self, part: &[u8]) {
        if part.len() > MESSAGE - self.length {
            self.engine.input(&self.gathered[..self.length]);
            self.length = 0;
        }
        match self.gathered.get_mut(self.length..self.length + part.len()) {
            Some(room) => {
                room.copy_from_slice(part);
                self.length += part.len();
            }
            None => self.engine.input(part), // nothing is gathered now
        }
    }

    fn digest(mut self) -> [u8; 32] {
        tagged::finish_in_place(self.engine, &mut self.gathered, self.length)
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::{Hmac, HmacEngine};

    use super::*;
    use crate::testing;

    fn call() -> Call {
        Call {
            channel: testing::channel().id(),
            number: CallNumber { epoch: 3, counter: 77 },
            cost: Msat::new(10),
            chain: 2,
            index: 500,
            word: Word::from_bytes([5; 32]),
            last: None,
        }
    }

    const TARGET: Target<'static> =
        Target { method: "GET", authority: "a.example", uri: "/v1/x?q=1", body: [9; 32] };

    fn key(of_payer: bool) -> MacKey {
        let channel = testing::channel();
        let params = channel.params();
        let (ours, theirs) = if of_payer {
            (testing::payer_keys(), params.payee.session)
        } else {
            (testing::payee_keys(), params.payer.session)
        };
        MacKey::new(&CallKey::agree(&ours, &theirs, channel.id()))
    }

    #[test]
    fn no_body_is_hashed_like_any() {
        assert_eq!(sha256::Hash::hash(&[]).to_byte_array(), NO_BODY);
    }

    #[test]
    fn bytes_there_and_back_and_no_other_length() {
        let mac = [8; 32];
        for call in [call(), Call { last: Some(Word::from_bytes([6; 32])), ..call() }] {
            assert_eq!(Call::from_bytes(&call.to_bytes(&mac)), Ok((call, mac)));
        }
        for length in [0, 31, LENGTH - 1, LENGTH + 1, LENGTH_WITH_LAST - 1, LENGTH_WITH_LAST + 1, 1_000_000] {
            assert_eq!(Call::from_bytes(&vec![1; length]), Err(WrongLength(length)));
        }
    }

    #[test]
    fn the_mac_is_an_hmac_and_both_sides_agree() {
        let channel = testing::channel();
        let shared = CallKey::agree(&testing::payer_keys(), &channel.params().payee.session, channel.id());
        let mut engine = HmacEngine::<sha256::Hash>::new(&shared.derive("farthing/lightspeed"));
        call().feed(|part| engine.input(part));
        engine.input(&[0, 0, 0, 0, 3]);
        engine.input(b"GET\0\0\0\x09a.example\0\0\0\x09/v1/x?q=1");
        engine.input(&[9; 32]);
        let expected = Hmac::<sha256::Hash>::from_engine(engine).to_byte_array();
        assert_eq!(key(true).mac(&call(), &TARGET), expected);
        assert_eq!(key(false).verify(&call(), &TARGET, &expected), Ok(()));
    }

    #[test]
    fn a_long_request_has_the_same_mac_as_in_one_piece() {
        let channel = testing::channel();
        let shared = CallKey::agree(&testing::payer_keys(), &channel.params().payee.session, channel.id());
        for length in [0, 250, 280, 290, 300, 330, 340, 350, 360, 447, 448, 449, 511, 512, 513, 5_000] {
            let uri = "x".repeat(length);
            let mut engine = HmacEngine::<sha256::Hash>::new(&shared.derive("farthing/lightspeed"));
            call().feed(|part| engine.input(part));
            engine.input(&[0, 0, 0, 0, 3]);
            engine.input(b"GET\0\0\0\x09a.example");
            engine.input(&(length as u32).to_be_bytes());
            engine.input(uri.as_bytes());
            engine.input(&TARGET.body);
            let expected = Hmac::<sha256::Hash>::from_engine(engine).to_byte_array();
            assert_eq!(key(true).mac(&call(), &Target { uri: &uri, ..TARGET }), expected, "{length}");
        }
    }

    #[test]
    fn every_field_of_call_and_request_counts() {
        let key = key(true);
        let mac = key.mac(&call(), &TARGET);
        let calls = [
            Call { channel: ChannelId::from_bytes([1; 32]), ..call() },
            Call { number: CallNumber { epoch: 4, counter: 77 }, ..call() },
            Call { number: CallNumber { epoch: 3, counter: 78 }, ..call() },
            Call { cost: Msat::new(11), ..call() },
            Call { chain: 3, ..call() },
            Call { index: 501, ..call() },
            Call { word: Word::from_bytes([6; 32]), ..call() },
            Call { last: Some(Word::from_bytes([0; 32])), ..call() },
        ];
        for other in calls {
            assert_eq!(key.verify(&other, &TARGET, &mac), Err(NotAuthentic), "{other:?}");
        }
        let targets = [
            Target { method: "PUT", ..TARGET },
            Target { authority: "b.example", ..TARGET },
            Target { uri: "/v1/x?q=2", ..TARGET },
            Target { body: [8; 32], ..TARGET },
            Target { method: "GE", authority: "Ta.example", ..TARGET },
        ];
        for other in targets {
            assert_eq!(key.verify(&call(), &other, &mac), Err(NotAuthentic), "{other:?}");
        }
    }
}
