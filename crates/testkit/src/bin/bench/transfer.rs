//! A paid download against a free one, and the memory of both sides: `farthing sell` and `farthing buy` as processes,
//! pieces of 1 MiB, two requests under way (the buyer's default). Both downloads check every piece and write it to disk;
//! the paid one also opens a channel before and closes it after, which is not counted.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::ensure;
use bitcoin::Amount;
use farthing_chain::RegtestNode;

use crate::farthing::{Bought, Folder, Person, Seller};
use crate::stats::median;

const MIB: u64 = 1 << 20;
/// A piece costs about as much as the first payment at least, so every piece has a signature of its own.
const PRICE: &str = "1sat/KiB";
const ROUNDS: usize = 7;
const FILE: u64 = 256 * MIB;
const LARGE_FILE: u64 = 1024 * MIB;

/// Medians over the rounds.
pub struct Rates {
    pub paid_over_unpaid: f64,
    pub paid_mib_per_s: f64,
    pub unpaid_mib_per_s: f64,
    pub rounds: usize,
}

/// Peaks of resident memory in MiB, for a file of 1 GiB.
pub struct Memory {
    pub payer_mib: f64,
    pub payee_mib: f64,
}

/// Two sellers of one file, one of which gives it away, and a buyer.
struct Market<'a> {
    node: &'a RegtestNode,
    buyer: Person,
    seller: Seller,
    giver: Seller,
}

/// Measures the rates.
pub fn rates(node: &RegtestNode, folder: &Folder) -> anyhow::Result<Rates> {
    let file = folder.path().join("file");
    write_noise(&file, FILE)?;
    let person = |name: &str, amount| Person::new(node, &folder.path().join(name), amount);
    let market = Market {
        node,
        buyer: person("buyer", Amount::ONE_BTC)?,
        seller: person("seller", Amount::ZERO)?.sell(&file, PRICE)?,
        giver: person("giver", Amount::ZERO)?.sell(&file, "0")?,
    };
    // Both sides' first round also warms up.
    market.paid()?;
    market.free()?;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        // Whoever comes second may find the disk busy with the first one's file.
        rounds.push(if round % 2 == 0 {
            let paid = market.paid()?;
            (paid, market.free()?)
        } else {
            let free = market.free()?;
            (market.paid()?, free)
        });
    }
    Ok(Rates {
        paid_over_unpaid: median(rounds.iter().map(|(paid, free)| paid / free)),
        paid_mib_per_s: median(rounds.iter().map(|round| round.0)),
        unpaid_mib_per_s: median(rounds.iter().map(|round| round.1)),
        rounds: ROUNDS,
    })
}

impl Market<'_> {
    /// The rate of a download that pays for every piece.
    fn paid(&self) -> anyhow::Result<f64> {
        let bought = paid(&self.buyer, &self.seller)?;
        self.node.mine(1)?;
        Ok(bought.mib_per_s())
    }

    /// The rate of a free one.
    fn free(&self) -> anyhow::Result<f64> {
        let bought = self.buyer.buy(&self.giver.url, "out")?;
        ensure!(bought.payments == 0, "what is free is not paid");
        Ok(bought.mib_per_s())
    }
}

fn paid(buyer: &Person, seller: &Seller) -> anyhow::Result<Bought> {
    let bought = buyer.buy(&seller.url, "out")?;
    ensure!(bought.payments == bought.pieces, "each piece is paid");
    Ok(bought)
}

/// Measures the memory.
pub fn memory(node: &RegtestNode, folder: &Folder) -> anyhow::Result<Memory> {
    let file = folder.path().join("large-file");
    File::create(&file)?.set_len(LARGE_FILE)?;
    let person = |name: &str, amount| Person::new(node, &folder.path().join(name), amount);
    let buyer = person("large-buyer", Amount::ONE_BTC)?;
    let seller = person("large-seller", Amount::ZERO)?.sell(&file, PRICE)?;
    let bought = paid(&buyer, &seller)?;
    Ok(Memory { payer_mib: bought.peak_mib, payee_mib: seller.peak_mib()? })
}

/// Writes a file that does not compress.
fn write_noise(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = 1_u64;
    for _ in 0..bytes / 8 {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    Ok(file.into_inner()?.sync_all()?)
}
