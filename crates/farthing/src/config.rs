//! The configuration: a TOML file, then environment variables, then the command line.
//!
//! `FARTHING_NETWORK=signet` sets `network`, `FARTHING_BITCOIND__URL=…` sets `url` in `[bitcoind]`. A key that is not
//! known is an error, since a mistyped limit would be no limit.

use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bitcoin::{Amount, FeeRate, Network};
use farthing_chain::{Chain, RpcAuth, RpcConfig};
use farthing_gateway::gateway::Settings;
use farthing_http::caller::Means;
use farthing_node::home::Home;
use farthing_node::seller;
use farthing_node::tabs::Durability;
use farthing_node::watch::Pace;
use farthing_protocol::Msat;
use farthing_protocol::opening::{Confirmations, Limits, MOST_BLOCKS, bounds};
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::cli::Cli;
use crate::output::Output;

/// The variable with the node's password, in figment's spelling and without the prefix.
const PASSWORD: &str = "bitcoind__password";

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    network: Network,
    data: Option<PathBuf>,
    #[serde(default)]
    bitcoind: Bitcoind,
    #[serde(default)]
    sell: Sell,
    #[serde(default)]
    buy: Buy,
    #[serde(default)]
    gateway: Gateway,
}

/// How the node is reached. Without anything: at the network's usual port, with the cookie in `~/.bitcoin`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bitcoind {
    url: Option<String>,
    cookie: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
}

impl std::fmt::Debug for Bitcoind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bitcoind").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What a seller accepts. Amounts in satoshi, fee rates in satoshi per vbyte, times in blocks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sell {
    capacity: (u64, u64),
    fee_rate: (u32, u32),
    lifetime: (u32, u32),
    margin: u32,
    confirmations: u32,
    one_more_confirmation_per: u64,
    unconfirmed_cap: u64,
    patience: u32,
    finality: u32,
    most_unfunded: usize,
    /// `call`, or `batch:50ms`.
    durability: DurabilitySetting,
    most_exposure: u64,
}

/// When calls that were served are stored.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct DurabilitySetting(Durability);

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no durability: write \"call\", or for example \"batch:50ms\"")]
struct BadDurability(String);

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
            durability: DurabilitySetting(terms.durability),
            most_exposure: terms.most_exposure.get() / 1_000,
        }
    }
}

/// What a buyer accepts. Amounts in satoshi, fee rates in satoshi per vbyte, times in blocks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Buy {
    most_capacity: u64,
    fee_rate: (u32, u32),
    most_lifetime: u32,
    most_prepaid: u64,
    most_confirmations: u32,
    in_flight: usize,
    patience_seconds: u64,
    finality: u32,
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

/// How a gateway serves devices. Fee rates in satoshi per vbyte, times in blocks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Gateway {
    /// The node at the other end of devices' channels: `KEY@HOST:PORT`.
    bridge: Option<String>,
    /// The service fee, in millionths of a payment.
    fee_ppm: u32,
    /// Its fixed part, in millisatoshi.
    fee_base_msat: u64,
    /// The word that lets a device in; empty lets anybody in.
    invitation: String,
    /// What commitments pay. Fixed, with headroom: a change costs joint signatures.
    commitment_fee_rate: u32,
    onchain_fee_rate: u32,
    bridge_delay: u16,
    keys_ready: usize,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            bridge: None,
            fee_ppm: 50_000,
            fee_base_msat: 0,
            invitation: String::new(),
            commitment_fee_rate: 10,
            onchain_fee_rate: 10,
            bridge_delay: 2_016,
            keys_ready: 2,
        }
    }
}

/// What every command works with.
pub struct Context {
    config: Config,
    data: PathBuf,
    /// Where results go.
    pub output: Output,
}

impl Context {
    /// Reads the configuration.
    pub fn load(cli: &Cli) -> anyhow::Result<Self> {
        let home =
            || Ok(std::env::home_dir().context("there is no home folder: use --data")?.join(".farthing"));
        let data = cli.data.clone().or_else(|| std::env::var_os("FARTHING_DATA").map(PathBuf::from));
        let file = match &cli.config {
            Some(file) if !file.is_file() => bail!("there is no configuration {}", file.display()),
            Some(file) => file.clone(),
            None => data.clone().map_or_else(home, Ok::<_, anyhow::Error>)?.join("farthing.toml"),
        };
        let mut figment = Figment::from(Serialized::default("network", Network::Signet))
            .merge(Toml::file(file))
            .merge(Env::prefixed("FARTHING_").ignore(&["crash_at", PASSWORD]).split("__"));
        // As it is: read as a value, a password of digits would be a number, and an error would show it.
        if let Ok(password) = std::env::var(format!("FARTHING_{PASSWORD}").to_uppercase()) {
            figment = figment.merge(Serialized::default("bitcoind.password", password));
        }
        if let Some(network) = cli.network {
            figment = figment.merge(Serialized::default("network", network));
        }
        let config: Config = figment.extract().context("the configuration cannot be used")?;
        if config.network == Network::Bitcoin {
            if !cli.mainnet_unaudited {
                bail!(
                    "this code is not audited, and mistakes in it can lose your money: \
                     to use real bitcoin all the same, add --mainnet-unaudited"
                );
            }
            eprintln!("farthing: this code is not audited; do not lock more than you can lose");
        }
        if config.network == Network::Testnet {
            bail!("testnet3 is not supported: use testnet4 or signet");
        }
        let data = match cli.data.clone().or_else(|| config.data.clone()) {
            Some(data) => data,
            None => home()?,
        };
        let context = Self { config, data, output: Output::new(cli.json) };
        context.validate().context("the configuration makes no sense")?;
        Ok(context)
    }

    /// Values that would decide about money in a way that nobody can want.
    fn validate(&self) -> anyhow::Result<()> {
        let Buy { in_flight, patience_seconds, finality, .. } = self.config.buy;
        self.terms().validate().context("in [sell]")?;
        self.limits().validate().context("in [buy]")?;
        bounds("finality in [buy]", finality.into(), (1, MOST_BLOCKS))?;
        bounds("in_flight in [buy]", in_flight as u64, (1, 64))?;
        Ok(bounds("patience_seconds in [buy]", patience_seconds, (1, 86_400))?)
    }

    /// The network.
    pub fn network(&self) -> Network {
        self.config.network
    }

    /// The data folder of all networks.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The data folder of this network, which must have a seed.
    pub fn home(&self) -> anyhow::Result<Home> {
        Ok(Home::open(&self.data, self.config.network)?)
    }

    /// The node.
    pub fn chain(&self) -> anyhow::Result<Chain> {
        let Bitcoind { url, cookie, user, password } = &self.config.bitcoind;
        let network = self.config.network;
        let (port, folder) = match network {
            Network::Bitcoin => (8_332, ""),
            Network::Testnet4 => (48_332, "testnet4"),
            Network::Signet => (38_332, "signet"),
            Network::Regtest => (18_443, "regtest"),
            other => bail!("the network {other} is not supported"),
        };
        let auth = match (cookie, user, password) {
            (None, Some(user), Some(password)) => {
                RpcAuth::UserPass { user: user.clone(), password: password.clone() }
            }
            (Some(cookie), None, None) => RpcAuth::Cookie(cookie.clone()),
            (None, None, None) => {
                let home = std::env::home_dir().context("there is no home folder: set bitcoind.cookie")?;
                RpcAuth::Cookie(home.join(".bitcoin").join(folder).join(".cookie"))
            }
            _mixed => bail!("set either bitcoind.cookie or bitcoind.user and bitcoind.password"),
        };
        let url = url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{port}"));
        Ok(Chain::connect(&RpcConfig { url, auth }, network)?)
    }

    /// How the chain is watched.
    pub fn pace(&self) -> Pace {
        Pace::for_network(self.config.network)
    }

    /// What a seller accepts.
    pub fn terms(&self) -> seller::Terms {
        let sell = self.config.sell;
        seller::Terms {
            capacity: (Amount::from_sat(sell.capacity.0), Amount::from_sat(sell.capacity.1)),
            fee_rate: fee_rates(sell.fee_rate),
            lifetime: sell.lifetime,
            margin: sell.margin,
            confirmations: Confirmations {
                least: sell.confirmations,
                one_more_per: Amount::from_sat(sell.one_more_confirmation_per),
            },
            unconfirmed_cap: Msat::new(sell.unconfirmed_cap.saturating_mul(1_000)),
            patience: sell.patience,
            finality: sell.finality,
            most_unfunded: sell.most_unfunded,
            durability: sell.durability.0,
            most_exposure: Msat::new(sell.most_exposure.saturating_mul(1_000)),
            flat: None,
        }
    }

    /// What a buyer accepts.
    pub fn limits(&self) -> Limits {
        let buy = self.config.buy;
        Limits {
            most_capacity: Amount::from_sat(buy.most_capacity),
            fee_rate: fee_rates(buy.fee_rate),
            most_lifetime: buy.most_lifetime,
            most_prepaid: Amount::from_sat(buy.most_prepaid),
            most_confirmations: buy.most_confirmations,
        }
    }

    /// How a gateway serves devices, in that folder.
    pub fn gateway(&self, folder: &Path, bridge: Option<&str>) -> anyhow::Result<Settings> {
        let gateway = &self.config.gateway;
        let bridge = bridge.or(gateway.bridge.as_deref());
        let bridge =
            bridge.context("name the node at the other end of the channels: --bridge KEY@HOST:PORT")?;
        let (key, address) = bridge.split_once('@').context("a bridge is written KEY@HOST:PORT")?;
        let address = address.to_socket_addrs().with_context(|| format!("{address} is not found"))?.next();
        bounds("keys_ready in [gateway]", gateway.keys_ready as u64, (1, 32))?;
        Ok(Settings {
            folder: folder.to_owned(),
            bridge: key.parse().context("the bridge's key")?,
            bridge_address: address.context("the bridge's address")?,
            fee_ppm: gateway.fee_ppm,
            fee_base: Msat::new(gateway.fee_base_msat),
            invitation: gateway.invitation.clone(),
            commitment_fee_rate: FeeRate::from_sat_per_vb_u32(gateway.commitment_fee_rate),
            onchain_fee_rate: FeeRate::from_sat_per_vb_u32(gateway.onchain_fee_rate),
            bridge_delay: gateway.bridge_delay,
            keys_ready: gateway.keys_ready,
            poll: match self.config.network {
                Network::Regtest => Duration::from_millis(100),
                _other => Duration::from_secs(5),
            },
        })
    }

    /// How deep a buyer wants the end of a channel to be.
    pub fn buyer_finality(&self) -> u32 {
        self.config.buy.finality
    }

    /// How a download goes.
    pub fn download_pace(&self) -> farthing_http::download::Pace {
        farthing_http::download::Pace {
            in_flight: self.config.buy.in_flight,
            patience: Duration::from_secs(self.config.buy.patience_seconds),
            bytes_per_second: None,
        }
    }
}

fn sat_per_vb((least, most): (FeeRate, FeeRate)) -> (u32, u32) {
    let whole = |rate: FeeRate| u32::try_from(rate.to_sat_per_vb_floor()).unwrap_or(u32::MAX);
    (whole(least), whole(most))
}

fn fee_rates((least, most): (u32, u32)) -> (FeeRate, FeeRate) {
    (FeeRate::from_sat_per_vb_u32(least), FeeRate::from_sat_per_vb_u32(most))
}
