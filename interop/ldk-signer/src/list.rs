//! `cannot.txt`: the tests that cannot run, under what stands in their way, each with the reason.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// What stands in the way of each listed test.
pub struct List(BTreeMap<String, String>);

impl List {
    /// Reads the list: `[obstacle]`, a reason in words, then `- test` lines. Each obstacle has a reason, and each test is listed once.
    pub fn parse(text: &str) -> Result<Self> {
        let mut tests = BTreeMap::new();
        let mut obstacle: Option<(String, bool)> = None;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                obstacle = Some((name.to_owned(), false));
                continue;
            }
            let (name, has_reason) =
                obstacle.as_mut().with_context(|| format!("before any obstacle: {line}"))?;
            let Some(test) = line.strip_prefix("- ") else {
                *has_reason = true;
                continue;
            };
            ensure!(*has_reason, "[{name}] gives no reason");
            if tests.insert(test.to_owned(), name.clone()).is_some() {
                bail!("{test} is listed twice");
            }
        }
        Ok(Self(tests))
    }

    /// What stands in the way of that test, if it is listed.
    pub fn obstacle(&self, test: &str) -> Option<&str> {
        self.0.get(test).map(String::as_str)
    }

    /// The listed tests.
    pub fn tests(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_listed_under_an_obstacle_with_a_reason() {
        let list = List::parse("# heading\n[no-anchors]\nThere are none.\n- one\n- two\n").unwrap();
        assert_eq!(list.obstacle("two"), Some("no-anchors"));
        assert_eq!(list.obstacle("three"), None);
        for bad in ["- one", "[a]\n- one", "[a]\nb\n- one\n- one", "[a]\nb\n- one\n[c]\nd\n- one"] {
            assert!(List::parse(bad).is_err(), "{bad}");
        }
    }
}
