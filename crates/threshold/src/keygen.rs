//! Key generation: three messages each way, and each side has its share of a new key.
//!
//! | message | holds |
//! |---|---|
//! | 1 | a fragment of the other's share: secret, so the link must be encrypted |
//! | 2 | commitments, also to the own share's public half |
//! | 3 | what was committed to, with a proof of knowledge, and the base oblivious transfers |
//!
//! Public halves are opened only after both sides have committed to theirs, so neither can choose its own in answer.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use dkls23_secp256k1::protocols::Parameters;
use dkls23_secp256k1::protocols::dkg::{
    BroadcastDerivationPhase2to4, BroadcastDerivationPhase3to4, ProofCommitment, TransmitInitMulPhase3to4,
    TransmitInitZeroSharePhase2to4, TransmitInitZeroSharePhase3to4,
};
use dkls23_secp256k1::protocols::dkg_session::DkgSession;
use farthing_protocol::device::joint::{Failure, RoundId};
use k256::{Scalar, Secp256k1};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::share::{Role, Share};
use crate::wire::{decode, encode, expect_route, failure};

/// A running key generation. Never stored: a restart begins a new one.
pub struct KeyGeneration<R: Role> {
    session: DkgSession<Secp256k1>,
    awaiting: Awaiting,
    role: PhantomData<R>,
}

/// What a step gives.
pub enum KeyGenerationStep<R: Role> {
    /// Send this, then wait for the other side's next message.
    Send(Box<KeyGeneration<R>>, Vec<u8>),
    /// This side's share. The other side has its own as soon as it got the third message.
    Done(Share<R>),
}

enum Awaiting {
    /// The other's fragment of our share; we keep our own.
    First { own: Fragment },
    /// The other's commitments.
    Second { proof: ProofCommitment<Secp256k1>, derivation: BroadcastDerivationPhase2to4 },
    /// What they open to.
    Third {
        proof: ProofCommitment<Secp256k1>,
        derivation: (BroadcastDerivationPhase2to4, BroadcastDerivationPhase3to4),
        committed: Commitments,
    },
}

/// A fragment of a share, wiped when dropped.
struct Fragment(Scalar);

impl Drop for Fragment {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
struct Commitments {
    to_proof: [u8; 32],
    zero_share: TransmitInitZeroSharePhase2to4,
    derivation: BroadcastDerivationPhase2to4,
}

#[derive(Serialize, Deserialize)]
struct Openings {
    proof: ProofCommitment<Secp256k1>,
    zero_share: TransmitInitZeroSharePhase3to4,
    multiplication: TransmitInitMulPhase3to4<Secp256k1>,
    derivation: BroadcastDerivationPhase3to4,
}

impl<R: Role> KeyGeneration<R> {
    /// Starts, and gives the first message.
    pub fn start(id: RoundId) -> (Self, Vec<u8>) {
        let parameters = Parameters::new(2, 2).expect("two of two is a threshold");
        let session = DkgSession::new(parameters, R::index(), id.0.to_vec());
        let mut fragments = session.phase1();
        let own = Fragment(fragments[usize::from(R::INDEX) - 1]);
        let message = encode(&fragments[usize::from(R::OTHER) - 1]);
        fragments.zeroize();
        (Self { session, awaiting: Awaiting::First { own }, role: PhantomData }, message)
    }

    /// Takes the other side's next message.
    ///
    /// # Errors
    /// See [`Failure`]. No key has come of it, so even a cheat costs nothing but this attempt.
    pub fn next(mut self, message: &[u8]) -> Result<KeyGenerationStep<R>, Failure> {
        match self.awaiting {
            Awaiting::First { own } => {
                let received = Fragment(decode(message)?);
                // The engine wants the fragments in the order of the parties; it only adds them up.
                let mut fragments = vec![own.0, received.0];
                let phase = self.session.phase2(&fragments).map_err(failure);
                fragments.zeroize();
                let (proof, zero_shares, derivation) = phase?;
                let message = encode(&Commitments {
                    to_proof: proof.commitment,
                    zero_share: only(zero_shares),
                    derivation: derivation.clone(),
                });
                self.awaiting = Awaiting::Second { proof, derivation };
                Ok(KeyGenerationStep::Send(Box::new(self), message))
            }
            Awaiting::Second { proof, derivation } => {
                let committed: Commitments = decode(message)?;
                expect_route::<R>(&committed.zero_share.parties)?;
                let (zero_shares, multiplications, opened) = self.session.phase3().map_err(failure)?;
                let message = encode(&Openings {
                    proof: proof.clone(),
                    zero_share: only(zero_shares),
                    multiplication: only(multiplications),
                    derivation: opened.clone(),
                });
                self.awaiting = Awaiting::Third { proof, derivation: (derivation, opened), committed };
                Ok(KeyGenerationStep::Send(Box::new(self), message))
            }
            Awaiting::Third { proof, derivation, committed } => {
                let opened: Openings = decode(message)?;
                finish::<R>(self.session, proof, derivation, committed, opened).map(KeyGenerationStep::Done)
            }
        }
    }
}

fn finish<R: Role>(
    session: DkgSession<Secp256k1>,
    proof: ProofCommitment<Secp256k1>,
    derivation: (BroadcastDerivationPhase2to4, BroadcastDerivationPhase3to4),
    committed: Commitments,
    opened: Openings,
) -> Result<Share<R>, Failure> {
    expect_route::<R>(&opened.zero_share.parties)?;
    expect_route::<R>(&opened.multiplication.parties)?;
    let other = R::other_index();
    let indexes = [opened.proof.index, committed.derivation.sender_index, opened.derivation.sender_index];
    if indexes != [other; 3] {
        return Err(Failure::Interrupted("a message under another party's number".into()));
    }
    if opened.proof.commitment != committed.to_proof {
        return Err(Failure::Cheated("a public half that was not committed to".into()));
    }
    let mut proofs = [proof, opened.proof];
    proofs.sort_by_key(|proof| proof.index);
    let (party, _) = session
        .phase4(
            &proofs,
            &[committed.zero_share],
            &[opened.zero_share],
            &[opened.multiplication],
            &BTreeMap::from([(R::index(), derivation.0), (other, committed.derivation)]),
            &BTreeMap::from([(R::index(), derivation.1), (other, opened.derivation)]),
            |_| String::new(),
        )
        .map_err(failure)?;
    Share::new(party).map_err(|error| Failure::Interrupted(error.to_string()))
}

fn only<T>(messages: Vec<T>) -> T {
    messages.into_iter().next().expect("there is one other party, so one message")
}
