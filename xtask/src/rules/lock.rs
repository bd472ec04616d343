//! What may be in the program once only.

/// Two versions of these would not fit together: the first has our types, the others are C libraries of which a program
/// can link one.
const ONCE: [&str; 3] = ["bitcoin", "bitcoinconsensus", "libsqlite3-sys"];

/// A test of other versions of these would say nothing about what we ship.
const SAME: [&str; 6] =
    ["bitcoin", "dkls23-secp256k1", "k256", "lightning", "lightning-invoice", "secp256k1"];

/// No crate of the table is in a lock file twice.
pub fn one_version(file: &str, lock: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for name in ONCE {
        let versions = versions(lock, name);
        if versions.len() > 1 {
            violations.push(format!("{file} has {name} in versions {}: one only", versions.join(" and ")));
        }
    }
    violations
}

/// What is tested beside the workspace is what the workspace has.
pub fn same_versions(ours: &str, file: &str, other: &str) -> Vec<String> {
    let differs = |name: &&&str| versions(ours, name) != versions(other, name);
    let differing = SAME.iter().filter(differs);
    differing
        .map(|name| {
            let (ours, other) = (versions(ours, name).join(" and "), versions(other, name).join(" and "));
            format!("{file} has {name} {other}, Cargo.lock has {ours}: they are to be the same")
        })
        .collect()
}

/// The versions of a package: a `[[package]]` starts with its name, then its version.
fn versions<'a>(lock: &'a str, name: &str) -> Vec<&'a str> {
    let named = format!("name = \"{name}\"");
    let pairs = lock.lines().zip(lock.lines().skip(1));
    let versions = pairs.filter(|(line, _)| *line == named).map(|(_, next)| next);
    versions.filter_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_version_is_refused() {
        let one = "[[package]]\nname = \"bitcoin\"\nversion = \"0.32.102\"\n\n\
                   [[package]]\nname = \"bitcoin-io\"\nversion = \"0.1.101\"\n";
        assert!(one_version("Cargo.lock", one).is_empty());

        let two = format!("{one}\n[[package]]\nname = \"bitcoin\"\nversion = \"0.31.2\"\n");
        assert_eq!(
            one_version("Cargo.lock", &two),
            ["Cargo.lock has bitcoin in versions 0.32.102 and 0.31.2: one only"]
        );
    }

    #[test]
    fn another_lock_file_may_not_test_other_versions() {
        let lock = |version| format!("[[package]]\nname = \"lightning\"\nversion = \"{version}\"\n");
        assert!(same_versions(&lock("0.2.7"), "other.lock", &lock("0.2.7")).is_empty());
        assert_eq!(
            same_versions(&lock("0.2.7"), "other.lock", &lock("0.2.8")),
            ["other.lock has lightning 0.2.8, Cargo.lock has 0.2.7: they are to be the same"]
        );
        let missing = same_versions(&lock("0.2.7"), "other.lock", "");
        assert_eq!(missing, ["other.lock has lightning , Cargo.lock has 0.2.7: they are to be the same"]);
    }
}
