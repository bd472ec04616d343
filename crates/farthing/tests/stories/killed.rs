//! One side is killed in the middle and comes back.

use anyhow::{Context as _, Result};

use crate::{SLOWLY, scene};

#[test]
fn a_buyer_that_was_killed_goes_on_and_pays_no_piece_twice() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.sell(&goods)?;
    let _miner = world.miner();
    let mut buying = payer.start_buying(&seller.url, "out", &SLOWLY)?;
    buying.await_pieces(5)?;
    buying.kill()?;
    let again = payer.buy(&seller.url, "out", &[])?.result()?;

    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    let missing = again["pieces"].as_u64().context("a number of pieces")?;
    assert!((1..=seller.pieces - 5).contains(&missing), "what was here came again: {again}");
    let (spent, charged) = (payer.channel()?.spent_msat, payee.channel()?.spent_msat);
    assert_eq!((spent, charged), (seller.cost_msat, seller.cost_msat));
    Ok(())
}

#[test]
fn a_seller_that_was_killed_comes_back_and_the_buyer_finishes() -> Result<()> {
    let (world, payee, payer, goods) = scene(60_000)?;
    let seller = payee.sell(&goods)?;
    let _miner = world.miner();
    let payer = payer.with("FARTHING_BUY__PATIENCE_SECONDS", "60");
    let mut buying = payer.start_buying(&seller.url, "out", &SLOWLY)?;
    buying.await_pieces(5)?;
    let address = seller.address.clone();
    seller.kill()?;
    let seller = payee.sell_at(&goods, &address)?;
    let bought = buying.wait()?.result()?;

    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    assert_eq!(bought["pieces"], seller.pieces);
    let (spent, charged) = (payer.channel()?.spent_msat, payee.channel()?.spent_msat);
    assert_eq!((spent, charged), (seller.cost_msat, seller.cost_msat));
    Ok(())
}
