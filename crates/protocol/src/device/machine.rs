//! The device's machine: what it does with each request of the gateway, and what the owner can lose.
//!
//! ```text
//!            state 0 signed and complete, funding statement out
//!   Opening ───────────────────────────────────────────────────▶ Open
//!      │                                                          │ ▲ sign, validate, revoke …
//!      │ close alone, cheat                                       │ └──┐
//!      │                    close together, close alone, cheat    ▼    │
//!      └──────────────────────────────────────────────────────▶ Closing: no update, no secret, any more
//! ```
//!
//! **What the owner can lose.** To the gateway, or to gateway and bridge together: nothing, since every signature of the
//! device is on a transaction that it built, and pays the owner all but what approved invoices cost. To whoever has the device:
//! what the policy allows. What is in flight at a closing and below dust goes to miners.
//!
//! **Replay.** Every request may come again, before and after a restart, and is answered the same: by number and contents, not by
//! a memory of answers. Signatures by the HTLC key are equal (RFC 6979); a joint signature is made anew, over the same digest.
//!
//! **Revocation.** Before a secret leaves, three things are stored, in this order: the next state complete with the joint signature;
//! this state without the old one's signatures; the driver's word that no copy of them is left on its disk
//! ([`Effect::Erase`], [`Input::Erased`]).

use bitcoin::{FeeRate, OutPoint, Transaction, TxOut, Txid};
use secp256k1::{PublicKey, ecdsa};
use serde::{Deserialize, Serialize};

pub use super::account::{Account, Publication};
use super::bolt3::closing::Settlement;
use super::bolt3::{CommitmentNumber, CommitmentSecret, Contents, Htlc, PaymentHash, Preimage};
use super::invoice::Invoice;
use super::joint::{Finisher, JointSignature, Task};
use super::payments::Source;
use super::policy::{SignedPolicy, Tip};
use super::reject::Reject;
use super::setup::{FundingStatement, Setup};
use crate::amount::Msat;
use crate::transition::Transition;

mod former;

pub use former::FormerState;

/// Where the channel stands, for the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Until the device could close alone; the funding is not signed.
    Opening(Opening),
    /// Payments can be made.
    Open(Open),
    /// A closing, or a holder commitment, may be with the gateway.
    Closing(Closing),
}

/// Awaits the first state of both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    account: Account,
}

/// The owner may have signed the funding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    account: Account,
}

/// The states of both sides stay what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    account: Account,
    /// Whether the holder's commitment is being published.
    is_alone: bool,
    /// Whether the gateway cheated in a joint round: its share is banned, no further round is started.
    is_banned: bool,
}

/// A commitment that the gateway asks for. The device believes none of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Which commitment of its side.
    pub number: CommitmentNumber,
    /// What it pays to miners.
    pub fee_rate: FeeRate,
    /// The holder's balance.
    pub to_holder: Msat,
    /// The bridge's balance.
    pub to_bridge: Msat,
    /// What is under way.
    pub htlcs: Vec<Htlc>,
    /// Preimages that the gateway got since.
    pub preimages: Vec<Preimage>,
    /// The transaction that the gateway's Lightning node built.
    pub txid: Txid,
}

/// A commitment that the bridge had revoked and published, as the gateway or the owner saw it. The device believes none of it:
/// whatever is wrong only makes the penalty invalid, which pays the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The published commitment.
    pub commitment: Transaction,
    /// The outputs to take, of the commitment and of its second stages.
    pub outputs: Vec<(OutPoint, TxOut)>,
    /// The HTLCs that the commitment had. The device does not remember those of old states.
    pub htlcs: Vec<Htlc>,
    /// What to pay.
    pub fee_rate: FeeRate,
}

impl Proposal {
    pub(super) fn contents(&self, point: PublicKey) -> Contents {
        let mut htlcs = self.htlcs.clone();
        // The order carries no meaning; a retry may have another.
        htlcs.sort_unstable();
        let Self { number, fee_rate, to_holder, to_bridge, .. } = *self;
        Contents { number, point, fee_rate, to_holder, to_bridge, htlcs }
    }
}

/// What can happen to the device.
#[derive(Clone, Debug)]
pub enum Input {
    /// The owner changed the policy.
    Policy(SignedPolicy),
    /// The device is to pay an invoice.
    Approve {
        /// Read by the device itself.
        invoice: Invoice,
        /// Who gave it.
        source: Source,
        /// The newest block.
        tip: Tip,
    },
    /// A payment failed, by the gateway's word: it counts no more. What is under way or paid stays as it is.
    GiveUp(PaymentHash),
    /// The gateway wants the bridge's next commitment signed.
    SignBridge {
        /// The commitment.
        proposal: Proposal,
        /// The bridge's point for it.
        point: PublicKey,
        /// The newest block.
        tip: Tip,
    },
    /// The bridge signed the holder's next commitment.
    ValidateHolder {
        /// The commitment.
        proposal: Proposal,
        /// The bridge's signature on it.
        signature: ecdsa::Signature,
        /// The bridge's signatures on its second stages, in the order of outputs.
        htlc_signatures: Vec<ecdsa::Signature>,
    },
    /// The joint round over a holder commitment ended.
    HolderSigned {
        /// Which commitment.
        number: CommitmentNumber,
        /// What the round gave.
        signature: JointSignature,
    },
    /// The gateway wants the secret of a holder commitment.
    Revoke {
        /// Which commitment.
        number: CommitmentNumber,
    },
    /// The driver has erased every copy of that commitment's signatures.
    Erased {
        /// Which commitment.
        number: CommitmentNumber,
    },
    /// The bridge revealed the secret of one of its commitments.
    BridgeRevoked {
        /// Which commitment.
        number: CommitmentNumber,
        /// Its secret.
        secret: CommitmentSecret,
    },
    /// The gateway wants the word by which the owner's wallet signs the funding.
    Fund,
    /// Both sides want to close.
    CloseTogether(Settlement),
    /// Device, owner or gateway wants the holder's commitment published.
    CloseAlone,
    /// The bridge published its commitment. What of our HTLCs is in it comes back.
    TakeBack {
        /// Which transaction; the device knows it if it signed it.
        commitment: Txid,
        /// What to pay for each.
        fee_rate: FeeRate,
    },
    /// The bridge published a commitment that it had revoked.
    Punish(Box<Revoked>),
    /// A joint round failed by the gateway's cheating ([`super::joint::Failure::Cheated`]).
    GatewayCheated,
}

/// What the device is to do, once its state is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell the gateway that this may be paid.
    Approved(PaymentHash),
    /// Take part in a joint round that the *gateway* finishes, and send these signatures for the second stages.
    SignBridge {
        /// Which commitment.
        number: CommitmentNumber,
        /// What is signed jointly.
        task: Task,
        /// By the HTLC key, in the order of outputs.
        htlc_signatures: Vec<ecdsa::Signature>,
    },
    /// Take part in a joint round that the *device* finishes; then [`Input::HolderSigned`].
    SignHolder {
        /// Which commitment.
        number: CommitmentNumber,
        /// What is signed jointly.
        task: Task,
    },
    /// Tell the gateway that this holder commitment is complete and stored.
    HolderComplete(CommitmentNumber),
    /// Overwrite every copy of what the former state held, write-ahead log and transcripts of rounds included; then
    /// [`Input::Erased`].
    Erase(CommitmentNumber),
    /// Send this secret to the gateway, for the bridge.
    Reveal {
        /// Which commitment it revokes.
        number: CommitmentNumber,
        /// The secret.
        secret: CommitmentSecret,
    },
    /// Send this to the owner's wallet.
    Fund(FundingStatement),
    /// Take part in a joint round that the *gateway* finishes.
    SignClosing(Task),
    /// Bring these into blocks, through any node.
    Publish(Box<Publication>),
    /// Bring these into blocks too, each from its lock time on.
    Broadcast(Vec<Transaction>),
}

impl Effect {
    /// Whether the owner's store, if the device has one, must have acknowledged the newest state before this leaves the device
    /// ([`super::kept`]).
    pub fn awaits_store(&self) -> bool {
        match self {
            Self::SignBridge { .. } | Self::Reveal { .. } | Self::Fund(_) => true,
            Self::Approved(_)
            | Self::SignHolder { .. }
            | Self::HolderComplete(_)
            | Self::Erase(_)
            | Self::SignClosing(_)
            | Self::Publish(_)
            | Self::Broadcast(_) => false,
        }
    }
}

impl State {
    /// A new channel under the owner's policy.
    ///
    /// # Errors
    /// When the owner did not sign the policy.
    pub fn open(setup: &Setup, policy: SignedPolicy) -> Result<Transition<Self, Effect>, Reject> {
        let policy = policy.verify(&setup.enrolment.owner).ok_or(Reject::PolicySignature)?;
        Ok(Transition::to(Self::Opening(Opening { account: Account::new(policy) })))
    }

    /// A channel that is being closed alone, by whoever has its books.
    pub(super) fn closing_alone(account: Account) -> Self {
        Self::Closing(Closing { account, is_alone: true, is_banned: false })
    }

    /// Decides what an input does.
    ///
    /// # Errors
    /// The rule that it breaks. Then nothing changes, and nothing is signed.
    pub fn handle(&self, setup: &Setup, input: Input) -> Result<Transition<Self, Effect>, Reject> {
        match (self, input) {
            (_, Input::Policy(policy)) => Ok(self.to(self.account().with_policy(setup, policy)?)),
            (Self::Open(Open { account }), Input::Approve { invoice, source, tip }) => {
                let hash = invoice.payment_hash();
                Ok(self.to(account.approved(&invoice, source, tip)?).then(Effect::Approved(hash)))
            }
            (_, Input::GiveUp(hash)) => Ok(self.to(self.account().given_up(&hash))),
            (
                Self::Opening(Opening { account }) | Self::Open(Open { account }),
                Input::SignBridge { proposal, point, tip },
            ) => {
                if let Self::Opening(_) = self {
                    only_first(proposal.number)?;
                }
                let (account, effect) = account.sign_bridge(setup, &proposal, point, tip)?;
                Ok(self.to(account).then(effect))
            }
            (
                Self::Opening(Opening { account }) | Self::Open(Open { account }),
                Input::ValidateHolder { proposal, signature, htlc_signatures },
            ) => {
                if let Self::Opening(_) = self {
                    only_first(proposal.number)?;
                }
                let (account, effect) =
                    account.validate_holder(setup, &proposal, signature, htlc_signatures)?;
                Ok(self.to(account).then(effect))
            }
            (
                Self::Opening(Opening { account }) | Self::Open(Open { account }),
                Input::HolderSigned { number, signature },
            ) => {
                let account = account.holder_signed(setup, number, signature)?;
                Ok(self.to(account).then(Effect::HolderComplete(number)))
            }
            (Self::Open(Open { account }), Input::Revoke { number }) => {
                let (account, effect) = account.revoke(setup, number)?;
                Ok(self.to(account).then(effect))
            }
            (Self::Open(Open { account }), Input::Erased { number }) => {
                let (account, effect) = account.erased(setup, number)?;
                Ok(self.to(account).then(effect))
            }
            // What the bridge gives up is taken in any stage: it helps to punish.
            (
                Self::Open(Open { account }) | Self::Closing(Closing { account, .. }),
                Input::BridgeRevoked { number, secret },
            ) => Ok(self.to(account.bridge_revoked(number, secret)?)),
            (Self::Opening(Opening { account }) | Self::Open(Open { account }), Input::Fund) => {
                account.check_funding()?;
                let next = Self::Open(Open { account: account.clone() });
                Ok(Transition::to(next).then(Effect::Fund(setup.funding_statement())))
            }
            (Self::Open(Open { account }), Input::CloseTogether(settlement)) => {
                self.close_together(setup, account, &settlement, false)
            }
            (
                Self::Closing(Closing { account, is_alone, is_banned: false }),
                Input::CloseTogether(settlement),
            ) => self.close_together(setup, account, &settlement, *is_alone),
            (
                Self::Open(Open { account }) | Self::Closing(Closing { account, .. }),
                Input::TakeBack { commitment, fee_rate },
            ) => Ok(self.closed_by_bridge(account.take_back(setup, commitment, fee_rate)?)),
            (
                Self::Open(Open { account }) | Self::Closing(Closing { account, .. }),
                Input::Punish(revoked),
            ) => Ok(self.closed_by_bridge(vec![account.punish(setup, &revoked)?])),
            (_, Input::CloseAlone) => Ok(self.close_alone(setup, self.is_banned())),
            (_, Input::GatewayCheated) => Ok(self.close_alone(setup, true)),

            (
                Self::Opening(_),
                Input::Approve { .. }
                | Input::Revoke { .. }
                | Input::Erased { .. }
                | Input::BridgeRevoked { .. }
                | Input::CloseTogether(_)
                | Input::TakeBack { .. }
                | Input::Punish(_),
            )
            | (
                Self::Closing(_),
                Input::Approve { .. }
                | Input::SignBridge { .. }
                | Input::ValidateHolder { .. }
                | Input::HolderSigned { .. }
                | Input::Revoke { .. }
                | Input::Erased { .. }
                | Input::Fund
                | Input::CloseTogether(_),
            ) => Err(Reject::Stage(self.name())),
        }
    }

    /// What a restart must do again. Rounds of signing are not among it: they begin afresh when the gateway asks again.
    pub fn resume(&self, setup: &Setup) -> Vec<Effect> {
        match self {
            Self::Opening(_) => Vec::new(),
            Self::Open(Open { account }) => account.holder.erasing.map(Effect::Erase).into_iter().collect(),
            Self::Closing(Closing { account, is_alone: true, .. }) => account.publish(setup),
            Self::Closing(Closing { is_alone: false, .. }) => Vec::new(),
        }
    }

    /// The channel's books.
    pub fn account(&self) -> &Account {
        match self {
            Self::Opening(Opening { account })
            | Self::Open(Open { account })
            | Self::Closing(Closing { account, .. }) => account,
        }
    }

    /// Whether the gateway cheated, so that no joint round may be started any more.
    pub fn is_banned(&self) -> bool {
        match self {
            Self::Opening(_) | Self::Open(_) => false,
            Self::Closing(Closing { is_banned, .. }) => *is_banned,
        }
    }

    /// The state in words, for people and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Opening(_) => "opening",
            Self::Open(_) => "open",
            Self::Closing(_) => "closing",
        }
    }

    /// The same stage with other books.
    fn to(&self, account: Account) -> Transition<Self, Effect> {
        Transition::to(match self {
            Self::Opening(_) => Self::Opening(Opening { account }),
            Self::Open(_) => Self::Open(Open { account }),
            Self::Closing(Closing { is_alone, is_banned, .. }) => {
                Self::Closing(Closing { account, is_alone: *is_alone, is_banned: *is_banned })
            }
        })
    }

    fn close_together(
        &self,
        setup: &Setup,
        account: &Account,
        settlement: &Settlement,
        is_alone: bool,
    ) -> Result<Transition<Self, Effect>, Reject> {
        let closing = account.closing(setup, settlement)?;
        let next = Closing { account: account.clone(), is_alone, is_banned: false };
        let task = Task::new(closing.digest(), Finisher::Gateway);
        Ok(Transition::to(Self::Closing(next)).then(Effect::SignClosing(task)))
    }

    /// Once the bridge has closed there is nothing to update any more.
    fn closed_by_bridge(&self, transactions: Vec<Transaction>) -> Transition<Self, Effect> {
        let next = match self {
            Self::Opening(Opening { account }) | Self::Open(Open { account }) => {
                Self::Closing(Closing { account: account.clone(), is_alone: false, is_banned: false })
            }
            Self::Closing(_) => self.clone(),
        };
        Transition::to(next).then(Effect::Broadcast(transactions))
    }

    fn close_alone(&self, setup: &Setup, is_banned: bool) -> Transition<Self, Effect> {
        let account = self.account();
        let next = Closing { account: account.clone(), is_alone: true, is_banned };
        let publications = account.publish(setup);
        publications.into_iter().fold(Transition::to(Self::Closing(next)), Transition::then)
    }
}

/// Before the funding there is only the first state.
fn only_first(got: CommitmentNumber) -> Result<(), Reject> {
    let expected = CommitmentNumber::FIRST;
    if got == expected { Ok(()) } else { Err(Reject::FundingTooSoon) }
}
