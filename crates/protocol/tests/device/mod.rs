//! A channel between a device and a bridge, in one process. The bridge is a second, small implementation of the same dance; the
//! gateway is the test itself. The joint key is an ordinary key here: the machine sees only whether a signature fits.
//!
//! After each decision the device's state is written down and read back: every step goes on from a stored state.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Amount, FeeRate, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use farthing_protocol::Msat;
use farthing_protocol::device::bolt3::keys::secret_key;
use farthing_protocol::device::bolt3::{
    Basepoints, Commitment, CommitmentNumber, CommitmentSeed, Contents, Digest, Htlc, PartyTerms,
    PaymentHash, Preimage, RevokedSecrets, Side, Terms,
};
use farthing_protocol::device::joint::JointSignature;
use farthing_protocol::device::keys::{DeviceKeys, DeviceSecret};
use farthing_protocol::device::payments::Source;
use farthing_protocol::device::setup::{BadTerms, Bounds};
use farthing_protocol::device::{
    Effect, Enrolment, Finisher, Input, Invoice, Policy, Proposal, Reject, Setup, SignedPolicy, State, Tip,
};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use secp256k1::{Keypair, PublicKey, SECP256K1, SecretKey, ecdsa};

pub const CAPACITY: Amount = Amount::from_sat(1_000_000);
pub const NOW: Tip = Tip { height: 800_000, time: 1_700_000_000 };

pub fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).unwrap()
}

pub fn public(byte: u8) -> PublicKey {
    secret(byte).public_key(SECP256K1)
}

pub const JOINT: u8 = 0x10;
const OWNER: u8 = 0x11;
const COLD_PAYMENT: u8 = 0x12;
const COLD_DELAYED: u8 = 0x13;
pub const PAYEE: u8 = 0x14;
const BRIDGE_FUNDING: u8 = 0x20;
const BRIDGE_PAYMENT: u8 = 0x21;
const BRIDGE_DELAYED: u8 = 0x22;
const BRIDGE_HTLC: u8 = 0x23;
const BRIDGE_REVOCATION: u8 = 0x24;

pub fn policy() -> Policy {
    Policy {
        version: 1,
        paused: false,
        payees: vec![public(PAYEE)],
        per_payment: Msat::new(60_000_000),
        per_hour: Msat::new(150_000_000),
        per_day: Msat::new(300_000_000),
        in_flight: Msat::new(120_000_000),
        fee_base: Msat::new(1_000),
        fee_ppm: 10_000,
        least_fee_rate: FeeRate::from_sat_per_kwu(500),
        most_fee_rate: FeeRate::from_sat_per_kwu(10_000),
        most_htlcs: 10,
        most_expiry_delta: 1_000,
    }
}

pub fn signed(policy: Policy) -> SignedPolicy {
    policy.sign(&Keypair::from_secret_key(SECP256K1, &secret(OWNER)))
}

pub fn owner_script() -> ScriptBuf {
    ScriptBuf::new_p2wpkh(&bitcoin::WPubkeyHash::from_byte_array([9; 20]))
}

pub fn enrolment() -> Enrolment {
    Enrolment {
        owner: public(OWNER).x_only_public_key().0,
        network: Network::Regtest,
        payment: public(COLD_PAYMENT),
        delayed_payment: public(COLD_DELAYED),
        closing_script: owner_script(),
        bounds: Bounds {
            least_bridge_delay: 1_008,
            most_holder_delay: 2_016,
            most_reserve: Amount::from_sat(10_000),
            most_capacity: CAPACITY,
        },
    }
}

pub fn device_keys() -> DeviceKeys {
    DeviceSecret::new([7; 32]).channel_keys(&[8; 32])
}

pub fn terms() -> Terms {
    let keys = device_keys();
    Terms {
        funding: OutPoint { txid: Txid::from_byte_array([5; 32]), vout: 1 },
        capacity: CAPACITY,
        holder: PartyTerms {
            funding_key: public(JOINT),
            basepoints: Basepoints {
                payment: public(COLD_PAYMENT),
                delayed_payment: public(COLD_DELAYED),
                htlc: keys.htlc_basepoint(),
                revocation: keys.revocation_basepoint(),
            },
            dust_limit: Amount::from_sat(354),
            delay: 144,
        },
        bridge: PartyTerms {
            funding_key: public(BRIDGE_FUNDING),
            basepoints: Basepoints {
                payment: public(BRIDGE_PAYMENT),
                delayed_payment: public(BRIDGE_DELAYED),
                htlc: public(BRIDGE_HTLC),
                revocation: public(BRIDGE_REVOCATION),
            },
            dust_limit: Amount::from_sat(546),
            delay: 2_016,
        },
    }
}

pub fn setup_with(terms: Terms) -> Result<Setup, BadTerms> {
    Setup::new(enrolment(), device_keys(), terms, public(JOINT), Amount::from_sat(10_000))
}

pub fn preimage(byte: u8) -> Preimage {
    Preimage([byte; 32])
}

/// An HTLC of ours for the invoice of [`invoice`] with that number and amount, at the invoice's exact amount.
pub fn htlc(byte: u8, msat: u64) -> Htlc {
    Htlc {
        offered_by: Side::Holder,
        amount: Msat::new(msat),
        payment_hash: preimage(byte).hash(),
        expiry: NOW.height + 100,
    }
}

pub fn from_bridge(byte: u8, msat: u64) -> Htlc {
    Htlc { offered_by: Side::Bridge, ..htlc(byte, msat) }
}

/// An invoice of the payee with that key, valid for an hour from [`NOW`].
pub fn invoice_of(payee: u8, byte: u8, msat: u64) -> Invoice {
    invoice_at(NOW.time, payee, byte, msat)
}

/// The same, made at another time.
pub fn invoice_at(time: u64, payee: u8, byte: u8, msat: u64) -> Invoice {
    invoice_for(preimage(byte).hash(), time, payee, msat)
}

/// The same, of any payment hash.
pub fn invoice_for(hash: PaymentHash, time: u64, payee: u8, msat: u64) -> Invoice {
    invoice_as(hash, time, 3_600, payee, msat)
}

/// The same as [`invoice`], valid for so many seconds.
pub fn invoice_lasting(seconds: u64, byte: u8, msat: u64) -> Invoice {
    invoice_as(preimage(byte).hash(), NOW.time, seconds, PAYEE, msat)
}

/// Any invoice.
pub fn invoice_as(hash: PaymentHash, time: u64, seconds: u64, payee: u8, msat: u64) -> Invoice {
    let invoice = InvoiceBuilder::new(Currency::Regtest)
        .amount_milli_satoshis(msat)
        .description("toll".into())
        .payment_hash(sha256::Hash::from_byte_array(hash.0))
        .payment_secret(PaymentSecret([1; 32]))
        .duration_since_epoch(Duration::from_secs(time))
        .expiry_time(Duration::from_secs(seconds))
        .min_final_cltv_expiry_delta(18)
        .build_signed(|digest| SECP256K1.sign_ecdsa_recoverable(digest, &secret(payee)))
        .unwrap();
    Invoice::parse(&invoice.to_string(), Network::Regtest).unwrap()
}

pub fn invoice(byte: u8, msat: u64) -> Invoice {
    invoice_of(PAYEE, byte, msat)
}

/// A state of the channel, for the next commitment of either side.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    pub fee_rate: FeeRate,
    pub to_holder: Msat,
    pub to_bridge: Msat,
    pub htlcs: Vec<Htlc>,
    pub preimages: Vec<Preimage>,
}

impl Next {
    pub fn first() -> Self {
        Self {
            fee_rate: FeeRate::from_sat_per_kwu(1_000),
            to_holder: Msat::from_amount(CAPACITY).unwrap(),
            to_bridge: Msat::ZERO,
            htlcs: Vec::new(),
            preimages: Vec::new(),
        }
    }

    fn after(contents: &Contents) -> Self {
        let Contents { fee_rate, to_holder, to_bridge, htlcs, .. } = contents.clone();
        Self { fee_rate, to_holder, to_bridge, htlcs, preimages: Vec::new() }
    }

    pub fn add(mut self, htlc: Htlc) -> Self {
        let balance = match htlc.offered_by {
            Side::Holder => &mut self.to_holder,
            Side::Bridge => &mut self.to_bridge,
        };
        *balance = balance.checked_sub(htlc.amount).expect("the side can offer that much");
        self.htlcs.push(htlc);
        self
    }

    /// It goes back to who offered it.
    pub fn fail(mut self, htlc: Htlc) -> Self {
        self.remove(&htlc);
        self.pay(htlc.offered_by, htlc.amount);
        self
    }

    /// It goes to the other side.
    pub fn fulfil(mut self, htlc: Htlc, preimage: Preimage) -> Self {
        self.remove(&htlc);
        self.pay(htlc.offered_by.other(), htlc.amount);
        self.preimages.push(preimage);
        self
    }

    fn remove(&mut self, htlc: &Htlc) {
        let at = self.htlcs.iter().position(|other| other == htlc).expect("it is there");
        self.htlcs.remove(at);
    }

    fn pay(&mut self, side: Side, amount: Msat) {
        let balance = match side {
            Side::Holder => &mut self.to_holder,
            Side::Bridge => &mut self.to_bridge,
        };
        *balance = balance.saturating_add(amount);
    }
}

/// Device and bridge.
pub struct World {
    pub setup: Setup,
    pub state: State,
    pub tip: Tip,
    /// The bridge's seed of secrets.
    pub seed: CommitmentSeed,
    /// Secrets that the bridge got from the device.
    pub revealed: RevokedSecrets,
    /// What the bridge may publish, newest last, revoked ones included.
    pub bridge: Vec<Contents>,
    /// What the device may publish, newest last, revoked ones included.
    pub holder: Vec<Contents>,
    /// How many secrets each side has revealed.
    pub revoked_by_bridge: u64,
    pub revoked_by_holder: u64,
    /// How many of the next saves fail.
    pub crashes: u32,
}

impl World {
    /// Nothing is signed yet.
    pub fn new() -> Self {
        let setup = setup_with(terms()).unwrap();
        let opened = State::open(&setup, signed(policy())).unwrap();
        let (state, effects) = opened.commit(|_| Ok::<_, ()>(())).unwrap();
        assert!(effects.is_empty());
        let seed = CommitmentSeed::new([0x55; 32]);
        let (revealed, bridge, holder) = (RevokedSecrets::default(), Vec::new(), Vec::new());
        Self {
            setup,
            state,
            tip: NOW,
            seed,
            revealed,
            bridge,
            holder,
            revoked_by_bridge: 0,
            revoked_by_holder: 0,
            crashes: 0,
        }
    }

    /// State 0 on both sides, and the funding signed.
    pub fn open() -> Self {
        let mut world = Self::new();
        world.commit_bridge(Next::first()).unwrap();
        world.commit_holder(Next::first()).unwrap();
        let effects = world.give(Input::Fund).unwrap();
        assert!(matches!(effects[..], [Effect::Fund(_)]));
        world
    }

    /// One input. The state is stored and read back; the same input again must give the same effects and the same state.
    pub fn give(&mut self, input: Input) -> Result<Vec<Effect>, Reject> {
        if self.crashes > 0 {
            self.crashes -= 1;
            // Nothing was stored and nothing comes out. The device starts from its old state and is asked again.
            let lost = self.state.handle(&self.setup, input.clone())?;
            assert_eq!(lost.commit(|_| Err("crash")), Err("crash"));
            self.state = stored(&self.state);
        }
        let transition = self.state.handle(&self.setup, input.clone())?;
        let (next, effects) = transition.commit(|_| Ok::<_, ()>(())).unwrap();
        self.state = stored(&next);
        if !matches!(input, Input::Erased { .. }) {
            let again = self.state.handle(&self.setup, input).expect("what was done may be asked for again");
            let (same, again) = again.commit(|_| Ok::<_, ()>(())).unwrap();
            assert_eq!((&same, &again), (&self.state, &effects));
        }
        Ok(effects)
    }

    /// Whether the side has a commitment that it must revoke before the next.
    pub fn has_previous(&self, side: Side) -> bool {
        match side {
            Side::Bridge => self.bridge.len() as u64 > self.revoked_by_bridge + 1,
            Side::Holder => self.holder.len() as u64 > self.revoked_by_holder + 1,
        }
    }

    pub fn number(states: &[Contents]) -> CommitmentNumber {
        CommitmentNumber::try_from(states.len() as u64).unwrap()
    }

    pub fn next_bridge(&self) -> Next {
        Next::after(self.bridge.last().unwrap())
    }

    pub fn next_holder(&self) -> Next {
        Next::after(self.holder.last().unwrap())
    }

    fn proposal(&self, side: Side, next: &Next) -> (Proposal, Contents) {
        let (number, point) = match side {
            Side::Bridge => {
                let number = Self::number(&self.bridge);
                (number, self.seed.point(number))
            }
            Side::Holder => {
                let number = Self::number(&self.holder);
                (number, self.setup.point(number))
            }
        };
        let Next { fee_rate, to_holder, to_bridge, htlcs, preimages } = next.clone();
        let contents = Contents { number, point, fee_rate, to_holder, to_bridge, htlcs: htlcs.clone() };
        let txid = Commitment::build(&self.setup.terms, side, &contents).txid();
        (Proposal { number, fee_rate, to_holder, to_bridge, htlcs, preimages, txid }, contents)
    }

    /// The gateway has the bridge's next commitment signed.
    pub fn commit_bridge(&mut self, next: Next) -> Result<Transaction, Reject> {
        self.commit_bridge_as(next, |_| {})
    }

    /// The same, with a request that was changed after it was made up.
    pub fn commit_bridge_as(
        &mut self,
        next: Next,
        change: impl FnOnce(&mut Proposal),
    ) -> Result<Transaction, Reject> {
        let (mut proposal, contents) = self.proposal(Side::Bridge, &next);
        change(&mut proposal);
        let (point, tip) = (contents.point, self.tip);
        let effects = self.give(Input::SignBridge { proposal, point, tip })?;
        let [Effect::SignBridge { number, task, htlc_signatures }] = &effects[..] else {
            panic!("one answer, not {effects:?}")
        };
        assert_eq!(*number, contents.number);
        let built = Commitment::build(&self.setup.terms, Side::Bridge, &contents);
        let digest = task.digest();
        assert_eq!((digest, task.finisher()), (built.digest(), Finisher::Gateway));
        assert_eq!(htlc_signatures.len(), built.htlcs().len());
        for (output, signature) in built.htlcs().iter().zip(htlc_signatures) {
            assert!(output.second_stage_digest(&built).is_signed(&built.keys().other_htlc, signature));
        }
        self.bridge.push(contents);
        let (joint, own) = (digest.sign(&secret(JOINT)), digest.sign(&secret(BRIDGE_FUNDING)));
        let transaction = built.complete(&self.setup.terms, &joint, &own);
        self.assert_spends_funding(&transaction);
        Ok(transaction)
    }

    /// The bridge reveals the secret of its commitment before the newest.
    pub fn revoke_bridge(&mut self) -> Result<(), Reject> {
        let number = self.bridge[self.bridge.len() - 2].number;
        let secret = self.seed.secret(number);
        assert!(self.give(Input::BridgeRevoked { number, secret })?.is_empty());
        self.revoked_by_bridge += 1;
        Ok(())
    }

    /// The bridge signs the holder's next commitment, and device and gateway complete it.
    pub fn commit_holder(&mut self, next: Next) -> Result<(), Reject> {
        let (number, digest) = self.validate_holder(next)?;
        self.complete_holder(number, &digest)
    }

    /// Only the first half: the joint round has not ended.
    pub fn validate_holder(&mut self, next: Next) -> Result<(CommitmentNumber, Digest), Reject> {
        self.validate_holder_as(next, |_, _, _| {})
    }

    /// The same, with a request that was changed after it was made up.
    pub fn validate_holder_as(
        &mut self,
        next: Next,
        change: impl FnOnce(&mut Proposal, &mut ecdsa::Signature, &mut Vec<ecdsa::Signature>),
    ) -> Result<(CommitmentNumber, Digest), Reject> {
        let (mut proposal, contents) = self.proposal(Side::Holder, &next);
        let built = Commitment::build(&self.setup.terms, Side::Holder, &contents);
        let mut signature = built.digest().sign(&secret(BRIDGE_FUNDING));
        let htlc_key = secret_key(&secret(BRIDGE_HTLC), &contents.point);
        let sign = |output: &farthing_protocol::device::bolt3::commitment::HtlcOutput| {
            output.second_stage_digest(&built).sign(&htlc_key)
        };
        let mut htlc_signatures: Vec<ecdsa::Signature> = built.htlcs().iter().map(sign).collect();
        change(&mut proposal, &mut signature, &mut htlc_signatures);
        let effects = self.give(Input::ValidateHolder { proposal, signature, htlc_signatures })?;
        let [Effect::SignHolder { number, task }] = &effects[..] else { panic!("a round, not {effects:?}") };
        assert_eq!((*number, task.digest()), (contents.number, built.digest()));
        assert_eq!(task.finisher(), Finisher::Device, "the gateway never holds a signed holder commitment");
        let (number, digest) = (contents.number, built.digest());
        self.holder.push(contents);
        Ok((number, digest))
    }

    pub fn complete_holder(&mut self, number: CommitmentNumber, digest: &Digest) -> Result<(), Reject> {
        let signature = JointSignature(digest.sign(&secret(JOINT)));
        let effects = self.give(Input::HolderSigned { number, signature })?;
        assert_eq!(effects, [Effect::HolderComplete(number)]);
        Ok(())
    }

    /// The device gives up the holder's commitment before the newest; the bridge checks the secret.
    pub fn revoke_holder(&mut self) -> Result<(), Reject> {
        let revoked = self.holder[self.holder.len() - 2].clone();
        let number = revoked.number;
        assert_eq!(self.give(Input::Revoke { number })?, [Effect::Erase(number)]);
        assert_eq!(self.state.resume(&self.setup), [Effect::Erase(number)]);
        let effects = self.give(Input::Erased { number })?;
        let [Effect::Reveal { number: of, secret }] = &effects[..] else {
            panic!("a secret, not {effects:?}")
        };
        assert_eq!((*of, secret.point()), (number, Some(revoked.point)));
        self.revealed.insert(number, secret.clone()).unwrap();
        assert_eq!(self.give(Input::Revoke { number })?, effects);
        self.revoked_by_holder += 1;
        Ok(())
    }

    pub fn approve(&mut self, invoice: Invoice, source: Source) -> Result<(), Reject> {
        let hash: PaymentHash = invoice.payment_hash();
        let effects = self.give(Input::Approve { invoice, source, tip: self.tip })?;
        assert_eq!(effects, [Effect::Approved(hash)]);
        Ok(())
    }

    /// An HTLC of ours, from the approved invoice until both sides have it irrevocably.
    pub fn lock_in(&mut self, htlc: Htlc) -> Result<(), Reject> {
        self.commit_bridge(self.next_bridge().add(htlc))?;
        self.revoke_bridge()?;
        self.commit_holder(self.next_holder().add(htlc))?;
        self.revoke_holder()
    }

    /// An HTLC of the bridge, until both sides have it irrevocably.
    pub fn lock_in_from_bridge(&mut self, htlc: Htlc) -> Result<(), Reject> {
        self.commit_holder(self.next_holder().add(htlc))?;
        self.revoke_holder()?;
        self.commit_bridge(self.next_bridge().add(htlc))?;
        self.revoke_bridge()
    }

    /// What changes a state, first on the holder's side, then on the bridge's: the bridge proposed it.
    pub fn settle(&mut self, change: impl Fn(Next) -> Next) -> Result<(), Reject> {
        self.commit_holder(change(self.next_holder()))?;
        self.revoke_holder()?;
        self.commit_bridge(change(self.next_bridge()))?;
        self.revoke_bridge()
    }

    /// The whole of a payment.
    pub fn pay(&mut self, byte: u8, msat: u64) -> Result<(), Reject> {
        self.approve(invoice(byte, msat), Source::Direct)?;
        let htlc = htlc(byte, msat);
        self.lock_in(htlc)?;
        self.settle(|next| next.fulfil(htlc, preimage(byte)))
    }

    pub fn assert_spends_funding(&self, transaction: &Transaction) {
        assert!(spends(&self.setup.terms.funding_txout(), transaction), "consensus rejects {transaction:#?}");
    }
}

/// Written down and read back.
pub fn stored(state: &State) -> State {
    let bytes = postcard::to_stdvec(state).unwrap();
    postcard::from_bytes(&bytes).unwrap()
}

/// Whether Bitcoin Core's consensus code lets the transaction spend that output.
pub fn spends(output: &TxOut, transaction: &Transaction) -> bool {
    spends_input(output, transaction, 0)
}

/// The same for another input than the first.
pub fn spends_input(output: &TxOut, transaction: &Transaction, index: usize) -> bool {
    let (script, bytes) = (output.script_pubkey.as_bytes(), serialize(transaction));
    bitcoinconsensus::verify(script, output.value.to_sat(), &bytes, None, index).is_ok()
}
