//! Most calls of the ladder: without HTTP, through the same functions of the library that the programs call, on the same
//! data folders and the same channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bitcoin::Network;
use farthing_node::buyer::Buyer;
use farthing_node::buyer::calls::Allowed;
use farthing_node::buyer::calls::CallsError;
use farthing_node::seller::{Seller, Terms};
use farthing_node::tabs::{Announced, Durability, Standing};
use farthing_node::watch::Pace;
use farthing_protocol::lightspeed::call::Target;
use farthing_protocol::lightspeed::numbers::WINDOW;
use farthing_protocol::lightspeed::{Call, Purse, Shape};
use farthing_protocol::{ChannelId, Msat};
use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking};

use crate::demo::people::Person;
use crate::demo::stage::Stage;

/// How many calls run at once.
const AT_ONCE: usize = 128;
/// How many calls are made between two looks at whether the next chain is due.
const ROUND: u64 = 8_192;
/// Every call is stored on both sides before it goes on.
pub const DURABILITY: &str = "call";

/// What the request is: nothing travels, but the MAC covers it all the same.
const TARGET: Target<'static> = Target { method: "GET", authority: "in process", uri: "/", body: [0; 32] };

/// What was counted.
pub struct Counted {
    pub took: Duration,
    pub purse: Purse,
    pub standing: Standing,
}

/// Makes so many calls.
pub fn play(
    stage: &Stage,
    payer: &Person,
    payee: &Person,
    price: Msat,
    calls: u64,
) -> anyhow::Result<Counted> {
    let pace = Pace::for_network(Network::Regtest);
    let buyer = Buyer::start(&payer.home()?, stage.chain(), pace, 6)?;
    let seller = Seller::start(&payee.home()?, stage.chain(), pace, terms())?;
    seller.look()?; // before that it sells nothing
    Handle::current().block_on(async {
        let entries = buyer.channels().await?;
        let channel = entries.first().context("the channel that paid for the calls over HTTP")?.id;
        let purse = buyer.purse(channel).await?.context("the channel pays for calls")?;
        let shape = purse.chains().first().context("a chain was announced")?.0.shape;
        buyer.epoch(channel, seller.epoch()).await?;
        let scene = Arc::new(Scene { buyer, seller, channel, price, shape });
        let counted = scene.clone().play(calls).await;
        // Both end here and not in an async thread: they wait for their own threads.
        spawn_blocking(move || drop(scene)).await?;
        counted
    })
}

struct Scene {
    buyer: Buyer,
    seller: Seller,
    channel: ChannelId,
    price: Msat,
    shape: Shape,
}

impl Scene {
    async fn play(self: Arc<Self>, calls: u64) -> anyhow::Result<Counted> {
        let started = Instant::now();
        self.clone().announce_ahead(calls).await?;
        let mut left = calls;
        while left > 0 {
            let round = left.min(ROUND);
            // The next chain is signed and verified while calls go on.
            tokio::try_join!(self.clone().round(round), self.clone().announce_ahead(left))?;
            left -= round;
        }
        let took = started.elapsed();
        let purse = self.buyer.purse(self.channel).await?.context("the purse")?;
        let standing = self.seller.standing(self.channel).await?.context("the tab")?;
        Ok(Counted { took, purse, standing })
    }

    /// Call after call, in stretches of half the seller's window: a task may lie still while the others go on, and its call must not be too
    /// old by then.
    async fn round(self: Arc<Self>, calls: u64) -> anyhow::Result<()> {
        let mut left = calls;
        while left > 0 {
            let stretch = left.min(WINDOW / 2);
            self.clone().stretch(stretch).await?;
            left -= stretch;
        }
        Ok(())
    }

    async fn stretch(self: Arc<Self>, calls: u64) -> anyhow::Result<()> {
        let left = Arc::new(AtomicU64::new(calls));
        let mut clients = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (scene, left) = (self.clone(), left.clone());
            clients.spawn(async move {
                let take = |left: u64| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    scene.call().await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(client) = clients.join_next().await {
            client??;
        }
        Ok(())
    }

    /// One call, as the caller and the gate make it: stored, sent as bytes, admitted, ended, stored, answered, stored.
    async fn call(&self) -> anyhow::Result<()> {
        let Self { buyer, seller, channel, price, .. } = self;
        let prepared = buyer.call(*channel, *price, &TARGET, Allowed::ANYTHING).await?;
        let (call, mac) = Call::from_bytes(&prepared.bytes)?;
        let admission = seller.admit(&call, &TARGET, &mac).await?;
        let ended = seller.end(admission, Some(*price));
        let charged = ended.charged;
        ended.stored().await?;
        Ok(buyer.answered(&prepared, Some(charged)).await?)
    }

    /// Announces the next chain when this one may not last for two rounds.
    async fn announce_ahead(self: Arc<Self>, calls: u64) -> anyhow::Result<()> {
        let purse = self.buyer.purse(self.channel).await?.context("the purse")?;
        let needed = Msat::new(self.price.get() * calls.min(2 * ROUND));
        if purse.left() >= needed || purse.next_chain().is_err() {
            return Ok(());
        }
        let scene = self.clone();
        let announced = spawn_blocking(move || scene.buyer.announce(scene.channel, scene.shape)).await?;
        let announced = match announced {
            Err(CallsError::Spent(_)) => return Ok(()),
            announced => announced?,
        };
        let terms = announced.terms;
        let epoch = self
            .seller
            .announce(self.channel, Announced::Chain(terms, announced.rungs), announced.payment)
            .await?;
        Ok(self.buyer.announced(self.channel, terms.number, Some(epoch)).await?)
    }
}

/// The terms of `farthing sell`; those of this channel were agreed when it was opened.
fn terms() -> Terms {
    // As in the configuration of the people in the demo.
    Terms { lifetime: (20, 1_000), margin: 6, durability: Durability::Call, ..Terms::default() }
}
