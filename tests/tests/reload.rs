//! An operator changes a running router: the policy of its daemons, and which daemons it is made
//! of. What the neighbours are told of that is what has changed, once, and nothing else.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;
use tests::daemons::Daemon;
use tests::kinds::Kinds;
use tests::lab::{Lab, wait_for, wait_until};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec};
use tests::replayer::Replayer;
use tests::router::{ASN, Options};
use tests::versions::Version;
use virtd_api::Instances;

const UP: Duration = Duration::from_secs(120);
const QUIET: Duration = Duration::from_secs(4);
const ROUTES: usize = 200;
/// The prefix that the new policy does not let out.
const FILTERED: &str = "198.51.100.0/24";

/// What a neighbour was told of each prefix since its `from`th UPDATE: its AS paths, `None` for a
/// withdrawal.
fn told(monitor: &Replayer, from: usize) -> BTreeMap<String, Vec<Option<String>>> {
    let mut all: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for update in monitor.events().iter().filter(|e| e["event"] == "update").skip(from) {
        let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
        let name = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        for gone in list(&update["withdrawn"]) {
            all.entry(name(&gone)).or_default().push(None);
        }
        for group in list(&update["announced"]) {
            let path = name(&group["route"]["as_path"]);
            for prefix in list(&group["prefixes"]) {
                all.entry(name(&prefix)).or_default().push(Some(path.clone()));
            }
        }
    }
    all
}

/// A script that announces one prefix, and then as many others as are asked for, with a pause
/// before each.
fn script(lab: &Lab, asn: u32, first: &str, others: usize, pause_ms: u32) -> Result<String> {
    let mut text = format!("announce {first} as-path {asn} 64999\n");
    for n in 0..others {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "wait {pause_ms}ms\nannounce 100.64.{n}.0/24 as-path {asn} 64{n:03}");
    }
    text.push_str("eor\nwait 30m\n");
    let file = lab.directory().join(format!("{asn}.script"));
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}

/// The new policy: our AS twice in every path, and one prefix less.
fn change_policy(kinds: &mut Kinds, name: &str, neighbours: &[String]) -> Result<()> {
    match name {
        "frr" => {
            let mut commands = format!(
                "configure terminal\nbgp route-map delay-timer 0\nip prefix-list LESS seq 5 permit {FILTERED}\n\
                 route-map OUT deny 5\nmatch ip address prefix-list LESS\n\
                 route-map OUT permit 10\nset as-path prepend {ASN}\nrouter bgp {ASN}\naddress-family ipv4 unicast\n"
            );
            for n in neighbours {
                let _ = writeln!(commands, "neighbor {n} route-map OUT out");
            }
            kinds.router.show(&["exec", "frr", &commands])?;
            for n in neighbours {
                kinds.router.show(&["exec", "frr", "clear", "bgp", n, "soft", "out"])?;
            }
        }
        "bird" => {
            let policy =
                format!("filter to_peer {{\n    if net = {FILTERED} then reject;\n    bgp_path.prepend({ASN});\n");
            kinds.edit("bird", |text| text.replacen("filter to_peer {\n", &policy, 1))?;
            let text = kinds.router.show(&["exec", "bird", "configure"])?;
            ensure!(text.contains("Reconfigur"), "birdc configure: {text}");
        }
        _ => {
            kinds
                .edit(name, |text| format!("{text}match to any set prepend-self 1\ndeny to any prefix {FILTERED}\n"))?;
            kinds.router.show(&["exec", name, "reload"])?;
        }
    }
    Ok(())
}

/// The procedure of docs/CHANGING.md, "Changing a running router". One instance is forgotten,
/// named at the end of the change, and changed then.
#[test]
fn a_change_of_policy_is_seen_once_and_who_was_forgotten_is_named() -> Result<()> {
    let mut lab = Lab::new("policy")?;
    let star = lab.star(3)?;
    let mut kinds = Kinds::start(&lab, &star, &Options::default(), |_| String::new())?;
    let watch = |n: usize| Replayer::dial(&lab, &star.sites[n], false, &["--monitor", "--events-updates"]);
    let mut monitors = [watch(1)?, watch(2)?];
    let file = script(&lab, star.sites[0].asn, FILTERED, ROUTES, 1)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &file, "--keep-as-path"])?;
    let (one, other) = (monitors[0].address().to_string(), monitors[1].address().to_string());
    for peer in [&one, &other] {
        wait_for("all routes outside", UP, || kinds.router.prefixes_out(peer).is_ok_and(|n| n == ROUTES as u64 + 1))?;
    }
    kinds.wait_voting(UP)?;
    ensure!(kinds.router.wait_quiet(QUIET, UP)? == 0, "{:?}", kinds.router.events("disagreement"));
    let before = monitors.each_ref().map(|m| m.count("update"));

    kinds.router.show(&["change", "begin"])?;
    let neighbours = [one.clone(), other];
    change_policy(&mut kinds, "frr", &neighbours)?;
    // Alone it changes nothing outside, however long it stays alone.
    wait_for("frr to be found to differ", UP, || {
        kinds.router.status().is_ok_and(|s| s.disagreements_now > ROUTES as u64)
    })?;
    ensure!(monitors.each_ref().map(|m| m.count("update")) == before, "the old policy has the majority");
    change_policy(&mut kinds, "bird", &neighbours)?;
    wait_for("the new policy outside", UP, || kinds.router.prefixes_out(&one).is_ok_and(|n| n == ROUTES as u64))?;
    kinds.router.wait_quiet(QUIET, UP)?;
    let answer = kinds.router.show(&["change", "commit"])?;
    println!("{answer}");
    ensure!(answer.contains(&format!("not with the majority: openbgpd on {} prefixes", ROUTES + 1)), "{answer}");
    wait_for("the event that says so, too", UP, || kinds.router.events("change-incomplete").len() == 1)?;

    change_policy(&mut kinds, "openbgpd", &neighbours)?;
    kinds.router.wait_agreement(0, UP)?;
    kinds.router.wait_quiet(QUIET, UP)?;
    for (monitor, before) in monitors.iter().zip(before) {
        let seen = told(monitor, before);
        ensure!(seen.len() == ROUTES + 1, "{} prefixes have changed", seen.len());
        for (prefix, states) in &seen {
            let right = match (prefix.as_str(), states.as_slice()) {
                (FILTERED, [None]) => true,
                (_, [Some(path)]) => path.starts_with(&format!("{ASN} {ASN} {}", star.sites[0].asn)),
                _ => false,
            };
            ensure!(right, "{prefix}: {states:?}");
        }
    }
    ensure!(kinds.router.events("instance-faulty").is_empty(), "{:?}", kinds.router.events("instance-faulty"));
    // What a service manager sends.
    kinds.router.edit_toml(|text| text.replace("t_ms = 3000", "t_ms = 4000"))?;
    kinds.router.virtd.signal(Signal::SIGHUP)?;
    wait_for("SIGHUP to be followed", UP, || kinds.router.status().is_ok_and(|s| s.t_ms == 4000))?;
    for monitor in &mut monitors {
        monitor.finish()?.check_quiet()?;
    }
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

/// The configuration without these instances.
fn without(text: &str, names: &[&str]) -> String {
    let mut kept = String::new();
    for section in text.split_inclusive("\n\n") {
        if !names.iter().any(|n| section.contains(&format!("name = {n:?}\n"))) {
            kept.push_str(section);
        }
    }
    kept
}

/// The instances and their states, in order.
fn states(kinds: &Kinds) -> Result<Vec<(String, String)>> {
    let Instances { instances } = kinds.router.ctl(&["instances"])?;
    let mut all: Vec<_> = instances.into_iter().map(|i| (i.name, i.state)).collect();
    all.sort();
    Ok(all)
}

fn wait_voters(kinds: &Kinds, names: &[&str]) -> Result<()> {
    let wanted: Vec<_> = names.iter().map(|n| ((*n).to_owned(), "voting".to_owned())).collect();
    wait_until("the voters to be these", UP, || match states(kinds) {
        Ok(now) if now == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// While routes come in all the time: a second FRR and a second BIRD are added, OpenBGPD is
/// removed, and a BIRD of another version takes the place of the installed one. A neighbour is told
/// of each route, once, and of nothing else; with a FIB, so is the kernel.
fn come_and_go(name: &str, fib: bool) -> Result<()> {
    const FLOWING: usize = 240;
    let mut lab = Lab::new(name)?;
    let star = lab.star(4)?;
    let options = Options {
        daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::OpenBgpd, Daemon::Frr, Daemon::Bird],
        fib,
        ..Options::default()
    };
    let mut whole = String::new();
    let kinds = Kinds::with_toml(
        &lab,
        &star,
        &options,
        |_| String::new(),
        |text| {
            whole = text.clone();
            without(&text, &["frr2", "bird2"])
        },
    )?;
    let kernel = lab.spawn("kernel", star.router.command("ip").args(["-o", "-4", "monitor", "route"]))?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    let spec = NeighbourSpec { router_asn: ASN, v6: false, passive: false, password: None, networks: Vec::new() };
    let outside = Neighbour::start(&lab, &star.sites[2], Kind::Daemon(Daemon::Bird), &spec)?;
    feed.wait_event("feed-done", UP)?;
    wait_voters(&kinds, &["bird", "frr", "openbgpd"])?;
    wait_for("all routes outside", UP, || kinds.router.prefixes_out("10.0.2.2").is_ok_and(|n| n == ROUTES as u64))?;
    let file = script(&lab, star.sites[3].asn, FILTERED, FLOWING, 250)?;
    let mut flow = Replayer::dial(&lab, &star.sites[3], false, &["--script", &file, "--keep-as-path"])?;
    flow.wait_event("session-up", UP)?;

    // A mistake in the file changes nothing.
    kinds.router.edit_toml(|_| whole.replace("[vote]\n", "[vote]\nt_sm = 1\n"))?;
    let error = kinds.router.show(&["reload"]).expect_err("a key that does not exist").to_string();
    ensure!(error.contains("t_sm") && error.contains("nothing has changed"), "{error}");
    wait_voters(&kinds, &["bird", "frr", "openbgpd"])?;

    kinds.router.edit_toml(|_| whole.clone())?;
    let would = kinds.router.show(&["reload", "--dry-run"])?;
    ensure!(would.contains("frr2 is added (frr)") && would.contains("bird2 is added (bird)"), "{would}");
    ensure!(states(&kinds)?.len() == 3, "that was only a question");
    println!("{}", kinds.router.show(&["reload"])?);
    wait_voters(&kinds, &["bird", "bird2", "frr", "frr2", "openbgpd"])?;

    kinds.router.edit_toml(|text| without(&text, &["openbgpd"]))?;
    println!("{}", kinds.router.show(&["reload"])?);
    wait_voters(&kinds, &["bird", "bird2", "frr", "frr2"])?;
    wait_for("its end to be told", UP, || kinds.router.events("instance-removed").len() == 1)?;

    if let Some(root) = Version::BIRD_13.root()? {
        let line = "name = \"bird\"\n";
        // A version is a root with a name.
        let key = if fib { "version" } else { "root" };
        kinds.router.edit_toml(|text| text.replace(line, &format!("{line}{key} = {:?}\n", root.path)))?;
        println!("{}", kinds.router.show(&["reload"])?);
        wait_for("the new BIRD to take the place", UP, || !kinds.router.events("instance-replaced").is_empty())?;
        wait_voters(&kinds, &["bird", "bird2", "frr", "frr2"])?;
        let version = kinds.router.show(&["exec", "bird", "show", "status"])?;
        let number = root.version.split('-').next().unwrap_or_default();
        ensure!(version.contains(&format!("BIRD {number}")), "{number} is wanted: {version}");
        let shown = || kinds.router.show(&["instances"]).is_ok_and(|t| t.contains(&format!("bird {number}")));
        wait_for("virtctl to show its version", UP, shown)?;
    }
    println!("{}", kinds.router.show(&["instances"])?);

    let all = (ROUTES + FLOWING + 1) as u64;
    wait_for("all routes outside", UP, || kinds.router.prefixes_out("10.0.2.2").is_ok_and(|n| n == all))?;
    kinds.router.wait_quiet(QUIET, UP)?;
    let seen = told(&monitor, 0);
    ensure!(seen.len() as u64 == all, "{} prefixes were told of", seen.len());
    for (prefix, told) in &seen {
        ensure!(matches!(told.as_slice(), [Some(_)]), "{prefix}: {told:?}");
    }
    ensure!(kinds.router.status()?.disagreements_now == 0, "{:?}", kinds.router.events("disagreement"));
    ensure!(kinds.router.events("instance-faulty").is_empty(), "{:?}", kinds.router.events("instance-faulty"));
    if fib {
        let there = star.router.run("ip", &["-o", "-4", "route", "show", "proto", "245"])?.lines().count() as u64;
        ensure!(there == all, "{there} routes are in the kernel, {all} were told of");
        // What the kernel says of each of virtd's routes: that it is there.
        let log = kernel.log();
        let news: Vec<&str> = log.lines().filter(|l| l.contains("proto 245")).collect();
        let gone: Vec<&&str> = news.iter().filter(|l| l.starts_with("Deleted")).collect();
        ensure!(
            gone.is_empty() && news.len() as u64 == all,
            "{} changes in the kernel, {gone:?} among them",
            news.len()
        );
    }
    monitor.finish()?.check_quiet()?;
    outside.check_quiet()?;
    flow.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn instances_come_go_and_are_swapped_while_routes_flow() -> Result<()> {
    come_and_go("reload", false)
}

#[test]
fn instances_come_go_and_are_swapped_and_the_kernel_keeps_its_routes() -> Result<()> {
    come_and_go("reload-fib", true)
}
