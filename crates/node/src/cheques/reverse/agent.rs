//! The agent's counter: it offers its signature to whom a payee has authorised, and collects the price.
//!
//! A sale and the promise in the payee's channel are stored in one write; and so are the price, completed, and that the sale is
//! collected. What comes after, paying the payee plainly, is repeated until it is done.

use std::collections::{HashMap, HashSet};

use farthing_chain::ChainError;
use farthing_protocol::ChannelId;
use farthing_protocol::channel::Channel;
use farthing_protocol::cheque::drawer;
use farthing_protocol::cheque::drawn::{self, Kind};
use farthing_protocol::cheque::held;
use farthing_protocol::cheque::point::{AdaptorPoint, AdaptorSecret};
use farthing_protocol::cheque::reverse::authorisation::Authorisation;
use farthing_protocol::cheque::reverse::purchase::Offer;
use farthing_protocol::cheque::reverse::sale::{self, Conditions, Sale, Status};
use farthing_protocol::cheque::side::{Reject, Setup, Side};

use crate::books::OrderError;
use crate::cheques::machine::{drawn, held};
use crate::cheques::paper::{Drawer, Paper, Sold};
use crate::cheques::{Failed, Teller, now};
use crate::store::{StoreError, Write};
use crate::{crash, entropy};

/// What is on sale, so that nothing is read for updates that are about something else. Whoever holds it sells alone.
#[derive(Debug, Default)]
pub(in crate::cheques) struct Counter {
    offered: HashSet<AdaptorPoint>,
    /// The newest sale of each payee's channel.
    newest: HashMap<ChannelId, (u64, AdaptorPoint)>,
    /// How many sales of each were dropped: each stays in the database.
    dropped: HashMap<ChannelId, u32>,
}

/// Whoever authorises and gives back for nothing does so so often in a channel. It locks money of this agent's each time it asks for another.
const MOST_DROPPED: u32 = 100;

/// Why nothing is offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaleError {
    /// No such channel.
    #[error("no payee is paid from here in that channel")]
    NoChannel,
    /// Too often for nothing.
    #[error(
        "{MOST_DROPPED} authorisations in this channel came to nothing: the payee has to ask for another channel"
    )]
    TooManyDropped,
    /// The rules forbid it.
    #[error(transparent)]
    Rejected(#[from] sale::Reject),
    /// The channel refuses, or it could not be stored.
    #[error(transparent)]
    Order(#[from] Failed),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node cannot be asked for the height.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl Counter {
    /// What the stored papers say.
    pub(in crate::cheques) fn open(papers: Vec<Paper>) -> Self {
        let mut counter = Self::default();
        for paper in papers {
            match paper {
                Paper::Sold(sold) => counter.note(&sold.sale),
                Paper::Written(_) | Paper::Got(_) | Paper::Bought(_) => {}
            }
        }
        counter
    }

    fn note(&mut self, sale: &Sale) {
        let (terms, point) = (&sale.authorisation().terms, sale.point());
        match sale.status() {
            Status::Offered => drop(self.offered.insert(point)),
            Status::Collected(_) => drop(self.offered.remove(&point)),
            Status::Dropped => {
                self.offered.remove(&point);
                *self.dropped.entry(terms.channel).or_default() += 1;
            }
        }
        let newest = self.newest.entry(terms.channel).or_insert((terms.serial, point));
        if newest.0 <= terms.serial {
            *newest = (terms.serial, point);
        }
    }
}

impl Teller {
    /// Offers this agent's signature on the increment that a payee has authorised. The same again is the same. Blocks.
    ///
    /// # Errors
    /// When the authorisation is not of a payee here, or fits its channel no more; or it could not be stored.
    pub fn offer_signature(&self, authorisation: &Authorisation) -> Result<Offer, SaleError> {
        let id = authorisation.terms.channel;
        let setup = self.books.setup(&id).ok_or(SaleError::NoChannel)?;
        let Setup::Drawer(payer) = &*setup else { return Err(SaleError::NoChannel) };
        let mut counter = self.sales.lock().expect("no holder of this lock panics");
        let newest = counter.newest.get(&id).copied();
        if let Some((_, point)) = newest
            && let Some(sold) = self.sold(&point)?
        {
            let status = sold.sale.status();
            if sold.sale.authorisation() == authorisation {
                return match status {
                    Status::Offered => self.offered(&payer.channel, &sold.sale),
                    Status::Collected(_) | Status::Dropped => Err(sale::Reject::NotOffered.into()),
                };
            }
            // Whoever signed this is the payee: it takes the other no more.
            authorisation.check(&payer.channel).map_err(sale::Reject::from)?;
            if status == Status::Offered {
                self.drop_sale(&mut counter, sold, sale::Input::Replaced(Box::new(authorisation.clone())))?;
            }
        }
        if counter.dropped.get(&id).is_some_and(|dropped| *dropped >= MOST_DROPPED) {
            return Err(SaleError::TooManyDropped);
        }
        let state = self.books.state_blocking(id)?.ok_or(SaleError::NoChannel)?;
        let drawer = state.drawer().filter(|drawer| drawer.drawn().kind() == Kind::Lock);
        let conditions = Conditions {
            base: drawer.ok_or(SaleError::NoChannel)?.drawn().ledger().paid(),
            newest: newest.map_or(0, |(serial, _)| serial),
            fee: self.terms.fee,
            height: self.chain.tip()?.height,
        };
        let secret = AdaptorSecret::from_bytes(&entropy::bytes());
        let secret = secret.expect("random bytes are a scalar but for odds of 2^-127");
        let offer = Sale::offer(&payer.channel, authorisation.clone(), &conditions, secret)?;
        let promise = |sale: &Sale| drawn(drawn::Input::Promise(sale.promise()));
        let sale = self.commit_sale(id, offer, now(), promise)?;
        counter.note(&sale);
        self.offered(&payer.channel, &sale)
    }

    /// Cashes what payers have promised for what is on sale. What cannot be done yet is done when they ask again, or by
    /// [`Teller::tend`].
    pub(in crate::cheques) fn collect_sales(&self, id: ChannelId, points: &[AdaptorPoint]) {
        let mut counter = self.sales.lock().expect("no holder of this lock panics");
        let on_sale: Vec<AdaptorPoint> =
            points.iter().filter(|point| counter.offered.contains(point)).copied().collect();
        for point in on_sale {
            if let Err(error) = self.collect_sale(&mut counter, id, &point) {
                tracing::debug!(channel = %id, %error, "the price of a signature is not collected yet");
            }
        }
    }

    /// Looks after what was sold: collects, pays payees plainly, and drops what is over.
    pub(in crate::cheques) fn tend_sales(&self) -> Result<(), Failed> {
        let locks = self.books.present_blocking()?.into_iter().filter_map(|entry| match &entry.state {
            Side::Drawer(drawer) if drawer.drawn().kind() == Kind::Lock => {
                Some(drawer.drawn().promises().map(|promise| promise.point).collect::<Vec<_>>())
            }
            Side::Drawer(_) | Side::Holder(_) => None,
        });
        let mut counter = self.sales.lock().expect("no holder of this lock panics");
        for point in locks.flatten() {
            if let Err(error) = self.tend_sale(&mut counter, &point) {
                tracing::warn!(%error, "a signature that was sold is not looked after; trying again later");
            }
        }
        Ok(())
    }

    fn tend_sale(&self, counter: &mut Counter, point: &AdaptorPoint) -> Result<(), SaleError> {
        let Some(sold) = self.sold(point)? else { return Ok(()) };
        match sold.sale.status() {
            Status::Collected(_) => self.settle_sale(&sold.sale),
            Status::Dropped => Ok(()),
            Status::Offered => {
                for id in self.router.holders_of(point) {
                    if let Err(error) = self.collect_sale(counter, id, point) {
                        tracing::debug!(channel = %id, %error, "not collected yet");
                    }
                }
                let Some(sold) = self.sold(point)?.filter(|sold| sold.sale.status() == Status::Offered)
                else {
                    return Ok(());
                };
                let height = self.chain.tip()?.height;
                if sold.sale.authorisation().terms.until.is_over(height) {
                    self.drop_sale(counter, sold, sale::Input::Height(height))?;
                }
                Ok(())
            }
        }
    }

    fn collect_sale(
        &self,
        counter: &mut Counter,
        id: ChannelId,
        point: &AdaptorPoint,
    ) -> Result<(), SaleError> {
        let Some(sold) = self.sold(point)? else { return Ok(()) };
        let Some(secret) = sold.sale.secret().cloned() else { return Ok(()) };
        let cash = held(held::Input::Cash {
            secret,
            least: sold.sale.price(),
            // The channel's own state says so.
            is_deep: false,
            height: self.chain.tip()?.height,
            margin: self.terms.paid.margin,
        });
        let collected = sold.sale.handle(sale::Input::Collect(id))?;
        let sale = self.commit_sale(id, collected, sold.at, |_| cash)?;
        counter.note(&sale);
        self.settle_sale(&sale)
    }

    /// Pays the payee plainly what was collected for it, so that it needs no mail.
    fn settle_sale(&self, sale: &Sale) -> Result<(), SaleError> {
        let id = sale.authorisation().terms.channel;
        for effect in sale.resume() {
            let sale::Effect::Settle(secret) = effect else { continue };
            match self.books.handle_blocking(id, drawn(drawn::Input::Secret(secret))) {
                Ok(outcome) => drop(self.carry_out(id, outcome.effects)),
                // The payee was paid before.
                Err(OrderError::Rejected(Reject::Drawer(drawer::Reject::Promises(
                    drawn::Reject::Unknown,
                )))) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn drop_sale(&self, counter: &mut Counter, sold: Sold, input: sale::Input) -> Result<(), SaleError> {
        let id = sold.sale.authorisation().terms.channel;
        let dropped = sold.sale.handle(input)?;
        let dead = |sale: &Sale| drawn(drawn::Input::Dead(sale.point()));
        let sale = self.commit_sale(id, dropped, sold.at, dead)?;
        counter.note(&sale);
        Ok(())
    }

    /// Stores a sale together with what it does in a channel, and only then goes on.
    fn commit_sale(
        &self,
        id: ChannelId,
        transition: farthing_protocol::Transition<Sale, sale::Effect>,
        at: u64,
        input: impl FnOnce(&Sale) -> farthing_protocol::cheque::side::Input,
    ) -> Result<Sale, Failed> {
        let mut carried = Vec::new();
        let (sale, _repeated_by_resume) = transition.commit(|sale| {
            let paper = Write::Cheque(Box::new(Paper::Sold(Sold { sale: sale.clone(), at })));
            crash::point();
            carried = self.books.handle_and_write_blocking(id, input(sale), vec![paper])?.effects;
            Ok::<_, Failed>(())
        })?;
        self.carry_out(id, carried);
        Ok(sale)
    }

    fn sold(&self, point: &AdaptorPoint) -> Result<Option<Sold>, StoreError> {
        Ok(self.router.paper(Drawer::Sold, &point.to_bytes())?.and_then(|paper| match paper {
            Paper::Sold(sold) => Some(sold),
            Paper::Written(_) | Paper::Got(_) | Paper::Bought(_) => None,
        }))
    }

    fn offered(&self, channel: &Channel, sale: &Sale) -> Result<Offer, SaleError> {
        let update = self.update(channel.id())?;
        let update = update.filter(|update| update.signed.terms.promises == [sale.promise()]);
        let update = update.ok_or(sale::Reject::NotOffered)?;
        Ok(Offer { params: channel.params().clone(), update, price: sale.price() })
    }
}
