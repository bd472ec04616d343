//! What calls cost.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::http::Method;
use axum::http::request::Parts;
use farthing_protocol::Msat;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::encoding::msat_text;
use crate::meter::PART;

/// What a call costs: something for the call, and something for what it answers, as it flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallPrice {
    /// For the call itself, in millisatoshi.
    #[serde(with = "msat_text")]
    pub call: Msat,
    /// For each KiB of the answer's body, in millisatoshi.
    #[serde(with = "msat_text", default, skip_serializing_if = "is_nothing")]
    pub kib: Msat,
    /// For each server-sent event of the answer, in millisatoshi.
    #[serde(with = "msat_text", default, skip_serializing_if = "is_nothing")]
    pub event: Msat,
}

fn is_nothing(price: &Msat) -> bool {
    *price == Msat::ZERO
}

impl CallPrice {
    /// So much for the call, whatever it answers.
    pub const fn per_call(call: Msat) -> Self {
        Self { call, kib: Msat::ZERO, event: Msat::ZERO }
    }

    /// Whether it costs nothing at all.
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it depends on the answer.
    pub fn is_metered(&self) -> bool {
        self.kib > Msat::ZERO || self.event > Msat::ZERO
    }

    /// What must at least be set aside for a call: for the call itself, and where it depends on the answer for the first part
    /// of that, or the service would work for nothing.
    pub fn least(&self) -> Msat {
        if self.is_metered() { self.of(PART as u64, 1) } else { self.call }
    }

    /// What a call costs that has answered so much, rounded up to a millisatoshi.
    pub fn of(&self, bytes: u64, events: u64) -> Msat {
        let kib = (u128::from(self.kib.get()) * u128::from(bytes)).div_ceil(1_024);
        let kib = Msat::new(u64::try_from(kib).unwrap_or(u64::MAX));
        let events = Msat::new(self.event.get().saturating_mul(events));
        self.call.saturating_add(kib).saturating_add(events)
    }
}

impl fmt::Display for CallPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} a call", self.call)?;
        if self.kib > Msat::ZERO {
            write!(f, " and {} a KiB of its answer", self.kib)?;
        }
        if self.event > Msat::ZERO {
            write!(f, " and {} an event", self.event)?;
        }
        Ok(())
    }
}

/// One line of a price list: the first that fits a request says what it costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Only requests of this method; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only requests of this path, percent-encoding undone; one that ends with `*` fits everything that begins so.
    pub path: String,
    /// What a call costs.
    pub price: CallPrice,
}

impl Rule {
    fn fits(&self, method: &str, path: &str) -> bool {
        let method_fits = self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method));
        let path_fits = match self.path.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == self.path,
        };
        method_fits && path_fits
    }
}

/// A price list, as it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceList {
    /// The rules in their order.
    pub rules: Vec<Rule>,
    /// What everything else costs.
    pub otherwise: CallPrice,
}

impl PriceList {
    /// What a request costs.
    pub fn price(&self, method: &str, path: &str) -> CallPrice {
        let path = decoded(path);
        let rule = self.rules.iter().find(|rule| rule.fits(method, &path));
        rule.map_or(self.otherwise, |rule| rule.price)
    }

    /// Whether the service may take a path for another than the list does: whoever asks for `/free/../dear` would choose its own price.
    /// Services differ in what they make of dot segments, empty segments, backslashes, and what is encoded twice (RFC 3986,
    /// section 6.2.2); without rules it does not matter.
    pub fn is_ambiguous(&self, path: &str) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let plain = decoded(path);
        let slashes = |path: &str| path.bytes().filter(|byte| *byte == b'/').count();
        let is_odd = |segment: &str| matches!(segment, "." | "..");
        plain.split('/').any(is_odd)
            || plain.contains("//")
            || plain.contains(['\\', '%'])
            || plain.contains(char::is_control)
            || slashes(&plain) != slashes(path)
    }
}

fn decoded(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8_lossy()
}

type Pricing = dyn Fn(&Parts) -> CallPrice + Send + Sync;

/// How a gate finds the price of a request.
#[derive(Clone)]
pub enum Tariff {
    /// By method and path; it is published, so a payer need not ask first.
    List(Arc<PriceList>),
    /// By anything in the request's head. A payer learns the price from the challenge.
    Function(Arc<Pricing>),
}

impl fmt::Debug for Tariff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(list) => list.fmt(f),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

impl Tariff {
    /// Every call costs the same.
    pub fn per_call(price: Msat) -> Self {
        Self::list(Vec::new(), CallPrice::per_call(price))
    }

    /// Calls cost what the first rule that fits says, or else `otherwise`.
    pub fn list(rules: Vec<Rule>, otherwise: CallPrice) -> Self {
        Self::List(Arc::new(PriceList { rules, otherwise }))
    }

    /// Calls cost what the function says.
    pub fn function(price: impl Fn(&Parts) -> CallPrice + Send + Sync + 'static) -> Self {
        Self::Function(Arc::new(price))
    }

    /// Whether the price of a path could be that of another.
    pub(crate) fn is_ambiguous(&self, path: &str) -> bool {
        match self {
            Self::List(list) => list.is_ambiguous(path),
            // What the function makes of a path is its own business.
            Self::Function(_) => false,
        }
    }

    /// What a request costs. A request for the head of a resource costs as much as one for all of it.
    pub fn price(&self, parts: &Parts, path: &str) -> CallPrice {
        match self {
            Self::List(list) => {
                let method = if parts.method == Method::HEAD { "GET" } else { parts.method.as_str() };
                list.price(method, path)
            }
            Self::Function(price) => price(parts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rule = |method: Option<&str>, path: &str, price| Rule {
            method: method.map(str::to_owned),
            path: path.to_owned(),
            price: CallPrice::per_call(Msat::new(price)),
        };
        let list = PriceList {
            rules: vec![rule(None, "/health", 0), rule(Some("POST"), "/v1/*", 50), rule(None, "/v1/*", 10)],
            otherwise: CallPrice::per_call(Msat::new(1)),
        };
        let price = |method, path| list.price(method, path).call.get();
        assert_eq!(price("GET", "/health"), 0);
        assert_eq!(price("GET", "/health/x"), 1);
        assert_eq!(price("post", "/v1/a"), 50);
        assert_eq!(price("GET", "/v1/a"), 10);
        assert_eq!(price("GET", "/"), 1);
    }

    #[test]
    fn a_path_that_a_service_may_read_otherwise_has_no_price() {
        let rule = |path: &str| Rule { method: None, path: path.to_owned(), price: CallPrice::default() };
        let otherwise = CallPrice::per_call(Msat::new(1));
        let list = PriceList { rules: vec![rule("/free/*"), rule("/a b")], otherwise };
        for path in [
            "/free/../dear",
            "/free/%2e%2e/dear",
            "/free/.%2E/dear",
            "/free/./x",
            "/free/..",
            "//free/x",
            "/free//x",
            "/free%2fx",
            "/free/..%2fdear",
            "/free/\\..\\dear",
            "/free/%5c..%5cdear",
            "/%2566ree/x",
            "/free/%00",
            "/free/%0a",
        ] {
            assert!(list.is_ambiguous(path), "{path}");
        }
        for path in
            ["/", "/free/x", "/free/", "/free/...", "/free/.x", "/a%20b", "/%66ree/x", "/%C3%A4", "/a+b;c=d"]
        {
            assert!(!list.is_ambiguous(path), "{path}");
        }
        assert!(list.price("GET", "/%66ree/x").is_free());
        assert!(list.price("GET", "/a%20b").is_free());
        assert!(!list.price("GET", "/%64ear").is_free());
        let uniform = PriceList { rules: Vec::new(), otherwise };
        assert!(!uniform.is_ambiguous("/a//../b"), "all paths cost the same");
    }

    #[test]
    fn what_flows_is_rounded_up_and_never_overflows() {
        let price = CallPrice { call: Msat::new(10), kib: Msat::new(100), event: Msat::new(7) };
        assert_eq!(price.of(0, 0), Msat::new(10));
        assert_eq!(price.of(1, 0), Msat::new(11));
        assert_eq!(price.of(1_024, 2), Msat::new(124));
        assert_eq!(price.of(u64::MAX, u64::MAX), Msat::new(u64::MAX));
    }
}
