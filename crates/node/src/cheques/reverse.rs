//! The other way round: the payee authorises a payer and goes offline, the payer buys the agent's signature
//! ([`farthing_protocol::cheque::reverse`]).
//!
//! | part | is |
//! |---|---|
//! | [`payee`] | authorises, and collects what comes by mail |
//! | [`agent`] | offers its signature, and collects its price |
//! | [`payer`] | buys, watches its channel, and keeps what is to be mailed |

pub mod agent;
pub mod payee;
pub mod payer;
