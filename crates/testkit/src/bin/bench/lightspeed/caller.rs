//! A payer of calls that the bench plays itself: the real purse, with a save that does nothing.

use anyhow::{Context as _, bail};
use farthing_protocol::lightspeed::call::{MacKey, Target};
use farthing_protocol::lightspeed::purse::Ticket;
use farthing_protocol::lightspeed::{Call, CallNumber, ChainTerms, Rung, Shape, Words, ladder};
use farthing_protocol::payer::{Effect, Input, call};
use farthing_protocol::{ChannelId, Msat, Payment};

use crate::payer::Payer;

/// One payer of calls in one channel, on its first chain.
pub struct Caller {
    payer: Payer,
    words: Words,
    mac: MacKey,
}

/// What the payee gets before the first call.
pub struct Announcement {
    pub terms: ChainTerms,
    pub base: Msat,
    pub rungs: Vec<Rung>,
    pub payment: Payment,
}

impl Caller {
    /// Draws the first chain and signs its rungs.
    pub fn announce(mut payer: Payer, shape: Shape) -> anyhow::Result<(Self, Announcement)> {
        let words = Words::draw(payer.keys(), payer.channel().id(), &shape, 1);
        let announced = payer.handle(Input::Call(call::Input::Announce(*words.terms())))?;
        let Some(Effect::Announce(terms, base)) = announced.into_iter().next() else {
            bail!("a chain that was drawn was not announced")
        };
        let rungs = ladder::sign(payer.channel(), payer.keys(), &words, base)?;
        let payment = payer.paid().context("a chain stands on a payment")?;
        let mac = MacKey::new(&payer.call_key());
        Ok((Self { payer, words, mac }, Announcement { terms, base, rungs, payment }))
    }

    /// The payee took the chain and is in that epoch.
    pub fn taken(&mut self, epoch: u32) -> anyhow::Result<()> {
        self.payer.handle(Input::Call(call::Input::Taken { chain: 1, epoch })).map(drop)
    }

    /// The next call as it travels. The purse has it as answered, so any number can be prepared ahead.
    pub fn call(&mut self, cost: Msat, target: &Target<'_>) -> anyhow::Result<Vec<u8>> {
        let sent = self.payer.handle(Input::Call(call::Input::call(cost)))?;
        let Some(Effect::Call(Ticket { number, cost, chain, index, .. })) = sent.into_iter().next() else {
            bail!("a call that was prepared is not to be sent")
        };
        let word = self.words.word(index).context("the chain has that word")?;
        let call = Call { channel: self.id(), number, cost, chain, index, word, last: None };
        self.answered(number, cost)?;
        Ok(call.to_bytes(&self.mac.mac(&call, target)))
    }

    fn answered(&mut self, number: CallNumber, cost: Msat) -> anyhow::Result<()> {
        let answered = call::Input::Answered { number, charged: Some(cost) };
        self.payer.handle(Input::Call(answered)).map(drop)
    }

    /// Its channel.
    pub fn id(&self) -> ChannelId {
        self.payer.channel().id()
    }
}
