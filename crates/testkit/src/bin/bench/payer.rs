//! A payer that the bench plays itself: the real machine, with a save that does nothing.

use std::convert::Infallible;

use anyhow::{Context as _, bail};
use bitcoin::secp256k1::{SECP256K1, schnorr};
use bitcoin::{Network, ScriptBuf, Transaction};
use farthing_protocol::keys::{ChannelKeys, KeyId, Seed};
use farthing_protocol::opening::Opening;
use farthing_protocol::payer::{self, Effect, Input, State};
use farthing_protocol::session::CallKey;
use farthing_protocol::{Channel, Msat, Params, Party, Payment, Transition};

/// One payer in one channel.
pub struct Payer {
    setup: payer::Setup,
    state: State,
}

/// The payer's keys of channel number `channel`. Anybody knows them: they are for a private chain only.
pub fn keys(channel: u64) -> ChannelKeys {
    Seed::new([0xFA; 64], Network::Regtest).channel_keys(KeyId::from_u64(channel))
}

/// The public side of a party, paid to an output of its session key.
pub fn party(keys: &ChannelKeys) -> Party {
    let output = ScriptBuf::new_p2tr(SECP256K1, keys.session().x_only_public_key().0, None);
    Party { funding: keys.funding(), session: keys.session(), output }
}

impl Payer {
    /// Proposes a channel.
    pub fn propose(
        params: Params,
        keys: ChannelKeys,
        funding: Transaction,
    ) -> anyhow::Result<(Self, Opening)> {
        let setup = payer::Setup { channel: Channel::new(params)?, keys, funding, finality: 6 };
        let (state, effects) = unsaved(payer::propose(&setup));
        match effects.into_iter().next() {
            Some(Effect::Propose(opening)) => Ok((Self { setup, state }, *opening)),
            _other => bail!("a payer proposes first"),
        }
    }

    /// The payee has accepted: from now on there may be payments.
    pub fn accepted(&mut self, signature: schnorr::Signature) -> anyhow::Result<()> {
        self.handle(Input::Accepted(signature)).map(drop)
    }

    /// Gives the machine an input.
    pub fn handle(&mut self, input: Input) -> anyhow::Result<Vec<Effect>> {
        let (state, effects) = unsaved(self.state.handle(&self.setup, input)?);
        self.state = state;
        Ok(effects)
    }

    /// Buys something.
    pub fn buy(&mut self, cost: Msat) -> anyhow::Result<Payment> {
        let effects = self.handle(Input::Buy { cost })?;
        let paid = effects.into_iter().find_map(|effect| match effect {
            Effect::Pay(payment) => Some(payment),
            Effect::Propose(_)
            | Effect::ReleaseCoins
            | Effect::Announce(..)
            | Effect::AnnounceBatch(_)
            | Effect::Call(_)
            | Effect::ProposeClosing(_)
            | Effect::Broadcast(_) => None,
        });
        paid.context("what was bought was not paid")
    }

    /// Its keys.
    pub fn keys(&self) -> &ChannelKeys {
        &self.setup.keys
    }

    /// The newest payment.
    pub fn paid(&self) -> Option<Payment> {
        self.state.ledger().newest
    }

    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.setup.channel
    }

    /// The key that authenticates its calls.
    pub fn call_key(&self) -> CallKey {
        let channel = &self.setup.channel;
        CallKey::agree(&self.setup.keys, &channel.params().payee.session, channel.id())
    }
}

/// Commits with a save that does nothing.
pub fn unsaved<S, E>(transition: Transition<S, E>) -> (S, Vec<E>) {
    match transition.commit(|_| Ok::<_, Infallible>(())) {
        Ok(committed) => committed,
        Err(never) => match never {},
    }
}
