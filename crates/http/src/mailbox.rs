//! A mailbox over HTTP: keeps sealed letters and prekeys for payees that are offline.
//!
//! | request | by | answer |
//! |---|---|---|
//! | `GET /mailbox` | anybody | its bounds ([`TermsBody`]) |
//! | `POST /mailbox/letters/BOX?expiry=TIME` | anybody, paid | 201 once the letter, the 7,168 bytes of the body, is stored |
//! | `POST /mailbox/prekeys/BOX` | anybody, paid | 200 with a prekey that nobody else gets ([`SignedPrekey`] in JSON) |
//! | `POST /mailbox/boxes/BOX` | its owner, paid if the operator wants | 204 once the box is open |
//! | `GET /mailbox/letters/BOX?after=CURSOR` | its owner | 200 with at most [`PAGE`] letters, the oldest first |
//! | `DELETE /mailbox/letters/BOX/ID` | its owner | 204, also when it is not there |
//! | `PUT /mailbox/prekeys/BOX` | its owner | 200 once the prekeys of the body are stored ([`StandingBody`]) |
//! | `GET /mailbox/prekeys/BOX` | its owner | 200, how many prekeys are left ([`StandingBody`]) |
//!
//! `BOX` is the identity of an address, 64 hexadecimal digits; `ID` the letter's SHA-256; `TIME` in seconds since 1970. A page of
//! letters is a row of records, each a cursor of 8 bytes, big-endian, and 7,168 bytes. What an owner asks for carries a signature
//! ([`farthing_mailbox::request`]) and is free; what others post costs a price for each request, which a
//! [`Gate`](crate::gate::Gate) before these routes takes by Lightspeed ([`tariff`]).
//!
//! What goes wrong is told as a problem: `no-box` and `no-prekeys` (404), `forbidden` (403) for a signature that does not fit,
//! `stale-request` (409) with the header [`TIME`] that names a time to sign instead, `already-kept` (409) for a letter that was
//! posted before, `mailbox-full` (507), `bad-request` (400). None of these is charged.
//!
//! **Who learns what.** The operator sees how many letters come for an identity, and when; it cannot read them. It takes no
//! note of who posts. One that wants to can link what comes over one connection or is paid from one channel.
//!
//! **Who can lose what.** A payer: the postage of a letter that the mailbox then loses. A payee: letters that the mailbox holds
//! back. Neither loses a cheque's money: nothing is paid for a cheque that does not arrive. A mailbox that dies between the
//! storing of a prekey's giving and its answer gave it to nobody.

mod client;
mod error;
mod owner;
mod server;

use farthing_mailbox::blob;
use farthing_protocol::Msat;
use farthing_protocol::cheque::prekey::PrekeyId;
#[allow(unused_imports, reason = "named in the documentation")]
use farthing_protocol::cheque::prekey::SignedPrekey;
use secp256k1::XOnlyPublicKey;
use serde::{Deserialize, Serialize};

pub use self::client::{Client, Fetched};
pub use self::error::{DeleteError, FetchError, OpenError, PostError, PublishError, TakeError};
pub use self::owner::{Owner, Unreadable};
pub use self::server::router;
use crate::tariff::{CallPrice, Rule, Tariff};

/// Where a mailbox tells its bounds. Everything of it lies below.
pub const ROOT: &str = "/mailbox";
/// The most letters in one answer.
pub const PAGE: u32 = 64;
/// The most prekeys in one request.
pub const MOST_PREKEYS: usize = 100;
/// The header of a refusal that names a time, in microseconds since 1970, that the mailbox takes for the next request.
pub const TIME: &str = "mailbox-time";
/// A letter with its cursor, in bytes.
const RECORD: usize = 8 + blob::LENGTH;

/// `GET` [`ROOT`]: how much a mailbox keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TermsBody {
    /// The length of every letter.
    pub letter_bytes: u64,
    /// How long a letter is kept at most.
    pub most_keep_seconds: u64,
    /// How many letters a box holds.
    pub most_letters: u32,
    /// How many prekeys a box holds.
    pub most_prekeys: u32,
}

/// How many prekeys a box has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StandingBody {
    /// Prekeys that were not given out.
    pub unused: u32,
    /// Their generation, and the least number that was not published yet.
    pub next: Option<PrekeyId>,
}

/// What a mailbox's requests cost: so much for a letter and for a prekey, so much for opening a box. What an owner asks for
/// is free.
pub fn tariff(letter: Msat, opening: Msat) -> Tariff {
    let rule = |path: String, price| Rule {
        method: Some("POST".to_owned()),
        path,
        price: CallPrice::per_call(price),
    };
    let rules = vec![rule(format!("{ROOT}/boxes/*"), opening), rule(format!("{ROOT}/*"), letter)];
    Tariff::list(rules, CallPrice::default())
}

fn letters_path(identity: &XOnlyPublicKey) -> String {
    format!("{ROOT}/letters/{identity}")
}

fn prekeys_path(identity: &XOnlyPublicKey) -> String {
    format!("{ROOT}/prekeys/{identity}")
}

fn box_path(identity: &XOnlyPublicKey) -> String {
    format!("{ROOT}/boxes/{identity}")
}

#[cfg(test)]
mod tests;
