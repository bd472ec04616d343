//! What the fuzz targets share: a reader of choices, JSON with a few values exchanged, one fixed channel, and what holds of every price.
//!
//! A target that wants JSON of a certain shape would wait long for it: so half of the inputs are taken as they are, and
//! the other half exchange values of a well-formed example ([`json`]).

pub mod fixture;

use farthing_http::tariff::CallPrice;
use farthing_protocol::Msat;
use serde_json::Value;

/// Reads choices out of the fuzzer's bytes. After their end every choice is zero, or one of an endless stream.
pub struct Choices<'a> {
    bytes: &'a [u8],
    stream: Option<u64>,
}

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, stream: None }
    }

    /// Half of the inputs go on after their end with a stream that they determine. The fuzzer begins with short inputs and
    /// makes them longer only slowly, and a long story needs many choices.
    pub fn maybe_endless(bytes: &'a [u8]) -> Self {
        let mut choices = Self::new(bytes);
        if !choices.byte().is_multiple_of(2) {
            // FNV-1a
            let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            choices.stream = Some(choices.bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix));
        }
        choices
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.stream.is_none()
    }

    pub fn byte(&mut self) -> u8 {
        if let Some((first, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            return *first;
        }
        let Some(state) = &mut self.stream else { return 0 };
        // SplitMix64
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 56) as u8
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number of any order of magnitude, so that small ones and limits are as likely as large ones.
    pub fn amount(&mut self) -> u64 {
        let shift = self.byte() % 64;
        self.u64() >> shift
    }

    /// At most `most` of the next bytes.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(most.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// All of the bytes that are left.
    pub fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// Goes on after bytes that somebody else has read.
    pub fn resume_at(&mut self, bytes: &'a [u8]) {
        self.bytes = bytes;
    }

    /// The bytes that are left, without taking them.
    pub fn peek(&self) -> &'a [u8] {
        self.bytes
    }
}

/// JSON as it came, or an example with some of its values exchanged.
pub fn json(choices: &mut Choices<'_>, example: &Value) -> Vec<u8> {
    if choices.byte().is_multiple_of(2) {
        return std::mem::replace(choices, Choices::new(&[])).rest().to_vec();
    }
    let mut value = example.clone();
    let mut leaves = Vec::new();
    pointers(example, String::new(), &mut leaves);
    for _ in 0..choices.byte() % 8 {
        let leaf = &leaves[usize::from(choices.byte()) % leaves.len()];
        if let Some(leaf) = value.pointer_mut(leaf) {
            *leaf = replacement(choices, leaf);
        }
    }
    serde_json::to_vec(&value).expect("a value can be written")
}

fn replacement(choices: &mut Choices<'_>, old: &Value) -> Value {
    match choices.byte() % 8 {
        0 => Value::Null,
        1 => Value::from(choices.byte() > 127),
        2 => Value::from(choices.u64() as i64),
        3 => Value::from(choices.amount().to_string()),
        4 => {
            let length = usize::from(choices.byte());
            Value::from(String::from_utf8_lossy(choices.take(length)).into_owned())
        }
        // The same text with one character exchanged: mostly hexadecimal that is almost right.
        5 => match old.as_str() {
            Some(text) if text.is_ascii() && !text.is_empty() => {
                let mut bytes = text.as_bytes().to_vec();
                let at = usize::from(choices.byte()) % bytes.len();
                bytes[at] = b"0123456789abcdef"[usize::from(choices.byte() % 16)];
                Value::from(String::from_utf8_lossy(&bytes).into_owned())
            }
            _ => Value::from(choices.byte()),
        },
        _ => Value::from(choices.amount()),
    }
}

fn pointers(value: &Value, at: String, leaves: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                pointers(field, format!("{at}/{name}"), leaves);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, format!("{at}/{index}"), leaves);
            }
        }
        _ => {}
    }
    leaves.push(at);
}

/// What a payer relies on when it reckons with a seller's price: for an answer of so many bytes and events, and one that is a little longer.
pub fn reckon(price: &CallPrice, bytes: u64, events: u64) {
    let cost = price.of(bytes, events);
    assert!(price.is_metered() || cost == price.call, "the answer does not count");
    assert!(price.call <= cost && price.call <= price.least(), "less than the call itself costs");
    let longer = [price.of(bytes.saturating_add(1), events), price.of(bytes, events.saturating_add(1))];
    assert!(longer.into_iter().all(|longer| longer >= cost), "a longer answer costs less");
    assert!(price.least() <= price.of(u64::MAX, u64::MAX), "more is set aside than any answer costs");
    assert!(!price.is_free() || cost.max(price.least()) == Msat::ZERO, "what is free costs something");
    let _for_people = price.to_string();
}
