//! Payments that devices order. Each goes out through the channel of the device that ordered it, in one part.

use std::collections::HashSet;
use std::str::FromStr as _;

use farthing_node::cabinet::Change;
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::PaymentHash;
use farthing_protocol::device::payments::{Payments, Source};
use farthing_protocol::device::wire::Report;
use farthing_protocol::device::{Invoice, Policy, Reject, Tip};
use lightning::bolt11_invoice::Bolt11Invoice;
use lightning::ln::channel_state::ChannelDetails;
use lightning::ln::channelmanager::{
    PaymentId, RecentPaymentDetails, RecipientOnionFields, RetryableSendFailure,
};
use lightning::routing::router::{PaymentParameters, Route, RouteParameters, Router as _};
use lightning::types::payment::PaymentHash as LdkPaymentHash;

use crate::books::Books;
use crate::gateway::{Gateway, now};
use crate::records::{ChannelRecord, Outcome, PaymentRecord, Stage};
use crate::service::Through;
use crate::shelf::ShelfError;
use crate::spending;

/// How many blocks a device may lag behind the gateway.
const BLOCKS_BEHIND: u32 = 6;
/// How many HTLCs a bridge may offer in a device's channel, which are refused, but stand in its commitments until then. As few as LND
/// accepts for a limit.
pub(crate) const MOST_INBOUND: u16 = 5;

/// Why a payment was not made. Nothing is under way for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayError {
    /// Not BOLT 11.
    #[error("not a valid invoice: {0}")]
    Invoice(String),
    /// Nothing says how much.
    #[error("the invoice names no amount")]
    NoAmount,
    /// It ran out.
    #[error("the invoice has expired")]
    Expired,
    /// Its proof of payment, and the news of it, belong to whoever ordered it.
    #[error("another device pays this invoice, or has paid it")]
    Others,
    /// None of this device's, or it is over.
    #[error("this device has no such channel open here")]
    NoChannel,
    /// The channel cannot be used now.
    #[error("the channel cannot be used now")]
    NotUsable,
    /// With those under way it would be more than the owner's policy allows at once. Those have to end first.
    #[error(
        "{under_way} payments of this device are under way: with this one it would be more than its owner allows at once"
    )]
    Busy {
        /// How many.
        under_way: usize,
    },
    /// The owner's policy forbids it.
    #[error("the owner's policy forbids it: {0}")]
    Policy(String),
    /// There is no way to the payee.
    #[error("no route: {0}")]
    NoRoute(String),
    /// The Lightning node refused.
    #[error("not sent: {0}")]
    NotSent(String),
    /// Storage.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

/// What a device is told of a payment's end.
pub(crate) fn report(payment_hash: PaymentHash, outcome: &Outcome) -> Report {
    match outcome {
        Outcome::Pending => Report::Paying(payment_hash),
        Outcome::Paid { preimage, fee } => Report::Paid { preimage: *preimage, fee: *fee },
        Outcome::Failed(why) => Report::Failed { payment_hash, why: why.clone() },
    }
}

/// For how many blocks a payment may be stuck. The device may have fewer blocks than the gateway, and checks by those.
pub(crate) fn most_expiry_delta(policy: &Policy) -> u32 {
    policy.most_expiry_delta.saturating_sub(BLOCKS_BEHIND)
}

/// Whether the device will sign for one more HTLC. What LDK has been given it cannot take back, so a refusal would stop the channel.
fn has_room(details: &ChannelDetails, route: &Route, policy: &Policy) -> Result<(), PayError> {
    let ours = &details.pending_outbound_htlcs;
    let most = usize::from(policy.most_htlcs.saturating_sub(MOST_INBOUND).max(1));
    let value = route.get_total_amount().saturating_add(route.get_total_fees());
    let value = ours.iter().fold(value, |sum, htlc| sum.saturating_add(htlc.amount_msat));
    if ours.len() < most && Msat::new(value) <= policy.in_flight {
        return Ok(());
    }
    Err(PayError::Busy { under_way: ours.len() })
}

fn hash_of(invoice: &Bolt11Invoice) -> PaymentHash {
    PaymentHash(*AsRef::<[u8; 32]>::as_ref(invoice.payment_hash()))
}

/// LDK makes a payment once.
fn unless_duplicate(error: RetryableSendFailure) -> Result<(), RetryableSendFailure> {
    if matches!(error, RetryableSendFailure::DuplicatePayment) { Ok(()) } else { Err(error) }
}

impl Gateway {
    /// Pays an invoice from a device's channel. What becomes of it is reported later. An order that comes again is answered with
    /// what became of the first.
    pub(crate) fn pay(
        &self,
        device: [u8; 32],
        channel: [u8; 32],
        text: &str,
        order: u64,
    ) -> Result<Report, PayError> {
        let invoice = Bolt11Invoice::from_str(text).map_err(|error| PayError::Invoice(error.to_string()))?;
        let hash = hash_of(&invoice);
        let paying = self.begin(device, channel, text, &invoice, order);
        // The device gives a payment up that it hears has failed. The same order may have come on a connection before, and be under way since.
        paying.or_else(|error| self.known(device, hash, order).ok().flatten().ok_or(error))
    }

    fn begin(
        &self,
        device: [u8; 32],
        channel: [u8; 32],
        text: &str,
        invoice: &Bolt11Invoice,
        order: u64,
    ) -> Result<Report, PayError> {
        let hash = hash_of(invoice);
        let amount = Msat::new(invoice.amount_milli_satoshis().ok_or(PayError::NoAmount)?);
        if let Some(known) = self.known(device, hash, order)? {
            return Ok(known);
        }
        let expires_at = invoice.duration_since_epoch().saturating_add(invoice.expiry_time()).as_secs();
        if expires_at <= now() {
            return Err(PayError::Expired);
        }
        let is_its =
            |record: &ChannelRecord| record.device == device && !matches!(record.stage, Stage::Over(_));
        if !self.books().channels.get(&channel).is_some_and(is_its) {
            return Err(PayError::NoChannel);
        }
        let details = self.details(channel).filter(|details| details.is_usable);
        let details = details.ok_or(PayError::NotUsable)?;
        let policy = self.policy(device).ok_or_else(|| PayError::Policy("there is none".into()))?;
        // Before a way is looked for, which takes longer; it is stored when there is one.
        let tip = self.tip();
        self.approved(&self.books(), device, &policy, text, tip)?;

        let mut record = PaymentRecord {
            channel,
            payment_hash: hash,
            amount,
            ordered_at: now(),
            service_due: Msat::ZERO,
            arrears: Msat::ZERO,
            outcome: Outcome::Pending,
        };
        let owed = self.books().arrears.of(&device);
        let operator = self.operator();
        let through =
            operator.and_then(|operator| self.through(&operator.node, &details, invoice, &policy, owed));
        let route = match through {
            Some(Through { route, arrears }) => {
                record.arrears = arrears;
                route
            }
            None => {
                if operator.is_some() {
                    tracing::info!("no route through the ordinary node: the service fee is owed");
                    record.service_due = self.service_fee(amount);
                }
                self.direct(&details, invoice, amount, &policy)?
            }
        };
        has_room(&details, &route, &policy)?;
        {
            let tip = self.tip();
            let mut books = self.books();
            // Another device may have ordered it while a way was looked for.
            let others =
                books.payments.get(&hash).filter(|other| !matches!(other.outcome, Outcome::Failed(_)));
            let payer =
                others.and_then(|other| books.channels.get(&other.channel)).map(|channel| channel.device);
            if payer.is_some_and(|payer| payer != device) {
                return Err(PayError::Others);
            }
            // The same books about a device as the device keeps, under the gateway's own copy of the owner's policy: a thief who has the
            // device, and changed its program, gets no more than that.
            let payments = self.approved(&books, device, &policy, text, tip)?;
            let allowed = self.spent(&device, &payments);
            self.payment_shelf.put_first_with(&hash.0, "record", &record, allowed)?;
            books.note(record.clone());
            books.payment_orders.insert(hash, order);
            books.under_way.insert(hash);
        }
        let mut onion = RecipientOnionFields::secret_only(*invoice.payment_secret());
        onion.payment_metadata = invoice.payment_metadata().cloned();
        let channels = &self.node.channels;
        let sent = channels.send_payment_with_route(route, LdkPaymentHash(hash.0), onion, PaymentId(hash.0));
        // Two connections of the device ordered it at once: the first order stands.
        if let Err(error) = sent.or_else(unless_duplicate) {
            let why = format!("{error:?}");
            let record = PaymentRecord { outcome: Outcome::Failed(why.clone()), ..record };
            let mut books = self.books();
            // Before it is stored, which may fail: then it is tried again when it is ordered again.
            books.under_way.remove(&hash);
            let counted = self.counted(device, &record)?;
            self.payment_shelf.put_first_with(&hash.0, "record", &record, counted)?;
            books.note(record);
            books.payment_orders.remove(&hash);
            self.forget_old_payments(&mut books)?;
            return Err(PayError::NotSent(why));
        }
        self.node.peers.process_events();
        Ok(Report::Paying(hash))
    }

    /// Whether the same order may be carried out a little later.
    pub(crate) fn may_pass(&self, error: &PayError) -> bool {
        match error {
            PayError::NotUsable | PayError::Busy { .. } => true,
            // The map may be incomplete.
            PayError::NoRoute(_) => self.node.is_new(),
            PayError::Invoice(_)
            | PayError::NoAmount
            | PayError::Expired
            | PayError::Others
            | PayError::NoChannel
            | PayError::Policy(_)
            | PayError::NotSent(_)
            | PayError::Shelf(_) => false,
        }
    }

    /// The cheapest route, through whomever.
    fn direct(
        &self,
        first: &ChannelDetails,
        invoice: &Bolt11Invoice,
        amount: Msat,
        policy: &Policy,
    ) -> Result<Route, PayError> {
        let parameters = PaymentParameters::from_bolt11_invoice(invoice)
            .with_max_path_count(1)
            .with_max_total_cltv_expiry_delta(most_expiry_delta(policy));
        let mut wanted = RouteParameters::from_payment_params_and_value(parameters, amount.get());
        wanted.max_total_routing_fee_msat = Some(policy.most_routing_fee(amount).get());
        let in_flight = self.node.channels.compute_inflight_htlcs();
        let route = self.node.router.find_route(&self.node.id(), &wanted, Some(&[first]), in_flight);
        route.map_err(|why| PayError::NoRoute(why.to_owned()))
    }

    /// What is known of a payment that was ordered before; `None` for one that failed, which may be tried again.
    fn known(&self, device: [u8; 32], hash: PaymentHash, order: u64) -> Result<Option<Report>, PayError> {
        let (outcome, is_its, is_under_way) = {
            let books = self.books();
            let Some(record) = books.payments.get(&hash) else { return Ok(None) };
            let payer = books.channels.get(&record.channel).map(|channel| channel.device);
            (record.outcome.clone(), payer == Some(device), books.under_way.contains(&hash))
        };
        if !is_its && (is_under_way || !matches!(outcome, Outcome::Failed(_))) {
            return Err(PayError::Others);
        }
        Ok(match outcome {
            // It is stored before LDK has it: after a crash in between it is not under way.
            Outcome::Pending | Outcome::Failed(_) if !is_under_way => None,
            // LDK has still to tell its end, which must not be taken for that of another attempt.
            Outcome::Pending | Outcome::Failed(_) => {
                self.books().payment_orders.insert(hash, order);
                Some(report(hash, &Outcome::Pending))
            }
            Outcome::Paid { .. } => Some(report(hash, &outcome)),
        })
    }

    /// What LDK has under way.
    pub(crate) fn payments_of_ldk(&self) -> HashSet<PaymentHash> {
        let id = |payment| match payment {
            RecentPaymentDetails::AwaitingInvoice { payment_id }
            | RecentPaymentDetails::Pending { payment_id, .. }
            | RecentPaymentDetails::Fulfilled { payment_id, .. }
            | RecentPaymentDetails::Abandoned { payment_id, .. } => PaymentHash(payment_id.0),
        };
        self.node.channels.list_recent_payments().into_iter().map(id).collect()
    }

    /// Not to be asked for by whoever holds the books: LDK holds its newest block while it asks for a signature, which takes the books.
    fn tip(&self) -> Tip {
        Tip { height: self.node.channels.current_best_block().height, time: now() }
    }

    /// What is to be stored when a payment is allowed.
    fn approved(
        &self,
        books: &Books,
        device: [u8; 32],
        policy: &Policy,
        invoice: &str,
        tip: Tip,
    ) -> Result<Payments, PayError> {
        let forbidden = |reject: Reject| PayError::Policy(reject.to_string());
        let invoice = Invoice::parse(invoice, self.chain.network())
            .map_err(|error| PayError::Invoice(error.to_string()))?;
        let mut payments = spending::read(&self.device_shelf, &device)?;
        // This one is not under way yet: whatever was allowed for it before, it is asked about anew.
        let own = invoice.payment_hash();
        let is_live = |hash: &PaymentHash| {
            let record = books.payments.get(hash).filter(|_| *hash != own);
            record.is_some_and(|record| record.outcome == Outcome::Pending)
        };
        payments.approve(policy, &invoice, Source::Direct, tip, is_live).map_err(forbidden)?;
        Ok(payments)
    }

    /// What is to be stored when a payment is over: it counts for what it cost, and no more if it failed. For who holds the books, and goes
    /// on holding them.
    pub(crate) fn counted(
        &self,
        device: [u8; 32],
        record: &PaymentRecord,
    ) -> Result<Vec<Change>, ShelfError> {
        let mut payments = spending::read(&self.device_shelf, &device)?;
        spending::end(&mut payments, record);
        Ok(self.spent(&device, &payments))
    }

    fn spent(&self, device: &[u8; 32], payments: &Payments) -> Vec<Change> {
        let shelf = &self.device_shelf;
        vec![shelf.change(device, spending::NAME, payments), shelf.absence(device, spending::FORMER)]
    }

    /// The owner's policy for a device, as the gateway enforces it.
    pub(crate) fn policy(&self, device: [u8; 32]) -> Option<Policy> {
        let books = self.books();
        let enrol = &books.devices.get(&device)?.enrol;
        enrol.policy.clone().verify(&enrol.owner)
    }
}
