//! The owner's store: on another machine than the device, it holds what closes the device's channels with nothing but a bitcoind.
//!
//! | part | does |
//! |---|---|
//! | [`home`] | the store's folder: its key, its database |
//! | [`store`] | what is kept, and how it is erased |
//! | [`mod@serve`] | takes devices' states, over [`crate::link`] |
//! | [`StoreLink`] | the device's side: it waits for the acknowledgement |
//! | [`close`] | closes with what is kept |
//!
//! The rules, and **who can lose what**, stand in `protocol::device::kept`.

pub mod close;
pub mod home;
pub mod serve;
pub mod store;

mod link;

pub use home::OwnerStoreHome;
pub use link::{NotAcknowledged, StoreLink};
pub use serve::{Known, serve};
pub use store::OwnerStore;
