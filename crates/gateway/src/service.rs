//! The service fee: payments of devices go through the operator's ordinary node, behind the bridge, which asks for it as any node asks
//! for forwarding. So it is paid exactly when the payment is, and nobody patches anything.
//!
//! ```text
//!   device's channel ── bridge ── … ── ordinary node ── … ── payee
//!   └──────── first leg ──────────────┘└──── second leg ────┘
//! ```
//!
//! A router would go round a node that asks for much. So the second leg is found first, from the ordinary node; then the first, with
//! what the second one costs and the fee.
//!
//! A payment that finds no such way goes without the fee, and once it has arrived its device owes it ([`crate::arrears`]): the next payment that
//! finds one carries it, as far as what the owner allows for routing leaves room. An owner never pays more than the policy says; one whose
//! policy allows less than the fee never pays it, and the gateway serves that device for nothing. A device does not enrol with such a
//! policy by itself (`farthing device enroll`).

use lightning::bolt11_invoice::Bolt11Invoice;
use lightning::ln::channel_state::ChannelDetails;
use lightning::routing::router::{
    Path, PaymentParameters, Route, RouteHint, RouteHintHop, RouteParameters, Router as _,
};
use lightning::types::routing::RoutingFees;

use farthing_protocol::Msat;
use farthing_protocol::device::Policy;

use crate::gateway::{Gateway, Settings};
use crate::ordinary::Ordinary;
use crate::payments::most_expiry_delta;

/// A way through the ordinary node.
pub(crate) struct Through {
    pub route: Route,
    /// What it carries of what the device owes.
    pub arrears: Msat,
}

/// The two legs, and what is asked for between them.
struct Legs<'a> {
    ordinary: &'a Ordinary,
    first: &'a ChannelDetails,
    second: Path,
    /// What the ordinary node asks for.
    fee: u64,
    delta: u16,
}

impl Gateway {
    /// What a device owes for payments that arrived without the service fee.
    pub fn owed(&self, device: &[u8; 32]) -> Msat {
        self.books().arrears.of(device)
    }

    /// What the service costs for a payment that cannot go through the ordinary node.
    pub(crate) fn service_fee(&self, amount: Msat) -> Msat {
        let Settings { fee_ppm, fee_base, .. } = &self.settings;
        let proportional = u128::from(amount.get()) * u128::from(*fee_ppm) / 1_000_000;
        fee_base.saturating_add(Msat::new(u64::try_from(proportional).unwrap_or(u64::MAX)))
    }

    /// A route through the ordinary node, within what the owner's policy allows for fees and time, with as much of what is owed as that
    /// leaves room for. `None` when there is none: it has no channels towards the payee or from the bridge, or the payee is on the way
    /// to it.
    pub(crate) fn through(
        &self,
        ordinary: &Ordinary,
        first: &ChannelDetails,
        invoice: &Bolt11Invoice,
        policy: &Policy,
        owed: Msat,
    ) -> Option<Through> {
        let amount = Msat::new(invoice.amount_milli_satoshis()?);
        let most_delta = most_expiry_delta(policy);
        let node = &ordinary.node;
        let payee = PaymentParameters::from_bolt11_invoice(invoice)
            .with_max_path_count(1)
            .with_max_total_cltv_expiry_delta(most_delta);
        let wanted = RouteParameters::from_payment_params_and_value(payee, amount.get());
        let usable = node.channels.list_usable_channels();
        let usable: Vec<&ChannelDetails> = usable.iter().collect();
        let in_flight = node.channels.compute_inflight_htlcs();
        let second = node.router.find_route(&node.id(), &wanted, Some(&usable), in_flight).ok()?;
        let second = second.paths.into_iter().next()?;
        let outgoing = second.hops.first()?.short_channel_id;
        let is_outgoing = |details: &&&ChannelDetails| details.get_outbound_payment_scid() == Some(outgoing);
        let terms = usable.iter().find(is_outgoing)?.config?;

        let forwarded: u64 = second.hops.iter().map(|hop| hop.fee_msat).sum();
        let proportional = u128::from(forwarded) * u128::from(terms.forwarding_fee_proportional_millionths);
        let fee = u64::from(terms.forwarding_fee_base_msat)
            + u64::try_from(proportional.div_ceil(1_000_000)).ok()?;
        let legs = Legs { ordinary, first, second, fee, delta: terms.cltv_expiry_delta };

        let most = policy.most_routing_fee(amount);
        let (plain, fees) = self.join(&legs, Msat::ZERO, most_delta)?;
        let room = most.checked_sub(fees)?;
        // A tenth for what the nodes before the ordinary one ask for carrying more.
        let arrears = owed.min(Msat::new(room.get() - room.get().div_ceil(10)));
        if arrears > Msat::ZERO
            && let Some((route, fees)) = self.join(&legs, arrears, most_delta)
            && fees <= most
        {
            return Some(Through { route, arrears });
        }
        Some(Through { route: plain, arrears: Msat::ZERO })
    }

    /// Both legs as one route, and what all of it costs.
    fn join(&self, legs: &Legs<'_>, arrears: Msat, most_delta: u32) -> Option<(Route, Msat)> {
        let Legs { ordinary, first, second, fee, delta } = legs;
        let node = &ordinary.node;
        let fee = fee.checked_add(arrears.get())?;
        let forwarded: u64 = second.hops.iter().map(|hop| hop.fee_msat).sum();
        let here = PaymentParameters::from_node_id(node.id(), u32::from(*delta))
            .with_route_hints(hints(ordinary))
            .ok()?
            .with_max_path_count(1)
            .with_max_total_cltv_expiry_delta(most_delta);
        let wanted = RouteParameters::from_payment_params_and_value(here, forwarded.checked_add(fee)?);
        let in_flight = self.node.channels.compute_inflight_htlcs();
        let route = self.node.router.find_route(&self.node.id(), &wanted, Some(&[*first]), in_flight).ok()?;
        let mut hops = route.paths.into_iter().next()?.hops;
        // The payee may not be passed on the way.
        if hops.iter().any(|hop| second.hops.iter().any(|later| later.pubkey == hop.pubkey)) {
            return None;
        }
        hops.last_mut()?.fee_msat = fee;
        hops.extend(second.hops.iter().cloned());

        let fees: u64 = hops.iter().rev().skip(1).map(|hop| hop.fee_msat).sum();
        let delta: u32 = hops.iter().map(|hop| hop.cltv_expiry_delta).sum();
        let path = Path { hops, blinded_tail: None };
        (delta <= most_delta).then(|| (Route { paths: vec![path], route_params: None }, Msat::new(fees)))
    }
}

/// How the ordinary node is found: what its peers ask for forwarding to it, by their own word. It was told when they connected, and the map
/// of the network may not have it yet.
fn hints(ordinary: &Ordinary) -> Vec<RouteHint> {
    let channels = ordinary.node.channels.list_usable_channels();
    let hints = channels.into_iter().filter_map(|details| {
        // The map's own name of a public channel, so that what payments taught of it counts.
        let public = details.short_channel_id.filter(|_| details.is_announced);
        let short_channel_id = public.or_else(|| details.get_inbound_payment_scid())?;
        let asked = details.counterparty.forwarding_info?;
        Some(RouteHint(vec![RouteHintHop {
            src_node_id: details.counterparty.node_id,
            short_channel_id,
            fees: RoutingFees {
                base_msat: asked.fee_base_msat,
                proportional_millionths: asked.fee_proportional_millionths,
            },
            cltv_expiry_delta: asked.cltv_expiry_delta,
            htlc_minimum_msat: details.inbound_htlc_minimum_msat,
            htlc_maximum_msat: details.inbound_htlc_maximum_msat,
        }]))
    });
    hints.collect()
}
