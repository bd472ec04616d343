//! Programs from Debian, without root and on any machine with apt.
//!
//! Debian unstable carries Bitcoin Knots, and wrk. They are taken from the mirror that this machine's apt is configured with,
//! checked by apt against Debian's signing keys, and unpacked beside its own libc and libraries, so that the age of the
//! machine does not matter. apt keeps its lists, packages and state in a folder of ours: of the system only its
//! configuration is read (sources, proxy, credentials), and nothing of it is changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{step, tools};

const SUITE: &str = "sid";

/// A package, and what is kept of it.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    pub name: &'static str,
    pub programs: &'static [&'static str],
}

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
    for program in ["apt-get", "apt-cache", "dpkg", "dpkg-deb"] {
        let found = tools::on_path(program).next();
        ensure!(found.is_some(), "`{program}` is missing, this system does not use Debian's packages");
    }
    let apt = Apt::new(&folder.join("apt"))?;
    apt.use_first_mirror_with(package.name)?;
    let packages = apt.download(package.name)?;
    let unpacked = folder.join("unpacked");
    for file in packages {
        step::output(Command::new("dpkg-deb").arg("--extract").args([&file, &unpacked]))?;
    }
    let tree = folder.join("tree");
    arrange(&unpacked, package.programs, &tree)?;
    Ok(tree)
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

    /// Leaves this apt with the lists of the first configured mirror that has the package.
    fn use_first_mirror_with(&self, package: &str) -> Result<()> {
        let architecture = step::output(Command::new("dpkg").arg("--print-architecture"))?;
        let key = if Path::new(KEYRING).exists() { format!("signed-by={KEYRING}") } else { String::new() };
        let mirrors = self.configured_mirrors()?;
        let mut refusals = String::new();
        for mirror in &mirrors {
            let source =
                format!("deb [arch={} target=Packages {key}] {mirror} {SUITE} main\n", architecture.trim());
            fs::write(self.folder.join("sources.list"), source)?;
            let answer = self.run("apt-get", &["-qq", "update"]);
            match answer.and_then(|_| self.run("apt-cache", &["show", package])) {
                Ok(_) => return Ok(()),
                Err(error) => refusals.push_str(&format!("\n{error:#}")),
            }
        }
        if mirrors.is_empty() {
            bail!("apt is configured with no package source");
        }
        bail!("no package source of apt has {package} in Debian {SUITE}:{refusals}")
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

    /// Downloads the package and every library that it needs, and returns the files.
    fn download(&self, package: &str) -> Result<Vec<PathBuf>> {
        let direct = self.run("apt-cache", &["depends", "--important", package])?;
        let direct = libraries(&direct);
        let all = self.run("apt-cache", &[&["depends", "--important", "--recurse"], &direct[..]].concat())?;
        let mut wanted = packages(&all);
        wanted.push(package);
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

/// The libraries among the direct dependencies that `apt-cache depends` printed, of alternatives (`|`) all. The rest (debconf,
/// a service manager) serves only an installation.
fn libraries(depends: &str) -> Vec<&str> {
    let dependencies = depends.lines().map(|line| line.trim().trim_start_matches('|'));
    let names = dependencies.filter_map(|line| line.strip_prefix("Depends: "));
    names.filter(|name| name.starts_with("lib")).collect()
}

/// The packages that `apt-cache depends --recurse` visited: flush left; virtual ones are in angle brackets.
fn packages(depends: &str) -> Vec<&str> {
    let mut names: Vec<&str> = depends.lines().filter(|line| !line.starts_with([' ', '<'])).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Builds the small tree that is kept out of the unpacked packages.
fn arrange(unpacked: &Path, programs: &[&str], tree: &Path) -> Result<()> {
    for sub in ["bin", "lib", "libexec"] {
        fs::create_dir_all(tree.join(sub))?;
    }
    let libraries = files(&unpacked.join("usr/lib"))?
        .into_iter()
        .find(|folder| folder.join("libc.so.6").exists())
        .context("the packages hold no libc")?;
    let mut loader = None;
    for file in files(&libraries)? {
        let name = name_of(&file);
        if name.starts_with("ld-linux") {
            loader = Some(name.clone());
        }
        if name.contains(".so") {
            fs::rename(&file, tree.join("lib").join(&name))?;
        }
    }
    let loader = loader.context("the packages hold no loader")?;
    for program in programs {
        fs::rename(unpacked.join("usr/bin").join(program), tree.join("libexec").join(program))?;
        let starter = tree.join("bin").join(program);
        fs::write(&starter, starter_script(program, &loader))?;
        fs::set_permissions(&starter, fs::Permissions::from_mode(0o755))?;
    }
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
    fn only_libraries_are_followed() {
        let direct = "bitcoin-knots\n |Depends: debconf\n  Depends: <debconf-2.0>\n    cdebconf\n  Depends: libc6\n \
                      PreDepends: init\n |Depends: libold5\n  Depends: libzmq5\n";
        assert_eq!(libraries(direct), ["libc6", "libold5", "libzmq5"]);

        let all = "libzmq5\n  Depends: libc6\n  Depends: <virtual>\nlibc6\n<virtual>\nlibc6\n  Depends: libgcc-s1\n";
        assert_eq!(packages(all), ["libc6", "libzmq5"]);
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
