//! A router whose neighbours are to notice nothing of what a third one sends.

use crate::daemons::Daemon;
use crate::faults::watch::text_of;
use crate::lab::{Lab, Star, wait_for, wait_until};
use crate::published::{PREFIX, Prepend};
use crate::replayer::Replayer;
use crate::router::{Options, Router};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
/// The second neighbour.
const SECOND: &str = "10.0.2.2";
/// A route that the third neighbour announces after all else: who has it has read everything
/// before.
pub const AFTER: &str = "198.18.0.0/24";

/// A router with two neighbours at rest: one has announced 50 routes, the other one watches. The
/// third one is the scenario's.
pub struct Quiet {
    /// The lab.
    pub lab: Lab,
    /// The router's namespace, and its neighbours'.
    pub star: Star,
    /// The router, all of whose instances vote.
    pub router: Router,
    /// The neighbour with the routes.
    pub feed: Replayer,
    /// The one that watches.
    pub monitor: Replayer,
    /// The folder of virtd's flight records.
    pub records: PathBuf,
    /// UPDATEs that the second neighbour may have been told.
    pub told: usize,
}

impl Quiet {
    /// Starts it; `configure` changes its instances before any neighbour is there.
    ///
    /// # Errors
    /// It does not come to rest.
    pub fn new(name: &str, options: &Options, configure: impl FnOnce(&mut Router) -> Result<()>) -> Result<Quiet> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(3)?;
        let records = lab.folder("virtd")?.join("records");
        let mut router =
            Router::with_toml(&lab, &star, options, |text| format!("{text}\n[recorder]\nfolder = {records:?}\n"))?;
        router.launch(&lab, &star, options)?;
        configure(&mut router)?;
        let monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
        let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "50"])?;
        feed.wait_event("feed-done", UP)?;
        wait_for("50 routes outside", SETTLE, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == 50))?;
        router.wait_voting(SETTLE)?;
        let told = monitor.count("update");
        Ok(Quiet { lab, star, router, feed, monitor, records, told })
    }

    /// Waits until an instance's word on each of the 50 routes towards the second neighbour counts,
    /// and is a route.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn votes_on_everything(&self, instance: &str) -> Result<()> {
        let told = self.monitor.events().into_iter().filter(|e| e["event"] == "update");
        let groups = told.flat_map(|e| e["announced"].as_array().cloned().unwrap_or_default());
        let prefixes: BTreeSet<String> = groups
            .flat_map(|group| group["prefixes"].as_array().cloned().unwrap_or_default())
            .filter_map(|prefix| prefix.as_str().map(str::to_owned))
            .filter(|prefix| ![PREFIX, AFTER].contains(&prefix.as_str()))
            .collect();
        ensure!(prefixes.len() == 50, "the second neighbour was told of {} prefixes", prefixes.len());
        // After a death that has no UPDATE to it, what came last is withheld until it is clear that
        // it was harmless.
        wait_until(&format!("{instance} to vote on everything"), SETTLE, || {
            prefixes.iter().try_for_each(|prefix| self.votes_on(instance, prefix)).map_err(|e| format!("{e:#}"))
        })
    }

    fn votes_on(&self, instance: &str, prefix: &str) -> Result<()> {
        let said = self.router.said(prefix, SECOND)?;
        let votes = said.iter().any(|s| s.instance == instance && s.counted && s.route.is_some());
        ensure!(votes, "it does not vote on {prefix}: {said:?}");
        Ok(())
    }

    /// Waits until these instances have read all that the third neighbour has said, the last of it
    /// [`AFTER`]: of that they tell the second one. Then the third one leaves, and its route goes.
    ///
    /// # Errors
    /// They do not come to that, or anybody else is told anything.
    pub fn read_by(&mut self, names: &[&str], mut sender: Replayer) -> Result<()> {
        self.router.wait_told_by(names, AFTER, SECOND, SETTLE)?;
        self.wait_told(1)?;
        sender.finish()?.check_quiet()?;
        self.wait_told(2)?;
        self.told += 2;
        Ok(())
    }

    /// The third neighbour, whose session has ended, comes again with [`AFTER`]. A daemon reads
    /// what it was sent before it sees that session's end, and that before it reads from the next
    /// one.
    ///
    /// # Errors
    /// As above.
    pub fn read_by_after_a_reset(&mut self, names: &[&str]) -> Result<()> {
        let script = self.lab.directory().join("after.script");
        fs::write(&script, format!("announce {AFTER}\n"))?;
        let arguments = ["--script", &script.display().to_string()];
        let sender = Replayer::dial(&self.lab, &self.star.sites[2], false, &arguments)?;
        self.read_by(names, sender)
    }

    /// The record of this instance's poison: its account, and what it has in hexadecimal.
    ///
    /// # Errors
    /// There is none.
    pub fn record(&self, instance: &str) -> Result<(PathBuf, String)> {
        let ends_with = format!("-poison-{instance}.json");
        let account = wait_until("a record of the poison", UP, || {
            let files = fs::read_dir(&self.records).into_iter().flatten().flatten().map(|e| e.path());
            files.filter(|p| p.to_string_lossy().ends_with(&ends_with)).min().ok_or_else(String::new)
        })?;
        let hex = text_of(&account.with_extension("hex")).trim().to_owned();
        Ok((account, hex))
    }

    /// Ends it: nobody but the sender has noticed anything, and every daemon lives.
    ///
    /// # Errors
    /// A daemon has died, or a neighbour has noticed something.
    pub fn unmoved(mut self) -> Result<()> {
        for instance in &mut self.router.instances {
            ensure!(instance.running(), "{} has died", instance.name);
        }
        ensure!(self.monitor.count("update") == self.told, "the watching neighbour was told something");
        for neighbour in [&mut self.feed, &mut self.monitor] {
            neighbour.finish()?.check_quiet()?;
        }
        self.lab.passed();
        Ok(())
    }

    /// Waits until the second neighbour was told so many UPDATEs more than at rest.
    ///
    /// # Errors
    /// It was told fewer, or more.
    pub fn wait_told(&self, more: usize) -> Result<()> {
        wait_until("the second neighbour to be told", SETTLE, || {
            match self.monitor.count("update").saturating_sub(self.told) {
                now if now == more => Ok(()),
                now => Err(format!("of {now} UPDATEs, not {more}")),
            }
        })
    }

    /// Gives every FRR of the router its route-map for what the third neighbour says.
    ///
    /// # Errors
    /// There is no FRR; vtysh's.
    pub fn prepend(&mut self, prepend: Prepend) -> Result<()> {
        let address = self.star.sites[2].v4.into();
        let mut frrs = self.router.instances.iter().filter(|i| i.daemon == Daemon::Frr).peekable();
        ensure!(frrs.peek().is_some(), "there is no FRR");
        frrs.try_for_each(|frr| prepend(frr, &self.star.router, address))
    }
}
