//! One round of signing. Three messages; the last goes to the finisher only, who alone completes the signature.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use dkls23_secp256k1::Party;
use dkls23_secp256k1::protocols::PartyIndex;
use dkls23_secp256k1::protocols::signing::{
    Broadcast3to4, KeepPhase1to2, KeepPhase2to3, SignData, TransmitPhase1to2, TransmitPhase2to3,
    UniqueKeep1to2, UniqueKeep2to3,
};
use farthing_protocol::device::joint::{Failure, Finisher, JointSignature, Round, RoundId, Step};
use k256::Secp256k1;
use secp256k1::{PublicKey, ecdsa};

use crate::share::{Role, peers};
use crate::wire::{decode, encode, expect_route, failure};

/// A running round. Never stored: a restart begins a new one.
pub struct SigningRound<R: Role> {
    party: Arc<Party>,
    public_key: PublicKey,
    data: SignData,
    finisher: Finisher,
    awaiting: Awaiting,
    role: PhantomData<R>,
}

/// What a party waits for, and what it keeps until then. The engine wipes what it keeps.
enum Awaiting {
    First(UniqueKeep1to2<Secp256k1>, BTreeMap<PartyIndex, KeepPhase1to2<Secp256k1>>),
    Second(UniqueKeep2to3<Secp256k1>, BTreeMap<PartyIndex, KeepPhase2to3<Secp256k1>>),
    /// Only the finisher gets here. It has its own last message and keeps it.
    Last {
        nonce: String,
        own: Broadcast3to4<Secp256k1>,
    },
}

impl<R: Role> SigningRound<R> {
    pub(crate) fn start(
        party: Arc<Party>,
        public_key: PublicKey,
        id: RoundId,
        digest: [u8; 32],
        finisher: Finisher,
    ) -> Result<(Self, Vec<u8>), Failure> {
        // Both sides must agree on who finishes: else a party that believed the other to be the finisher would send a last
        // message in a round in which the other sends one as well.
        let mut sign_id = id.0.to_vec();
        sign_id.push(match finisher {
            Finisher::Device => 1,
            Finisher::Gateway => 2,
        });
        let data = SignData { sign_id, counterparties: peers::<R>(), message_hash: digest };
        let (unique, kept, messages) = party.sign_phase1(&data).map_err(failure)?;
        let message = encode(only(&messages));
        let awaiting = Awaiting::First(unique, kept);
        Ok((Self { party, public_key, data, finisher, awaiting, role: PhantomData }, message))
    }

    /// Puts the halves together. The engine has checked the signature; libsecp256k1 checks it again.
    fn finish(&self, nonce: &str, halves: &[Broadcast3to4<Secp256k1>]) -> Result<JointSignature, Failure> {
        let (s, _) = self.party.sign_phase4(&self.data, nonce, halves, true).map_err(failure)?;
        let invalid = || Failure::Interrupted("the halves make no signature".into());
        let compact: Vec<u8> = hex(nonce).chain(hex(&s)).collect::<Option<_>>().ok_or_else(invalid)?;
        let signature = ecdsa::Signature::from_compact(&compact).map_err(|_| invalid())?;
        let digest = secp256k1::Message::from_digest(self.data.message_hash);
        let verifier = secp256k1::Secp256k1::verification_only();
        verifier.verify_ecdsa(&digest, &signature, &self.public_key).map_err(|_| invalid())?;
        Ok(JointSignature(signature))
    }
}

impl<R: Role> Round for SigningRound<R> {
    fn next(mut self, message: &[u8]) -> Result<Step<Self>, Failure> {
        match self.awaiting {
            Awaiting::First(unique, kept) => {
                let received: TransmitPhase1to2 = decode(message)?;
                expect_route::<R>(&received.parties)?;
                let (unique, kept, messages) =
                    self.party.sign_phase2(&self.data, unique, kept, &[received]).map_err(failure)?;
                let message = encode(only(&messages));
                self.awaiting = Awaiting::Second(unique, kept);
                Ok(Step::Send(self, message))
            }
            Awaiting::Second(unique, kept) => {
                let received: TransmitPhase2to3<Secp256k1> = decode(message)?;
                expect_route::<R>(&received.parties)?;
                let (nonce, own) =
                    self.party.sign_phase3(&self.data, unique, kept, &[received]).map_err(failure)?;
                if self.finisher == R::FINISHER {
                    self.awaiting = Awaiting::Last { nonce, own };
                    Ok(Step::Wait(self))
                } else {
                    Ok(Step::SendLast(encode(&own)))
                }
            }
            Awaiting::Last { ref nonce, ref own } => {
                let received: Broadcast3to4<Secp256k1> = decode(message)?;
                self.finish(nonce, &[own.clone(), received]).map(Step::Signed)
            }
        }
    }
}

fn only<T>(messages: &[T]) -> &T {
    messages.first().expect("there is one other party, so one message")
}

/// The bytes of a string of hexadecimal digits.
fn hex(digits: &str) -> impl Iterator<Item = Option<u8>> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
}
