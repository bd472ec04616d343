//! LNGate's gateway: a Lightning node whose channels are signed jointly with small devices, which pay any Lightning node through it
//! and need not trust it.
//!
//! ```text
//!   device ◀── link: requests, rounds ──▶ session ─ clerk ◀─ desk ◀── signer ◀── LDK ◀── BOLT ──▶ bridge
//!                                            orders: open, pay, close ──────────▶
//! ```
//!
//! **Who can lose what.** The gateway holds a share of each channel's funding key and nothing else of it: no commitment secret, no HTLC
//! key, no key that receives. Whatever it does wrong, the device refuses. What the gateway itself can lose is a service fee.
//!
//! | part | does |
//! |---|---|
//! | [`ldk`] | a Lightning node on LDK over a real bitcoind |
//! | [`signer`] | what LDK sees as a channel's signer: orders on a desk, answers later |
//! | [`ledger`] | from LDK's view of a commitment to the device's |
//! | [`caller`] | requests to a device, and the gateway's part in joint rounds |
//! | [`clerk`] | carries orders from desks to a device |
//! | [`session`], [`listen`] | a device's connection |
//! | [`gateway`], [`payments`] | devices, channels, payments |
//! | [`records`], [`shelf`], [`home`] | what is stored, and where |
//! | [`stored`] | the same, of a gateway that does not run |
//! | [`admin`] | what the operator can ask |
//! | [`ordinary`] | an ordinary Lightning node beside it |

pub mod admin;
pub mod caller;
pub mod clerk;
mod events;
pub mod gateway;
pub mod home;
pub mod ldk;
pub mod ledger;
pub mod listen;
pub mod ordinary;
mod owners;
pub mod payments;
pub mod records;
pub mod session;
pub mod shelf;
pub mod signer;
pub mod stored;
