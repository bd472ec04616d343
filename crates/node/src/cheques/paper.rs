//! Cheques as their writer and their payee keep them, beside the channels that carry them; and, the other way round, what a payer
//! buys and an agent sells.

use farthing_protocol::cheque::cancellation::Cancellation;
use farthing_protocol::cheque::cheque::{Cheque, Written};
use farthing_protocol::cheque::point::{AdaptorPoint, AdaptorSecret};
use farthing_protocol::cheque::receipt::Receipt;
use farthing_protocol::cheque::reverse::purchase::Purchase;
use farthing_protocol::cheque::reverse::sale::Sale as SignatureSale;
use farthing_protocol::{ChannelId, Msat};
use serde::{Deserialize, Serialize};

/// A cheque on one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "there are few, and most of them are written ones")]
pub enum Paper {
    /// By its writer.
    Written(Issued),
    /// By its payee.
    Got(Presented),
    /// The other way round, by the payer.
    Bought(Bought),
    /// The other way round, by the agent.
    Sold(Sold),
}

/// In which drawer a paper lies. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Drawer {
    /// Cheques that were written here, by point.
    Written = 0,
    /// Cheques that came here, by point.
    Got = 1,
    /// Signatures that were bought here, by the authorisation's digest.
    Bought = 2,
    /// Signatures that were sold here, by point.
    Sold = 3,
}

/// An agent's signature, as the payer who buys it keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bought {
    /// How far it is.
    pub purchase: Purchase,
    /// The channel that promises its price, once one does.
    pub channel: Option<ChannelId>,
    /// Where the agent is reached.
    pub agent: String,
    /// The payee's address, where its mail goes.
    pub to: String,
    /// When it was begun, in seconds since 1970.
    pub at: u64,
}

/// An agent's signature, as the agent who sells it keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sold {
    /// How far it is.
    pub sale: SignatureSale,
    /// When it was offered, in seconds since 1970.
    pub at: u64,
}

/// A cheque as its writer keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The cheque.
    pub written: Written,
    /// The channel that promises it.
    pub channel: ChannelId,
    /// Where the agent is reached.
    pub agent: String,
    /// To whom, as the writer named it.
    pub to: String,
    /// What is promised to the agent: the amount, and every fee on the way.
    pub promised: Msat,
    /// Whether it was handed to the payee's mailbox, or to the writer as a file.
    pub mailed: bool,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a cheque, as far as its writer knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It may be cashed.
    Pending,
    /// Its writer took it back, and the agent has not signed that it knows: it may be cashed until then.
    Cancelled,
    /// It was cashed, and this is the proof.
    Paid(Receipt),
    /// The agent closed over several at once, and did not hand over the single secrets.
    PaidJointly(Vec<AdaptorPoint>, AdaptorSecret),
    /// It can never be cashed any more.
    Ended,
    /// Its writer took it back, and the agent has signed so. Until the promise is dead the agent could still break its word.
    GivenUp(Cancellation),
    /// The agent has broken its word: the payee was paid all the same.
    PaidAllTheSame(Receipt, Cancellation),
    /// It has broken its word, closing over several at once, and did not hand over the single secrets.
    PaidJointlyAllTheSame(Vec<AdaptorPoint>, AdaptorSecret, Cancellation),
}

impl Fate {
    /// The agent's signed word that the cheque is taken back, if it has given it.
    pub fn word(&self) -> Option<&Cancellation> {
        match self {
            Self::GivenUp(word) | Self::PaidAllTheSame(_, word) | Self::PaidJointlyAllTheSame(.., word) => {
                Some(word)
            }
            Self::Pending | Self::Cancelled | Self::Paid(_) | Self::PaidJointly(..) | Self::Ended => None,
        }
    }
}

/// A cheque as its payee keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presented {
    /// The cheque.
    pub cheque: Cheque,
    /// Its point.
    pub point: AdaptorPoint,
    /// Where the agent that holds the promise is reached.
    pub agent: String,
    /// When it came, in seconds since 1970.
    pub at: u64,
    /// How it is cashed: fixed before the agent is asked, so that asking again asks for the same.
    pub sale: Option<Sale>,
    /// Whether the lock was completed: the money can be claimed.
    pub cashed: bool,
}

/// How a cheque is cashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    /// The channel in which the payee is paid.
    pub channel: ChannelId,
    /// One for each hop, the agent's first.
    pub tweaks: Vec<AdaptorSecret>,
    /// The nodes between the agent and the payee, in their order from the agent.
    pub via: Vec<String>,
    /// What each hop is asked to lock, the agent's first: a node that changes its fee is asked for the same all the same.
    pub amounts: Vec<Msat>,
}

impl Paper {
    /// Where it lies.
    pub fn drawer(&self) -> Drawer {
        match self {
            Self::Written(_) => Drawer::Written,
            Self::Got(_) => Drawer::Got,
            Self::Bought(_) => Drawer::Bought,
            Self::Sold(_) => Drawer::Sold,
        }
    }

    /// What it lies under there.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Self::Written(issued) => issued.written.point.to_bytes().to_vec(),
            Self::Got(presented) => presented.point.to_bytes().to_vec(),
            Self::Bought(bought) => bought.purchase.authorisation().digest().to_vec(),
            Self::Sold(sold) => sold.sale.point().to_bytes().to_vec(),
        }
    }

    /// When it was written, came, or was begun, in seconds since 1970.
    pub fn at(&self) -> u64 {
        match self {
            Self::Written(issued) => issued.written.cheque.terms.time,
            Self::Got(presented) => presented.at,
            Self::Bought(bought) => bought.at,
            Self::Sold(sold) => sold.at,
        }
    }
}
