//! What docs/EQUIVALENCE.md says of roles: as an edge, a route reflector and a route server, each
//! of the three daemons alone and without us tells a second neighbour the same routes, but for what
//! is listed here.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tests::daemons::{Attach, Client, Daemon, Instance, PeerSpec, RouterSpec};
use tests::lab::Lab;
use tests::replayer::{self, Replayer};

const UP: Duration = Duration::from_secs(30);
const PLAY: Duration = Duration::from_secs(60);
/// The router's AS.
const ASN: u32 = 65000;

/// What a neighbour announces, a prefix each; the first word names the case.
const CASES: &[(&str, &str)] = &[
    ("plain", ""),
    ("med", "med 50"),
    ("communities", "community 64501:1 64501:2 large-community 64501:1:2"),
    ("no-export", "community 65535:65281"),
    ("no-advertise", "community 65535:65282"),
    ("blackhole", "community 65535:666"),
    ("originator", "attribute 0x80 9 0a090909"),
    ("cluster", "attribute 0x80 9 0a090909 attribute 0x80 10 0a080808"),
];

/// Who says what about a case: no route, or a route in words.
type Told = BTreeMap<&'static str, Option<Value>>;

/// Plays all cases from one neighbour to a daemon alone; returns what another one was told.
fn told(name: &str, daemon: Daemon, client: Client) -> Result<Told> {
    let mut lab = Lab::new(&format!("role-{name}-{}", daemon.name()))?;
    let mut star = lab.star(2)?;
    if client == Client::Reflected {
        star.sites.iter_mut().for_each(|site| site.asn = ASN);
    }
    let peers = star.sites.iter().map(|site| {
        let (theirs, ours) = site.addresses(false);
        PeerSpec { passive: true, client, ..PeerSpec::new(theirs, ours, site.asn) }
    });
    let spec = RouterSpec {
        asn: ASN,
        router_id: [10, 255, 0, 1].into(),
        peers: peers.collect(),
        networks: Vec::new(),
        lie: None,
        fib: false,
    };
    let router = Instance::start(&lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native)?;
    let [from, to] = star.sites.as_slice() else { anyhow::bail!("two sites") };
    // What only an internal neighbour may say is no case for the others.
    let internal = client == Client::Reflected;
    let path = if internal { "as-path 64501 local-pref 100" } else { "as-path 65001 64501" };
    let cases = || CASES.iter().enumerate().filter(move |(_, (_, more))| internal || !more.contains("0x80"));
    let lines = cases().map(|(n, (_, more))| format!("announce 198.51.{n}.0/24 {path} {more}\n"));
    let script = lab.directory().join("script");
    std::fs::write(&script, format!("{}eor\nwait 10m\n", lines.collect::<String>()))?;
    let mut watcher = Replayer::dial(&lab, to, false, &["--monitor", "--exit-after-idle", "5s"])?;
    watcher.wait_event("session-up", UP)?;
    let script = script.display().to_string();
    let mut feeder = Replayer::dial(&lab, from, false, &["--script", &script, "--keep-as-path"])?;
    router.wait_established(UP)?;
    let learned = watcher.wait(PLAY)?;
    learned.check_quiet()?;
    feeder.finish()?.check_quiet()?;
    let table = replayer::table(&learned.table)?;
    ensure!(!table.is_empty(), "nothing came through {}", daemon.name());
    let told = cases().map(|(n, (case, _))| (*case, table.get(&format!("198.51.{n}.0/24")).cloned())).collect();
    lab.passed();
    Ok(told)
}

/// Who is apart from the two others, case by case: `daemon: case`. `all: case` where no two agree.
fn apart(name: &str, client: Client) -> Result<BTreeSet<String>> {
    let all = Daemon::ALL.iter().map(|d| Ok((d.name(), told(name, *d, client)?))).collect::<Result<Vec<_>>>()?;
    let mut found = BTreeSet::new();
    for (case, _) in CASES {
        let said: Vec<(&str, &Option<Value>)> = all.iter().filter_map(|(d, t)| Some((*d, t.get(case)?))).collect();
        if said.is_empty() {
            continue;
        }
        let same = |a: &Option<Value>, b: &Option<Value>| -> Result<bool> {
            match (a, b) {
                (Some(a), Some(b)) => replayer::same(a, b),
                (a, b) => Ok(a.is_none() && b.is_none()),
            }
        };
        for (i, (daemon, route)) in said.iter().enumerate() {
            let others: Vec<_> = said.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, (_, r))| *r).collect();
            let [one, other] = others.as_slice() else { anyhow::bail!("three daemons") };
            let with = usize::from(same(route, one)?) + usize::from(same(route, other)?);
            if with == 0 {
                found.insert(format!("{daemon}: {case}"));
                println!("{name}: {case}: {daemon} says {}", route.as_ref().map_or("none".into(), Value::to_string));
                println!(
                    "    the others {}",
                    others
                        .iter()
                        .map(|r| r.as_ref().map_or("none".into(), Value::to_string))
                        .collect::<Vec<_>>()
                        .join("\n    ")
                );
            }
        }
    }
    Ok(found)
}

fn check(name: &str, client: Client, known: &[&str]) -> Result<()> {
    let found = apart(name, client).context("playing the cases")?;
    let known: BTreeSet<String> = known.iter().map(|k| (*k).to_owned()).collect();
    ensure!(found == known, "apart are {found:?}, and docs/EQUIVALENCE.md says {known:?}");
    Ok(())
}

#[test]
fn as_an_edge() -> Result<()> {
    // It adds NO_EXPORT, and so does not pass it on.
    check("edge", Client::No, &["frr: blackhole"])
}

#[test]
fn as_a_route_reflector() -> Result<()> {
    // It adds MED 0 where there is none.
    let known = ["frr: plain", "frr: communities", "frr: no-export", "frr: blackhole"];
    check("reflector", Client::Reflected, &known)
}

#[test]
fn as_a_route_server() -> Result<()> {
    // It passes on what says that it is not to be, and adds NO_EXPORT to BLACKHOLE.
    check("server", Client::Served, &["frr: no-export", "frr: no-advertise", "frr: blackhole"])
}
