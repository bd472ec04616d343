//! What a payment costs, both sides together, against its floor: one BIP340 signature and one verification by the same
//! library. Processor time of one thread, without disk.

use anyhow::Context as _;
use bitcoin::hashes::Hash as _;
use bitcoin::secp256k1::{Keypair, Message, SECP256K1, SecretKey};
use bitcoin::{Amount, FeeRate, Network, OutPoint, Txid};
use farthing_protocol::channel::Expiry;
use farthing_protocol::payee::{self, Effect, Input, Policy};
use farthing_protocol::session::{Call, CallKey};
use farthing_protocol::sighting::{Funding, Sighting};
use farthing_protocol::{Channel, Msat, Params, Payment};

use crate::opened;
use crate::payer::{self, Payer, unsaved};
use crate::stats::{median, thread_time_us};

/// Rounds, in each of which all parts take their turn.
const ROUNDS: usize = 151;
/// Payments in one turn.
const PAYMENTS: usize = 200;
const COST: Msat = Msat::new(1_234);

/// Medians over the rounds; times in microseconds a payment.
pub struct Cpu {
    pub over_floor: f64,
    pub over_floor_with_mac: f64,
    pub floor_sign_us: f64,
    pub floor_verify_us: f64,
    pub payer_us: f64,
    pub payee_us: f64,
    /// Computing and checking a call's authentication code.
    pub mac_us: f64,
    pub rounds: usize,
}

/// One round.
struct Round {
    sign: f64,
    verify: f64,
    payer: f64,
    payee: f64,
    mac: f64,
}

/// Measures.
pub fn measure() -> anyhow::Result<Cpu> {
    let (mut payer, mut payee) = channel()?;
    let mut floor = Floor::new()?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let sign = time(|| floor.sign());
        let (paying, payments) = time_of(|| pay(&mut payer));
        let verify = time(|| floor.verify());
        let payments = payments?;
        let (charging, charged) = time_of(|| payee.charge(&payments));
        charged?;
        let (mac, checked) = time_of(|| macs(&payer, &payee, &payments));
        checked?;
        rounds.push(Round { sign, verify, payer: paying, payee: charging, mac });
    }
    let of = |part: fn(&Round) -> f64| median(rounds.iter().map(part));
    Ok(Cpu {
        over_floor: of(|round| (round.payer + round.payee) / (round.sign + round.verify)),
        over_floor_with_mac: of(|round| {
            (round.payer + round.payee + round.mac) / (round.sign + round.verify)
        }),
        floor_sign_us: of(|round| round.sign),
        floor_verify_us: of(|round| round.verify),
        payer_us: of(|round| round.payer),
        payee_us: of(|round| round.payee),
        mac_us: of(|round| round.mac),
        rounds: ROUNDS,
    })
}

/// Microseconds that one signature and one check take here, in the median.
pub fn floor_us() -> anyhow::Result<f64> {
    let mut floor = Floor::new()?;
    Ok(median((0..ROUNDS).map(|_| time(|| floor.sign()) + time(|| floor.verify()))))
}

/// The payer's side of each payment: decide, sign, commit.
fn pay(payer: &mut Payer) -> anyhow::Result<Vec<Payment>> {
    (0..PAYMENTS).map(|_| payer.buy(COST)).collect()
}

/// What ties the payments to requests: one code computed and one checked for each.
fn macs(payer: &Payer, payee: &Payee, payments: &[Payment]) -> anyhow::Result<()> {
    let (theirs, ours) = (payer.call_key(), payee.call_key());
    for payment in payments {
        let call = Call {
            channel: payer.channel().id(),
            item: [7; 32],
            cost: COST,
            total: payment.total,
            method: "GET",
            authority: "127.0.0.1:8402",
            target: "/a-file-of-some-name.bin",
            challenge: "5sYQYbDFSGkYJ6vzUyu1xRmgjNDqDNJ4Bb1e6tYQm8s",
        };
        ours.verify(&call, &theirs.mac(&call))?;
    }
    Ok(())
}

/// The library's own work, nothing else.
struct Floor {
    keypair: Keypair,
    digests: Vec<Message>,
    signatures: Vec<bitcoin::secp256k1::schnorr::Signature>,
}

impl Floor {
    fn new() -> anyhow::Result<Self> {
        let keypair = Keypair::from_secret_key(SECP256K1, &SecretKey::from_slice(&[5; 32])?);
        let digest = |index: usize| {
            Message::from_digest(bitcoin::hashes::sha256::Hash::hash(&index.to_be_bytes()).to_byte_array())
        };
        Ok(Self { keypair, digests: (0..PAYMENTS).map(digest).collect(), signatures: Vec::new() })
    }

    fn sign(&mut self) {
        let sign = |digest| SECP256K1.sign_schnorr_no_aux_rand(digest, &self.keypair);
        self.signatures = self.digests.iter().map(sign).collect();
    }

    fn verify(&self) {
        let key = self.keypair.x_only_public_key().0;
        for (digest, signature) in self.digests.iter().zip(&self.signatures) {
            let valid = SECP256K1.verify_schnorr(signature, digest, &key);
            valid.expect("this key has just signed this digest");
        }
    }
}

/// The payee, with a save that does nothing.
struct Payee {
    setup: payee::Setup,
    state: payee::State,
}

impl Payee {
    fn handle(&mut self, input: Input) -> anyhow::Result<Vec<Effect>> {
        let (state, effects) = unsaved(self.state.handle(&self.setup, input)?);
        self.state = state;
        Ok(effects)
    }

    /// The payee's side of each payment: verify, decide, commit.
    fn charge(&mut self, payments: &[Payment]) -> anyhow::Result<()> {
        for payment in payments {
            let effects = self.handle(Input::Charge { payment: Some(*payment), cost: COST })?;
            anyhow::ensure!(effects == [Effect::Serve { cost: COST }], "what was paid is served");
        }
        Ok(())
    }

    fn call_key(&self) -> CallKey {
        let channel = &self.setup.channel;
        CallKey::agree(&self.setup.keys, &channel.params().payer.session, channel.id())
    }
}

/// A payer and a payee of an open channel. There is no chain under it.
fn channel() -> anyhow::Result<(Payer, Payee)> {
    let (payer_keys, payee_keys) = (payer::keys(1), payer::keys(2));
    let params = Params {
        network: Network::Regtest,
        funding: OutPoint { txid: Txid::from_byte_array([5; 32]), vout: 0 },
        capacity: Amount::from_sat(100_000_000),
        expiry: Expiry::at_height(900_000),
        fee_rate: FeeRate::from_sat_per_vb_u32(2),
        prepaid: Amount::from_sat(1_000),
        payer: payer::party(&payer_keys),
        payee: payer::party(&payee_keys),
    };
    let policy =
        Policy { confirmations: 1, unconfirmed_cap: Msat::ZERO, margin: 36, patience: 6, finality: 6 };
    let setup = payee::Setup { channel: Channel::new(params.clone())?, keys: payee_keys, policy };
    let (mut payer, opening) = Payer::propose(params, payer_keys, opened::unfunded())?;
    let (state, effects) = unsaved(payee::accept(&setup, &opening.signature)?);
    let acceptance = effects.into_iter().find_map(|effect| match effect {
        Effect::Accept(signature) => Some(signature),
        Effect::Serve { .. }
        | Effect::Answer
        | Effect::Spread { .. }
        | Effect::Cosign(_)
        | Effect::Publish(_)
        | Effect::Broadcast(_) => None,
    });
    payer.accepted(acceptance.context("an opening is answered")?)?;
    let output = setup.channel.funding_txout();
    let mut payee = Payee { setup, state };
    let funding = Funding::Confirmed { output, confirmations: 1 };
    let (height, fee_rate, locked) = (100, FeeRate::BROADCAST_MIN, Vec::new());
    payee.handle(Input::Sighted(Sighting { height, fee_rate, funding, locked }))?;
    // The first payment also prepays; the ones that are measured each raise the total.
    while payee.state.ledger().credit() > Msat::ZERO || payee.state.ledger().newest.is_none() {
        let payment = payer.buy(COST)?;
        payee.charge(&[payment])?;
    }
    Ok((payer, payee))
}

/// Microseconds of this thread's processor time a payment.
fn time(work: impl FnOnce()) -> f64 {
    time_of(work).0
}

fn time_of<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = thread_time_us();
    let result = work();
    ((thread_time_us() - start) / PAYMENTS as f64, result)
}
