//! Cheques: pay somebody who is offline, through an agent that neither has to trust.
//!
//! ```text
//!            1 update: promise under T                4 update: lock under T + d
//!   writer ─────────────────────────▶ agent ─────────────────────────────────────▶ payee
//!      │ ▲                             │ ▲                                           │ ▲
//!      │ └──── 6 y: a receipt ─────────┘ └──── 5 y + d: the lock is paid ────────────┘ │
//!      └──────────────────── 2 cheque: t, by mail; the writer goes offline ────────────┘
//!                                     ◀──────── 3 asks for a lock under T ───────────
//! ```
//!
//! The writer promises its agent an amount: a signature on its next commitment, encrypted under a point `T`. Only the payee
//! can work out the secret `y` of that point, because a part of it is a signature that only the payee can make. The
//! payee sells `y` to the agent for a *lock*, which is the same kind of promise, in the channel from the agent to the payee. In
//! the end the writer gets `y`, and in it a BIP340 receipt that anybody can check. There is no output for any of this on
//! chain: promises are updates of one-way channels that are complete but for a number.
//!
//! Between agent and payee there may be nodes ([`route`]). What one program does in one channel is always the same: as its
//! payee it *holds* promises, as its payer it *makes* them.
//!
//! | program | holds | makes |
//! |---|---|---|
//! | writer | – | up to four cheques |
//! | agent | the writer's cheques | one lock in each channel |
//! | node | a lock | one lock in each channel |
//! | payee | a lock | – |
//!
//! | question | file |
//! |---|---|
//! | what is a signature that a secret is missing from? | [`adaptor`], [`point`] |
//! | what does the payee publish ahead, and what does it sign? | [`prekey`], [`receipt`], [`book`] |
//! | what is mailed? | [`cheque`] |
//! | what is signed while several promises are open? | [`promises`] |
//! | how does an agent say that a cheque is taken back? | [`cancellation`] |
//! | what may a holder do with a promise? | [`held`], and with its channel: [`holder`] |
//! | when is a promise over for its payer? | [`drawn`], and with its channel: [`drawer`] |
//! | how does one program keep both kinds of channels? | [`side`] |
//! | what if the payee is offline while the payer pays? | [`reverse`] |
//!
//! **Who can lose what.**
//!
//! * The *writer*: what it promised, to nobody but for its receipt. A cheque that it cancelled may still be cashed, by an agent
//!   that breaks its word, until a plain total reaches it ([`drawn::Drawn::most_signed`]). If its agent publishes several
//!   cheques at once and does not hand over the single secrets, the writer can prove only all of them together.
//! * The *agent* and a *node*: nothing, if each lock ends before the channel behind it does, by enough blocks
//!   ([`held::Conditions::delta`]), and if they publish in time. Their money is tied up until a lock ends: a payee that was
//!   locked to and stays silent ties it up until the expiry.
//! * The *payee*: nothing that it has sold, if it publishes before its own channel's expiry. It sells only what it can
//!   enforce: in a channel whose funding is deep, above dust and the cost of closing, for at least what the cheque says.
//!
//! Nobody is protected against an agent or a payee that stays away: then nothing is paid, and nothing is lost.
//!
//! **What others learn.** The agent knows the writer, the last node the payee; no point or secret is seen on two channels.
//! The agent and all nodes together can link both ends. Amounts and times can link them, too.
//!
//! None of this is audited. Asynchronous payments are K. Ketterer's (2019); there the
//! signature itself is sold, which proves nothing to the payer, and channels may overwrite their states (eltoo, BIP118).

pub mod adaptor;
pub mod book;
pub mod cancellation;
#[allow(clippy::module_inception, reason = "the cheque is what this mode of payment is named for")]
pub mod cheque;
pub mod drawer;
pub mod drawn;
pub mod held;
pub mod holder;
pub mod point;
pub mod prekey;
pub mod promises;
pub mod receipt;
pub mod reverse;
pub mod route;
pub mod side;
