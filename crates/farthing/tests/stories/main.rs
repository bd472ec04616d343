//! Stories: the real program, in real processes, on a real chain. Each ends with what everybody has.

mod bad_seller;
mod closing;
mod crashes;
mod full_disk;
mod hostile;
mod invited;
mod killed;
mod lightspeed;
mod mailbox;
mod node_lost;
mod refused;
mod replayed;
mod repriced;
mod sale;
mod settings;
mod terminal;
mod unfunded;
mod vanished;
mod wallet;

use std::cell::RefCell;
use std::path::PathBuf;

use farthing_testkit::{Goods, Person, World};

/// What a buyer has at the beginning of a story.
const COINS: u64 = 1_000_000;

/// Leaves fractions of a satoshi, so that rounding shows.
const PRICE: &str = "1000337msat/KiB";
/// What a piece of 1 KiB costs at [`PRICE`].
const PIECE_MSAT: u64 = 1_000_337;
/// At this price the first payment pays for five pieces of 1 KiB.
const CHEAP: &str = "100sat/KiB";
/// What a piece of 1 KiB costs at [`CHEAP`].
const CHEAP_PIECE_MSAT: u64 = 100_000;
/// The first payment of a channel at 2 sat/vB, in satoshi.
const PREPAID: u64 = 552;
/// For a buyer that is to be met in the middle of a download.
const SLOWLY: [&str; 2] = ["--limit-rate", "8KiB"];

thread_local! {
    /// Where everybody in the scenes of this thread dies, and the file that says that somebody did.
    static DEATH: RefCell<Option<(u64, PathBuf)>> = const { RefCell::new(None) };
}

/// A world with a seller that has nothing, a buyer with [`COINS`], and a file of so many bytes for sale.
fn scene(bytes: usize) -> anyhow::Result<(World, Person, Person, Goods)> {
    let world = World::new(env!("CARGO_BIN_EXE_farthing"))?;
    let payee = Person::new(&world, "seller", 0)?;
    let payer = Person::new(&world, "buyer", COINS)?;
    let goods = Goods { file: world.file("file", bytes)?, price: PRICE, piece: "1KiB" };
    let [payee, payer] = [payee, payer].map(|person| match DEATH.with_borrow(Clone::clone) {
        Some((point, mark)) => person.dying_at(point, &mark),
        None => person,
    });
    Ok((world, payee, payer, goods))
}
