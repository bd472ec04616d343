//! Closes a device's channels from what its owner keeps, and the device's backup; with nothing but a bitcoind.

use bitcoin::Amount;
use farthing_chain::Chain;
use farthing_protocol::device::bolt3::PaymentHash;
use farthing_protocol::device::keys::DeviceSecret;
use farthing_protocol::device::setup::BadTerms;
use farthing_protocol::device::wire::ChannelKeysId;
use farthing_protocol::device::{Effect, Enrolment, Input, Policy, Setup, State};

use super::store::ToClose;
use crate::device::GiveError;
use crate::device::alone::{Closable, CloseError, Ended, close};
use crate::store::StoreError;

/// A channel that the owner closes. It was stored before that it does ([`super::OwnerStore::close`]).
pub struct Closing {
    channel: ChannelKeysId,
    setup: Setup,
    state: State,
    hashes: Vec<PaymentHash>,
}

impl Closing {
    /// From what is kept, the device's secret and the owner's newest policy, whose highest fee rate bounds what is signed here.
    ///
    /// # Errors
    /// When the secret is that of another device.
    pub fn new(
        to_close: ToClose,
        secret: &DeviceSecret,
        enrolment: Enrolment,
        policy: Policy,
    ) -> Result<Self, BadTerms> {
        let ToClose { kept, hashes } = to_close;
        let (channel, terms) = (kept.channel(), *kept.terms());
        let keys = secret.channel_keys(&channel.0);
        // The reserve was looked at when the channel began.
        let setup = Setup::new(enrolment, keys, terms, terms.holder.funding_key, Amount::ZERO)?;
        Ok(Self { channel, setup, state: kept.state(policy), hashes })
    }

    /// Which channel.
    pub fn channel(&self) -> ChannelKeysId {
        self.channel
    }

    /// Closes, or goes on with the closing, whoever began it. To be done again until nothing waits.
    ///
    /// # Errors
    /// See [`CloseError`].
    pub fn close(&mut self, chain: &Chain) -> Result<Ended, CloseError> {
        close(chain, self.channel, self)
    }
}

impl Closable for Closing {
    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn state(&self) -> &State {
        &self.state
    }

    fn give(&mut self, input: Input) -> Result<Vec<Effect>, GiveError> {
        let decided = self.state.handle(&self.setup, input)?;
        // Stored already, and stays the same: nothing leads out of closing alone.
        let (next, effects) = decided.commit(|_| Ok::<_, StoreError>(()))?;
        self.state = next;
        Ok(effects)
    }

    fn hashes(&self) -> Result<Vec<PaymentHash>, StoreError> {
        Ok(self.hashes.clone())
    }
}
