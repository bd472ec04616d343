//! Amounts, sizes and prices as people write them: `5000sat`, `1MiB`, `100msat/KiB`.

use std::str::FromStr;

use farthing_http::challenge::Price;
use farthing_http::tariff::{CallPrice, Rule};
use farthing_protocol::Msat;

/// Text that is no amount, size or price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("`{0}` is no amount: write for example 100msat, 5000sat or 0.001btc")]
    Amount(String),
    #[error("`{0}` is no size: write for example 64KiB, 1MiB or 1GB")]
    Size(String),
    #[error("`{0}` is no price: write for example 100msat/KiB, 2sat/MB or 10msat/call")]
    Price(String),
    #[error("`{0}` is no postage: write for example 100msat/message, or 0")]
    Postage(String),
    #[error("`{0}` is no route with a price: write for example `POST /v1/*=50msat` or `/health=0msat`")]
    Route(String),
}

/// An amount in millisatoshi.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmountArgument(pub Msat);

impl FromStr for AmountArgument {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::Amount(text.to_owned());
        let (number, unit) = split(text);
        let decimals = match unit.to_ascii_lowercase().as_str() {
            "msat" => 0,
            "sat" | "sats" => 3,
            "btc" => 11,
            _unknown => return Err(bad()),
        };
        decimal(number, decimals).map(|msat| Self(Msat::new(msat))).ok_or_else(bad)
    }
}

/// The price of a message: `100msat/message`, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostageArgument(pub Msat);

impl FromStr for PostageArgument {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text == "0" {
            return Ok(Self(Msat::ZERO));
        }
        let bad = || ParseError::Postage(text.to_owned());
        let (amount, unit) = text.split_once('/').unwrap_or((text, "message"));
        let AmountArgument(amount) = amount.trim().parse().map_err(|_| bad())?;
        if unit.trim() == "message" { Ok(Self(amount)) } else { Err(bad()) }
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeArgument(pub u64);

impl FromStr for SizeArgument {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::Size(text.to_owned());
        let (number, unit) = split(text);
        let unit = unit_size(unit).ok_or_else(bad)?;
        let number: u64 = number.parse().map_err(|_| bad())?;
        number.checked_mul(unit).filter(|size| *size > 0).map(Self).ok_or_else(bad)
    }
}

/// A price: an amount for each size begun, or for each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceArgument {
    Free,
    Bytes(Price),
    Call(CallPrice),
}

impl FromStr for PriceArgument {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::Price(text.to_owned());
        if text == "0" {
            return Ok(Self::Free);
        }
        if text.contains("/call") {
            return text.parse().map(|CallPriceArgument(price)| Self::Call(price));
        }
        let (amount, size) = text.split_once('/').ok_or_else(bad)?;
        let AmountArgument(amount) = amount.trim().parse().map_err(|_| bad())?;
        let size = Some(size.trim()).filter(|size| !size.is_empty()).ok_or_else(bad)?;
        let size =
            if size.starts_with(|c: char| c.is_ascii_digit()) { size.to_owned() } else { format!("1{size}") };
        let SizeArgument(unit) = size.parse().map_err(|_| bad())?;
        Ok(Self::Bytes(Price { amount, unit }))
    }
}

/// What a call costs: `10msat`, and with it what its answer costs: `10msat+2msat/KiB+5msat/event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPriceArgument(pub CallPrice);

impl FromStr for CallPriceArgument {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::Price(text.to_owned());
        let mut price = CallPrice::default();
        for part in text.split('+') {
            let (amount, unit) = part.split_once('/').unwrap_or((part, "call"));
            let AmountArgument(amount) = amount.trim().parse().map_err(|_| bad())?;
            let slot = match unit.trim() {
                "call" => &mut price.call,
                "KiB" => &mut price.kib,
                "event" => &mut price.event,
                _unknown => return Err(bad()),
            };
            *slot = amount;
        }
        Ok(Self(price))
    }
}

/// The price of one route: `[METHOD ]PATH=PRICE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteArgument(pub Rule);

impl FromStr for RouteArgument {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::Route(text.to_owned());
        let (route, amount) = text.rsplit_once('=').ok_or_else(bad)?;
        let CallPriceArgument(price) = amount.trim().parse().map_err(|_| bad())?;
        let (method, path) = match route.trim().split_once(' ') {
            Some((method, path)) => (Some(method.to_ascii_uppercase()), path.trim()),
            None => (None, route.trim()),
        };
        if !path.starts_with('/') {
            return Err(bad());
        }
        Ok(Self(Rule { method, path: path.to_owned(), price }))
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn unit_size(unit: &str) -> Option<u64> {
    Some(match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _unknown => return None,
    })
}

/// A decimal number times ten to the `decimals`, if it comes out whole.
fn decimal(number: &str, decimals: usize) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() || fraction.len() > decimals {
        return None;
    }
    format!("{whole}{fraction:0<decimals$}").parse().ok()
}

/// A size for people: `12.3 MiB`.
pub fn human_size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_prices_as_people_write_them() {
        let msat = |text: &str| text.parse::<AmountArgument>().map(|amount| amount.0.get());
        assert_eq!(msat("100msat"), Ok(100));
        assert_eq!(msat("5000sat"), Ok(5_000_000));
        assert_eq!(msat("0.5 sat"), Ok(500));
        assert_eq!(msat("0.001btc"), Ok(100_000_000));
        for bad in ["", "5", "sat", "0.0001sat", "-1sat", "1.2.3sat", "99999999999999999999sat"] {
            assert!(msat(bad).is_err(), "{bad}");
        }
        let price = |text: &str| text.parse::<PriceArgument>();
        let bytes = |amount, unit| Ok(PriceArgument::Bytes(Price { amount: Msat::new(amount), unit }));
        assert_eq!(price("100msat/KiB"), bytes(100, 1_024));
        assert_eq!(price("2sat/10MB"), bytes(2_000, 10_000_000));
        let call = CallPrice { call: Msat::new(10), kib: Msat::new(2), event: Msat::ZERO };
        assert_eq!(price("10msat/call+2msat/KiB"), Ok(PriceArgument::Call(call)));
        assert_eq!(price("0"), Ok(PriceArgument::Free));
        for bad in ["100msat", "100msat/", "100msat/parsec", "/KiB", "1sat/0KiB"] {
            assert!(price(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn routes_as_people_write_them() {
        let route = |text: &str| text.parse::<RouteArgument>().map(|route| route.0);
        let rule = |method: Option<&str>, path: &str, price| {
            Ok(Rule {
                method: method.map(str::to_owned),
                path: path.to_owned(),
                price: CallPrice::per_call(Msat::new(price)),
            })
        };
        assert_eq!(route("POST /v1/*=50msat"), rule(Some("POST"), "/v1/*", 50));
        assert_eq!(route("/health=0msat"), rule(None, "/health", 0));
        for bad in ["", "/x", "x=1msat", "GET x=1msat", "/x=1"] {
            assert!(route(bad).is_err(), "{bad}");
        }
    }
}
