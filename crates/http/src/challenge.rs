//! What a seller asks for: `WWW-Authenticate: Payment …` (draft-httpauth-payment, section 5.1).
//!
//! The challenge's `id` is an HMAC-SHA256 over its parameters with a secret of the seller's, so the seller keeps no
//! state for a challenge, and nobody can exchange a term of it. A session's credentials name the challenge under which
//! they were agreed and may do so many times until it expires; what makes each payment count once is the channel.

use std::fmt::Write as _;

use axum::http::HeaderMap;
use axum::http::header::WWW_AUTHENTICATE;
use bitcoin::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, cmp, sha256};
use farthing_protocol::Msat;
use farthing_protocol::flat;
use farthing_protocol::keys::KeyId;
use farthing_protocol::opening::Offer;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::encoding::{self, DecodeError, msat_text};
use crate::manifest::Manifest;
use crate::tariff::CallPrice;

/// Our payment method.
pub const METHOD: &str = "bitcoin";
/// Our intent: many small payments under one agreement.
pub const INTENT: &str = "session";
/// How long a challenge can be used.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(15);
/// The longest header of ours that is read, in bytes.
pub const MOST_HEADER: usize = 16 * 1024;

/// A challenge's parameters, as the header and the credential carry them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Binds all other parameters.
    pub id: String,
    /// The seller's host and port.
    pub realm: String,
    /// Always [`METHOD`] for us.
    pub method: String,
    /// Always [`INTENT`] for us.
    pub intent: String,
    /// The [`Request`], encoded.
    pub request: String,
    /// When it can no longer be used (RFC 3339).
    pub expires: String,
}

/// What is for sale and on which terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The price of one unit, in millisatoshi.
    #[serde(with = "msat_text")]
    pub amount: Msat,
    /// Always `msat`.
    pub currency: String,
    /// The unit: `bytes:N`, or `call`.
    pub unit_type: String,
    /// The payee's funding key, for programs that know nothing of channels.
    pub recipient: String,
    /// Ours.
    pub method_details: Details,
}

/// The part of a request that only this method understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The kinds of payment that the seller takes, its favourite first.
    pub modes: Vec<String>,
    /// On which terms it opens a channel.
    pub offer: Offer,
    /// Names the payee's keys for the seller; means nothing to others.
    pub key: KeyId,
    /// The file, when pieces of one are for sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Manifest>,
    /// How calls are paid for, when calls are for sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<Calls>,
}

/// On which terms a seller takes words for calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Calls {
    /// The most that may be served between two rungs, in millisatoshi.
    #[serde(with = "msat_text")]
    pub most_exposure: Msat,
    /// How many numbers a retry may lag behind the newest call.
    pub replay_window: u64,
    /// What the answer costs besides the call, for each KiB and each event.
    pub price: CallPrice,
    /// Calls are paid with preimages, in batches of these terms: the flat mode. What is prepaid is the payer's to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat: Option<flat::Terms>,
}

/// The mode of paying for pieces.
pub const CHANNEL: &str = "channel";
/// The mode of paying for calls.
pub const LIGHTSPEED: &str = "lightspeed";
/// The mode of paying for calls with preimages.
pub const FLAT: &str = "lightspeed-flat";

/// A price: so many millisatoshi for each so many bytes begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Millisatoshi for one unit.
    pub amount: Msat,
    /// Bytes in one unit. Not zero.
    pub unit: u64,
}

impl Price {
    /// What that many bytes cost, rounded up to a millisatoshi; `None` when it is more than will exist.
    pub fn of(&self, bytes: u64) -> Option<Msat> {
        let product = u128::from(self.amount.get()) * u128::from(bytes);
        u64::try_from(product.div_ceil(u128::from(self.unit.max(1)))).ok().map(Msat::new)
    }
}

/// Why a challenge is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadChallenge {
    /// Not issued by this seller, or changed.
    #[error("this challenge was not issued here, or was changed")]
    Foreign,
    /// Too old, or the clock of one of the two is wrong.
    #[error("this challenge expired at {expires}, and the clock here says {now}")]
    Expired {
        /// Its end.
        expires: String,
        /// The time of who reads it.
        now: Timestamp,
    },
    /// Another method, intent, currency, unit or mode.
    #[error("{0} is not what this program speaks")]
    Unsupported(String),
    /// The header is not a challenge.
    #[error("the header is not a Payment challenge: {0}")]
    Malformed(&'static str),
    /// The request does not decode.
    #[error("the challenge's request does not decode: {0}")]
    Request(#[from] DecodeError),
}

impl Challenge {
    /// Issues a challenge.
    pub fn issue(secret: &[u8; 32], realm: &str, request: &Request, now: Timestamp) -> Self {
        let expires = now.checked_add(LIFETIME).unwrap_or(Timestamp::MAX);
        let expires = Timestamp::from_second(expires.as_second()).unwrap_or(expires).to_string();
        let mut challenge = Self {
            id: String::new(),
            realm: realm.to_owned(),
            method: METHOD.to_owned(),
            intent: INTENT.to_owned(),
            request: encoding::encode(request),
            expires,
        };
        challenge.id = encoding::encode_bytes(&challenge.binding(secret));
        challenge
    }

    /// Checks, as the seller, that this challenge is one's own and still valid.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, secret: &[u8; 32], now: Timestamp) -> Result<Request, BadChallenge> {
        let expected = encoding::encode_bytes(&self.binding(secret));
        let fits =
            expected.len() == self.id.len() && cmp::fixed_time_eq(expected.as_bytes(), self.id.as_bytes());
        if !fits {
            return Err(BadChallenge::Foreign);
        }
        self.check_expiry(now)?;
        self.request()
    }

    /// The first one that a 402 carries and this program understands. Who makes use of it asks [`Self::check_expiry`].
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn offered(headers: &HeaderMap) -> Result<Self, BadChallenge> {
        let offered = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges = offered.filter_map(|header| header.to_str().ok()).map(Self::from_header);
        let mut last = BadChallenge::Malformed("it is not there");
        for challenge in challenges {
            match challenge.and_then(|challenge| challenge.request().map(|_understood| challenge)) {
                Ok(challenge) => return Ok(challenge),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether it may still be used.
    ///
    /// # Errors
    /// When it has expired.
    pub fn check_expiry(&self, now: Timestamp) -> Result<(), BadChallenge> {
        match self.expires.parse::<Timestamp>() {
            Ok(expires) if now < expires => Ok(()),
            Ok(_) => Err(BadChallenge::Expired { expires: self.expires.clone(), now }),
            Err(_) => Err(BadChallenge::Malformed("`expires` is not a time")),
        }
    }

    /// Reads the request.
    ///
    /// # Errors
    /// When it does not decode or asks for something that this program does not speak.
    pub fn request(&self) -> Result<Request, BadChallenge> {
        for (name, got, expected) in [("method", &self.method, METHOD), ("intent", &self.intent, INTENT)] {
            if got != expected {
                return Err(BadChallenge::Unsupported(format!("the {name} `{got}`")));
            }
        }
        let request: Request = encoding::decode(&self.request)?;
        if request.currency != "msat" {
            return Err(BadChallenge::Unsupported(format!("the currency `{}`", request.currency)));
        }
        let known = |mode: &String| [CHANNEL, LIGHTSPEED, FLAT].contains(&mode.as_str());
        if !request.method_details.modes.iter().any(known) {
            return Err(BadChallenge::Unsupported(format!(
                "a seller of the modes {:?}",
                request.method_details.modes
            )));
        }
        if request.method_details.file.is_some() {
            request.price()?;
        }
        Ok(request)
    }

    /// The header's value.
    pub fn to_header(&self) -> String {
        let mut header = String::from("Payment ");
        let parameters = [
            ("id", &self.id),
            ("realm", &self.realm),
            ("method", &self.method),
            ("intent", &self.intent),
            ("expires", &self.expires),
            ("request", &self.request),
        ];
        for (index, (name, value)) in parameters.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            write!(header, "{comma}{name}=\"{value}\"").expect("writing to memory");
        }
        header
    }

    /// Reads a header's value. Parameters that are not known are ignored, as the draft says.
    ///
    /// # Errors
    /// When it is not a Payment challenge with all parameters that we need.
    pub fn from_header(header: &str) -> Result<Self, BadChallenge> {
        if header.len() > MOST_HEADER {
            return Err(BadChallenge::Malformed("it is too long"));
        }
        let rest = header.trim_start();
        let (scheme, mut rest) =
            rest.split_once(' ').ok_or(BadChallenge::Malformed("it has no parameters"))?;
        if !scheme.eq_ignore_ascii_case("payment") {
            return Err(BadChallenge::Malformed("it is of another scheme"));
        }
        let mut challenge = Self {
            id: String::new(),
            realm: String::new(),
            method: String::new(),
            intent: String::new(),
            request: String::new(),
            expires: String::new(),
        };
        while !rest.trim_start().is_empty() {
            let (name, value, after) = parameter(rest.trim_start())?;
            match name.to_ascii_lowercase().as_str() {
                "id" => challenge.id = value,
                "realm" => challenge.realm = value,
                "method" => challenge.method = value,
                "intent" => challenge.intent = value,
                "request" => challenge.request = value,
                "expires" => challenge.expires = value,
                _unknown => {}
            }
            let after = after.trim_start();
            rest = after.strip_prefix(',').unwrap_or(after);
            if !after.is_empty() && !after.starts_with(',') {
                return Err(BadChallenge::Malformed("its parameters are not separated by commas"));
            }
        }
        if challenge.id.is_empty() || challenge.request.is_empty() {
            return Err(BadChallenge::Malformed("it has no id or no request"));
        }
        Ok(challenge)
    }

    /// The seven slots of the draft's section 5.1.3; the last two, digest and opaque, are unused here.
    fn binding(&self, secret: &[u8; 32]) -> [u8; 32] {
        let slots = [&self.realm, &self.method, &self.intent, &self.request, &self.expires];
        let mut engine = HmacEngine::<sha256::Hash>::new(secret);
        for slot in slots {
            engine.input(slot.as_bytes());
            engine.input(b"|");
        }
        engine.input(b"|");
        Hmac::<sha256::Hash>::from_engine(engine).to_byte_array()
    }
}

/// One `name=value` or `name="value"` and what follows it.
fn parameter(text: &str) -> Result<(&str, String, &str), BadChallenge> {
    let (name, rest) = text.split_once('=').ok_or(BadChallenge::Malformed("a parameter has no value"))?;
    let rest = rest.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Ok((name.trim(), rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((name.trim(), value, &quoted[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    Err(BadChallenge::Malformed("a quoted value does not end"))
}

impl Request {
    /// A request to sell a file at a price.
    pub fn new(price: Price, offer: Offer, key: KeyId, file: Manifest) -> Self {
        Self {
            amount: price.amount,
            currency: "msat".to_owned(),
            unit_type: format!("bytes:{}", price.unit),
            recipient: offer.payee.funding.to_string(),
            method_details: Details {
                modes: vec![CHANNEL.to_owned()],
                offer,
                key,
                file: Some(file),
                calls: None,
            },
        }
    }

    /// A request to pay for a call.
    pub fn for_call(offer: Offer, key: KeyId, calls: Calls) -> Self {
        Self {
            amount: calls.price.call,
            currency: "msat".to_owned(),
            unit_type: "call".to_owned(),
            recipient: offer.payee.funding.to_string(),
            method_details: Details {
                modes: vec![if calls.flat.is_some() { FLAT } else { LIGHTSPEED }.to_owned()],
                offer,
                key,
                file: None,
                calls: Some(calls),
            },
        }
    }

    /// The price.
    ///
    /// # Errors
    /// When the unit is not one of bytes.
    pub fn price(&self) -> Result<Price, BadChallenge> {
        let unit =
            self.unit_type.strip_prefix("bytes:").and_then(|unit| unit.parse().ok()).filter(|unit| *unit > 0);
        let unit = unit.ok_or_else(|| BadChallenge::Unsupported(format!("the unit `{}`", self.unit_type)))?;
        Ok(Price { amount: self.amount, unit })
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::{Amount, FeeRate, Network, ScriptBuf};
    use farthing_protocol::Party;
    use farthing_protocol::keys::Seed;
    use farthing_protocol::opening::Confirmations;

    use super::*;

    fn challenge() -> Challenge {
        Challenge {
            id: "x7Tg".into(),
            realm: "a \"quoted\" \\ realm".into(),
            method: METHOD.into(),
            intent: INTENT.into(),
            request: "e30".into(),
            expires: "2026-01-15T12:05:00Z".into(),
        }
    }

    #[test]
    fn a_header_there_and_back() {
        assert_eq!(Challenge::from_header(&challenge().to_header()).unwrap(), challenge());
    }

    #[test]
    fn unknown_parameters_tokens_and_spaces_are_taken() {
        let header = r#"payment  id = "a" ,future=1, realm=x,request=e30"#;
        let read = Challenge::from_header(header).unwrap();
        assert_eq!((read.id.as_str(), read.realm.as_str(), read.request.as_str()), ("a", "x", "e30"));
    }

    #[test]
    fn other_headers_are_refused() {
        for header in ["", "Payment", "Basic realm=\"x\"", "Payment id=\"a", "Payment id", "Payment id=a b=c"]
        {
            assert!(Challenge::from_header(header).is_err(), "{header}");
        }
        let long = format!("Payment id=\"{}\"", "a".repeat(MOST_HEADER));
        assert!(Challenge::from_header(&long).is_err());
    }

    fn request() -> Request {
        let keys = Seed::new([2; 64], Network::Regtest).channel_keys(KeyId::from_u64(1));
        let payee = Party { funding: keys.funding(), session: keys.session(), output: ScriptBuf::new() };
        let offer = Offer {
            network: Network::Regtest,
            payee,
            capacity: (Amount::from_sat(1_000), Amount::from_sat(2_000)),
            fee_rate: (FeeRate::BROADCAST_MIN, FeeRate::BROADCAST_MIN),
            lifetime: (1, 2),
            margin: 1,
            confirmations: Confirmations { least: 1, one_more_per: Amount::ONE_BTC },
        };
        let price = CallPrice::default();
        let calls = Calls { most_exposure: Msat::new(1), replay_window: 1, price, flat: None };
        Request::for_call(offer, KeyId::from_u64(1), calls)
    }

    /// What makes a payment count once is the channel, so a clock that is put back brings no more than an old challenge.
    #[test]
    fn a_challenge_ends_with_its_lifetime_and_a_clock_that_jumps_changes_no_more_than_that() {
        let issued: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let challenge = Challenge::issue(&[3; 32], "seller", &request(), issued);
        let at = |now: Timestamp| challenge.check(&[3; 32], now);
        let (second, year) = (SignedDuration::from_secs(1), SignedDuration::from_hours(365 * 24));
        for valid in [issued, issued + (LIFETIME - second), issued - year, Timestamp::MIN] {
            assert_eq!(at(valid).unwrap(), request(), "{valid}");
        }
        for late in [issued + LIFETIME, issued + year, Timestamp::MAX] {
            assert!(matches!(at(late), Err(BadChallenge::Expired { .. })), "{late}");
        }
        assert!(matches!(challenge.check(&[4; 32], issued), Err(BadChallenge::Foreign)));
    }

    /// Section 5.1.3 of the draft: seven slots joined by `|`, computed here by hand.
    #[test]
    fn the_id_is_the_drafts_hmac() {
        let challenge = challenge();
        let joined = format!(
            "{}|{}|{}|{}|{}||",
            challenge.realm, challenge.method, challenge.intent, challenge.request, challenge.expires
        );
        let mut engine = HmacEngine::<sha256::Hash>::new(&[3; 32]);
        engine.input(joined.as_bytes());
        let expected = Hmac::<sha256::Hash>::from_engine(engine).to_byte_array();
        assert_eq!(challenge.binding(&[3; 32]), expected);
    }

    #[test]
    fn prices_round_up() {
        let price = Price { amount: Msat::new(100), unit: 1_024 };
        assert_eq!(price.of(1_024), Some(Msat::new(100)));
        assert_eq!(price.of(1), Some(Msat::new(1)));
        assert_eq!(price.of(1 << 20), Some(Msat::new(102_400)));
        assert_eq!(Price { amount: Msat::new(u64::MAX), unit: 1 }.of(2), None);
    }
}
