//! What a configuration amounts to, in words: the output of `virtd --check`.

use super::actions;
use super::alert::{Hook, Level};
use super::names::attribute_name;
use super::{Config, Instance, Kind, OnExit, OpenMode, Standby, Strategy};
use std::fmt::Write;

/// How many instances may be wrong at once without a peer noticing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Masked {
    /// Faults that never show outside.
    pub faults: usize,
    /// Those of them that do not even delay what the others agree on (until T).
    pub at_once: usize,
}

/// The arithmetic of a quorum. A strict majority of the electorate decides in the end, under every
/// strategy; the strategies differ in what is published before that.
pub fn masked(config: &Config) -> Masked {
    let voters = config.voters();
    let outvoted = voters.saturating_sub(config.majority());
    let quorum = config.quorum();
    match config.vote.strategy {
        Strategy::WaitForConsensus | Strategy::ContinuousMajority => {
            Masked { faults: outvoted, at_once: outvoted.min(voters.saturating_sub(quorum)) }
        }
        // The first k to agree are believed: k liars are enough.
        Strategy::FirstK => {
            let faults = outvoted.min(quorum.saturating_sub(1));
            Masked { faults, at_once: faults.min(voters.saturating_sub(quorum)) }
        }
        // The master is believed at once, so its faults show, for T at most.
        Strategy::MasterSlave => Masked { faults: 0, at_once: 0 },
    }
}

/// One line for people: "3 voters, k=2: masks 1 fault".
pub fn quorum_line(config: &Config) -> String {
    let voters = config.voters();
    let masked = masked(config);
    let t = seconds(config.vote.t_ms);
    let who = format!("{voters} {}", plural(voters, "voter"));
    if voters == 1 {
        return format!("{who}: masks no fault (one alone drives; nothing can be compared)");
    }
    if config.vote.strategy == Strategy::MasterSlave {
        let repaired = voters.saturating_sub(config.majority());
        return format!(
            "{who}: the first instance drives; {repaired} {} of it or others undone after {t}",
            plural(repaired, "fault")
        );
    }
    let mut line = format!("{who}, k={}: masks {} {}", config.quorum(), masked.faults, plural(masked.faults, "fault"));
    if masked.faults == 0 {
        line.push_str(" (a difference is noticed, but nobody can say who is right: what was published stays)");
    } else if masked.at_once < masked.faults {
        let _ = write!(line, " (more than {} of them delay new routes by T = {t})", masked.at_once);
    }
    line
}

/// Everything virtd would do with this configuration, several lines.
pub fn summary(config: &Config) -> String {
    let mut out = String::new();
    let mut row = |key: &str, value: String| {
        let _ = writeln!(out, "{key:<16}{value}");
    };
    let stated = |v: Option<String>| v.unwrap_or_else(|| "as the instances say".into());
    row("AS", stated(config.asn.map(|a| a.to_string())));
    row("router id", stated(config.router_id.map(|r| r.to_string())));
    let listen: Vec<String> =
        config.listen.iter().map(|a| std::net::SocketAddr::new(*a, config.port).to_string()).collect();
    row("listens on", listen.join(", "));
    let named = |group: &Option<String>| group.as_deref().map(|g| format!(", group {g}")).unwrap_or_default();
    row("shim socket", format!("{} (mode 0660{})", config.shim_socket.display(), named(&config.shim_group)));
    let group = named(&config.control_group);
    row("control socket", format!("{} (mode {:04o}{group})", config.control_socket.display(), config.control_mode));
    if let Some(path) = &config.control_socket_ro {
        let group = named(&config.control_ro_group);
        row("for asking only", format!("{} (mode {:04o}{group})", path.display(), config.control_ro_mode));
    }
    row("state", config.state.display().to_string());
    if let Some(path) = &config.event_log {
        row("event log", path.display().to_string());
    }
    row("OPEN", open_line(config.open).into());
    row("inbound", config.inbound.name().into());
    row("strategy", format!("{}, T = {}", config.vote.strategy.name(), seconds(config.vote.t_ms)));
    row("quorum", quorum_line(config));
    if config.vote.min_voters > 1 {
        row("min_voters", format!("{}; with fewer, what was published stays", config.vote.min_voters));
    }
    if !config.ignore_attributes.is_empty() {
        let names: Vec<String> = config.ignore_attributes.iter().map(|c| attribute_name(*c)).collect();
        row("not compared", names.join(", "));
    }
    row("faults", faults_line(config));
    if let Some(folder) = &config.recorder.folder {
        let r = &config.recorder;
        let kept = format!("{} minutes or {} MiB in memory, {} MiB on disk", r.minutes, r.memory_mib, r.disk_mib);
        row("recorder", format!("{}; {kept}", folder.display()));
    }
    if let Some(f) = &config.fib {
        let end = match f.on_exit {
            OnExit::Keep => "stay when virtd ends",
            OnExit::Remove => "are removed when virtd ends",
        };
        row("FIB", format!("voted; routes have protocol {} and metric {}, and {end}", f.protocol, f.metric));
    }
    if let Some(http) = &config.http {
        let listen: Vec<String> = http.listen.iter().map(ToString::to_string).collect();
        row("virtd-monitor", format!("serves HTTP on {}", listen.join(", ")));
    }
    for c in &config.bmp {
        let whose = if c.instances { "of peers and instances" } else { "of peers" };
        row("BMP", format!("virtd-monitor tells {} the tables {whose}", c.address));
    }
    for alert in &config.alerts {
        let does = match &alert.hook {
            Hook::Command(command) => format!("runs {}", command.first().map_or("nothing", String::as_str)),
            Hook::Url(url) => format!("posts to {url}"),
        };
        let events = if alert.events.is_empty() { "all".to_owned() } else { list(&alert.events) };
        row("alert", format!("{}: {does}, at most {} a minute", from(&events, alert.severity), alert.at_most));
    }
    if let Some(syslog) = &config.syslog {
        row("syslog", format!("{}, to {}", from("all", syslog.severity), syslog.target));
    }
    if let Some(journald) = &config.journald {
        row("journald", format!("{}, to {}", from("all", journald.severity), journald.socket.display()));
    }
    for instance in &config.instances {
        row("instance", instance_line(instance));
        if let Some(kind) = instance.kind {
            row("", control_line(kind, &crate::places::folder(config, &instance.name)));
        }
    }
    for peer in &config.peers {
        let mut line = peer.address.to_string();
        if let Some(port) = peer.port {
            let _ = write!(line, ", port {port}");
        }
        if let Some(asn) = peer.asn {
            let _ = write!(line, ", AS {asn}");
        }
        if let Some(description) = &peer.description {
            let _ = write!(line, ", {description}");
        }
        if peer.allow_own_as {
            line.push_str(", its own AS is allowed in paths");
        }
        if let Some(bfd) = &peer.bfd {
            let _ = write!(line, ", the BFD of {bfd} ends it");
        }
        row("peer", line);
    }
    if let Some(c) = &config.confederation {
        let members: Vec<String> = c.members.iter().map(u32::to_string).collect();
        row("confederation", format!("AS {}, members {}", c.identifier, members.join(", ")));
    }
    if config.allow_reserved_ranges {
        row("next hops", "240.0.0.0/4 is no fault".into());
    }
    if !config.native_ports.is_empty() {
        let ports: Vec<String> = config.native_ports.iter().map(ToString::to_string).collect();
        row("native ports", format!("{} of a peer's address, which instances may connect to", ports.join(", ")));
    }
    if config.accept_any {
        row("peer", "any other that an instance listens for or dials".into());
    }
    out
}

fn faults_line(config: &Config) -> String {
    let f = &config.faults;
    let wrong = seconds(config.timers.fault_threshold_ms);
    let rule = format!("wrong on {} prefixes for {wrong}, or on one for {}", f.min_keys, seconds(f.one_key_ms));
    let restart = format!(
        "started again after {} to {}, at most {} times within {}",
        seconds(f.restart_min_ms),
        seconds(f.restart_max_ms),
        f.restart_limit,
        seconds(f.restart_limit_ms)
    );
    format!("{rule}: {}", actions::words(&f.action, &restart))
}

const fn open_line(open: OpenMode) -> &'static str {
    match open {
        OpenMode::Voted => "voted: one OPEN out of what the instances share",
        OpenMode::Native => "native: the instance's own bytes pass verbatim",
    }
}

fn instance_line(instance: &Instance) -> String {
    let role = match (instance.observer, instance.standby) {
        (true, _) => "observer",
        (_, Some(Standby::Cold)) => "standby",
        (_, Some(Standby::Warm)) => "warm standby",
        _ => "voter",
    };
    let mut line = format!("{} ({role})", instance.name);
    let user = instance.user.as_deref().map(|u| format!(" as {u}")).unwrap_or_default();
    if let Some(kind) = instance.kind {
        let file = instance.config_file.as_deref().unwrap_or(std::path::Path::new(""));
        let _ = write!(line, ", started{user}: {} with {}", kind.name(), file.display());
        if let Some(root) = &instance.root {
            let version = instance.version.as_deref().map(|v| format!(", version {v}")).unwrap_or_default();
            let _ = write!(line, "{version}, in the root {}", root.display());
        }
    } else if instance.command.is_empty() {
        let _ = write!(line, ", started by something else{user}");
    } else {
        let _ = write!(line, ", started{user}: {}", instance.command.join(" "));
    }
    let mut limits: Vec<String> = instance.limit_sessions.iter().map(ToString::to_string).collect();
    limits.extend(instance.limit_families.iter().map(ToString::to_string));
    limits.extend(instance.limit_prefixes.iter().map(ToString::to_string));
    if let Some(shim) = &instance.shim_library {
        let _ = write!(line, ", with the shim {}", shim.display());
    }
    if !limits.is_empty() {
        let _ = write!(line, ", votes only on {}", limits.join(", "));
    }
    if let Some(diversity) = &instance.diversity {
        let _ = write!(line, "; {diversity}");
    }
    if instance.environment != super::Environment::default() {
        let _ = write!(line, "; {}", instance.environment);
    }
    line
}

/// Where a daemon's control socket is; OpenBGPD knows only from its file.
fn control_line(kind: Kind, folder: &std::path::Path) -> String {
    let socket = crate::places::control_socket(kind, folder);
    match kind {
        Kind::Frr => format!("sockets in {}", folder.display()),
        Kind::Bird => format!("control socket {}", socket.display()),
        Kind::OpenBgpd => format!("for virtctl exec, its file needs: socket {:?}", socket.display().to_string()),
    }
}

/// Milliseconds as a person writes them.
fn seconds(ms: u32) -> String {
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_owned() } else { format!("{word}s") }
}

/// Which events, for an operator.
fn from(events: &str, severity: Level) -> String {
    match severity {
        Level::Info => events.to_owned(),
        _ if events == "all" => format!("all from {} on", severity.word()),
        _ => format!("{events}, from {} on", severity.word()),
    }
}

fn list(words: &[String]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => words.join(", "),
    }
}
