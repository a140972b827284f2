//! virtd alone is restarted: daemons that something else has started find it again, as the users
//! that they have become, and what an operator has decided is as it was.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::daemons::Daemon;
use tests::kinds::Kinds;
use tests::lab::{Lab, Star, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use virtd_api::Instances;

/// OpenBGPD holds back for half a minute, and longer each time, after a session that was reset.
const UP: Duration = Duration::from_secs(120);

/// The user that a daemon's processes become here.
fn user(daemon: Daemon) -> Option<&'static str> {
    match daemon {
        Daemon::Frr => Some("frr"),
        Daemon::Bird => None,
        Daemon::OpenBgpd => Some("_openbgpd"),
    }
}

/// virtd.toml with the user of each instance.
fn with_users(mut text: String) -> String {
    for daemon in Daemon::ALL {
        if let Some(user) = user(daemon) {
            let line = format!("name = {:?}\n", daemon.name());
            text = text.replace(&line, &format!("{line}user = {user:?}\n"));
        }
    }
    text
}

fn listen(lab: &Lab, star: &Star) -> Result<Vec<Replayer>> {
    let all = star.sites.iter().map(|site| Replayer::listen(lab, site, false, &["--reconnect"]));
    all.collect()
}

fn wait_sessions(replayer: &Replayer, times: usize) -> Result<()> {
    let what = format!("session {times} at {}", replayer.address());
    wait_for(&what, UP, || replayer.count("session-up") >= times)
}

fn found_again(daemon: Daemon) -> Result<()> {
    let mut lab = Lab::new(&format!("restart-{}", daemon.name()))?;
    let star = lab.star(2)?;
    let options = Options { daemons: vec![daemon], passive: false, ..Options::default() };
    let mut router = Router::with_toml(&lab, &star, &options, with_users)?;
    let replayers = listen(&lab, &star)?;
    router.launch(&lab, &star, &options)?;
    replayers.iter().try_for_each(|r| wait_sessions(r, 1))?;
    let shut = star.sites[1].addresses(false).0.to_string();
    router.show(&["session", &shut, "shutdown"])?;
    wait_for("the end of the session", UP, || replayers[1].count("session-down") >= 1)?;

    router.restart_virtd(&lab)?;
    wait_sessions(&replayers[0], 2)?;
    ensure!(router.events("shim-refused").is_empty(), "{:?}", router.events("shim-refused"));
    let seen = router.show(&["sessions"])?;
    ensure!(seen.lines().any(|l| l.contains(&shut) && l.contains("(shut down)")), "{seen}");
    ensure!(replayers[1].count("session-up") == 1, "what was shut down has come back");
    router.show(&["session", &shut, "start"])?;
    wait_sessions(&replayers[1], 2)?;
    let operators = router.events("operator");
    ensure!(operators.iter().all(|e| e["uid"] == 0) && operators.len() >= 2, "{operators:?}");
    wait_until("the instance to vote", UP, || match router.state_of(daemon.name()) {
        Ok(state) if state == "voting" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    lab.passed();
    Ok(())
}

#[test]
fn frr_as_its_user_finds_a_restarted_virtd() -> Result<()> {
    found_again(Daemon::Frr)
}

#[test]
fn bird_finds_a_restarted_virtd() -> Result<()> {
    found_again(Daemon::Bird)
}

/// Its session engine has another root by then, where virtd's path does not exist.
#[test]
fn openbgpd_in_another_root_finds_a_restarted_virtd() -> Result<()> {
    found_again(Daemon::OpenBgpd)
}

#[test]
fn daemons_that_listen_are_found_by_a_neighbour_after_a_restart_of_virtd() -> Result<()> {
    let mut lab = Lab::new("restart-listening")?;
    let star = lab.star(1)?;
    let options = Options::default();
    let mut router = Router::with_toml(&lab, &star, &options, with_users)?;
    router.launch(&lab, &star, &options)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "10", "--reconnect"])?;
    feed.wait_event("feed-done", UP)?;
    router.wait_joined("10.0.1.2", UP)?;
    let before = router.events("leg-up").len();
    router.restart_virtd(&lab)?;
    wait_sessions(&feed, 2)?;
    wait_for("all three to have joined again", UP, || router.events("leg-up").len() >= before + 3)?;
    router.wait_voting(UP)?;
    ensure!(router.events("shim-refused").is_empty(), "{:?}", router.events("shim-refused"));
    lab.passed();
    Ok(())
}

#[test]
fn instances_stay_disabled_drained_and_pinned() -> Result<()> {
    let mut lab = Lab::new("restart-duties")?;
    let star = lab.star(1)?;
    let daemons = vec![Daemon::Bird, Daemon::Bird, Daemon::Bird, Daemon::Frr];
    let options = Options { daemons, passive: false, ..Options::default() };
    let mut kinds = Kinds::start(&lab, &star, &options, |_| String::new())?;
    let replayer = Replayer::listen(&lab, &star.sites[0], false, &["--reconnect"])?;
    kinds.wait_voting(UP)?;
    for (name, action) in [("frr", "disable"), ("bird2", "drain"), ("bird3", "pin")] {
        kinds.router.show(&["instance", name, action])?;
    }
    wait_until("FRR to be stopped", UP, || match kinds.pids("frr") {
        Ok(pids) if pids.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let sessions = replayer.count("session-up");

    kinds.router.restart_virtd(&lab)?;
    wait_sessions(&replayer, sessions + 1)?;
    kinds.router.wait_state("bird", "voting", UP)?;
    kinds.router.wait_state("bird3", "voting", UP)?;
    let Instances { instances } = kinds.router.ctl(&["instances"])?;
    for (name, role, pinned) in
        [("bird", "voter", false), ("bird2", "drained", false), ("bird3", "voter", true), ("frr", "disabled", false)]
    {
        let found = instances.iter().find(|i| i.name == name).context("not there")?;
        ensure!(found.role == role && found.pinned == pinned, "{found:?}");
    }
    ensure!(!kinds.pids("bird2")?.is_empty() && kinds.pids("frr")?.is_empty(), "{instances:?}");
    for name in ["frr", "bird2"] {
        kinds.router.show(&["instance", name, "enable"])?;
    }
    kinds.wait_voting(UP)?;
    lab.passed();
    Ok(())
}
