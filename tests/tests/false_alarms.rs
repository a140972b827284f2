//! Real tables and long real traces through three code bases, and nothing wrong with any of them:
//! no verdict, no alarm, and every disagreement that shows is a known difference
//! (docs/EQUIVALENCE.md) or none.

use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tests::alarms::{self, Known};
use tests::fib;
use tests::lab::{Lab, Site, real_data};
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use tests::versions::Version;
use virtd_api::{Fib, Status};

const UP: Duration = Duration::from_secs(60);
/// For a table, or what comes of it.
const SETTLE: Duration = Duration::from_secs(600);
const QUIET: Duration = Duration::from_secs(4);

/// What still differs on real data, and why: nothing.
const KNOWN: &[Known] = &[];

/// So soon a lasting difference would become a verdict: it would after minutes, but who waits that
/// long.
const FAULT_S: u64 = 20;
const ONE_KEY_S: u64 = 30;
const LEG_HOLD_S: u64 = 90;

/// A real table, IPv4, as one vantage point of a route collector had it in 2010.
const TABLE: (&str, &str) = ("bview.20100701.0759.TEXT.bgp.gz", "4777");
/// All update files, by neighbour: each has its own, so that the daemons have something to choose
/// between. Those of one neighbour are played one after the other, over a session each.
const UPDATES: [&[&str]; 4] = [
    &["updates.long_withdrawal.gz", "updates.nlri_mask_trailing_bits.gz", "updates.et-header.2015.gz"],
    &["updates.20070211.0141.gz"],
    &["updates.20071015.1505.gz"],
    &[BOTH_FAMILIES],
];
/// This one has IPv6 routes, too.
const BOTH_FAMILIES: &str = "updates.20190101.0000.gz";

/// How much of it: so much that it is over within three minutes, unless the environment asks for
/// more.
struct Size {
    /// Times as fast as it was recorded.
    speed: String,
    /// Prefixes of the table, and of the update file that begins with a whole one.
    limit: u64,
    /// How often the traces are played.
    rounds: u32,
    /// T.
    t_ms: u32,
    /// What goes into the kernel is voted on, too.
    fib: bool,
}

impl Size {
    fn from_environment() -> Result<Size> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name}={text}: not a number")),
            Err(_) => Ok(default),
        };
        Ok(Size {
            speed: number("HV_CALM_SPEED", 40)?.to_string(),
            limit: number("HV_CALM_PREFIXES", 20_000)?,
            rounds: u32::try_from(number("HV_CALM_ROUNDS", 1)?)?,
            // Like the hold time of the legs, so long that a daemon on a busy machine is not taken
            // for one that is wrong or dead.
            t_ms: u32::try_from(number("HV_CALM_T_MS", 60_000)?)?,
            fib: number("HV_CALM_FIB", 0)? != 0,
        })
    }
}

/// A neighbour that plays a file, or something made up where there is none.
fn play(lab: &Lab, site: &Site, v6: bool, file: &str, more: &[&str]) -> Result<Replayer> {
    let made_up = ["--generate", "5000", "--ipv6-share", if v6 { "1" } else { "0" }];
    let path = real_data(file).map(|f| f.display().to_string());
    let mut options = match &path {
        Some(path) => vec!["--mrt", path.as_str(), "--replace-first-as"],
        None => made_up.to_vec(),
    };
    options.extend(more.iter().filter(|_| path.is_some()));
    Replayer::dial(lab, site, v6, &options)
}

/// What came of the traces.
#[derive(Debug, Default)]
struct Played {
    announced: u64,
    withdrawn: u64,
    /// Sessions that were ended because their trace was.
    ended: Vec<String>,
}

impl Played {
    fn finish(&mut self, feed: &mut Replayer) -> Result<()> {
        self.ended.push(feed.address().to_string());
        let outcome = feed.finish()?;
        outcome.check_quiet()?;
        self.announced += outcome.number("prefixes_sent");
        self.withdrawn += outcome.number("withdrawals_sent");
        Ok(())
    }
}

/// All update files, the neighbours at the same time. What their last ones leave stands on: these
/// neighbours are given back.
fn traces(lab: &Lab, sites: &[Site], size: &Size, played: &mut Played) -> Result<Vec<Replayer>> {
    let limit = size.limit.to_string();
    let more = ["--speed", &size.speed, "--limit", &limit];
    let mut feeds = Vec::new();
    for (site, files) in sites.iter().zip(UPDATES) {
        let Some((last, before)) = files.split_last() else { continue };
        for file in before {
            let mut feed = play(lab, site, false, file, &more)?;
            feed.wait_event("feed-done", SETTLE)?;
            played.finish(&mut feed)?;
        }
        feeds.push(play(lab, site, false, last, &more)?);
        if *last == BOTH_FAMILIES {
            feeds.push(play(lab, site, true, last, &more)?);
        }
    }
    feeds.iter_mut().try_for_each(|feed| feed.wait_event("feed-done", SETTLE * 3))?;
    Ok(feeds)
}

#[test]
fn three_code_bases_and_no_fault_no_verdict_and_nothing_unexplained() -> Result<()> {
    let size = Size::from_environment()?;
    let mut lab = Lab::new("calm")?;
    let star = lab.star(u32::try_from(UPDATES.len())? + 1)?;
    let timers = format!(
        "leg_hold_s = {LEG_HOLD_S}\nfault_threshold_s = {FAULT_S}\n\n[faults]\none_key_s = {ONE_KEY_S}\nmin_keys = 2\n"
    );
    // The installed OpenBGPD writes no routes.
    let versions = if size.fib { vec![None, None, Some(Version::OPENBGPD_13)] } else { Vec::new() };
    let options = Options { t_ms: size.t_ms, v6: true, timers, fib: size.fib, versions, ..Options::default() };
    if !options.there()? {
        return Ok(());
    }
    let router = Router::start(&lab, &star, &options)?;
    let [table_at, trace_sites @ ..] = star.sites.as_slice() else { anyhow::bail!("no sites") };

    let start = Instant::now();
    let limit = size.limit.to_string();
    let mut table = play(&lab, table_at, false, TABLE.0, &["--peer-filter", TABLE.1, "--limit", &limit])?;
    table.wait_event("session-up", UP)?;
    router.wait_voting(UP)?;
    // The traces' sessions come up while the table is on its way: no daemon need tell a whole one
    // to all of them at once.
    let (mut played, mut standing) = (Played::default(), Vec::new());
    for round in 1..=size.rounds {
        standing.iter_mut().try_for_each(|feed| played.finish(feed))?;
        standing = traces(&lab, trace_sites, &size, &mut played)?;
        table.wait_event("feed-done", SETTLE)?;
        router.wait_quiet(QUIET, SETTLE)?;
        println!("{:.1} s: everything is played, round {round} of {}", start.elapsed().as_secs_f32(), size.rounds);
    }
    // What differs now stands until it is a verdict.
    std::thread::sleep(Duration::from_secs(ONE_KEY_S + 5) + Duration::from_millis(size.t_ms.into()));
    let left = router.wait_quiet(QUIET, SETTLE)?;
    println!("{:.1} s: and have rested", start.elapsed().as_secs_f32());
    if size.fib {
        let answer: Fib = router.ctl(&["fib"])?;
        println!("the FIB: {answer:?}");
        let (wanted, there) = (answer.routes, fib::kernel(&star.router)?.len());
        ensure!(wanted == there, "virtd has chosen {wanted} routes, and the kernel has {there}");
        for name in ["frr", "bird", "openbgpd"] {
            fib::wait_state(&router, name, "voting", UP)?;
        }
    }
    let told = router.prefixes_out(&star.sites.last().context("no sites")?.v4.to_string())?;

    let found = alarms::look(&router.all_events()?, KNOWN, &played.ended)?;
    println!("{}\n{}", router.show(&["diversity"])?, router.show(&["status"])?);
    for name in ["frr", "bird", "openbgpd"] {
        ensure!(router.state_of(name)? == "voting", "{name} is {}", router.state_of(name)?);
    }
    standing.iter_mut().chain([&mut table]).try_for_each(|feed| played.finish(feed))?;
    println!(
        "{} routes announced, {} withdrawn; {told} prefixes out; {left} disagreements left; {found}",
        played.announced, played.withdrawn
    );
    ensure!(found.alarms.is_empty(), "alarms where nothing is wrong:\n{found}");
    ensure!(found.unexplained == 0, "differences that nothing explains:\n{found}");
    ensure!(told > 4_000, "only {told} prefixes came through");
    lab.passed();
    Ok(())
}

/// The vantage points of [`BOTH_FAMILIES`] that said the most, by AS number.
const VANTAGE_POINTS: [&str; 10] =
    ["395766", "7018", "64050", "20514", "206479", "4608", "50304", "29504", "34549", "8758"];

/// Ten neighbours, each of which says what one vantage point said: at one and a half times the
/// speed of then for HV_CALM_MINUTES, with the settings that a router has unless told otherwise (T
/// = 10 s, verdicts after 60 s), or else once and fast.
#[test]
fn ten_neighbours_play_a_real_trace_and_nobody_is_accused() -> Result<()> {
    let minutes = match std::env::var("HV_CALM_MINUTES") {
        Ok(text) => text.parse::<u64>().with_context(|| format!("HV_CALM_MINUTES={text}: not a number"))?,
        Err(_) => 0,
    };
    let (speed, limit) = if minutes > 0 { ("1.5", "10000000") } else { ("40", "20000") };
    let mut lab = Lab::new("ten")?;
    let star = lab.star(u32::try_from(VANTAGE_POINTS.len())?)?;
    let options = match minutes {
        // So many routes at once keep a daemon on a busy machine from its KEEPALIVEs.
        0 => Options { t_ms: 60_000, timers: format!("leg_hold_s = {LEG_HOLD_S}\n"), ..Options::default() },
        _ => Options { t_ms: 10_000, ..Options::default() },
    };
    let router = Router::start(&lab, &star, &options)?;
    let start = Instant::now();
    let (mut played, mut rounds) = (Played::default(), 0);
    while rounds == 0 || start.elapsed() < Duration::from_secs(60 * minutes) {
        rounds += 1;
        let mut feeds = Vec::new();
        for (site, asn) in star.sites.iter().zip(VANTAGE_POINTS) {
            let more = ["--speed", speed, "--limit", limit, "--peer-filter", asn];
            feeds.push(play(&lab, site, false, BOTH_FAMILIES, &more)?);
        }
        feeds.iter_mut().try_for_each(|feed| feed.wait_event("feed-done", SETTLE))?;
        router.wait_quiet(QUIET, SETTLE)?;
        let Status { votes, disagreements_now: now, .. } = router.status()?;
        println!("{:.0} s, round {rounds}: {votes} votes, {now} disagreements now", start.elapsed().as_secs_f32());
        let last = minutes == 0 || start.elapsed() >= Duration::from_secs(60 * minutes);
        if last {
            // What differs now stands for longer than T.
            std::thread::sleep(Duration::from_secs(15));
            let left = router.wait_quiet(QUIET, SETTLE)?;
            ensure!(left == 0, "{left} disagreements are left: {}", router.show(&["status"])?);
            let voting = router.wait_voting(UP);
            voting.context("at the end")?;
        }
        feeds.iter_mut().try_for_each(|feed| played.finish(feed))?;
    }
    let found = alarms::look(&router.all_events()?, KNOWN, &played.ended)?;
    println!("{rounds} rounds: {} routes announced, {} withdrawn; {found}", played.announced, played.withdrawn);
    ensure!(found.alarms.is_empty(), "alarms where nothing is wrong:\n{found}");
    ensure!(found.unexplained == 0, "differences that nothing explains:\n{found}");
    ensure!(played.announced > 10_000, "only {} routes were announced", played.announced);
    lab.passed();
    Ok(())
}
