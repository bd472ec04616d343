//! The parties of a cheque as machines, with saves that do nothing: there is no chain and no disk under them.

use anyhow::{Context as _, ensure};
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, FeeRate, Network, OutPoint, Txid};
use farthing_protocol::channel::Expiry;
use farthing_protocol::cheque::drawer::{self, Drawer};
use farthing_protocol::cheque::drawn::{self, Kind, Outcome};
use farthing_protocol::cheque::held::{self, Conditions};
use farthing_protocol::cheque::holder::{self, Holder};
use farthing_protocol::cheque::point::AdaptorSecret;
use farthing_protocol::cheque::promises::{Promise, Update};
use farthing_protocol::opening::Offer;
use farthing_protocol::payee::{self, Policy};
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, Msat, Params, payer};

use crate::opened;
use crate::payer::{keys, party, unsaved};

pub const FEE_RATE: FeeRate = FeeRate::from_sat_per_vb_u32(2);
pub const CAPACITY: Amount = Amount::from_sat(1_000_000);
pub const HEIGHT: u32 = 1_000;
const DELTA: u32 = 144;

/// The payer's side of a channel that carries cheques.
pub struct Paying {
    pub setup: payer::Setup,
    drawer: Drawer,
}

/// The payee's side.
pub struct Paid {
    setup: payee::Setup,
    holder: Holder,
}

/// Channel number `index`, both sides, open.
pub fn channel(index: u64, kind: Kind) -> anyhow::Result<(Paying, Paid)> {
    let (payer_keys, payee_keys) = (keys(2 * index), keys(2 * index + 1));
    let params = Params {
        network: Network::Regtest,
        funding: OutPoint { txid: Txid::from_byte_array([7; 32]), vout: index as u32 },
        capacity: CAPACITY,
        // Each further channel expires so much earlier.
        expiry: Expiry::at_height(HEIGHT + 10 * DELTA - index as u32 * DELTA),
        fee_rate: FEE_RATE,
        prepaid: Offer::prepaid(FEE_RATE),
        payer: party(&payer_keys),
        payee: party(&payee_keys),
    };
    let (channel, funding, finality) = (Channel::new(params.clone())?, opened::unfunded(), 6);
    let paid = payee::Setup { channel, keys: payee_keys, policy: policy() };
    let (paying, opening) = Paying::propose(
        payer::Setup { channel: Channel::new(params)?, keys: payer_keys, funding, finality },
        kind,
    )?;
    let (life, effects) = unsaved(payee::accept(&paid, &opening)?);
    let [payee::Effect::Accept(acceptance)] = effects.as_slice() else { anyhow::bail!("it accepts") };
    let paying = paying.accepted(*acceptance)?;
    Ok((paying, Paid::opened(paid, life, HEIGHT)?))
}

/// How careful a payee is here.
pub fn policy() -> Policy {
    Policy { confirmations: 1, unconfirmed_cap: Msat::ZERO, margin: 36, patience: 6, finality: 6 }
}

/// A payer whose channel is proposed.
pub struct Proposed {
    setup: payer::Setup,
    life: payer::State,
    kind: Kind,
}

impl Paying {
    /// Proposes the channel, with the signature that the payee has to see.
    pub fn propose(
        setup: payer::Setup,
        kind: Kind,
    ) -> anyhow::Result<(Proposed, bitcoin::secp256k1::schnorr::Signature)> {
        let (life, effects) = unsaved(payer::propose(&setup));
        let [payer::Effect::Propose(opening)] = effects.as_slice() else { anyhow::bail!("it proposes") };
        let signature = opening.signature;
        Ok((Proposed { setup, life, kind }, signature))
    }

    fn handle(&mut self, input: drawn::Input) -> anyhow::Result<Vec<drawer::Effect>> {
        let input = drawer::Input::Promises(input);
        let (drawer, effects) = unsaved(self.drawer.handle(&self.setup, input)?);
        self.drawer = drawer;
        Ok(effects)
    }

    /// Promises, and gives the update to be sent.
    pub fn promise(&mut self, promise: Promise) -> anyhow::Result<Box<Update>> {
        let effects = self.handle(drawn::Input::Promise(promise))?;
        sent(&effects).context("a promise is sent")
    }

    /// Takes a secret: the plain update, and that its outcome was noted.
    pub fn learn(&mut self, secret: &AdaptorSecret) -> anyhow::Result<Box<Update>> {
        let effects = self.handle(drawn::Input::Secret(secret.clone()))?;
        let update = sent(&effects).context("what was cashed is paid plainly")?;
        self.handle(drawn::Input::Noted(Outcome::Paid(secret.clone())))?;
        Ok(update)
    }

    /// The payee has taken the update of that number.
    pub fn taken(&mut self, number: u64) -> anyhow::Result<()> {
        self.handle(drawn::Input::Taken(number)).map(drop)
    }

    /// What was paid plainly.
    pub fn paid(&self) -> Msat {
        self.drawer.drawn().ledger().paid()
    }
}

impl Proposed {
    /// The payee has accepted.
    pub fn accepted(self, signature: bitcoin::secp256k1::schnorr::Signature) -> anyhow::Result<Paying> {
        let Self { setup, life, kind } = self;
        let (life, _) = unsaved(life.handle(&setup, payer::Input::Accepted(signature))?);
        let drawer = Drawer::new(life, kind).context("a new channel")?;
        Ok(Paying { setup, drawer })
    }
}

impl Paid {
    /// A payee that sees its channel's funding.
    pub fn opened(setup: payee::Setup, life: payee::State, height: u32) -> anyhow::Result<Self> {
        let output = setup.channel.funding_txout();
        let funding = Funding::Confirmed { output, confirmations: 1 };
        let sighting = Sighting { height, fee_rate: FEE_RATE, funding, locked: Vec::new() };
        let (life, _) = unsaved(life.handle(&setup, payee::Input::Sighted(sighting))?);
        Ok(Self { setup, holder: Holder::new(life).context("a new channel")? })
    }

    fn handle(&mut self, input: held::Input) -> anyhow::Result<Vec<holder::Effect>> {
        let input = holder::Input::Promises(input);
        let (holder, effects) = unsaved(self.holder.handle(&self.setup, input)?);
        self.holder = holder;
        Ok(effects)
    }

    /// Verifies and takes an update. Its number.
    pub fn take(&mut self, update: &Update) -> anyhow::Result<u64> {
        let number = update.signed.terms.number;
        let effects =
            self.handle(held::Input::Take { update: Box::new(update.clone()), cost: Msat::ZERO })?;
        ensure!(effects == [holder::Effect::Promises(held::Effect::Taken(number))], "it is taken");
        Ok(number)
    }

    /// Locks a promise for another channel.
    pub fn lock(&mut self, onward: held::Onward, towards: &Paying) -> anyhow::Result<()> {
        let params = towards.setup.channel.params();
        let conditions = Conditions {
            expiry: params.expiry,
            paid: towards.paid(),
            least: Msat::from_amount(params.prepaid).context("an amount")?,
            delta: DELTA,
            fee: Msat::ZERO,
            is_deep: true,
            height: HEIGHT,
        };
        self.handle(held::Input::Lock(onward, conditions)).map(drop)
    }

    /// The secret of the lock was learnt in the other channel.
    pub fn learned(&mut self, secret: AdaptorSecret) -> anyhow::Result<AdaptorSecret> {
        let effects = self.handle(held::Input::Learned(secret))?;
        handed_over(effects)
    }

    /// Cashes a promise with one's own secret.
    pub fn cash(&mut self, secret: AdaptorSecret, least: Msat) -> anyhow::Result<AdaptorSecret> {
        let effects =
            self.handle(held::Input::Cash { secret, least, is_deep: true, height: HEIGHT, margin: 36 })?;
        handed_over(effects)
    }

    /// What can be claimed.
    pub fn claim(&self) -> Msat {
        self.holder.held().ledger().paid()
    }
}

fn sent(effects: &[drawer::Effect]) -> Option<Box<Update>> {
    effects.iter().find_map(|effect| match effect {
        drawer::Effect::Promises(drawn::Effect::Send(update)) => Some(update.clone()),
        drawer::Effect::Promises(drawn::Effect::Report(_)) | drawer::Effect::Channel(_) => None,
    })
}

fn handed_over(effects: Vec<holder::Effect>) -> anyhow::Result<AdaptorSecret> {
    let secret = effects.into_iter().find_map(|effect| match effect {
        holder::Effect::Promises(held::Effect::HandOver(secret)) => Some(secret),
        holder::Effect::Promises(
            held::Effect::Taken(_)
            | held::Effect::Lock(_)
            | held::Effect::Authorise(_)
            | held::Effect::GiveUp(..),
        )
        | holder::Effect::Channel(_) => None,
    });
    secret.context("what was learnt is handed over")
}
