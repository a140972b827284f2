//! hv-replay as a neighbour: plays a table or listens, and says afterwards what it sent, learned
//! and suffered.

use crate::lab::{Lab, Netns, Process, Site, built, wait_until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use wire::bgp::canonical::agrees;

/// How long it may take to write its summary and table after it was asked to leave.
const LEAVE: Duration = Duration::from_secs(60);

/// A running hv-replay.
#[derive(Debug)]
pub struct Replayer {
    name: String,
    process: Process,
    folder: PathBuf,
    peer: IpAddr,
}

impl Replayer {
    /// Dials the router from a site. `arguments` say what to announce (`--monitor`, `--mrt FILE`,
    /// `--generate N` …).
    pub fn dial(lab: &Lab, site: &Site, v6: bool, arguments: &[&str]) -> Result<Replayer> {
        let (own, router) = site.addresses(v6);
        let session = ["--connect".to_owned(), router.to_string(), "--bind".to_owned(), own.to_string()];
        Self::start(lab, &site.ns, site, own, &session, v6, arguments)
    }

    /// Dials the router, and follows a script that the scenario writes line by line.
    pub fn typed(lab: &Lab, site: &Site, arguments: &[&str]) -> Result<(Replayer, File)> {
        let fifo = lab.directory().join(format!("script{}", site.number));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).context("making a FIFO")?;
        // Open for both, so that neither side waits for the other; nor does a line for room.
        let lines = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo);
        let lines = lines.context("opening a FIFO")?;
        let (own, router) = site.addresses(false);
        let session = ["--connect".to_owned(), router.to_string(), "--bind".to_owned(), own.to_string()];
        let mut program = site.ns.command("sh");
        program.args(["-c", "exec \"$0\" \"$@\" < \"$SCRIPT\""]).arg(built("hv-replay")?).env("SCRIPT", &fifo);
        let arguments = [arguments, &["--script", "-"]].concat();
        Ok((Self::start_as(lab, program, site, own, &session, false, &arguments)?, lines))
    }

    /// Waits for the router at a site.
    pub fn listen(lab: &Lab, site: &Site, v6: bool, arguments: &[&str]) -> Result<Replayer> {
        Self::listen_on(lab, site, v6, 179, arguments)
    }

    /// The same on another TCP port.
    pub fn listen_on(lab: &Lab, site: &Site, v6: bool, port: u16, arguments: &[&str]) -> Result<Replayer> {
        let (own, router) = site.addresses(v6);
        let at = SocketAddr::new(own, port).to_string();
        let session = ["--listen".to_owned(), at, "--peer".to_owned(), router.to_string()];
        Self::start(lab, &site.ns, site, own, &session, v6, arguments)
    }

    fn start(
        lab: &Lab,
        ns: &Netns,
        site: &Site,
        own: IpAddr,
        session: &[String],
        v6: bool,
        arguments: &[&str],
    ) -> Result<Replayer> {
        Self::start_as(lab, ns.command(built("hv-replay")?), site, own, session, v6, arguments)
    }

    fn start_as(
        lab: &Lab,
        mut command: Command,
        site: &Site,
        own: IpAddr,
        session: &[String],
        v6: bool,
        arguments: &[&str],
    ) -> Result<Replayer> {
        let name = format!("replay{}-{}", site.number, if v6 { "v6" } else { "v4" });
        let folder = lab.folder(&name)?;
        command.args(session).args(["--asn", &site.asn.to_string(), "--quiet"]);
        command.args(["--router-id", &format!("10.255.1.{}", site.number)]);
        command.args(["--families", if v6 { "ipv6" } else { "ipv4" }]);
        for (option, file) in [("--json", "summary.json"), ("--table", "table.json"), ("--events", "events.jsonl")] {
            // What one before it has left is not taken for its own.
            let _ = fs::remove_file(folder.join(file));
            command.arg(option).arg(folder.join(file));
        }
        command.args(arguments);
        let process = lab.spawn(&name, &mut command)?;
        lab.watch_log(&folder.join("events.jsonl"));
        Ok(Replayer { name, process, folder, peer: own })
    }

    /// Its own address.
    pub fn address(&self) -> IpAddr {
        self.peer
    }

    /// The file of its events.
    pub fn events_file(&self) -> PathBuf {
        self.folder.join("events.jsonl")
    }

    /// Events so far, oldest first.
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("events.jsonl")).unwrap_or_default();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many events of one name there were so far.
    pub fn count(&self, event: &str) -> usize {
        self.events().iter().filter(|e| e["event"] == event).count()
    }

    /// Waits for an event.
    pub fn wait_event(&mut self, event: &str, timeout: Duration) -> Result<()> {
        let what = format!("{} to see {event}", self.name);
        wait_until(&what, timeout, || {
            let seen = self.count(event) > 0;
            let ended = !self.process.running();
            if seen { Ok(()) } else { Err(if ended { "it has ended".to_owned() } else { String::new() }) }
        })
    }

    /// Whether it still runs; it ends by itself when its session is reset or its
    /// `--exit-after-idle` is over.
    pub fn running(&mut self) -> bool {
        self.process.running()
    }

    /// Sends it a signal: SIGSTOP makes it a neighbour that does not read.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its own end.
    pub fn wait(&mut self, timeout: Duration) -> Result<Outcome> {
        self.process.wait(timeout)?;
        self.outcome()
    }

    /// Asks it to leave and reads what it has to say.
    pub fn finish(&mut self) -> Result<Outcome> {
        if self.process.running() {
            self.process.signal(Signal::SIGTERM)?;
        }
        self.wait(LEAVE)
    }

    /// Asks several to leave at one moment: frozen first, so that none learns of another's leaving
    /// what its own table should not have.
    pub fn finish_together(all: &mut [Replayer]) -> Result<Vec<Outcome>> {
        for signal in [Signal::SIGSTOP, Signal::SIGTERM, Signal::SIGCONT] {
            all.iter_mut().filter_map(|r| r.running().then_some(r)).try_for_each(|r| r.process.signal(signal))?;
        }
        all.iter_mut().map(|r| r.wait(LEAVE)).collect()
    }

    fn outcome(&self) -> Result<Outcome> {
        let path = self.folder.join("summary.json");
        let text = fs::read_to_string(&path).with_context(|| format!("{} wrote no summary", self.name))?;
        let summary = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        Ok(Outcome { name: self.name.clone(), summary, table: self.folder.join("table.json") })
    }
}

/// Plays a record to the router from a site, which must have the AS number of the record's
/// neighbour; returns hv-replay's exit status (0: it failed again, 1: it lives) and what it says.
pub fn reproduce(lab: &Lab, site: &Site, record: &Path) -> Result<(i32, Value)> {
    let (own, router) = site.addresses(false);
    let mut command = site.ns.command(built("hv-replay")?);
    command.args(["--connect", &router.to_string(), "--bind", &own.to_string(), "--reproduce"]).arg(record);
    let output = command.stdin(Stdio::null()).output().context("starting hv-replay")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let log = lab.directory().join("reproduce.log");
    fs::write(&log, [said.as_bytes(), &output.stderr].concat()).context("its log")?;
    lab.watch_log(&log);
    let status = output.status.code().with_context(|| format!("hv-replay: {}", output.status))?;
    Ok((status, serde_json::from_str(&said).with_context(|| format!("hv-replay {status}: {said}"))?))
}

/// What one hv-replay came to.
#[derive(Debug)]
pub struct Outcome {
    name: String,
    /// The summary that `--json` wrote.
    pub summary: Value,
    /// The table that `--table` wrote.
    pub table: PathBuf,
}

impl Outcome {
    /// A number of the summary; 0 where there is none.
    pub fn number(&self, key: &str) -> u64 {
        self.summary[key].as_u64().unwrap_or(0)
    }

    /// The routes it had learned at its end, by prefix.
    pub fn routes(&self) -> Result<serde_json::Map<String, Value>> {
        table(&self.table).with_context(|| format!("what {} learned", self.name))
    }

    /// Exactly one session, ended by us, and no NOTIFICATION from the router.
    pub fn check_quiet(&self) -> Result<()> {
        ensure!(
            self.number("sessions_up") == 1,
            "{}: {} sessions instead of one",
            self.name,
            self.number("sessions_up")
        );
        ensure!(self.number("sessions_reset") == 0, "{}: reset: {}", self.name, self.summary["session_ends"]);
        let notifications = &self.summary["notifications_received"];
        ensure!(notifications.as_array().is_none_or(Vec::is_empty), "{}: NOTIFICATION: {notifications}", self.name);
        Ok(())
    }
}

/// Reads a table that `--table` wrote: the routes by prefix.
pub fn table(path: &Path) -> Result<serde_json::Map<String, Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// How two tables differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// In words, one prefix each: missing on one side, or with other attributes.
    pub routes: Vec<String>,
    /// Prefixes whose routes read the same but for attribute flags (the Partial bit).
    pub flags_only: usize,
}

/// Compares two tables as the voter compares candidates: by canonical form, an absent link-local
/// next hop agreeing with any.
pub fn differences(a: &Path, b: &Path) -> Result<Differences> {
    let (a, b) = (table(a)?, table(b)?);
    let mut found = Differences::default();
    for prefix in a.keys().chain(b.keys().filter(|p| !a.contains_key(*p))) {
        let (Some(one), Some(other)) = (a.get(prefix), b.get(prefix)) else {
            found
                .routes
                .push(format!("{prefix}: only in the {}", if a.contains_key(prefix) { "first" } else { "second" }));
            continue;
        };
        if agrees(&octets(one)?, &octets(other)?) {
            continue;
        }
        if same(one, other)? {
            found.flags_only += 1;
        } else {
            found.routes.push(format!("{prefix}: {} | {}", words(one), words(other)));
        }
    }
    Ok(found)
}

/// Whether two routes of tables mean the same, but for flags and for a link-local next hop that one
/// of them lacks.
pub fn same(one: &Value, other: &Value) -> Result<bool> {
    Ok(agrees(&octets(one)?, &octets(other)?) || words(one) == words(other))
}

/// The canonical form that the table holds in hexadecimal.
fn octets(route: &Value) -> Result<Vec<u8>> {
    let text = route["canonical"].as_str().context("a route without its canonical form")?;
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.context("a canonical form that is not hexadecimal")?;
    Ok(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | d)).collect())
}

/// A route without its canonical form and link-local next hop.
fn words(route: &Value) -> Value {
    let mut words = route.clone();
    if let Some(map) = words.as_object_mut() {
        map.remove("canonical");
        map.remove("link_local");
    }
    words
}
