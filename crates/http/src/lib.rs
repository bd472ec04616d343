//! HTTP 402 over Farthing's channels.
//!
//! The scheme is `Payment` of the IETF draft `draft-httpauth-payment`: a challenge in `WWW-Authenticate`, a credential in
//! `Authorization`, a receipt in `Payment-Receipt`, and problem bodies (RFC 9457). Ours is `method="bitcoin"`,
//! `intent="session"`.
//!
//! | file | holds |
//! |---|---|
//! | [`challenge`] | what a seller asks for, bound to it by HMAC |
//! | [`credential`] | what a buyer sends, and the receipt it gets |
//! | [`problem`] | why a request was not served, for people and programs |
//! | [`manifest`] | a file's size, BLAKE3 root and pieces |
//! | [`wire`] | the bodies of opening and closing |
//! | [`till`] | the seller's routes for money, whatever is sold |
//! | [`server`], [`span`] | sells a file, and which part of it is asked for |
//! | [`client`], [`download`] | buy it |
//! | [`tariff`] | what calls cost |
//! | [`gate`], [`answers`] | a tower layer that puts a price on a service, and the answers it keeps for retries |
//! | [`meter`] | answers that are charged as they flow |
//! | [`listening`] | how many connections there may be, and how long a request may take to arrive |
//! | [`upstream`] | a service that hands requests on to another server: with the gate, a paying reverse proxy |
//! | [`caller`] | pays for calls |
//! | [`middleware`] | pays for the calls of a `reqwest` client |
//! | [`cheques`] | channels that carry cheques: an agent's or a node's routes, and everybody's client |
//! | [`mailbox`] | keeps mail and prekeys of payees that are offline: routes and client |
//! | [`proxy`] | a local address that pays for any program that speaks HTTP to it |

pub mod answers;
mod arriving;
pub mod caller;
pub mod challenge;
pub mod cheques;
pub mod client;
mod clock;
pub mod credential;
pub mod download;
pub mod encoding;
pub mod gate;
mod hops;
pub mod listening;
pub mod mailbox;
pub mod manifest;
pub mod meter;
pub mod middleware;
mod outlive;
pub mod problem;
pub mod proxy;
pub mod server;
pub mod span;
pub mod tariff;
pub mod till;
pub mod upstream;
pub mod wire;
