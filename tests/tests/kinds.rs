//! Daemons that virtd starts by their kind: two FRRs, two BIRDs and an OpenBGPD in one router,
//! their control programs, their deaths and their end.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use tests::daemons::Daemon;
use tests::kinds::Kinds;
use tests::lab::{Lab, Star, run, wait_for, wait_until};
use tests::memory::Memory;
use tests::replayer::Replayer;
use tests::router::Options;
use virtd_api::Instances;

const UP: Duration = Duration::from_secs(90);
const ROUTES: u64 = 200;
const DAEMONS: [Daemon; 5] = [Daemon::Frr, Daemon::Frr, Daemon::Bird, Daemon::Bird, Daemon::OpenBgpd];

fn start(lab: &Lab, star: &Star, daemons: &[Daemon]) -> Result<Kinds> {
    let options = Options { daemons: daemons.to_vec(), ..Options::default() };
    Kinds::start(lab, star, &options, |_| String::new())
}

/// Kills one process; the instance ends as a whole, with an event that names the process, and comes
/// back voting.
fn kill_one(kinds: &Kinds, name: &str, pid: Pid, named: &str) -> Result<()> {
    let old = kinds.pids(name)?;
    let text = kinds.kill(name, pid, Signal::SIGKILL, UP)?;
    ensure!(text.contains(named) && text.contains("SIGKILL"), "{text}");
    kinds.wait_return(name, &old, UP)
}

#[test]
fn five_daemons_by_kind_are_one_router() -> Result<()> {
    let mut lab = Lab::new("kinds")?;
    let star = lab.star(2)?;
    let mut kinds = start(&lab, &star, &DAEMONS)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    feed.wait_event("feed-done", UP)?;
    wait_for("all routes outside", UP, || kinds.router.prefixes_out("10.0.2.2").is_ok_and(|n| n == ROUTES))?;
    kinds.wait_voting(UP)?;

    let said = [
        ("frr", &["exec", "frr", "show", "bgp", "summary"][..], "10.0.1.2"),
        ("frr2", &["exec", "frr2", "show bgp summary"], "10.0.1.2"),
        ("bird", &["exec", "bird", "show", "protocols"], "Established"),
        ("bird2", &["exec", "bird2", "-r", "show", "protocols"], "Established"),
        ("openbgpd", &["exec", "openbgpd", "show", "summary"], "10.0.1.2"),
    ];
    for (name, words, expected) in said {
        let text = kinds.router.show(words)?;
        ensure!(text.contains(expected), "{name} says {text}");
    }
    let refused = kinds.router.show(&["exec", "frr3"]).err().context("frr3 does not exist")?;
    ensure!(format!("{refused:#}").contains("there are frr, frr2, bird, bird2, openbgpd"), "{refused:#}");

    kinds.router.wait_quiet(Duration::from_secs(1), UP)?;
    let updates = monitor.count("update");
    kill_one(&kinds, "frr2", kinds.leader("frr2")?, "frr2: bgpd (process ")?;
    let zebra = kinds.zebra("frr")?;
    kill_one(&kinds, "frr", zebra, "frr: zebra (process ")?;
    kill_one(&kinds, "bird2", kinds.leader("bird2")?, "bird2 (process ")?;
    kinds.wait_voting(UP)?;
    ensure!(monitor.count("update") == updates, "the monitor was told something");
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;

    let inside = || run("ip", &["netns", "pids", star.router.name()]);
    ensure!(inside()?.lines().count() > 8, "virtd, two zebras and bgpds, two birds, three processes of OpenBGPD");
    kinds.router.virtd.signal(Signal::SIGTERM)?;
    ensure!(kinds.router.virtd.wait(UP)?.success(), "{}", kinds.router.virtd.log());
    let left = inside()?;
    ensure!(left.trim().is_empty(), "virtd has left {left}");
    lab.passed();
    Ok(())
}

/// FRR changes its user, so the kernel does not end it with a virtd that is killed; the next virtd
/// does.
#[test]
fn what_a_killed_virtd_leaves_is_replaced() -> Result<()> {
    let daemons = &[Daemon::Frr, Daemon::Bird];
    let mut lab = Lab::new("kinds-leftovers")?;
    let star = lab.star(2)?;
    let mut kinds = start(&lab, &star, daemons)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "100"])?;
    feed.wait_event("feed-done", UP)?;
    kinds.wait_voting(UP)?;
    let mut old = kinds.pids("frr")?;
    old.push(kinds.zebra("frr")?);
    kinds.router.virtd.crash();
    kinds = start(&lab, &star, daemons)?;
    wait_for("the old FRR to be gone", UP, || old.iter().all(|pid| kill(*pid, None).is_err()))?;
    let mut feed = Replayer::dial(&lab, &star.sites[1], false, &["--generate", "100"])?;
    feed.wait_event("feed-done", UP)?;
    kinds.wait_voting(UP)?;
    let now = kinds.pids("frr")?;
    ensure!(now.len() == 1 && !old.contains(&now[0]), "{old:?} and now {now:?}");
    ensure!(kinds.router.virtd.log().contains("is left from an earlier virtd"), "{}", kinds.router.virtd.log());
    kinds.router.virtd.signal(Signal::SIGTERM)?;
    ensure!(kinds.router.virtd.wait(UP)?.success(), "{}", kinds.router.virtd.log());
    lab.passed();
    Ok(())
}

#[test]
fn an_instance_that_the_kernel_ends_for_want_of_memory_has_died_of_that() -> Result<()> {
    // What BIRD takes from here on; the table takes several times as much.
    let Some(memory) = Memory::limited_to(4 << 20, "an instance that is killed for want of memory") else {
        return Ok(());
    };
    let mut lab = Lab::new("kinds-oom")?;
    let star = lab.star(2)?;
    let kinds = start(&lab, &star, &[Daemon::Frr, Daemon::Bird])?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    monitor.wait_event("session-up", UP)?;
    kinds.wait_voting(UP)?;
    let old = kinds.pids("bird")?;
    for pid in &old {
        memory.limits(*pid)?;
    }
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "200000"])?;
    wait_for("the end of bird to be reported", UP, || !kinds.exits("bird").is_empty())?;
    let text = kinds.exits("bird").join("; ");
    ensure!(text.contains("SIGKILL, since memory was short"), "{text}");
    // virtd starts it outside of the group.
    kinds.wait_return("bird", &old, UP)?;
    wait_until("virtctl to say what it died of", UP, || {
        let Instances { instances } = kinds.router.ctl(&["instances"]).map_err(|e| format!("{e:#}"))?;
        let found = instances.iter().any(|i| i.name == "bird" && i.last_death.as_deref() == Some("out-of-memory"));
        if found { Ok(()) } else { Err(format!("{instances:?}")) }
    })?;
    feed.finish()?.check_quiet()?;
    monitor.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}
