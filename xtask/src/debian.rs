//! Programs from Debian, without root and on any machine with apt.
//!
//! Debian unstable carries Bitcoin Knots, and wrk; Debian 12 carries Electrum, and the Python that it runs with. They are taken from the mirror that this machine's apt is configured with,
//! checked by apt against Debian's signing keys, and unpacked beside its own libc and libraries, so that the age of the
//! machine does not matter. apt keeps its lists, packages and state in a folder of ours: of the system only its
//! configuration is read (sources, proxy, credentials), and nothing of it is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{step, tools};

/// A package of Debian unstable, and what is kept of it.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    pub name: &'static str,
    pub programs: &'static [&'static str],
}

/// What the names of the packages begin with that a program needs. The rest (debconf, a service manager) serves only an installation.
pub const LIBRARIES: [&str; 2] = ["lib", "zlib1g"];

/// Debian's signing keys. Without the file (a derivative of Debian) apt's own trusted keys decide.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fetches and unpacks a package into `folder`, and returns the tree below it that is to be kept. The tree may be moved:
///
/// ```text
/// bin/bitcoind       starts libexec/bitcoind with the loader and the libraries of lib
/// lib/…              libc, its loader, and the other libraries
/// libexec/bitcoind
/// ```
pub fn fetch(package: Package, folder: &Path) -> Result<PathBuf> {
    let names = [package.name];
    let unpacked = unpack("sid", &names, &LIBRARIES, folder)?;
    let tree = folder.join("tree");
    arrange(&unpacked, package.programs, &tree)?;
    Ok(tree)
}

/// Fetches packages with what they need, and returns the folder below `folder` into which all were unpacked.
pub fn unpack(suite: &str, names: &[&str], needed: &[&str], folder: &Path) -> Result<PathBuf> {
    for program in ["apt-get", "apt-cache", "dpkg", "dpkg-deb"] {
        let found = tools::on_path(program).next();
        ensure!(found.is_some(), "`{program}` is missing, this system does not use Debian's packages");
    }
    let apt = Apt::new(&folder.join("apt"))?;
    // A mirror that moves on between its list and its packages is asked for both again.
    let packages = step::try_again(|| {
        apt.use_first_mirror_with(suite, names)?;
        apt.download(names, needed)
    })?;
    let unpacked = folder.join("unpacked");
    for file in packages {
        step::output(Command::new("dpkg-deb").arg("--extract").args([&file, &unpacked]))?;
    }
    Ok(unpacked)
}

/// apt with the system's configuration and a state of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial", "packages"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let own = folder.display();
        let configuration = format!(
            r#"
            Dir::Etc::SourceParts "/dev/null";
            Dir::Etc::Preferences "/dev/null";
            Dir::Etc::PreferencesParts "/dev/null";
            Dir::Etc::SourceList "{own}/sources.list";
            Dir::State::Lists "{own}/lists";
            Dir::State::Status "/dev/null";
            Dir::Cache "{own}/cache";
            Acquire::Languages "none";
            Acquire::Retries "3";
            Acquire::Check-Date "false";  // signatures are checked all the same; a lagging mirror will do,
            Acquire::Check-Valid-Until "false";  // or a snapshot, or a machine whose clock is wrong
            APT::Update::Error-Mode "any";  // else an unreachable mirror is only a warning
            APT::Sandbox::User "root";  // stay the user that we are: another may not read our folder
            #clear APT::Update::Pre-Invoke;
            #clear APT::Update::Post-Invoke;
            #clear APT::Update::Post-Invoke-Success;
            "#
        );
        fs::write(folder.join("apt.conf"), configuration)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").current_dir(self.folder.join("packages"));
        step::output(command.arg("--config-file").arg(self.folder.join("apt.conf")).args(arguments))
    }

    /// Leaves this apt with the lists of the first configured mirror that has the packages.
    fn use_first_mirror_with(&self, suite: &str, names: &[&str]) -> Result<()> {
        let architecture = step::output(Command::new("dpkg").arg("--print-architecture"))?;
        let key = if Path::new(KEYRING).exists() { format!("signed-by={KEYRING}") } else { String::new() };
        let mirrors = self.configured_mirrors()?;
        let mut refusals = String::new();
        for mirror in &mirrors {
            let source =
                format!("deb [arch={} target=Packages {key}] {mirror} {suite} main\n", architecture.trim());
            fs::write(self.folder.join("sources.list"), source)?;
            let answer = self.run("apt-get", &["-qq", "update"]);
            match answer.and_then(|_| self.run("apt-cache", &[&["show"], names].concat())) {
                Ok(_) => return Ok(()),
                Err(error) => refusals.push_str(&format!("\n{error:#}")),
            }
        }
        if mirrors.is_empty() {
            bail!("apt is configured with no package source");
        }
        bail!("no package source of apt has {} in Debian {suite}:{refusals}", names.join(", "))
    }

    /// The configured package sources, likely mirrors of Debian first.
    ///
    /// apt is asked which files it would fetch: it knows every place, format and option of a source, and answers alike
    /// before and after the machine's first `apt-get update`, with or without root.
    fn configured_mirrors(&self) -> Result<Vec<String>> {
        let no_lists = format!("Dir::State::Lists={}/lists", self.folder.display());
        let mut command = Command::new("apt-get");
        let listing = step::output(command.args(["--option", &no_lists, "--print-uris", "update"]))?;
        Ok(mirrors(&listing))
    }

    /// Downloads the packages and what they need, and returns the files.
    fn download(&self, names: &[&str], needed: &[&str]) -> Result<Vec<PathBuf>> {
        let all = self.run("apt-cache", &[&["depends", "--important", "--recurse"], names].concat())?;
        let wanted = closure(&all, names, needed);
        self.run("apt-get", &[&["-qq", "download"], &wanted[..]].concat())?;
        files(&self.folder.join("packages"))
    }
}

/// The base addresses in the listing of `apt-get --print-uris update`, those that look like Debian's first.
fn mirrors(listing: &str) -> Vec<String> {
    let mut mirrors: Vec<String> = Vec::new();
    for line in listing.lines() {
        let quoted = line.strip_prefix('\'').and_then(|line| line.split('\'').next());
        let Some(index) = quoted.and_then(|address| address.strip_suffix("/InRelease")) else { continue };
        let Some((mirror, _suite)) = index.split_once("/dists/") else { continue };
        if !mirror.starts_with("cdrom:") && !mirrors.iter().any(|known| known == mirror) {
            mirrors.push(mirror.to_owned());
        }
    }
    // "…/debian" for most mirrors, "mirror+file:/etc/apt/mirrors/debian.list" for a list of them.
    mirrors.sort_by_key(|mirror| !(mirror.ends_with("/debian") || mirror.ends_with("/debian.list")));
    mirrors
}

/// The packages with these names, and, by what `apt-cache depends --recurse` printed, everything that they need whose name begins
/// with one of `needed`: of alternatives (`|`) all, and whatever provides a virtual package, which is in angle brackets.
fn closure<'a>(depends: &'a str, names: &[&'a str], needed: &[&str]) -> Vec<&'a str> {
    let mut of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut package = "";
    for line in depends.lines() {
        if !line.starts_with([' ', '|']) {
            package = line;
            continue;
        }
        let other = line.trim().trim_start_matches('|');
        let name = other.strip_prefix("Depends: ").or(other.strip_prefix("PreDepends: ")).unwrap_or(other);
        if needed.iter().any(|prefix| name.starts_with(prefix)) {
            of.entry(package).or_default().push(name);
        }
    }
    let mut wanted = BTreeSet::new();
    let mut open = names.to_vec();
    while let Some(package) = open.pop() {
        if wanted.insert(package) {
            open.extend(of.get(package).into_iter().flatten());
        }
    }
    wanted.into_iter().collect()
}

/// Builds the small tree that is kept out of the unpacked packages.
fn arrange(unpacked: &Path, programs: &[&str], tree: &Path) -> Result<()> {
    let loader = gather_libraries(unpacked, tree)?;
    for program in programs {
        let libexec = tree.join("libexec");
        fs::create_dir_all(&libexec)?;
        fs::rename(unpacked.join("usr/bin").join(program), libexec.join(program))?;
        start_by(tree, program, &starter_script(program, &loader))?;
    }
    Ok(())
}

/// Moves libc, its loader and the other libraries into the tree's folder `lib`. Gives the loader's name.
pub fn gather_libraries(unpacked: &Path, tree: &Path) -> Result<String> {
    let kept = tree.join("lib");
    fs::create_dir_all(&kept)?;
    let mut loader = None;
    // Before Debian 13, libc was in `/lib`.
    for root in ["usr/lib", "lib"].map(|root| unpacked.join(root)).into_iter().filter(|root| root.is_dir()) {
        for folder in files(&root)?.into_iter().filter(|folder| name_of(folder).contains("-linux-")) {
            for file in files(&folder)? {
                let name = name_of(&file);
                if name.starts_with("ld-linux") {
                    loader = Some(name.clone());
                }
                if name.contains(".so") {
                    fs::rename(&file, kept.join(&name))?;
                }
            }
        }
    }
    ensure!(kept.join("libc.so.6").exists(), "the packages hold no libc");
    loader.context("the packages hold no loader")
}

/// Writes the script by which a program of the tree is started.
pub fn start_by(tree: &Path, program: &str, script: &str) -> Result<()> {
    let bin = tree.join("bin");
    fs::create_dir_all(&bin)?;
    let starter = bin.join(program);
    fs::write(&starter, script)?;
    fs::set_permissions(&starter, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn starter_script(program: &str, loader: &str) -> String {
    format!(
        r#"#!/bin/sh
# Runs {program} with the libc and the libraries that it was built for.
here=$(dirname "$(readlink -f "$0")")/..
exec "$here/lib/{loader}" --library-path "$here/lib" --argv0 {program} "$here/libexec/{program}" "$@"
"#
    )
}

/// What a folder holds, full paths.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).map_err(|error| anyhow!("cannot read {}: {error}", folder.display()))?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_from_every_kind_of_source_and_debian_first() {
        let listing = "\
'https://packages.example/apt/dists/stable/InRelease' packages.example_apt_dists_stable_InRelease 0
'http://deb.example/debian/dists/bookworm/InRelease' deb.example_debian_dists_bookworm_InRelease 0
'http://deb.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' deb.example_Packages 0
'http://deb.example/debian/dists/bookworm-updates/InRelease' deb.example_debian_InRelease 0
'http://deb.example/debian-security/dists/bookworm-security/InRelease' deb.example_InRelease 0
'http://flat.example/./InRelease' flat.example_._InRelease 0
'cdrom://[Debian GNU/Linux 12]/dists/bookworm/InRelease' Debian_InRelease 0
'mirror+file:/etc/apt/mirrors/debian.list/dists/trixie/InRelease' _etc_apt_mirrors_InRelease 0
";
        assert_eq!(
            mirrors(listing),
            [
                "http://deb.example/debian",
                "mirror+file:/etc/apt/mirrors/debian.list",
                "https://packages.example/apt",
                "http://deb.example/debian-security",
            ]
        );
        assert!(mirrors("").is_empty());
    }

    #[test]
    fn only_what_a_program_needs_is_followed() {
        let depends = "bitcoin-knots\n |Depends: debconf\n  Depends: <debconf-2.0>\n    cdebconf\n  Depends: libc6\n  \
                       PreDepends: init\n |Depends: libold5\n  Depends: libzmq5\ninit\n  Depends: libinit1\nlibzmq5\n  Depends: \
                       libc6\n  Depends: <virtual>\n    libreal1\n  PreDepends: zlib1g\nlibc6\n  Depends: libgcc-s1\n<virtual>\n";
        let wanted = ["bitcoin-knots", "libc6", "libgcc-s1", "libold5", "libreal1", "libzmq5", "zlib1g"];
        assert_eq!(closure(depends, &["bitcoin-knots"], &LIBRARIES), wanted);
        assert_eq!(closure(depends, &["init", "libold5"], &["libi"]), ["init", "libinit1", "libold5"]);
    }

    #[test]
    fn the_tree_is_complete_and_its_programs_start() {
        let folder = tempfile::tempdir().unwrap();
        let (unpacked, tree) = (folder.path().join("unpacked"), folder.path().join("tree"));
        let libraries = unpacked.join("usr/lib/some-linux-gnu");
        fs::create_dir_all(&libraries).unwrap();
        fs::create_dir_all(unpacked.join("usr/bin")).unwrap();
        for name in ["libc.so.6", "libzmq.so.5", "gconv-modules"] {
            fs::write(libraries.join(name), "").unwrap();
        }
        // Stands for the loader: shows what it was asked to run.
        std::os::unix::fs::symlink("/bin/echo", libraries.join("ld-linux.so.2")).unwrap();
        for name in ["bitcoind", "wrk"] {
            fs::write(unpacked.join("usr/bin").join(name), "").unwrap();
        }

        arrange(&unpacked, &["bitcoind", "wrk"], &tree).unwrap();

        let moved = folder.path().join("moved here");
        fs::rename(&tree, &moved).unwrap();
        let starter = moved.join("bin/bitcoind");
        let said = step::output(Command::new("sh").arg(starter).args(["-conf=a b", "-x"])).unwrap();
        assert!(said.starts_with("--library-path /"), "{said}");
        assert!(said.contains("/lib --argv0 bitcoind /"), "{said}");
        assert!(said.ends_with("/libexec/bitcoind -conf=a b -x\n"), "{said}");
        assert!(!moved.join("lib/gconv-modules").exists());
    }

    #[test]
    fn an_unpacked_tree_without_libc_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("usr/lib/empty")).unwrap();
        let error = arrange(folder.path(), &[], &folder.path().join("tree")).unwrap_err();
        assert_eq!(error.to_string(), "the packages hold no libc");
    }
}
