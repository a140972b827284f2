//! A neighbour of the router: hv-replay, followed through the log it writes as it goes, and steered
//! while it runs.

use crate::lab::{Lab, Process, Site, built, run};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

/// How long it may take to leave.
const LEAVE: Duration = Duration::from_secs(60);

/// One change of what the neighbour knows: a route that came, or a withdraw.
#[derive(Clone, Debug)]
pub struct Change {
    /// When, by the neighbour's own clock: microseconds since 1970.
    pub at_us: u64,
    /// Of which prefix.
    pub prefix: String,
    /// The route; `None`: withdrawn.
    pub route: Option<Value>,
}

/// What a neighbour knew at one moment.
pub type Table = BTreeMap<String, Value>;

/// A neighbour.
#[derive(Debug)]
pub struct Watch {
    /// Where it is.
    pub site: Site,
    process: Process,
    events: PathBuf,
    read: u64,
    /// What it knows now.
    pub table: Table,
    /// All changes so far, in order.
    pub changes: Vec<Change>,
    /// Sessions that came up so far.
    pub ups: usize,
    /// Ends of sessions so far, in words.
    pub downs: Vec<String>,
    /// Malformed UPDATEs that it was sent, as it logged them.
    pub malformed: Vec<Value>,
    steering: Option<File>,
}

impl Watch {
    /// Dials the router and announces what `arguments` say; none: what [`Watch::say`] says later.
    pub fn dial(lab: &Lab, site: &Site, arguments: &[&str]) -> Result<Watch> {
        if arguments.is_empty() { Self::steered(lab, site, &[]) } else { Self::start(lab, site, arguments, false) }
    }

    /// Dials the router, offering what `offer` says in its OPEN, and announces what [`Watch::say`]
    /// says later.
    pub fn steered(lab: &Lab, site: &Site, offer: &[&str]) -> Result<Watch> {
        Self::start(lab, site, &[offer, &["--script", "-"]].concat(), true)
    }

    fn start(lab: &Lab, site: &Site, arguments: &[&str], steered: bool) -> Result<Watch> {
        let name = format!("neighbour{}", site.number);
        let folder = lab.folder(&name)?;
        let events = folder.join("events.jsonl");
        let (own, router) = site.addresses(false);
        let fifo = folder.join("script");
        let mut command = site.ns.command("sh");
        let steering = if steered {
            run("mkfifo", &[&fifo.display().to_string()])?;
            command.args(["-c", "exec \"$0\" \"$@\" < \"$STEERING\""]).env("STEERING", &fifo);
            // For reading too: opening it never waits, and it never comes to an end.
            Some(File::options().read(true).write(true).open(&fifo)?)
        } else {
            command.args(["-c", "exec \"$0\" \"$@\""]);
            None
        };
        command.arg(built("hv-replay")?);
        command.args(["--connect", &router.to_string(), "--bind", &own.to_string(), "--asn", &site.asn.to_string()]);
        command.args(["--router-id", &format!("10.255.1.{}", site.number), "--families", "ipv4", "--quiet"]);
        command.args(["--reconnect", "--events-updates", "--events"]).arg(&events);
        command.args(arguments);
        let process = lab.spawn(&name, &mut command)?;
        lab.watch_log(&events);
        let (ups, downs, malformed, table, changes) = (0, Vec::new(), Vec::new(), Table::new(), Vec::new());
        Ok(Watch { site: site.clone(), process, events, read: 0, table, changes, ups, downs, malformed, steering })
    }

    /// A line of hv-replay's script, now.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let fifo = self.steering.as_mut().context("this neighbour cannot be steered")?;
        Ok(writeln!(fifo, "{line}")?)
    }

    /// Ends the session as an operator does, and waits until it has.
    pub fn leave(&mut self) -> Result<()> {
        self.say("exit")?;
        self.process.wait(LEAVE).map(drop)
    }

    /// Everything that it has logged so far, oldest first.
    pub fn log(&self) -> Vec<Value> {
        // The last line may be half written.
        text_of(&self.events).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Sends it a signal: SIGSTOP makes it a neighbour that falls silent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Reads what the neighbour has logged since the last look.
    pub fn look(&mut self) -> Result<()> {
        let Ok(mut file) = File::open(&self.events) else { return Ok(()) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text.get(..whole).unwrap_or_default().lines() {
            let event: Value = serde_json::from_str(line).with_context(|| format!("reading {line}"))?;
            self.take(&event);
        }
        self.read += u64::try_from(whole)?;
        Ok(())
    }

    fn take(&mut self, event: &Value) {
        let at_us = event["ts_us"].as_u64().unwrap_or_default();
        let texts = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().filter_map(|p| p.as_str().map(str::to_owned)).collect()
        };
        match event["event"].as_str() {
            Some("session-up") => {
                self.ups += 1;
                self.table.clear();
            }
            // An attempt that came before anybody listened is no session.
            Some("session-down") if event["established"] == true => self.downs.push(event["why"].to_string()),
            Some("malformed") => self.malformed.push(event.clone()),
            Some("update" | "stale") => {
                for prefix in texts(&event["withdrawn"]) {
                    self.table.remove(&prefix);
                    self.changes.push(Change { at_us, prefix, route: None });
                }
                for group in event["announced"].as_array().into_iter().flatten() {
                    for prefix in texts(&group["prefixes"]) {
                        let route = group["route"].clone();
                        self.table.insert(prefix.clone(), route.clone());
                        self.changes.push(Change { at_us, prefix, route: Some(route) });
                    }
                }
            }
            _ => {}
        }
    }

    /// It still runs, and has had exactly one session.
    pub fn check_session(&mut self) -> Result<()> {
        self.look()?;
        let name = self.process.name().to_owned();
        ensure!(self.process.running(), "{name} has ended: {}", self.process.log());
        ensure!(self.downs.is_empty(), "{name}: session reset: {}", self.downs.join("; "));
        ensure!(self.ups == 1, "{name}: {} sessions instead of one", self.ups);
        Ok(())
    }
}

/// The clock of the neighbours' logs: microseconds since 1970.
pub fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Reads a file that another process writes, as text; empty where it does not exist.
pub fn text_of(path: &std::path::Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
