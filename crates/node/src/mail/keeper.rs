//! The thread that owns a mailbox's database: takes what has gathered, carries it out in one durable write, then answers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::shelves::{Database, Shelves};
use super::{Bounds, MailError};
use crate::crash;
use crate::store::StoreError;

/// The most orders that share a write.
const BATCH: usize = 512;
/// How often what has expired is thrown away.
const SWEEP: Duration = Duration::from_secs(20);

/// Something to be done, whose answer waits for the write.
pub(super) type Order = Box<dyn Job>;

pub(super) trait Job: Send {
    /// Does it. An error fails the whole batch; what cannot be stored of this order alone is in its answer.
    fn work(&mut self, shelves: &Shelves<'_>) -> Result<(), Arc<StoreError>>;

    /// Answers, once the batch is stored or has failed.
    fn answer(self: Box<Self>, stored: Result<(), Arc<StoreError>>);
}

/// An order with its answer.
pub(super) struct Ask<F, T> {
    work: Option<F>,
    outcome: Result<T, MailError>,
    reply: oneshot::Sender<Result<T, MailError>>,
}

impl<F, T> Ask<F, T>
where
    F: FnOnce(&Shelves<'_>) -> Result<T, MailError> + Send + 'static,
    T: Send + 'static,
{
    pub(super) fn order(work: F, reply: oneshot::Sender<Result<T, MailError>>) -> Order {
        Box::new(Self { work: Some(work), outcome: Err(MailError::Ended), reply })
    }
}

impl<F, T> Job for Ask<F, T>
where
    F: FnOnce(&Shelves<'_>) -> Result<T, MailError> + Send,
    T: Send,
{
    fn work(&mut self, shelves: &Shelves<'_>) -> Result<(), Arc<StoreError>> {
        let Some(work) = self.work.take() else { return Ok(()) };
        self.outcome = shelves.alone(work).map_err(|error| Arc::new(error.into()))?;
        Ok(())
    }

    fn answer(self: Box<Self>, stored: Result<(), Arc<StoreError>>) {
        // Whoever asked may have left.
        let _left = self.reply.send(stored.map_err(MailError::Store).and(self.outcome));
    }
}

pub(super) struct Keeper {
    database: Database,
    bounds: Bounds,
    swept: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(database: Database, bounds: Bounds) -> Self {
        Self { database, bounds, swept: None }
    }

    /// Works until it is told to end.
    pub(super) fn run(mut self, queue: &Receiver<Option<Order>>) {
        loop {
            let mut orders = Vec::new();
            let mut has_ended = false;
            match queue.recv_timeout(SWEEP) {
                Ok(first) => {
                    for order in std::iter::once(first).chain(queue.try_iter().take(BATCH - 1)) {
                        match order {
                            Some(order) => orders.push(order),
                            None => has_ended = true,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => has_ended = true,
            }
            self.carry_out(orders);
            if has_ended {
                return;
            }
        }
    }

    fn carry_out(&mut self, mut orders: Vec<Order>) {
        let stored = self.store(&mut orders);
        if let Err(error) = &stored {
            tracing::warn!(%error, "the mailbox could not store");
        } else {
            crash::point();
        }
        for order in orders {
            order.answer(stored.clone());
        }
    }

    fn store(&mut self, orders: &mut [Order]) -> Result<(), Arc<StoreError>> {
        let is_due = self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP);
        let shelves = self.database.shelves(&self.bounds, now())?;
        let mut has_more = false;
        if is_due {
            has_more = shelves.sweep().map_err(|error| Arc::new(error.into()))?;
        }
        for order in orders.iter_mut() {
            order.work(&shelves)?;
        }
        crash::point();
        shelves.commit()?;
        if is_due {
            // What is left goes with the next write.
            self.swept = (!has_more).then(Instant::now);
        }
        Ok(())
    }
}

/// The clock, in microseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
