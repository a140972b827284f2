//! What an operator does at a daemon's own control program, and what a process costs.

use crate::daemons::{Daemon, Instance};
use crate::lab::{Lab, Netns, built, finish, run};
use anyhow::Result;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Runs one command of FRR's zebra.
pub fn zebra(instance: &Instance, ns: &Netns, command: &str) -> Result<String> {
    let folder = instance.folder().display().to_string();
    finish(instance.command_in(ns, "vtysh").args(["--vty_socket", &folder, "-d", "zebra", "-c", command]))
}

/// Runs one command of a daemon's control program: vtysh (several lines: one each), birdc or
/// bgpctl.
pub fn control(instance: &Instance, ns: &Netns, command: &str) -> Result<String> {
    let file = |name: &str| instance.folder().join(name).display().to_string();
    let run = |program: &str, args: &[&str]| finish(instance.command_in(ns, program).args(args));
    match instance.daemon {
        Daemon::Frr => {
            let folder = instance.folder().display().to_string();
            let mut args = vec!["--vty_socket", &folder, "-d", "bgpd"];
            args.extend(command.lines().flat_map(|line| ["-c", line]));
            run("vtysh", &args)
        }
        Daemon::Bird => run("birdc", &["-s", &file("bird.ctl"), command]),
        Daemon::OpenBgpd => {
            let socket = file("bgpd.sock");
            let mut args = vec!["-s", &socket];
            args.extend(command.split_whitespace());
            run("bgpctl", &args)
        }
    }
}

/// FRR keeps its sessions when a link goes down for a moment, as OpenBGPD does by itself: with two
/// of three that do, the router keeps them.
pub fn keep_sessions_without_link(frr: &Instance, ns: &Netns, asn: u32) -> Result<()> {
    let lines = format!("configure terminal\nrouter bgp {asn}\nno bgp fast-external-failover");
    control(frr, ns, &lines).map(|_| ())
}

/// The routes a daemon has, as its control program prints them.
pub fn routes(instance: &Instance, ns: &Netns, v6: bool) -> Result<String> {
    let command = match (instance.daemon, v6) {
        (Daemon::Frr, false) => "show bgp ipv4 unicast",
        (Daemon::Frr, true) => "show bgp ipv6 unicast",
        (Daemon::Bird, _) => "show route",
        (Daemon::OpenBgpd, _) => "show rib",
    };
    control(instance, ns, command)
}

/// Hundredths of a second of CPU time that everything in a namespace has used so far.
pub fn cpu_ticks(ns: &Netns) -> u64 {
    let pids = run("ip", &["netns", "pids", ns.name()]).unwrap_or_default();
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks = |pid: &str| -> u64 {
        let text = stat(pid);
        // Fields 14 and 15 of proc(5), counted behind the command's closing parenthesis, which ends
        // field 2.
        let behind = text.rsplit(") ").next().unwrap_or_default();
        behind.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
    };
    pids.split_whitespace().map(ticks).sum()
}

/// A copy of virtd in a folder of its own.
pub fn virtd_copy(lab: &Lab, folder: &str) -> Result<PathBuf> {
    let path = lab.folder(folder)?.join("virtd");
    fs::copy(built("virtd")?, &path)?;
    Ok(path)
}

/// A program of a shell's words; `$virtd` is a copy of virtd.
pub fn virtd_script(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.folder(name)?.join("program");
    // The worker's user has to find the way to it.
    let virtd = virtd_copy(lab, name)?;
    fs::write(&path, format!("#!/bin/sh\nvirtd={}\n{text}\n", virtd.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
