//! What a program that writes, passes on or cashes cheques uses.
//!
//! Writer, agent, node and payee run the same: channels of both kinds in one book, and a router between them. What differs is
//! who asks whom:
//!
//! | channel | who calls | what is said |
//! |---|---|---|
//! | writer → agent, agent → node | the payer calls the payee | here is my update; what do you say? ([`Teller::take`], [`Teller::hear`]) |
//! | agent or node → payee | the payee calls the payer | here is what I say; what is your update? ([`Teller::hear`], [`Teller::take`]) |
//!
//! Both are the same two steps, so a lost message is made good by asking again: an update that came before is answered
//! again, and an answer says everything that the payer still has to learn.
//!
//! | part | does |
//! |---|---|
//! | [`machine`] | a channel that carries cheques, for the books |
//! | [`paper`] | the cheques themselves, as writer and payee keep them |
//! | [`opening`] | channels: offered, accepted, proposed |
//! | [`selling`] | locks, and what is said about them |
//! | [`writing`], [`cashing`] | the two ends |
//! | [`reverse`] | the other way round: the payee is offline while the payer pays |
//! | `routing` | from channel to channel |

pub mod cashing;
pub mod machine;
pub mod opening;
pub mod paper;
pub mod reverse;
mod routing;
pub mod selling;
pub mod writing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::{Address, Amount, FeeRate, ScriptBuf};
use farthing_chain::{Chain, ChainError};
use farthing_protocol::cheque::side::{Effect, Reject, Setup};
use farthing_protocol::keys::Seed;
use farthing_protocol::opening::{Limits, MOST_BLOCKS, Refusal, bounds};
use farthing_protocol::session::CallKey;
use farthing_protocol::{ChannelId, Msat};

use crate::books::{Books, Entry, NoDesk, OrderError};
use crate::cheques::machine::ChequeChannel;
use crate::cheques::paper::Paper;
use crate::cheques::routing::Router;
use crate::home::{Home, Lock};
use crate::prekeys::Prekeys;
use crate::seller;
use crate::start::StartError;
use crate::store::StoreError;
use crate::wallet::{self, Balance, Wallet};
use crate::watch::{Pace, Watch, WatchError, Watchable as _};
use crate::{crash, publish};

/// Why nothing was done.
pub type Failed = OrderError<Reject>;

/// What a program that carries cheques accepts, and how careful it is.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Of channels in which it is paid. Words and flat mode are no part of it.
    pub paid: seller::Terms,
    /// Of channels in which it pays.
    pub paying: Limits,
    /// How deep a spend of a channel in which it pays must be.
    pub finality: u32,
    /// What it wants for passing a cheque on.
    pub fee: Msat,
    /// How many blocks a lock must end before the channel of the promise behind it does.
    pub delta: u32,
    /// What it locks in a channel towards a payee: the least and the most.
    pub onward: (Amount, Amount),
    /// The most that it locks towards payees, over all channels. Whoever asks gets a channel until then.
    pub most_onward: Amount,
    /// How many channels it has to one node, at least two. The promises of one writer's channel have locks made in all but one of them, so that
    /// others still have a way.
    pub most_towards: usize,
}

impl Default for Terms {
    /// A satoshi for each cheque; 144 blocks between two expiries; 20,000 to 1,000,000 sat in a channel towards a payee, and
    /// 10,000,000 sat in all of them; four channels to a node.
    fn default() -> Self {
        let paid = seller::Terms::default();
        Self {
            paid,
            paying: Limits {
                most_capacity: Amount::from_sat(10_000_000),
                fee_rate: (FeeRate::from_sat_per_vb_u32(1), FeeRate::from_sat_per_vb_u32(100)),
                most_lifetime: 4_320,
                most_prepaid: Amount::from_sat(50_000),
                most_confirmations: 6,
            },
            finality: paid.finality,
            fee: Msat::new(1_000),
            delta: 144,
            onward: (Amount::from_sat(20_000), Amount::from_sat(1_000_000)),
            most_onward: Amount::from_sat(10_000_000),
            most_towards: 4,
        }
    }
}

impl Terms {
    /// Checks the terms themselves.
    ///
    /// # Errors
    /// The first one that makes no sense. Without blocks between two expiries a lock could be cashed when the promise behind it
    /// is worth nothing any more.
    pub fn validate(&self) -> Result<(), Refusal> {
        self.paid.validate()?;
        self.paying.validate()?;
        let margin = u64::from(self.paid.margin) + u64::from(self.finality);
        bounds("delta in blocks", self.delta.into(), (margin, MOST_BLOCKS))?;
        // With one alone, the cheques of a single writer would close the way to a node.
        bounds("most_towards, the channels to a node,", self.most_towards as u64, (2, u64::MAX))?;
        bounds("the least towards a payee in satoshi", self.onward.0.to_sat(), (1, self.onward.1.to_sat()))
    }
}

/// A running program that carries cheques.
pub struct Teller {
    // The watch ends before the books, and the lock is freed last.
    watch: Watch,
    router: Arc<Router>,
    books: Arc<Books<ChequeChannel>>,
    chain: Chain,
    wallet: Arc<Mutex<Wallet>>,
    output: Mutex<ScriptBuf>,
    openings: Mutex<()>,
    sales: Mutex<reverse::agent::Counter>,
    /// By when channels to nodes should expire that payees have asked for and did not find.
    wanted: Mutex<HashMap<String, u32>>,
    seed: Arc<Seed>,
    prekeys: Mutex<Prekeys>,
    terms: Terms,
    pace: Pace,
    _lock: Lock,
}

impl Teller {
    /// Reads the stored channels, does again what a restart must, and watches the chain. Blocks.
    ///
    /// # Errors
    /// When the folder is used by another process, or anything in it cannot be read.
    pub fn start(home: &Home, chain: Chain, pace: Pace, terms: Terms) -> Result<Self, StartError> {
        terms.validate()?;
        let lock = home.lock()?;
        let seed = Arc::new(home.seed()?);
        let mut store = home.store()?;
        let mut wallet = Wallet::open(&mut store, seed.clone(), wallet::birthday(home, &chain)?)?;
        let output = opening::new_output(&mut wallet, |write| {
            let batch = store.batch()?;
            batch.write(&write)?;
            batch.commit()
        })?;
        let (books, resumed) = Books::<ChequeChannel>::open(store, &seed, Arc::new(NoDesk))?;
        let books = Arc::new(books);
        let router = Arc::new(Router::new(books.clone(), home.store()?, seed.cheque_keys()));
        for entry in books.present_blocking().unwrap_or_default() {
            router.place(entry.id, &entry.state);
        }
        let wallet = Arc::new(Mutex::new(wallet));
        let beside = router.clone();
        let beside: crate::watch::Beside<ChequeChannel> = Box::new(move |id, effect: &Effect| {
            let _for_nobody_who_waits = beside.route(id, [effect.clone()]);
        });
        let watch = Watch::start_beside(chain.clone(), wallet.clone(), books.clone(), pace, resumed, beside);
        let (output, openings) = (Mutex::new(output), Mutex::new(()));
        let sales = Mutex::new(reverse::agent::Counter::open(home.store()?.papers()?));
        let prekeys = Mutex::new(home.prekeys()?);
        let teller = Self {
            watch,
            router,
            books,
            chain,
            wallet,
            output,
            openings,
            sales,
            wanted: Mutex::default(),
            seed,
            prekeys,
            terms,
            pace,
            _lock: lock,
        };
        if let Err(error) = teller.give_up_proposals(true) {
            tracing::warn!(%error, "openings that were cut short are not given up yet");
        }
        Ok(teller)
    }

    /// The terms.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The secret that binds what this program offers.
    pub fn offer_secret(&self) -> [u8; 32] {
        self.seed.challenge_secret()
    }

    /// The tip's height. Blocks.
    ///
    /// # Errors
    /// When the node cannot be asked.
    pub fn height(&self) -> Result<u32, ChainError> {
        Ok(self.chain.tip()?.height)
    }

    /// What confirms soon now. Blocks.
    ///
    /// # Errors
    /// When the node cannot be asked.
    pub fn fee_rate(&self) -> Result<FeeRate, ChainError> {
        publish::fee_rate(&self.chain, self.pace.target_blocks, self.pace.fallback_fee_rate)
    }

    /// Takes in everything up to the tip, wallet included. Blocks.
    ///
    /// # Errors
    /// When the node cannot be asked or something could not be stored.
    pub fn look(&self) -> Result<(), WatchError> {
        self.watch.look_blocking()
    }

    /// Asks again for what one channel wants of another. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn tend(&self) -> Result<(), Failed> {
        self.router.tend()?;
        self.tend_sales()
    }

    /// What the wallet holds.
    pub fn balance(&self) -> Balance {
        self.wallet.lock().expect("no holder of this lock panics").balance()
    }

    /// An address that was never handed out. Blocks.
    ///
    /// # Errors
    /// When it could not be stored.
    pub fn new_address(&self) -> Result<Address, Failed> {
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let address = wallet.new_address();
        wallet.save(|write| self.books.write_blocking(vec![write]))?;
        Ok(address)
    }

    /// All channels. Blocks.
    ///
    /// # Errors
    /// When the program is ending.
    pub fn channels(&self) -> Result<Vec<Entry<ChequeChannel>>, Failed> {
        self.books.list_blocking()
    }

    /// All cheques that were written or got here. Blocks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn papers(&self) -> Result<Vec<Paper>, StoreError> {
        self.router.reader.lock().expect("no holder of this lock panics").papers()
    }

    /// The key that authenticates what the two sides of a channel say.
    pub fn call_key(&self, id: ChannelId) -> Option<CallKey> {
        let setup = self.books.setup(&id)?;
        let params = setup.channel().params();
        Some(match &*setup {
            Setup::Holder(setup) => CallKey::agree(&setup.keys, &params.payer.session, id),
            Setup::Drawer(setup) => CallKey::agree(&setup.keys, &params.payee.session, id),
        })
    }

    /// Closes a channel in which this side is paid, without the payer. Blocks.
    ///
    /// # Errors
    /// When there is no such channel, a lock depends on it, or it could not be stored.
    pub fn close(&self, id: ChannelId) -> Result<(), Failed> {
        let close = ChequeChannel::close().expect("a holder closes without the payer");
        let outcome = self.books.handle_blocking(id, close)?;
        self.carry_out(id, outcome.effects);
        Ok(())
    }

    /// Carries out effects: those on the chain by the watch, those between channels at once.
    fn carry_out(&self, id: ChannelId, effects: Vec<Effect>) -> routing::Done {
        let Some(setup) = self.books.setup(&id) else { return routing::Done::default() };
        let (on_chain, between): (Vec<Effect>, Vec<Effect>) =
            effects.into_iter().partition(|effect| {
                use farthing_protocol::cheque::{drawer, holder};
                match effect {
                    Effect::Holder(holder::Effect::Channel(_))
                    | Effect::Drawer(drawer::Effect::Channel(_)) => true,
                    Effect::Holder(holder::Effect::Promises(_))
                    | Effect::Drawer(drawer::Effect::Promises(_)) => false,
                }
            });
        let mut is_any = false;
        for on_chain in on_chain.into_iter().filter_map(|effect| ChequeChannel::on_chain(&setup, effect)) {
            self.watch.carry_out(on_chain);
            is_any = true;
        }
        if is_any {
            self.watch.look_now();
        }
        self.router.route(id, between)
    }

    fn write(&self, paper: Paper) -> Result<(), Failed> {
        crash::point();
        self.books.write_blocking(vec![crate::store::Write::Cheque(Box::new(paper))])
    }
}

/// Now, in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_more_channels_to_another_than_one_writer_can_hold() {
        let with = |most_towards| Terms { most_towards, ..Terms::default() }.validate();
        assert!(with(2).is_ok() && with(4).is_ok());
        let refused = with(1).unwrap_err().to_string();
        assert!(refused.contains("most_towards"), "{refused}");
    }
}
