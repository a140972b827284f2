//! A daemon on its own, natively, with three neighbours: whether a version has a bug at all, before
//! virtd is asked what it makes of it.

use crate::daemons::{Attach, Daemon, Instance};
use crate::lab::{Lab, Star};
use crate::published::installed;
use crate::replayer::Replayer;
use crate::router::Options;
use crate::untested::not_tested;
use crate::versions::Version;
use anyhow::{Context, Result};
use std::time::Duration;

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);

/// What a daemon is called, whichever version of its package that is today. `None` is the installed
/// one.
pub fn which(daemon: Daemon, version: Option<Version>) -> String {
    version.map_or_else(|| format!("the installed {}", daemon.name()), Version::name)
}

/// The same with its version as far as that can be known.
pub fn name(daemon: Daemon, version: Option<Version>) -> String {
    match version.map(Version::fetch) {
        None => installed(daemon).unwrap_or_else(|e| format!("the installed {}: {e:#}", daemon.name())),
        Some(Ok(Ok(root))) => format!("{} {}", which(daemon, version), root.version),
        Some(_) => which(daemon, version),
    }
}

/// Whether a version can be had and has a bug, as `shows` finds out with that version alone. Where
/// not, this is written down as not tested, and there is nothing to ask virtd about.
///
/// # Errors
/// What `shows` says.
pub fn has_bug(
    bug: &str,
    daemon: Daemon,
    version: Option<Version>,
    shows: impl FnOnce() -> Result<bool>,
) -> Result<bool> {
    if let Some(version) = version
        && version.root()?.is_none()
    {
        return Ok(false);
    }
    let shown = shows()?;
    if !shown {
        let why = format!("{} alone does not show it", name(daemon, version));
        not_tested(&format!("{bug} of {}", which(daemon, version)), &why);
    }
    Ok(shown)
}

/// A router of one daemon, natively, with three neighbours.
pub fn alone(
    name: &str,
    daemon: Daemon,
    version: Option<Version>,
    configure: impl FnOnce(&mut Instance, &Lab, &Star) -> Result<()>,
) -> Result<(Lab, Star, Instance)> {
    let root = version.map(Version::needed).transpose()?;
    let mut lab = Lab::new(name)?;
    let star = lab.star(3)?;
    let spec = Options::default().spec(&star.sites);
    let mut instance = Instance::start_in(&lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native, root)?;
    configure(&mut instance, &lab, &star)?;
    Ok((lab, star, instance))
}

/// Five routes of the neighbour that will send the odd UPDATE, counted from 0, pass a daemon on its
/// own.
pub fn ordinary_routes_pass(lab: &Lab, star: &Star, from: usize, offer: &[&str]) -> Result<()> {
    let site = star.sites.get(from).context("a site for it")?;
    let mut monitor = Replayer::dial(lab, &star.sites[1], false, &["--monitor", "--until-routes", "5"])?;
    monitor.wait_event("session-up", UP)?;
    let mut feed = Replayer::dial(lab, site, false, &[offer, &["--generate", "5"]].concat())?;
    monitor.wait(SETTLE)?.check_quiet()?;
    feed.finish()?.check_quiet()
}
