//! Cheques: pay somebody who is offline, through an agent that neither has to trust.

pub mod adaptor;
pub mod book;
#[allow(clippy::module_inception, reason = "the cheque is what this mode of payment is named for")]
pub mod cheque;
pub mod drawn;
pub mod held;
pub mod point;
pub mod prekey;
pub mod promises;
pub mod receipt;
pub mod route;
