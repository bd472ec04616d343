//! Paying for calls: chains of words, calls, and what they turned out to cost.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{SystemTime, UNIX_EPOCH};

use farthing_protocol::flat::BadBatch;
use farthing_protocol::lightspeed::call::{MacKey, Target};
use farthing_protocol::lightspeed::ladder::{self, BadLadder};
use farthing_protocol::lightspeed::purse::Ticket;
use farthing_protocol::lightspeed::{Call, CallNumber, ChainTerms, Purse, Rung, Shape, Word, Words};
use farthing_protocol::payer::{Effect, Input, Reject, call};
use farthing_protocol::{ChannelId, Msat, Payment};

use crate::books::OrderError;
use crate::buyer::Buyer;
use crate::store::Write;

/// A chain to be sent to the payee.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The chain.
    pub terms: ChainTerms,
    /// Its rungs, signed.
    pub rungs: Vec<Rung>,
    /// The newest plain payment, for a channel that paid for nothing yet.
    pub payment: Payment,
}

/// A call to be sent, stored already.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The call.
    pub call: Call,
    /// It with its MAC, as it travels. To send the same bytes again asks for the same answer.
    pub bytes: Vec<u8>,
    /// Less than a quarter of the chain's words is left: time to announce the next one.
    pub is_low: bool,
}

/// What the budgets of who sends a call allow.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// The most that the payee may be able to claim of the channel once it has this call, and all others that were prepared.
    pub most: Msat,
    /// What it counts towards a day, to be stored with it.
    pub counted: Option<OnDay>,
}

impl Allowed {
    /// There are no budgets.
    pub const ANYTHING: Self = Self { most: Msat::new(u64::MAX), counted: None };
}

/// What payees of calls can claim, counted towards a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDay {
    /// The day (UTC, counted from 1970).
    pub day: u64,
    /// How much.
    pub amount: Msat,
}

impl OnDay {
    fn more(self) -> Write {
        Write::Day { day: self.day, by: i64::try_from(self.amount.get()).unwrap_or(i64::MAX) }
    }
}

/// Why no chain was announced, or no call prepared. Nothing was sent.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallsError {
    /// The books.
    #[error(transparent)]
    Order(#[from] OrderError<Reject>),
    /// The chain makes no sense in this channel.
    #[error(transparent)]
    Chain(#[from] BadLadder),
    /// The batch makes no sense in this channel.
    #[error(transparent)]
    Batch(#[from] BadBatch),
    /// The capacity is used up.
    #[error("channel {0} has nothing left to pay with")]
    Spent(ChannelId),
}

/// The chains that this process has drawn.
#[derive(Default)]
pub(super) struct WordStock {
    chains: HashMap<(ChannelId, u32), Words>,
    keys: HashMap<ChannelId, MacKey>,
}

/// How many drawn chains are kept: the present and the next one of a few channels.
const MOST_CHAINS: usize = 64;

impl Buyer {
    /// Draws the next chain of a channel, as long as the capacity allows, stores it and signs its rungs. A chain that was
    /// announced before and never answered comes again. Blocks: 40 µs a rung and 50 ns a word.
    ///
    /// # Errors
    /// When nothing is left to pay with, or it could not be stored.
    pub fn announce(&self, id: ChannelId, shape: Shape) -> Result<Announcement, CallsError> {
        let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
        let entry = self.books.list_blocking()?.into_iter().find(|entry| entry.id == id);
        let state = entry.ok_or(OrderError::NoChannel(id))?.state;
        let pending = state.purse().and_then(Purse::announced);
        let (terms, base, words) = match pending {
            Some((terms, base)) => (terms, base, self.draw(id, &terms.shape, terms.number)?),
            None => {
                let (number, shape) = match state.purse() {
                    Some(purse) => {
                        let (number, _) =
                            purse.next_chain().map_err(Reject::from).map_err(OrderError::Rejected)?;
                        (number, purse.fit(&setup.channel, shape))
                    }
                    None => (1, fit_first(&setup, &state.ledger(), shape)),
                };
                let words = self.draw(id, &shape.ok_or(CallsError::Spent(id))?, number)?;
                let announced = Input::Call(call::Input::Announce(*words.terms()));
                let outcome = self.books.handle_blocking(id, announced)?;
                let (terms, base) = outcome
                    .effects
                    .into_iter()
                    .find_map(|effect| match effect {
                        Effect::Announce(terms, base) => Some((terms, base)),
                        Effect::Propose(_)
                        | Effect::ReleaseCoins
                        | Effect::Pay(_)
                        | Effect::AnnounceBatch(_)
                        | Effect::Call(_)
                        | Effect::ProposeClosing(_)
                        | Effect::Broadcast(_) => None,
                    })
                    .expect("a chain that was stored is to be announced");
                (terms, base, words)
            }
        };
        let rungs = ladder::sign(&setup.channel, &setup.keys, &words, base)?;
        let plain = self.books.list_blocking()?.into_iter().find(|entry| entry.id == id);
        let payment = plain.and_then(|entry| entry.state.ledger().newest);
        let payment = payment.expect("a chain stands on a payment");
        self.keep(id, words);
        Ok(Announcement { terms, rungs, payment })
    }

    /// The payee's answer to an announcement: it took the chain and is in `epoch`, or it refused.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn announced(
        &self,
        id: ChannelId,
        chain: u32,
        epoch: Option<u32>,
    ) -> Result<(), OrderError<Reject>> {
        let input = match epoch {
            Some(epoch) => call::Input::Taken { chain, epoch },
            None => call::Input::Refused { chain },
        };
        self.books.handle(id, Input::Call(input), None).await.map(drop)
    }

    /// Prepares a call of at most `cost`: stores its number and what it may cost, and what it counts towards a day, then reveals its
    /// word.
    ///
    /// # Errors
    /// When the words do not cover it, its word is worth more than is allowed, or it could not be stored. Then nothing is revealed.
    pub async fn call(
        &self,
        id: ChannelId,
        cost: Msat,
        target: &Target<'_>,
        allowed: Allowed,
    ) -> Result<Prepared, CallsError> {
        let input = call::Input::Call { cost, most: allowed.most };
        self.prepare(id, input, target, allowed.counted).await
    }

    /// Prepares a call of no cost that lets one that runs cost `by` more.
    ///
    /// # Errors
    /// When the words do not cover it, or it could not be stored. Then nothing is revealed.
    pub async fn top_up(
        &self,
        id: ChannelId,
        number: CallNumber,
        by: Msat,
        target: &Target<'_>,
        allowed: Allowed,
    ) -> Result<Prepared, CallsError> {
        let input = call::Input::TopUp { number, by, most: allowed.most };
        self.prepare(id, input, target, allowed.counted).await
    }

    async fn prepare(
        &self,
        id: ChannelId,
        input: call::Input,
        target: &Target<'_>,
        counted: Option<OnDay>,
    ) -> Result<Prepared, CallsError> {
        let writes = counted.filter(|counted| counted.amount > Msat::ZERO);
        let writes = writes.map(OnDay::more).into_iter().collect();
        let outcome = self.books.handle_and_write(id, Input::Call(input), writes).await?;
        let ticket = outcome.effects.into_iter().find_map(|effect| match effect {
            Effect::Call(ticket) => Some(ticket),
            Effect::Propose(_)
            | Effect::ReleaseCoins
            | Effect::Pay(_)
            | Effect::Announce(..)
            | Effect::AnnounceBatch(_)
            | Effect::ProposeClosing(_)
            | Effect::Broadcast(_) => None,
        });
        let Ticket { number, cost, chain, index, last } =
            ticket.expect("a call that was stored is to be sent");
        let word = self.word(id, chain, index).await?;
        let last = match last {
            Some((chain, index)) => Some(self.word(id, chain, index).await?),
            None => None,
        };
        let call = Call { channel: id, number, cost, chain, index, word, last };
        let mac = self.mac(id, &call, target)?;
        // A batch is not announced ahead: its base is everything that was revealed before it.
        let is_low = |words: u32| words.saturating_sub(index) < words / 4;
        let is_low = self.length(id, chain).is_some_and(is_low);
        Ok(Prepared { bytes: call.to_bytes(&mac), call, is_low })
    }

    /// What a call turned out to cost; `None` when it was not served and never will be.
    ///
    /// # Errors
    /// When the payee claims more than the call allowed, or it could not be stored.
    pub async fn answered(
        &self,
        prepared: &Prepared,
        charged: Option<Msat>,
    ) -> Result<(), OrderError<Reject>> {
        let Call { channel, number, .. } = prepared.call;
        let input = Input::Call(call::Input::Answered { number, charged });
        self.books.handle(channel, input, None).await.map(drop)
    }

    /// Counts what payees can claim towards a day.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn count(&self, counted: OnDay) -> Result<(), OrderError<Reject>> {
        self.books.write(vec![counted.more()]).await
    }

    /// What was counted today (UTC), by all processes of this data folder. What was counted on a day to come, by a clock that was
    /// put back since, counts too.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn spent_today(&self) -> Result<Msat, OrderError<Reject>> {
        self.books.spent_since(day()).await
    }

    /// The payee has begun another epoch.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn epoch(&self, id: ChannelId, epoch: u32) -> Result<(), OrderError<Reject>> {
        self.books.handle(id, Input::Call(call::Input::Epoch(epoch)), None).await.map(drop)
    }

    /// Takes the payee's sum for the calls up to `last` whose answers were lost, if the calls that were sent allow it.
    ///
    /// # Errors
    /// When they do not, a call was sent since, or it could not be stored.
    pub async fn reconcile(
        &self,
        id: ChannelId,
        last: CallNumber,
        spent: Msat,
    ) -> Result<(), OrderError<Reject>> {
        self.books.handle(id, Input::Call(call::Input::Reconcile { last, spent }), None).await.map(drop)
    }

    /// A channel's purse as it stands; `None` when the channel pays for no calls.
    ///
    /// # Errors
    /// When the books cannot be asked.
    pub async fn purse(&self, id: ChannelId) -> Result<Option<Purse>, OrderError<Reject>> {
        let state = self.books.state(id).await?.ok_or(OrderError::NoChannel(id))?;
        Ok(state.purse().cloned())
    }

    fn mac(&self, id: ChannelId, call: &Call, target: &Target<'_>) -> Result<[u8; 32], CallsError> {
        let mut stock = self.words.lock().expect("no holder of this lock panics");
        let key = match stock.keys.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let key = self.call_key(id).ok_or(OrderError::NoChannel(id))?;
                place.insert(MacKey::new(&key))
            }
        };
        Ok(key.mac(call, target))
    }

    async fn word(&self, id: ChannelId, chain: u32, index: u32) -> Result<Word, CallsError> {
        if let Some(word) = self.known_word(id, chain, index) {
            return Ok(word);
        }
        let purse = self.purse(id).await?.ok_or(OrderError::NoChannel(id))?;
        if let Some(batch) = purse.batches().iter().find(|batch| batch.number == chain) {
            let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
            let preimage = batch.preimages(&setup.channel, &setup.keys).preimage(index);
            return Ok(Word::from_bytes(*preimage.as_bytes()));
        }
        // Drawn by an earlier process.
        let terms = purse.chains().iter().map(|(terms, _)| *terms).find(|terms| terms.number == chain);
        let terms = terms.expect("a word is revealed on a chain that was announced");
        let mut words = self.draw(id, &terms.shape, chain)?;
        let word = words.word(index).expect("a word is revealed that its chain has");
        self.keep(id, words);
        Ok(word)
    }

    fn known_word(&self, id: ChannelId, chain: u32, index: u32) -> Option<Word> {
        let mut stock = self.words.lock().expect("no holder of this lock panics");
        stock.chains.get_mut(&(id, chain))?.word(index)
    }

    /// How many words a chain has that was drawn.
    fn length(&self, id: ChannelId, chain: u32) -> Option<u32> {
        let stock = self.words.lock().expect("no holder of this lock panics");
        Some(stock.chains.get(&(id, chain))?.terms().shape.words)
    }

    fn draw(&self, id: ChannelId, shape: &Shape, number: u32) -> Result<Words, CallsError> {
        let setup = self.books.setup(&id).ok_or(OrderError::NoChannel(id))?;
        Ok(Words::draw(&setup.keys, id, shape, number))
    }

    fn keep(&self, id: ChannelId, words: Words) {
        let mut stock = self.words.lock().expect("no holder of this lock panics");
        let number = words.terms().number;
        // Older chains are drawn again in the rare case that somebody asks.
        stock.chains.retain(|(channel, chain), _| *channel != id || *chain + 1 >= number);
        if stock.chains.len() >= MOST_CHAINS {
            stock.chains.clear();
        }
        stock.chains.insert((id, number), words);
    }
}

/// The number of days since 1970.
pub fn day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400)
}

/// The longest first chain that the capacity covers on top of the prepayment.
fn fit_first(
    setup: &farthing_protocol::payer::Setup,
    ledger: &farthing_protocol::ledger::Ledger,
    shape: Shape,
) -> Option<Shape> {
    let prepaid = Msat::from_amount(setup.channel.params().prepaid)?;
    shape.fit(&setup.channel, ledger.paid().max(prepaid))
}
