//! `farthing gateway`.

use std::sync::Arc;

use anyhow::Context as _;
use bitcoin::hex::DisplayHex as _;
use bitcoin::{Amount, ScriptBuf, Transaction, Txid};
use farthing_gateway::admin::{self, CloseChannel, OpenChannel};
use farthing_gateway::gateway::{Gateway, Settings};
use farthing_gateway::home::{self, GatewayHome};
use farthing_gateway::ldk::Setup;
use farthing_gateway::ldk::fees::FeeRates;
use farthing_gateway::operator::{Operator, Wallet, WalletError};
use farthing_node::buyer::{Buyer, SendError};
use farthing_protocol::device::SignedPolicy;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::amounts::AmountArgument;
use crate::cli::{GatewayCommand, GatewayRunArguments};
use crate::commands::{blocking, wallet};
use crate::config::{Context, node_address};
use crate::output::table;

/// Runs a gateway, or asks one that runs.
pub async fn run(context: &Context, command: GatewayCommand) -> anyhow::Result<()> {
    match command {
        GatewayCommand::Run(arguments) => serve(context, &arguments).await,
        GatewayCommand::Status => ask(context, "status").await,
        GatewayCommand::Devices => ask(context, "devices").await,
        GatewayCommand::Channels => ask(context, "channels").await,
        GatewayCommand::Payments => ask(context, "payments").await,
        GatewayCommand::OpenChannel { node, capacity, private } => {
            open_channel(context, &node, capacity, !private).await
        }
        GatewayCommand::CloseChannel { node, force } => close_channel(context, &node, force).await,
        GatewayCommand::Policy { policy } => {
            let text = std::fs::read_to_string(&policy).with_context(|| policy.display().to_string())?;
            let policy: SignedPolicy = serde_json::from_str(&text).context("this is no policy")?;
            ask(context, &format!("policy {}", serde_json::to_string(&policy)?)).await
        }
    }
}

/// Serves devices until it is told to stop. Channels stay open over a stop.
async fn serve(context: &Context, arguments: &GatewayRunArguments) -> anyhow::Result<()> {
    let GatewayRunArguments { listen, bridge } = arguments;
    let home = GatewayHome::open(context.data(), context.network())?;
    let settings = context.gateway(home.path(), bridge.as_deref())?;
    let (seed, key) = home.secrets()?;
    let public = key.public().to_lower_hex_string();
    let chain = context.chain()?;
    let operator = match context.ordinary_listen() {
        Some(listen) => Some(ordinary(context, &settings, &seed, listen).await?),
        None => None,
    };
    let gateway = blocking(move || Ok(Gateway::open(settings, *seed, chain)?)).await?;
    let ordinary = operator.map(|(operator, node)| {
        gateway.earn_through(operator);
        node
    });
    gateway.listen_to_operator().await?;
    let listening = gateway.listen(listen.parse()?, key).await;
    let address = listening.with_context(|| format!("cannot listen on {listen}"))?;
    let value = json!({
        "address": format!("{public}@{address}"),
        "node": gateway.node.id().to_string(),
        "fee_ppm": gateway.settings.fee_ppm,
        "ordinary": ordinary,
    });
    let earns = match &ordinary {
        Some(node) => format!("The ordinary node that earns the service fee is {node}."),
        None => "It earns nothing: no ordinary node runs (ordinary_listen in [gateway]).".to_owned(),
    };
    let line = format!(
        "Devices reach this gateway at\n\n    {public}@{address}\n\nIts Lightning node is {}. Devices' channels stay open when this \
         process stops; while it is stopped they cannot pay, and they can always close alone.\n{earns}\nStop with Ctrl-C. `farthing \
         gateway status` shows what it does.",
        gateway.node.id(),
    );
    context.output.say(&value, &line)?;
    stopped().await;
    blocking(move || {
        gateway.stop();
        drop(home);
        Ok(())
    })
    .await
}

/// Starts the ordinary node, and gives how other nodes reach it.
async fn ordinary(
    context: &Context,
    settings: &Settings,
    seed: &[u8; 32],
    listen: &str,
) -> anyhow::Result<(Arc<Operator>, String)> {
    let mut config = farthing_gateway::ordinary::config(settings.fee_ppm);
    config.channel_config.forwarding_fee_base_msat = u32::try_from(settings.fee_base.get())?;
    let setup = Setup {
        name: "ordinary",
        folder: settings.folder.join("ordinary"),
        seed: *home::ordinary_seed(seed),
        chain: context.chain()?,
        fees: FeeRates {
            commitment: settings.commitment_fee_rate,
            onchain: settings.onchain_fee_rate,
            follows_estimates: true,
        },
        config,
        poll: settings.poll,
    };
    let purse = Purse { runtime: Handle::current(), context: context.clone() };
    let operator = Operator::start(setup, purse)?;
    let address = operator.node.listen(listen.parse()?).await;
    let address = address.with_context(|| format!("the ordinary node cannot listen on {listen}"))?;
    operator.node.keep_connected(settings.bridge, settings.bridge_address);
    let node = format!("{}@{address}", operator.node.id());
    Ok((operator, node))
}

/// This folder's wallet, for as long as it pays one channel.
struct Purse {
    runtime: Handle,
    context: Context,
}

impl Purse {
    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Buyer) -> Result<T, SendError> + Send + 'static,
    ) -> Result<T, WalletError> {
        let done = async {
            let buyer = wallet::start(&self.context).await?;
            blocking(move || {
                buyer.look()?;
                Ok(work(&buyer)?)
            })
            .await
        };
        self.runtime.block_on(done).map_err(|error: anyhow::Error| format!("{error:#}").into())
    }
}

impl Wallet for Purse {
    fn pay(&self, script: ScriptBuf, amount: Amount) -> Result<Transaction, WalletError> {
        self.with(move |buyer| buyer.sign_prepared(buyer.prepare_payment(script, amount)?))
    }

    fn release(&self, payment: Txid) -> Result<(), WalletError> {
        self.with(move |buyer| buyer.release_prepared(payment))
    }

    fn address(&self) -> Result<ScriptBuf, WalletError> {
        let address = async {
            let buyer = wallet::start(&self.context).await?;
            blocking(move || Ok(buyer.new_address()?.script_pubkey())).await
        };
        self.runtime.block_on(address).map_err(|error: anyhow::Error| format!("{error:#}").into())
    }
}

async fn open_channel(
    context: &Context,
    node: &str,
    capacity: AmountArgument,
    is_public: bool,
) -> anyhow::Result<()> {
    let (peer, address) = node_address(node)?;
    let wanted = OpenChannel { peer, address, capacity_sat: capacity.0.floor().to_sat(), is_public };
    let folder = GatewayHome::folder(context.data(), context.network());
    let answer = admin::ask(&folder, &format!("open {}", serde_json::to_string(&wanted)?)).await?;
    if let Some(why) = answer["error"].as_str() {
        anyhow::bail!("no channel was opened: {why}");
    }
    let line = format!(
        "The channel's funding {} is on its way: the channel opens when that is deep enough in the chain.",
        answer["funding"].as_str().unwrap_or_default()
    );
    context.output.say(&answer, &line)
}

async fn close_channel(context: &Context, node: &str, is_alone: bool) -> anyhow::Result<()> {
    let key = node.split('@').next().unwrap_or_default();
    let peer = key.parse().with_context(|| format!("{key} is no key of a node"))?;
    let folder = GatewayHome::folder(context.data(), context.network());
    let wanted = serde_json::to_string(&CloseChannel { peer, is_alone })?;
    let answer = admin::ask(&folder, &format!("close {wanted}")).await?;
    if let Some(why) = answer["error"].as_str() {
        let instead = if is_alone { "" } else { " (where the node is gone, --force closes without it)" };
        anyhow::bail!("no channel was closed: {why}{instead}");
    }
    let line = format!(
        "Channels being closed: {}. What they leave comes to this wallet; `to_sweep` of `farthing gateway status` counts what is still \
         on its way.",
        answer["closing"],
    );
    context.output.say(&answer, &line)
}

async fn ask(context: &Context, what: &str) -> anyhow::Result<()> {
    let folder = GatewayHome::folder(context.data(), context.network());
    let answer = admin::ask(&folder, what).await?;
    context.output.print(&answer, || match &answer {
        Value::Array(rows) => listed(rows),
        other => facts(other),
    })
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn listed(rows: &[Value]) -> comfy_table::Table {
    let first = rows.first().and_then(Value::as_object);
    let names: Vec<&str> = first.map_or(Vec::new(), |row| row.keys().map(String::as_str).collect());
    let mut all = table(&names);
    for row in rows {
        all.add_row(names.iter().map(|name| text(&row[*name])));
    }
    all
}

fn facts(value: &Value) -> comfy_table::Table {
    let object = value.as_object();
    let pairs = object.into_iter().flatten().map(|(name, value)| (name.as_str(), text(value)));
    crate::output::facts(pairs)
}

/// Ends when the user or the system wants this process to end.
async fn stopped() {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(_) => return std::future::pending().await,
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
