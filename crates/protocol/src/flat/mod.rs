//! Flat Lightspeed: each call is paid by revealing one of N secrets, and each secret opens one output on chain. This is
//! version 1 of "Lightspeed micropayments" (Orlovsky 2020, section 2.1) on Taproot, made sound.
//!
//! ```text
//! funding ──► commitment (v3)      micropayment transaction (v2)
//!             ├─ payee ≥ 330 sat ─► its child, for a higher fee
//!             ├─ LSF = N · unit ──► LSF ──────────► output 0      ├─ payee, with preimage 0 ─► claim
//!             │                │    1 or 2 inputs   output 1      └─ payer, d2 blocks later ─► refund
//!             │                │    of the payee's  …
//!             │                │    (the fee)       output N − 1
//!             │                └─ payer, d1 blocks later ─► refund
//!             └─ payer (the rest)
//! ```
//!
//! | transaction | published by | when | file |
//! |---|---|---|---|
//! | commitment | payee | any time before the expiry, less its margin | [`commitment`] |
//! | micropayment transaction | payee | once the commitment has confirmed, and before d1 | [`micropayment`] |
//! | claims | payee | once that has confirmed, and before d2 | [`claim`] |
//! | refunds | payer | of the LSF output after d1; of each micropayment output after d2 | [`refund`] |
//!
//! # Order
//!
//! 1. The payer states [`Terms`]; both check them, and print [`Terms::explain`] before anything is locked.
//! 2. The payer hands over the [`Locks`], then its signature on the micropayment transaction, then the one on the
//!    commitment. In any other order the payee would hold a commitment whose LSF output only the payer can take.
//! 3. Call i carries preimage i. No signature, no round trip: one SHA-256 for the payee.
//! 4. When a batch is used up the payer announces the next ([`batch`]): other locks, and a commitment that pays everything
//!    revealed so far plainly, as its base. So each commitment takes its own signature on its own micropayment
//!    transaction, and the payee keeps the newest of each.
//!
//! The payee counts preimages in [`crate::lightspeed::tab`], the payer in [`crate::lightspeed::purse`]; what either does
//! once a commitment is on the chain is in [`crate::payee`] and [`crate::payer`].
//!
//! # Who can lose what, until when
//!
//! * The **payee** loses what was revealed if its micropayment transaction is not confirmed d1 blocks after the
//!   commitment, or its claims not d2 blocks after that: the payer may then take the outputs, and the two race. Both
//!   delays are at least the margin by which it closes.
//! * The payee pays N outputs of 43 vB each, however few were revealed, and 100 vB for each one it claims. Below
//!   [`Costs::break_even`] outputs it is better off with the commitment alone, and loses what was revealed.
//! * The **payer** loses the fees of its refunds: 84 vB for each output that was not revealed, if the payee publishes
//!   the micropayment transaction, and 137 vB for all of them together if it does not. A unit pays for its own refund
//!   up to [`Terms::most_fee_rate`]; above that rate, refunds wait or burn money. A payee that closes out of spite
//!   spends about half of what it burns.
//! * The payer's money comes back d1 + d2 blocks after the commitment at the latest, and the blocks that the
//!   transactions between need: never only at the channel's expiry.
//! * A preimage on its way through the mempool is worth nothing to anybody else: a claim needs the payee's signature.
//!   (The paper's outputs open to whoever has the preimage.)
//! * A preimage opens each output with its lock, so a lock is never used twice: not in one batch, which [`Locks`]
//!   checks, and not in another ([`Preimages`]).
//!
//! # Size
//!
//! A version 2 transaction is standard up to 400,000 weight units: [`MOST_OUTPUTS`] outputs beside two fee inputs. A
//! version 3 one is limited to 10,000 vB (BIP431): [`MOST_OUTPUTS_V3`]. So the micropayment transaction is version 2,
//! and then it may not spend a version 3 commitment that is still unconfirmed. Past that many calls a new batch is
//! signed, or use the ladder.
//!
//! # Sources
//!
//! Maxim Orlovsky, "Lightspeed micropayments for Lightning Network", 28 March 2020; relative lock times
//! [BIP68](https://github.com/bitcoin/bips/blob/master/bip-0068.mediawiki) and
//! [BIP112](https://github.com/bitcoin/bips/blob/master/bip-0112.mediawiki); Taproot
//! [BIP341](https://github.com/bitcoin/bips/blob/master/bip-0341.mediawiki) and
//! [BIP342](https://github.com/bitcoin/bips/blob/master/bip-0342.mediawiki); version 3
//! [BIP431](https://github.com/bitcoin/bips/blob/master/bip-0431.mediawiki).

pub mod batch;
pub mod claim;
pub mod commitment;
pub mod explanation;
pub mod lsf;
pub mod micropayment;
pub mod outputs;
pub mod preimages;
pub(crate) mod progress;
pub mod refund;
mod spends;
pub mod terms;
#[cfg(test)]
mod testing;

pub use batch::{BadBatch, Batch, BatchTerms, Signed};
pub use commitment::Commitment;
pub use explanation::{Costs, Explanation};
pub use lsf::{Lsf, LsfOutput};
pub use micropayment::{FeeInput, MOST_OUTPUTS, MOST_OUTPUTS_V3, Micropayment};
pub use outputs::Outputs;
pub use preimages::{Locks, Preimage, Preimages};
pub use spends::{Batches, Left};
pub use terms::{BadTerms, Limits, Terms};
