//! Routing daemons of other Debian suites beside the installed ones: each unpacked into a root of
//! its own, with its own C library, and run in a private mount namespace with that root as `/`.
//! `.ci/versions` brings them, by the operators' own tools/hv-versions; docs/INSTALL.md, "Other
//! versions".

use crate::daemons::Daemon;
use crate::lab::Netns;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::env::temp_dir;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// A daemon as a Debian suite ships it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Which daemon.
    pub daemon: Daemon,
    /// The suite's name.
    suite: &'static str,
    /// The package's name.
    package: &'static str,
}

impl Version {
    /// FRR 7.5.1 of Debian 11.
    pub const FRR_11: Version = Version { daemon: Daemon::Frr, suite: "bullseye", package: "frr" };
    /// FRR 10.3 of Debian 13.
    pub const FRR_13: Version = Version { daemon: Daemon::Frr, suite: "trixie", package: "frr" };
    /// FRR of Debian's unstable suite, whatever that is today.
    pub const FRR_SID: Version = Version { daemon: Daemon::Frr, suite: "sid", package: "frr" };
    /// BIRD 2.0.7 of Debian 11.
    pub const BIRD_11: Version = Version { daemon: Daemon::Bird, suite: "bullseye", package: "bird2" };
    /// BIRD 2.17 of Debian 13.
    pub const BIRD_13: Version = Version { daemon: Daemon::Bird, suite: "trixie", package: "bird2" };
    /// BIRD 3.1 of Debian 13.
    pub const BIRD3_13: Version = Version { daemon: Daemon::Bird, suite: "trixie", package: "bird3" };
    /// OpenBGPD 8.8 of Debian 13.
    pub const OPENBGPD_13: Version = Version { daemon: Daemon::OpenBgpd, suite: "trixie", package: "openbgpd" };

    /// All of them.
    pub const ALL: [Version; 7] = [
        Version::FRR_11,
        Version::FRR_13,
        Version::FRR_SID,
        Version::BIRD_11,
        Version::BIRD_13,
        Version::BIRD3_13,
        Version::OPENBGPD_13,
    ];

    /// Its name for `.ci/versions`, and its folder under target/versions.
    pub fn name(self) -> String {
        format!("{}/{}", self.suite, self.package)
    }

    /// What virtd.toml calls it.
    pub fn word(self) -> String {
        // docs/INSTALL.md: the packages that need not be named.
        if matches!(self.package, "frr" | "bird2" | "openbgpd") { self.suite.to_owned() } else { self.name() }
    }

    /// Its root, fetched if need be. `None` where it cannot be had, which is written down as not
    /// tested.
    ///
    /// # Errors
    /// `.ci/versions` itself cannot be run.
    pub fn root(self) -> Result<Option<Root>> {
        match self.fetch()? {
            Ok(root) => Ok(Some(root)),
            Err(why) => {
                crate::untested::not_tested(&self.name(), &why);
                Ok(None)
            }
        }
    }

    /// The same for those who are no test, or have it from one: the inner error is why it cannot be
    /// had.
    ///
    /// # Errors
    /// `.ci/versions` itself cannot be run.
    pub fn fetch(self) -> Result<Result<Root, String>> {
        let name = self.name();
        // Who waits for a mirror that does not answer waits once.
        static MISSING: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
        let mut missing = MISSING.lock().unwrap_or_else(PoisonError::into_inner);
        if !missing.contains_key(&name)
            && let Err(why) = bring(&name)?
        {
            missing.insert(name.clone(), why);
        }
        if let Some(why) = missing.get(&name) {
            return Ok(Err(why.clone()));
        }
        drop(missing);
        let path = top().join(&name);
        let said = fs::read_to_string(path.join(".complete")).context("what .ci/versions has unpacked")?;
        let version = said.lines().find_map(|l| l.strip_prefix("version ")).context("no version there")?;
        Ok(Ok(Root { version: version.to_owned(), path }))
    }

    /// The same where a scenario has asked for it before ([`Version::root`]): it never goes on with
    /// another version.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn needed(self) -> Result<Root> {
        self.fetch()?.map_err(|why| anyhow::anyhow!("{} cannot be had: {why}", self.name()))
    }
}

/// An unpacked daemon.
#[derive(Clone, Debug)]
pub struct Root {
    /// Debian's version of its package.
    pub version: String,
    /// Where it is.
    pub path: PathBuf,
}

/// What happens between the namespace and the daemon. The folder for temporary files, which all
/// scenarios' folders are in, stands at its own path inside, so that configurations and sockets
/// have one name; /run is empty and its own. `$1` is the root, `$2` that folder, `$3` FRR's user
/// and group; the rest is the command.
const ENTER: &str = "set -e\nroot=$1; shared=$2; frr=$3; shift 3\n\
    mount -t proc proc \"$root/proc\"\nmount --rbind /dev \"$root/dev\"\nmount -t tmpfs -o mode=755 run \"$root/run\"\n\
    mkdir -p \"$root$shared\" \"$root/run/frr\" \"$root/run/openbgpd\" \"$root/run/bird\"\nmount --bind \"$shared\" \"$root$shared\"\n\
    chown \"$frr\" \"$root/run/frr\"\nexec chroot \"$root\" \"$@\"";

impl Root {
    /// A command of this root that runs in a namespace; it becomes `program` itself (same pid).
    /// Environment variables belong into `env(1)` as the program: set on the command they would
    /// reach every helper before it.
    pub fn command(&self, ns: &Netns, program: &str) -> Command {
        let mut command = ns.command("unshare");
        command.args(["--mount", "--", "sh", "-c", ENTER, "sh"]).arg(&self.path).arg(temp_dir()).arg("frr:frr");
        command.arg(program);
        command
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Where `.ci/versions` puts everything; `versions` of a virtd.toml.
pub fn top() -> PathBuf {
    std::env::var_os("HV_VERSIONS").map_or_else(|| workspace().join("target/versions"), PathBuf::from)
}

/// Runs `.ci/versions`; the inner error is what it says where something cannot be had.
fn bring(what: &str) -> Result<Result<(), String>> {
    let out = Command::new(workspace().join(".ci/versions"))
        .arg(what)
        .stdin(Stdio::null())
        .output()
        .context("running .ci/versions")?;
    if out.status.success() {
        return Ok(Ok(()));
    }
    // Its last line is about this one.
    let said = String::from_utf8_lossy(&out.stderr);
    Ok(Err(said.lines().last().map_or_else(|| out.status.to_string(), str::to_owned)))
}
