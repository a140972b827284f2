//! What `link_reset_ms` does to real daemons: each takes what it is shown for a flap of the link,
//! one after the other, and nobody else notices.

use super::*;
use tests::fib::wait_routes;
use tests::versions::Version;
use virtd_api::FibEntries;

const ROUTES: usize = 100;
/// Between the resets of two: the one before has come back by then on an idle machine, and where it
/// has not, the kernel's routes stay as they were.
const RESETS: [(&str, &str); 3] =
    [("frr", "{ link_reset_ms = 0 }"), ("bird", "{ link_reset_ms = 15000 }"), ("bird2", "{ link_reset_ms = 30000 }")];

#[test]
fn each_daemon_takes_a_reset_for_a_flap_and_comes_back() -> Result<()> {
    let options = Options {
        daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::Bird],
        versions: vec![None, None, Some(Version::BIRD3_13)],
        fib: true,
        ..Options::default()
    };
    if !options.there()? {
        return Ok(());
    }
    let scene = Scene::behind("t1-flap", 2, &options, &RESETS)?;
    let (router, ns) = (scene.router()?, scene.star.router.clone());
    let mut second = scene.dial(1, &["--monitor"])?;
    let mut first = scene.dial(0, &["--generate", &ROUTES.to_string()])?;
    wait("all routes", &mut second, |w| w.table.len() == ROUTES)?;
    wait_routes(&ns, ROUTES, SETTLE)?;
    router.wait_voting(SETTLE)?;
    for name in ["frr", "bird", "bird2"] {
        tests::fib::wait_state(router, name, "voting", SETTLE)?;
    }
    second.look()?;
    let (before, told) = (kernel(&ns)?, second.changes.len());

    // Another address on the link over which all routes go.
    ns.run("ip", &["address", "add", "10.9.0.1/24", "dev", "n1"])?;
    let mut least = ROUTES;
    wait_until("all to have been shown a reset, and to say the same again", SETTLE * 3, || {
        least = least.min(kernel(&ns).map_err(|e| format!("{e:#}"))?.len());
        let shown = router.events("link-reset").len();
        let diff: FibEntries = router.ctl(&["fib", "--diff"]).map_err(|e| format!("{e:#}"))?;
        let none = diff.entries.is_empty();
        let voting = ["frr", "bird", "bird2"].map(|n| router.state_of(n).unwrap_or_default());
        if shown == 3 && none && voting.iter().all(|s| s == "voting") {
            Ok(())
        } else {
            Err(format!("{shown} resets, {voting:?}: {diff:?}"))
        }
    })?;
    let ended = ["leg-closed", "leg-cease", "leg-notification"].map(|kind| router.events(kind)).concat();
    for (name, _) in RESETS {
        ensure!(ended.iter().any(|e| e["instance"] == name), "{name} has not taken it for a flap");
    }
    ensure!(router.events("poison-suspected").is_empty(), "a session that ends with its link is laid to an UPDATE");
    ensure!(least == ROUTES, "{least} of {ROUTES} routes were left in the kernel at a time");
    ensure!(kernel(&ns)? == before, "the kernel's routes are others");
    second.look()?;
    ensure!(second.changes.len() == told, "the neighbour was told: {:?}", second.changes.get(told..));
    first.check_session()?;
    second.check_session()?;
    scene.lab.passed();
    Ok(())
}
