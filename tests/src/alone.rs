//! A daemon on its own, natively, with three neighbours: whether a version has a bug at all, before virtd is asked what it makes of it. Where a
//! version cannot be had or does not have the bug, that is said past the test harness, which shows what a passing test prints to nobody.

use crate::daemons::{Attach, Daemon, Instance};
use crate::lab::{Lab, Star};
use crate::published::installed;
use crate::replayer::Replayer;
use crate::router::Options;
use crate::versions::Version;
use anyhow::{Context, Result};
use std::io::Write as _;
use std::time::Duration;

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);

/// Says aloud what a scenario proves nothing about. `None` is the installed version.
pub fn not_tested(daemon: Daemon, version: Option<Version>, why: &str) {
    aloud(&format!("NOT TESTED with {}: {why}", name(daemon, version)));
}

/// One line on stderr, whoever captures what tests print.
pub fn aloud(text: &str) {
    // There is nobody to tell where stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What a daemon is called, with its version as far as that can be known.
pub fn name(daemon: Daemon, version: Option<Version>) -> String {
    match version {
        None => installed(daemon).unwrap_or_else(|e| format!("the installed {}: {e:#}", daemon.name())),
        Some(version) => match version.root() {
            Ok(Some(root)) => format!("{} {}", version.name(), root.version),
            _ => version.name(),
        },
    }
}

/// A router of one daemon, natively, with three neighbours; `None` where its version cannot be had.
pub fn alone(
    name: &str,
    daemon: Daemon,
    version: Option<Version>,
    configure: impl FnOnce(&mut Instance, &Lab, &Star) -> Result<()>,
) -> Result<Option<(Lab, Star, Instance)>> {
    let root = match version.map(Version::root).transpose()? {
        // It has said so itself.
        Some(None) => return Ok(None),
        root => root.flatten(),
    };
    let mut lab = Lab::new(name)?;
    let star = lab.star(3)?;
    let spec = Options::default().spec(&star.sites);
    let mut instance = Instance::start_in(&lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native, root)?;
    configure(&mut instance, &lab, &star)?;
    Ok(Some((lab, star, instance)))
}

/// Five routes of the neighbour that will send the odd UPDATE, counted from 0, pass a daemon on its own.
pub fn ordinary_routes_pass(lab: &Lab, star: &Star, from: usize, offer: &[&str]) -> Result<()> {
    let site = star.sites.get(from).context("a site for it")?;
    let mut monitor = Replayer::dial(lab, &star.sites[1], false, &["--monitor", "--until-routes", "5"])?;
    monitor.wait_event("session-up", UP)?;
    let mut feed = Replayer::dial(lab, site, false, &[offer, &["--generate", "5"]].concat())?;
    monitor.wait(SETTLE)?.check_quiet()?;
    feed.finish()?.check_quiet()
}

/// The first of a version and the installed one that has the bug, and whether it does.
pub fn first_that(
    version: Option<Version>,
    dies: impl Fn(Option<Version>) -> Result<bool>,
) -> Result<(Option<Version>, bool)> {
    if dies(version)? {
        return Ok((version, true));
    }
    Ok((None, version.is_some() && dies(None)?))
}
