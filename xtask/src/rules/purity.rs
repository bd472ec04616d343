//! The protocol is a pure function of its inputs: no IO, no clock, no randomness of its own, no async, no logging.

use super::source::{Source, Token};

/// Where the rule applies. Modules that exist in tests only are free.
const PURE: &str = "crates/protocol/src";

/// What the text of a source may not contain.
enum Forbidden {
    /// A module of the standard library, however it is imported.
    Std(&'static str),
    /// A path through a crate or module of this name.
    Path(&'static str),
    /// A word, wherever it stands.
    Word(&'static str),
    /// A macro.
    Macro(&'static str),
}

use Forbidden::{Macro, Path, Std, Word};

const CLOCK: &str = "time is an argument";
const IO: &str = "IO belongs to the driver";
const ASYNC: &str = "a state machine does not wait";
const RANDOM: &str = "entropy comes in as 32-byte arrays";
const LOG: &str = "what happened is in the transition";

const FORBIDDEN: [(Forbidden, &str); 22] = [
    (Std("time"), CLOCK),
    (Std("env"), IO),
    (Std("fs"), IO),
    (Std("net"), IO),
    (Std("process"), IO),
    (Std("thread"), ASYNC),
    (Word("async"), ASYNC),
    (Path("futures"), ASYNC),
    (Path("tokio"), ASYNC),
    (Path("getrandom"), RANDOM),
    (Path("rand"), RANDOM),
    (Path("rand_core"), RANDOM),
    (Word("OsRng"), RANDOM),
    (Word("ThreadRng"), RANDOM),
    (Word("thread_rng"), RANDOM),
    (Path("log"), LOG),
    (Path("tracing"), LOG),
    (Macro("dbg"), LOG),
    (Macro("eprint"), LOG),
    (Macro("eprintln"), LOG),
    (Macro("print"), LOG),
    (Macro("println"), LOG),
];

/// No source of the protocol contains anything forbidden.
pub fn pure(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with(PURE)) {
        for (forbidden, because) in &FORBIDDEN {
            for line in forbidden.lines_in(&source.tokens) {
                let path = source.path.display();
                violations.push(format!("{path}:{line}: {} in the protocol: {because}", forbidden.name()));
            }
        }
    }
    violations
}

impl Forbidden {
    fn name(&self) -> String {
        match self {
            Std(name) => format!("`std::{name}`"),
            Path(name) | Word(name) => format!("`{name}`"),
            Macro(name) => format!("`{name}!`"),
        }
    }

    /// The lines on which it stands.
    fn lines_in(&self, tokens: &[Token]) -> Vec<usize> {
        let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
        let is_at = |index: usize| match self {
            Std(name) => text(index) == *name && is_imported_from_std(tokens, index),
            Path(name) => {
                let in_path =
                    text(index + 1) == "::" || index > 0 && ["::", "use", "crate"].contains(&text(index - 1));
                text(index) == *name && in_path
            }
            Word(name) => text(index) == *name,
            Macro(name) => text(index) == *name && text(index + 1) == "!",
        };
        (0..tokens.len()).filter(|index| is_at(*index)).map(|index| tokens[index].line).collect()
    }
}

/// Whether the name at `index` stands right below `std`: `std::name`, or `std::{…, name…}`.
fn is_imported_from_std(tokens: &[Token], index: usize) -> bool {
    let text = |index: usize| tokens[index].text.as_str();
    let mut start = index;
    // Out of a group, over its earlier items, to the brace that opens it.
    if start > 0 && ["{", ","].contains(&text(start - 1)) {
        let mut depth = 0;
        loop {
            let Some(before) = start.checked_sub(1) else { return false };
            start = before;
            match text(start) {
                "}" => depth += 1,
                "{" if depth == 0 => break,
                "{" => depth -= 1,
                ";" => return false,
                _ => {}
            }
        }
    }
    start >= 2 && text(start - 1) == "::" && ["std", "core"].contains(&text(start - 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(path: &str, text: &str) -> Vec<String> {
        pure(&[Source::parse(std::path::Path::new(path), text)])
    }

    #[test]
    fn everything_forbidden_is_found() {
        for text in [
            "use std::time::Duration;",
            "use core::time::Duration;",
            "use std::{collections::{BTreeMap, BTreeSet}, fs};",
            "use std::{\n    fmt,\n    net::SocketAddr,\n};",
            "fn f() { std::thread::spawn(g); }",
            "fn f() { ::std::env::var(\"X\"); }",
            "use std::process;",
            "use std::time;",
            "use tokio::sync::mpsc;",
            "async fn f() {}",
            "fn f() { g(async move { 1 }); }",
            "use futures::Stream;",
            "use rand::Rng;",
            "use rand_core::RngCore as _;",
            "use bitcoin::secp256k1::rand;",
            "fn f() { getrandom::fill(&mut x); }",
            "fn f<R>(r: R) { g(OsRng) }",
            "fn f() { tracing::info!(\"x\"); }",
            "use log::info;",
            "extern crate log;",
            "fn f() { println!(\"x\"); }",
            "fn f() { dbg!(1); }",
        ] {
            let found = violations("crates/protocol/src/keys.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(violations("crates/node/src/keys.rs", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_violation_says_where_and_why() {
        assert_eq!(
            violations("crates/protocol/src/keys.rs", "//! Keys.\n\nuse std::time::Instant;\n"),
            ["crates/protocol/src/keys.rs:3: `std::time` in the protocol: time is an argument"]
        );
    }

    #[test]
    fn what_only_looks_forbidden_is_not() {
        for text in [
            "// use std::time::Duration;\n/* tokio::spawn /* async */ */",
            "/// Unlike `std::fs`, this is pure.\nfn f() {}",
            "const A: &str = \"std::time \\\" async\"; const B: &str = r#\"tokio::\"#;",
            "use std::{fmt, collections::hash_map};\nuse bitcoin::time;",
            "use std::fmt::{Display, time};",
            "use std::{fmt::{self, net}};",
            "fn f(rand: u8, log: u8, time: u8) -> u8 { rand + log + time }",
            "#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}",
            "fn f<'a>(x: &'a str) -> char { 'a' }",
        ] {
            assert_eq!(violations("crates/protocol/src/keys.rs", text), [""; 0], "{text}");
        }
    }
}
