//! virtd itself dies (a debug build has faults for that). Of an UPDATE of a neighbour's: its route is
//! withdrawn, and nothing else happens outside. Of what an instance says: that costs the instance its
//! leg. What is kept of both kills a virtd again. Of what is the fault of none of
//! them, three times: sessions end.

use anyhow::{Result, ensure};
use std::fs;
use std::time::Duration;
use tests::daemons::Lie;
use tests::kinds::Kinds;
use tests::lab::{Lab, built, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(90);
const FATAL: &str = "203.0.113.66/32";
const VARIABLE: &str = "HV_TEST_PANICS_ON";
const LEG_VARIABLE: &str = "HV_TEST_LEG_PANICS_ON";
const VOTE_VARIABLE: &str = "HV_TEST_VOTE_PANICS_ON";

/// What the monitor's neighbour knows.
fn prefixes_out(router: &Router, n: u64) -> Result<()> {
    wait_until(&format!("{n} prefixes outside"), UP, || match router.prefixes_out("10.0.2.2") {
        Ok(out) if out == n => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn an_update_that_kills_virtd_is_a_withdrawal() -> Result<()> {
    let mut lab = Lab::new("own-poison")?;
    let star = lab.star(3)?;
    let records = lab.folder("virtd")?.join("records");
    let options = Options { environment: vec![(VARIABLE, FATAL)], ..Options::default() };
    let with_recorder = |text| format!("{text}\n[recorder]\nfolder = {records:?}\n");
    let mut router = Router::with_toml(&lab, &star, &options, with_recorder)?;
    router.launch(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let script = lab.directory().join("script");
    fs::write(
        &script,
        format!(
            "announce 198.51.100.0/24,192.0.2.0/24\nwait 12s\nannounce 198.18.0.0/15\n\
             announce {FATAL},192.0.2.0/24 med 7\nannounce 203.0.113.0/24\nwait 600s\n"
        ),
    )?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    prefixes_out(&router, 2)?;
    wait_for("the fault", UP, || router.events("virtd-poison").len() == 1)?;
    // 192.0.2.0/24 goes with the route that it came with; 198.51.100.0/24 and what was said beside it
    // stand.
    prefixes_out(&router, 3)?;
    let died = router.events("worker-died");
    ensure!(died.len() == 1, "one died, and none of it again: {died:?}");
    ensure!(router.events("session-down").is_empty(), "no session ends");
    for replayer in [&monitor, &feed] {
        ensure!(replayer.count("session-up") == 1 && replayer.count("session-down") == 0);
    }
    let kept = || fs::read_dir(&records).ok().into_iter().flatten().flatten().map(|e| e.path());
    let is_its = |p: &std::path::PathBuf| p.to_string_lossy().ends_with("-virtd-poison-virtd.mrt");
    let mrt =
        wait_until("a record", UP, || kept().find(is_its).ok_or_else(|| format!("{:?}", kept().collect::<Vec<_>>())))?;
    // Whoever takes over once more gives it the same meaning.
    let worker = tests::lab::run("pgrep", &["-P", &router.virtd.pid().to_string(), "virtd-worker"])?;
    tests::lab::run("kill", &["-9", worker.trim()])?;
    wait_for("the next one", UP, || router.events("taken-over").len() == 2)?;
    let mut again =
        Replayer::dial(&lab, &star.sites[2], false, &["--mrt", &mrt.display().to_string(), "--speed", "max"])?;
    wait_for("the same fault", UP, || router.events("virtd-poison").len() == 2)?;
    prefixes_out(&router, 3)?;
    ensure!(router.events("session-down").is_empty(), "no session ends");
    again.finish()?;
    monitor.finish()?;
    feed.finish()?;
    lab.passed();
    Ok(())
}

/// BIRD begins to say what kills virtd, to two neighbours. It loses the two legs; nobody else notices.
#[test]
fn an_instance_that_kills_virtd_loses_its_legs_alone() -> Result<()> {
    let mut lab = Lab::new("leg-poison")?;
    let star = lab.star(3)?;
    let records = lab.folder("virtd")?.join("records");
    let options = Options { environment: vec![(LEG_VARIABLE, "65000:666")], ..Options::default() };
    let more = format!("[recorder]\nfolder = {records:?}\n[[instance]]\nname = \"again\"\nrole = \"observer\"\n");
    let mut kinds = Kinds::with_toml(&lab, &star, &options, |_| String::new(), |text| format!("{text}\n{more}"))?;
    let script = lab.directory().join("script");
    fs::write(&script, "announce 198.51.100.0/24,192.0.2.0/24\nwait 60s\nannounce 198.18.0.0/15\nwait 600s\n")?;
    let monitors = [1, 2].map(|n| Replayer::dial(&lab, &star.sites[n], false, &["--monitor", "--events-updates"]));
    let mut monitors = monitors.into_iter().collect::<Result<Vec<_>>>()?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    prefixes_out(&kinds.router, 2)?;
    kinds.wait_voting(UP)?;
    let lie = Lie { prefix: "192.0.2.0/24".parse().expect("a prefix"), community: (65000, 666) };
    kinds.bird_lie("bird", Some(lie))?;
    let router = &kinds.router;
    let died = |router: &Router| router.events("worker-died");
    wait_for("both deaths", UP, || router.events("leg-poison").len() == 2 && died(router).len() == 2)?;
    let refused = || {
        let all = router.events("leg-fault").into_iter();
        all.filter(|e| e["text"].as_str().is_some_and(|text| text.contains("says again"))).count()
    };
    wait_for("the same to be said again, and not to be looked at", UP, || refused() >= 2)?;
    for poison in router.events("leg-poison") {
        ensure!(poison["instance"] == "bird", "{poison}");
    }
    for death in died(router) {
        let text = death["text"].as_str().unwrap_or_default().to_owned();
        ensure!(text.contains("while it took in a message of bird on its leg for 10.0."), "{text}");
    }
    // The two others go on, and what comes meanwhile is told.
    prefixes_out(router, 3)?;
    for name in ["frr", "openbgpd"] {
        router.wait_state(name, "voting", UP)?;
    }
    ensure!(died(router).len() == 2, "{:?}", died(router));
    ensure!(router.events("session-down").is_empty(), "no session ends");
    for replayer in monitors.iter().chain([&feed]) {
        ensure!(replayer.count("session-up") == 1 && replayer.count("session-down") == 0);
    }
    for monitor in &monitors {
        let withdraws = |e: &serde_json::Value| e["withdrawn"].as_array().is_some_and(|list| !list.is_empty());
        let withdrawn = monitor.events().into_iter().find(withdraws);
        ensure!(withdrawn.is_none(), "no route is lost: {withdrawn:?}");
    }
    // BIRD is mended, and an operator lets it have its legs again.
    kinds.bird_lie("bird", None)?;
    let router = &kinds.router;
    for peer in ["10.0.2.2", "10.0.3.2"] {
        router.show(&["session", peer, "start"])?;
    }
    wait_for("BIRD's legs", UP, || {
        let has = |e: &&serde_json::Value| e["kind"] == "leg-up" && e["instance"] == "bird";
        let of = |e: &serde_json::Value| e["session"].as_str().unwrap_or_default().to_owned();
        let events = router.all_events().unwrap_or_default();
        let after =
            events.iter().skip_while(|e| e["kind"] != "operator" || !e["text"].to_string().contains("come back"));
        let back: std::collections::BTreeSet<String> = after.filter(has).map(of).collect();
        ["10.0.2.2", "10.0.3.2"].iter().all(|peer| back.contains(*peer))
    })?;
    // Another instance says what the record has, and virtd dies again.
    let kept = || fs::read_dir(&records).ok().into_iter().flatten().flatten().map(|e| e.path());
    let is_its = |p: &std::path::PathBuf| p.to_string_lossy().ends_with("-leg-poison-bird.mrt");
    let mrt = wait_until("a record", UP, || kept().find(is_its).ok_or_else(|| "not yet".to_owned()))?;
    let (shim, site) = (router.shim()?, &star.sites[1]);
    let mut command = star.router.command("env");
    command
        .arg(format!("LD_PRELOAD={}", shim.library.display()))
        .arg(format!("HV_SOCKET={}", shim.socket.display()))
        .arg("HV_INSTANCE=again")
        .arg(built("hv-replay")?)
        .args(["--asn", "65000", "--router-id", "10.255.0.1", "--families", "ipv4", "--speed", "max", "--mrt"])
        .arg(&mrt)
        .args(["--connect", &site.v4.to_string(), "--bind", &site.router_v4.to_string()]);
    let mut again = lab.spawn("again", &mut command)?;
    let by_it = || router.events("leg-poison").iter().filter(|e| e["instance"] == "again").count();
    wait_for("the same fault", UP, || by_it() == 1)?;
    again.stop();
    prefixes_out(router, 3)?;
    ensure!(router.events("session-down").is_empty(), "no session ends");
    monitors.iter_mut().try_for_each(|monitor| monitor.finish().map(drop))?;
    feed.finish()?;
    lab.passed();
    Ok(())
}

/// A vote kills each worker. After the third death the sessions end with a Cease, and come back.
#[test]
fn after_three_deaths_nobody_goes_on_with_what_kills() -> Result<()> {
    let mut lab = Lab::new("let-down")?;
    let star = lab.star(2)?;
    let options = Options { environment: vec![(VOTE_VARIABLE, FATAL)], ..Options::default() };
    let kinds = Kinds::start(&lab, &star, &options, |_| String::new())?;
    let router = &kinds.router;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--reconnect"])?;
    let script = lab.directory().join("script");
    fs::write(&script, format!("announce 198.51.100.0/24\nwait 12s\nannounce {FATAL}\nwait 600s\n"))?;
    // Whoever announces it does not come back.
    let feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    prefixes_out(router, 1)?;
    wait_for("the third death", UP, || router.events("not-taken-over").len() == 1)?;
    let died = router.events("worker-died");
    // One more where a single instance has brought about the first three.
    let deaths = died.len();
    ensure!((3..=4).contains(&deaths) && router.events("taken-over").len() == deaths - 1, "{died:?}");
    for death in &died {
        let text = death["text"].as_str().unwrap_or_default();
        ensure!(text.contains(&format!("(the last vote was on {FATAL})")), "{text}");
        ensure!(text.contains("was ended by SIGABRT while it "), "{text}");
    }
    let alarm = router.events("not-taken-over").remove(0);
    let text = alarm["text"].as_str().unwrap_or_default();
    ensure!(
        alarm["severity"] == "alarm" && text.contains("3 times within a minute: 2 sessions are given up"),
        "{text}"
    );
    for (replayer, who) in [(&monitor, "monitor"), (&feed, "feed")] {
        wait_for(who, UP, || replayer.count("session-down") == 1)?;
        let down = replayer.events().into_iter().find(|e| e["event"] == "session-down").unwrap_or_default();
        ensure!(down["why"].as_str().is_some_and(|why| why.contains("Cease")), "{who}: {down}");
    }
    wait_for("the monitor to be back", UP, || monitor.count("session-up") == 2)?;
    ensure!(router.events("worker-died").len() == deaths, "what killed is gone");
    monitor.finish()?;
    lab.passed();
    Ok(())
}
