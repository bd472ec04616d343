//! Channels that carry cheques, over HTTP: the routes of an agent or a node, and the client of writers, payees and nodes.
//!
//! | request | by | answer |
//! |---|---|---|
//! | `GET …/cheques` | anybody | its terms, with an offer for a channel ([`TermsBody`]) |
//! | `POST …/cheques/channels` | a writer, or a node before | 201 once a channel under such an offer is accepted ([`OpenBody`]) |
//! | `POST …/cheques/channels/ID/update` | its payer | what is said to the update ([`AnswerBody`]) |
//! | `POST …/cheques/requests` | a payee | 201 with a channel that is proposed to it ([`ProposalBody`]) |
//! | `POST …/cheques/channels/ID/accepted` | its payee | 204: the funding is broadcast |
//! | `POST …/cheques/channels/ID/answer` | its payee | the newest update, after what the payee says was heard ([`UpdateBody`]) |
//! | `POST …/cheques/channels/ID/cancelled` | its payer | the agent's signature that it holds a promise no more ([`CancellationBody`]) |
//! | `POST …/cheques/ways` | a payee, before it asks for anything | when the channel expires in which a lock would be made ([`WayBody`]) |
//! | `POST …/cheques/asks` | a payee | 204 once the lock is made ([`AskBody`]) |
//! | `POST …/cheques/sales` | a payer that a payee has authorised ([`SaleBody`]) | the agent's signature, open but for a secret ([`OfferBody`]) |
//!
//! `…` is `/.well-known/farthing`, `ID` a channel's 64 hexadecimal digits, amounts are in millisatoshi unless a name says
//! satoshi, points and secrets are hexadecimal. No body is longer than 64 KiB. To write, to cancel and to fetch receipts is all
//! the same request: the payer's newest update, to which the answer names everything that the payer has not learnt yet. Every
//! request may be repeated.
//!
//! What goes wrong is told as a problem (RFC 9457): `cheque-refused` (409) with the rule that forbids it, `bad-request` (400) for
//! what does not decode or is not signed by whom it should be, `not-found` (404), `bad-gateway` (502) when the next node cannot be
//! reached, `unavailable` (503).
//!
//! **Who can lose what** is told in [`farthing_protocol::cheque`]. An answer carries a MAC under the channel's key, since whoever
//! could say that an update was taken could have the payer believe that a withdrawn promise is dead. So does what asks for a lock in a
//! channel, or else whoever knows its name could have it held; and what has a cheque taken back.

mod client;
mod server;
mod wire;

pub use self::client::{CarryError, Client};
pub use self::server::Counter;
pub use self::wire::{
    AcceptanceBody, AnswerBody, AskBody, BadAnswer, BadAsk, CancellationBody, CancelledBody, FoundWayBody,
    OfferBody, OpenBody, ProposalBody, RequestBody, SaleBody, TermsBody, TowardsBody, UpdateBody, WayBody,
};
