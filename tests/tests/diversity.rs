//! Instances that are told the same at different times (papers/001 section 2.2): the neighbours see
//! what they see without, and what is held back is held back as configured.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::faults::watch::{Watch, now_us};
use tests::lab::{Lab, Star, real_data, wait_until};
use tests::replayer::{Replayer, differences, table};
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(120);
/// Longer than T and what is held back: what disagrees has shown itself by then.
const QUIET: Duration = Duration::from_secs(5);
/// What another neighbour announces besides, at the same time.
const MORE: &str = "3000";

/// What makes the three differ: from 1 to 10 ms, up to half a second, and as long as it is.
const DIFFERENT: [(&str, &str); 3] = [
    ("frr", "{ delay_ms = [1, 10], seed = 1 }"),
    ("bird", "{ delay_ms = [0, 500], distribution = \"exponential\", seed = 2 }"),
    ("openbgpd", "{ delay_ms = 200, seed = 3 }"),
];

/// A router whose instances have these tables under `diversity`.
fn router(lab: &Lab, star: &Star, diversity: &[(&str, &str)]) -> Result<Router> {
    let options = Options::default();
    let edit = |text: String| {
        diversity.iter().fold(text, |text, (name, table)| {
            let name = format!("name = {name:?}\n");
            text.replace(&name, &format!("{name}diversity = {table}\n"))
        })
    };
    let mut router = Router::with_toml(lab, star, &options, edit)?;
    router.launch(lab, star, &options)?;
    ensure!(router.events("instance-differs").len() == diversity.len(), "not every seed is logged");
    Ok(router)
}

/// What the third neighbour learns of what two others say at once.
fn learned(lab: &mut Lab, file: Option<&Path>, diversity: &[(&str, &str)]) -> Result<PathBuf> {
    let star = lab.star(3)?;
    let router = router(lab, &star, diversity)?;
    let mut monitor = Replayer::dial(lab, &star.sites[1], false, &["--monitor", "--exit-after-idle", "12s"])?;
    monitor.wait_event("session-up", UP)?;
    let file = file.map(|f| f.display().to_string());
    let play: Vec<&str> = match &file {
        Some(file) => vec!["--mrt", file, "--replace-first-as"],
        None => vec!["--generate", "20000"],
    };
    let mut feed = Replayer::dial(lab, &star.sites[0], false, &play)?;
    let mut more = Replayer::dial(lab, &star.sites[2], false, &["--generate", MORE, "--seed", "7"])?;
    feed.wait_event("feed-done", SETTLE)?;
    more.wait_event("feed-done", SETTLE)?;
    let outcome = monitor.wait(SETTLE)?;
    ensure!(router.wait_quiet(QUIET, SETTLE)? == 0, "they disagree in the end");
    outcome.check_quiet()?;
    feed.finish()?.check_quiet()?;
    more.finish()?.check_quiet()?;
    Ok(outcome.table)
}

#[test]
fn the_routes_are_those_without_prefix_by_prefix() -> Result<()> {
    let file = real_data("updates.20190101.0000.gz");
    let mut plain = Lab::new("diversity-none")?;
    let without = learned(&mut plain, file.as_deref(), &[])?;
    ensure!(table(&without)?.len() > 18_000, "only {} routes came through", table(&without)?.len());
    let mut lab = Lab::new("diversity-timing")?;
    let with = learned(&mut lab, file.as_deref(), &DIFFERENT)?;
    let found = differences(&without, &with)?;
    ensure!(found.routes.is_empty(), "timing diversity makes a difference:\n{}", found.routes.join("\n"));
    plain.passed();
    lab.passed();
    Ok(())
}

/// Two of three are told 700 ms late: there is no quorum before, and a neighbour hears of nothing
/// before.
#[test]
fn what_is_held_back_is_held_back_for_the_configured_time() -> Result<()> {
    const LATE_US: u64 = 700_000;
    let mut lab = Lab::new("diversity-delay")?;
    let star = lab.star(2)?;
    let late = [("bird", "{ delay_ms = 700 }"), ("openbgpd", "{ delay_ms = 700 }")];
    let router = router(&lab, &star, &late)?;
    let mut sender = Watch::dial(&lab, &star.sites[0], &[])?;
    let mut second = Watch::dial(&lab, &star.sites[1], &["--monitor"])?;
    wait_until("both sessions", UP, || {
        let looked = sender.look().and_then(|()| second.look());
        looked.map_err(|e| format!("{e:#}"))?;
        if sender.ups == 1 && second.ups == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })?;
    router.wait_voting(UP)?;
    let mut took = Vec::new();
    for n in 1..=8 {
        let prefix = format!("198.51.{n}.0/24");
        for (word, there) in [("announce", true), ("withdraw", false)] {
            let said = now_us();
            sender.say(&format!("{word} {prefix}"))?;
            let seen = |c: &&tests::faults::watch::Change| c.prefix == prefix && c.route.is_some() == there;
            wait_until(&format!("the neighbour to hear of {word} {prefix}"), SETTLE, || {
                second.look().map_err(|e| format!("{e:#}"))?;
                second.changes.iter().find(seen).map(|_| ()).ok_or_else(|| "nothing".to_owned())
            })?;
            let heard = second.changes.iter().find(seen).context("it was there")?.at_us;
            let after = heard.saturating_sub(said);
            ensure!(after >= LATE_US, "{word} {prefix} was heard of after {after} us, before any quorum was told");
            took.push(after / 1000);
        }
    }
    println!("held back 700 ms, heard of after {took:?} ms");
    ensure!(router.wait_quiet(QUIET, SETTLE)? == 0, "they disagree in the end");
    ensure!(router.events("disagreement").is_empty(), "being late is no fault");
    sender.check_session()?;
    second.check_session()?;
    lab.passed();
    Ok(())
}

/// Each daemon in turn is told that a route is gone and there again, with delays besides and one
/// that is given half of the addresses only, while a neighbour watches.
#[test]
fn routes_that_one_daemon_is_told_again_are_no_news_to_a_neighbour() -> Result<()> {
    const ROUTES: usize = 200;
    const TIMES: usize = 12;
    let mut lab = Lab::new("diversity-again")?;
    let star = lab.star(2)?;
    let again = [
        ("frr", "{ readvertise_s = [1, 2], seed = 1 }"),
        ("bird", "{ readvertise_s = [1, 2], seed = 2, delay_ms = [1, 10] }"),
        ("openbgpd", "{ readvertise_s = [1, 2], seed = 3, blocks = [\"0.0.0.0/1\"] }"),
    ];
    let router = router(&lab, &star, &again)?;
    let mut second = Watch::dial(&lab, &star.sites[1], &["--monitor"])?;
    let mut sender = Watch::dial(&lab, &star.sites[0], &["--generate", &ROUTES.to_string()])?;
    wait_until("all routes", SETTLE, || {
        second.look().map_err(|e| format!("{e:#}"))?;
        if second.table.len() == ROUTES { Ok(()) } else { Err(format!("{}", second.table.len())) }
    })?;
    router.wait_voting(UP)?;
    let told = second.changes.len();
    let of = |name: &str| router.events("readvertised").iter().filter(|e| e["instance"] == name).count();
    wait_until("every daemon to have been told something again", SETTLE * 3, || {
        let times = again.map(|(name, _)| of(name));
        if times.iter().all(|n| *n >= TIMES) { Ok(()) } else { Err(format!("{times:?}")) }
    })?;
    println!("told again: {:?}", again.map(|(name, _)| of(name)));
    second.look()?;
    ensure!(second.changes.len() == told, "the neighbour was told: {:?}", &second.changes[told..]);
    for event in router.events("disagreement") {
        println!("{event}");
    }
    let outside = second.table.keys().filter(|p| p.split('.').next().and_then(|n| n.parse().ok()) >= Some(128u8));
    let outside: Vec<&String> = outside.collect();
    let (high, low) = (outside.len(), ROUTES - outside.len());
    ensure!(high > 0 && low > 0, "the made-up table lies in one half of the addresses");
    let first = outside.first().context("counted")?;
    let answer = router.show(&["routes", first])?;
    let line = answer.lines().find(|l| l.contains("openbgpd")).unwrap_or_default();
    ensure!(line.contains("none") && line.contains("abstains"), "OpenBGPD knows of {first}: {answer}");
    ensure!(router.events("no-quorum").is_empty(), "a majority was lost");
    sender.check_session()?;
    second.check_session()?;
    lab.passed();
    Ok(())
}

/// A daemon's connection is closed and comes back, later than the others' would.
#[test]
fn connections_that_begin_anew_are_no_news_to_a_neighbour() -> Result<()> {
    const ROUTES: usize = 200;
    let mut lab = Lab::new("diversity-connections")?;
    let star = lab.star(2)?;
    let different = [
        ("frr", "{ reconnect_s = [8, 10], connect_delay_ms = [100, 900], seed = 1 }"),
        ("bird", "{ reconnect_s = [8, 10], connect_order = \"reversed\", seed = 2 }"),
        ("openbgpd", "{ delay_ms = [1, 10] }"),
    ];
    let router = router(&lab, &star, &different)?;
    let mut second = Watch::dial(&lab, &star.sites[1], &["--monitor"])?;
    let mut sender = Watch::dial(&lab, &star.sites[0], &["--generate", &ROUTES.to_string()])?;
    wait_until("all routes", SETTLE, || {
        second.look().map_err(|e| format!("{e:#}"))?;
        if second.table.len() == ROUTES { Ok(()) } else { Err(format!("{}", second.table.len())) }
    })?;
    router.wait_voting(UP)?;
    let told = second.changes.len();
    let of = |name: &str| router.events("leg-restarted").iter().filter(|e| e["instance"] == name).count();
    wait_until("FRR's and BIRD's connections to have been closed", SETTLE * 3, || {
        let times = ["frr", "bird"].map(of);
        if times.iter().all(|n| *n >= 3) { Ok(()) } else { Err(format!("{times:?}")) }
    })?;
    for name in ["frr", "bird", "openbgpd"] {
        router.wait_state(name, "voting", SETTLE)?;
    }
    println!("closed: {:?}", ["frr", "bird"].map(of));
    second.look()?;
    ensure!(second.changes.len() == told, "the neighbour was told: {:?}", &second.changes[told..]);
    ensure!(router.events("disagreement").is_empty(), "they disagree: {:?}", router.events("disagreement"));
    sender.check_session()?;
    second.check_session()?;
    lab.passed();
    Ok(())
}
