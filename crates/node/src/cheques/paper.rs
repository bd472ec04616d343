//! Cheques as their writer and their payee keep them, beside the channels that carry them.

use farthing_protocol::cheque::cheque::{Cheque, Written};
use farthing_protocol::cheque::point::{AdaptorPoint, AdaptorSecret};
use farthing_protocol::cheque::receipt::Receipt;
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
    /// Its writer took it back. Until the promise is dead the agent could still break its word.
    Cancelled,
    /// It was cashed, and this is the proof.
    Paid(Receipt),
    /// The agent closed over several at once, and did not hand over the single secrets.
    PaidJointly(Vec<AdaptorPoint>, AdaptorSecret),
    /// It can never be cashed any more.
    Ended,
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
    /// The node between the agent and the payee, if there is one.
    pub via: Option<String>,
}

impl Paper {
    /// Its point.
    pub fn point(&self) -> AdaptorPoint {
        match self {
            Self::Written(issued) => issued.written.point,
            Self::Got(presented) => presented.point,
        }
    }

    /// When it was written, or came, in seconds since 1970.
    pub fn at(&self) -> u64 {
        match self {
            Self::Written(issued) => issued.written.cheque.terms.time,
            Self::Got(presented) => presented.at,
        }
    }

    /// Whether it is the payee's.
    pub fn is_got(&self) -> bool {
        match self {
            Self::Written(_) => false,
            Self::Got(_) => true,
        }
    }
}
