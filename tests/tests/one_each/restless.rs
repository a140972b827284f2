//! Prefixes that never rest: each is announced with another path every 0.4 s, so that an instance
//! that gathers what it tells for a moment (FRR) is behind the others each time, and with them in
//! between. Nobody is wrong.

use anyhow::{Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;
use tests::lab::{Lab, wait_for};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(90);
const QUIET: Duration = Duration::from_secs(4);
const PREFIXES: usize = 200;
/// So often: about 40 s.
const ROUNDS: usize = 100;
/// Prefixes announced at one moment: a round takes 0.4 s.
const AT_ONCE: usize = 10;
const PAUSE: &str = "20ms";

fn prefix(n: usize) -> String {
    format!("198.{}.{n}.0/24", 18 + n / 256)
}

/// Numbers without a divisor in common with [`PREFIXES`]: in each of these steps all prefixes are
/// come by, in another order.
const STEPS: [usize; 9] = [1, 73, 31, 139, 57, 191, 103, 21, 167];

/// Every prefix with a path of its own, and with another one each round. The order differs from
/// round to round, so that a decision finds each at another moment of its turn.
fn script(lab: &Lab) -> Result<String> {
    let mut text = String::from("wait 2s\n");
    for round in 0..ROUNDS {
        for k in 0..PREFIXES {
            let n = (k * STEPS[round % STEPS.len()] + 37 * round) % PREFIXES;
            writeln!(text, "announce {} as-path {} {}", prefix(n), 64_512 + n, 70_000 + round)?;
            if k % AT_ONCE == AT_ONCE - 1 {
                writeln!(text, "wait {PAUSE}")?;
            }
        }
    }
    let path = lab.directory().join("feed.script");
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

#[test]
fn who_is_a_moment_late_each_time_is_not_wrong_without_a_break() -> Result<()> {
    let mut lab = Lab::new("restless")?;
    let star = lab.star(2)?;
    // A prefix that does not rest is decided after six times T all the same, and the threshold is
    // shorter than from one such decision to the next.
    let options = Options { t_ms: 1_000, timers: "fault_threshold_s = 5\n".to_owned(), ..Options::default() };
    let router = Router::start(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    monitor.wait_event("session-up", UP)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script(&lab)?])?;
    feed.wait_event("feed-done", SETTLE)?;
    wait_for("all prefixes outside", SETTLE, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == PREFIXES as u64))?;
    let left = router.wait_quiet(QUIET, SETTLE)?;
    let (marked, lifted) = (router.events("disagreement").len(), router.events("agreement").len());
    println!("{marked} prefixes on which somebody was late at the moment of a decision, {lifted} times an end of that");
    let faulty = router.events("instance-faulty");
    ensure!(faulty.is_empty(), "accused: {faulty:?}");
    ensure!(left == 0, "{left} disagreements are left");
    ensure!(router.events("majority-split").is_empty(), "the majority was in doubt");
    router.wait_voting(UP)?;
    let routes = monitor.finish()?.routes()?;
    ensure!(routes.len() == PREFIXES, "{} prefixes", routes.len());
    let last = format!("{}", 70_000 + ROUNDS - 1);
    let old = routes.iter().find(|(_, route)| !route["as_path"].to_string().contains(&last));
    ensure!(old.is_none(), "not the last path: {old:?}");
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}
