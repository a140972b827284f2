//! virtd alone is restarted: daemons that something else has started find it again, as the users
//! that they have become, and what an operator has decided is as it was.

use anyhow::{Result, ensure};
use std::time::Duration;
use tests::daemons::Daemon;
use tests::lab::{Lab, Star, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);

/// The user that a daemon's processes become here, of those that can come back.
fn user(daemon: Daemon) -> Option<&'static str> {
    (daemon == Daemon::Frr).then_some("frr")
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
    let mut router = Router::with_toml(&lab, &star, &options, |text| match user(daemon) {
        Some(user) => text.replace("[[instance]]\n", &format!("[[instance]]\nuser = \"{user}\"\n")),
        None => text,
    })?;
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
