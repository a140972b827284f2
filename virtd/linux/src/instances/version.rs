//! Which version the daemon of a kind is, as the program itself says, root or not.

use super::launch;
use crate::kinds;
use crate::kinds::root::Entry;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use virtd_config::Instance;

/// A program that has not said its version by then is killed: it does something else.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at.
const CHECK: Duration = Duration::from_millis(10);

/// Asks the program; `None` for what has no kind, or does not say.
///
/// # Errors
/// It cannot be started, or does not end.
pub(super) fn ask(instance: &Instance) -> io::Result<Option<String>> {
    let Some([program, option]) = instance.kind.map(kinds::version_command) else { return Ok(None) };
    let mut command = Command::new(program);
    command.arg(option).current_dir("/").env_remove("LD_PRELOAD");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match &instance.root {
        Some(root) => launch::spawn_inside(command, Entry::new(root, &[], &[])?)?,
        None => command.spawn()?,
    };
    // What it says fits the pipes; if not, it does not end, either.
    if let Err(e) = ended(&mut child) {
        child.kill()?;
        child.wait()?;
        return Err(e);
    }
    let out = child.wait_with_output()?;
    // BIRD and OpenBGPD say it on stderr.
    let said = [out.stdout, out.stderr].map(|text| number(&String::from_utf8_lossy(&text)));
    Ok(said.into_iter().flatten().next())
}

fn ended(child: &mut Child) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end"));
        }
        std::thread::sleep(CHECK);
    }
    Ok(())
}

/// The first word that begins like a number: "bgpd version 8.4.4", "BIRD version 2.0.12", "OpenBGPD
/// 7.7".
pub(super) fn number(said: &str) -> Option<String> {
    let word = said.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()))?;
    // Shown in a table: longer than any version, and it would be something else.
    Some(word.trim_end_matches([',', '.', ')']).chars().filter(|c| !c.is_control()).take(32).collect())
}
