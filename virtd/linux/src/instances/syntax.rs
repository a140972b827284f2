//! Has each daemon that virtd knows by its kind look at its own configuration file, without
//! starting it.
//!
//! | kind | is run as | finds fault by |
//! |---|---|---|
//! | BIRD | `bird -p` | its exit status |
//! | OpenBGPD | `bgpd -n` | its exit status |
//! | FRR | `bgpd -C`, as the user that it becomes, with no port to listen on and without zebra | a line on stderr: the exit status is 0 either way |
//!
//! A daemon in a root of its own is run in there, with the same file at the same path.

use super::launch;
use super::neighbour::{self, PATIENCE};
use crate::kinds::{self, root::inside};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;
use virtd_config::{Config, Instance, Kind};

/// Lines of a daemon's that are shown of one file.
const MAX_LINES: usize = 4;
/// Characters of each.
const MAX_SHOWN: usize = 300;
/// How FRR begins what it says about a line that it leaves out.
const FRR_LINE: &str = " on config line ";
/// FRR makes a folder for each of its processes, and leaves it where it ends so.
const FRR_FOLDERS: &str = "/var/tmp/frr";

/// What the daemons say about their files; nothing where virtd may not start them anyway.
pub fn check(config: &Config) -> Vec<String> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let known = config.instances.iter().filter(|i| i.kind.is_some() && i.config_file.is_some());
    // Each on a thread of its own: a large file takes a daemon a while.
    std::thread::scope(|scope| {
        let asked: Vec<_> = known.map(|instance| scope.spawn(|| problem(instance))).collect();
        asked.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    })
}

fn problem(instance: &Instance) -> Option<String> {
    let kind = instance.kind?;
    let line = kinds::syntax_check(instance)?;
    let program = line.first().map_or("", String::as_str);
    let said = spawn(instance, &line).and_then(|child| {
        let pid = child.id();
        let heard = neighbour::attend(child, Instant::now() + PATIENCE);
        if kind == Kind::Frr {
            let folder = Path::new(FRR_FOLDERS).join(format!("bgpd.{pid}"));
            // Empty, or it is not the one that was meant.
            let _ = fs::remove_dir(inside(instance.root.as_deref().unwrap_or(Path::new("/")), &folder));
        }
        heard
    });
    let wrong = match said {
        Ok((status, said)) => fault(kind, status, &said)?,
        Err(e) => format!("{program} {e}"),
    };
    let file = instance.config_file.as_deref().unwrap_or(Path::new(""));
    Some(format!("instance {}: config: {} says of {}: {wrong}", instance.name, line.join(" "), file.display()))
}

fn spawn(instance: &Instance, line: &[String]) -> io::Result<Child> {
    let Some((program, arguments)) = line.split_first() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such program"));
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").envs(&instance.env).env_remove("LD_PRELOAD").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match kinds::syntax_entry(instance)? {
        Some(entry) => launch::spawn_inside(command, entry),
        None => command.spawn(),
    }
}

/// What the daemon finds wrong, in its own words.
fn fault(kind: Kind, status: ExitStatus, said: &str) -> Option<String> {
    let words: fn(&str) -> Option<&str> = match (kind, status.success()) {
        (Kind::Frr, true) => |line| line.contains(FRR_LINE).then_some(line),
        (_, true) => return None,
        (_, false) => |line| Some(line),
    };
    let lines = said.lines().filter_map(words).map(without_stamp).filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.map(shown).collect();
    let more = match lines.len().saturating_sub(MAX_LINES) {
        0 => String::new(),
        n => format!("; and {n} more lines"),
    };
    match (lines.get(..lines.len().min(MAX_LINES)), status.success()) {
        (None | Some([]), true) => None,
        (None | Some([]), false) => Some(format!("nothing, and ends with {status}")),
        (Some(first), _) => Some(first.join("; ") + &more),
    }
}

fn shown(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
}

/// FRR puts time, program and two codes in brackets before its words.
fn without_stamp(line: &str) -> &str {
    let line = line.trim();
    let stamp = line.find(FRR_LINE).and_then(|at| line.get(..at)?.rfind("] "));
    match stamp.filter(|_| line.starts_with(|c: char| c.is_ascii_digit())) {
        Some(at) => line.get(at + 2..).unwrap_or(line),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn what_a_daemon_says_is_a_fault_or_not() {
        let (good, bad) = (ExitStatus::from_raw(0), ExitStatus::from_raw(0x100));
        let frr = "2026/11/29 12:55:55 BGP: [SHWNK-NWT5S][EC 100663304] No such command on config line 3:  foo [b] x\n";
        let table = [
            (Kind::Frr, good, frr, Some("No such command on config line 3:  foo [b] x")),
            (Kind::Frr, good, "2026/11/29 12:55:55 BGP: [X] Terminating on signal\n", None),
            (Kind::Frr, bad, "user xx does not exist\n", Some("user xx does not exist")),
            (Kind::Bird, bad, "bird: /b.conf:2:10 syntax error\n", Some("bird: /b.conf:2:10 syntax error")),
            (Kind::Bird, good, "bird: a warning\n", None),
            (Kind::OpenBgpd, good, "configuration OK\n", None),
            (Kind::OpenBgpd, bad, "", Some("nothing, and ends with exit status: 1")),
            (Kind::OpenBgpd, bad, "a\nb\nc\nd\ne\nf\n", Some("a; b; c; d; and 2 more lines")),
        ];
        for (kind, status, said, expected) in table {
            assert_eq!(fault(kind, status, said).as_deref(), expected, "{kind:?}: {said}");
        }
    }
}
