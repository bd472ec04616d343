//! A sale in which nothing goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use farthing_testkit::Goods;
use farthing_testkit::accounts::Accounts;
use farthing_testkit::message::Message;
use farthing_testkit::relay::{Fate, Relay};

use crate::{CHEAP, CHEAP_PIECE_MSAT, COINS, scene};

#[test]
fn a_sale_moves_the_price_and_costs_two_fees() -> Result<()> {
    let (world, payee, payer, goods) = scene(20_000)?;
    let seller = payee.sell(&goods)?;
    let bought = {
        let _miner = world.miner();
        payer.buy(&seller.url, "out", &[])?.result()?
    };
    world.make_final()?;
    let (funding, cost) = (payer.channel()?.funding, seller.cost_msat / 1_000);
    seller.process.stop()?.success()?;

    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    assert_eq!(bought["cost_msat"], seller.cost_msat);
    assert_eq!((bought["pieces"].as_u64(), bought["payments"].as_u64()), (Some(20), Some(20)));
    let accounts = Accounts::read(&world)?;
    let closing = accounts.spender(&funding)?.compute_txid();
    let fees = (accounts.fee(funding.txid)?, accounts.fee(closing)?);
    assert_eq!(
        (bought["fees_sat"]["funding"].as_u64(), bought["fees_sat"]["closing"].as_u64()),
        (Some(fees.0), Some(fees.1))
    );
    let fees = fees.0 + fees.1;
    ensure!(bought["closing_txid"] == closing.to_string(), "the chain has another closing");
    assert_eq!((payer.balance()?, payee.balance()?), (COINS - cost - fees, cost));
    Ok(())
}

/// The payment is in the request for its piece: no piece takes a second request, and none a connection of its own.
#[test]
fn a_piece_takes_one_request_on_a_connection_that_stays() -> Result<()> {
    const PIECES: usize = 40;
    let (_world, payee, payer, goods) = scene(PIECES * 1_024)?;
    // Whoever waits for the funding to be deep asks again.
    let seller = payee.with("FARTHING_SELL__UNCONFIRMED_CAP", "100000000").sell(&goods)?;
    let is_for_a_piece = |request: &Message| request.header("range").is_some();
    let unseen = Arc::new(AtomicUsize::new(0));
    let refused = unseen.clone();
    let relay = Relay::before(&seller.address, move |request, answer| {
        if is_for_a_piece(request) && answer.problem() == "funding-not-deep" {
            refused.fetch_add(1, Ordering::SeqCst);
        }
        Fate::Deliver
    })?;
    let bought = payer.buy(&relay.url(&seller.url), "out", &[])?.result()?;
    ensure!(bought["payments"] == PIECES, "{bought}");
    let (pieces, others): (Vec<_>, Vec<_>) = relay.requests().into_iter().partition(is_for_a_piece);
    let paid = pieces.iter().filter(|request| request.header("authorization").is_some()).count();
    // Those that came before the seller had seen the funding came again.
    let due = PIECES + unseen.load(Ordering::SeqCst);
    assert_eq!((pieces.len(), paid), (due, due));
    let others: Vec<_> = others.into_iter().map(|request| request.start).collect();
    ensure!(others.len() < 10, "beside the pieces: {others:?}");
    ensure!(relay.connections() < 5, "{} connections", relay.connections());
    Ok(())
}

/// An output may not hold what the file costs, so the least that one may hold is due.
#[test]
fn a_file_cheaper_than_dust_is_closed_for_dust() -> Result<()> {
    let (world, payee, payer, goods) = scene(3 * 1_024)?;
    let seller = payee.sell(&Goods { price: CHEAP, ..goods.clone() })?;
    let bought = {
        let _miner = world.miner();
        payer.buy(&seller.url, "out", &[])?.result()?
    };
    world.make_final()?;
    seller.process.stop()?.success()?;

    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    let (cost, due) = (3 * CHEAP_PIECE_MSAT, 330);
    ensure!(cost < due * 1_000 && bought["cost_msat"] == cost, "{bought}");
    assert_eq!((payer.channel()?.spent_msat, payee.channel()?.spent_msat), (cost, cost));
    let (accounts, funding) = (Accounts::read(&world)?, payer.channel()?.funding);
    let closing = accounts.spender(&funding)?;
    assert_eq!(closing.output[0].value.to_sat(), due);
    let fees = accounts.fee(funding.txid)? + accounts.fee(closing.compute_txid())?;
    assert_eq!((payer.balance()?, payee.balance()?), (COINS - due - fees, due));
    Ok(())
}

#[test]
fn a_free_file_needs_no_channel() -> Result<()> {
    let (world, payee, payer, goods) = scene(5_000)?;
    let seller = payee.sell(&Goods { price: "0", ..goods.clone() })?;
    let bought = payer.buy(&seller.url, "out", &["--max-cost", "0sat"])?.result()?;
    assert_eq!(std::fs::read(payer.path("out"))?, std::fs::read(&goods.file)?);
    assert_eq!((bought["pieces"].as_u64(), bought["cost_msat"].as_u64()), (Some(5), Some(0)));
    assert_eq!((payer.channels()?.len(), world.mempool()?.len(), payer.balance()?), (0, 0, COINS));
    Ok(())
}

#[test]
pub(crate) fn a_channel_that_was_kept_open_pays_for_the_next_file() -> Result<()> {
    let (world, payee, payer, goods) = scene(3_000)?;
    let _miner = world.miner();
    let seller = payee.sell(&goods)?;
    payer.buy(&seller.url, "first", &["--keep-open"])?.result()?;
    let opened = payer.channel()?;
    assert_eq!((opened.state.as_str(), opened.spent_msat), ("open", seller.cost_msat));
    let (address, first) = (seller.address.clone(), seller.cost_msat);

    // The same file again costs nothing; another file is paid in the same channel, which is then closed.
    payer.buy(&seller.url, "copy", &["--keep-open"])?.result()?;
    assert_eq!(payer.channel()?, opened);
    seller.process.stop()?.success()?;
    let other = Goods { file: world.file("other", 2_000)?, ..goods };
    let seller = payee.sell_at(&other, &address)?;
    let plan = payer.buy(&seller.url, "second", &["--dry-run"])?.result()?;
    assert_eq!(plan["reuses"].as_str(), Some(opened.channel.as_str()), "{plan}");
    assert_eq!(
        (plan["capacity_sat"].as_u64(), plan["cost_msat"].as_u64()),
        (Some(0), Some(seller.cost_msat))
    );
    payer.buy(&seller.url, "second", &[])?.result()?;

    assert_eq!(std::fs::read(payer.path("second"))?, std::fs::read(&other.file)?);
    let spent = first + seller.cost_msat;
    assert_eq!((payer.channel()?.spent_msat, payee.channel()?.spent_msat), (spent, spent));
    world.make_final()?;
    seller.kill()?;
    assert_eq!(payee.balance()?, spent / 1_000);
    Ok(())
}
