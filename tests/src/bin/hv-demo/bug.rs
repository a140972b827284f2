//! The demo's last act: a published bug in Debian's own FRR. CVE-2023-46753: FRR 8.4 with a
//! route-map that prepends to the path dies of an UPDATE that has none. Nobody has patched anything
//! here. Where FRR survives it, the demo says so by name and version and kills it by hand.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;
use tests::daemons::Daemon;
use tests::kinds::Kinds;
use tests::lab::{Lab, Star, wait_until};
use tests::published::{cve_2023_46753, installed};
use tests::replayer::Replayer;

/// virtd tells of what it withholds within this.
const NAMED: Duration = Duration::from_secs(30);

/// What FRR died of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// The published bug.
    Published,
    /// A SIGSEGV of ours, since the bug did not show.
    Injected,
}

/// How it went.
pub struct Outcome {
    /// The bug showed; else the daemon had to be killed by hand.
    pub death: Death,
    /// The neighbour that sent the UPDATE.
    pub sender: Replayer,
}

/// Sends the UPDATE from one more neighbour, and waits for FRR's end.
pub fn act(lab: &Lab, star: &Star, kinds: &mut Kinds) -> Result<Outcome> {
    let site = star.sites.last().context("a star without neighbours")?;
    let before = kinds.exits("frr").len();
    let died = || kinds.exits("frr").len() > before;
    let (sender, real) = cve_2023_46753::send_until_dead(lab, site, died)?;
    let (death, said) = if real {
        let log = fs::read_to_string(kinds.log_folder("frr")?.join("frr.log")).unwrap_or_default();
        for line in last_words(&log) {
            println!("          frr.log: {line}");
        }
        let said = kinds.exits("frr").get(before).cloned().context("no event")?;
        // FRR's own handler may end it by abort(3) after its last words.
        ensure!(said.contains("SIGSEGV") || said.contains("SIGABRT"), "FRR has ended, but not of the bug: {said}");
        (Death::Published, said)
    } else {
        println!(
            "          {} DOES NOT DIE of {} here: what follows shows a SIGSEGV put in by hand, not that bug",
            installed(Daemon::Frr)?,
            cve_2023_46753::NAME
        );
        (Death::Injected, kinds.kill("frr", kinds.leader("frr")?, Signal::SIGSEGV, NAMED)?)
    };
    println!("          virtd: {said}");
    Ok(Outcome { death, sender })
}

/// What FRR died of by itself is named and withheld from it.
pub fn withheld(kinds: &Kinds) -> Result<()> {
    wait_until("the UPDATE to be named as FRR's poison", NAMED, || {
        let poison = kinds.router.events("poison");
        if poison.iter().any(|e| e["instance"] == "frr") { Ok(()) } else { Err(format!("{poison:?}")) }
    })
}

/// What FRR wrote as it died, without its stack.
fn last_words(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|l| l.contains("Received signal"))
}
