//! LNGate's device: a small signer that pays invoices of any Lightning node through a gateway it need not trust.
//!
//! The gateway runs the Lightning node. The device holds one half of the channel's funding key (threshold ECDSA, two of
//! two) and alone the keys of commitment secrets, HTLCs and revocations. It never signs a digest that it is given: it
//! builds every transaction itself ([`bolt3`]) and signs only that.
//!
//! | question | file |
//! |---|---|
//! | what does a transaction of the Lightning channel look like? | [`bolt3`] |
//! | how do device and gateway sign together? | [`joint`] |
//! | what does the device do next, and what can its owner lose? | [`machine`] |
//! | which rules are there? | [`reject`] |
//! | how does the owner get its money out? | [`owner`] |
//! | what does the owner's store keep, and when does the device wait for it? | [`kept`] |
//! | what may be paid? | [`policy`], [`payments`], [`invoice`] |
//! | does the money follow the HTLCs? | [`update`] |
//! | which block is the newest? | [`headers`] |
//! | which keys exist, and what is agreed on before a channel begins? | [`keys`], [`setup`] |
//! | what do device and gateway say to each other? | [`wire`] |

pub mod bolt3;
pub mod headers;
pub mod invoice;
pub mod joint;
pub mod kept;
pub mod keys;
pub mod machine;
pub mod owner;
pub mod payments;
pub mod policy;
pub mod reject;
pub mod setup;
pub mod update;
pub mod wire;

mod account;
mod decisions;
mod onchain;

pub use invoice::Invoice;
pub use joint::{Finisher, RoundId};
pub use machine::{Effect, Input, Proposal, State};
pub use policy::{Policy, SignedPolicy, Tip};
pub use reject::Reject;
pub use setup::{Enrolment, Setup};
