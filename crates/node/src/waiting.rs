//! Openings that wait for their funding. Anybody may open channels and never fund them, so there are only so many places.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farthing_chain::{Chain, ChainError, OutputStatus};
use farthing_protocol::Channel;

use crate::books::{Books, OrderError, Places};
use crate::watch::Watchable;

/// How many openings may wait for a funding that nobody has seen, and for how long one keeps its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// How many.
    pub(crate) most: usize,
    /// How long a payer may take to broadcast the funding before another may have its place.
    pub(crate) time_to_fund: Duration,
}

/// Why there is no place.
pub(crate) enum NoRoom<R: std::error::Error> {
    /// So many wait, and each may still be funded.
    Full(usize),
    /// The node cannot be asked.
    Chain(ChainError),
    /// Not stored.
    Order(OrderError<R>),
}

impl Room {
    /// Has a place for one more. When too many wait, the one that has waited longest gives up its place, if it had time enough to
    /// be funded. One for which nothing was given is forgotten, whatever was paid, and takes no disk any more ([`Books::forget_blocking`]
    /// says what a payer can do that funds it late); the others are closed, and should a funding come, it is claimed like that of any closed
    /// channel.
    pub(crate) fn make<M: Watchable>(
        self,
        books: &Books<M>,
        chain: &Chain,
        is_unfunded: fn(&M::State) -> bool,
    ) -> Result<(), NoRoom<M::Reject>> {
        let Places { taken, oldest } = books.places_blocking(is_unfunded).map_err(NoRoom::Order)?;
        if taken < self.most {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let is_late = |opened_at: u64| opened_at + self.time_to_fund.as_secs() <= now;
        let Some((id, _)) = oldest.filter(|(_, opened_at)| is_late(*opened_at)) else {
            return Err(NoRoom::Full(taken));
        };
        // The last look at the chain may be old.
        if let Some(setup) = books.setup(&id) {
            let funding = &M::channel(&setup).params().funding;
            if chain.output(funding).map_err(NoRoom::Chain)? != OutputStatus::Absent {
                return Err(NoRoom::Full(taken));
            }
        }
        if books.forget_blocking(id).map_err(NoRoom::Order)? {
            return Ok(());
        }
        let close = M::close().ok_or(NoRoom::Full(taken))?;
        books.handle_blocking(id, close).map_err(NoRoom::Order)?;
        Ok(())
    }
}

/// Whether the output that is to fund a channel is there and is another one. It cannot become the channel's any more, so whoever names it only
/// takes up room.
pub(crate) fn is_another_output(chain: &Chain, channel: &Channel) -> Result<bool, ChainError> {
    let named = chain.output(&channel.params().funding)?;
    Ok(named.output().is_some_and(|output| *output != channel.funding_txout()))
}
