//! Files that a reader can hold in mind.

use std::collections::BTreeMap;

use super::entries;
use super::source::Source;

/// Files that may be longer, one a line: `path: reason`.
pub const LIST: &str = "xtask/long-files.txt";

/// Lines of a file without its tests.
const LIMIT: usize = 500;

/// No source is longer than the limit unless the list says why; the list names no other file.
pub fn short_enough(sources: &[Source], list: &str) -> Vec<String> {
    let mut violations = Vec::new();
    let mut excused = BTreeMap::new();
    for entry in entries(list) {
        match entry.split_once(':') {
            Some((path, reason)) if !reason.trim().is_empty() => drop(excused.insert(path.trim(), reason)),
            _ => violations.push(format!("{LIST}: `{entry}` gives no reason, write `path: reason`")),
        }
    }
    for source in sources.iter().filter(|source| source.lines > LIMIT) {
        let path = source.path.to_string_lossy();
        if excused.remove(path.as_ref()).is_none() {
            violations.push(format!(
                "{path} has {} lines without its tests: divide it, or say in {LIST} why it may exceed {LIMIT}",
                source.lines
            ));
        }
    }
    let idle = excused.keys().map(|path| format!("{LIST}: {path} has no more than {LIMIT} lines, remove it"));
    violations.extend(idle);
    violations
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn source(lines: usize, tests: usize) -> Source {
        let text = "fn f() {}\n".repeat(lines) + "#[cfg(test)]\nmod tests {\n" + &"\n".repeat(tests) + "}\n";
        Source::parse(Path::new("crates/node/src/store.rs"), &text)
    }

    #[test]
    fn a_long_file_needs_a_reason() {
        assert!(short_enough(&[source(500, 900)], "").is_empty());

        let long = [source(501, 0)];
        let violations = short_enough(&long, "# list\n");
        assert_eq!(violations.len(), 1);
        assert!(violations[0].starts_with("crates/node/src/store.rs has 501 lines"), "{violations:?}");

        assert!(short_enough(&long, "crates/node/src/store.rs: one table per line").is_empty());
        for empty in ["crates/node/src/store.rs", "crates/node/src/store.rs: "] {
            assert_eq!(short_enough(&long, empty).len(), 2, "{empty}");
        }
    }

    #[test]
    fn a_needless_excuse_is_refused() {
        for list in ["crates/node/src/store.rs: long", "crates/node/src/gone.rs: long"] {
            let violations = short_enough(&[source(10, 0)], list);
            assert_eq!(violations.len(), 1);
            assert!(violations[0].ends_with("remove it"), "{violations:?}");
        }
    }
}
