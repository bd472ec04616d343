//! Gives LDK a signer for each channel. A new channel takes its keys out of the pool: LDK cannot be told to wait for a key generation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::ScriptBuf;
use lightning::ln::chan_utils::{ChannelPublicKeys, ChannelTransactionParameters};
use lightning::ln::channel_keys::{DelayedPaymentBasepoint, HtlcBasepoint, RevocationBasepoint};
use lightning::ln::script::ShutdownScript;
use lightning::sign::SignerProvider;

use super::desk::Desk;
use super::joint::JointSigner;
use crate::records::ChannelKeys;

/// What is told when LDK shows a channel's terms.
pub type OnParameters = Arc<dyn Fn([u8; 32], &ChannelTransactionParameters) + Send + Sync>;

/// The signers of all channels.
#[derive(Default)]
pub struct JointProvider {
    inner: Mutex<Inner>,
    /// Held while a channel is created.
    creating: Mutex<()>,
}

#[derive(Default)]
struct Inner {
    channels: HashMap<[u8; 32], (ChannelKeys, Arc<Desk>)>,
    /// The keys for channels that are about to be created, by LDK's user channel id.
    reserved: HashMap<u128, [u8; 32]>,
    /// Whose script goes into the channel that is being created now.
    closing_script: Option<ScriptBuf>,
    on_parameters: Option<OnParameters>,
}

impl JointProvider {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is told the channels' terms.
    pub fn on_parameters(&self, on_parameters: OnParameters) {
        self.inner().on_parameters = Some(on_parameters);
    }

    /// Makes a channel's keys known. To be done for all of them before LDK reads what it stored.
    pub fn add(&self, keys: ChannelKeys, desk: Arc<Desk>) {
        self.inner().channels.insert(desk.channel(), (keys, desk));
    }

    /// Forgets keys that no channel ever had.
    pub fn remove(&self, channel: &[u8; 32]) {
        self.inner().channels.remove(channel);
    }

    /// A channel's desk.
    pub fn desk(&self, channel: &[u8; 32]) -> Option<Arc<Desk>> {
        self.inner().channels.get(channel).map(|(_, desk)| desk.clone())
    }

    /// Sets keys aside for the channel that is then created with that user channel id. One at a time: LDK asks for the closing script
    /// without saying for which channel.
    pub fn reserve<T>(&self, user_channel_id: u128, keys: &ChannelKeys, create: impl FnOnce() -> T) -> T {
        let _one_at_a_time = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut inner = self.inner();
            inner.reserved.insert(user_channel_id, keys.channel);
            inner.closing_script = Some(keys.closing_script.clone());
        }
        let created = create();
        let mut inner = self.inner();
        inner.reserved.remove(&user_channel_id);
        inner.closing_script = None;
        created
    }
}

impl SignerProvider for JointProvider {
    type EcdsaSigner = JointSigner;

    fn generate_channel_keys_id(&self, _inbound: bool, user_channel_id: u128) -> [u8; 32] {
        let reserved = self.inner().reserved.get(&user_channel_id).copied();
        reserved.expect("channels are created with reserved keys only, and none are accepted")
    }

    fn derive_channel_signer(&self, channel: [u8; 32]) -> JointSigner {
        let inner = self.inner();
        let (keys, desk) = inner.channels.get(&channel).expect("LDK knows channels that we stored before it");
        let on_parameters = inner.on_parameters.clone();
        let tell = move |parameters: &ChannelTransactionParameters| {
            if let Some(on_parameters) = &on_parameters {
                on_parameters(channel, parameters);
            }
        };
        JointSigner::new(public_keys(keys), desk.clone(), Arc::new(tell))
    }

    fn get_destination_script(&self, channel: [u8; 32]) -> Result<ScriptBuf, ()> {
        self.inner().channels.get(&channel).map(|(keys, _)| keys.closing_script.clone()).ok_or(())
    }

    fn get_shutdown_scriptpubkey(&self) -> Result<ShutdownScript, ()> {
        let script = self.inner().closing_script.clone().ok_or(())?;
        ShutdownScript::try_from(script).map_err(|_| ())
    }
}

fn public_keys(keys: &ChannelKeys) -> ChannelPublicKeys {
    let basepoints = &keys.basepoints;
    ChannelPublicKeys {
        funding_pubkey: keys.funding_key,
        revocation_basepoint: RevocationBasepoint(basepoints.revocation),
        payment_point: basepoints.payment,
        delayed_payment_basepoint: DelayedPaymentBasepoint(basepoints.delayed_payment),
        htlc_basepoint: HtlcBasepoint(basepoints.htlc),
    }
}
