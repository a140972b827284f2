//! Every fetched version is a router of its own, and an instance behind virtd: alone first, then
//! all at once as one router.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::daemons::{Attach, Instance};
use tests::lab::{Lab, wait_for};
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use tests::versions::Version;

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
const ROUTES: u64 = 200;

#[test]
fn each_version_alone_passes_routes_on() -> Result<()> {
    for version in Version::ALL {
        let Some(root) = version.root()? else { continue };
        let mut lab = Lab::new(&format!("alone-{}", version.name().replace('/', "-")))?;
        let star = lab.star(2)?;
        let spec = Options::default().spec(&star.sites);
        println!("{}: {}", version.name(), root.version);
        let name = version.daemon.name();
        let start = Instance::start_in(&lab, &star.router, version.daemon, name, &spec, &Attach::Native, Some(root));
        let daemon = start.with_context(|| version.name())?;
        let mut monitor =
            Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--until-routes", &ROUTES.to_string()])?;
        monitor.wait_event("session-up", UP)?;
        let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
        let outcome = monitor.wait(SETTLE).with_context(|| version.name())?;
        outcome.check_quiet()?;
        feed.finish()?.check_quiet()?;
        drop(daemon);
        lab.passed();
    }
    Ok(())
}

/// One router out of the installed three and every fetched version; each dies and comes back
/// voting.
#[test]
fn all_versions_together_are_one_router() -> Result<()> {
    let mut lab = Lab::new("versions")?;
    let star = lab.star(2)?;
    let mut options = Options::default();
    options.versions = vec![None; options.daemons.len()];
    for version in Version::ALL {
        if version.root()?.is_some() {
            options.daemons.push(version.daemon);
            options.versions.push(Some(version));
        }
    }
    let mut router = Router::start(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    feed.wait_event("feed-done", UP)?;
    wait_for("all routes outside", SETTLE, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == ROUTES))?;
    router.wait_voting(SETTLE)?;
    router.wait_quiet(Duration::from_secs(4), SETTLE)?;
    let dissent = router.status()?.disagreements_now;
    ensure!(dissent == 0, "{dissent} disagreements: {:?}", router.events("disagreement"));
    let told = monitor.count("update");
    let names: Vec<String> = router.instances.iter().map(|i| i.name.clone()).collect();
    for name in names.iter().skip(3) {
        router.instance(name)?.crash();
        router.wait_state(name, "absent", UP)?;
        router.instance(name)?.launch(&lab)?;
        router.wait_state(name, "voting", SETTLE).with_context(|| format!("{name} of {names:?}"))?;
    }
    ensure!(monitor.count("update") == told, "the monitor was told something");
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}
