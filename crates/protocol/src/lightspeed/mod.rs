//! Lightspeed: pay for a call by revealing a word instead of signing.
//!
//! ```text
//!   funding ──▶ rung j of chain k (a commitment, signed by the payer ahead of time)
//!                 ├─ base_k + rung_index(j)·unit ──▶ payee, with the word of rung j    (claim)
//!                 │                              └─▶ payer, after a delay             (take back)
//!                 └─ the rest ──▶ payer
//! ```
//!
//! A chain of words is announced with its anchor and its rungs. Each call carries a word that the payer has not revealed
//! before; the payee hashes it down to the last one it has. The words of one chain pay `unit` each on top of `base`, the
//! total that was paid before the chain. A rung pays *everything* up to its word to one output that takes the word to
//! open, `base` included: so a rung that was signed ahead is worth nothing before its word is out, and an older rung is
//! never worth more than a newer one. To close takes one commitment and one claim, whatever the number of calls.
//!
//! | question | file |
//! |---|---|
//! | what is a word? | [`word`] |
//! | what is a chain worth, and where are its rungs? | [`terms`] |
//! | what does the payer sign ahead, and what can the payee publish? | [`ladder`] |
//! | what travels with a call? | [`call`] |
//! | which calls were served? | [`numbers`] |
//! | what does the payee count? | [`tab`] |
//! | what does the payer count? | [`purse`] |
//!
//! **What the payee can lose**: what it served since the last rung, or what is below dust and the cost of closing
//! ([`terms::Shape::stretch`] words, or 330 sat and more; [`tab::Tab::exposure`]). **What the payer can lose**: what it
//! sent with calls that were not answered, and with the first chain the prepayment.
//!
//! Words come from R. Rivest and A. Shamir, *PayWord and MicroMint* (1996); the idea to reveal a secret for a call from
//! M. Orlovsky, *Lightspeed micropayments for Lightning Network* (2020).

pub mod call;
pub mod ladder;
pub mod numbers;
pub mod purse;
pub mod tab;
pub mod terms;
pub mod word;

pub use call::{Call, CallNumber};
pub use ladder::{Ladder, Rung, RungClaim};
pub use purse::Purse;
pub use tab::Tab;
pub use terms::{ChainTerms, Shape};
pub use word::{Word, Words};
