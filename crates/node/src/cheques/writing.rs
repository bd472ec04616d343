//! The writer's end: cheques written, taken back, and their receipts.

use farthing_protocol::channel::Expiry;
use farthing_protocol::cheque::cancellation::{Cancellation, NotCancelled};
use farthing_protocol::cheque::cheque::{Draft, Unwritten, Written};
use farthing_protocol::cheque::drawer;
use farthing_protocol::cheque::drawn::{self, Kind};
use farthing_protocol::cheque::point::AdaptorPoint;
use farthing_protocol::cheque::prekey::SignedPrekey;
use farthing_protocol::cheque::promises::{BadUpdate, Promise};
use farthing_protocol::cheque::receipt::Memo;
use farthing_protocol::cheque::side::{Reject, Setup, Side};
use farthing_protocol::{ChannelId, Msat};
use secp256k1::XOnlyPublicKey;

use super::machine::drawn;
use super::paper::{Fate, Issued, Paper};
use super::{Failed, Teller, now};
use crate::books::OrderError;
use crate::entropy;
use crate::store::{StoreError, Write};

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Order {
    /// Who the payee is.
    pub identity: XOnlyPublicKey,
    /// As the writer named it.
    pub to: String,
    /// A prekey of the payee's that was never used.
    pub prekey: SignedPrekey,
    /// What the payee is to get.
    pub amount: Msat,
    /// What every node on the way gets, together.
    pub fees: Msat,
    /// What for.
    pub memo: Memo,
    /// The channel that promises it.
    pub channel: ChannelId,
    /// Where its agent is reached.
    pub agent: String,
    /// How many blocks the agent needs between the two expiries.
    pub delta: u32,
}

/// Why no cheque was written, or taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The prekey.
    #[error(transparent)]
    Unwritten(#[from] Unwritten),
    /// The channel refuses, or it could not be stored.
    #[error(transparent)]
    Order(#[from] Failed),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No such cheque.
    #[error("no cheque was written under that point")]
    Unknown,
    /// It is over.
    #[error("this cheque cannot be taken back any more")]
    Over,
    /// Not the agent's.
    #[error(transparent)]
    NotCancelled(#[from] NotCancelled),
}

impl WriteError {
    /// Whether another channel could promise it.
    pub fn wants_another_channel(&self) -> bool {
        match self {
            Self::Order(OrderError::Rejected(Reject::Drawer(reject))) => matches!(
                reject,
                drawer::Reject::Channel(_)
                    | drawer::Reject::Promises(
                        drawn::Reject::BadTerms(BadUpdate::TooMany(_) | BadUpdate::OverCapacity { .. })
                            | drawn::Reject::TooManyLoose
                    )
            ),
            Self::Unwritten(_)
            | Self::Order(_)
            | Self::Store(_)
            | Self::Unknown
            | Self::Over
            | Self::NotCancelled(_) => false,
        }
    }
}

impl Teller {
    /// The channels in which this program writes cheques to an agent. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn writing_channels(&self, agent: &str) -> Result<Vec<ChannelId>, Failed> {
        self.channels_to(agent, Kind::Cheques)
    }

    /// The channels of one kind in which this program pays whoever is reached there.
    pub(super) fn channels_to(&self, agent: &str, kind: Kind) -> Result<Vec<ChannelId>, Failed> {
        let is_one = |state: &Side| {
            matches!(state.name(), "open" | "awaiting funding")
                && state.drawer().is_some_and(|drawer| drawer.drawn().kind() == kind)
        };
        let entries = self.books.list_blocking()?;
        let ours = entries.iter().filter(|entry| entry.record.peer() == Some(agent) && is_one(&entry.state));
        Ok(ours.map(|entry| entry.id).collect())
    }

    /// Writes a cheque: stored with the promise behind it, in one durable write. The update has to be brought to the agent, and
    /// the cheque to its payee. Blocks.
    ///
    /// # Errors
    /// When the prekey is not the payee's, or the channel cannot promise it. Then there is no cheque.
    pub fn write_cheque(&self, order: Order) -> Result<Issued, WriteError> {
        let setup = self.books.setup(&order.channel).ok_or(OrderError::NoChannel(order.channel))?;
        let expiry = setup.channel().params().expiry.height();
        let latest = Expiry::at_height(expiry.saturating_sub(order.delta));
        let draft = Draft { amount: order.amount, memo: order.memo, time: now(), latest };
        let (salt, blinding) = (entropy::bytes(), entropy::bytes());
        let written = Written::new(draft, &order.identity, order.prekey, salt, &blinding)?;
        let promised = order.amount.saturating_add(order.fees);
        let promise = Promise { amount: promised, point: written.point };
        let issued = Issued {
            written,
            channel: order.channel,
            agent: order.agent,
            to: order.to,
            promised,
            mailed: false,
            fate: Fate::Pending,
        };
        let writes = vec![Write::Cheque(Box::new(Paper::Written(issued.clone())))];
        let input = drawn(drawn::Input::Promise(promise));
        let outcome = self.books.handle_and_write_blocking(order.channel, input, writes)?;
        self.carry_out(order.channel, outcome.effects);
        Ok(issued)
    }

    /// Takes note that a cheque is on its way to its payee. Blocks.
    ///
    /// # Errors
    /// When there is none, or it could not be stored.
    pub fn mailed(&self, point: &AdaptorPoint) -> Result<(), WriteError> {
        let issued = self.router.issued(point)?.ok_or(WriteError::Unknown)?;
        Ok(self.write(Paper::Written(Issued { mailed: true, ..issued }))?)
    }

    /// Takes a cheque back. It counts when the agent has signed so ([`Self::given_up`]); until the promise is dead, the agent could break its
    /// word. Returns the channel whose update has to be brought to the agent. Blocks.
    ///
    /// # Errors
    /// When there is no such cheque, or it is over.
    pub fn cancel(&self, point: &AdaptorPoint) -> Result<ChannelId, WriteError> {
        let issued = self.router.issued(point)?.ok_or(WriteError::Unknown)?;
        let id = issued.channel;
        match issued.fate {
            Fate::Pending => {}
            Fate::Cancelled | Fate::GivenUp(_) => return Ok(id),
            Fate::Paid(_) | Fate::PaidJointly(..) | Fate::Ended | Fate::PaidAllTheSame(..) => {
                return Err(WriteError::Over);
            }
        }
        let paper = Paper::Written(Issued { fate: Fate::Cancelled, ..issued });
        let writes = vec![Write::Cheque(Box::new(paper))];
        let withdraw = drawn(drawn::Input::Withdraw(*point));
        let outcome = self.books.handle_and_write_blocking(id, withdraw, writes)?;
        self.carry_out(id, outcome.effects);
        Ok(id)
    }

    /// Whether a cancelled cheque is promised again, since a lock depended on it. Blocks.
    ///
    /// # Errors
    /// When it could not be read or stored.
    pub fn reinstated(&self, point: &AdaptorPoint) -> Result<bool, WriteError> {
        let issued = self.router.issued(point)?.ok_or(WriteError::Unknown)?;
        let state = self.books.state_blocking(issued.channel)?;
        let drawer = state.as_ref().and_then(Side::drawer);
        let is_open =
            drawer.is_some_and(|drawer| drawer.drawn().promises().any(|promise| promise.point == *point));
        if is_open && matches!(issued.fate, Fate::Cancelled | Fate::GivenUp(_)) {
            self.write(Paper::Written(Issued { fate: Fate::Pending, ..issued }))?;
        }
        Ok(is_open)
    }

    /// As an agent: the signed word that no promise under that point is held in a channel any more; `None` while one is, or was sold.
    /// Blocks.
    ///
    /// # Errors
    /// When there is no such channel in which this side is paid.
    pub fn give_up(&self, id: ChannelId, point: &AdaptorPoint) -> Result<Option<Cancellation>, Failed> {
        let state = self.books.state_blocking(id)?.ok_or(OrderError::NoChannel(id))?;
        let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
        let (Some(holder), Setup::Holder(setup)) = (state.holder(), &*setup) else {
            return Err(OrderError::NoChannel(id));
        };
        let number = holder.held().gave_up(point);
        Ok(number.map(|number| Cancellation::sign(id, *point, number, &setup.keys)))
    }

    /// Keeps the agent's signed word that a cheque is taken back. Blocks.
    ///
    /// # Errors
    /// When it is not the agent's, there is no such cheque, or it could not be stored.
    pub fn given_up(&self, point: &AdaptorPoint, word: Cancellation) -> Result<(), WriteError> {
        let issued = self.router.issued(point)?.ok_or(WriteError::Unknown)?;
        let setup = self.books.setup(&issued.channel).ok_or(OrderError::NoChannel(issued.channel))?;
        word.check(setup.channel(), point)?;
        match issued.fate {
            Fate::Cancelled => {
                Ok(self.write(Paper::Written(Issued { fate: Fate::GivenUp(word), ..issued }))?)
            }
            Fate::GivenUp(_) => Ok(()),
            Fate::Pending
            | Fate::Paid(_)
            | Fate::PaidJointly(..)
            | Fate::Ended
            | Fate::PaidAllTheSame(..) => Err(WriteError::Over),
        }
    }
}
