//! Both halves of a joint key in one process, and the rounds between them.

use farthing_protocol::device::Finisher;
use farthing_protocol::device::bolt3::Digest;
use farthing_protocol::device::joint::{
    DeviceShare as _, Failure, GatewayShare as _, JointSignature, Round, RoundId, Step, Task,
};
use farthing_threshold::{Device, Gateway, KeyGeneration, KeyGenerationStep, Role, Share};
use secp256k1::{PublicKey, Scalar, SecretKey};

/// The halves of one channel's funding key.
pub struct Shares {
    device: Share<Device>,
    gateway: Share<Gateway>,
    rounds: u64,
}

impl Shares {
    /// Runs a key generation between the two.
    pub fn generate(id: [u8; 32]) -> Self {
        let (device, to_gateway) = KeyGeneration::<Device>::start(RoundId(id));
        let (gateway, to_device) = KeyGeneration::<Gateway>::start(RoundId(id));
        let (device, second_to_gateway) = sent(device, &to_device);
        let (gateway, second_to_device) = sent(gateway, &to_gateway);
        let (device, third_to_gateway) = sent(device, &second_to_device);
        let (gateway, third_to_device) = sent(gateway, &second_to_gateway);
        let (device, gateway) = (done(device, &third_to_device), done(gateway, &third_to_gateway));
        Self { device, gateway, rounds: 0 }
    }

    /// The joint key.
    pub fn public_key(&self) -> PublicKey {
        self.device.public_key()
    }

    /// One round, to its end. The device signs what its machine released, the gateway the digest that it computed itself.
    pub fn sign(&mut self, task: &Task, digest: Digest) -> Result<JointSignature, Failure> {
        self.rounds += 1;
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.rounds.to_be_bytes());
        let device = self.device.start(RoundId(id), task)?;
        let gateway = self.gateway.start(RoundId(id), digest.to_bytes(), task.finisher())?;
        match task.finisher() {
            Finisher::Device => finish(device, gateway),
            Finisher::Gateway => finish(gateway, device),
        }
    }

    /// The secret that neither side has: only here, where both halves are in one process, they can be put together. The shares are two
    /// points of a line, the secret is where it begins.
    pub fn joint_secret(&self) -> SecretKey {
        let of = |bytes: &[u8]| {
            let party: dkls23_secp256k1::Party =
                postcard::from_bytes(bytes).expect("a share is a stored party");
            SecretKey::from_slice(&party.poly_point.to_bytes()).expect("a share is not zero")
        };
        let (device, gateway) = (of(&self.device.to_bytes()), of(&self.gateway.to_bytes()));
        let twice = device.add_tweak(&Scalar::from(device)).expect("twice a share is not zero");
        let joint = twice.add_tweak(&Scalar::from(gateway.negate())).expect("the key is not zero");
        assert_eq!(joint.public_key(secp256k1::SECP256K1), self.public_key());
        joint
    }
}

fn sent<R: Role>(generation: KeyGeneration<R>, message: &[u8]) -> (KeyGeneration<R>, Vec<u8>) {
    match generation.next(message).expect("both sides are honest") {
        KeyGenerationStep::Send(generation, message) => (*generation, message),
        KeyGenerationStep::Done(_) => unreachable!("three messages go each way"),
    }
}

fn done<R: Role>(generation: KeyGeneration<R>, message: &[u8]) -> Share<R> {
    match generation.next(message).expect("both sides are honest") {
        KeyGenerationStep::Done(share) => share,
        KeyGenerationStep::Send(..) => unreachable!("three messages go each way"),
    }
}

/// A round between the side that learns the signature and the one that helps it.
fn finish<F: Round, H: Round>(
    (finisher, to_helper): (F, Vec<u8>),
    (helper, to_finisher): (H, Vec<u8>),
) -> Result<JointSignature, Failure> {
    let out_of_turn = || Failure::Interrupted("a step of another kind".into());
    let Step::Send(finisher, second_to_helper) = finisher.next(&to_finisher)? else {
        return Err(out_of_turn());
    };
    let Step::Send(helper, second_to_finisher) = helper.next(&to_helper)? else { return Err(out_of_turn()) };
    let Step::Wait(finisher) = finisher.next(&second_to_finisher)? else { return Err(out_of_turn()) };
    let Step::SendLast(last) = helper.next(&second_to_helper)? else { return Err(out_of_turn()) };
    match finisher.next(&last)? {
        Step::Signed(signature) => Ok(signature),
        Step::Send(..) | Step::SendLast(_) | Step::Wait(_) => Err(out_of_turn()),
    }
}
