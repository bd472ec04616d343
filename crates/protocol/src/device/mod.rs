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

pub mod bolt3;
pub mod joint;
