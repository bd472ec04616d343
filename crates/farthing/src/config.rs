//! The configuration: a TOML file, then environment variables, then the command line.
//!
//! `FARTHING_NETWORK=signet` sets `network`, `FARTHING_BITCOIND__URL=…` sets `url` in `[bitcoind]`. A key that is not
//! known is an error, since a mistyped limit would be no limit.

mod sections;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bitcoin::network::ParseNetworkError;
use bitcoin::secp256k1::PublicKey;
use bitcoin::{Amount, FeeRate, Network};
use farthing_chain::{Chain, RpcAuth, RpcConfig};
use farthing_gateway::gateway::Settings;
use farthing_http::listening;
use farthing_node::cheques;
use farthing_node::home::Home;
use farthing_node::mail::Bounds;
use farthing_node::seller;
use farthing_node::watch::Pace;
use farthing_protocol::Msat;
use farthing_protocol::opening::{Confirmations, Limits, MOST_BLOCKS, bounds};
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::amounts::AmountArgument;
use crate::cli::{Cli, Spending};
use crate::config::sections::{Agent, Buy, Call, Cheque, DAY, Gateway, Mailbox, Sell};
use crate::output::Output;

/// The variable with the node's password, in figment's spelling and without the prefix.
const PASSWORD: &str = "bitcoind__password";

/// A network by its name: the real one is called "bitcoin" in some places and "mainnet" in others.
///
/// # Errors
/// When there is none of that name.
pub fn network(name: &str) -> Result<Network, ParseNetworkError> {
    if name == "mainnet" { Ok(Network::Bitcoin) } else { name.parse() }
}

fn network_by_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
    network(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(deserialize_with = "network_by_name")]
    network: Network,
    data: Option<PathBuf>,
    #[serde(default)]
    bitcoind: Bitcoind,
    #[serde(default)]
    sell: Sell,
    #[serde(default)]
    buy: Buy,
    #[serde(default)]
    call: Call,
    #[serde(default)]
    agent: Agent,
    #[serde(default)]
    cheque: Cheque,
    #[serde(default)]
    mailbox: Mailbox,
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

/// What every command works with.
#[derive(Clone)]
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
        self.spending()?;
        let Sell { most_connections, most_connections_of_peer, .. } = self.config.sell;
        bounds("most_connections in [sell]", most_connections as u64, (1, 1 << 20))?;
        bounds("most_connections_of_peer in [sell]", most_connections_of_peer as u64, (1, 1 << 20))?;
        bounds("finality in [buy]", finality.into(), (1, MOST_BLOCKS))?;
        bounds("in_flight in [buy]", in_flight as u64, (1, 64))?;
        self.cheque_terms().validate().context("in [agent]")?;
        bounds("prekeys in [cheque]", self.config.cheque.prekeys.into(), (1, 100_000))?;
        let mailbox = self.config.mailbox;
        bounds("most_boxes in [mailbox]", mailbox.most_boxes.into(), (1, u64::from(u32::MAX)))?;
        bounds("most_letters in [mailbox]", mailbox.most_letters.into(), (1, 1_000_000))?;
        bounds("most_prekeys in [mailbox]", mailbox.most_prekeys.into(), (1, 100_000))?;
        bounds("most_mib in [mailbox]", mailbox.most_mib, (1, 1 << 30))?;
        bounds("most_keep_days in [mailbox]", mailbox.most_keep_days, (1, 3_650))?;
        // Its owner may be away for as long as its letters are kept.
        bounds("idle_days in [mailbox]", mailbox.idle_days, (mailbox.most_keep_days, 36_500))?;
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
            time_to_fund: seller::Terms::default().time_to_fund,
            most_blind: Duration::from_secs(sell.most_blind_seconds),
            durability: sell.durability.0,
            most_exposure: Msat::new(sell.most_exposure.saturating_mul(1_000)),
            most_resident: sell.most_resident_mib.saturating_mul(1 << 20),
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

    /// What paying for calls may cost, as the configuration has it.
    pub fn spending(&self) -> anyhow::Result<Spending> {
        let Call { max_cost, budget, day_budget, payee_budget, deposit } = &self.config.call;
        let amount = |name: &str, text: &Option<String>| {
            let amount = text.as_ref().map(|text| text.parse::<AmountArgument>());
            amount.transpose().with_context(|| format!("{name} in [call] of the configuration"))
        };
        Ok(Spending {
            max_cost: amount("max_cost", max_cost)?,
            budget: amount("budget", budget)?,
            day_budget: amount("day_budget", day_budget)?,
            payee_budget: amount("payee_budget", payee_budget)?,
            deposit: amount("deposit", deposit)?,
            allow_http: false,
        })
    }

    /// What those who connect to a seller may take.
    pub fn listening(&self) -> listening::Bounds {
        let Sell { most_connections: connections, most_connections_of_peer: of_one_peer, .. } =
            self.config.sell;
        listening::Bounds { connections, of_one_peer, ..listening::Bounds::default() }
    }

    /// What a program that carries cheques accepts, and how careful it is.
    pub fn cheque_terms(&self) -> cheques::Terms {
        let agent = self.config.agent;
        cheques::Terms {
            paid: self.terms(),
            paying: self.limits(),
            finality: self.buyer_finality(),
            fee: Msat::new(agent.fee_msat),
            delta: agent.delta,
            onward: (Amount::from_sat(agent.onward.0), Amount::from_sat(agent.onward.1)),
            most_onward: Amount::from_sat(agent.most_onward),
            most_towards: agent.most_towards,
        }
    }

    /// The mailbox of a payee of cheques, and how many prekeys it is to hold.
    pub fn payee_mailbox(&self) -> (Option<&str>, u32) {
        let Cheque { mailbox, prekeys, .. } = &self.config.cheque;
        (mailbox.as_deref(), *prekeys)
    }

    /// The agent of cheques: the one that was named, or that of the configuration.
    pub fn agent<'a>(&'a self, named: Option<&'a str>) -> anyhow::Result<&'a str> {
        let agent = named.or(self.config.cheque.agent.as_deref());
        agent.context("which agent? Name one by --agent URL, or set agent in [cheque] of the configuration")
    }

    /// How much a mailbox keeps.
    pub fn mailbox_bounds(&self) -> Bounds {
        let Mailbox { most_boxes, most_letters, most_prekeys, most_mib, most_keep_days, idle_days } =
            self.config.mailbox;
        let (most_keep, idle) = (most_keep_days * DAY, idle_days * DAY);
        Bounds { most_boxes, most_letters, most_prekeys, most_bytes: most_mib << 20, most_keep, idle }
    }

    /// Where a gateway's ordinary node listens.
    pub fn ordinary_listen(&self) -> Option<&str> {
        self.config.gateway.ordinary_listen.as_deref()
    }

    /// How a gateway serves devices, in that folder.
    pub fn gateway(&self, folder: &Path, bridge: Option<&str>) -> anyhow::Result<Settings> {
        let gateway = &self.config.gateway;
        let bridge = bridge.or(gateway.bridge.as_deref());
        let bridge =
            bridge.context("name the node at the other end of the channels: --bridge KEY@HOST:PORT")?;
        let (bridge, bridge_address) = node_address(bridge)?;
        bounds("keys_ready in [gateway]", gateway.keys_ready as u64, (1, 32))?;
        bounds("most_devices in [gateway]", gateway.most_devices as u64, (1, 1_000_000))?;
        bounds("commitment_fee_rate in [gateway]", u64::from(gateway.commitment_fee_rate), (1, 100))?;
        bounds("onchain_fee_rate in [gateway]", u64::from(gateway.onchain_fee_rate), (1, 1_000))?;
        bounds("most_unfunded in [gateway]", gateway.most_unfunded as u64, (1, 32))?;
        let (connections, of_one) = (gateway.most_connections, gateway.most_connections_of_one_address);
        bounds("most_connections in [gateway]", connections as u64, (1, 100_000))?;
        bounds("most_connections_of_one_address in [gateway]", of_one as u64, (1, connections as u64))?;
        Ok(Settings {
            folder: folder.to_owned(),
            bridge,
            bridge_address,
            fee_ppm: gateway.fee_ppm,
            fee_base: Msat::new(gateway.fee_base_msat),
            invitation: gateway.invitation.clone(),
            commitment_fee_rate: FeeRate::from_sat_per_vb_u32(gateway.commitment_fee_rate),
            onchain_fee_rate: FeeRate::from_sat_per_vb_u32(gateway.onchain_fee_rate),
            closing_margin: Amount::from_sat(gateway.closing_margin),
            bridge_delay: gateway.bridge_delay,
            keys_ready: gateway.keys_ready,
            limits: farthing_gateway::gateway::Limits {
                devices: gateway.most_devices,
                connections: gateway.most_connections,
                connections_of_one_address: gateway.most_connections_of_one_address,
                unfunded: gateway.most_unfunded,
            },
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

fn fee_rates((least, most): (u32, u32)) -> (FeeRate, FeeRate) {
    (FeeRate::from_sat_per_vb_u32(least), FeeRate::from_sat_per_vb_u32(most))
}

/// A Lightning node, written KEY@HOST:PORT.
pub fn node_address(text: &str) -> anyhow::Result<(PublicKey, SocketAddr)> {
    let (key, address) = text.split_once('@').context("a Lightning node is written KEY@HOST:PORT")?;
    let mut found = address.to_socket_addrs().with_context(|| format!("{address} is not found"))?;
    let address = found.next().with_context(|| format!("{address} is not found"))?;
    Ok((key.parse().with_context(|| format!("{key} is no key of a node"))?, address))
}
