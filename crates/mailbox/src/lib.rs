//! Mail between a writer and a payee who are never online together: formats, without IO, clock or randomness.
//!
//! A *mailbox* keeps blobs for somebody who is offline. It learns no more than that a blob came for an address: every blob
//! has the same length, is encrypted to the payee, and says nothing of its sender.
//!
//! | question | file |
//! |---|---|
//! | to whom, and where? | [`address`] |
//! | what does the mailbox keep? | [`blob`] |
//! | what is inside? | [`letter`] |
//! | how does a payee show that its mail is its own? | [`request`] |
//! | how does a payee that goes offline ask to be paid? | [`invitation`] |
//!
//! **Who can lose what.** A mailbox can lose or hold back mail and prekeys; it can read, forge or change none. A payee believes no letter:
//! a cheque is worth what the agent pays for it. Whoever replaces an *address* on its way to the writer gets the cheque, so it
//! should come from where the payee is trusted.
//!
//! The encryption library, `bitcoin-hpke`, is unaudited.

pub mod address;
pub mod blob;
pub mod invitation;
pub mod letter;
pub mod request;

pub use address::Address;
pub use blob::{Blob, MailKey};
pub use invitation::Invitation;
pub use letter::Letter;
pub use request::{Proof, Request};
