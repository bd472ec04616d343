//! A device on a real disk with a real engine, against a gateway and a bridge that the test plays. After every request the device is
//! started anew from its files.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use bitcoin::constants::genesis_block;
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, FeeRate, Network, OutPoint, ScriptBuf, Txid, WPubkeyHash};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::keys::secret_key;
use farthing_protocol::device::bolt3::{Commitment, CommitmentSeed, Contents, Digest, Htlc, Preimage, Side};
use farthing_protocol::device::headers::Checkpoint;
use farthing_protocol::device::joint::{Finisher, GatewayShare as _, JointSignature, Round as _, Step};
use farthing_protocol::device::machine::{Publication, Revoked};
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::setup::Bounds;
use farthing_protocol::device::wire::{Answer, Report, Request, ToDevice, ToGateway, round_id};
use farthing_protocol::device::{Enrolment, Invoice, Policy, Proposal};
use farthing_protocol::keys::Seed;
use farthing_threshold::{Gateway as GatewaySide, KeyGeneration, KeyGenerationStep, SigningRound};
use secp256k1::{PublicKey, SECP256K1, SecretKey, ecdsa};
use tempfile::TempDir;

use super::*;
use crate::owner::{OwnerStore, OwnerStoreHome};

mod owner_store;
mod payments;

const CAPACITY: Amount = Amount::from_sat(500_000);
const NOW: u64 = 1_800_000_000;
const FUNDING: u8 = 0x20;
const HTLC: u8 = 0x21;

fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).unwrap()
}

fn public(byte: u8) -> PublicKey {
    secret(byte).public_key(SECP256K1)
}

/// For 20,000 sat and the preimage 0x0202…, of regtest. Its payee's key is 0x1414….
const INVOICE: &str = "lnbcrt200u1p45n5sqdq8w3hkcmqpp5wkrhhdqa8ya4lwz9tnnqanvdmgqp6p33vjttzn0607y4v4hwef9qsp5qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs9qrsgqxqrrsscqpj3mnl28gmqg35c5w5flpvxz7ls5hxng59zfwhtkdu8u8xy0f5mhwps4663eqg5pqkun2lr59vx5tsquqmetq3fva94csynfj3azmnfxspx72lf3";

fn invoice() -> (Invoice, Preimage) {
    (Invoice::parse(INVOICE, Network::Regtest).unwrap(), Preimage([2; 32]))
}

/// A device of that secret.
pub(super) fn enrol(secret: DeviceSecret, store: DeviceStore) -> Device {
    Device::enrol(secret, store, &enrolled()).unwrap()
}

fn enrolled() -> Enrolled {
    let owner = Seed::new([9; 64], Network::Regtest).owner_keys(0);
    let policy = Policy {
        version: 1,
        paused: false,
        payees: vec![],
        per_payment: Msat::new(50_000_000),
        per_hour: Msat::new(100_000_000),
        per_day: Msat::new(100_000_000),
        in_flight: Msat::new(50_000_000),
        fee_base: Msat::new(10_000),
        fee_ppm: 50_000,
        least_fee_rate: FeeRate::from_sat_per_kwu(253),
        most_fee_rate: FeeRate::from_sat_per_kwu(10_000),
        most_htlcs: 10,
        most_expiry_delta: 2_016,
    };
    Enrolled {
        name: "car".to_owned(),
        gateway: format!("{}@127.0.0.1:1", "00".repeat(32)),
        enrolment: Enrolment {
            owner: owner.policy(),
            network: Network::Regtest,
            payment: owner.payment(),
            delayed_payment: owner.delayed_payment(),
            closing_script: ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([9; 20])),
            bounds: Bounds {
                least_bridge_delay: 144,
                most_holder_delay: 144,
                most_reserve: Amount::from_sat(10_000),
                most_capacity: CAPACITY,
            },
        },
        policy: owner.sign(policy),
        checkpoint: Checkpoint { height: 0, header: genesis_block(Network::Regtest).header },
    }
}

fn dearer(contents: &mut Contents) {
    contents.fee_rate = FeeRate::from_sat_per_kwu(2_000);
}

/// What a save does in a test.
#[derive(Clone, Copy, PartialEq)]
enum Disk {
    Works,
    Full,
}

struct World {
    folder: TempDir,
    home: DeviceHome,
    device: Option<Device>,
    session: Option<Session>,
    /// Counts connections; names them too.
    connection: u8,
    id: u64,
    share: Option<Share<GatewaySide>>,
    channel: ChannelKeysId,
    seed: CommitmentSeed,
    holder: Vec<Contents>,
    bridge: Vec<Contents>,
    is_thorough: bool,
    crashes: usize,
    /// On the owner's machine, if the device waits for it.
    owner_store: Option<OwnerStore>,
    /// The newest state that it acknowledged.
    kept: Option<CommitmentNumber>,
}

/// A request, given the gateway's first message of its round.
type Asking = Box<dyn Fn(Vec<u8>) -> Request>;

/// How a request ended.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time")]
enum Got {
    Answer(Answer),
    Signed(ecdsa::Signature, Vec<ecdsa::Signature>),
}

impl World {
    fn new() -> Self {
        Self::new_with(None)
    }

    /// Of a device that waits for a store at that address.
    fn new_with(address: Option<&GatewayAddress>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = DeviceHome::of(folder.path(), Network::Regtest);
        home.make().unwrap();
        Device::enrol_with(home.secret().unwrap(), home.store().unwrap(), &enrolled(), address).unwrap();
        let mut world = Self {
            folder,
            home,
            device: None,
            session: None,
            connection: 0,
            id: 0,
            share: None,
            channel: ChannelKeysId([0; 32]),
            seed: CommitmentSeed::new([0x55; 32]),
            holder: vec![],
            bridge: vec![],
            is_thorough: false,
            crashes: 0,
            owner_store: None,
            kept: None,
        };
        world.restart();
        world
    }

    /// The process dies and starts again; the gateway is connected to the new one.
    fn restart(&mut self) -> Vec<Effect> {
        (self.device, self.session, self.owner_store) = (None, None, None);
        let mut device = self.home.device().unwrap();
        let resumed = device.resume().unwrap();
        if device.owner_store().is_some() {
            self.owner_store = Some(self.owner_home().store().unwrap());
            // As a connection begins.
            let kept: Vec<Kept> = device.lives().filter_map(|(id, _)| device.to_keep(id)).collect();
            kept.into_iter().for_each(|kept| self.keep(kept));
        }
        self.connection += 1;
        let (session, hello) = Session::begin(&device, [self.connection; 32]);
        assert!(matches!(hello, ToGateway::Hello(_)));
        (self.device, self.session) = (Some(device), Some(session));
        resumed.into_iter().map(|(_, effect)| effect).collect()
    }

    fn device(&mut self) -> &mut Device {
        self.device.as_mut().unwrap()
    }

    fn take(&mut self, message: ToDevice) -> Result<Vec<Said>, StoreError> {
        self.session.as_mut().unwrap().take(self.device.as_mut().unwrap(), message, NOW)
    }

    fn one(&mut self, message: ToDevice) -> ToGateway {
        self.sent(message).into_iter().next().expect("an answer")
    }

    fn sent(&mut self, message: ToDevice) -> Vec<ToGateway> {
        let mut sent = Vec::new();
        for said in self.take(message).unwrap() {
            match said {
                Said::Send(message) => {
                    self.assert_kept(&message);
                    sent.push(message);
                }
                Said::Keep(kept) => {
                    let answers = |message: &ToGateway| matches!(message, ToGateway::Answer { .. });
                    assert!(
                        !sent.iter().any(answers),
                        "this leaves before the owner's store has it: {sent:?}"
                    );
                    self.keep(*kept);
                }
                _other => {}
            }
        }
        sent
    }

    fn owner_home(&self) -> OwnerStoreHome {
        OwnerStoreHome::make(self.folder.path(), Network::Regtest).unwrap()
    }

    /// The owner's store keeps and acknowledges a state.
    fn keep(&mut self, kept: Kept) {
        let store = self.owner_store.as_mut().expect("only a device with a store says this");
        self.kept = Some(store.keep("car", &enrolled().enrolment, kept).unwrap());
    }

    /// With an owner's store, a state is acknowledged before the secret of the one before leaves.
    fn assert_kept(&self, message: &ToGateway) {
        if let (Some(_), ToGateway::Answer { answer: Answer::Secret { number, .. }, .. }) =
            (&self.owner_store, message)
        {
            assert!(self.kept > Some(*number), "{:?} is kept, {number} is revealed", self.kept);
        }
    }

    fn next_id(&mut self) -> u64 {
        self.id += 1;
        self.id
    }

    /// A key generation, to its end.
    fn generate(&mut self) {
        let id = self.next_id();
        let (gateway, first) = KeyGeneration::<GatewaySide>::start(round_id(&[self.connection; 32], id));
        let ToGateway::Round { messages, .. } = self.one(ToDevice::GenerateKey { id, first }) else {
            panic!()
        };
        let sent = |step| match step {
            KeyGenerationStep::Send(next, message) => (next, message),
            KeyGenerationStep::Done(_) => panic!("a message is still to come"),
        };
        let (gateway, second) = sent(gateway.next(&messages[0]).unwrap());
        let (gateway, third) = sent(gateway.next(&messages[1]).unwrap());
        let said = self.one(ToDevice::Round { id, messages: vec![second, third] });
        let ToGateway::Answer { answer: Answer::Key { channel, funding_key, last, .. }, .. } = said else {
            panic!()
        };
        let KeyGenerationStep::Done(share) = gateway.next(&last).unwrap() else { panic!() };
        assert_eq!(share.public_key(), funding_key);
        (self.share, self.channel) = (Some(share), channel);
    }

    fn terms(&self) -> OpenTerms {
        let bridge = Basepoints {
            payment: public(0x22),
            delayed_payment: public(0x23),
            htlc: public(HTLC),
            revocation: public(0x24),
        };
        OpenTerms {
            funding: OutPoint { txid: Txid::from_byte_array([5; 32]), vout: 1 },
            capacity: CAPACITY,
            holder_dust_limit: Amount::from_sat(354),
            holder_delay: 144,
            bridge: PartyTerms {
                funding_key: public(FUNDING),
                basepoints: bridge,
                dust_limit: Amount::from_sat(354),
                delay: 144,
            },
            reserve: Amount::from_sat(5_000),
        }
    }

    /// One request. In a thorough world first with a full disk: then nothing is said. Then the device dies at each place where it can,
    /// one after the other, and is asked again after its restart, until it gets through.
    fn ask(&mut self, request: &dyn Fn(Vec<u8>) -> Request, round: Option<(Digest, Finisher)>) -> Got {
        if !self.is_thorough {
            return self.ask_once(request, round, Disk::Works).expect("the disk works");
        }
        self.ask_once(request, round, Disk::Full);
        for point in 1.. {
            let got = self.crash_at(point, |world| world.ask_once(request, round, Disk::Works));
            for point in 1.. {
                if self.crash_at(point, Self::restart).is_some() {
                    break;
                }
            }
            if let Some(got) = got {
                return got.expect("the disk works");
            }
        }
        unreachable!("a request passes finitely many points")
    }

    /// Does something; `None` when the device died at that point.
    fn crash_at<T>(&mut self, point: u64, act: impl FnOnce(&mut Self) -> T) -> Option<T> {
        crash::arm(Some(point));
        let got = catch_unwind(AssertUnwindSafe(|| act(self)));
        crash::arm(None);
        match got {
            Ok(got) => Some(got),
            Err(panic) if panic.is::<crash::Crash>() => {
                self.crashes += 1;
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    fn ask_once(
        &mut self,
        request: &dyn Fn(Vec<u8>) -> Request,
        round: Option<(Digest, Finisher)>,
        disk: Disk,
    ) -> Option<Got> {
        let id = self.next_id();
        let begun = round.map(|(digest, finisher)| {
            let share = self.share.as_ref().unwrap();
            share.start(round_id(&[self.connection; 32], id), digest.to_bytes(), finisher).unwrap()
        });
        let (gateway, first) = begun.unzip();
        let message =
            ToDevice::Request { id, channel: self.channel, request: request(first.unwrap_or_default()) };
        if disk == Disk::Full {
            self.device().store().fail(true);
            let failed = self.take(message);
            self.device().store().fail(false);
            // What changes nothing and was stored before is answered without the disk; nothing here is.
            assert!(failed.is_err(), "{failed:?}");
            return None;
        }
        let mut sent = self.sent(message).into_iter();
        match sent.next().expect("an answer") {
            ToGateway::Answer { answer: Answer::Signing { htlc_signatures, first }, .. } => {
                let (_, finisher) = round.expect("only a round is begun");
                let Some(ToGateway::Round { messages, .. }) = sent.next() else {
                    panic!("the second message")
                };
                let messages = [first, messages.into_iter().next().unwrap()];
                Some(self.round(id, gateway.unwrap(), finisher, htlc_signatures, &messages))
            }
            ToGateway::Answer { id: of, answer } => {
                assert_eq!(of, id);
                Some(Got::Answer(answer))
            }
            other => panic!("{other:?}"),
        }
    }

    fn round(
        &mut self,
        id: u64,
        gateway: SigningRound<GatewaySide>,
        finisher: Finisher,
        htlc_signatures: Vec<ecdsa::Signature>,
        messages: &[Vec<u8>],
    ) -> Got {
        let Step::Send(gateway, second) = gateway.next(&messages[0]).unwrap() else { panic!() };
        match (gateway.next(&messages[1]).unwrap(), finisher) {
            (Step::SendLast(third), Finisher::Device) => {
                match self.one(ToDevice::Round { id, messages: vec![second, third] }) {
                    ToGateway::Answer { answer, .. } => Got::Answer(answer),
                    other => panic!("{other:?}"),
                }
            }
            (Step::Wait(gateway), Finisher::Gateway) => {
                let ToGateway::Round { messages, .. } =
                    self.one(ToDevice::Round { id, messages: vec![second] })
                else {
                    panic!("the device's last message")
                };
                let Step::Signed(JointSignature(signature)) = gateway.next(&messages[0]).unwrap() else {
                    panic!()
                };
                Got::Signed(signature, htlc_signatures)
            }
            _ => panic!("one side finishes"),
        }
    }

    fn build(&mut self, side: Side, contents: &Contents) -> Commitment {
        let channel = self.channel;
        let device = self.device();
        let (_, life) = device.lives().find(|(id, _)| *id == channel).unwrap();
        Commitment::build(&life.setup().terms, side, contents)
    }

    fn contents(&mut self, side: Side, change: impl Fn(&mut Contents)) -> Contents {
        let states = if side == Side::Holder { &self.holder } else { &self.bridge };
        let mut contents = states.last().cloned().unwrap_or(Contents {
            number: CommitmentNumber::FIRST,
            point: public(1),
            fee_rate: FeeRate::from_sat_per_kwu(1_000),
            to_holder: Msat::from_amount(CAPACITY).unwrap(),
            to_bridge: Msat::ZERO,
            htlcs: vec![],
        });
        contents.number = CommitmentNumber::try_from(states.len() as u64).unwrap();
        contents.point = match side {
            Side::Bridge => self.seed.point(contents.number),
            Side::Holder => {
                let (channel, number) = (self.channel, contents.number);
                self.device().points(channel, number, 1).unwrap()[0]
            }
        };
        change(&mut contents);
        contents
    }

    fn proposal(contents: &Contents, built: &Commitment, preimages: &[Preimage]) -> Proposal {
        let Contents { number, fee_rate, to_holder, to_bridge, htlcs, .. } = contents.clone();
        let (preimages, txid) = (preimages.to_vec(), built.txid());
        Proposal { number, fee_rate, to_holder, to_bridge, htlcs, preimages, txid }
    }

    fn sign_bridge(&mut self, preimages: &[Preimage], change: impl Fn(&mut Contents)) {
        let contents = self.contents(Side::Bridge, change);
        let built = self.build(Side::Bridge, &contents);
        let (proposal, point) = (Self::proposal(&contents, &built, preimages), contents.point);
        let request = move |first| Request::SignBridge { proposal: proposal.clone(), point, first };
        let joint = self.share.as_ref().unwrap().public_key();
        let got = self.ask(&request, Some((built.digest(), Finisher::Gateway)));
        let Got::Signed(signature, htlc_signatures) = got else { panic!("{got:?}") };
        assert!(built.digest().is_signed(&joint, &signature));
        assert_eq!(htlc_signatures.len(), built.htlcs().len());
        self.bridge.push(contents);
    }

    /// Asks for the first half of a signature on the bridge's next state, and gives the request and its number.
    fn begin_round(&mut self, change: impl Fn(&mut Contents)) -> (u64, Request) {
        let contents = self.contents(Side::Bridge, change);
        let built = self.build(Side::Bridge, &contents);
        let (proposal, point) = (Self::proposal(&contents, &built, &[]), contents.point);
        let (id, channel) = (self.next_id(), self.channel);
        let round = round_id(&[self.connection; 32], id);
        let share = self.share.as_ref().unwrap();
        let (_, first) = share.start(round, built.digest().to_bytes(), Finisher::Gateway).unwrap();
        let request = Request::SignBridge { proposal, point, first };
        let said = self.one(ToDevice::Request { id, channel, request: request.clone() });
        assert!(matches!(said, ToGateway::Answer { answer: Answer::Signing { .. }, .. }), "{said:?}");
        (id, request)
    }

    fn holder_request(
        &mut self,
        preimages: &[Preimage],
        change: impl Fn(&mut Contents),
    ) -> (Contents, Digest, ecdsa::Signature, Asking) {
        let contents = self.contents(Side::Holder, change);
        let built = self.build(Side::Holder, &contents);
        let key = secret_key(&secret(HTLC), &contents.point);
        let signature = built.digest().sign(&secret(FUNDING));
        let htlc_signatures: Vec<ecdsa::Signature> =
            built.htlcs().iter().map(|output| output.second_stage_digest(&built).sign(&key)).collect();
        let proposal = Self::proposal(&contents, &built, preimages);
        let request = move |first| {
            let (proposal, htlc_signatures) = (proposal.clone(), htlc_signatures.clone());
            Request::ValidateHolder { proposal, signature, htlc_signatures, first }
        };
        (contents, built.digest(), signature, Box::new(request))
    }

    fn validate_holder(
        &mut self,
        preimages: &[Preimage],
        change: impl Fn(&mut Contents),
    ) -> ecdsa::Signature {
        let (contents, digest, signature, request) = self.holder_request(preimages, change);
        let got = self.ask(&request, Some((digest, Finisher::Device)));
        let Got::Answer(Answer::HolderComplete { number }) = got else { panic!("{got:?}") };
        assert_eq!(number, contents.number);
        self.holder.push(contents);
        signature
    }

    fn revoke(&mut self) {
        let revoked = self.holder[self.holder.len() - 2].clone();
        let number = revoked.number;
        let got = self.ask(&move |_| Request::Revoke { number }, None);
        let Got::Answer(Answer::Secret { number: of, secret }) = got else { panic!("{got:?}") };
        assert_eq!((of, secret.point()), (number, Some(revoked.point)));
    }

    /// A payment from its HTLC to its end, as the bridge and the gateway bring it about.
    fn pay(&mut self, htlc: Htlc, preimage: Preimage) {
        self.sign_bridge(&[], add(htlc));
        self.bridge_revokes();
        self.validate_holder(&[], add(htlc));
        self.revoke();
        self.validate_holder(&[preimage], fulfil(htlc));
        self.revoke();
        self.sign_bridge(&[preimage], fulfil(htlc));
        self.bridge_revokes();
        let (_, life) = self.device().paying().unwrap();
        assert!(life.state().account().is_settled());
    }

    fn bridge_revokes(&mut self) {
        let number = self.bridge[self.bridge.len() - 2].number;
        let secret = self.seed.secret(number);
        let got = self.ask(&move |_| Request::BridgeRevoked { number, secret: secret.clone() }, None);
        assert!(matches!(got, Got::Answer(Answer::Done)), "{got:?}");
    }

    /// A channel whose funding may be signed.
    fn open() -> Self {
        Self::open_as(false)
    }

    fn open_as(is_thorough: bool) -> Self {
        Self { is_thorough, ..Self::new() }.opened()
    }

    fn opened(self) -> Self {
        let mut world = self;
        world.generate();
        world.restart();
        let terms = world.terms();
        let got = world.ask(&move |_| Request::Open(terms), None);
        assert!(matches!(got, Got::Answer(Answer::Done)), "{got:?}");
        world.sign_bridge(&[], |_| {});
        world.validate_holder(&[], |_| {});
        let got = world.ask(&|_| Request::Fund, None);
        let Got::Answer(Answer::Fund(statement)) = got else { panic!("{got:?}") };
        let identity = world.device().secret().identity();
        assert!(statement.is_from(&identity) && statement.outpoint == terms.funding);
        world
    }

    /// A second channel, up to its funding.
    fn begin_another(&mut self) {
        (self.holder, self.bridge) = (vec![], vec![]);
        self.generate();
        self.restart();
        let terms = OpenTerms { funding: OutPoint { vout: 2, ..self.terms().funding }, ..self.terms() };
        let got = self.ask(&move |_| Request::Open(terms), None);
        assert!(matches!(got, Got::Answer(Answer::Done)), "{got:?}");
        self.sign_bridge(&[], |_| {});
        self.validate_holder(&[], |_| {});
    }

    /// Has the device agree to pay the invoice.
    fn approve(&mut self) -> Result<(), GiveError> {
        let ((invoice, _), channel, tip) = (invoice(), self.channel, self.device().headers().tip());
        self.device().give(channel, Input::Approve { invoice, source: Source::Direct, tip }).map(drop)
    }

    /// The files of the device's folder that hold these bytes.
    fn files_with(&self, bytes: &[u8]) -> BTreeSet<String> {
        files_with(self.home.path(), bytes)
    }

    /// What would be published now, without closing anything.
    fn publication(&mut self) -> Publication {
        let (_, life) = self.device().lives().next().unwrap();
        let closed = life.state().handle(life.setup(), Input::CloseAlone).unwrap();
        let (_, effects) = closed.commit(|_| Ok::<_, ()>(())).unwrap();
        let Some(Effect::Publish(publication)) = effects.into_iter().next() else { panic!("a publication") };
        *publication
    }
}

fn files_with(folder: &Path, bytes: &[u8]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let content = fs::read(entry.path()).unwrap();
        if content.windows(bytes.len()).any(|window| window == bytes) {
            found.insert(entry.file_name().into_string().unwrap());
        }
    }
    found
}

fn htlc(preimage: &Preimage) -> Htlc {
    Htlc {
        offered_by: Side::Holder,
        amount: Msat::new(20_000_000),
        payment_hash: preimage.hash(),
        expiry: 500,
    }
}

fn add(htlc: Htlc) -> impl Fn(&mut Contents) {
    move |contents| {
        contents.to_holder = contents.to_holder.checked_sub(htlc.amount).unwrap();
        contents.htlcs.push(htlc);
    }
}

fn fulfil(htlc: Htlc) -> impl Fn(&mut Contents) {
    move |contents| {
        contents.htlcs.retain(|other| *other != htlc);
        contents.to_bridge = contents.to_bridge.saturating_add(htlc.amount);
    }
}

#[test]
fn opens_pays_and_closes_alone_with_a_crash_before_and_after_every_save() {
    let mut world = World::open_as(true);
    let (invoice, preimage) = invoice();
    let (channel, tip) = (world.channel, world.device().headers().tip());
    let source = Source::Direct;
    world.device().give(channel, Input::Approve { invoice, source, tip }).unwrap();
    world.restart();
    let htlc = htlc(&preimage);

    world.pay(htlc, preimage);
    let (_, life) = world.device().paying().unwrap();
    assert_eq!(life.state().account().balance(), Some(Msat::new(480_000_000)));

    // Before and after each save: one save for each of 7 requests, two for each of 3 holder commitments; and for each of 2 secrets one
    // save, and after the restart the place before erasing and another save.
    assert_eq!(world.crashes, 7 * 2 + 3 * 4 + 2 * (2 + 3));

    // Without the gateway.
    let publication = world.publication();
    world.device().give(channel, Input::CloseAlone).unwrap();
    let resumed = world.restart();
    assert_eq!(resumed, [Effect::Publish(Box::new(publication.clone()))], "a restart publishes again");
    assert_eq!(publication.claims.len(), 1);
    let claimed = publication.claims[0].value;
    // 480,000 sat less the fee: 724 weight units at 1,000 sat/kw.
    assert_eq!(claimed, Amount::from_sat(480_000 - 724));
    let keys = Seed::new([9; 64], Network::Regtest).owner_keys(0);
    let to = ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([8; 20]));
    let sweep = keys.sweep(&publication.claims, &to, FeeRate::BROADCAST_MIN).unwrap();
    assert_eq!(sweep.input[0].sequence.to_consensus_u32(), 144);
    // And no update any more.
    let number = CommitmentNumber::try_from(world.holder.len() as u64 - 1).unwrap();
    let got = world.ask_once(&move |_| Request::Revoke { number }, None, Disk::Works).unwrap();
    assert!(
        matches!(got, Got::Answer(Answer::Refused { ref rule, .. }) if rule == "channel-stage"),
        "{got:?}"
    );
}

/// The signatures of the newest holder commitment, in each form in which they could be stored: DER, as the state has them, and compact.
fn signatures(world: &mut World) -> Vec<Vec<u8>> {
    let witness = world.publication().commitment.input[0].witness.clone();
    let mut forms = Vec::new();
    for at in [1, 2] {
        // In a witness, a byte for the type of the signature comes after it.
        let der = witness[at][..witness[at].len() - 1].to_vec();
        forms.push(ecdsa::Signature::from_der(&der).unwrap().serialize_compact().to_vec());
        forms.push(der);
    }
    forms
}

#[test]
fn a_revoked_commitments_signatures_are_in_no_file_when_its_secret_leaves() {
    let mut world = World::open();
    let files = |world: &World, forms: &[Vec<u8>]| -> BTreeSet<String> {
        forms.iter().flat_map(|form| world.files_with(form)).collect()
    };
    let nowhere = BTreeSet::new();
    // Two states, each of which pays miners more than the one before: nothing else changes.
    for (rate, is_cut) in [(2_000, true), (3_000, false)] {
        let old = signatures(&mut world);
        let dearer = move |contents: &mut Contents| contents.fee_rate = FeeRate::from_sat_per_kwu(rate);
        world.sign_bridge(&[], dearer);
        world.bridge_revokes();
        world.validate_holder(&[], dearer);
        assert_ne!(files(&world, &old), nowhere, "it can still be published");

        let number = world.holder[world.holder.len() - 2].number;
        if is_cut {
            // Power is cut between storing that they are given up and erasing them. Nothing is closed in good order: that would
            // empty the log.
            let channel = world.channel;
            let effects = world.device().give(channel, Input::Revoke { number }).unwrap();
            assert_eq!(effects, [Effect::Erase(number)]);
            std::mem::forget(world.device.take());
            assert_ne!(files(&world, &old), nowhere, "else this test would show nothing");
            world.restart();
            assert_eq!(files(&world, &old), nowhere, "a restart erases first of all");
        }
        let got = world.ask_once(&move |_| Request::Revoke { number }, None, Disk::Works).unwrap();
        assert!(matches!(got, Got::Answer(Answer::Secret { .. })), "{got:?}");
        assert_eq!(files(&world, &old), nowhere, "while the device runs");
        let kept = signatures(&mut world);
        assert_ne!(files(&world, &kept), nowhere, "what can be published is kept");
    }
}

#[test]
fn the_secret_stays_while_the_log_cannot_be_emptied() {
    let mut world = World::open();
    world.sign_bridge(&[], dearer);
    world.bridge_revokes();
    world.validate_holder(&[], dearer);
    // A second reader holds on to an old state of the database.
    let path = world.home.path().join("device.sqlite");
    let reader = rusqlite::Connection::open(path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM channels;").unwrap();
    let _: i64 = reader.query_row("SELECT count(*) FROM channels", [], |row| row.get(0)).unwrap();
    world.device().store().patience(std::time::Duration::from_millis(50));
    let (id, channel, number) = (world.next_id(), world.channel, CommitmentNumber::FIRST);
    let request = ToDevice::Request { id, channel, request: Request::Revoke { number } };
    assert!(world.take(request.clone()).is_err(), "nothing is said");
    drop(reader);
    let said = world.one(request);
    assert!(matches!(said, ToGateway::Answer { answer: Answer::Secret { .. }, .. }), "{said:?}");
}

#[test]
fn a_cheat_in_a_round_bans_the_gateway_for_good_and_closes() {
    let mut world = World::open();
    let contents = world.contents(Side::Bridge, dearer);
    let built = world.build(Side::Bridge, &contents);
    let (proposal, point) = (World::proposal(&contents, &built, &[]), contents.point);
    let channel = world.channel;
    // An honest round over the same state is under way.
    let other = world.next_id();
    let (round, share) = (round_id(&[world.connection; 32], other), world.share.as_ref().unwrap());
    let (gateway, first) = share.start(round, built.digest().to_bytes(), Finisher::Gateway).unwrap();
    let request = Request::SignBridge { proposal: proposal.clone(), point, first };
    let sent = world.sent(ToDevice::Request { id: other, channel, request });
    let ToGateway::Answer { answer: Answer::Signing { first, .. }, .. } = &sent[0] else {
        panic!("{sent:?}")
    };
    let Step::Send(_, next) = gateway.next(first).unwrap() else { panic!() };

    let id = world.next_id();
    let round = round_id(&[world.connection; 32], id);
    let share = world.share.as_ref().unwrap();
    let (_, mut first) = share.start(round, built.digest().to_bytes(), Finisher::Gateway).unwrap();
    let middle = first.len() / 2;
    first[middle] ^= 1;
    let request = Request::SignBridge { proposal, point, first };
    let said = world.take(ToDevice::Request { id, channel: world.channel, request }).unwrap();
    let is_told = |said: &Said| matches!(said, Said::Refused { rule, .. } if rule == "joint-honest");
    assert!(said.iter().any(is_told), "{said:?}");
    assert!(said.iter().any(|said| matches!(said, Said::Publish(..))), "{said:?}");
    let said = world.one(ToDevice::Round { id: other, messages: vec![next] });
    assert!(
        matches!(said, ToGateway::Answer { answer: Answer::Interrupted, .. }),
        "no other round goes on: {said:?}"
    );

    let resumed = world.restart();
    assert!(matches!(resumed[..], [Effect::Publish(_)]));
    let (_, life) = world.device().lives().next().unwrap();
    assert!(life.state().is_banned());
    let number = CommitmentNumber::FIRST;
    let got = world.ask_once(&move |_| Request::Revoke { number }, None, Disk::Works).unwrap();
    assert!(matches!(got, Got::Answer(Answer::Refused { .. })), "{got:?}");
}

#[test]
fn a_round_that_was_cut_is_begun_afresh() {
    let mut world = World::open();
    let (id, _) = world.begin_round(dearer);
    world.restart();
    let said = world.one(ToDevice::Round { id, messages: vec![vec![1, 2, 3]] });
    assert!(matches!(said, ToGateway::Answer { answer: Answer::Interrupted, .. }), "{said:?}");
    world.sign_bridge(&[], dearer);
}

/// The round's name comes from the request's number, and the engine wants a name once.
#[test]
fn no_number_begins_a_second_round_on_a_connection() {
    let mut world = World::open();
    let (id, request) = world.begin_round(dearer);
    let (channel, round) = (world.channel, round_id(&[world.connection; 32], id));
    for repeated in [id, id - 1] {
        let said = world.one(ToDevice::Request { id: repeated, channel, request: request.clone() });
        let ToGateway::Answer { answer: Answer::Refused { rule, .. }, .. } = said else { panic!("{said:?}") };
        assert_eq!(rule, "round-number");
        let (_, first) = KeyGeneration::<GatewaySide>::start(round);
        let said = world.one(ToDevice::GenerateKey { id: repeated, first });
        let ToGateway::Answer { answer: Answer::Refused { rule, .. }, .. } = said else { panic!("{said:?}") };
        assert_eq!(rule, "round-number");
    }
    world.sign_bridge(&[], dearer);
}

/// The gateway could fill the disk with them.
#[test]
fn so_many_keys_are_kept_ready_and_no_more() {
    let mut world = World::new();
    world.generate();
    let channel = world.channel;
    let device = world.device();
    // A copy counts as another key, and is made in no time.
    let share = device.share(channel).unwrap().to_bytes();
    for _ in 2..MOST_READY {
        device.keep(Share::from_bytes(&share).unwrap()).unwrap();
    }
    world.generate();
    assert_eq!(world.device().ready(), MOST_READY);
    let id = world.next_id();
    let (_, first) = KeyGeneration::<GatewaySide>::start(round_id(&[world.connection; 32], id));
    let said = world.one(ToDevice::GenerateKey { id, first });
    let ToGateway::Answer { answer: Answer::Refused { rule, .. }, .. } = said else { panic!("{said:?}") };
    assert_eq!(rule, "keys-ready");
    assert_eq!(world.device().ready(), MOST_READY);

    // A channel begins with one of them.
    let terms = world.terms();
    let got = world.ask_once(&move |_| Request::Open(terms), None, Disk::Works).unwrap();
    assert!(matches!(got, Got::Answer(Answer::Done)), "{got:?}");
    world.generate();
    assert_eq!(world.device().ready(), MOST_READY);
}

#[test]
fn what_is_not_there_is_refused_by_name_and_reports_pass_through() {
    let mut world = World::open();
    let refusal = |said: ToGateway| match said {
        ToGateway::Answer { answer: Answer::Refused { rule, .. }, .. } => rule,
        other => panic!("{other:?}"),
    };
    let unknown = ChannelKeysId([3; 32]);
    let said = world.one(ToDevice::Request { id: 90, channel: unknown, request: Request::Fund });
    assert_eq!(refusal(said), "channel-unknown");
    let from = CommitmentNumber::FIRST;
    let request = Request::Points { from, count: 1_000 };
    let said = world.one(ToDevice::Request { id: 91, channel: world.channel, request });
    let ToGateway::Answer { answer: Answer::Points(points), .. } = said else { panic!() };
    assert_eq!(points.len(), 64);
    let other = OpenTerms { reserve: Amount::from_sat(6_000), ..world.terms() };
    let said = world.one(ToDevice::Request { id: 92, channel: world.channel, request: Request::Open(other) });
    assert_eq!(refusal(said), "channel-terms-same");
    let revoked = Revoked {
        commitment: world.publication().commitment,
        outputs: vec![],
        htlcs: vec![],
        fee_rate: FeeRate::BROADCAST_MIN,
    };
    let request = Request::Punish(Box::new(revoked));
    let said = world.one(ToDevice::Request { id: 93, channel: world.channel, request });
    assert_eq!(refusal(said), "onchain-revoked");
    let said = world.take(ToDevice::Report { id: 7, report: Report::Done }).unwrap();
    assert!(matches!(said[..], [Said::Report(7, Report::Done)]));
}

/// Limits hold for one channel's books, so a second one may not pay beside the first.
#[test]
fn a_second_channel_waits_until_the_first_is_closed() {
    let mut world = World::open();
    let first = world.channel;
    world.begin_another();
    let got = world.ask_once(&|_| Request::Fund, None, Disk::Works).unwrap();
    assert!(
        matches!(got, Got::Answer(Answer::Refused { ref rule, .. }) if rule == "channel-single"),
        "{got:?}"
    );
    world.device().give(first, Input::CloseAlone).unwrap();
    let got = world.ask_once(&|_| Request::Fund, None, Disk::Works).unwrap();
    assert!(matches!(got, Got::Answer(Answer::Fund(_))), "{got:?}");
}

#[test]
fn a_new_policy_reaches_channels_and_disk_and_an_old_one_is_refused() {
    let mut world = World::open();
    let owner = Seed::new([9; 64], Network::Regtest).owner_keys(0);
    let first = enrolled().policy;
    let policy = first.clone().verify(&owner.policy()).unwrap();
    let paused = owner.sign(Policy { version: 2, paused: true, ..policy });
    world.device().set_policy(paused.clone()).unwrap();
    world.restart();
    assert_eq!(world.device().enrolled().policy, paused);
    let (invoice, _) = invoice();
    let (channel, tip) = (world.channel, world.device().headers().tip());
    let refused = world.device().give(channel, Input::Approve { invoice, source: Source::Direct, tip });
    assert!(matches!(refused, Err(GiveError::Rule(Reject::Paused))), "{refused:?}");
    let older = world.device().set_policy(first);
    assert!(matches!(older, Err(GiveError::Rule(Reject::PolicyVersion { current: 2, got: 1 }))), "{older:?}");
    let forged =
        Seed::new([8; 64], Network::Regtest).owner_keys(0).sign(policy_of(&paused, &owner.policy(), 3));
    let forged = world.device().set_policy(forged);
    assert!(matches!(forged, Err(GiveError::Rule(Reject::PolicySignature))), "{forged:?}");
}

/// The gateway is told of the newer one when the device has it, and the channels go by theirs.
#[test]
fn a_new_policy_is_in_force_everywhere_or_nowhere() {
    let mut world = World::open();
    let owner = Seed::new([9; 64], Network::Regtest).owner_keys(0);
    let versions = |world: &mut World| {
        let enrolled = world.device().enrolled().policy.clone().verify(&owner.policy()).unwrap().version;
        let (_, life) = world.device().paying().unwrap();
        (enrolled, life.state().account().policy().version)
    };
    // The disk fails after the channel's state.
    let database = rusqlite::Connection::open(world.home.path().join("device.sqlite")).unwrap();
    let full = "CREATE TRIGGER full BEFORE UPDATE ON enrolled BEGIN SELECT RAISE(ABORT, 'full'); END;";
    database.execute_batch(full).unwrap();
    let second = owner.sign(policy_of(&enrolled().policy, &owner.policy(), 2));
    let failed = world.device().set_policy(second.clone());
    assert!(matches!(failed, Err(GiveError::Store(_))), "{failed:?}");
    assert_eq!(versions(&mut world), (1, 1));
    world.restart();
    assert_eq!(versions(&mut world), (1, 1));
    database.execute_batch("DROP TRIGGER full").unwrap();
    drop(database);

    for point in 1.. {
        let done = world.crash_at(point, |world| world.device().set_policy(second.clone()));
        world.restart();
        let (enrolled, channel) = versions(&mut world);
        assert_eq!(enrolled, channel, "after a crash at point {point}");
        if done.is_some() {
            break;
        }
    }
    assert_eq!(versions(&mut world), (2, 2));
}

fn policy_of(signed: &SignedPolicy, owner: &secp256k1::XOnlyPublicKey, version: u64) -> Policy {
    Policy { version, ..signed.clone().verify(owner).unwrap() }
}

#[test]
fn nobody_else_can_read_the_devices_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::open();
    for entry in fs::read_dir(world.home.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

/// What release 1 writes besides states, which `protocol/tests/device_stored.rs` freezes. Before the first release, run
/// `cargo test -p farthing-node --lib writes_what_is_stored -- --ignored` to write it afresh; after it, these files never change.
const FROZEN_ENROLLED: &str = include_str!("stored/enrolled.hex");
const FROZEN_TERMS: &str = include_str!("stored/terms.hex");

#[test]
fn what_release_1_stored_is_read() {
    use bitcoin::hex::FromHex as _;
    let bytes = |hex: &str| Vec::<u8>::from_hex(hex.trim()).unwrap();
    let read: Enrolled = crate::store::decode("enrolment", &bytes(FROZEN_ENROLLED)).unwrap();
    assert_eq!(read, enrolled());
    let read: OpenTerms = crate::store::decode("terms", &bytes(FROZEN_TERMS)).unwrap();
    assert_eq!(read, World::new().terms());
}

#[test]
#[ignore = "writes the frozen files"]
fn writes_what_is_stored() {
    use bitcoin::hex::DisplayHex as _;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/device/stored");
    let write =
        |name: &str, bytes: Vec<u8>| fs::write(folder.join(name), format!("{:x}\n", bytes.as_hex())).unwrap();
    write("enrolled.hex", crate::store::encode(&enrolled()));
    write("terms.hex", crate::store::encode(&World::new().terms()));
}
