//! What a program that sells uses: offers, openings, charges, closings.

mod calls;
mod fees;
mod terms;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::{Amount, FeeRate, OutPoint, ScriptBuf, Transaction};
use farthing_chain::{Chain, ChainError, OutputStatus};
use farthing_protocol::channel::BadParams;
use farthing_protocol::closing::{self, Answer, BadSettlement, PublicNonce, Settlement};
use farthing_protocol::flat;
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::opening::{Confirmations, Offer, Opening, Refusal};
use farthing_protocol::payee::{self, Effect, Input, Policy, Reject};
use farthing_protocol::session::CallKey;
use farthing_protocol::{Channel, ChannelId, Msat, Party, Payment};
use secp256k1::schnorr;
use tokio::sync::OnceCell;

use crate::books::{Books, Entry, Item, OrderError};
use crate::entropy;
use crate::home::{Home, Lock};
use crate::machine::{Machine as _, Payee, PayeeRecord};
use crate::publish::Publication;
use crate::seller::calls::Batches;
use crate::seller::fees::Fees;
use crate::spread::Spreading;
use crate::start::StartError;
use crate::tabs::{Durability, Tabs};
use crate::waiting::{self, NoRoom, Room};
use crate::wallet::{self, Balance, Wallet, WalletError};
use crate::watch::{OnChain, Pace, Watch, WatchError, Watchable};

/// What a seller accepts, and how careful it is.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The smallest and the largest channel.
    pub capacity: (Amount, Amount),
    /// The lowest and the highest fee rate for commitments.
    pub fee_rate: (FeeRate, FeeRate),
    /// The shortest and the longest lifetime, in blocks.
    pub lifetime: (u32, u32),
    /// How many blocks before the expiry it closes by itself.
    pub margin: u32,
    /// How deep a funding must be.
    pub confirmations: Confirmations,
    /// What may be sold before that.
    pub unconfirmed_cap: Msat,
    /// How many blocks a payer has to publish an agreed closing.
    pub patience: u32,
    /// How deep a spend must be before a channel is forgotten.
    pub finality: u32,
    /// How many channels may wait for a funding that nobody has seen.
    pub most_unfunded: usize,
    /// How long a payer may take to broadcast the funding of an accepted channel before another may have its place.
    pub time_to_fund: Duration,
    /// For how long it sells on when its node is gone. Whoever is blind for longer than the margin can lose a channel.
    pub most_blind: Duration,
    /// When calls that were served are stored.
    pub durability: Durability,
    /// The most that one payer's calls may come to between two rungs of a chain of words.
    pub most_exposure: Msat,
    /// How many bytes the accounts of payers of calls may take in memory. Above it those that were not used for the longest time
    /// leave it, and come back with the next call.
    pub most_resident: usize,
    /// Calls are paid with preimages, in batches of at most that many outputs; what is prepaid comes from the payer. `None`:
    /// with words.
    pub flat: Option<flat::Terms>,
}

impl Default for Terms {
    /// Channels of 10,000 sat to one bitcoin that live a day to a month; the payee closes 36 blocks before the expiry, serves
    /// nothing before the first confirmation, and lets at most 2,000 sat be served between two rungs.
    fn default() -> Self {
        Self {
            capacity: (Amount::from_sat(10_000), Amount::from_sat(100_000_000)),
            fee_rate: (FeeRate::from_sat_per_vb_u32(1), FeeRate::from_sat_per_vb_u32(200)),
            lifetime: (144, 4_320),
            margin: 36,
            confirmations: Confirmations { least: 1, one_more_per: Amount::from_sat(2_000_000) },
            unconfirmed_cap: Msat::ZERO,
            patience: 6,
            finality: 6,
            most_unfunded: 100,
            time_to_fund: Duration::from_secs(600),
            most_blind: Duration::from_secs(30 * 60),
            durability: Durability::Call,
            most_exposure: Msat::new(2_000_000),
            most_resident: 256 << 20,
            flat: None,
        }
    }
}

/// Why an opening was not accepted. Nothing was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The parameters make no channel.
    #[error(transparent)]
    BadParams(#[from] BadParams),
    /// The terms are not ours, or the signature does not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The output that is to fund it is another one.
    #[error("{0} is there already, and is not the output that this channel asks for")]
    OtherOutput(OutPoint),
    /// Too many openings that nobody funded.
    #[error("{0} channels wait for a funding that nobody has seen; try again later")]
    TooManyUnfunded(usize),
    /// The node cannot be asked for the height.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Not stored.
    #[error(transparent)]
    Order(#[from] OrderError<Reject>),
    /// The wallet.
    #[error(transparent)]
    Wallet(#[from] WalletError),
}

/// Why a cooperative close was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// Nobody has seen its funding, so there is nothing to close, and no place to be kept for it.
    #[error("the funding of this channel is not in the chain or a mempool: there is nothing to close yet")]
    Unfunded,
    /// Refused or not stored.
    #[error(transparent)]
    Order(#[from] OrderError<Reject>),
    /// The payer's nonce is invalid.
    #[error(transparent)]
    Bad(#[from] BadSettlement),
    /// The node cannot be asked for the height.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// A running seller.
pub struct Seller {
    // The watch ends before the books, and the lock is freed last.
    watch: Watch,
    books: Arc<Books<Payee>>,
    chain: Chain,
    wallet: Arc<Mutex<Wallet>>,
    output: Mutex<ScriptBuf>,
    openings: Mutex<()>,
    seed: Arc<Seed>,
    terms: Terms,
    tabs: Arc<Tabs>,
    /// Filled with the first batch that is announced to this process.
    fees: OnceCell<Fees>,
    _batches: Option<Batches>,
    _lock: Lock,
}

impl Seller {
    /// Reads the stored channels, does again what a restart must, and watches the chain. Blocks.
    ///
    /// # Errors
    /// When the folder is used by another process, or anything in it cannot be read.
    pub fn start(home: &Home, chain: Chain, pace: Pace, terms: Terms) -> Result<Self, StartError> {
        terms.validate()?;
        if terms.flat.is_some() && terms.durability != Durability::Call {
            return Err(StartError::FlatInBatches);
        }
        let lock = home.lock()?;
        let seed = Arc::new(home.seed()?);
        let mut store = home.store()?;
        let mut wallet = Wallet::open(&mut store, seed.clone(), wallet::birthday(home, &chain)?)?;
        let output = new_output(&mut wallet, |write| {
            let batch = store.batch()?;
            batch.write(&write)?;
            batch.commit()
        })?;
        let tabs = Arc::new(Tabs::new(store.begin_epoch()?, terms.durability, terms.most_resident));
        let (books, resumed) = Books::<Payee>::open(store, &seed, tabs.clone())?;
        let (books, wallet) = (Arc::new(books), Arc::new(Mutex::new(wallet)));
        let watch = Watch::start(chain.clone(), wallet.clone(), books.clone(), pace, resumed);
        let batches = match terms.durability {
            Durability::Call => None,
            Durability::Batch(interval) => Some(Batches::start(tabs.clone(), books.clone(), interval)),
        };
        let (output, openings) = (Mutex::new(output), Mutex::new(()));
        Ok(Self {
            watch,
            books,
            chain,
            wallet,
            output,
            openings,
            seed,
            terms,
            tabs,
            fees: OnceCell::new(),
            _batches: batches,
            _lock: lock,
        })
    }

    /// An offer with fresh keys. It costs no state, so anybody may ask for one.
    pub fn offer(&self) -> (Offer, KeyId) {
        let key = KeyId::from_entropy(entropy::bytes());
        let keys = self.seed.channel_keys(key);
        let output = self.output.lock().expect("no holder of this lock panics").clone();
        let terms = self.terms;
        let offer = Offer {
            network: self.seed.network(),
            payee: Party { funding: keys.funding(), session: keys.session(), output },
            capacity: terms.capacity,
            fee_rate: terms.fee_rate,
            lifetime: terms.lifetime,
            margin: terms.margin,
            confirmations: terms.confirmations,
        };
        (offer, key)
    }

    /// Accepts an opening under an offer of this seller's: the caller has checked that the offer is its own. The same
    /// opening again gets the same answer. Blocks.
    ///
    /// # Errors
    /// When the opening breaks the offer's terms, the chain was not seen lately, or it could not be stored.
    pub fn accept(
        &self,
        offer: &Offer,
        key: KeyId,
        opening: Opening,
    ) -> Result<(ChannelId, schnorr::Signature), AcceptError> {
        let channel = Channel::new(opening.params.clone())?;
        let id = channel.id();
        // Else openings that come together would all find the same place free, and the same opening twice would be two.
        let _one_at_a_time = self.openings.lock().expect("no holder of this lock panics");
        if let Some(setup) = self.books.setup(&id) {
            return Ok((id, signature(vec![payee::acceptance(&setup)])));
        }
        // Nobody is to lock money for a seller that does not sell.
        self.sees()?;
        offer.check(&opening.params, self.chain.tip()?.height)?;
        if waiting::is_another_output(&self.chain, &channel)? {
            return Err(AcceptError::OtherOutput(opening.params.funding));
        }
        self.make_room()?;
        let policy = Policy {
            confirmations: offer.confirmations.required(opening.params.capacity),
            unconfirmed_cap: self.terms.unconfirmed_cap,
            margin: offer.margin,
            patience: self.terms.patience,
            finality: self.terms.finality,
        };
        let record = PayeeRecord { params: opening.params, key, policy };
        let setup = Payee::setup(&record, &self.seed)?;
        let transition = payee::accept(&setup, &opening.signature)?;
        let outcome = self.books.add_blocking(record, setup, transition, Vec::new())?;
        self.change_output()?;
        self.watch.look_now();
        Ok((id, signature(outcome.effects)))
    }

    /// Whether a channel is here that is not over.
    pub fn has(&self, id: ChannelId) -> bool {
        self.books.setup(&id).is_some()
    }

    /// The key that authenticates a channel's calls.
    pub fn call_key(&self, id: ChannelId) -> Option<CallKey> {
        let setup = self.books.setup(&id)?;
        Some(CallKey::agree(&setup.keys, &setup.channel.params().payer.session, id))
    }

    /// Charges an item to a channel. An item that was charged before is not charged again: `Ok` says that it may be
    /// served, with what it cost.
    ///
    /// # Errors
    /// When it is not paid for, or could not be stored. Then it is not to be served.
    pub async fn charge(
        &self,
        id: ChannelId,
        item: Item,
        payment: Option<Payment>,
    ) -> Result<Msat, OrderError<Reject>> {
        self.sees()?;
        let outcome = self.books.handle(id, Input::Charge { payment, cost: item.cost }, Some(item)).await?;
        Ok(outcome.again.unwrap_or(item.cost))
    }

    /// Whether the chain was seen lately, as anybody may ask who wants to know of this seller's health.
    ///
    /// # Errors
    /// When it was not, for longer than [`Terms::most_blind`] or since the start. Then nothing is sold.
    pub fn sees(&self) -> Result<(), OrderError<Reject>> {
        match self.watch.blind_for() {
            Some(blind) if blind <= self.terms.most_blind => Ok(()),
            blind => Err(OrderError::Blind(blind)),
        }
    }

    /// What an item cost when it was charged, zero if it never was.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn charged(&self, id: ChannelId, item: [u8; 32]) -> Result<Msat, OrderError<Reject>> {
        self.books.purchases(id, vec![item]).await
    }

    /// Signs this side's half of a cooperative close. Calls must have been drained. Blocks.
    ///
    /// # Errors
    /// When less is offered than is due, or the state could not be stored.
    pub fn settle(
        &self,
        id: ChannelId,
        settlement: Settlement,
        nonce: &PublicNonce,
    ) -> Result<Answer, SettleError> {
        let height = self.chain.tip()?.height;
        let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
        // Whoever opens and closes over a coin that is nowhere would be rid of the limit on those that wait, and have each watched for.
        let is_unseen = self.books.state_blocking(id)?.is_some_and(|state| state.is_unfunded());
        if is_unseen && !self.has_output(&setup)? {
            return Err(SettleError::Unfunded);
        }
        let outcome = self.books.handle_blocking(id, Input::Settle { settlement, height })?;
        let agreed = outcome.effects.into_iter().find_map(|effect| match effect {
            Effect::Cosign(settlement) => Some(settlement),
            Effect::Accept(_)
            | Effect::Serve { .. }
            | Effect::Answer
            | Effect::Spread { .. }
            | Effect::Publish(_)
            | Effect::Broadcast(_) => None,
        });
        let agreed = agreed.expect("a settlement that was stored is to be signed");
        Ok(closing::cosign(&setup.channel, &setup.keys, &agreed, nonce, entropy::bytes())?)
    }

    /// Takes the finished closing, to broadcast it as well.
    ///
    /// # Errors
    /// When it is not the closing that was agreed on.
    pub async fn settled(&self, id: ChannelId, transaction: Transaction) -> Result<(), OrderError<Reject>> {
        let outcome = self.books.handle(id, Input::Settled { transaction }, None).await?;
        self.carry_out(id, outcome.effects);
        Ok(())
    }

    /// Closes a channel without the payer.
    ///
    /// # Errors
    /// When there is no such channel or it could not be stored.
    pub async fn close(&self, id: ChannelId) -> Result<(), OrderError<Reject>> {
        let outcome = self.books.handle(id, Input::Close, None).await?;
        self.carry_out(id, outcome.effects);
        Ok(())
    }

    /// All channels.
    ///
    /// # Errors
    /// When the program is ending.
    pub async fn channels(&self) -> Result<Vec<Entry<Payee>>, OrderError<Reject>> {
        self.books.list().await
    }

    /// The secret that binds this seller's challenges.
    pub fn challenge_secret(&self) -> [u8; 32] {
        self.seed.challenge_secret()
    }

    /// Takes in everything up to the tip, wallet included. Blocks.
    ///
    /// # Errors
    /// When the node cannot be asked or something could not be stored.
    pub fn look(&self) -> Result<(), WatchError> {
        self.watch.look_blocking()
    }

    /// What the wallet holds.
    pub fn balance(&self) -> Balance {
        self.wallet.lock().expect("no holder of this lock panics").balance()
    }

    fn carry_out(&self, id: ChannelId, effects: Vec<Effect>) {
        let Some(setup) = self.books.setup(&id) else { return };
        for on_chain in effects.into_iter().filter_map(|effect| Payee::on_chain(&setup, effect)) {
            self.watch.carry_out(on_chain);
        }
    }

    /// Whether the output that funds a channel is in the chain or the mempool now.
    fn has_output(&self, setup: &payee::Setup) -> Result<bool, ChainError> {
        Ok(self.chain.output(&setup.channel.params().funding)? != OutputStatus::Absent)
    }

    fn make_room(&self) -> Result<(), AcceptError> {
        let Terms { most_unfunded, time_to_fund, .. } = self.terms;
        let room = Room { most: most_unfunded, time_to_fund };
        room.make(&self.books, &self.chain, payee::State::is_unfunded).map_err(|error| match error {
            NoRoom::Full(waiting) => AcceptError::TooManyUnfunded(waiting),
            NoRoom::Chain(error) => AcceptError::Chain(error),
            NoRoom::Order(error) => AcceptError::Order(error),
        })
    }

    /// The next channel gets another output, for the seller's privacy.
    fn change_output(&self) -> Result<(), AcceptError> {
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let output = wallet.new_address().script_pubkey();
        wallet.save(|write| self.books.write_blocking(vec![write]))?;
        *self.output.lock().expect("no holder of this lock panics") = output;
        Ok(())
    }
}

fn new_output<E>(
    wallet: &mut Wallet,
    write: impl FnOnce(crate::store::Write) -> Result<(), E>,
) -> Result<ScriptBuf, E> {
    let output = wallet.new_address().script_pubkey();
    wallet.save(write)?;
    Ok(output)
}

fn signature(effects: Vec<Effect>) -> schnorr::Signature {
    let accepted = effects.into_iter().find_map(|effect| match effect {
        Effect::Accept(signature) => Some(signature),
        Effect::Serve { .. }
        | Effect::Answer
        | Effect::Spread { .. }
        | Effect::Cosign(_)
        | Effect::Publish(_)
        | Effect::Broadcast(_) => None,
    });
    accepted.expect("an opening that was stored is to be answered")
}

impl Watchable for Payee {
    fn on_chain(setup: &Arc<payee::Setup>, effect: Effect) -> Option<OnChain> {
        match effect {
            Effect::Publish(publication) => {
                Some(OnChain::Publish(Publication { what: publication, setup: setup.clone() }))
            }
            Effect::Spread { batch, fee_rate } => {
                Some(OnChain::Spread(Spreading { batch, fee_rate, setup: setup.clone() }))
            }
            Effect::Broadcast(transaction) => Some(OnChain::Broadcast(transaction)),
            Effect::Accept(_) | Effect::Serve { .. } | Effect::Answer | Effect::Cosign(_) => None,
        }
    }

    fn close() -> Option<Input> {
        Some(Input::Close)
    }
}

impl Pace {
    /// A pace for a network: a private chain moves when it is told to, a public one every ten minutes.
    pub fn for_network(network: bitcoin::Network) -> Self {
        let regtest = network == bitcoin::Network::Regtest;
        Self {
            interval: if regtest { Duration::from_millis(100) } else { Duration::from_secs(5) },
            target_blocks: 3,
            fallback_fee_rate: FeeRate::from_sat_per_vb_u32(2),
            // Of a hundred million gaps between blocks, one or two are as long.
            stale_after: (!regtest).then_some(Duration::from_secs(3 * 3_600)),
        }
    }
}
