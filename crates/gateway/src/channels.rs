//! A channel from its keys to its closing, as LDK and the device ask for it.

use std::collections::HashSet;
use std::sync::Arc;

use bitcoin::{Amount, FeeRate, OutPoint};
use farthing_node::entropy;
use farthing_protocol::device::Policy;
use farthing_protocol::device::bolt3::{Basepoints, PartyTerms};
use farthing_protocol::device::wire::OpenTerms;
use farthing_threshold::{Gateway as GatewaySide, Share};
use lightning::chain::transaction::OutPoint as LdkOutPoint;
use lightning::ln::chan_utils::ChannelTransactionParameters;
use lightning::ln::channel_state::ChannelDetails;
use lightning::util::errors::APIError;

use crate::gateway::Gateway;
use crate::ldk::fees::OpenChannel;
use crate::records::{ChannelKeys, ChannelRecord, Stage};
use crate::shelf::ShelfError;
use crate::signer::desk::Desk;

/// LDK's dust limit for its own side.
const DUST_LIMIT: Amount = Amount::from_sat(354);

/// Why an order was not carried out. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// No key is ready yet.
    #[error("no key is ready for a new channel yet: try again in a moment")]
    NoKey,
    /// Not this device's, or not in the right stage.
    #[error(
        "the gateway has no such channel, or not in this stage: if its opening was interrupted, open another"
    )]
    NoSuchChannel,
    /// A device that opens and never funds would fill the gateway's disk.
    #[error(
        "{0} channels of this device wait for their fundings: nothing more is opened until one of those is in a block"
    )]
    Unfunded(usize),
    /// The channel is busy, or its bridge is away.
    #[error("the Lightning node cannot do that at the moment: {0}")]
    NotNow(String),
    /// The Lightning node.
    #[error("the Lightning node refused: {0}")]
    Lightning(String),
    /// Storage.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

/// Why keys were not kept.
#[derive(Debug)]
pub(crate) enum AddKeysError {
    /// Storage.
    Shelf(ShelfError),
    /// By that name there are other keys.
    Known,
}

impl From<ShelfError> for AddKeysError {
    fn from(error: ShelfError) -> Self {
        Self::Shelf(error)
    }
}

impl Gateway {
    /// Keeps keys ready for a channel of that device. Nothing of keys that are known by this name already, whosever they are, is touched:
    /// a device chooses the name.
    pub(crate) fn add_keys(
        &self,
        device: [u8; 32],
        keys: ChannelKeys,
        share: Share<GatewaySide>,
    ) -> Result<(), AddKeysError> {
        let channel = keys.channel;
        let mut books = self.books();
        if books.channels.contains_key(&channel) {
            return Err(AddKeysError::Known);
        }
        let record = ChannelRecord { device, keys: keys.clone(), stage: Stage::Ready };
        self.channel_shelf.put(&channel, "share", &share.to_bytes())?;
        self.channel_shelf.put_first(&channel, "record", &record)?;
        if let Some(known) = books.devices.get(&device) {
            let mut known = known.clone();
            known.channels.push(channel);
            self.save_device(device, &known)?;
            books.devices.insert(device, known);
        }
        let bell = books.bell(device);
        self.provider.add(keys, Desk::open(channel, self.channel_shelf.clone(), bell)?);
        books.shares.insert(channel, Arc::new(share));
        books.channels.insert(channel, record);
        Ok(())
    }

    /// Removes keys that were kept ready, and that their device does not have any more: no channel ever had them, and they signed nothing.
    pub(crate) fn remove_keys(&self, device: [u8; 32], channel: [u8; 32]) -> Result<(), ShelfError> {
        let mut books = self.books();
        let is_it = |record: &ChannelRecord| record.device == device && record.stage == Stage::Ready;
        let is_banned = self.bans.of(&channel).is_some();
        let known = books.devices.get(&device).cloned();
        let Some(mut known) = known.filter(|_| !is_banned && books.channels.get(&channel).is_some_and(is_it))
        else {
            return Ok(());
        };
        known.channels.retain(|other| *other != channel);
        let devices = self.device_shelf.change(&device, "record", &known);
        self.channel_shelf.remove(&channel, &["record", "share", "points"], vec![devices])?;
        self.provider.remove(&channel);
        books.devices.insert(device, known);
        books.channels.remove(&channel);
        books.shares.remove(&channel);
        Ok(())
    }

    /// Asks the bridge for a channel.
    pub(crate) fn open_channel(
        &self,
        device: [u8; 32],
        capacity: Amount,
        order: u64,
    ) -> Result<(), OrderError> {
        let unfunded = self.unfunded(device);
        if unfunded >= self.settings.limits.unfunded {
            return Err(OrderError::Unfunded(unfunded));
        }
        let bridge = self.settings.bridge;
        let user_channel_id = u128::from_be_bytes(entropy::bytes());
        let keys = {
            let mut books = self.books();
            let ready = |record: &&mut ChannelRecord| {
                let points = self.desk(&record.keys.channel).map_or(0, |desk| desk.points_left().1);
                record.device == device && record.stage == Stage::Ready && points > 1
            };
            let record = books.channels.values_mut().find(ready).ok_or(OrderError::NoKey)?;
            record.stage = Stage::Opening { user_channel_id, bridge, capacity };
            self.save_channel(record)?;
            let keys = record.keys.clone();
            books.opening_orders.insert(keys.channel, order);
            keys
        };
        let created = self.provider.reserve(user_channel_id, &keys, || {
            self.node.channels.create_channel(bridge, capacity.to_sat(), 0, user_channel_id, None, None)
        });
        if let Err(error) = created {
            // LDK forgot it; the keys were shown to nobody.
            self.set_stage(keys.channel, |stage| *stage = Stage::Ready)?;
            return Err(OrderError::Lightning(format!("{error:?}")));
        }
        self.node.peers.process_events();
        Ok(())
    }

    /// How many channels of a device have no funding in a block yet.
    fn unfunded(&self, device: [u8; 32]) -> usize {
        let all = self.node.channels.list_channels().into_iter();
        let unfunded: HashSet<u128> = all
            .filter(|details| details.confirmations.unwrap_or_default() == 0)
            .map(|details| details.user_channel_id)
            .collect();
        let books = self.books();
        let is_one = |record: &&ChannelRecord| {
            record.device == device && record.user_channel_id().is_some_and(|id| unfunded.contains(&id))
        };
        books.channels.values().filter(is_one).count()
    }

    pub(crate) fn set_stage(
        &self,
        channel: [u8; 32],
        change: impl FnOnce(&mut Stage),
    ) -> Result<(), ShelfError> {
        let mut books = self.books();
        if let Some(record) = books.channels.get_mut(&channel) {
            change(&mut record.stage);
            let record = record.clone();
            self.save_channel(&record)?;
            books.bell(record.device).notify_one();
        }
        Ok(())
    }

    /// The owner's wallet has the funding output.
    pub(crate) fn funding(
        &self,
        device: [u8; 32],
        channel: [u8; 32],
        outpoint: OutPoint,
    ) -> Result<(), OrderError> {
        let (temporary, bridge) = {
            let books = self.books();
            let record = books.channels.get(&channel).filter(|record| record.device == device);
            match record.map(|record| &record.stage) {
                Some(Stage::Opening { bridge, .. }) => {
                    (*books.temporary.get(&channel).ok_or(OrderError::NoSuchChannel)?, *bridge)
                }
                // It came again.
                Some(Stage::Agreed { .. }) => return Ok(()),
                Some(Stage::Ready | Stage::Over(_)) | None => return Err(OrderError::NoSuchChannel),
            }
        };
        let index = u16::try_from(outpoint.vout).map_err(|_| OrderError::NoSuchChannel)?;
        let funding = LdkOutPoint { txid: outpoint.txid, index };
        let given =
            self.node.channels.unsafe_manual_funding_transaction_generated(temporary, bridge, funding);
        given.map_err(|error| OrderError::Lightning(format!("{error:?}")))?;
        self.node.peers.process_events();
        Ok(())
    }

    /// Closes together with the bridge.
    pub(crate) fn close(&self, device: [u8; 32], channel: [u8; 32], order: u64) -> Result<(), OrderError> {
        let is_its = self.books().channels.get(&channel).is_some_and(|record| record.device == device);
        let details = self.details(channel).filter(|_| is_its).ok_or(OrderError::NoSuchChannel)?;
        self.books().closing_orders.insert(channel, order);
        let closing = self.node.channels.close_channel(&details.channel_id, &details.counterparty.node_id);
        closing.map_err(|error| match error {
            // A state is being stored, or the bridge is not connected.
            APIError::ChannelUnavailable { err } => OrderError::NotNow(err),
            other => OrderError::Lightning(format!("{other:?}")),
        })?;
        self.node.peers.process_events();
        Ok(())
    }

    /// LDK's view of a channel.
    pub fn details(&self, channel: [u8; 32]) -> Option<ChannelDetails> {
        let user_channel_id = self.books().channels.get(&channel)?.user_channel_id()?;
        let mut all = self.node.channels.list_channels().into_iter();
        all.find(|details| details.user_channel_id == user_channel_id)
    }

    /// Sets the fee rate of commitments, before LDK proposes one.
    pub(crate) fn keep_fee_rate(&self) {
        let open = self.node.channels.list_channels().into_iter().filter_map(|details| {
            let rate = FeeRate::from_sat_per_kwu(u64::from(details.feerate_sat_per_1000_weight?));
            let device = {
                let books = self.books();
                books.channels.get(&books.by_user_channel_id(details.user_channel_id)?)?.device
            };
            let Policy { least_fee_rate: least, most_fee_rate: most, .. } = self.policy(device)?;
            Some(OpenChannel { rate, least, most })
        });
        let (wanted, rate) =
            (self.settings.commitment_fee_rate, self.node.fees.keep(&open.collect::<Vec<_>>()));
        if rate != wanted {
            let (rate, wanted) = (rate.to_sat_per_kwu(), wanted.to_sat_per_kwu());
            tracing::warn!(
                rate,
                wanted,
                "commitments keep their fee rate (sat/kw): the owner of a device with an open channel does not allow the one that is wanted"
            );
        }
    }

    /// LDK shows the terms when it wants the bridge's first commitment signed.
    pub(crate) fn agreed(&self, channel: [u8; 32], parameters: &ChannelTransactionParameters) {
        let (Some(theirs), Some(funding)) =
            (&parameters.counterparty_parameters, parameters.funding_outpoint)
        else {
            return;
        };
        let keys = &theirs.pubkeys;
        let mut books = self.books();
        let Some(record) = books.channels.get_mut(&channel) else { return };
        let Stage::Opening { user_channel_id, bridge, capacity } = record.stage else { return };
        let Some(accepted) = self.node.ear.accepted(&keys.funding_pubkey) else {
            tracing::error!("the bridge's terms of a channel were not heard");
            return;
        };
        let terms = OpenTerms {
            funding: OutPoint { txid: funding.txid, vout: u32::from(funding.index) },
            capacity,
            holder_dust_limit: DUST_LIMIT,
            holder_delay: theirs.selected_contest_delay,
            bridge: PartyTerms {
                funding_key: keys.funding_pubkey,
                basepoints: Basepoints {
                    payment: keys.payment_point,
                    delayed_payment: keys.delayed_payment_basepoint.to_public_key(),
                    htlc: keys.htlc_basepoint.to_public_key(),
                    revocation: keys.revocation_basepoint.to_public_key(),
                },
                dust_limit: accepted.dust_limit,
                delay: parameters.holder_selected_contest_delay,
            },
            reserve: accepted.reserve,
        };
        record.stage = Stage::Agreed { user_channel_id, bridge, terms, is_signed: false, is_funded: false };
        if let Err(error) = self.save_channel(record) {
            tracing::error!(%error, "a channel's terms were not stored");
        }
    }
}
