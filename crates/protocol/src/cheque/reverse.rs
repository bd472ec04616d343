//! The other way round: the *payee* is offline, and its channel from the agent is ready. The payer buys the agent's signature on
//! the payee's next commitment.
//!
//! ```text
//!            1 authorisation: base, amount, payer, until (signed by the payee, which goes offline)
//!   payee ─────────────────────────────────────────────────────────────────────────────────────▶ payer
//!            2 authorisation           3 offer: promise of the amount to the payee, under Z = z·G
//!   payer ─────────────────────▶ agent ────────────────────────────────────────────────────────▶ payer
//!            4 update: promise of the price to the agent, under Z         5 z, or a commitment on chain that gives it away
//!   payer ─────────────────────────────────────▶ agent ─────────────────────────────────────────▶ payer
//!            6 offer and z, by mail
//!   payer ─────────────────────────────────────▶ payee, which completes the promise when it comes back
//! ```
//!
//! Both promises are the ordinary ones ([`super::promises`]). The agent draws `z` by itself and holds the payer's promise, so it
//! *cashes* that as a payee cashes a lock; the payee cashes the agent's with what came by mail. An agent that was paid hands the
//! amount over plainly, too, so an honest one needs no mail.
//!
//! | question | file |
//! |---|---|
//! | what does the payee sign before it goes? | [`authorisation`] |
//! | what may the agent offer, collect and drop? | [`sale`] |
//! | what does the payer check, keep and mail? | [`purchase`] |
//! | what does the payee take while it has authorised somebody? | [`super::held`] |
//!
//! **Who can lose what, at each step.**
//!
//! | step | payer | agent | payee |
//! |---|---|---|---|
//! | 1 | nothing | nothing | its channel takes nothing but the increment until the payer gives the authorisation back, or it ends |
//! | 2, 3 | nothing: the offer is worth nothing without `z` | nothing: only it knows `z`; the channel is tied up until the authorisation ends | nothing |
//! | 4 | its money is tied up until its channel expires, if the agent does nothing | nothing | nothing |
//! | 5 | the price, if it does not mail `z` in time: so it watches the chain until its channel is spent | nothing: the price is claimable before `z` leaves | nothing |
//! | 6 | nothing: the authorisation, the offer and `z` prove to anybody what the payee can claim | nothing | the amount, if it does not come back before its own channel expires |
//!
//! The payer's channel ends `delta` blocks before the authorisation does, and that `margin` blocks before the payee's channel:
//! an agent that takes the price at the last moment, on chain, leaves the payer time to see it and the payee time to publish.
//!
//! **Why the increment is not sold twice.** Only one authorisation is open in a channel. It names one payer, so nobody else buys;
//! and the payee takes no other update until it ends, so neither a plain payment nor a promise under another point can use the
//! increment up. Whoever brings it, it counts for the payer that is named.
//!
//! **Why a payer's channel has one promise.** Of several that are paid at once, the chain shows one joint secret, and nobody could
//! tell `z` from it: the agent would be paid, and the payee not ([`super::drawn::Kind::Purchase`]). The rule about expiries is the
//! opposite of a cheque's, so no pair of channels serves both directions.

pub mod authorisation;
pub mod purchase;
pub mod sale;

#[cfg(test)]
mod tests;
