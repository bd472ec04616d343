//! One channel between two fixed parties, made once a process: deriving keys and signing costs more than the rest of a run.

use std::sync::LazyLock;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, FeeRate, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness,
};
use farthing_http::challenge::{Calls, Challenge, Price, Request};
use farthing_http::manifest::Manifest;
use farthing_http::tariff::CallPrice;
use farthing_protocol::channel::Expiry;
use farthing_protocol::closing::{self, Proposal, Settlement};
use farthing_protocol::flat;
use farthing_protocol::hashlock::Delay;
use farthing_protocol::keys::{ChannelKeys, KeyId, Seed};
use farthing_protocol::lightspeed::{ChainTerms, Rung, Shape, Word, Words, ladder};
use farthing_protocol::opening::{Confirmations, Offer, Opening};
use farthing_protocol::{Channel, Msat, Params, Party, Payment, commitment, payee, payer, refund};
use secp256k1::SECP256K1;

/// When the payer may take its refund.
pub const EXPIRY: u32 = 1_000;
/// What is locked.
pub const CAPACITY: Amount = Amount::from_sat(100_000);
/// How deep both want a spend.
pub const FINALITY: u32 = 6;
/// The payee's policy.
pub const POLICY: payee::Policy = payee::Policy {
    confirmations: 2,
    unconfirmed_cap: Msat::new(2_000_000),
    margin: 36,
    patience: 6,
    finality: FINALITY,
};

/// Both sides' setups.
pub struct Fixture {
    pub payer: payer::Setup,
    pub payee: payee::Setup,
    /// The payer's proposal, and what the payee answers to it.
    pub opening: Opening,
    pub acceptance: secp256k1::schnorr::Signature,
    /// Spends of the funding, one of each kind, complete.
    pub commitment: Transaction,
    pub closing: Transaction,
    pub refund: Transaction,
    pub stranger: Transaction,
    /// What the closing above settles.
    pub settlement: Settlement,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(Fixture::new);

/// The fixture.
pub fn fixture() -> &'static Fixture {
    &FIXTURE
}

/// The keys of the party that `byte` names.
pub fn keys(byte: u8) -> ChannelKeys {
    Seed::new([byte; 64], Network::Regtest).channel_keys(KeyId::from_entropy([byte; 8]))
}

fn party(keys: &ChannelKeys) -> Party {
    let output_key = keys.session().x_only_public_key().0;
    let output = ScriptBuf::new_p2tr(SECP256K1, output_key, None);
    Party { funding: keys.funding(), session: keys.session(), output }
}

fn spend(from: OutPoint, output: Vec<TxOut>) -> Transaction {
    let (script_sig, sequence, witness) =
        (ScriptBuf::new(), Sequence::ENABLE_RBF_NO_LOCKTIME, Witness::new());
    let input = vec![TxIn { previous_output: from, script_sig, sequence, witness }];
    Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input, output }
}

fn params() -> Params {
    let mut params = Params {
        network: Network::Regtest,
        funding: OutPoint { txid: Txid::all_zeros(), vout: 0 },
        capacity: CAPACITY,
        expiry: Expiry::at_height(EXPIRY),
        fee_rate: FeeRate::from_sat_per_vb_u32(2),
        prepaid: Amount::from_sat(600),
        payer: party(&keys(1)),
        payee: party(&keys(2)),
    };
    params.funding.txid = funding(&channel(params.clone())).compute_txid();
    params
}

fn channel(params: Params) -> Channel {
    Channel::new(params).expect("the fixture makes a channel")
}

fn funding(channel: &Channel) -> Transaction {
    let coin = OutPoint { txid: Txid::from_byte_array([5; 32]), vout: 0 };
    spend(coin, vec![channel.funding_txout()])
}

impl Fixture {
    fn new() -> Self {
        let channel = || self::channel(params());
        let funding = funding(&channel());
        let payer = payer::Setup { channel: channel(), keys: keys(1), funding, finality: FINALITY };
        let payee = payee::Setup { channel: channel(), keys: keys(2), policy: POLICY };
        let (_, effects) =
            payer::propose(&payer).commit(|_| Ok::<(), ()>(())).expect("this save does not fail");
        let opening = effects.into_iter().find_map(|effect| match effect {
            payer::Effect::Propose(opening) => Some(*opening),
            _ => None,
        });
        let opening = opening.expect("a proposal is to be sent");
        let payee::Effect::Accept(acceptance) = payee::acceptance(&payee) else {
            panic!("an acceptance is to be sent")
        };
        let payment = commitment::sign(&payer.channel, &payer.keys, Msat::new(50_000_000));
        let commitment = commitment::complete(&payee.channel, &payee.keys, &payment);
        let settlement =
            Settlement { to_payee: Amount::from_sat(40_000), fee_rate: FeeRate::from_sat_per_vb_u32(2) };
        let proposal = Proposal::new(&payer.channel, &payer.keys, settlement, [3; 32]).expect("it fits");
        let answer =
            closing::cosign(&payee.channel, &payee.keys, &settlement, &proposal.public_nonce(), [4; 32])
                .expect("it fits");
        let closing = proposal.complete(&payer.channel, &payer.keys, &answer).expect("the halves fit");
        let refund = refund::complete(&payer.channel, &payer.keys, FeeRate::from_sat_per_vb_u32(2))
            .expect("the capacity covers the fee");
        let stranger = spend(payer.channel.params().funding, Vec::new());
        Self { payer, payee, opening, acceptance, commitment, closing, refund, stranger, settlement }
    }
}

/// Of the chains of words: a rung at every tenth, and few enough words that stories cross from one chain to the next.
pub const SHAPE: Shape =
    Shape { unit: Msat::new(10_000), words: 50, rungs: 5, delay: Delay::blocks(POLICY.margin as u16) };

/// A chain of words with its rungs.
pub struct Chain {
    words: Vec<Word>,
    terms: ChainTerms,
    pub base: Msat,
    pub rungs: Vec<Rung>,
}

static CHAINS: LazyLock<[Chain; 2]> = LazyLock::new(|| {
    let base = prepayment().total;
    [Chain::new(1, base), Chain::new(2, base.saturating_add(SHAPE.worth(SHAPE.words)))]
});

/// The first chain of the channel and the one that follows it.
pub fn chains() -> &'static [Chain; 2] {
    &CHAINS
}

/// The least first payment.
pub fn prepayment() -> Payment {
    let setup = &fixture().payer;
    let total = Msat::from_amount(setup.channel.params().prepaid).expect("it is small");
    commitment::sign(&setup.channel, &setup.keys, total)
}

impl Chain {
    fn new(number: u32, base: Msat) -> Self {
        let setup = &fixture().payer;
        let mut words = Words::draw(&setup.keys, setup.channel.id(), &SHAPE, number);
        let rungs = ladder::sign(&setup.channel, &setup.keys, &words, base).expect("the chain fits");
        let terms = *words.terms();
        let words = (0..=SHAPE.words).filter_map(|index| words.word(index)).collect();
        Self { words, terms, base, rungs }
    }

    pub fn terms(&self) -> &ChainTerms {
        &self.terms
    }

    /// A word up to the last one.
    pub fn word(&self, index: u32) -> Word {
        self.words[index as usize]
    }
}

/// What the payee of the fixture offers.
pub fn offer() -> Offer {
    let params = fixture().payee.channel.params();
    Offer {
        network: params.network,
        payee: params.payee.clone(),
        capacity: (Amount::from_sat(10_000), Amount::from_sat(1_000_000)),
        fee_rate: (FeeRate::from_sat_per_vb_u32(1), FeeRate::from_sat_per_vb_u32(50)),
        lifetime: (20, 1_000),
        margin: POLICY.margin,
        confirmations: Confirmations { least: 1, one_more_per: Amount::from_sat(1_000_000) },
    }
}

/// Terms of a batch that the channel has room for, on top of the least first payment.
pub fn batch(outputs: u32) -> flat::Terms {
    flat::Terms {
        outputs,
        unit: Amount::from_sat(2_500),
        prepaid: fixture().payer.channel.params().prepaid,
        d1: Delay::blocks(POLICY.margin as u16),
        d2: Delay::blocks(POLICY.margin as u16 + 4),
        most_fee_rate: FeeRate::from_sat_per_vb_u32(10),
    }
}

/// A request to pay for calls, with everything that one may state.
pub fn request_for_calls() -> Request {
    let price = CallPrice { call: Msat::new(2_500_000), kib: Msat::new(100), event: Msat::new(7) };
    let (most_exposure, flat) = (Msat::new(1_000_000), Some(batch(8)));
    let calls = Calls { most_exposure, replay_window: 1_024, price, flat };
    Request::for_call(offer(), KeyId::from_entropy([2; 8]), calls)
}

/// A request for a file of three pieces.
pub fn request() -> Request {
    let price = Price { amount: Msat::new(100), unit: 1_024 };
    let manifest = Manifest { size: 150_000, piece: 65_536, blake3: [7; 32] };
    Request::new(price, offer(), KeyId::from_entropy([2; 8]), manifest)
}

/// A challenge that asks for that; its `id` is not an HMAC.
pub fn challenge() -> Challenge {
    Challenge {
        id: "mQ3nN8cV0r6tq0h5bD2gQn0nq2i1a9m3l5o7p1s4u8w".into(),
        realm: "files.example:8402".into(),
        method: "bitcoin".into(),
        intent: "session".into(),
        request: farthing_http::encoding::encode(&request()),
        expires: "2100-01-01T00:00:00Z".into(),
    }
}
