//! Attacks on the owner of a device. Each is played on a real bitcoind, against the device as users have it: its own disk, the
//! program's session, a Noise link, the engine of joint signatures; with a stock bridge and a stock destination. Each ends with what the
//! owner has at its cold address, to the satoshi.
//!
//! | file | who attacks |
//! |---|---|
//! | [`asks`] | a gateway that asks for what it must not have |
//! | [`rounds`] | a gateway that repeats, reorders, cuts and delays, or keeps its half of a signature |
//! | [`vanished`] | a gateway that goes away in the middle, also while fees rise |
//! | [`closings`] | the bridge, alone and with the gateway |
//! | [`fees`] | the bridge, while fees rise |
//! | [`kept`] | nobody: the device is destroyed, or cut off from its owner's store |
//! | [`hanging`] | a payee that neither takes nor refuses |
//! | [`lost`] | who has the device, or an old backup of it |
//! | [`strangers`] | who is not enrolled |
//! | [`trunk`] | a peer of the operator's ordinary node |
//!
//! `docs/security.md` says of each who could lose what, and by which rule it is stopped.
#![allow(clippy::unwrap_used, reason = "a test helper may panic like the test that calls it")]

#[path = "../world/mod.rs"]
mod world;

mod bridge;
mod car;
mod hostile;

mod asks;
mod closings;
mod fees;
mod hanging;
mod kept;
mod lost;
mod rounds;
mod strangers;
mod trunk;
mod vanished;
