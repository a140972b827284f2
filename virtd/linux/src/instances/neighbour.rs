//! Has a daemon end its session with one neighbour and begin it anew, by its own control program.
//!
//! | kind | is told | has done it when |
//! |---|---|---|
//! | FRR | `clear bgp PEER` | nothing is said; an error begins with `%`, with exit status 0 |
//! | BIRD | `restart "NAME"`, for each protocol whose `Neighbor address:` is PEER | it says `NAME: restarted` |
//! | OpenBGPD | `neighbor PEER clear` | it says `request processed`; the exit status is 0 either way |
//!
//! What an operator has disabled is not enabled. A daemon in a root of its own has its control
//! program there.

use super::launch;
use crate::kinds::{self, root::Entry};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use virtd_config::{Instance, Kind};

/// All that the control programs are asked for one neighbour takes no longer than this: a daemon
/// that hangs does not answer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Restarts under way at once; more are refused.
pub(super) const MAX_AT_ONCE: usize = 16;
/// How often it is looked whether a program has ended.
const CHECK: Duration = Duration::from_millis(10);
/// Octets that are read of what a program says: BIRD says some 2 KB of each of its protocols.
const MAX_SAID: u64 = 16 << 20;
/// Characters of it that an operator is shown.
const MAX_SHOWN: usize = 200;
/// birdc and bgpctl are in /usr/sbin, which is not in everybody's PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Does it, and waits for it. `folder` is where the instance's sockets are.
///
/// # Errors
/// A sentence on what stood in the way: what the program said, as a rule.
pub fn restart(instance: &Instance, folder: &Path, peer: IpAddr) -> Result<(), String> {
    let kind = instance.kind.ok_or("it has no `kind`, so nobody knows its control program")?;
    let control = Control { instance, kind, folder, deadline: Instant::now() + PATIENCE };
    match kind {
        Kind::Frr => {
            let (status, said) = control.ask(&[&format!("clear bgp {peer}")])?;
            let failed = !status.success() || said.lines().any(|line| line.starts_with('%'));
            if failed { Err(shown(&said, status)) } else { Ok(()) }
        }
        Kind::OpenBgpd => {
            let (status, said) = control.ask(&["neighbor", &peer.to_string(), "clear"])?;
            if said.contains("request processed") { Ok(()) } else { Err(shown(&said, status)) }
        }
        Kind::Bird => control.restart_bird(peer),
    }
}

/// An instance's control program, and how long it may take.
struct Control<'a> {
    instance: &'a Instance,
    kind: Kind,
    folder: &'a Path,
    deadline: Instant,
}

impl Control<'_> {
    fn restart_bird(&self, peer: IpAddr) -> Result<(), String> {
        let (status, said) = self.ask(&["show", "protocols", "all"])?;
        if !status.success() {
            return Err(shown(&said, status));
        }
        let names = protocols_with(&said, peer);
        if names.is_empty() {
            return Err(format!("it has no protocol with the neighbor address {peer}"));
        }
        for name in names {
            // In quotes it is a pattern, in which a name with a dash or a dot needs no care.
            let (status, said) = self.ask(&["restart", &format!("\"{name}\"")])?;
            if !said.lines().any(|line| line == format!("{name}: restarted")) {
                return Err(shown(&said, status));
            }
        }
        Ok(())
    }

    /// Runs it to its end; its exit status and what it said.
    fn ask(&self, words: &[&str]) -> Result<(ExitStatus, String), String> {
        let words: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
        self.run(&kinds::control_line(kinds::control(self.kind, self.folder), &words))
    }

    fn run(&self, line: &[String]) -> Result<(ExitStatus, String), String> {
        let program = line.first().map_or("", String::as_str);
        let child = self.spawn(line).map_err(|e| format!("{program} cannot be started: {e}"))?;
        attend(child, self.deadline).map_err(|e| format!("{program} {e}"))
    }

    fn spawn(&self, line: &[String]) -> io::Result<Child> {
        let Some((program, arguments)) = line.split_first() else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it has none"));
        };
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").env_remove("LD_PRELOAD").env("PATH", PATH).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match &self.instance.root {
            Some(root) => {
                launch::spawn_inside(command, Entry::new(root, &kinds::control_needs(self.kind, self.folder), &[])?)
            }
            None => command.spawn(),
        }
    }
}

/// Waits for a child that leads a process group of its own, until `deadline`; its exit status and
/// what it said on both pipes.
///
/// # Errors
/// It did not end in time, and was killed.
pub(super) fn attend(mut child: Child, deadline: Instant) -> io::Result<(ExitStatus, String)> {
    let said = [child.stdout.take().map(listen), child.stderr.take().map(listen)];
    let status = wait(&mut child, deadline)?;
    let said = said.into_iter().flatten().flatten();
    let said = said.map(|said| {
        let left = deadline.saturating_duration_since(Instant::now()).max(CHECK);
        said.recv_timeout(left).unwrap_or_default()
    });
    Ok((status, said.collect::<Vec<_>>().concat()))
}

fn wait(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(CHECK);
    }
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    match killpg(group, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(e) => log::warn!("a program that hangs cannot be killed: {e}"),
    }
    child.wait()?;
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("does not end within {} s and was killed", PATIENCE.as_secs())))
}

/// Reads a pipe on a thread of its own, so that neither pipe fills while the other is read.
fn listen(pipe: impl Read + Send + 'static) -> io::Result<crossbeam_channel::Receiver<String>> {
    let (tell, said) = crossbeam_channel::bounded(1);
    std::thread::Builder::new().name("control-output".into()).spawn(move || {
        let mut text = Vec::new();
        let _ = pipe.take(MAX_SAID).read_to_end(&mut text);
        // Nobody waits for it any more where it came too late.
        let _ = tell.send(String::from_utf8_lossy(&text).into_owned());
    })?;
    Ok(said)
}

/// The names of BIRD's protocols with this neighbour, from `show protocols all`: a protocol's line
/// begins at the margin, what is said of it is indented.
fn protocols_with(said: &str, peer: IpAddr) -> Vec<&str> {
    let mut name = None;
    let mut found = Vec::new();
    for line in said.lines() {
        if !line.starts_with(char::is_whitespace) {
            let mut words = line.split_whitespace();
            name = words.next().filter(|_| words.next() == Some("BGP"));
        } else if let (Some(protocol), Some(address)) = (name, line.trim().strip_prefix("Neighbor address:")) {
            // A link-local one is followed by its interface.
            let address = address.trim().split('%').next().unwrap_or_default();
            // It goes into a command, where a quote would end it.
            if address.parse() == Ok(peer) && !protocol.contains('"') {
                found.push(protocol);
            }
        }
    }
    found
}

/// What a program said, for an operator: its last line, or its status where it said nothing.
fn shown(said: &str, status: ExitStatus) -> String {
    match said.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => line.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect(),
        None => status.to_string(),
    }
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
