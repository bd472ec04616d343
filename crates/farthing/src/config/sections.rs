//! The sections of the configuration that say what a program accepts and how careful it is, with their defaults.

use std::time::Duration;

use bitcoin::FeeRate;
use farthing_gateway::gateway::Limits;
use farthing_http::caller::Means;
use farthing_http::listening;
use farthing_node::cheques;
use farthing_node::mail::Bounds;
use farthing_node::seller;
use farthing_node::tabs::Durability;
use serde::{Deserialize, Serialize};

/// What a seller accepts. Amounts in satoshi, fee rates in satoshi per vbyte, times in blocks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sell {
    pub capacity: (u64, u64),
    pub fee_rate: (u32, u32),
    pub lifetime: (u32, u32),
    pub margin: u32,
    pub confirmations: u32,
    pub one_more_confirmation_per: u64,
    pub unconfirmed_cap: u64,
    pub patience: u32,
    pub finality: u32,
    pub most_unfunded: usize,
    pub most_blind_seconds: u64,
    /// `call`, or `batch:50ms`.
    pub durability: DurabilitySetting,
    pub most_exposure: u64,
    /// How much memory the accounts of payers may take.
    pub most_resident_mib: usize,
    pub most_connections: usize,
    pub most_connections_of_peer: usize,
}

/// When calls that were served are stored.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DurabilitySetting(pub Durability);

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no durability: write \"call\", or for example \"batch:50ms\"")]
pub struct BadDurability(String);

impl TryFrom<String> for DurabilitySetting {
    type Error = BadDurability;

    fn try_from(text: String) -> Result<Self, BadDurability> {
        let millis = || text.strip_prefix("batch:")?.strip_suffix("ms")?.parse::<u64>().ok();
        match (text.as_str(), millis()) {
            ("call", _) => Ok(Self(Durability::Call)),
            (_, Some(millis @ 1..=60_000)) => Ok(Self(Durability::Batch(Duration::from_millis(millis)))),
            (_, Some(_) | None) => Err(BadDurability(text)),
        }
    }
}

impl From<DurabilitySetting> for String {
    fn from(setting: DurabilitySetting) -> Self {
        match setting.0 {
            Durability::Call => "call".to_owned(),
            Durability::Batch(interval) => format!("batch:{}ms", interval.as_millis()),
        }
    }
}

impl Default for Sell {
    fn default() -> Self {
        let terms = seller::Terms::default();
        Self {
            capacity: (terms.capacity.0.to_sat(), terms.capacity.1.to_sat()),
            fee_rate: sat_per_vb(terms.fee_rate),
            lifetime: terms.lifetime,
            margin: terms.margin,
            confirmations: terms.confirmations.least,
            one_more_confirmation_per: terms.confirmations.one_more_per.to_sat(),
            unconfirmed_cap: terms.unconfirmed_cap.get() / 1_000,
            patience: terms.patience,
            finality: terms.finality,
            most_unfunded: terms.most_unfunded,
            most_blind_seconds: terms.most_blind.as_secs(),
            durability: DurabilitySetting(terms.durability),
            most_exposure: terms.most_exposure.get() / 1_000,
            most_resident_mib: terms.most_resident >> 20,
            most_connections: listening::Bounds::default().connections,
            most_connections_of_peer: listening::Bounds::default().of_one_peer,
        }
    }
}

/// What a buyer accepts. Amounts in satoshi, fee rates in satoshi per vbyte, times in blocks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Buy {
    pub most_capacity: u64,
    pub fee_rate: (u32, u32),
    pub most_lifetime: u32,
    pub most_prepaid: u64,
    pub most_confirmations: u32,
    pub in_flight: usize,
    pub patience_seconds: u64,
    pub finality: u32,
}

impl Default for Buy {
    fn default() -> Self {
        let limits = Means::default().limits;
        Self {
            most_capacity: limits.most_capacity.to_sat(),
            fee_rate: sat_per_vb(limits.fee_rate),
            most_lifetime: limits.most_lifetime,
            most_prepaid: limits.most_prepaid.to_sat(),
            most_confirmations: limits.most_confirmations,
            in_flight: 2,
            patience_seconds: 30,
            finality: 6,
        }
    }
}

/// What paying for calls may cost where the command line does not say: amounts as it takes them, such as `1sat`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Call {
    pub max_cost: Option<String>,
    pub budget: Option<String>,
    pub day_budget: Option<String>,
    pub payee_budget: Option<String>,
    pub deposit: Option<String>,
}

/// What an agent or a node wants, and risks. Amounts in satoshi, the fee in millisatoshi, times in blocks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// For passing a cheque on.
    pub fee_msat: u64,
    /// How much earlier a lock must end than the channel of the promise behind it.
    pub delta: u32,
    /// The least and the most that a channel towards a payee locks.
    pub onward: (u64, u64),
    /// The most that all of them lock.
    pub most_onward: u64,
    /// The most channels to one node, at least two. A further one is opened when locks have held all of them for a minute.
    pub most_towards: usize,
}

impl Default for Agent {
    fn default() -> Self {
        let terms = cheques::Terms::default();
        Self {
            fee_msat: terms.fee.get(),
            delta: terms.delta,
            onward: (terms.onward.0.to_sat(), terms.onward.1.to_sat()),
            most_onward: terms.most_onward.to_sat(),
            most_towards: 4,
        }
    }
}

/// How a payee of cheques is reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cheque {
    /// The address of its mailbox.
    pub mailbox: Option<String>,
    /// How many prekeys the mailbox is to hold.
    pub prekeys: u32,
    /// The agent that pays in their writer's place, unless a command names another.
    pub agent: Option<String>,
}

impl Default for Cheque {
    fn default() -> Self {
        Self { mailbox: None, prekeys: 100, agent: None }
    }
}

/// How much a mailbox keeps.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mailbox {
    pub most_boxes: u32,
    pub most_letters: u32,
    pub most_prekeys: u32,
    pub most_mib: u64,
    pub most_keep_days: u64,
    pub idle_days: u64,
}

pub const DAY: u64 = 86_400;

impl Default for Mailbox {
    fn default() -> Self {
        let bounds = Bounds::default();
        Self {
            most_boxes: bounds.most_boxes,
            most_letters: bounds.most_letters,
            most_prekeys: bounds.most_prekeys,
            most_mib: bounds.most_bytes >> 20,
            most_keep_days: bounds.most_keep / DAY,
            idle_days: bounds.idle / DAY,
        }
    }
}

/// How a gateway serves devices. Fee rates in satoshi per vbyte, times in blocks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// The node at the other end of devices' channels: `KEY@HOST:PORT`.
    pub bridge: Option<String>,
    /// Where the operator's ordinary Lightning node listens, as HOST:PORT. It earns the service fee; without it there is none.
    pub ordinary_listen: Option<String>,
    /// The service fee, in millionths of a payment.
    pub fee_ppm: u32,
    /// Its fixed part, in millisatoshi.
    pub fee_base_msat: u64,
    /// The word that lets a device in; empty lets anybody in.
    pub invitation: String,
    /// What commitments pay. Fixed, with headroom: a change costs joint signatures.
    pub commitment_fee_rate: u32,
    pub onchain_fee_rate: u32,
    /// What a closing together may cost above that, in satoshi.
    pub closing_margin: u64,
    pub bridge_delay: u16,
    pub keys_ready: usize,
    /// How many devices may be enrolled, how many connections they may have at once, and how many of those from one address.
    pub most_devices: usize,
    pub most_connections: usize,
    pub most_connections_of_one_address: usize,
    /// How many channels of one device may wait for their fundings.
    pub most_unfunded: usize,
}

impl Default for Gateway {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            bridge: None,
            ordinary_listen: None,
            fee_ppm: 50_000,
            fee_base_msat: 0,
            invitation: String::new(),
            commitment_fee_rate: 10,
            onchain_fee_rate: 10,
            closing_margin: 1_000,
            bridge_delay: 2_016,
            keys_ready: 2,
            most_devices: limits.devices,
            most_connections: limits.connections,
            most_connections_of_one_address: limits.connections_of_one_address,
            most_unfunded: limits.unfunded,
        }
    }
}

fn sat_per_vb((least, most): (FeeRate, FeeRate)) -> (u32, u32) {
    let whole = |rate: FeeRate| u32::try_from(rate.to_sat_per_vb_floor()).unwrap_or(u32::MAX);
    (whole(least), whole(most))
}
