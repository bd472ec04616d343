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
//! | [`session`], [`listen`], `greeting`, `headers` | a device's connection, how it begins, and the headers that it gets |
//! | [`gateway`], `books`, `channels`, [`payments`] | devices, channels, payments |
//! | `events`, `ends` | what LDK reports, and what is done about it; what is known of how channels ended |
//! | `owners` | what owners decide about their devices, and what devices are told of their channels |
//! | `bans` | channels whose device cheated |
//! | [`records`], [`shelf`], [`home`] | what is stored, and where |
//! | [`stored`] | the same, of a gateway that does not run |
//! | [`admin`] | what the operator can ask |
//! | [`ordinary`], [`operator`] | an ordinary Lightning node beside it, and who pays for its channels |
//! | `sweeps` | brings what its closed channels left to the operator's wallet |
//! | `service`, `arrears` | routes through that node, which earn the service fee, and what devices owe where there was none |

pub mod admin;
mod arrears;
mod bans;
mod books;
pub mod caller;
mod channels;
pub mod clerk;
mod ends;
mod events;
pub mod gateway;
mod greeting;
mod headers;
pub mod home;
pub mod ldk;
pub mod ledger;
pub mod listen;
pub mod operator;
pub mod ordinary;
mod owners;
pub mod payments;
pub mod records;
mod service;
pub mod session;
pub mod shelf;
pub mod signer;
mod spending;
pub mod stored;
mod sweeps;
