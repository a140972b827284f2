//! FRR: zebra, which tells bgpd of interfaces and next hops, and bgpd, which leaves the kernel's
//! routes alone.

use super::{Client, Instance, Lie, Limit, RouterSpec, Then};
use crate::lab::{Lab, wait_for};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use wire::bgp::Family;

const ZEBRA: &str = "/usr/lib/frr/zebra";
const BGPD: &str = "/usr/lib/frr/bgpd";
/// The route map that carries a lie.
const LIE_MAP: &str = "LIE";

pub(super) fn configuration(spec: &RouterSpec, folder: &Path) -> String {
    let mut text = format!(
        "log file {log}\n\
         !\n\
         router bgp {asn}\n\
         \x20bgp router-id {id}\n\
         \x20no bgp default ipv4-unicast\n\
         \x20no bgp ebgp-requires-policy\n\
         \x20no bgp network import-check\n\
         \x20bgp log-neighbor-changes\n\
         \x20bgp bestpath compare-routerid\n\
         \x20bgp deterministic-med\n\
         \x20coalesce-time 50\n",
        log = folder.join("frr.log").display(),
        asn = spec.asn,
        id = spec.router_id
    );
    for peer in &spec.peers {
        let a = peer.address;
        // Writing to a String cannot fail.
        let _ = writeln!(text, " neighbor {a} remote-as {}", peer.asn);
        let _ = writeln!(text, " neighbor {a} update-source {}", peer.local);
        if let Some(port) = peer.port {
            let _ = writeln!(text, " neighbor {a} port {port}");
        }
        let _ = writeln!(text, " neighbor {a} timers connect 1");
        let _ = writeln!(text, " neighbor {a} advertisement-interval 0");
        let _ = writeln!(text, " neighbor {a} sender-as-path-loop-detection");
        if peer.passive {
            let _ = writeln!(text, " neighbor {a} passive");
        }
        if let Some(password) = &peer.password {
            let _ = writeln!(text, " neighbor {a} password {password}");
        }
        if let Some(hold) = peer.hold_time_s {
            let _ = writeln!(text, " neighbor {a} timers {} {hold}", hold / 3);
        }
        if peer.bfd {
            let _ = writeln!(text, " neighbor {a} bfd 3 100 100");
        }
    }
    for (family, name) in [(Family::IPV4_UNICAST, "ipv4"), (Family::IPV6_UNICAST, "ipv6")] {
        let _ = writeln!(text, " !\n address-family {name} unicast");
        for network in spec.networks.iter().filter(|n| n.family() == family) {
            let _ = writeln!(text, "  network {network}");
        }
        for peer in spec.peers.iter().filter(|p| p.families.contains(&family)) {
            let _ = writeln!(text, "  neighbor {} activate", peer.address);
            match peer.client {
                Client::No => {}
                Client::Reflected => _ = writeln!(text, "  neighbor {} route-reflector-client", peer.address),
                Client::Served => _ = writeln!(text, "  neighbor {} route-server-client", peer.address),
            }
            if let Some(limit) = peer.limit {
                let _ = writeln!(text, "  neighbor {} maximum-prefix {}", peer.address, limit_words(limit));
                if limit.received {
                    // What was refused is counted where it is kept.
                    let _ = writeln!(text, "  neighbor {} soft-reconfiguration inbound", peer.address);
                }
            }
            if peer.refused.is_some_and(|prefix| prefix.family() == family) {
                let _ = writeln!(text, "  neighbor {0} prefix-list NOT-{0} in", peer.address);
            }
        }
        text.push_str(" exit-address-family\n");
    }
    for peer in &spec.peers {
        if let Some(prefix) = peer.refused {
            let ip = if prefix.family() == Family::IPV4_UNICAST { "ip" } else { "ipv6" };
            let _ = writeln!(text, "{ip} prefix-list NOT-{} seq 5 deny {prefix}", peer.address);
            let _ = writeln!(text, "{ip} prefix-list NOT-{} seq 10 permit any", peer.address);
        }
    }
    if let Some(lie) = spec.lie {
        text.push_str(&lie_commands(spec, None, Some(lie)).join("\n"));
        text.push('\n');
    }
    text
}

/// What follows `maximum-prefix`. FRR compares before it adds the prefix at hand, so its number is
/// one less. `force` counts what was received.
fn limit_words(limit: Limit) -> String {
    let then = if limit.then == Then::Back { " restart 1" } else { "" };
    let force = if limit.received { " force" } else { "" };
    format!("{}{then}{force}", limit.prefixes.saturating_sub(1))
}

/// FRR's daemons run as `frr` and write their log, pid and sockets into the folder.
pub(super) fn own(folder: &Path) -> Result<()> {
    crate::lab::run("chown", &["-R", "frr:frr", &folder.display().to_string()]).map(|_| ())
}

pub(super) fn launch(instance: &mut Instance, lab: &Lab) -> Result<()> {
    let folder = instance.folder.clone();
    let file = |name: &str| folder.join(name).display().to_string();
    let (zserv, dir) = (file("zserv.api"), folder.display().to_string());
    let mut zebra = if instance.spec.fib { instance.bgp_command(ZEBRA) } else { instance.command(ZEBRA) };
    zebra.args(["-r", "-f", "/dev/null", "-i", &file("zebra.pid"), "-z", &zserv, "--vty_socket", &dir, "-P", "0"]);
    instance.processes.push(lab.spawn(&format!("{}-zebra", instance.name), &mut zebra)?);
    wait_for("zebra's socket", Duration::from_secs(10), || Path::new(&zserv).exists())?;
    let mut bgpd = instance.bgp_command(BGPD);
    if !instance.spec.fib {
        bgpd.arg("--no_kernel");
    }
    bgpd.args(["-f", &file("bgp.conf"), "-i", &file("bgpd.pid"), "-z", &zserv, "--vty_socket", &dir, "-P", "0"]);
    instance.processes.push(lab.spawn(&instance.name, &mut bgpd)?);
    lab.watch_log(&folder.join("frr.log"));
    Ok(())
}

/// Runs vtysh commands in bgpd.
fn vtysh(instance: &Instance, commands: &[String]) -> Result<String> {
    let folder = instance.folder.display().to_string();
    let mut args = vec!["--vty_socket", &folder, "-d", "bgpd"];
    for command in commands {
        args.extend(["-c", command]);
    }
    instance.run("vtysh", &args)
}

pub(super) fn established(instance: &Instance) -> Result<Vec<IpAddr>> {
    let text = vtysh(instance, &["show bgp neighbors json".to_owned()])?;
    // vtysh may print notes before the object.
    let start = text.find('{').context("vtysh printed no JSON")?;
    let neighbours: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text[start..]).context("reading vtysh's JSON")?;
    let up = neighbours.iter().filter(|(_, n)| n.get("bgpState").and_then(|s| s.as_str()) == Some("Established"));
    Ok(up.filter_map(|(address, _)| address.parse().ok()).collect())
}

pub(super) fn set_lie(instance: &Instance, before: Option<Lie>, after: Option<Lie>) -> Result<()> {
    let mut commands = vec!["configure terminal".to_owned()];
    commands.extend(lie_commands(&instance.spec, before, after));
    vtysh(instance, &commands).map(|_| ())
}

/// The configuration lines from one lie to another.
fn lie_commands(spec: &RouterSpec, before: Option<Lie>, after: Option<Lie>) -> Vec<String> {
    let mut lines = Vec::new();
    let on_neighbours = |lines: &mut Vec<String>, family: Family, no: &str| {
        let name = if family == Family::IPV4_UNICAST { "ipv4" } else { "ipv6" };
        lines.push(format!("router bgp {}", spec.asn));
        lines.push(format!("address-family {name} unicast"));
        let peers = spec.peers.iter().filter(|p| p.families.contains(&family));
        lines.extend(peers.map(|p| format!("{no}neighbor {} route-map {LIE_MAP} out", p.address)));
        lines.extend(["exit".to_owned(), "exit".to_owned()]);
    };
    if let Some(lie) = before {
        on_neighbours(&mut lines, lie.prefix.family(), "no ");
        lines.extend([format!("no route-map {LIE_MAP}"), format!("no {}", prefix_list(&lie))]);
    }
    if let Some(lie) = after {
        let ip = if lie.prefix.family() == Family::IPV4_UNICAST { "ip" } else { "ipv6" };
        let (asn, value) = lie.community;
        lines.extend([
            "bgp route-map delay-timer 0".to_owned(),
            prefix_list(&lie),
            format!("route-map {LIE_MAP} permit 10"),
            format!("match {ip} address prefix-list {LIE_MAP}"),
            format!("set community {asn}:{value} additive"),
            "exit".to_owned(),
            format!("route-map {LIE_MAP} permit 20"),
            "exit".to_owned(),
        ]);
        on_neighbours(&mut lines, lie.prefix.family(), "");
    }
    lines
}

fn prefix_list(lie: &Lie) -> String {
    let ip = if lie.prefix.family() == Family::IPV4_UNICAST { "ip" } else { "ipv6" };
    format!("{ip} prefix-list {LIE_MAP} seq 5 permit {}", lie.prefix)
}
