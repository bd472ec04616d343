//! Openings that wait: for their funding, and for the payee's word before that. Anybody may open channels and never fund them, so there
//! are only so many places.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitcoin::Txid;
use farthing_chain::{Chain, ChainError, OutputStatus};
use farthing_protocol::{Channel, payer};

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
        let Some((id, _)) =
            oldest.filter(|(_, opened_at)| is_late(*opened_at, now, self.time_to_fund.as_secs()))
        else {
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

/// Whether an opening has had its time, in seconds. One of a time to come has: the clock was set back since, and nobody knows how long it
/// waits.
pub(crate) fn is_late(opened_at: u64, now: u64, time: u64) -> bool {
    opened_at > now || now - opened_at >= time
}

/// Whether the funding of a channel in this state was signed and kept back: the payee has not accepted, or has refused. It may never be
/// sent.
pub(crate) fn is_kept_back(state: &payer::State) -> bool {
    matches!(state, payer::State::AwaitingAcceptance | payer::State::Abandoned)
}

/// The fundings that are kept back. What would spend their change could not be sent without them, and would keep their coins taken
/// when they are given up. Blocks.
pub(crate) fn withheld<M: Watchable>(
    books: &Books<M>,
    is_kept_back: fn(&M::State) -> bool,
) -> Result<Vec<Txid>, OrderError<M::Reject>> {
    let entries = books.present_blocking()?.into_iter();
    let kept_back = entries.filter(|entry| is_kept_back(&entry.state));
    let setups = kept_back.filter_map(|entry| books.setup(&entry.id));
    Ok(setups.map(|setup| M::channel(&setup).params().funding.txid).collect())
}

/// Whether the output that is to fund a channel is there and is another one. It cannot become the channel's any more, so whoever names it only
/// takes up room.
pub(crate) fn is_another_output(chain: &Chain, channel: &Channel) -> Result<bool, ChainError> {
    let named = chain.output(&channel.params().funding)?;
    Ok(named.output().is_some_and(|output| *output != channel.funding_txout()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_opening_is_late_after_its_time_and_when_the_clock_was_set_back_before_it() {
        let now = 1_000_000;
        for (opened_at, is_late) in
            [(now, false), (now - 599, false), (now - 600, true), (now + 1, true), (u64::MAX, true)]
        {
            assert_eq!(super::is_late(opened_at, now, 600), is_late, "{opened_at}");
        }
    }
}
