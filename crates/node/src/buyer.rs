//! What a program that buys uses: channels to sellers, payments, closings, refunds. Calls are in [`calls`], payments on the chain in `sending`.

pub mod batches;
pub mod calls;
mod sending;

pub use self::sending::SendError;

use std::sync::{Arc, Mutex};

use bitcoin::{Address, Amount, FeeRate, OutPoint, Transaction, Txid};
use farthing_chain::{Chain, ChainError};
use farthing_protocol::channel::{BadParams, Expiry};
use farthing_protocol::closing::{Answer, BadAnswer, BadSettlement, Proposal};
use farthing_protocol::keys::{KeyId, Seed};
use farthing_protocol::opening::{Limits, Offer, Opening, Refusal, bounds};
use farthing_protocol::payer::{self, Effect, Input, Reject};
use farthing_protocol::session::CallKey;
use farthing_protocol::{Channel, ChannelId, Msat, Params, Party, Payment};
use secp256k1::schnorr;

use crate::books::{Books, Entry, Item, NoDesk, OrderError};
use crate::buyer::calls::WordStock;
use crate::entropy;
use crate::home::{Home, Lock};
use crate::machine::{Machine as _, Payer, PayerRecord};
use crate::publish;
use crate::start::StartError;
use crate::waiting;
use crate::wallet::{self, Balance, Wallet, WalletError};
use crate::watch::{OnChain, Pace, Watch, WatchError, Watchable};

/// Why no channel was proposed. Nothing is locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// A term that the offer or our own limits do not allow.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The parameters make no channel.
    #[error(transparent)]
    BadParams(#[from] BadParams),
    /// Too little money, mostly.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The node cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Not stored.
    #[error(transparent)]
    Order(#[from] OrderError<Reject>),
}

/// Why a closing round did not succeed. The channel stays closing; a new round may be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Refused or not stored.
    #[error(transparent)]
    Order(#[from] OrderError<Reject>),
    /// The settlement makes no transaction.
    #[error(transparent)]
    Bad(#[from] BadSettlement),
    /// The payee's half does not fit.
    #[error(transparent)]
    Answer(#[from] BadAnswer),
    /// The node cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// A payment to be sent with a request.
#[derive(Clone, Copy, Debug)]
pub struct Bought {
    /// What to send.
    pub payment: Payment,
    /// What the item costs: what it cost when it was first bought, if it was bought before.
    pub cost: Msat,
    /// It was bought before: this asks for it again and costs nothing more.
    pub again: bool,
}

/// A running buyer.
pub struct Buyer {
    // The watch ends before the books, and the lock is freed last.
    watch: Watch,
    books: Arc<Books<Payer>>,
    chain: Chain,
    wallet: Arc<Mutex<Wallet>>,
    seed: Arc<Seed>,
    pace: Pace,
    finality: u32,
    words: Mutex<WordStock>,
    _lock: Lock,
}

impl Buyer {
    /// Reads the stored channels, does again what a restart must, and watches the chain. Returns also the channels whose
    /// opening or closing was interrupted and needs the other side. Blocks.
    ///
    /// # Errors
    /// When the folder is used by another process, or anything in it cannot be read.
    pub fn start(home: &Home, chain: Chain, pace: Pace, finality: u32) -> Result<Self, StartError> {
        let lock = home.lock()?;
        let seed = Arc::new(home.seed()?);
        let mut store = home.store()?;
        let wallet = Wallet::open(&mut store, seed.clone(), wallet::birthday(home, &chain)?)?;
        let (books, resumed) = Books::<Payer>::open(store, &seed, Arc::new(NoDesk))?;
        let (books, wallet) = (Arc::new(books), Arc::new(Mutex::new(wallet)));
        let watch = Watch::start(chain.clone(), wallet.clone(), books.clone(), pace, resumed);
        Ok(Self { watch, books, chain, wallet, seed, pace, finality, words: Mutex::default(), _lock: lock })
    }

    /// What confirms soon now. Blocks.
    ///
    /// # Errors
    /// When the node cannot be asked.
    pub fn fee_rate(&self) -> Result<FeeRate, ChainError> {
        publish::fee_rate(&self.chain, self.pace.target_blocks, self.pace.fallback_fee_rate)
    }

    /// The tip's height. Blocks.
    ///
    /// # Errors
    /// When the node cannot be asked.
    pub fn height(&self) -> Result<u32, ChainError> {
        Ok(self.chain.tip()?.height)
    }

    /// Proposes a channel: builds and signs the funding, keeps it back, and stores the proposal with the coins it takes.
    /// Nothing is locked until [`Self::accepted`]. Blocks.
    ///
    /// # Errors
    /// When a term is out of bounds or there is too little money.
    pub fn propose(
        &self,
        offer: &Offer,
        limits: &Limits,
        capacity: Amount,
        lifetime: u32,
        peer: String,
    ) -> Result<(ChannelId, Opening), ProposeError> {
        let height = self.chain.tip()?.height;
        let now = self.fee_rate()?;
        let fee_rate = limits.choose_fee_rate(offer, now);
        let key = KeyId::from_entropy(entropy::bytes());
        let keys = self.seed.channel_keys(key);
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let output = wallet.new_address().script_pubkey();
        let mut params = Params {
            network: offer.network,
            funding: OutPoint::null(),
            capacity,
            expiry: Expiry::at_height(height.saturating_add(lifetime)),
            fee_rate,
            prepaid: Offer::prepaid(fee_rate),
            payer: Party { funding: keys.funding(), session: keys.session(), output },
            payee: offer.payee.clone(),
        };
        offer.check(&params, height)?;
        limits.check(offer, &params, height)?;
        // Else the funding would not confirm, or cost more than this payer wants to pay.
        bounds(
            "the fee rate of the moment in sat/kwu",
            now.to_sat_per_kwu(),
            (0, limits.fee_rate.1.to_sat_per_kwu()),
        )?;
        let funding_output = Channel::new(params.clone())?.funding_txout();
        let script = funding_output.script_pubkey.clone();
        let funding = wallet.pay(script, capacity, now, &self.withheld()?)?;
        let vout = funding.output.iter().position(|output| *output == funding_output);
        let vout = vout.expect("the wallet pays what it was asked to") as u32;
        let outpoint = OutPoint { txid: funding.compute_txid(), vout };
        params.funding = outpoint;
        let record = PayerRecord { params, key, funding, finality: self.finality, peer };
        let setup = Payer::setup(&record, &self.seed)?;
        let id = setup.channel.id();
        let transition = payer::propose(&setup);
        let writes = wallet.staged().into_iter().collect();
        let outcome = match self.books.add_blocking(record, setup, transition, writes) {
            Ok(outcome) => outcome,
            Err(error) => {
                // Nothing was stored, so nobody will ever broadcast this funding.
                wallet.release(outpoint.txid);
                return Err(error.into());
            }
        };
        wallet.saved();
        Ok((id, opening(outcome.effects)))
    }

    /// The fundings that may never be sent. To be asked for while the wallet is locked: what is proposed meanwhile would not be there.
    fn withheld(&self) -> Result<Vec<Txid>, OrderError<Reject>> {
        waiting::withheld(&self.books, waiting::is_kept_back)
    }

    /// The proposal again, of a channel whose answer was lost.
    pub fn proposal(&self, id: ChannelId) -> Option<Opening> {
        let setup = self.books.setup(&id)?;
        Some(opening(payer::State::AwaitingAcceptance.resume(&setup)))
    }

    /// The payee accepted: the funding is broadcast.
    ///
    /// # Errors
    /// When the acceptance is not the payee's signature, or could not be stored. Then nothing is broadcast.
    pub async fn accepted(
        &self,
        id: ChannelId,
        signature: schnorr::Signature,
    ) -> Result<(), OrderError<Reject>> {
        let outcome = self.books.handle(id, Input::Accepted(signature), None).await?;
        self.carry_out(id, outcome.effects);
        Ok(())
    }

    /// The payee refused: the coins are free again.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn refused(&self, id: ChannelId) -> Result<(), OrderError<Reject>> {
        let outcome = self.books.handle(id, Input::Refused, None).await?;
        self.carry_out(id, outcome.effects);
        Ok(())
    }

    /// Gives up openings that a crash cut short: their funding was never broadcast, and the coins that it would have left over
    /// do not exist.
    ///
    /// # Errors
    /// When that could not be stored.
    pub async fn give_up_interrupted_openings(&self) -> Result<(), OrderError<Reject>> {
        for entry in self.channels().await? {
            if matches!(entry.state, payer::State::AwaitingAcceptance) {
                self.refused(entry.id).await?;
            }
        }
        Ok(())
    }

    /// Buys an item: the payment to send with the request, stored before it is returned. An item that was bought before
    /// costs nothing more.
    ///
    /// # Errors
    /// When the channel cannot pay it, or it could not be stored.
    pub async fn buy(&self, id: ChannelId, item: Item) -> Result<Bought, OrderError<Reject>> {
        let outcome = self.books.handle(id, Input::Buy { cost: item.cost }, Some(item)).await?;
        let paid = outcome.effects.into_iter().find_map(|effect| match effect {
            Effect::Pay(payment) => Some(payment),
            Effect::Propose(_)
            | Effect::ReleaseCoins
            | Effect::Announce(..)
            | Effect::AnnounceBatch(_)
            | Effect::Call(_)
            | Effect::ProposeClosing(_)
            | Effect::Broadcast(_) => None,
        });
        let payment = paid.or(outcome.ledger.newest).expect("an item that was bought was paid for");
        Ok(Bought { payment, cost: outcome.again.unwrap_or(item.cost), again: outcome.again.is_some() })
    }

    /// What was paid in a channel for these items.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn bought(&self, id: ChannelId, items: Vec<[u8; 32]>) -> Result<Msat, OrderError<Reject>> {
        self.books.purchases(id, items).await
    }

    /// The most that a channel can ever pay.
    pub fn max_total(&self, id: ChannelId) -> Option<Msat> {
        Some(self.books.setup(&id)?.channel.max_total())
    }

    /// The key that authenticates a channel's calls.
    pub fn call_key(&self, id: ChannelId) -> Option<CallKey> {
        let setup = self.books.setup(&id)?;
        Some(CallKey::agree(&setup.keys, &setup.channel.params().payee.session, id))
    }

    /// Starts a closing round: from now on the channel pays nothing more. `None` when the closing is complete already
    /// and was broadcast again.
    ///
    /// # Errors
    /// When the channel cannot be closed or that could not be stored.
    pub async fn propose_closing(
        &self,
        id: ChannelId,
        fee_rate: FeeRate,
        charged: Option<Msat>,
    ) -> Result<Option<Proposal>, CloseError> {
        let outcome = self.books.handle(id, Input::Close { fee_rate, charged }, None).await?;
        let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
        let settlement = outcome.effects.iter().find_map(|effect| match effect {
            Effect::ProposeClosing(settlement) => Some(*settlement),
            Effect::Propose(_)
            | Effect::ReleaseCoins
            | Effect::Pay(_)
            | Effect::Announce(..)
            | Effect::AnnounceBatch(_)
            | Effect::Call(_)
            | Effect::Broadcast(_) => None,
        });
        self.carry_out(id, outcome.effects);
        let proposal = settlement
            .map(|settlement| Proposal::new(&setup.channel, &setup.keys, settlement, entropy::bytes()));
        Ok(proposal.transpose()?)
    }

    /// Completes a closing round with the payee's half, stores the closing and broadcasts it.
    ///
    /// # Errors
    /// When the half does not fit, or the closing could not be stored.
    pub async fn complete_closing(
        &self,
        id: ChannelId,
        proposal: Proposal,
        answer: &Answer,
    ) -> Result<Transaction, CloseError> {
        let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
        let transaction = proposal.complete(&setup.channel, &setup.keys, answer)?;
        let input = Input::Countersigned { transaction: transaction.clone() };
        let outcome = self.books.handle(id, input, None).await?;
        self.carry_out(id, outcome.effects);
        Ok(transaction)
    }

    /// A channel's agreement.
    pub fn params(&self, id: ChannelId) -> Option<Params> {
        Some(self.books.setup(&id)?.channel.params().clone())
    }

    /// What a channel's funding pays to miners.
    ///
    /// # Errors
    /// When the books cannot be asked.
    pub async fn funding_fee(&self, id: ChannelId) -> Result<Option<Amount>, OrderError<Reject>> {
        let entry = self.channels().await?.into_iter().find(|entry| entry.id == id);
        let wallet = self.wallet.lock().expect("no holder of this lock panics");
        Ok(entry.and_then(|entry| wallet.fee(&entry.record.funding)))
    }

    /// All channels.
    ///
    /// # Errors
    /// When the program is ending.
    pub async fn channels(&self) -> Result<Vec<Entry<Payer>>, OrderError<Reject>> {
        self.books.list().await
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

    /// An address that was never handed out. Blocks.
    ///
    /// # Errors
    /// When it could not be stored.
    pub fn new_address(&self) -> Result<Address, OrderError<Reject>> {
        let mut wallet = self.wallet.lock().expect("no holder of this lock panics");
        let address = wallet.new_address();
        wallet.save(|write| self.books.write_blocking(vec![write]))?;
        Ok(address)
    }

    fn carry_out(&self, id: ChannelId, effects: Vec<Effect>) {
        let Some(setup) = self.books.setup(&id) else { return };
        for on_chain in effects.into_iter().filter_map(|effect| Payer::on_chain(&setup, effect)) {
            self.watch.carry_out(on_chain);
        }
        self.watch.look_now();
    }
}

fn opening(effects: Vec<Effect>) -> Opening {
    let proposed = effects.into_iter().find_map(|effect| match effect {
        Effect::Propose(opening) => Some(*opening),
        Effect::ReleaseCoins
        | Effect::Pay(_)
        | Effect::Announce(..)
        | Effect::AnnounceBatch(_)
        | Effect::Call(_)
        | Effect::ProposeClosing(_)
        | Effect::Broadcast(_) => None,
    });
    proposed.expect("a proposal that was stored is to be sent")
}

impl Watchable for Payer {
    fn on_chain(setup: &Arc<payer::Setup>, effect: Effect) -> Option<OnChain> {
        match effect {
            Effect::Broadcast(transaction) => Some(OnChain::Broadcast(transaction)),
            Effect::ReleaseCoins => Some(OnChain::Release(setup.funding.compute_txid())),
            // These need the payee, so the program that speaks to it sends them again.
            Effect::Propose(_)
            | Effect::Pay(_)
            | Effect::Announce(..)
            | Effect::AnnounceBatch(_)
            | Effect::Call(_)
            | Effect::ProposeClosing(_) => None,
        }
    }

    fn close() -> Option<Input> {
        None
    }
}
