//! The demo's last act: a published bug in Debian's own FRR. CVE-2023-46753: FRR 8.4 with a route-map that prepends to the path dies of an
//! UPDATE that has none. Nobody has patched anything here.

use anyhow::{Context, Result};
use std::fs;
use tests::lab::{Lab, Star};
use tests::published::cve_2023_46753;
use tests::replayer::Replayer;
use tests::router::Router;

/// How it went.
pub struct Outcome {
    /// The bug showed; else the daemon had to be killed by hand.
    pub real: bool,
    /// The neighbour that sent the UPDATE.
    pub sender: Replayer,
}

/// Sends the UPDATE from one more neighbour, and waits for FRR's end.
pub fn act(lab: &Lab, star: &Star, router: &mut Router) -> Result<Outcome> {
    let site = star.sites.last().context("a star without neighbours")?;
    let ns = router.ns().clone();
    cve_2023_46753::prepend(router.instance("frr")?, &ns, site.v4.into())?;
    let frr = router.instance("frr")?;
    let (sender, real) = cve_2023_46753::send_until_dead(lab, site, cve_2023_46753::UPDATE, || !frr.running())?;
    if real {
        for line in last_words(&fs::read_to_string(frr.folder().join("frr.log")).unwrap_or_default()) {
            println!("          frr.log: {line}");
        }
    } else {
        println!(
            "          this FRR does not die of it any more (Debian has mended it, or another version is installed): it is killed instead"
        );
    }
    frr.crash();
    Ok(Outcome { real, sender })
}

/// What FRR wrote as it died, without its stack.
fn last_words(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|l| l.contains("Received signal"))
}
