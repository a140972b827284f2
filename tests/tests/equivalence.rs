//! What docs/EQUIVALENCE.md claims: with the configurations that we write, the three daemons, each alone and without us, tell a
//! second neighbour the same routes of a real update file.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance, PeerSpec, RouterSpec};
use tests::lab::{Lab, real_data};
use tests::replayer::{Replayer, differences};

const UP: Duration = Duration::from_secs(30);
/// How long the daemons may take for the file; FRR coalesces.
const PLAY: Duration = Duration::from_secs(120);

/// Plays each file from a neighbour of its own through one daemon, and returns what one more neighbour learned.
fn alone(lab: &mut Lab, daemon: Daemon, v6: bool, files: &[&Path]) -> Result<PathBuf> {
    let feeds = u32::try_from(files.len())?;
    let star = lab.star(feeds + 1)?;
    let peers = star.sites.iter().map(|site| {
        let (theirs, ours) = site.addresses(v6);
        // Only the neighbours dial: two connections that cross would cost one of them a reset.
        PeerSpec { passive: true, ..PeerSpec::new(theirs, ours, site.asn) }
    });
    let spec = RouterSpec {
        asn: 65000,
        router_id: [10, 255, 0, 1].into(),
        peers: peers.collect(),
        networks: vec![],
        lie: None,
    };
    let router = Instance::start(lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native)?;
    let (listener, players) = star.sites.split_last().ok_or_else(|| anyhow::anyhow!("no sites"))?;
    let mut monitor = Replayer::dial(lab, listener, v6, &["--monitor", "--exit-after-idle", "5s"])?;
    monitor.wait_event("session-up", UP)?;
    let mut feeds = Vec::new();
    for (site, file) in players.iter().zip(files) {
        feeds.push(Replayer::dial(lab, site, v6, &["--mrt", &file.display().to_string(), "--replace-first-as"])?);
    }
    router.wait_established(UP)?;
    let learned = monitor.wait(PLAY)?;
    learned.check_quiet()?;
    for feed in &mut feeds {
        feed.finish()?.check_quiet()?;
    }
    let kept = lab.folder("tables")?.join(format!("{}.json", daemon.name()));
    std::fs::copy(&learned.table, &kept)?;
    Ok(kept)
}

/// Runs all three, each in a lab of its own, and compares.
fn all_three(name: &str, v6: bool, files: &[&Path], at_least: usize) -> Result<()> {
    let mut labs = Vec::new();
    let mut tables = Vec::new();
    for daemon in Daemon::ALL {
        let mut lab = Lab::new(&format!("{name}-{}", daemon.name()))?;
        tables.push(alone(&mut lab, daemon, v6, files)?);
        labs.push(lab);
    }
    let routes = tests::replayer::table(&tables[0])?.len();
    ensure!(routes >= at_least, "only {routes} routes came through");
    let [frr, bird, openbgpd] = tables.as_slice() else { anyhow::bail!("three tables expected") };
    for other in [frr, bird] {
        let found = differences(openbgpd, other)?;
        ensure!(found.routes.is_empty(), "{} differs from OpenBGPD:\n{}", other.display(), found.routes.join("\n"));
        // FRR clears the Partial bit of communities; nobody else touches flags.
        ensure!(other == frr || found.flags_only == 0, "{}: other flags on {}", other.display(), found.flags_only);
    }
    labs.into_iter().for_each(Lab::passed);
    Ok(())
}

#[test]
fn three_daemons_tell_the_same_ipv4_routes_of_a_real_update_file() -> Result<()> {
    let Some(file) = real_data("updates.20190101.0000.gz") else { return Ok(()) };
    all_three("v4", false, &[&file], 18_000)
}

#[test]
fn three_daemons_tell_the_same_ipv6_routes_of_a_real_update_file() -> Result<()> {
    let Some(file) = real_data("updates.20190101.0000.gz") else { return Ok(()) };
    all_three("v6", true, &[&file], 200)
}

#[test]
fn three_daemons_choose_the_same_routes_between_two_neighbours() -> Result<()> {
    let (Some(one), Some(two)) = (real_data("updates.20070211.0141.gz"), real_data("updates.20071015.1505.gz")) else {
        return Ok(());
    };
    all_three("two", false, &[&one, &two], 3_500)
}
