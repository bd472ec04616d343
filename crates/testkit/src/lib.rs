//! Scenarios on a real bitcoind, crash injection and benchmarks. Never released.
//!
//! A story starts a [`World`], which is a private chain and a folder; invites a [`Person`] or two, each with a wallet and
//! a data folder; and lets them run the real program, in processes that may be killed, crashed at a chosen save, or
//! lied to by a [`relay::Relay`]. What counts in the end is what everybody has, as the wallets and as the blocks tell it.

pub mod accounts;
pub mod calls;
pub mod crashes;
pub mod electrum;
pub mod lnd;
pub mod mail;
pub mod message;
pub mod mortal;
pub mod people;
pub mod process;
pub mod relay;
pub mod service;
pub mod terminal;
pub mod wait;
pub mod world;

pub use calls::{Api, Proxy};
pub use mail::Mailbox;
pub use people::{Goods, Person, Seller};
pub use process::{Ended, Process};
pub use service::Service;
pub use world::World;
