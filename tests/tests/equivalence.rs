//! What docs/EQUIVALENCE.md claims: with the configurations that we write, the three daemons, each
//! alone and without us, tell a second neighbour the same routes of a real update file.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance, PeerSpec, RouterSpec};
use tests::lab::{Lab, real_data};
use tests::neighbours::prefixes;
use tests::replayer::{Replayer, differences};
use wire::bgp::Prefix;

const UP: Duration = Duration::from_secs(30);
/// How long the daemons may take for the file; FRR coalesces.
const PLAY: Duration = Duration::from_secs(120);

/// A neighbour's table: the options that make it announce it, and its AS number where that is not
/// its site's.
struct Feed {
    options: [String; 3],
    asn: Option<u32>,
}

impl Feed {
    fn file(file: &Path) -> Feed {
        Feed { options: ["--mrt".into(), file.display().to_string(), "--replace-first-as".into()], asn: None }
    }

    fn script(file: &Path, asn: Option<u32>) -> Feed {
        Feed { options: ["--script".into(), file.display().to_string(), "--keep-as-path".into()], asn }
    }
}

/// Plays each table from a neighbour of its own through one daemon, and returns what one more
/// neighbour learned.
fn alone(lab: &mut Lab, daemon: Daemon, v6: bool, feeds: &[Feed], networks: &[Prefix]) -> Result<PathBuf> {
    let count = u32::try_from(feeds.len())?;
    let mut star = lab.star(count + 1)?;
    for (site, feed) in star.sites.iter_mut().zip(feeds) {
        site.asn = feed.asn.unwrap_or(site.asn);
    }
    let peers = star.sites.iter().map(|site| {
        let (theirs, ours) = site.addresses(v6);
        // Only the neighbours dial: two connections that cross would cost one of them a reset.
        PeerSpec { passive: true, ..PeerSpec::new(theirs, ours, site.asn) }
    });
    let spec = RouterSpec {
        asn: 65000,
        router_id: [10, 255, 0, 1].into(),
        peers: peers.collect(),
        networks: networks.to_vec(),
        lie: None,
        fib: false,
    };
    let router = Instance::start(lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native)?;
    let (listener, players) = star.sites.split_last().ok_or_else(|| anyhow::anyhow!("no sites"))?;
    let mut monitor = Replayer::dial(lab, listener, v6, &["--monitor", "--exit-after-idle", "5s"])?;
    monitor.wait_event("session-up", UP)?;
    let mut playing = Vec::new();
    for (site, feed) in players.iter().zip(feeds) {
        let options: Vec<&str> = feed.options.iter().map(String::as_str).collect();
        playing.push(Replayer::dial(lab, site, v6, &options)?);
    }
    router.wait_established(UP)?;
    let learned = monitor.wait(PLAY)?;
    learned.check_quiet()?;
    for feed in &mut playing {
        feed.finish()?.check_quiet()?;
    }
    let kept = lab.folder("tables")?.join(format!("{}.json", daemon.name()));
    std::fs::copy(&learned.table, &kept)?;
    Ok(kept)
}

/// Runs all three, each in a lab of its own, and compares.
fn all_three(name: &str, v6: bool, feeds: &[Feed], networks: &[Prefix], at_least: usize) -> Result<()> {
    let mut labs = Vec::new();
    let mut tables = Vec::new();
    for daemon in Daemon::ALL {
        let mut lab = Lab::new(&format!("{name}-{}", daemon.name()))?;
        tables.push(alone(&mut lab, daemon, v6, feeds, networks)?);
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
    all_three("v4", false, &[Feed::file(&file)], &[], 18_000)
}

#[test]
fn three_daemons_tell_the_same_ipv6_routes_of_a_real_update_file() -> Result<()> {
    let Some(file) = real_data("updates.20190101.0000.gz") else { return Ok(()) };
    all_three("v6", true, &[Feed::file(&file)], &[], 200)
}

#[test]
fn three_daemons_choose_the_same_routes_between_two_neighbours() -> Result<()> {
    let (Some(one), Some(two)) = (real_data("updates.20070211.0141.gz"), real_data("updates.20071015.1505.gz")) else {
        return Ok(());
    };
    all_three("two", false, &[Feed::file(&one), Feed::file(&two)], &[], 3_500)
}

/// What each of three neighbours says of one prefix, one column each; the first two are in the same
/// AS. Every row is one step of the decision process (RFC 4271 section 9.1.2.2), told by path and
/// MED; the neighbours' router ids ascend.
const DECISIONS: &[(&str, [&str; 3])] = &[
    ("shorter path", ["as-path 65001 64501 64502", "as-path 65001 64502", "as-path 65003 64501 64510 64502"]),
    ("AS_SET counts as one", ["as-path 65001 {64501,64502}", "as-path 65001 64501 64502", "as-path 65003 64501 64502"]),
    (
        "lower origin",
        ["as-path 65001 64501 origin incomplete", "as-path 65001 64501 origin egp", "as-path 65003 64501 origin igp"],
    ),
    ("lower MED of one AS", ["as-path 65001 64501 med 20", "as-path 65001 64501 med 10", ""]),
    ("absent MED is 0", ["as-path 65001 64501 med 20", "as-path 65001 64501", ""]),
    (
        "MED of another AS does not count",
        ["as-path 65001 64501 med 20", "as-path 65001 64501 med 30", "as-path 65003 64501 med 10"],
    ),
    (
        "MED first within the AS",
        ["as-path 65001 64501 med 30", "as-path 65001 64501 med 20", "as-path 65003 64501 med 25"],
    ),
    ("router id last", ["as-path 65001 64501", "as-path 65001 64501", "as-path 65003 64501"]),
    ("aggregator and atomic pass", ["as-path 65001 64501 atomic-aggregate aggregator 64501 192.0.2.9", "", ""]),
    ("MED is not passed on", ["as-path 65001 64501 med 77", "", ""]),
    ("communities pass", ["as-path 65001 64501 community 64501:1 64501:2 large-community 64501:1:2", "", ""]),
    ("unknown transitive passes", ["as-path 65001 64501 attribute 0xc0 200 0102", "", ""]),
    ("unknown non-transitive does not", ["as-path 65001 64501 attribute 0x80 201 0102", "", ""]),
    ("extended communities pass", ["as-path 65001 64501 attribute 0xc0 16 0002fde900000001", "", ""]),
    ("no-export stays", ["as-path 65001 64501 community 65535:65281", "as-path 65001 64501 64502", ""]),
    ("no-advertise stays", ["as-path 65001 64501 community 65535:65282", "", ""]),
];

#[test]
fn three_daemons_decide_alike_and_announce_their_own_networks_alike() -> Result<()> {
    let lab = Lab::new("decisions")?;
    let mut scripts = [String::new(), String::new(), String::new()];
    for (row, (_, columns)) in DECISIONS.iter().enumerate() {
        for (script, column) in scripts.iter_mut().zip(columns).filter(|(_, c)| !c.is_empty()) {
            script.push_str(&format!("announce 198.51.{row}.0/24 {column}\n"));
        }
    }
    let mut feeds = Vec::new();
    for (number, (script, asn)) in scripts.iter().zip([None, Some(65001), None]).enumerate() {
        let file = lab.directory().join(format!("{number}.script"));
        std::fs::write(&file, format!("{script}eor\nwait 10m\n"))?;
        feeds.push(Feed::script(&file, asn));
    }
    all_three("decisions", false, &feeds, &prefixes(&["192.0.2.0/24"])?, DECISIONS.len() - 2)?;
    lab.passed();
    Ok(())
}
