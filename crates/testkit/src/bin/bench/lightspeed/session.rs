//! Sessions of a payee without a chain under them: channels that were opened, paid and turned to calls by the real
//! machines, written into the payee's database and read from it as a start does.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, FeeRate, Network, OutPoint, Txid};
use farthing_node::books::Books;
use farthing_node::machine::{Payee, PayeeRecord};
use farthing_node::store::{Store, Write};
use farthing_node::tabs::{Durability, Tabs};
use farthing_protocol::channel::Expiry;
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::lightspeed::{Ladder, Shape, Tab};
use farthing_protocol::opening::Offer;
use farthing_protocol::payee::{self, Effect, Input, Policy};
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, ChannelId, Msat, Params};
use tokio::runtime::Runtime;

use super::caller::{Announcement, Caller};
use crate::opened;
use crate::payer::{self, Payer, unsaved};

const CAPACITY: Amount = Amount::from_sat(1_000_000);
/// How many channels share a write.
const WRITE: usize = 1_000;

/// A payee that holds its sessions in memory.
pub struct Sessions {
    pub tabs: Arc<Tabs>,
    pub runtime: Runtime,
    pub books: Books<Payee>,
}

/// A channel on the payee's side.
struct Made {
    record: PayeeRecord,
    params: Params,
    state: payee::State,
    ladder: Ladder,
}

fn seed() -> Seed {
    Seed::new([0xFB; 64], Network::Regtest)
}

/// Makes channels that have announced one chain of that shape, and writes them into a new database.
pub fn write(
    database: &Path,
    channels: usize,
    shape: Shape,
    mut each: impl FnMut(Caller),
) -> anyhow::Result<()> {
    let mut store = Store::open(database)?;
    for first in (0..channels).step_by(WRITE) {
        let last = channels.min(first + WRITE);
        let half =
            |range: std::ops::Range<usize>| range.map(|index| make(index as u64, shape)).collect::<Vec<_>>();
        let middle = first.midpoint(last);
        let made = thread::scope(|scope| {
            let other = scope.spawn(|| half(middle..last));
            let mut made = half(first..middle);
            made.extend(other.join().expect("making channels does not panic"));
            made
        });
        let batch = store.batch()?;
        for made in made {
            let (made, caller) = made?;
            let Made { record, params, state, ladder } = made;
            batch.add_channel::<Payee>(caller.id(), &params, &record, &state, 0)?;
            batch.write(&Write::Ladder(caller.id(), Arc::new(ladder)))?;
            each(caller);
        }
        batch.commit()?;
    }
    Ok(())
}

/// Nobody waits for a call to be stored: what is measured is what comes before.
const DURABILITY: Durability = Durability::Batch(Duration::from_millis(50));

/// Opens the books over a database, with all its channels.
pub fn open(database: &Path) -> anyhow::Result<Sessions> {
    let store = Store::open(database)?;
    let tabs = Arc::new(Tabs::new(store.begin_epoch()?, DURABILITY, usize::MAX));
    let (books, resumed) = Books::<Payee>::open(store, &seed(), tabs.clone())?;
    ensure!(resumed.is_empty(), "an open channel has nothing to do again");
    Ok(Sessions { tabs, runtime: Runtime::new()?, books })
}

impl Sessions {
    /// Takes the tabs of these channels into memory, as their first calls do.
    pub fn load(&self, channels: impl IntoIterator<Item = ChannelId>) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            for id in channels {
                ensure!(self.tabs.load(&self.books, id).await?, "a channel that pays for calls has a tab");
            }
            Ok(())
        })
    }
}

/// Both sides of a channel, the payee's as it is stored. The parties' keys are the same in all, which changes no size.
fn make(index: u64, shape: Shape) -> anyhow::Result<(Made, Caller)> {
    let (payer_keys, key) = (payer::keys(1), KeyId::from_u64(2));
    let payee_keys = seed().channel_keys(key);
    let fee_rate = FeeRate::from_sat_per_vb_u32(2);
    let mut txid = [5; 32];
    txid[..8].copy_from_slice(&index.to_be_bytes());
    let params = Params {
        network: Network::Regtest,
        funding: OutPoint { txid: Txid::from_byte_array(txid), vout: 0 },
        capacity: CAPACITY,
        expiry: Expiry::at_height(900_000),
        fee_rate,
        prepaid: Offer::prepaid(fee_rate),
        payer: payer::party(&payer_keys),
        payee: payer::party(&payee_keys),
    };
    let policy =
        Policy { confirmations: 1, unconfirmed_cap: Msat::ZERO, margin: 36, patience: 6, finality: 6 };
    let record = PayeeRecord { params: params.clone(), key, policy };
    let setup = payee::Setup { channel: Channel::new(params.clone())?, keys: payee_keys, policy };
    let (mut payer, opening) = Payer::propose(params.clone(), payer_keys, opened::unfunded())?;
    let (state, effects) = unsaved(payee::accept(&setup, &opening.signature)?);
    let Some(Effect::Accept(signature)) = effects.into_iter().next() else {
        bail!("an opening was not answered")
    };
    payer.accepted(signature)?;
    let (mut caller, announcement) = Caller::announce(payer, shape)?;
    caller.taken(1)?;
    let Announcement { terms, base, rungs, payment } = announcement;
    let funding = Funding::Confirmed { output: setup.channel.funding_txout(), confirmations: 1 };
    let sighting = Sighting { height: 100, fee_rate: FeeRate::BROADCAST_MIN, funding, locked: Vec::new() };
    let ladder = Ladder::verify(&setup.channel, terms, base, rungs, 36)?;
    let handle = |state: payee::State, input| anyhow::Ok(unsaved(state.handle(&setup, input)?).0);
    let state = handle(state, Input::Sighted(sighting))?;
    let state = handle(state, Input::Charge { payment: Some(payment), cost: Msat::ZERO })?;
    let mut tab = Tab::new(state.ledger().newest.context("it was just paid")?, state.ledger().spent);
    tab.announce(&ladder)?;
    let state = handle(state, Input::Fold(Box::new(tab)))?;
    Ok((Made { record, params, state, ladder }, caller))
}
