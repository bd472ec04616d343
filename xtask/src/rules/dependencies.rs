//! Who may depend on what.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use super::entries;

/// The reviewed list of everything that `farthing-protocol` is compiled with.
pub const LIST: &str = "xtask/protocol-dependencies.txt";

/// A group of outside crates and the packages that alone may name them, also in their tests.
struct Quarantine {
    what: &'static str,
    /// A trailing `*` stands for any ending.
    crates: &'static [&'static str],
    only_in: &'static [&'static str],
}

const QUARANTINES: &[Quarantine] = &[
    Quarantine {
        what: "signatures of two parties",
        crates: &["musig2", "schnorr_fun"],
        only_in: &["farthing-protocol"],
    },
    Quarantine {
        what: "a Lightning node",
        crates: &["lightning", "lightning-net-*", "lightning-persister"],
        only_in: &["farthing-gateway"],
    },
    Quarantine { what: "reading invoices", crates: &["lightning-invoice"], only_in: &["farthing-protocol"] },
    Quarantine {
        what: "threshold signing",
        crates: &["dkls23-*", "k256"],
        // The benchmarks also measure the engine by itself.
        only_in: &["farthing-threshold", "farthing-testkit"],
    },
    Quarantine {
        what: "RPC to a bitcoind",
        crates: &["bitcoind", "corepc-*", "jsonrpc", "bitcoincore-rpc*"],
        only_in: &["farthing-chain"],
    },
    Quarantine { what: "SQL", crates: &["rusqlite", "libsqlite3-sys", "sqlx*"], only_in: &["farthing-node"] },
    Quarantine { what: "the wallet", crates: &["bdk_*"], only_in: &["farthing-node"] },
    Quarantine { what: "sealed mail", crates: &["bitcoin-hpke"], only_in: &["farthing-mailbox"] },
    Quarantine { what: "Noise", crates: &["snow"], only_in: &["farthing-node"] },
    Quarantine {
        what: "HTTP",
        crates: &["axum*", "hyper*", "reqwest", "tower*"],
        // The program and the stories also run the services that `http` puts a price on.
        only_in: &["farthing-http", "farthing", "farthing-testkit"],
    },
    Quarantine { what: "the command line", crates: &["clap*"], only_in: &["farthing", "xtask"] },
];

/// Which packages of the workspace each may build on, its tests aside. A new package needs a row.
const LAYERS: &[(&str, &[&str])] = &[
    ("farthing-protocol", &[]),
    ("farthing-threshold", &["farthing-protocol"]),
    ("farthing-mailbox", &["farthing-protocol"]),
    ("farthing-chain", &[]),
    ("farthing-node", &["farthing-protocol", "farthing-threshold", "farthing-chain"]),
    ("farthing-http", &["farthing-protocol", "farthing-mailbox", "farthing-node"]),
    ("farthing-gateway", &["farthing-protocol", "farthing-threshold", "farthing-chain", "farthing-node"]),
    (
        "farthing",
        &[
            "farthing-protocol",
            "farthing-mailbox",
            "farthing-chain",
            "farthing-node",
            "farthing-http",
            "farthing-gateway",
        ],
    ),
    (
        "farthing-testkit",
        &[
            "farthing-protocol",
            "farthing-mailbox",
            "farthing-chain",
            "farthing-node",
            "farthing-http",
            "farthing-gateway",
        ],
    ),
    ("xtask", &[]),
];

/// A package of the workspace with the dependencies that its own manifest names.
pub struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    /// Used by tests, examples and benchmarks only.
    dev: bool,
}

/// Reads the packages out of `cargo metadata --no-deps`.
pub fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let packages = metadata["packages"].as_array().context("`cargo metadata` names no packages")?;
    packages.iter().map(|package| Package::parse(package).context("unreadable package")).collect()
}

impl Package {
    fn parse(package: &Value) -> Option<Self> {
        let dependency = |dependency: &Value| {
            Some(Dependency { name: dependency["name"].as_str()?.into(), dev: dependency["kind"] == "dev" })
        };
        let dependencies =
            package["dependencies"].as_array()?.iter().map(dependency).collect::<Option<_>>()?;
        Some(Self { name: package["name"].as_str()?.into(), dependencies })
    }
}

/// A quarantined crate is named only by the package that wraps it.
pub fn only_where_allowed(packages: &[Package]) -> Vec<String> {
    let mut violations = Vec::new();
    for Quarantine { what, crates, only_in } in QUARANTINES {
        for package in packages.iter().filter(|package| !only_in.contains(&package.name.as_str())) {
            for Dependency { name, .. } in &package.dependencies {
                if crates.iter().any(|pattern| matches(pattern, name)) {
                    violations.push(format!(
                        "{} depends on {name}: {what} is for {} alone",
                        package.name,
                        only_in.join(" and ")
                    ));
                }
            }
        }
    }
    violations
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

/// Packages of the workspace build on each other in one direction.
pub fn only_downwards(packages: &[Package]) -> Vec<String> {
    let mut violations = Vec::new();
    for package in packages {
        let Some((name, below)) = LAYERS.iter().find(|(name, _)| *name == package.name) else {
            violations.push(format!(
                "{} has no row in the layers of xtask/src/rules/dependencies.rs",
                package.name
            ));
            continue;
        };
        for Dependency { name: other, dev } in &package.dependencies {
            let ours = LAYERS.iter().any(|(name, _)| name == other);
            if ours && !dev && !below.contains(&other.as_str()) {
                violations.push(format!("{name} depends on {other}, which is not below it"));
            }
        }
    }
    violations
}

/// `cargo tree` of the protocol, one package a line, has exactly the names of the list.
pub fn as_listed(tree: &str, list: &str) -> Vec<String> {
    let found: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let listed: BTreeSet<&str> = entries(list).collect();
    let added = found.difference(&listed).map(|name| {
        let condition = "if a review finds that it does no IO and draws no randomness";
        format!("farthing-protocol now pulls in {name}: {condition}, add it to {LIST}")
    });
    let gone = listed
        .difference(&found)
        .map(|name| format!("farthing-protocol no longer pulls in {name}: remove it from {LIST}"));
    added.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One package with one dependency.
    fn package(name: &str, dependency: &str, kind: Option<&str>) -> Vec<Package> {
        let dependencies = json!([{"name": dependency, "kind": kind}]);
        packages(&json!({"packages": [{"name": name, "dependencies": dependencies}]})).unwrap()
    }

    #[test]
    fn every_quarantine_holds() {
        for (crate_, home, elsewhere) in [
            ("musig2", "farthing-protocol", "farthing-node"),
            ("dkls23-secp256k1", "farthing-threshold", "farthing-protocol"),
            ("k256", "farthing-threshold", "farthing-node"),
            ("lightning-invoice", "farthing-protocol", "farthing-threshold"),
            ("lightning", "farthing-gateway", "farthing-node"),
            ("lightning-net-tokio", "farthing-gateway", "farthing"),
            ("corepc-client", "farthing-chain", "farthing-node"),
            ("bitcoind", "farthing-chain", "farthing-testkit"),
            ("rusqlite", "farthing-node", "farthing"),
            ("bdk_wallet", "farthing-node", "farthing-chain"),
            ("bitcoin-hpke", "farthing-mailbox", "farthing-protocol"),
            ("snow", "farthing-node", "farthing-protocol"),
            ("axum", "farthing-http", "farthing-node"),
            ("axum-extra", "farthing", "farthing-protocol"),
            ("reqwest", "farthing-testkit", "farthing-chain"),
            ("clap", "farthing", "farthing-node"),
        ] {
            assert!(only_where_allowed(&package(home, crate_, None)).is_empty(), "{crate_} in {home}");
            for kind in [None, Some("dev"), Some("build")] {
                let violations = only_where_allowed(&package(elsewhere, crate_, kind));
                assert_eq!(violations.len(), 1, "{crate_} in {elsewhere}");
                let start = format!("{elsewhere} depends on {crate_}: ");
                assert!(violations[0].starts_with(&start), "{violations:?}");
            }
        }
        assert!(only_where_allowed(&package("xtask", "clap", None)).is_empty());
        assert!(only_where_allowed(&package("farthing", "snowball", None)).is_empty());
    }

    #[test]
    fn packages_build_on_lower_ones_only() {
        assert!(only_downwards(&package("farthing-node", "farthing-protocol", None)).is_empty());
        assert!(only_downwards(&package("farthing-node", "farthing-testkit", Some("dev"))).is_empty());
        for (name, other, kind) in [
            ("farthing-protocol", "farthing-chain", None),
            ("farthing-protocol", "farthing-threshold", None),
            ("farthing-node", "farthing-http", None),
            ("farthing-node", "farthing-http", Some("build")),
            ("farthing", "farthing-testkit", None),
        ] {
            let violations = only_downwards(&package(name, other, kind));
            assert_eq!(violations, [format!("{name} depends on {other}, which is not below it")]);
        }
        let new = only_downwards(&package("farthing-tower", "serde", None));
        assert_eq!(new.len(), 1);
        assert!(new[0].starts_with("farthing-tower has no row"), "{new:?}");
    }

    #[test]
    fn the_protocols_dependencies_are_exactly_the_listed_ones() {
        let tree = "farthing-protocol v0.1.0 (/somewhere)\nbitcoin v0.32.102\nserde v1.0.229 (*)\n";
        assert!(as_listed(tree, "# why\nbitcoin\nfarthing-protocol\nserde\n").is_empty());

        let added = as_listed(tree, "farthing-protocol\nserde\n");
        assert_eq!(added.len(), 1);
        assert!(added[0].starts_with("farthing-protocol now pulls in bitcoin: "), "{added:?}");
        assert!(added[0].ends_with("add it to xtask/protocol-dependencies.txt"), "{added:?}");

        let gone = as_listed(tree, "bitcoin\nfarthing-protocol\nrand\nserde\n");
        let expected =
            "farthing-protocol no longer pulls in rand: remove it from xtask/protocol-dependencies.txt";
        assert_eq!(gone, [expected]);
    }
}
