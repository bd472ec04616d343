//! One-way payment channels on Bitcoin, as values: money, keys, scripts, transactions and state machines.
//!
//! Nothing here does IO, reads a clock, draws randomness, logs or awaits. Height, fee rate and entropy are
//! arguments; what should happen in the world comes back as effects, and only after the state behind them has
//! been stored ([`transition`]). So the same code can run on a server, on a device and under a fuzzer.
//!
//! # Where to look
//!
//! | question | file |
//! |---|---|
//! | how is an amount counted? | [`amount`] |
//! | which keys exist, and where do they come from? | [`keys`] |
//! | what do two parties agree on before any money moves? | [`channel`] |
//! | what does a transaction look like? | [`funding`], [`commitment`], [`closing`], [`refund`], [`child`] |
//! | what does a party do next, and what can it lose? | [`payer`], [`payee`] |
//! | what ties a payment to one request? | [`session`] |
//! | how is a call paid with a word? | [`lightspeed`] |
//! | how is it paid with a secret of its own, which opens an output of its own? | [`flat`] |
//! | how is somebody paid who is offline? | [`mod@cheque`] |
//! | what does LNGate's device sign, and what does it refuse? | [`device`] |
//!
//! # Money
//!
//! The payer locks `capacity` in the funding output. Each payment is a payer's signature on the next
//! commitment, which pays a larger total to the payee. Only the payee can complete and publish a commitment, and
//! the newest is always the best for it: nothing has to be revoked and nobody has to watch the chain, except
//! that the payee closes before the expiry and the payer takes its refund after it.

pub mod amount;
pub mod channel;
pub mod cheque;
pub mod child;
pub mod closing;
pub mod commitment;
pub mod device;
pub mod flat;
pub mod funding;
pub mod hashlock;
pub mod keys;
pub mod ledger;
pub mod lightspeed;
pub mod opening;
pub mod payee;
pub mod payer;
pub mod payment;
pub mod refund;
mod replacement;
pub mod session;
pub mod sighting;
mod tagged;
#[cfg(test)]
mod testing;
pub mod transition;

pub use amount::Msat;
pub use channel::{Channel, ChannelId, Params, Party};
pub use payment::Payment;
pub use transition::Transition;
