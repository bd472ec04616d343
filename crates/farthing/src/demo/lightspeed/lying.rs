//! The third act: a buyer whose rungs are locked with other words than those that it reveals. It is built from the protocol's
//! own types and speaks HTTP to a real `farthing sell`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use bitcoin::{Amount, Network};
use farthing_http::challenge::Challenge;
use farthing_http::encoding;
use farthing_http::wire::{self, AcceptedBody, ChainBody, ChainTaken, OpenBody};
use farthing_node::buyer::Buyer;
use farthing_node::buyer::calls::Allowed;
use farthing_node::watch::Pace;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::lightspeed::call::{NO_BODY, Target};
use farthing_protocol::lightspeed::{Shape, Words, ladder};
use farthing_protocol::{Channel, ChannelId, Msat};
use tokio::runtime::Handle;

use crate::demo::lightspeed::acts::{Act, closed_alone};
use crate::demo::lightspeed::traffic::{self, Http, Service};
use crate::demo::people::Person;
use crate::demo::stage::{PATIENCE, Stage};

const PRICE: Msat = Msat::new(100_000);
/// Ten words for each rung.
const SHAPE: Shape = Shape { unit: PRICE, words: 100, rungs: 10, delay: Delay::blocks(36) };
/// The first rung that lies.
const LIE: u32 = 3;

/// Plays it.
pub fn play(stage: &Stage) -> anyhow::Result<Act> {
    eprintln!("Act 3: the buyer's third rung lies …");
    let payer = Person::new(stage, "buyer", "lying", Amount::from_sat(100_000))?;
    let payee = Person::new(stage, "seller", "lying", Amount::ZERO)?;
    let service = Service::start()?;
    let seller = payee.serve(&[
        "sell",
        "--upstream",
        &service.url,
        "--price",
        "100sat/call",
        "--listen",
        "127.0.0.1:0",
    ])?;
    let buyer = Buyer::start(&payer.home()?, stage.chain(), Pace::for_network(Network::Regtest), 6)?;
    buyer.look()?;
    let liar = Liar { buyer, http: traffic::http(), url: seller.url.trim_end_matches('/').to_owned() };
    let channel = open(stage, &liar)?;
    let params = liar.buyer.params(channel).context("the channel")?;
    liar.announce(&payer, channel)?;
    let (served, refused) = Handle::current().block_on(liar.call_until_refused(channel))?;
    let (locked, left) = closed_alone(stage, &params.funding)?;
    stage.node().mine(7)?;
    drop(liar);
    seller.kill()?;
    let earned = payee.balance()?;
    // The prepayment is credited to the first calls; the rungs stand on it.
    let honest = params.prepaid + SHAPE.worth(SHAPE.rung_index(LIE - 1)).floor();
    let limit = params.prepaid + SHAPE.worth(SHAPE.rung_index(LIE)).floor();
    let spent = PRICE.get() * served / 1_000;
    let outcome = format!(
        "{served} calls for {spent} sat served, then: {refused}; the seller closed with rung {} and has {earned} sat",
        LIE - 1
    );
    let ok = locked == honest
        && Amount::from_sat(spent) < limit
        && service.requests() == served
        && earned == left.to_sat()
        && refused.contains("not locked with its word");
    Ok(Act { title: "a rung that lies", ok, outcome })
}

fn open(stage: &Stage, liar: &Liar) -> anyhow::Result<ChannelId> {
    let asked = Handle::current().block_on(liar.get(None))?;
    let challenge = asked.headers().get("www-authenticate").context("a challenge")?.to_str()?;
    let challenge = Challenge::from_header(challenge)?;
    let offer = challenge.request()?.method_details.offer;
    let limits = farthing_protocol::opening::Limits {
        most_capacity: Amount::from_sat(1_000_000),
        fee_rate: offer.fee_rate,
        most_lifetime: 100,
        most_prepaid: Amount::from_sat(50_000),
        most_confirmations: 6,
    };
    let capacity = Amount::from_sat(20_000);
    let (id, opening) = liar.buyer.propose(&offer, &limits, capacity, 100, liar.url.clone())?;
    Handle::current().block_on(async {
        let accepted: AcceptedBody = liar.post(wire::CHANNELS, &OpenBody { challenge, opening }).await?;
        liar.buyer.accepted(id, accepted.signature).await?;
        anyhow::Ok(())
    })?;
    let funding = liar.buyer.params(id).context("the channel")?.funding;
    let deadline = Instant::now() + PATIENCE;
    while stage.chain().mempool_transaction(&funding.txid)?.is_none() {
        ensure!(Instant::now() < deadline, "the funding is not broadcast");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    stage.node().mine(2)?;
    Ok(id)
}

struct Liar {
    buyer: Buyer,
    http: Http,
    url: String,
}

impl Liar {
    /// Announces a chain whose first rungs are true. The others are signed just as well, but locked with words of a chain that
    /// nobody will ever see.
    fn announce(&self, payer: &Person, id: ChannelId) -> anyhow::Result<()> {
        let entries = Handle::current().block_on(self.buyer.channels())?;
        let entry = entries.into_iter().find(|entry| entry.id == id).context("the channel")?;
        let channel = Channel::new(entry.record.params)?;
        let keys = payer.home()?.seed()?.channel_keys(entry.record.key);
        let announced = self.buyer.announce(id, SHAPE)?;
        let other = Words::draw(&keys, id, &SHAPE, 99);
        let other = ladder::sign(&channel, &keys, &other, announced.payment.total)?;
        let mut rungs = announced.rungs;
        let truthful = LIE as usize - 1;
        rungs[truthful..].copy_from_slice(&other[truthful..]);
        let key = self.buyer.call_key(id).context("the channel's key")?;
        let authority = self.url.trim_start_matches("http://").trim_end_matches('/');
        let body = ChainBody::new(announced.terms, &rungs, &announced.payment).signed(&key, id, authority);
        Handle::current().block_on(async {
            let deadline = Instant::now() + PATIENCE;
            let taken: ChainTaken = loop {
                match self.post(&wire::chains_path(id), &body).await {
                    Ok(taken) => break taken,
                    Err(error) if Instant::now() > deadline => return Err(error),
                    // The seller has not looked at the newest block yet.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            Ok(self.buyer.announced(id, announced.terms.number, Some(taken.epoch)).await?)
        })
    }

    /// Calls on and on. How many calls were served, and why one was not.
    async fn call_until_refused(&self, id: ChannelId) -> anyhow::Result<(u64, String)> {
        let authority = self.url.trim_start_matches("http://");
        let target = Target { method: "GET", authority, uri: "/", body: NO_BODY };
        let (mut served, deadline) = (0, Instant::now() + PATIENCE);
        loop {
            let prepared = self.buyer.call(id, PRICE, &target, Allowed::ANYTHING).await?;
            let answer = self.get(Some(encoding::encode_bytes(&prepared.bytes))).await?;
            let is_served = answer.status() == StatusCode::OK;
            self.buyer.answered(&prepared, is_served.then_some(PRICE)).await?;
            if is_served {
                served += 1;
            } else if answer.headers().contains_key("retry-after") && Instant::now() < deadline {
                // The seller has not seen the newest block yet.
                tokio::time::sleep(Duration::from_millis(50)).await;
            } else {
                let problem: serde_json::Value = serde_json::from_slice(answer.body())?;
                return Ok((served, problem["detail"].as_str().unwrap_or_default().to_owned()));
            }
        }
    }

    async fn get(&self, call: Option<String>) -> anyhow::Result<Response<Bytes>> {
        let mut request = Request::get(format!("{}/", self.url));
        if let Some(call) = call {
            request = request.header(wire::LIGHTSPEED, call);
        }
        traffic::ask(&self.http, request.body(Body::empty())?).await
    }

    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<T> {
        let request = Request::post(format!("{}{path}", self.url)).header("content-type", "application/json");
        let answer = traffic::ask(&self.http, request.body(Body::from(serde_json::to_vec(body)?))?).await?;
        let text = String::from_utf8_lossy(answer.body());
        ensure!(answer.status().is_success(), "the seller refused: {text}");
        Ok(serde_json::from_str(&text)?)
    }
}
