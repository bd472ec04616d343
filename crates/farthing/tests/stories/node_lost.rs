//! The bitcoind of one side is gone in the middle of a purchase: what needs no chain goes on, and the rest is said.

use std::sync::Mutex;

use anyhow::{Context as _, Result};
use farthing_testkit::people::free_address;
use farthing_testkit::relay::{Fate, Relay};
use farthing_testkit::{Person, World};

use crate::{COINS, SLOWLY, scene};

/// The way of one person to the node. Without it, nothing answers there.
struct Line {
    address: String,
    node: String,
    relay: Option<Relay>,
}

impl Line {
    fn new(world: &World) -> Result<Self> {
        let url = world.rpc_config().url;
        let node = url.strip_prefix("http://").context("a node's address")?.to_owned();
        let mut line = Self { address: free_address()?, node, relay: None };
        line.restore()?;
        Ok(line)
    }

    fn of(&self, person: &Person) -> Person {
        person.with("FARTHING_BITCOIND__URL", &format!("http://{}", self.address))
    }

    fn cut(&mut self) {
        self.relay = None;
    }

    fn restore(&mut self) -> Result<()> {
        self.relay = Some(Relay::recording_at(&self.address, &self.node)?);
        Ok(())
    }
}

#[test]
fn a_buyer_whose_node_is_lost_gets_the_file_and_closes_when_the_node_is_back() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let mut line = Line::new(&world)?;
    let payer = line.of(&payer);
    let seller = payee.sell(&goods)?;
    {
        let _miner = world.miner();
        let mut buying = payer.start_buying(&seller.url, "out", &SLOWLY)?;
        buying.await_pieces(5)?;
        line.cut();
        let said = buying.wait()?.failure(4)?;
        for words in ["the file is complete", "channels close", "no bitcoind answers", &line.address] {
            assert!(said.contains(words), "no {words:?} in: {said}");
        }
    }
    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    let said = payer.buy(&seller.url, "out", &[])?.failure(4)?;
    assert!(said.contains("no bitcoind answers") && said.contains("start it"), "{said}");

    line.restore()?;
    payer.buy(&seller.url, "out", &[])?.result()?;
    let cost = seller.cost_msat;
    assert_eq!((payer.channel()?.spent_msat, payee.channel()?.spent_msat), (cost, cost));
    world.make_final()?;
    seller.kill()?;
    assert_eq!(payee.balance()?, cost / 1_000);
    assert!(payer.balance()? > COINS - cost / 1_000 - 2_000, "only fees came on top");
    Ok(())
}

#[test]
fn a_buyer_whose_node_is_lost_before_the_opening_locks_nothing() -> Result<()> {
    let (world, payee, payer, goods) = scene(5_000)?;
    let mut line = Line::new(&world)?;
    let payer = line.of(&payer);
    let seller = payee.sell(&goods)?;
    let cutting = Mutex::new(line.relay.take());
    let shop = Relay::before(&seller.address, move |request, _| {
        if request.start.starts_with("HEAD") {
            cutting.lock().expect("no holder of this lock panics").take();
        }
        Fate::Deliver
    })?;
    let url = shop.url(&seller.url);
    let _miner = world.miner();
    let said = payer.buy(&url, "out", &[])?.failure(4)?;
    assert!(said.contains("no bitcoind answers") && said.contains("start it"), "{said}");
    assert_eq!((payer.channels()?.len(), world.mempool()?.len()), (0, 0));

    line.restore()?;
    payer.buy(&url, "out", &[])?.result()?;
    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    Ok(())
}

#[test]
fn a_seller_whose_node_is_lost_serves_what_is_paid_and_closes_when_the_node_is_back() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let mut line = Line::new(&world)?;
    let seller = line.of(&payee).sell(&goods)?;
    let cost = seller.cost_msat;
    {
        let _miner = world.miner();
        let mut buying = payer.start_buying(&seller.url, "out", &SLOWLY)?;
        buying.await_pieces(5)?;
        line.cut();
        let said = buying.wait()?.failure(3)?;
        for words in ["the file is complete", "channels close", "the seller's node", "try again later"] {
            assert!(said.contains(words), "no {words:?} in: {said}");
        }
        assert!(!said.contains(&line.address), "a stranger learns where the seller's node is: {said}");
    }
    assert_eq!((payer.channel()?.spent_msat, payee.channel()?.spent_msat), (cost, cost));

    line.restore()?;
    payer.buy(&seller.url, "out", &[])?.result()?;
    world.make_final()?;
    let complained = seller.process.stop()?;
    assert!(complained.errors.contains("no bitcoind answers"), "{complained:?}");
    assert!(!complained.errors.contains('\u{1b}'), "colours for no terminal: {complained:?}");
    assert_eq!(payee.balance()?, cost / 1_000);
    Ok(())
}
