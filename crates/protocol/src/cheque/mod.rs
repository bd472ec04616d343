//! Cheques: pay somebody who is offline, through an agent that neither has to trust.

pub mod adaptor;
pub mod point;
