//! Runs LNGate's device: `protocol::device` with a disk, a link to the gateway, and the engine of joint signatures.
//!
//! | part | does |
//! |---|---|
//! | [`home`] | the device's folder: its secret, its database, a lock |
//! | [`store`] | what is stored, and how it is erased |
//! | [`Device`] | the device's channels: every decision is stored before its effects are seen |
//! | [`session`] | one connection to the gateway: what it asks, joint rounds in memory, what is answered |
//! | [`connection`] | the same over a [`crate::link`] |
//! | [`fate`] | what became of a payment, by the books of all channels |
//! | [`alone`] | closings with nothing but a bitcoind |
//!
//! **Who can lose what** stands in `protocol::device::machine`. The driver adds what the machine relies on: effects come out of
//! [`farthing_protocol::Transition::commit`] only; an erased signature is in no file when the machine is told so; rounds of
//! signing are never stored; heights and times come from headers whose work was checked.

pub mod alone;
pub mod connection;
pub mod fate;
pub mod home;
pub mod session;
pub mod store;

mod card;

pub use card::{Backup, BadBackup, Card};
pub use connection::{Connection, ConnectionError};
pub use home::DeviceHome;
pub use session::{Said, Session};

use std::collections::BTreeMap;

use bitcoin::block::Header;
use farthing_protocol::Transition;
use farthing_protocol::device::bolt3::{Basepoints, CommitmentNumber, PartyTerms, Terms};
use farthing_protocol::device::headers::{BadHeader, Headers};
use farthing_protocol::device::kept::Kept;
use farthing_protocol::device::keys::DeviceSecret;
use farthing_protocol::device::setup::BadTerms;
use farthing_protocol::device::wire::{ChannelKeysId, OpenTerms, Standing};
use farthing_protocol::device::{Effect, Input, Reject, Setup, SignedPolicy, State};
use farthing_threshold::{Device as DeviceSide, Share};

use crate::crash;
use crate::device::store::{DeviceStore, Enrolled, Opened};
use crate::entropy;
use crate::link::GatewayAddress;
use crate::store::StoreError;

/// How many key generations without a channel are kept.
pub const MOST_READY: usize = 32;
/// How many channels and keys there are in all: the gateway could fill the disk with more.
pub const MOST_CHANNELS: usize = 256;

/// Why the device did not do it. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GiveError {
    /// A rule forbids it.
    #[error(transparent)]
    Rule(#[from] Reject),
    /// The terms of the channel are not acceptable.
    #[error(transparent)]
    Terms(#[from] BadTerms),
    /// There is no such channel, or it has not begun.
    #[error("channel-unknown: there is no such channel")]
    Unknown,
    /// The channel was begun with other terms.
    #[error("channel-terms-same: the channel has begun with other terms")]
    OtherTerms,
    /// Limits hold for all of the device's money, so only one channel at a time pays.
    #[error("channel-single: another channel of this device is open")]
    AnotherOpen,
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A device.
pub struct Device {
    secret: DeviceSecret,
    store: DeviceStore,
    enrolled: Enrolled,
    owner_store: Option<GatewayAddress>,
    headers: Headers,
    channels: BTreeMap<ChannelKeysId, Channel>,
}

/// A channel, or a key that is ready for one.
pub struct Channel {
    share: Share<DeviceSide>,
    life: Option<Life>,
}

/// A channel that has begun.
pub struct Life {
    terms: OpenTerms,
    setup: Setup,
    state: State,
}

impl Life {
    /// What stays the same.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }
}

impl Device {
    /// Reads the device from its store.
    ///
    /// # Errors
    /// When the store cannot be read, or holds what no device of this version wrote.
    pub fn open(secret: DeviceSecret, store: DeviceStore) -> Result<Option<Self>, StoreError> {
        let Some(enrolled) = store.enrolled()? else { return Ok(None) };
        let owner_store = store.owner_store()?.map(|address| address.parse::<GatewayAddress>()).transpose();
        let owner_store = owner_store.map_err(|error| StoreError::corrupt("owner's store", error))?;
        let mut headers = Headers::new(enrolled.enrolment.network, enrolled.checkpoint)
            .map_err(|error| StoreError::corrupt("checkpoint", error))?;
        if let Some(stored) = store.headers()? {
            headers = headers.restore(stored);
        }
        let mut channels = BTreeMap::new();
        for stored in store.channels()? {
            let share =
                Share::from_bytes(&stored.share).map_err(|error| StoreError::corrupt("share", error))?;
            let life = match stored.opened {
                None => None,
                Some(Opened { terms, state }) => {
                    let setup = setup(&secret, &enrolled, stored.id, &share, &terms)
                        .map_err(|error| StoreError::corrupt("channel's terms", error))?;
                    Some(Life { terms, setup, state })
                }
            };
            channels.insert(stored.id, Channel { share, life });
        }
        Ok(Some(Self { secret, store, enrolled, owner_store, headers, channels }))
    }

    /// Makes a device of a folder that has none yet.
    ///
    /// # Errors
    /// When it could not be stored.
    pub fn enrol(secret: DeviceSecret, store: DeviceStore, enrolled: &Enrolled) -> Result<Self, StoreError> {
        Self::enrol_with(secret, store, enrolled, None)
    }

    /// The same, for a device that waits for a store of its owner's ([`crate::owner`]), from now on and always.
    ///
    /// # Errors
    /// When it could not be stored.
    pub fn enrol_with(
        secret: DeviceSecret,
        mut store: DeviceStore,
        enrolled: &Enrolled,
        owner_store: Option<&GatewayAddress>,
    ) -> Result<Self, StoreError> {
        store.enrol(enrolled, owner_store.map(GatewayAddress::to_string).as_deref())?;
        let device = Self::open(secret, store)?;
        Ok(device.expect("it was just stored"))
    }

    /// The store of the owner's that the device waits for, if there is one.
    pub fn owner_store(&self) -> Option<&GatewayAddress> {
        self.owner_store.as_ref()
    }

    /// What that store must acknowledge before anything of this channel's goes on; `None` without such a store, and before the funding or
    /// after the end.
    pub fn to_keep(&self, id: ChannelKeysId) -> Option<Kept> {
        self.owner_store.as_ref()?;
        let life = self.channels.get(&id)?.life.as_ref()?;
        match &life.state {
            State::Opening(_) | State::Closing(_) => None,
            State::Open(_) => {
                let kept = life.state.account().to_keep(id, &life.setup.terms);
                Some(kept.expect("a channel is open once it has a complete state"))
            }
        }
    }

    /// What the owner put in.
    pub fn enrolled(&self) -> &Enrolled {
        &self.enrolled
    }

    /// The device's secret.
    pub fn secret(&self) -> &DeviceSecret {
        &self.secret
    }

    /// The newest blocks that are known.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The store.
    pub fn store(&mut self) -> &mut DeviceStore {
        &mut self.store
    }

    /// The channels that have begun.
    pub fn lives(&self) -> impl Iterator<Item = (ChannelKeysId, &Life)> {
        self.channels.iter().filter_map(|(id, channel)| Some((*id, channel.life.as_ref()?)))
    }

    /// The channel that pays.
    pub fn paying(&self) -> Option<(ChannelKeysId, &Life)> {
        self.lives().find(|(_, life)| matches!(life.state, State::Open(_)))
    }

    /// All channels and keys, and where they stand.
    pub fn standings(&self) -> Vec<(ChannelKeysId, Standing)> {
        let standing = |channel: &Channel| match channel.life.as_ref().map(Life::state) {
            None => Standing::Ready,
            Some(State::Opening(_)) => Standing::Opening,
            Some(State::Open(_)) => Standing::Open,
            Some(State::Closing(_)) => Standing::Closing,
        };
        self.channels.iter().map(|(id, channel)| (*id, standing(channel))).collect()
    }

    /// One input to a channel's machine: decided, stored, and only then the effects.
    ///
    /// # Errors
    /// See [`GiveError`].
    pub fn give(&mut self, id: ChannelKeysId, input: Input) -> Result<Vec<Effect>, GiveError> {
        if let Input::Approve { invoice, .. } = &input {
            self.check_others(id, invoice)?;
        }
        let another_pays = self.paying().is_some_and(|(other, _)| other != id);
        let channel = self.channels.get_mut(&id).ok_or(GiveError::Unknown)?;
        let life = channel.life.as_mut().ok_or(GiveError::Unknown)?;
        if another_pays && matches!(input, Input::Fund) {
            return Err(GiveError::AnotherOpen);
        }
        let transition = life.state.handle(&life.setup, input)?;
        crash::point();
        let (next, effects) = transition.commit(|next| self.store.set_state(id, next))?;
        crash::point();
        life.state = next;
        Ok(effects)
    }

    /// A channel begins. The same terms again change nothing.
    ///
    /// # Errors
    /// See [`GiveError`].
    pub fn begin(&mut self, id: ChannelKeysId, terms: OpenTerms) -> Result<(), GiveError> {
        let channel = self.channels.get_mut(&id).ok_or(GiveError::Unknown)?;
        if let Some(life) = &channel.life {
            return if life.terms == terms { Ok(()) } else { Err(GiveError::OtherTerms) };
        }
        let setup = setup(&self.secret, &self.enrolled, id, &channel.share, &terms)?;
        let opened = State::open(&setup, self.enrolled.policy.clone())?;
        crash::point();
        let (state, effects) = opened.commit(|state| self.store.begin(id, &terms, state))?;
        crash::point();
        debug_assert!(effects.is_empty(), "nothing is done at the beginning");
        channel.life = Some(Life { terms, setup, state });
        Ok(())
    }

    /// Erases what a revoked commitment left on the disk, tells the machine, and gives out its secret.
    ///
    /// # Errors
    /// When the disk cannot do it; then the secret stays.
    pub fn erase(&mut self, id: ChannelKeysId, number: CommitmentNumber) -> Result<Vec<Effect>, GiveError> {
        crash::point();
        self.store.erase()?;
        self.give(id, Input::Erased { number })
    }

    /// A share was made: kept for a channel to come.
    ///
    /// # Errors
    /// When it could not be stored.
    pub fn keep(&mut self, share: Share<DeviceSide>) -> Result<ChannelKeysId, StoreError> {
        let id = ChannelKeysId(entropy::bytes());
        crash::point();
        self.store.add_key(id, &share.to_bytes())?;
        crash::point();
        self.channels.insert(id, Channel { share, life: None });
        Ok(id)
    }

    /// How many keys are ready.
    pub fn ready(&self) -> usize {
        self.channels.values().filter(|channel| channel.life.is_none()).count()
    }

    /// The holder's basepoints in a channel.
    pub fn basepoints(&self, id: ChannelKeysId) -> Basepoints {
        basepoints(&self.secret, &self.enrolled, id)
    }

    /// Points of holder commitments, in order.
    pub fn points(
        &self,
        id: ChannelKeysId,
        from: CommitmentNumber,
        count: u16,
    ) -> Option<Vec<secp256k1::PublicKey>> {
        self.channels.get(&id)?;
        let keys = self.secret.channel_keys(&id.0);
        let numbers = std::iter::successors(Some(from), |number| number.next());
        Some(numbers.take(count.into()).map(|number| keys.point(number)).collect())
    }

    /// Takes the owner's policy, for all channels that are and will be.
    ///
    /// # Errors
    /// See [`GiveError`].
    pub fn set_policy(&mut self, policy: SignedPolicy) -> Result<(), GiveError> {
        let owner = &self.enrolled.enrolment.owner;
        let verify = |policy: &SignedPolicy| policy.clone().verify(owner).ok_or(Reject::PolicySignature);
        let (current, next) = (verify(&self.enrolled.policy)?.version, verify(&policy)?.version);
        if next < current || next == current && policy != self.enrolled.policy {
            return Err(Reject::PolicyVersion { current, got: next }.into());
        }
        let enrolled = Enrolled { policy: policy.clone(), ..self.enrolled.clone() };
        let mut batch = Vec::new();
        for (id, life) in self.lives() {
            batch.push((id, life.state.handle(&life.setup, Input::Policy(policy.clone()))?));
        }
        crash::point();
        let stored = Transition::commit_all(batch, |states| self.store.set_enrolled(&enrolled, states))?;
        crash::point();
        for (id, state, effects) in stored {
            debug_assert!(effects.is_empty(), "a policy is taken, and nothing done");
            let life = self.channels.get_mut(&id).and_then(|channel| channel.life.as_mut());
            life.expect("it has begun").state = state;
        }
        self.enrolled = enrolled;
        Ok(())
    }

    /// Takes headers from anybody.
    ///
    /// # Errors
    /// The inner error says what is wrong with them; the outer one that they could not be stored.
    pub fn extend(&mut self, headers: &[Header], now: u64) -> Result<Result<(), BadHeader>, StoreError> {
        let mut next = self.headers.clone();
        match next.extend(headers, now) {
            Err(bad) => return Ok(Err(bad)),
            Ok(None) => {}
            Ok(Some(changed)) => {
                self.store.set_headers(changed.from, next.from(changed.from), next.start())?;
                self.headers = next;
            }
        }
        Ok(Ok(()))
    }

    /// What a restart must do again: secrets that were about to leave go on waiting for the gateway to ask; what is to be published is
    /// returned.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn resume(&mut self) -> Result<Vec<(ChannelKeysId, Effect)>, GiveError> {
        let effects: Vec<(ChannelKeysId, Effect)> = self
            .lives()
            .flat_map(|(id, life)| life.state.resume(&life.setup).into_iter().map(move |effect| (id, effect)))
            .collect();
        let mut left = Vec::new();
        for (id, effect) in effects {
            match effect {
                Effect::Erase(number) => drop(self.erase(id, number)?),
                other => left.push((id, other)),
            }
        }
        Ok(left)
    }

    fn share(&self, id: ChannelKeysId) -> Option<&Share<DeviceSide>> {
        Some(&self.channels.get(&id)?.share)
    }
}

fn basepoints(secret: &DeviceSecret, enrolled: &Enrolled, id: ChannelKeysId) -> Basepoints {
    let keys = secret.channel_keys(&id.0);
    Basepoints {
        payment: enrolled.enrolment.payment,
        delayed_payment: enrolled.enrolment.delayed_payment,
        htlc: keys.htlc_basepoint(),
        revocation: keys.revocation_basepoint(),
    }
}

/// What was agreed on, with the device's own side filled in.
fn setup(
    secret: &DeviceSecret,
    enrolled: &Enrolled,
    id: ChannelKeysId,
    share: &Share<DeviceSide>,
    terms: &OpenTerms,
) -> Result<Setup, BadTerms> {
    let joint = share.public_key();
    let holder = PartyTerms {
        funding_key: joint,
        basepoints: basepoints(secret, enrolled, id),
        dust_limit: terms.holder_dust_limit,
        delay: terms.holder_delay,
    };
    let OpenTerms { funding, capacity, bridge, reserve, .. } = *terms;
    let terms = Terms { funding, capacity, holder, bridge };
    Setup::new(enrolled.enrolment.clone(), secret.channel_keys(&id.0), terms, joint, reserve)
}

#[cfg(test)]
mod tests;
