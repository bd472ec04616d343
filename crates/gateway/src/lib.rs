//! LNGate gateway.
pub mod caller;
pub mod clerk;
mod events;
pub mod gateway;
pub mod ldk;
pub mod ledger;
pub mod payments;
pub mod records;
pub mod session;
pub mod shelf;
pub mod signer;
