//! L402: a macaroon that is valid with the preimage of the payment hash in it.
//!
//! Its identifier and caveats are as in <https://github.com/lightning/blips/blob/master/blip-0026.md>. Splitting the header
//! and the hash of the preimage are ours, since the crate knows macaroons only. Unlike the others, an L402 is paid for once
//! and then shown with every call: this check moves no money.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use macaroon::{ByteString, Format, Macaroon, MacaroonError, MacaroonKey, Verifier};
use sha2::{Digest, Sha256};

use crate::measure::Batch;

pub const WHAT: &str = "an `Authorization: L402` header: macaroon::Macaroon::deserialize and macaroon::Verifier::verify of \
    a version 2 macaroon with the caveats services, capabilities (both exact) and valid_until (against the clock), and \
    SHA-256 of the preimage against the payment hash in the identifier (sha2)";

const TOKENS: u64 = 1_000;
const SERVICES: &str = "services=weather:0";
const CAPABILITIES: &str = "weather_capabilities=read";
const VALID_UNTIL: &str = "weather_valid_until=";
const DAY: u64 = 24 * 60 * 60;

/// A version of 0 in two bytes, the payment hash, and the token's own 32 bytes.
const IDENTIFIER_SIZE: usize = 2 + 32 + 32;

/// A server with one root key, and the headers of its clients.
pub struct L402 {
    key: MacaroonKey,
    verifier: Verifier,
    headers: Vec<String>,
}

impl L402 {
    /// Mints the tokens and pays for them.
    pub fn mint() -> Result<Self> {
        macaroon::initialize()?;
        let key = MacaroonKey::generate_random();
        let mut verifier = Verifier::default();
        verifier.satisfy_exact(SERVICES.into());
        verifier.satisfy_exact(CAPABILITIES.into());
        verifier.satisfy_general(is_valid_still);
        let tomorrow = now() + DAY;
        let headers = (0..TOKENS).map(|token| header(&key, token, tomorrow)).collect::<Result<_>>()?;
        Ok(Self { key, verifier, headers })
    }

    /// Asserts what is accepted and what is not.
    pub fn assert_refusals(&self) -> Result<()> {
        self.accept_one(&self.headers[0])?;

        let (token, _) = self.headers[0].split_once(':').context("a header of ours has a preimage")?;
        let other = hex::encode(preimage(1));
        ensure!(self.accept_one(&format!("{token}:{other}")).is_err(), "another token's preimage");

        let refusal = |header: String| match self.accept_one(&header) {
            Ok(()) => None,
            Err(error) => error.downcast::<MacaroonError>().ok(),
        };
        let forged = header(&MacaroonKey::generate_random(), 0, now() + DAY)?;
        ensure!(matches!(refusal(forged), Some(MacaroonError::InvalidSignature)), "another server's token");
        let expired = header(&self.key, 0, now() - 1)?;
        ensure!(matches!(refusal(expired), Some(MacaroonError::CaveatNotSatisfied(_))), "an expired token");
        Ok(())
    }

    /// Every header once.
    pub fn accept(&self) -> Result<Batch> {
        Batch::time(self.headers.len(), || self.headers.iter().try_for_each(|header| self.accept_one(header)))
    }

    fn accept_one(&self, header: &str) -> Result<()> {
        let credential = header.strip_prefix("L402 ").context("not an L402")?;
        let (token, preimage) = credential.split_once(':').context("no preimage")?;
        let macaroon = Macaroon::deserialize(token)?;

        let identifier = macaroon.identifier();
        ensure!(identifier.0.len() == IDENTIFIER_SIZE && identifier.0[..2] == [0, 0], "unknown identifier");
        let mut bytes = [0; 32];
        hex::decode_to_slice(preimage, &mut bytes)?;
        ensure!(identifier.0[2..34] == Sha256::digest(bytes)[..], "not the preimage of the payment hash");

        Ok(self.verifier.verify(&macaroon, &self.key, Vec::new())?)
    }
}

/// What a client sends that paid for the token.
fn header(key: &MacaroonKey, token: u64, valid_until: u64) -> Result<String> {
    let preimage = preimage(token);
    let mut identifier = vec![0, 0];
    identifier.extend(Sha256::digest(preimage));
    identifier.extend(Sha256::digest(token.to_be_bytes()));
    let mut macaroon = Macaroon::create(Some("https://api.example.com".into()), key, identifier.into())?;
    macaroon.add_first_party_caveat(SERVICES.into());
    macaroon.add_first_party_caveat(CAPABILITIES.into());
    macaroon.add_first_party_caveat(format!("{VALID_UNTIL}{valid_until}").into());
    Ok(format!("L402 {}:{}", macaroon.serialize(Format::V2)?, hex::encode(preimage)))
}

fn preimage(token: u64) -> [u8; 32] {
    Sha256::new().chain_update(b"preimage").chain_update(token.to_be_bytes()).finalize().into()
}

fn is_valid_still(predicate: &ByteString) -> bool {
    let time = predicate.0.strip_prefix(VALID_UNTIL.as_bytes()).and_then(|time| str::from_utf8(time).ok());
    time.and_then(|time| time.parse().ok()).is_some_and(|valid_until: u64| now() < valid_until)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}
