//! BIRD 2.

use super::{Client, Instance, Limit, PeerSpec, RouterSpec, Then};
use crate::lab::Lab;
use anyhow::{Result, bail};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use wire::bgp::Family;

pub(super) fn configuration(spec: &RouterSpec, folder: &Path) -> String {
    let mut text = format!(
        "log \"{log}\" all;\n\
         debug protocols {{ states, events }};\n\
         router id {id};\n\n\
         protocol device {{}}\n\n",
        log = folder.join("bird.log").display(),
        id = spec.router_id
    );
    for (family, name) in [(Family::IPV4_UNICAST, "ipv4"), (Family::IPV6_UNICAST, "ipv6")] {
        let networks: Vec<_> = spec.networks.iter().filter(|n| n.family() == family).collect();
        if !networks.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "protocol static own_{name} {{\n    {name};");
            for network in networks {
                let _ = writeln!(text, "    route {network} blackhole;");
            }
            text.push_str("}\n\n");
        }
    }
    if spec.fib {
        for name in ["ipv4", "ipv6"] {
            let _ = writeln!(
                text,
                "protocol kernel kernel_{name} {{\n    {name} {{ export all; }};\n    scan time 5;\n}}\n"
            );
        }
    }
    text.push_str("filter to_peer {\n");
    if !spec.networks.is_empty() {
        // As FRR does. Set at the static route it is passed on by chance alone: BIRD drops a MED
        // that no export filter has set.
        text.push_str("    if source = RTS_STATIC then bgp_med = 0;\n");
    }
    if let Some(lie) = spec.lie {
        let (asn, value) = lie.community;
        let family = if lie.prefix.family() == Family::IPV4_UNICAST { "NET_IP4" } else { "NET_IP6" };
        let _ = writeln!(text, "    if net.type = {family} then {{");
        let _ = writeln!(text, "        if net = {} then bgp_community.add(({asn}, {value}));", lie.prefix);
        text.push_str("    }\n");
    }
    text.push_str("    accept;\n}\n");
    for (index, peer) in spec.peers.iter().enumerate() {
        protocol(&mut text, spec, index, peer);
    }
    text
}

fn protocol(text: &mut String, spec: &RouterSpec, index: usize, peer: &PeerSpec) {
    let _ = writeln!(text, "\nprotocol bgp {} {{", protocol_name(index));
    let _ = writeln!(text, "    local {} as {};", peer.local, spec.asn);
    let port = peer.port.map(|port| format!(" port {port}")).unwrap_or_default();
    let _ = writeln!(text, "    neighbor {}{port} as {};", peer.address, peer.asn);
    text.push_str(
        "    connect delay time 0;\n    connect retry time 1;\n    error wait time 1, 5;\n    deterministic med on;\n",
    );
    if peer.passive {
        text.push_str("    passive on;\n");
    }
    match peer.client {
        Client::No => {}
        Client::Reflected => text.push_str("    rr client;\n"),
        Client::Served => text.push_str("    rs client;\n"),
    }
    if let Some(password) = &peer.password {
        let _ = writeln!(text, "    password \"{password}\";");
    }
    if let Some(hold) = peer.hold_time_s {
        let _ = writeln!(text, "    hold time {hold};");
    }
    for (family, name) in [(Family::IPV4_UNICAST, "ipv4"), (Family::IPV6_UNICAST, "ipv6")] {
        if peer.families.contains(&family) {
            let import = match peer.refused.filter(|prefix| prefix.family() == family) {
                Some(prefix) => format!("where net != {prefix}"),
                None => "all".to_owned(),
            };
            let limit = peer.limit.map(limit_words).unwrap_or_default();
            let _ = writeln!(text, "    {name} {{ import {import}; {limit}export filter to_peer; }};");
        }
    }
    text.push_str("}\n");
}

/// `import limit` counts what was accepted; `receive limit` what was received, provided that what
/// was refused is kept.
fn limit_words(limit: Limit) -> String {
    let action = if limit.then == Then::Back { "restart" } else { "disable" };
    if limit.received {
        format!("import keep filtered on; receive limit {} action {action}; ", limit.prefixes)
    } else {
        format!("import limit {} action {action}; ", limit.prefixes)
    }
}

fn protocol_name(index: usize) -> String {
    format!("peer{index}")
}

pub(super) fn launch(instance: &mut Instance, lab: &Lab) -> Result<()> {
    let file = |name: &str| instance.folder.join(name).display().to_string();
    let mut bird = instance.bgp_command("bird");
    bird.args(["-f", "-c", &file("bgp.conf"), "-s", &file("bird.ctl"), "-P", &file("bird.pid")]);
    let process = lab.spawn(&instance.name, &mut bird)?;
    lab.watch_log(&instance.folder.join("bird.log"));
    instance.processes.push(process);
    Ok(())
}

fn birdc(instance: &Instance, command: &str) -> Result<String> {
    let socket = instance.folder.join("bird.ctl").display().to_string();
    instance.run("birdc", &["-r", "-s", &socket, command])
}

pub(super) fn established(instance: &Instance) -> Result<Vec<IpAddr>> {
    let text = birdc(instance, "show protocols")?;
    let mut up = Vec::new();
    for line in text.lines().filter(|l| l.trim_end().ends_with("Established")) {
        let name = line.split_whitespace().next().unwrap_or_default();
        let peers = instance.spec.peers.iter().enumerate();
        up.extend(peers.filter(|(i, _)| protocol_name(*i) == name).map(|(_, p)| p.address));
    }
    Ok(up)
}

pub(super) fn reload(instance: &Instance) -> Result<()> {
    let socket = instance.folder.join("bird.ctl").display().to_string();
    let text = instance.run("birdc", &["-s", &socket, "configure"])?;
    if !text.contains("Reconfigured") && !text.contains("Reconfiguration in progress") {
        bail!("birdc configure: {text}");
    }
    Ok(())
}
