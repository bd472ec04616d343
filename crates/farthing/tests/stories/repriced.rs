//! The seller comes back with another price in the middle of a download: the buyer pays what it agreed to, or nothing more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use farthing_testkit::message::Message;
use farthing_testkit::people::free_address;
use farthing_testkit::relay::{Fate, Relay};
use farthing_testkit::world::Miner;
use farthing_testkit::{Goods, Person, Seller, Service, World};

use crate::{PIECE_MSAT, SLOWLY, scene};

/// Half as much again as before.
const DEARER: &str = "1500500msat/KiB";
const DEARER_PIECE_MSAT: u64 = 1_500_500;
/// Half of it.
const CHEAPER: &str = "500168msat/KiB";
const CHEAPER_PIECE_MSAT: u64 = 500_168;

fn dearer(goods: &Goods) -> Goods {
    Goods { price: DEARER, ..goods.clone() }
}

/// What was signed and charged for the file, in all channels, the buyer first.
fn spent(payer: &Person, payee: &Person) -> Result<(u64, u64)> {
    let sum = |person: &Person| {
        person.channels().map(|channels| channels.iter().map(|channel| channel.spent_msat).sum())
    };
    Ok((sum(payer)?, sum(payee)?))
}

#[test]
fn a_purchase_under_way_is_finished_at_the_price_that_was_agreed() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.sell_at(&goods, &free_address()?)?;
    let (address, cost) = (seller.address.clone(), seller.cost_msat);
    let _miner = world.miner();
    let payer = payer.with("FARTHING_BUY__PATIENCE_SECONDS", "60");
    let most = format!("{cost}msat");
    let options = [&SLOWLY[..], &["--max-cost", &most]].concat();
    let mut buying = payer.start_buying(&seller.url, "out", &options)?;
    buying.await_pieces(5)?;
    seller.kill()?;
    let seller = payee.sell_at(&dearer(&goods), &address)?;
    assert!(seller.cost_msat > cost);
    let bought = buying.wait()?.result()?;

    assert_eq!(bought["cost_msat"], cost);
    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    assert_eq!(spent(&payer, &payee)?, (cost, cost));
    Ok(())
}

#[test]
fn a_buyer_whose_terms_ran_out_pays_a_higher_price_only_when_it_is_told_to() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.sell_at(&goods, &free_address()?)?;
    let (address, most) = (seller.address.clone(), format!("{}msat", seller.cost_msat));
    let ran_out = Arc::new(AtomicBool::new(false));
    let running_out = ran_out.clone();
    let relay = Relay::instead_of(&address, move |request| {
        let pays = request.header("authorization").is_some();
        (pays && running_out.load(Ordering::SeqCst)).then(|| Message::refusal(402, "invalid-challenge"))
    })?;
    let url = relay.url(&seller.url);
    let _miner = world.miner();
    let payer = payer.with("FARTHING_BUY__PATIENCE_SECONDS", "60");
    let options = [&SLOWLY[..], &["--max-cost", &most]].concat();
    let mut buying = payer.start_buying(&url, "out", &options)?;
    buying.await_pieces(5)?;
    seller.kill()?;
    let seller = payee.sell_at(&dearer(&goods), &address)?;
    ran_out.store(true, Ordering::SeqCst);
    let said = buying.wait()?.failure(3)?;
    assert!(said.contains("another price") && said.contains("nothing more was paid"), "{said}");
    ran_out.store(false, Ordering::SeqCst);

    let before = spent(&payer, &payee)?;
    let said = payer.buy(&url, "out", &["--max-cost", &most])?.failure(2)?;
    assert!(said.contains("--max-cost"), "{said}");
    assert_eq!(spent(&payer, &payee)?, before);

    payer.buy(&url, "out", &["--max-cost", &format!("{}msat", seller.cost_msat)])?.result()?;
    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    let (paid, charged) = spent(&payer, &payee)?;
    assert!(charged <= paid && paid <= seller.cost_msat, "{charged} {paid} {}", seller.cost_msat);
    // The first channel could not pay the higher price. It is closed with the second one.
    let channels = payer.channels()?;
    assert!(channels.len() == 2 && channels.iter().all(|channel| channel.state != "open"), "{channels:?}");
    Ok(())
}

/// A buyer has paid for one piece and got none, and the seller comes back with another price.
struct Interrupted {
    _world: World,
    _relay: Relay,
    _miner: Miner,
    payee: Person,
    payer: Person,
    goods: Goods,
    url: String,
    seller: Seller,
}

impl Interrupted {
    /// `relay` stands before the seller, and lets no piece through while its switch is on.
    fn new(price: &'static str, relay: fn(&str, Arc<AtomicBool>) -> Result<Relay>) -> Result<Self> {
        let (world, payee, payer, goods) = scene(6_000)?;
        let payer = payer.with("FARTHING_BUY__IN_FLIGHT", "1").with("FARTHING_BUY__PATIENCE_SECONDS", "5");
        let seller = payee.sell_at(&goods, &free_address()?)?;
        let (address, switch) = (seller.address.clone(), Arc::new(AtomicBool::new(true)));
        let relay = relay(&address, switch.clone())?;
        let (miner, url) = (world.miner(), relay.url(&seller.url));
        let ended = payer.buy(&url, "out", &[])?;
        ensure!(!ended.status.success() && payer.channel()?.spent_msat == PIECE_MSAT, "{ended:?}");
        seller.kill()?;
        let seller = payee.sell_at(&Goods { price, ..goods.clone() }, &address)?;
        switch.store(false, Ordering::SeqCst);
        Ok(Self { _world: world, _relay: relay, _miner: miner, payee, payer, goods, url, seller })
    }

    /// The same command again gets the file, for so much in all.
    fn goes_on(&self, cost: u64) -> Result<()> {
        let most = format!("{}msat", cost.max(self.seller.cost_msat));
        let payer = self.payer.with("FARTHING_BUY__PATIENCE_SECONDS", "60");
        payer.buy(&self.url, "out", &["--max-cost", &most])?.result()?;
        ensure!(std::fs::read(self.payer.path("out"))? == std::fs::read(&self.goods.file)?, "another file");
        let spent = spent(&self.payer, &self.payee)?;
        ensure!(spent == (cost, cost), "{spent:?} is spent instead of {cost}");
        Ok(())
    }
}

/// The seller charges and the answer is lost.
fn deaf(address: &str, switch: Arc<AtomicBool>) -> Result<Relay> {
    Relay::before(address, move |_, answer| {
        let swallow = answer.status() == 206 && switch.load(Ordering::SeqCst);
        if swallow { Fate::Swallow } else { Fate::Deliver }
    })
}

/// The payment itself is lost.
fn mute(address: &str, switch: Arc<AtomicBool>) -> Result<Relay> {
    Relay::instead_of(address, move |request| {
        let lost = request.header("authorization").is_some() && switch.load(Ordering::SeqCst);
        lost.then(|| Message::refusal(502, "unavailable"))
    })
}

#[test]
pub(crate) fn a_piece_that_was_charged_at_a_lower_price_comes_for_it() -> Result<()> {
    let story = Interrupted::new(DEARER, deaf)?;
    assert_eq!(story.payee.channel()?.spent_msat, PIECE_MSAT);
    story.goes_on(story.seller.cost_msat - DEARER_PIECE_MSAT + PIECE_MSAT)
}

#[test]
pub(crate) fn a_payment_at_a_lower_price_that_was_lost_is_made_up_to_the_new_one() -> Result<()> {
    let story = Interrupted::new(DEARER, mute)?;
    assert_eq!(story.payee.channel()?.spent_msat, 0);
    story.goes_on(story.seller.cost_msat)
}

#[test]
fn a_payment_at_a_higher_price_that_was_lost_counts_as_it_was_made() -> Result<()> {
    let story = Interrupted::new(CHEAPER, mute)?;
    assert_eq!(story.payee.channel()?.spent_msat, 0);
    story.goes_on(story.seller.cost_msat - CHEAPER_PIECE_MSAT + PIECE_MSAT)
}

/// A piece of that number was bought before, when pieces were small.
#[test]
fn larger_pieces_are_not_paid_with_what_small_ones_cost() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.sell_at(&goods, &free_address()?)?;
    let address = seller.address.clone();
    let _miner = world.miner();
    let mut buying = payer.start_buying(&seller.url, "out", &SLOWLY)?;
    buying.await_pieces(3)?;
    buying.kill()?;
    seller.kill()?;
    let (_, before) = spent(&payer, &payee)?;
    // Eight small ones each, so nothing that is here is a whole piece.
    let seller = payee.sell_at(&Goods { piece: "8KiB", ..goods.clone() }, &address)?;
    std::fs::remove_file(payer.path("out.part"))?;
    let bought = payer.buy(&seller.url, "out", &[])?.result()?;

    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    assert_eq!(bought["cost_msat"], seller.cost_msat);
    let (_, after) = spent(&payer, &payee)?;
    assert!(after >= before + seller.cost_msat, "{after} after {before} is less than {}", seller.cost_msat);
    Ok(())
}

/// The seller of a file sold calls at that address before, and the channel of those is open.
#[test]
fn a_channel_that_pays_for_calls_is_no_hindrance_to_buying() -> Result<()> {
    let (world, payee, payer, goods) = scene(6_000)?;
    let service = Service::counting()?;
    let address = free_address()?;
    let api = payee.sell_calls_at(&service.url(), "500sat/call", &[], &address)?;
    let _miner = world.miner();
    payer.call(&api.at("/item"), &[])?;
    api.kill()?;
    let seller = payee.sell_at(&goods, &address)?;

    payer.buy(&seller.url, "out", &[])?.result()?;
    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    assert_eq!(payer.channels()?.len(), 2);
    Ok(())
}
