//! OpenBGPD.

use super::{Client, Instance, RouterSpec, Then};
use crate::lab::Lab;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use wire::bgp::Family;

/// Where its unprivileged processes chroot to; Debian's service makes it, so a daemon started by
/// hand needs it made.
const CHROOT: &str = "/run/openbgpd";

pub(super) fn configuration(spec: &RouterSpec, folder: &Path) -> String {
    let mut text = format!(
        "AS {asn}\n\
         router-id {id}\n\
         fib-update {fib}\n\
         connect-retry 1\n\
         socket \"{socket}\"\n\
         rde med compare strict\n\
         rde route-age ignore\n\
         reject as-set no\n",
        asn = spec.asn,
        fib = if spec.fib { "yes" } else { "no" },
        id = spec.router_id,
        socket = folder.join("bgpd.sock").display()
    );
    if spec.peers.iter().any(|p| p.client == Client::Served) {
        text.push_str("transparent-as yes\n");
    }
    for network in &spec.networks {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "network {network} set med 0");
    }
    for peer in &spec.peers {
        let _ = writeln!(
            text,
            "\nneighbor {} {{\n    remote-as {}\n    local-address {}",
            peer.address, peer.asn, peer.local
        );
        if let Some(port) = peer.port {
            let _ = writeln!(text, "    port {port}");
        }
        text.push_str("    enforce neighbor-as no\n");
        for (family, name) in [(Family::IPV4_UNICAST, "IPv4"), (Family::IPV6_UNICAST, "IPv6")] {
            let what = if peer.families.contains(&family) { "unicast" } else { "none" };
            let _ = writeln!(text, "    announce {name} {what}");
        }
        if peer.passive {
            text.push_str("    passive\n");
        }
        if peer.client == Client::Reflected {
            text.push_str("    route-reflector\n");
        }
        if peer.client == Client::Served {
            // On a subnet of its own; clients that share one with the next hop keep it without
            // this.
            text.push_str("    multihop 2\n");
        }
        if let Some(password) = &peer.password {
            let _ = writeln!(text, "    tcp md5sig password \"{password}\"");
        }
        if let Some(hold) = peer.hold_time_s {
            let _ = writeln!(text, "    holdtime {hold}");
        }
        if let Some(limit) = peer.limit {
            let then = if limit.then == Then::Back { " restart 1" } else { "" };
            let _ = writeln!(text, "    max-prefix {}{then}", limit.prefixes);
        }
        text.push_str("}\n");
    }
    text.push_str("\nallow from any\nallow to any\n");
    for peer in spec.peers.iter().filter(|p| p.client == Client::Served) {
        let _ = writeln!(text, "match from {} set nexthop no-modify", peer.address);
    }
    for peer in &spec.peers {
        if let Some(prefix) = peer.refused {
            let _ = writeln!(text, "deny from {} prefix {prefix}", peer.address);
        }
    }
    if let Some(lie) = spec.lie {
        let (asn, value) = lie.community;
        let _ = writeln!(text, "match to any prefix {} set community {asn}:{value}", lie.prefix);
    }
    text
}

/// OpenBGPD refuses a configuration that others can read.
pub(super) fn own(configuration: &Path) -> Result<()> {
    fs::set_permissions(configuration, fs::Permissions::from_mode(0o600)).context("hiding OpenBGPD's configuration")
}

pub(super) fn launch(instance: &mut Instance, lab: &Lab) -> Result<()> {
    fs::create_dir_all(CHROOT).with_context(|| format!("making {CHROOT}"))?;
    let config = instance.folder.join("bgp.conf").display().to_string();
    let mut bgpd = instance.bgp_command("/usr/sbin/bgpd");
    bgpd.args(["-d", "-v", "-f", &config]);
    let process = lab.spawn(&instance.name, &mut bgpd)?;
    instance.processes.push(process);
    Ok(())
}

fn bgpctl(instance: &Instance, arguments: &[&str]) -> Result<String> {
    let socket = instance.folder.join("bgpd.sock").display().to_string();
    let mut all = vec!["-s", &socket];
    all.extend_from_slice(arguments);
    instance.run("bgpctl", &all)
}

pub(super) fn established(instance: &Instance) -> Result<Vec<IpAddr>> {
    let text = bgpctl(instance, &["-j", "show", "neighbor"])?;
    let value: serde_json::Value = serde_json::from_str(&text).context("reading bgpctl's JSON")?;
    let neighbours = value.get("neighbors").and_then(|n| n.as_array()).cloned().unwrap_or_default();
    let up = neighbours.iter().filter(|n| n.get("state").and_then(|s| s.as_str()) == Some("Established"));
    Ok(up.filter_map(|n| n.get("remote_addr")?.as_str()?.parse().ok()).collect())
}

pub(super) fn reload(instance: &Instance) -> Result<()> {
    bgpctl(instance, &["reload"]).map(|_| ())
}
