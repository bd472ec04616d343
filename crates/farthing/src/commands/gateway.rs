//! `farthing gateway`.

use anyhow::Context as _;
use bitcoin::hex::DisplayHex as _;
use farthing_gateway::admin;
use farthing_gateway::gateway::Gateway;
use farthing_gateway::home::GatewayHome;
use farthing_protocol::device::SignedPolicy;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{GatewayCommand, GatewayRunArguments};
use crate::commands::blocking;
use crate::config::Context;
use crate::output::table;

/// Runs a gateway, or asks one that runs.
pub async fn run(context: &Context, command: GatewayCommand) -> anyhow::Result<()> {
    match command {
        GatewayCommand::Run(arguments) => serve(context, &arguments).await,
        GatewayCommand::Status => ask(context, "status").await,
        GatewayCommand::Devices => ask(context, "devices").await,
        GatewayCommand::Channels => ask(context, "channels").await,
        GatewayCommand::Payments => ask(context, "payments").await,
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
    let gateway = blocking(move || Ok(Gateway::open(settings, *seed, chain)?)).await?;
    gateway.listen_to_operator().await?;
    let listening = gateway.listen(listen.parse()?, key).await;
    let address = listening.with_context(|| format!("cannot listen on {listen}"))?;
    let value = json!({
        "address": format!("{public}@{address}"),
        "node": gateway.node.id().to_string(),
        "fee_ppm": gateway.settings.fee_ppm,
    });
    let line = format!(
        "Devices reach this gateway at\n\n    {public}@{address}\n\nIts Lightning node is {}. Devices' channels stay open when this \
         process stops; while it is stopped they cannot pay, and they can always close alone.\nStop with Ctrl-C. `farthing gateway \
         status` shows what it does.",
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
