//! A full table from two neighbours, with hold times of 3 s, and the worker's death in the middle of
//! it: a measurement for the documentation, not part of a run. It fails where a session ends.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tests::kinds::Kinds;
use tests::lab::{Lab, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::Options;

/// Three daemons on two processors want minutes for a million prefixes.
const PATIENCE: Duration = Duration::from_secs(1200);
/// The shortest that BGP has.
const HOLD: [&str; 2] = ["--hold-time", "3"];

/// Microseconds since 1970, as events have them.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

#[test]
#[ignore = "takes minutes and gigabytes: a measurement"]
fn a_full_table_from_two_and_the_workers_death() -> Result<()> {
    let routes: u64 = std::env::var("HV_ROUTES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let generate = ["--generate", &routes.to_string(), HOLD[0], HOLD[1]];
    let mut lab = Lab::new("million")?;
    let star = lab.star(3)?;
    let kinds = Kinds::start(&lab, &star, &Options::default(), |_| String::new())?;
    let router = &kinds.router;
    let watch = ["--monitor", "--events-updates", HOLD[0], HOLD[1]];
    let mut all = vec![Replayer::dial(&lab, &star.sites[2], false, &watch)?];
    all[0].wait_event("session-up", PATIENCE)?;
    let start = Instant::now();
    for site in &star.sites[..2] {
        all.push(Replayer::dial(&lab, site, false, &generate)?);
    }
    wait_until("the table outside", PATIENCE, || match router.prefixes_out("10.0.3.2") {
        Ok(out) if out == routes => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let outside = start.elapsed();
    kinds.wait_voting(PATIENCE)?;
    let quiet = router.wait_quiet(Duration::from_secs(5), PATIENCE)?;
    println!("{routes} prefixes from two are outside after {outside:.1?}; {quiet} differ; {:?}", router.status()?);
    let longest = silences(&all[0], 0).into_iter().max().context("a KEEPALIVE")?;
    println!("the longest time without a word to the one that watches: {} ms", longest / 1000);

    println!("the longest turn so far: {:?}", router.status()?.longest_turn);
    let birds = kinds.pids("bird")?;
    kinds.kill("bird", kinds.leader("bird")?, Signal::SIGKILL, PATIENCE)?;
    kinds.wait_return("bird", &birds, PATIENCE)?;
    kinds.wait_voting(PATIENCE)?;
    println!("BIRD has died and is back; the longest turn: {:?}", router.status()?.longest_turn);

    let back = router.events("instance-back").len();
    let worker = router.status()?.worker.context("a worker")?.pid;
    let (died, died_us) = (Instant::now(), now_us());
    kill(Pid::from_raw(i32::try_from(worker)?), Signal::SIGKILL)?;
    wait_for("a word after the death", PATIENCE, || !silences(&all[0], died_us).is_empty())?;
    wait_for("the sessions to be taken over", PATIENCE, || !router.events("taken-over").is_empty())?;
    println!("taken over after {:.1?}", died.elapsed());
    wait_for("the first vote", PATIENCE, || router.events("instance-back").len() > back)?;
    println!("the first instance votes after {:.1?}", died.elapsed());
    kinds.wait_voting(PATIENCE)?;
    println!("all vote after {:.1?}", died.elapsed());
    router.wait_quiet(Duration::from_secs(5), PATIENCE)?;
    let first = silences(&all[0], died_us).first().copied().context("a word")?;
    let longest = silences(&all[0], died_us).into_iter().max().context("a word")?;
    println!("from the death to the first word {} ms, the longest without one {} ms", first / 1000, longest / 1000);
    println!("{:?}", router.status()?);
    for replayer in &all {
        ensure!(replayer.count("session-down") == 0, "a session has ended: {}", replayer.address());
    }
    ensure!(router.events("session-down").is_empty(), "{:?}", router.events("session-down"));
    // What the session of the one that watches takes with it.
    println!("the longest turn before its end: {:?}", router.status()?.longest_turn);
    all.remove(0).finish()?;
    wait_for("its session to end", PATIENCE, || !router.events("session-down").is_empty())?;
    router.wait_quiet(Duration::from_secs(5), PATIENCE)?;
    println!("and after it: {:?}", router.status()?.longest_turn);
    all.into_iter().try_for_each(|mut replayer| replayer.finish().map(|_| ()))?;
    lab.passed();
    Ok(())
}

/// Between two words that this neighbour was told since then, in microseconds.
fn silences(watcher: &Replayer, since: u64) -> Vec<u64> {
    let words = |e: &serde_json::Value| ["update", "keepalive"].contains(&e["event"].as_str().unwrap_or(""));
    let times = watcher.events().into_iter().filter(words).filter_map(|e| e["ts_us"].as_u64()).filter(|at| *at > since);
    let mut last = since;
    let mut between = Vec::new();
    for at in times {
        if last > 0 {
            between.push(at.saturating_sub(last));
        }
        last = last.max(at);
    }
    between
}
