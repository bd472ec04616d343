//! What may be in the program once only.

/// Two versions of these would not fit together: the first has our types, the others are C libraries of which a program
/// can link one.
const ONCE: [&str; 3] = ["bitcoin", "bitcoinconsensus", "libsqlite3-sys"];

/// No crate of the table is in `Cargo.lock` twice.
pub fn one_version(lock: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for name in ONCE {
        let versions = versions(lock, name);
        if versions.len() > 1 {
            violations
                .push(format!("Cargo.lock has {name} in versions {}: one only", versions.join(" and ")));
        }
    }
    violations
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
        assert!(one_version(one).is_empty());

        let two = format!("{one}\n[[package]]\nname = \"bitcoin\"\nversion = \"0.31.2\"\n");
        assert_eq!(one_version(&two), ["Cargo.lock has bitcoin in versions 0.32.102 and 0.31.2: one only"]);
    }
}
