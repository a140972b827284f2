//! What the neighbours noticed, counted on their side only.

use crate::bug::Death;
use crate::fib::FibOutcome;
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::daemons::Daemon;
use tests::published::{cve_2023_46753, installed};
use tests::replayer::{Outcome, differences, same, table};
use wire::bgp::Prefix;

/// How many differences are printed.
const SHOWN: usize = 10;

/// What it has cost that one worker of virtd's took over from another.
#[derive(Debug)]
pub struct Handover {
    /// Sessions that neighbours have seen end.
    pub sessions_lost: usize,
    /// UPDATEs with withdrawals to the one that watches.
    pub withdrawals: usize,
    /// Votes that the one before had counted.
    pub votes: u64,
}

/// The demo's outcome.
#[derive(Debug)]
pub struct Verdict {
    sessions: u64,
    sessions_reset: u64,
    routes: usize,
    routes_lost: usize,
    routes_wrong: usize,
    updates_during_faults: usize,
    death: Death,
    /// Name and version of the daemon with the bug.
    daemon: String,
    votes: u64,
    instances: usize,
    /// Ends of daemons that virtd has told of.
    deaths: usize,
    /// When virtd's worker died, and when another program took over.
    killed: Handover,
    upgraded: Handover,
    differences: Vec<String>,
    /// The datagrams and the kernel, and how many of its routes are not what the vote says. `None`
    /// without a FIB.
    fib: Option<(FibOutcome, usize)>,
}

/// Any prefix of the first table.
pub fn some_prefix(expected: &[PathBuf]) -> Option<Prefix> {
    let routes = table(expected.first()?).ok()?;
    routes.keys().nth(routes.len() / 2)?.parse().ok()
}

/// Whether a path holds this AS. Private AS numbers like those of our neighbours do leak into the
/// real table.
fn passes(route: &Value, asn: u32) -> bool {
    let path = route["as_path"].as_str().unwrap_or_default();
    path.split(|c: char| !c.is_ascii_digit()).any(|hop| hop.parse() == Ok(asn))
}

/// Writes the table that most of the given ones agree on, prefix by prefix; a prefix without a
/// majority is an error. Routes that the neighbour, AS `asn`, has to drop as loops are left out.
pub fn majority(tables: &[PathBuf], asn: u32, to: &Path) -> Result<()> {
    let mut tables = tables.iter().map(|t| table(t)).collect::<Result<Vec<_>>>()?;
    tables.iter_mut().for_each(|t| t.retain(|_, route| !passes(route, asn)));
    let mut agreed = serde_json::Map::new();
    for prefix in tables.iter().flat_map(serde_json::Map::keys) {
        if agreed.contains_key(prefix) {
            continue;
        }
        let said: Vec<&Value> = tables.iter().filter_map(|t| t.get(prefix)).collect();
        if said.len() * 2 <= tables.len() {
            continue;
        }
        let mut winner = None;
        for one in &said {
            let votes = said.iter().map(|other| same(one, other)).collect::<Result<Vec<_>>>()?;
            if votes.iter().filter(|same| **same).count() * 2 > tables.len() {
                winner = Some((*one).clone());
            }
        }
        let winner = winner.with_context(|| format!("the daemons alone do not agree on {prefix} at all"))?;
        agreed.insert(prefix.clone(), winner);
    }
    std::fs::write(to, serde_json::to_vec(&agreed)?).with_context(|| format!("writing {}", to.display()))
}

impl Verdict {
    /// Compares what each neighbour learned with what it should have learned, in the same order.
    pub fn new(
        expected: &[PathBuf],
        outcomes: &[Outcome],
        (death, sender_kept): (Death, bool),
        told: usize,
        votes: u64,
        (instances, deaths): (usize, usize),
        [killed, upgraded]: [Handover; 2],
    ) -> Result<Verdict> {
        ensure!(expected.len() == outcomes.len(), "as many tables as neighbours");
        let mut verdict = Verdict {
            // The one that sent the UPDATE has no table to compare, but a session to lose.
            sessions: 1,
            sessions_reset: u64::from(!sender_kept),
            death,
            daemon: installed(Daemon::Frr)?,
            routes: 0,
            routes_lost: 0,
            routes_wrong: 0,
            updates_during_faults: told,
            votes,
            instances,
            deaths,
            killed,
            upgraded,
            differences: Vec::new(),
            fib: None,
        };
        for (reference, outcome) in expected.iter().zip(outcomes) {
            let (before, after) = (table(reference)?, outcome.routes()?);
            let up = outcome.number("sessions_up");
            verdict.sessions += 1;
            // A session that never stood is as bad as one that fell.
            verdict.sessions_reset += outcome.number("sessions_reset").max(up.abs_diff(1));
            verdict.routes += after.len();
            let lost = before.keys().filter(|p| !after.contains_key(*p)).count();
            let found = differences(reference, &outcome.table)?;
            verdict.routes_lost += lost;
            verdict.routes_wrong += found.routes.len() - lost;
            verdict.differences.extend(found.routes);
        }
        // The watcher should have been told nothing while the daemons lied and died; what was said
        // then was wrong for a moment.
        verdict.routes_wrong += told;
        Ok(verdict)
    }

    /// Adds what became of the datagrams, and compares the kernel with what the watching neighbour
    /// was told.
    pub fn forwarded(&mut self, outcome: FibOutcome, told: &Map<String, Value>) {
        let wrong = outcome.wrong(told);
        let count = wrong.len();
        self.differences.extend(wrong);
        self.fib = Some((outcome, count));
    }

    /// Nothing was noticed.
    pub fn masked(&self) -> bool {
        let forwarded = self.fib.as_ref().is_none_or(|(fib, wrong)| fib.lost == 0 && fib.datagrams > 0 && *wrong == 0);
        let unnoticed = [&self.killed, &self.upgraded].iter().all(|h| h.sessions_lost == 0 && h.withdrawals == 0);
        unnoticed && self.sessions_reset == 0 && self.routes_lost == 0 && self.routes_wrong == 0 && forwarded
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = format!(
            "          sessions reset: {} of {}\n          routes lost: {} of {}\n          routes wrong: {}\n          \
             UPDATEs to the watching neighbour while a daemon lied, died and returned, and virtd's worker died and was replaced: {}\n          \
             when virtd's worker was killed: {} sessions lost, {} withdrawals\n          \
             when it was upgraded: {} sessions lost, {} withdrawals\n",
            self.sessions_reset,
            self.sessions,
            self.routes_lost,
            self.routes,
            self.routes_wrong,
            self.updates_during_faults,
            self.killed.sessions_lost,
            self.killed.withdrawals,
            self.upgraded.sessions_lost,
            self.upgraded.withdrawals
        );
        if let Some((fib, wrong)) = &self.fib {
            text.push_str(&format!(
                "          datagrams lost: {} of {}\n          kernel's routes that are not as the {} FIB voters and the neighbours were told: {wrong} of {}\n",
                fib.lost,
                fib.datagrams,
                fib.voters,
                fib.routes()
            ));
        }
        for line in self.differences.iter().take(SHOWN) {
            text.push_str(&format!("          {line}\n"));
        }
        let (bug, daemon) = (cve_2023_46753::NAME, &self.daemon);
        let all = match self.death {
            Death::Published => format!(
                "One daemon lied, each was killed, virtd's own worker was killed and then upgraded, and {daemon} died of {bug}, its own bug; virtd brought them back; nobody outside noticed."
            ),
            Death::Injected => format!(
                "One daemon lied, each was killed, virtd's own worker was killed and then upgraded, and virtd brought them back; nobody outside noticed. {bug} was NOT shown: {daemon} \
                 survives it, and got a SIGSEGV by hand instead."
            ),
        };
        text.push_str(if self.masked() { &all } else { "Something was noticed outside: see above." });
        text.push('\n');
        text
    }

    /// For a program: the last line of the demo.
    pub fn json(&self, took: Duration) -> String {
        let (fib, wrong) = self.fib.as_ref().map(|(fib, wrong)| (fib, wrong)).unzip();
        json!({
            "datagrams": fib.map(|f| f.datagrams),
            "datagrams_lost": fib.map(|f| f.lost),
            "fib_routes": fib.map(FibOutcome::routes),
            "fib_routes_wrong": wrong,
            "fib_voters": fib.map(|f| f.voters),
            "sessions_reset": self.sessions_reset,
            "routes_lost": self.routes_lost,
            "routes_wrong": self.routes_wrong,
            "real_bug": self.death == Death::Published,
            "bug": cve_2023_46753::NAME,
            "died_of": match self.death {
                Death::Published => cve_2023_46753::NAME,
                Death::Injected => "injected SIGSEGV",
            },
            "daemon": self.daemon,
            "deaths": self.deaths,
            "worker_killed_sessions_lost": self.killed.sessions_lost,
            "worker_killed_withdrawals": self.killed.withdrawals,
            "upgraded_sessions_lost": self.upgraded.sessions_lost,
            "upgraded_withdrawals": self.upgraded.withdrawals,
            "votes": self.votes,
            "instances": self.instances,
            "neighbours": self.sessions,
            "routes": self.routes,
            "updates_during_faults": self.updates_during_faults,
            "seconds": (took.as_secs_f64() * 10.0).round() / 10.0,
        })
        .to_string()
    }
}
