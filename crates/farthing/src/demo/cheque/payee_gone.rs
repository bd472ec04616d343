//! The act in which the payee has a lock made and is never seen again: the agent's money is tied up until the lock's channel
//! expires, and nobody loses any. The payee runs in this process, so that it can stop where no command of the program does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use farthing_http::cheques::Client;
use farthing_http::mailbox::{self, Owner};
use farthing_mailbox::Letter;
use farthing_mailbox::address::Host;
use farthing_node::cheques::opening::Direction;
use farthing_node::cheques::selling::{Ask, Towards};
use farthing_node::cheques::{Teller, Terms};
use farthing_node::seller;
use farthing_node::watch::Pace;
use farthing_protocol::ChannelId;
use farthing_protocol::cheque::cheque::Cheque;

use crate::demo::cheque::Cast;
use crate::demo::cheque::acts::{Act, FINAL, SHORTLY, name, take_back};
use crate::demo::stage::{PATIENCE, Stage};

/// What of a second passes between two looks.
const STEP: Duration = Duration::from_millis(100);

/// Plays it.
pub fn play(stage: &Stage) -> anyhow::Result<Act> {
    eprintln!("Act 4: the payee goes away after the agent has locked something for it …");
    let mut cast = Cast::new(stage, "payee-gone")?;
    let (cheque, locked) = {
        let _miner = stage.miner();
        let cheque = name(&cast.write("4000sat", SHORTLY)?)?;
        let runtime = tokio::runtime::Runtime::new()?;
        (cheque, runtime.block_on(has_lock_made(stage, &cast))?)
    };
    // The lock cannot be taken back, so the cheque cannot either.
    let is_held = cast.cancel(&cheque).is_err();
    let expiry = of_agent(&cast, locked)?["expiry"].as_u64().context("a height")?;
    stage.mine_to(u32::try_from(expiry)?)?;
    // The agent sees by itself that it has expired.
    let ending = await_ending(stage, &cast, locked)?;
    let back = ending["received_sat"].as_u64().context("an amount")?;
    let capacity = of_agent(&cast, locked)?["capacity_sat"].as_u64().context("an amount")?;
    let is_whole = ending["kind"] == "refund" && back <= capacity && back + 2_000 > capacity;
    let payer = take_back(stage, cast.payer())?;
    let listed = cast.listed(&cheque)?;
    let ok = is_held && is_whole && listed["state"] == "ended" && listed["receipt"].is_null();
    let outcome = format!("the agent has {back} sat back when its lock expires, the payer {payer} sat later");
    Ok(Act { title: "payee gone", ok, outcome })
}

/// The payee up to the lock, and no further.
async fn has_lock_made(stage: &Stage, cast: &Cast) -> anyhow::Result<ChannelId> {
    let (home, chain) = (cast.payee().home()?, stage.chain());
    let host = cast.mailbox().trim_start_matches("http://");
    let owner = Owner::new(&home.seed()?, Host::new(host)?);
    let (cheque, agent) = fetch(&owner).await?;
    let defaults = Terms::default();
    let paid = seller::Terms { lifetime: (20, 1_000), margin: 6, ..defaults.paid };
    let pace = Pace { interval: STEP, ..Pace::for_network(bitcoin::Network::Regtest) };
    let teller =
        blocking(move || Ok(Arc::new(Teller::start(&home, chain, pace, Terms { paid, ..defaults })?)))
            .await?;
    let client = Client::new(teller.clone(), PATIENCE)?;
    let (latest, amount) = (cheque.latest.height(), cheque.terms.amount);
    let channel = client.request(&agent, amount, latest, Direction::Cheques).await?;
    let opened = teller.clone();
    blocking(move || is_open(&opened, channel)).await?;
    let (asking, at) = (teller.clone(), agent.clone());
    let ask = blocking(move || {
        let presented = asking.receive(cheque, at)?;
        let (_, route) = asking.plan_sale(&presented.point, channel, Vec::new(), &[])?;
        let hop = route.hops.first().context("a hop")?.clone();
        let (held, towards) = (presented.point, Towards::Channel(channel));
        Ok(Ask { held, point: hop.point, tweak: hop.tweak, amount, towards })
    })
    .await?;
    client.ask(&agent, &ask).await?;
    client.answer(channel).await?;
    let holds = teller.clone();
    blocking(move || {
        let channels = holds.channels()?;
        let holder = channels.iter().find(|entry| entry.id == channel).and_then(|entry| entry.state.holder());
        ensure!(holder.is_some_and(|holder| !holder.held().is_empty()), "the payee holds no lock");
        Ok(())
    })
    .await?;
    blocking(move || {
        drop((client, teller));
        Ok(())
    })
    .await?;
    Ok(channel)
}

/// The cheque that waits at the mailbox.
async fn fetch(owner: &Owner) -> anyhow::Result<(Cheque, String)> {
    let letters = mailbox::Client::new(PATIENCE)?.fetch(owner, 0).await?;
    let fetched = letters.first().context("a letter")?;
    match owner.open(&fetched.blob)? {
        Letter::Cheque { cheque, agent } => Ok((*cheque, agent)),
        _other => anyhow::bail!("the letter is no cheque"),
    }
}

fn is_open(teller: &Teller, channel: ChannelId) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        teller.look()?;
        let channels = teller.channels()?;
        let found = channels.iter().find(|entry| entry.id == channel);
        if found.is_some_and(|entry| entry.state.name() == "open") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the payee's channel does not open");
        std::thread::park_timeout(STEP);
    }
}

fn of_agent(cast: &Cast, channel: ChannelId) -> anyhow::Result<serde_json::Value> {
    let channels = cast.agent().run(&["channels", "list"])?;
    let rows = channels.as_array().context("a list of channels")?;
    rows.iter()
        .find(|row| row["channel"] == channel.to_string().as_str())
        .cloned()
        .context("the agent's channel to the payee")
}

fn await_ending(stage: &Stage, cast: &Cast, channel: ChannelId) -> anyhow::Result<serde_json::Value> {
    let deadline = Instant::now() + PATIENCE;
    // The refund waits in the mempool before it is mined.
    let funding = of_agent(cast, channel)?["funding"].as_str().context("an outpoint")?.parse()?;
    stage.await_spend(&funding)?;
    stage.node().mine(FINAL)?;
    loop {
        let ending = of_agent(cast, channel)?["ending"].clone();
        if !ending.is_null() {
            return Ok(ending);
        }
        ensure!(Instant::now() < deadline, "the agent's channel does not end");
        std::thread::park_timeout(STEP);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}
