//! What sellers can claim is counted before anything leaves: in memory at once, and on disk for the day's budget of later processes.

use farthing_node::buyer::calls::OnDay;
use farthing_protocol::channel::SpendKind;
use farthing_protocol::opening::Offer;
use farthing_protocol::payer::State;
use farthing_protocol::{ChannelId, Msat, closing};
use reqwest::Url;
use tokio::sync::Mutex;

use super::Caller;
use crate::caller::payee::Payee;
use crate::challenge::{Calls, Challenge};
use crate::client::{ClientError, Plan};

impl Caller {
    /// Takes what a call may cost out of the budgets.
    pub(super) async fn take(
        &self,
        payee: &Mutex<Payee>,
        origin: &str,
        channel: ChannelId,
        cost: Msat,
    ) -> Result<OnDay, ClientError> {
        if !self.spending.knows_channel(channel) {
            // Two calls at once would count the first payment twice.
            let _one_at_a_time = payee.lock().await;
            self.learn_channel(origin, channel).await?;
        }
        self.spending.take(origin, channel, cost)
    }

    /// Counts what the word for a call would reveal beyond what was taken for the call. It is not drawn yet.
    pub(super) async fn reveal(
        &self,
        origin: &str,
        channel: ChannelId,
        claimable: Msat,
    ) -> Result<(), ClientError> {
        let more = self.spending.reveal(origin, channel, claimable)?;
        if more.amount > Msat::ZERO {
            self.client.buyer().count(more).await?;
        }
        Ok(())
    }

    /// Opens a channel to pay calls from, if deposit and budgets allow what it locks and what the seller can claim at once.
    pub(super) async fn open(
        &self,
        url: &Url,
        (challenge, offer): (&Challenge, &Offer),
        terms: &Calls,
        cost: Msat,
        payee: &mut Payee,
    ) -> Result<ChannelId, ClientError> {
        let origin = url.origin().ascii_serialization();
        let (limits, deposit) = (self.means.limits, self.means.deposit);
        self.check_last(payee).await?;
        let plan = self.client.plan_opening(offer, &limits, deposit).await?;
        check_locked(&plan, deposit)?;
        if let Some(flat) = terms.flat {
            let explained = self.client.explain(offer, &limits, deposit, flat).await?;
            (self.means.explain)(&explained);
        }
        self.learn_payee(&origin).await?;
        let first = Msat::from_amount(plan.prepaid).unwrap_or(Msat::new(u64::MAX));
        let counted = self.spending.open(&origin, first, cost)?;
        let opened = self.client.open_planned(url, (challenge, offer), &limits, &plan).await;
        let channel = opened.inspect_err(|_nothing_locked| self.spending.not_opened(&origin, counted))?;
        self.spending.learn_channel(channel, first, Msat::ZERO);
        self.client.buyer().count(counted).await?;
        (self.means.opened)(channel, &plan);
        Ok(channel)
    }

    /// A seller that closed alone and kept what bought nothing would do so again and again.
    async fn check_last(&self, payee: &Payee) -> Result<(), ClientError> {
        let Some(last) = payee.last() else { return Ok(()) };
        let entries = self.client.buyer().channels().await?;
        let Some(entry) = entries.into_iter().find(|entry| entry.id == last) else { return Ok(()) };
        let kept = match &entry.state {
            // This process closes only what it has left.
            State::Closing(_) | State::Closed(_) if !payee.has_left(last) => {
                let ledger = entry.state.ledger();
                let first = Msat::from_amount(entry.record.params.prepaid).unwrap_or_default();
                ledger.paid().min(first).saturating_sub(ledger.spent)
            }
            State::AwaitingAcceptance
            | State::Abandoned
            | State::AwaitingFunding(_)
            | State::Open(_)
            | State::Closing(_)
            | State::Refunding(_)
            | State::Closed(_) => Msat::ZERO,
        };
        if kept > Msat::ZERO {
            return Err(ClientError::ClosedAlone { channel: last, kept });
        }
        Ok(())
    }

    /// Takes note of what earlier processes have let a seller claim.
    async fn learn_payee(&self, origin: &str) -> Result<(), ClientError> {
        if !self.spending.knows_payee(origin) {
            let entries = self.client.buyer().channels().await?;
            let of_payee = entries.iter().filter(|entry| entry.record.peer == origin);
            self.spending.learn(origin, of_payee.map(|entry| claimable(&entry.state)).sum());
        }
        Ok(())
    }

    /// Takes note of a channel that an earlier process opened. If it has paid nothing yet, the first payment leaves with the first
    /// announcement, so it counts now.
    async fn learn_channel(&self, origin: &str, channel: ChannelId) -> Result<(), ClientError> {
        self.learn_payee(origin).await?;
        if self.spending.knows_channel(channel) {
            return Ok(());
        }
        let entries = self.client.buyer().channels().await?;
        let Some(entry) = entries.into_iter().find(|entry| entry.id == channel) else { return Ok(()) };
        let first = Msat::from_amount(entry.record.params.prepaid).unwrap_or(Msat::new(u64::MAX));
        let ledger = entry.state.ledger();
        if ledger.newest.is_none() {
            let counted = self.spending.open(origin, first, Msat::ZERO)?;
            self.client.buyer().count(counted).await?;
        }
        self.spending.learn_channel(channel, ledger.paid().max(first), ledger.spent);
        Ok(())
    }
}

/// What is locked stays within the deposit, and the commitment's fee comes on top: at most as much again.
fn check_locked(plan: &Plan, deposit: Msat) -> Result<(), ClientError> {
    let (capacity, fee) = (plan.capacity, plan.commitment_fee);
    let most = deposit.ceil().checked_add(fee).unwrap_or(bitcoin::Amount::MAX_MONEY);
    if capacity > most || fee > deposit.ceil() {
        return Err(ClientError::OverLocked { capacity, fee, deposit });
    }
    Ok(())
}

/// What the seller of a channel can claim, or has claimed.
fn claimable(state: &State) -> Msat {
    let ledger = state.ledger();
    match state {
        State::AwaitingAcceptance | State::Abandoned => Msat::ZERO,
        State::AwaitingFunding(_) | State::Open(_) | State::Closing(_) | State::Refunding(_) => ledger.paid(),
        State::Closed(closed) => match closed.ending.kind {
            SpendKind::Commitment => ledger.paid(),
            SpendKind::Closing => {
                Msat::from_amount(closing::due(ledger.spent, ledger.paid())).unwrap_or(ledger.paid())
            }
            SpendKind::Refund => Msat::ZERO,
        },
    }
}
