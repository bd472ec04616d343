//! A party's share of a joint key.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use dkls23_secp256k1::Party;
use dkls23_secp256k1::protocols::PartyIndex;
use farthing_protocol::device::joint::{DeviceShare, Failure, Finisher, GatewayShare, RoundId, Task};
use k256::elliptic_curve::sec1::ToSec1Point;
use secp256k1::PublicKey;
use zeroize::Zeroizing;

use crate::signing::SigningRound;

/// Room for a stored share, so that writing one never moves it and leaves a copy behind.
const ROOM: usize = 1 << 17;

/// Which of the two parties.
pub trait Role: private::Role {}

/// The device's side.
#[derive(Debug)]
pub enum Device {}

/// The gateway's side.
#[derive(Debug)]
pub enum Gateway {}

impl Role for Device {}
impl Role for Gateway {}

pub(crate) mod private {
    use dkls23_secp256k1::protocols::PartyIndex;
    use farthing_protocol::device::joint::Finisher;

    /// What tells the parties apart.
    pub trait Role: Sized {
        /// The number of this party in the engine.
        const INDEX: u8;
        /// The number of the other.
        const OTHER: u8;
        /// What names this party as the one that learns the signature.
        const FINISHER: Finisher;

        fn index() -> PartyIndex {
            PartyIndex::new(Self::INDEX).expect("indexes count from 1")
        }

        fn other_index() -> PartyIndex {
            PartyIndex::new(Self::OTHER).expect("indexes count from 1")
        }
    }
}

impl private::Role for Device {
    const INDEX: u8 = 1;
    const OTHER: u8 = 2;
    const FINISHER: Finisher = Finisher::Device;
}

impl private::Role for Gateway {
    const INDEX: u8 = 2;
    const OTHER: u8 = 1;
    const FINISHER: Finisher = Finisher::Gateway;
}

/// One party's half of a joint key. Neither `Clone` nor `Debug` shows it; wiped when the last round with it has ended.
pub struct Share<R: Role> {
    party: Arc<Party>,
    public_key: PublicKey,
    role: PhantomData<R>,
}

/// Stored bytes that are no share of this party.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a stored share of this party: {0}")]
pub struct BadShare(String);

impl<R: Role> Share<R> {
    pub(crate) fn new(party: Party) -> Result<Self, BadShare> {
        let bad = |why: &str| Err(BadShare(why.into()));
        if party.party_index != R::index() {
            return bad("it is the other party's");
        }
        if (party.parameters.threshold, party.parameters.share_count) != (2, 2) {
            return bad("it is not two of two");
        }
        let other = [R::other_index()];
        if !party.mul_senders.keys().eq(&other) || !party.mul_receivers.keys().eq(&other) {
            return bad("the other party is not its only peer");
        }
        let point = party.pk.to_sec1_point(true);
        match PublicKey::from_slice(point.as_bytes()) {
            Ok(public_key) => Ok(Self { party: Arc::new(party), public_key, role: PhantomData }),
            Err(_) => bad("the joint key is no point of the curve"),
        }
    }

    /// The joint public key.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// The share, to be stored as a secret.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let room = Vec::with_capacity(ROOM);
        let bytes = postcard::to_extend(&*self.party, room).expect("a share is plain data");
        Zeroizing::new(bytes)
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// When the bytes are no share of this party.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadShare> {
        match postcard::take_from_bytes(bytes) {
            Ok((party, [])) => Self::new(party),
            Ok(_) => Err(BadShare("bytes are left over".into())),
            Err(error) => Err(BadShare(error.to_string())),
        }
    }

    fn start(
        &self,
        id: RoundId,
        digest: [u8; 32],
        finisher: Finisher,
    ) -> Result<(SigningRound<R>, Vec<u8>), Failure> {
        SigningRound::start(self.party.clone(), self.public_key, id, digest, finisher)
    }
}

impl<R: Role> fmt::Debug for Share<R> {
    /// Says nothing of the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({})", self.public_key)
    }
}

impl DeviceShare for Share<Device> {
    type Round = SigningRound<Device>;

    fn public_key(&self) -> PublicKey {
        self.public_key
    }

    fn start(&self, id: RoundId, task: &Task) -> Result<(Self::Round, Vec<u8>), Failure> {
        self.start(id, task.digest().to_bytes(), task.finisher())
    }
}

impl GatewayShare for Share<Gateway> {
    type Round = SigningRound<Gateway>;

    fn public_key(&self) -> PublicKey {
        self.public_key
    }

    fn start(
        &self,
        id: RoundId,
        digest: [u8; 32],
        finisher: Finisher,
    ) -> Result<(Self::Round, Vec<u8>), Failure> {
        self.start(id, digest, finisher)
    }
}

pub(crate) fn peers<R: Role>() -> Vec<PartyIndex> {
    vec![R::other_index()]
}
