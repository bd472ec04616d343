//! What LDK reports, and what the gateway does about it.

use std::sync::Arc;

use bitcoin::{Amount, ScriptBuf, Transaction};
use farthing_chain::OutputStatus;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::{CommitmentNumber, PaymentHash, Preimage, Side};
use farthing_protocol::device::wire::{ChannelKeysId, Report};
use lightning::events::{ClosureReason, Event};
use lightning::ln::types::ChannelId;

use crate::gateway::Gateway;
use crate::records::{ChannelRecord, Outcome, PaymentRecord, Stage};
use crate::shelf::ShelfError;
use crate::signer::desk::Desk;

impl Gateway {
    /// Handles an event. It may come again after a restart.
    ///
    /// # Errors
    /// When it could not be stored. Then it has to come again.
    pub(crate) fn event(&self, event: Event) -> Result<(), ShelfError> {
        match event {
            Event::FundingGenerationReady {
                temporary_channel_id,
                channel_value_satoshis,
                output_script,
                user_channel_id,
                ..
            } => {
                let capacity = Amount::from_sat(channel_value_satoshis);
                self.funding_wanted(user_channel_id, temporary_channel_id, output_script, capacity);
            }
            // LDK has stored the bridge's signature. Whether the funding is safe is for the device to say.
            Event::FundingTxBroadcastSafe { user_channel_id, .. } => {
                let channel = self.books().by_user_channel_id(user_channel_id);
                let Some(channel) = channel else { return Ok(()) };
                self.set_stage(channel, |stage| {
                    if let Stage::Agreed { is_signed, .. } = stage {
                        *is_signed = true;
                    }
                })?;
            }
            Event::PaymentSent { payment_preimage, payment_hash, fee_paid_msat, .. } => {
                let preimage = Preimage(payment_preimage.0);
                let fee = Msat::new(fee_paid_msat.unwrap_or_default());
                self.settle(PaymentHash(payment_hash.0), Outcome::Paid { preimage, fee })?;
            }
            Event::PaymentFailed { payment_hash: Some(payment_hash), reason, .. } => {
                let why = reason.map_or("no route".to_owned(), |reason| format!("{reason:?}"));
                self.settle(PaymentHash(payment_hash.0), Outcome::Failed(why))?;
            }
            // Devices are payers; nobody pays them through here.
            Event::PaymentClaimable { payment_hash, .. } => {
                self.node.channels.fail_htlc_backwards(&payment_hash);
            }
            Event::OpenChannelRequest { temporary_channel_id, counterparty_node_id, .. } => {
                let why = "this node opens channels and accepts none".to_owned();
                let channels = &self.node.channels;
                let refused = channels.force_close_broadcasting_latest_txn(
                    &temporary_channel_id,
                    &counterparty_node_id,
                    why,
                );
                if let Err(error) = refused {
                    tracing::debug!(?error, "a channel that somebody wanted is gone already");
                }
            }
            Event::ChannelClosed { user_channel_id, reason, .. } => self.closed(user_channel_id, &reason)?,
            // Of ways through the ordinary node that node found one half, by a map of its own.
            ref taught @ (Event::PaymentPathFailed { .. } | Event::PaymentPathSuccessful { .. }) => {
                if let Some(operator) = self.operator() {
                    operator.node.node.learn(taught);
                }
            }
            // The rest is about forwarding, receiving, probes and anchors, which devices' channels do not have; spendable outputs
            // pay the owner's cold keys and need nobody.
            other => tracing::debug!(?other, "nothing to do"),
        }
        Ok(())
    }

    fn funding_wanted(
        &self,
        user_channel_id: u128,
        temporary: ChannelId,
        script: ScriptBuf,
        capacity: Amount,
    ) {
        let mut books = self.books();
        let Some(channel) = books.by_user_channel_id(user_channel_id) else { return };
        books.temporary.insert(channel, temporary);
        let device = books.channels.get(&channel).map(|record| record.device);
        let order = books.opening_orders.get(&channel).copied();
        drop(books);
        if let (Some(device), Some(order)) = (device, order) {
            let channel = ChannelKeysId(channel);
            self.report(device, order, Report::FundingWanted { channel, script, capacity });
        }
    }

    fn closed(&self, user_channel_id: u128, reason: &ClosureReason) -> Result<(), ShelfError> {
        let Some(channel) = self.books().by_user_channel_id(user_channel_id) else { return Ok(()) };
        tracing::info!(%reason, "a channel is closed");
        let is_together = matches!(
            reason,
            ClosureReason::LocallyInitiatedCooperativeClosure
                | ClosureReason::CounterpartyInitiatedCooperativeClosure
        );
        let (device, order) = {
            let mut books = self.books();
            let device = books.channels.get(&channel).map(|record| record.device);
            let opening = books.opening_orders.remove(&channel);
            (device, books.closing_orders.remove(&channel).or(opening))
        };
        let desk = self.desk(&channel);
        let closing = |desk: &Arc<Desk>| {
            desk.closing().map(|closing| closing.compute_txid()).or_else(|| desk.last_closing())
        };
        let txid = desk.as_ref().and_then(closing);
        let is_in_chain = matches!(reason, ClosureReason::CommitmentTxConfirmed);
        let (terms, was_used) = {
            let books = self.books();
            let terms = books.channels.get(&channel).and_then(ChannelRecord::terms);
            let newest = books.ledgers.get(&channel).and_then(|ledger| ledger.newest(Side::Bridge));
            (terms, newest.is_some_and(|newest| newest.number > CommitmentNumber::FIRST))
        };
        if let (Some(desk), Some(terms)) = (desk, terms) {
            if !is_in_chain && !is_together {
                desk.close_alone();
            }
            // The bridge has closed, or still may: also with a state that it had revoked, before the closing of both sides is in a block. That
            // block may be here before LDK has seen it, and then the funding is gone already. Only a channel that was never used, and whose funding
            // nobody knows, is not looked for: that would be a year of blocks.
            let is_funded = || !matches!(self.chain.output(&terms.funding), Ok(OutputStatus::Absent));
            if is_in_chain || was_used || is_funded() {
                desk.end(terms)?;
            }
        }
        self.set_stage(channel, |stage| {
            *stage = match stage {
                // The bridge refused. The keys signed nothing, and the device was not told of it: they can be had for another channel.
                Stage::Opening { .. } => Stage::Ready,
                Stage::Ready | Stage::Agreed { .. } | Stage::Over(_) => Stage::Over(reason.to_string()),
            };
        })?;
        if let (Some(device), Some(order)) = (device, order) {
            let report = match txid.filter(|_| is_together) {
                Some(txid) => Report::Closed(txid),
                None => Report::Refused { why: reason.to_string() },
            };
            self.report(device, order, report);
        }
        Ok(())
    }

    /// LDK sends a transaction. A closing of both sides it sends once, and forgets the channel.
    fn sent(&self, transaction: &Transaction) {
        let [input] = &transaction.input[..] else { return };
        let is_it = |desk: &Desk, record: &ChannelRecord| {
            let terms = record.terms().or_else(|| desk.ended());
            terms.is_some_and(|terms| terms.funding == input.previous_output)
        };
        let desk = {
            let books = self.books();
            let mut all = books.channels.iter();
            all.find_map(|(channel, record)| self.desk(channel).filter(|desk| is_it(desk, record)))
        };
        if let Some(desk) = desk
            && let Err(error) = desk.keep_closing(transaction)
        {
            tracing::error!(%error, "a closing is not stored, and not sent again after a restart");
        }
    }

    /// From now on closings that LDK sends are stored; those that are, are sent again.
    pub(crate) fn send_closings(self: &Arc<Self>) {
        let this = Arc::downgrade(self);
        self.node.broadcaster.on_send(move |transaction| {
            if let Some(gateway) = this.upgrade() {
                gateway.sent(transaction);
            }
        });
        let channels: Vec<[u8; 32]> = self.books().channels.keys().copied().collect();
        let desks = channels.iter().filter_map(|channel| self.desk(channel));
        for closing in desks.filter_map(|desk| desk.closing()) {
            self.node.broadcaster.keep(&closing);
        }
    }

    fn settle(&self, hash: PaymentHash, outcome: Outcome) -> Result<(), ShelfError> {
        let mut books = self.books();
        let Some(before) = books.payments.get(&hash) else { return Ok(()) };
        let record = PaymentRecord { outcome: outcome.clone(), ..before.clone() };
        let device = books.channels.get(&record.channel).map(|channel| channel.device);
        let counted = device.map(|device| self.counted(device, &record)).transpose()?.unwrap_or_default();
        self.payment_shelf.put_first_with(&hash.0, "record", &record, counted)?;
        books.note(record);
        if let Err(error) = self.forget_old_payments(&mut books) {
            // The end is stored. Were it told again, that could be taken for the end of another attempt.
            tracing::warn!(%error, "old payments are kept until the next one ends");
        }
        books.under_way.remove(&hash);
        let order = books.payment_orders.remove(&hash);
        drop(books);
        if let (Some(device), Some(order)) = (device, order) {
            self.report(device, order, crate::payments::report(hash, &outcome));
        }
        Ok(())
    }
}
