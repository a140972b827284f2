//! Each section of the file on its own: keys, types, ranges. What concerns several of them is
//! checked in [`super::parse`].

use super::names::{self, keys_of};
use super::reader::{self, Problems, Section, Value};
use super::{
    Confederation, Config, Faults, Fib, FibScope, Inbound, Instance, Kind, OnExit, OpenMode, Peer, Recorder, Standby,
    Strategy, Timers, Vote,
};
use super::{actions, diversity, environment, version};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use toml::de::DeValue;
use wire::bgp::Family;
use wire::bgp::update::attr;

/// Longest instance name: it travels in the shim's Hello.
const MAX_NAME: usize = wire::shim::MAX_NAME;
/// T below this is shorter than any daemon's way through an update; above the upper bound nobody
/// would wait for it.
const T_MS: std::ops::RangeInclusive<u32> = 10..=600_000;
/// AS_TRANS stands for ASes that do not fit two octets (RFC 6793 section 9); nobody is AS 23456.
const AS_TRANS: u32 = 23456;

/// Reads `[router]` into `config`.
pub(crate) fn router(value: Value<'_>, config: &mut Config, problems: &mut Problems) {
    let Some(section) = Section::open("[router]", value, keys_of("router"), problems) else { return };
    config.asn = asn(&section, problems);
    config.router_id = router_id(&section, problems);
    config.port = port(&section, problems).unwrap_or(config.port);
    listen(&section, config, problems);
    config.user = section.text("user", "a user's name in quotes", problems).map(str::to_owned);
    config.group = section.text("group", "a group's name in quotes", problems).map(str::to_owned);
    if let Some(path) = section.path("shim_socket", true, problems) {
        config.shim_socket = path;
    }
    config.shim_group = section.text("shim_group", "a group's name in quotes", problems).map(str::to_owned);
    if let Some(path) = section.path("control_socket", true, problems) {
        config.control_socket = path;
    }
    config.control_socket_ro = section.path("control_socket_ro", true, problems);
    if let Some(ro) = config.control_socket_ro.as_ref().filter(|_| problems.is_empty())
        && (*ro == config.control_socket || *ro == config.shim_socket)
    {
        let span = section.span_of("control_socket_ro");
        problems.at(span, "`control_socket_ro` is another socket's path", "expected a path of its own");
    }
    if let Some(path) = section.path("state", false, problems) {
        config.state = path;
    }
    if config.control_socket == config.shim_socket && problems.is_empty() {
        let span =
            section.span_of(if section.value("control_socket").is_some() { "control_socket" } else { "shim_socket" });
        problems.at(span, "`control_socket` and `shim_socket` are the same", "expected two different paths");
    }
    if let Some(mode) = file_mode(&section, "control_mode", problems) {
        config.control_mode = mode;
    }
    if let Some(mode) = file_mode(&section, "control_ro_mode", problems) {
        config.control_ro_mode = mode;
    }
    config.control_ro_group = section.text("control_ro_group", "a group's name in quotes", problems).map(str::to_owned);
    config.control_group = section.text("control_group", "a group's name in quotes", problems).map(str::to_owned);
    config.event_log = section.path("event_log", false, problems);
    if let Some(path) = section.path("versions", false, problems) {
        config.versions = path;
    }
    let open = [("voted", OpenMode::Voted), ("native", OpenMode::Native)];
    config.open = section.word("open", &open, problems).unwrap_or(config.open);
    let inbound = [("rfc7606", Inbound::Rfc7606), ("opaque", Inbound::Opaque)];
    config.inbound = section.word("inbound", &inbound, problems).unwrap_or(config.inbound);
    config.accept_any = section.boolean("accept_any", problems).unwrap_or(config.accept_any);
    config.allow_own_as = section.boolean("allow_own_as", problems).unwrap_or(config.allow_own_as);
    let reserved = section.boolean("allow_reserved_ranges", problems);
    config.allow_reserved_ranges = reserved.unwrap_or(config.allow_reserved_ranges);
    config.confederation = confederation(&section, problems);
    native_ports(&section, config, problems);
    ignore_attributes(&section, config, problems);
}

fn confederation(section: &Section<'_>, problems: &mut Problems) -> Option<Confederation> {
    let expected = "AS numbers from 1 to 4294967294, like [65001, 65002]";
    let members = section.array("confederation_members", expected, problems, |value, problems| {
        let number = match value.get_ref() {
            DeValue::Integer(n) => reader::integer(n).and_then(|n| u32::try_from(n).ok()),
            _ => None,
        };
        let asn = number.filter(|n| !matches!(*n, 0 | AS_TRANS | u32::MAX));
        if asn.is_none() {
            problems.at(value.span(), "not an AS number", format!("expected {expected}"));
        }
        asn
    });
    let identifier = asn_of("confederation", section, problems);
    if members.is_some() && identifier.is_none() && section.value("confederation").is_none() {
        let help = "add `confederation`, the AS number that all others see";
        problems.at(section.span_of("confederation_members"), "members of no confederation", help);
    }
    Some(Confederation { identifier: identifier?, members: members.unwrap_or_default() })
}

fn port(section: &Section<'_>, problems: &mut Problems) -> Option<u16> {
    section.number("port", 1..=65535, "", problems).and_then(|p| u16::try_from(p).ok())
}

/// Ports on which peers also serve what is no BGP session: the caches of RFC 8210, a monitoring
/// station of RFC 7854.
fn native_ports(section: &Section<'_>, config: &mut Config, problems: &mut Problems) {
    let expected = "TCP ports, like [323, 3323]";
    let ports = section.array("native_ports", expected, problems, |value, problems| {
        let port = match value.get_ref() {
            DeValue::Integer(n) => reader::integer(n).and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0),
            _ => None,
        };
        if port.is_none() {
            problems.at(value.span(), "not a TCP port", format!("expected {expected}"));
        } else if port == Some(config.port) {
            problems.at(value.span(), "the BGP port cannot be native", "its connections are virtd's; leave it out");
        }
        port
    });
    config.native_ports = ports.unwrap_or_default();
}

fn asn(section: &Section<'_>, problems: &mut Problems) -> Option<u32> {
    asn_of("asn", section, problems)
}

fn asn_of(key: &str, section: &Section<'_>, problems: &mut Problems) -> Option<u32> {
    let asn = section.number(key, 1..=u32::MAX, "", problems)?;
    let wrong = match asn {
        AS_TRANS => "AS_TRANS (RFC 6793), a stand-in that no router has",
        u32::MAX => "reserved (RFC 7300)",
        _ => return Some(asn),
    };
    problems.at(section.span_of(key), format!("AS {asn} is {wrong}"), "expected an AS number from 1 to 4294967294");
    None
}

fn router_id(section: &Section<'_>, problems: &mut Problems) -> Option<Ipv4Addr> {
    let expected = "four numbers with dots in quotes, like \"192.0.2.1\", not 0.0.0.0 (RFC 6286)";
    let given = section.text("router_id", expected, problems)?;
    match given.parse::<Ipv4Addr>() {
        Ok(id) if !id.is_unspecified() => Some(id),
        _ => {
            let span = section.span_of("router_id");
            problems.at(span, format!("`{given}` is not a router id"), format!("expected {expected}"));
            None
        }
    }
}

fn listen(section: &Section<'_>, config: &mut Config, problems: &mut Problems) {
    let read = |value: Value<'_>, problems: &mut Problems| {
        reader::address("listen", value, problems).map(|address| (address, value.span()))
    };
    let Some(listed) = section.array("listen", "addresses", problems, read) else { return };
    config.listen.clear();
    for (address, span) in listed {
        if config.listen.contains(&address) {
            problems.at(span, format!("{address} is listed twice"), "leave it out here");
        } else {
            config.listen.push(address);
        }
    }
    if config.listen.is_empty() && problems.is_empty() {
        let help = "leave the key out to listen on all addresses";
        problems.at(section.span_of("listen"), "`listen` names no address", help);
    }
}

/// An octal number, as text ("0660") or TOML's own octal (0o660).
fn file_mode(section: &Section<'_>, key: &str, problems: &mut Problems) -> Option<u32> {
    let value = section.value(key)?;
    let mode = match value.get_ref() {
        DeValue::String(text) => u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok(),
        DeValue::Integer(n) if n.radix() == 8 => reader::integer(n).and_then(|n| u32::try_from(n).ok()),
        _ => None,
    };
    if mode.is_none_or(|m| m > 0o777) {
        let help = "expected permissions as octal digits in quotes, like \"0660\"";
        problems.at(value.span(), format!("`{key}` is not a file mode"), help);
        return None;
    }
    mode
}

fn ignore_attributes(section: &Section<'_>, config: &mut Config, problems: &mut Problems) {
    let expected = "attribute codes from 1 to 255 or names, like [\"MED\", 32]";
    let codes = section.array("ignore_attributes", expected, problems, |value, problems| {
        let code = match value.get_ref() {
            DeValue::Integer(n) => reader::integer(n).and_then(|n| u8::try_from(n).ok()).filter(|n| *n > 0),
            DeValue::String(name) => names::attribute_code(name),
            _ => None,
        };
        let Some(code) = code else {
            let help = match value.get_ref() {
                DeValue::String(name) => {
                    let name = name.to_uppercase();
                    reader::with_nearest(format!("expected {expected}"), &name, names::attribute_names())
                }
                _ => format!("expected {expected}"),
            };
            problems.at(value.span(), "not a path attribute", help);
            return None;
        };
        if matches!(code, attr::NEXT_HOP | attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI) {
            let message = format!("{} cannot be ignored", names::attribute_name(code));
            problems.at(value.span(), message, "prefixes and next hops are what is voted on");
            return None;
        }
        Some(code)
    });
    let mut codes = codes.unwrap_or_default();
    codes.sort_unstable();
    codes.dedup();
    config.ignore_attributes = codes;
}

/// Reads `[vote]`. The places of `k` and `min_voters` are returned for the checks that need the
/// instances.
pub(crate) fn vote(value: Value<'_>, problems: &mut Problems) -> (Vote, Option<VotePlaces>) {
    let mut vote = Vote::default();
    let Some(section) = Section::open("[vote]", value, keys_of("vote"), problems) else { return (vote, None) };
    let strategies =
        [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK]
            .map(|s| (s.name(), s));
    vote.strategy = section.word("strategy", &strategies, problems).unwrap_or(vote.strategy);
    let octet = |n: u32| u8::try_from(n).ok();
    vote.k = section.number("k", 1..=31, "", problems).and_then(octet);
    vote.t_ms = section.number("t_ms", T_MS, " milliseconds", problems).unwrap_or(vote.t_ms);
    vote.min_voters = section.number("min_voters", 1..=31, "", problems).and_then(octet).unwrap_or(vote.min_voters);
    let places = VotePlaces { k: section.span_of("k"), min_voters: section.span_of("min_voters") };
    (vote, Some(places))
}

/// Where numbers of `[vote]` stand that depend on the number of voters.
pub(crate) struct VotePlaces {
    /// `k`.
    pub(crate) k: Range<usize>,
    /// `min_voters`.
    pub(crate) min_voters: Range<usize>,
}

/// Reads `[timers]`.
pub(crate) fn timers(value: Value<'_>, problems: &mut Problems) -> Timers {
    let mut timers = Timers::default();
    let Some(section) = Section::open("[timers]", value, keys_of("timers"), problems) else { return timers };
    let ms = |s: u32| s.saturating_mul(1000);
    let s = " seconds";
    timers.open_wait_ms = section.number("open_wait_s", 0..=300, s, problems).map_or(timers.open_wait_ms, ms);
    timers.grace_ms = section.number("grace_s", 0..=86_400, s, problems).map_or(timers.grace_ms, ms);
    // RFC 4271 section 4.2: a hold time is 0 or at least three seconds; 0 would never notice a
    // hang.
    let hold = section.number("leg_hold_s", 3..=240, s, problems).and_then(|n| u16::try_from(n).ok());
    timers.leg_hold_s = hold.unwrap_or(timers.leg_hold_s);
    timers.fault_threshold_ms =
        section.number("fault_threshold_s", 1..=86_400, s, problems).map_or(timers.fault_threshold_ms, ms);
    timers
}

/// Reads `[faults]`.
pub(crate) fn faults(value: Value<'_>, problems: &mut Problems) -> Faults {
    let mut f = Faults::default();
    let Some(section) = Section::open("[faults]", value, keys_of("faults"), problems) else { return f };
    f.action = actions::read(&section, problems);
    let mut count = |key: &str, bounds, into: &mut u32| {
        *into = section.number(key, bounds, "", problems).unwrap_or(*into);
    };
    count("min_keys", 1..=u32::MAX, &mut f.min_keys);
    count("split_keys", 1..=u32::MAX, &mut f.split_keys);
    count("leg_losses", 1..=200, &mut f.leg_losses);
    count("restart_limit", 0..=200, &mut f.restart_limit);
    count("poison_restarts", 0..=20, &mut f.poison_restarts);
    let mut seconds = |key: &str, bounds, into: &mut u32| {
        *into = section.number(key, bounds, " seconds", problems).map_or(*into, |s| s.saturating_mul(1000));
    };
    seconds("one_key_s", 1..=604_800, &mut f.one_key_ms);
    seconds("leg_losses_s", 1..=86_400, &mut f.leg_losses_ms);
    seconds("restart_min_s", 1..=3600, &mut f.restart_min_ms);
    seconds("restart_max_s", 1..=86_400, &mut f.restart_max_ms);
    seconds("restart_limit_s", 1..=604_800, &mut f.restart_limit_ms);
    seconds("cpu_s", 1..=86_400, &mut f.cpu_ms);
    f.cpu_percent = section.number("cpu_percent", 1..=100, " percent", problems).unwrap_or(f.cpu_percent);
    f.memory_mib = section.number("memory_mib", 1..=1 << 24, " MiB", problems);
    if f.restart_max_ms < f.restart_min_ms {
        let span =
            section.span_of(if section.value("restart_max_s").is_some() { "restart_max_s" } else { "restart_min_s" });
        let message =
            format!("`restart_max_s` is {}, `restart_min_s` {}", f.restart_max_ms / 1000, f.restart_min_ms / 1000);
        problems.at(span, message, "the wait before a restart grows from the one to the other");
    }
    f
}

/// Reads `[recorder]`.
pub(crate) fn recorder(value: Value<'_>, problems: &mut Problems) -> Recorder {
    let mut r = Recorder::default();
    let Some(section) = Section::open("[recorder]", value, keys_of("recorder"), problems) else { return r };
    section.require("folder", "without a folder nothing is recorded: name one, or leave the section out", problems);
    r.folder = section.path("folder", false, problems);
    r.minutes = section.number("minutes", 1..=1440, " minutes", problems).unwrap_or(r.minutes);
    r.memory_mib = section.number("memory_mib", 1..=65_536, " MiB", problems).unwrap_or(r.memory_mib);
    r.disk_mib = section.number("disk_mib", 1..=1 << 20, " MiB", problems).unwrap_or(r.disk_mib);
    r
}

/// Reads `[fib]`.
pub(crate) fn fib(value: Value<'_>, problems: &mut Problems) -> Option<Fib> {
    let mut f = Fib::default();
    let section = Section::open("[fib]", value, keys_of("fib"), problems)?;
    // Below are those that the kernel and the daemons themselves use (linux/rtnetlink.h, RTPROT_*).
    let protocol =
        section.number("protocol", Fib::PROTOCOLS_FROM.into()..=255, "", problems).and_then(|n| u8::try_from(n).ok());
    f.protocol = protocol.unwrap_or(f.protocol);
    if let Some(name) = rt_protocol(f.protocol) {
        let help = "leave the key out, or choose a number that no routing daemon uses: virtd takes every route with it for its own";
        problems.at(section.span_of("protocol"), format!("protocol {} is {name}'s", f.protocol), help);
    }
    f.metric = section.number("metric", 1..=u32::MAX, "", problems).unwrap_or(f.metric);
    let ends = [("keep", OnExit::Keep), ("remove", OnExit::Remove)];
    f.on_exit = section.word("on_exit", &ends, problems).unwrap_or(f.on_exit);
    let mut seconds = |key: &str, into: &mut u32| {
        *into = section.number(key, 1..=86_400, " seconds", problems).map_or(*into, |s| s.saturating_mul(1000));
    };
    seconds("sweep_s", &mut f.sweep_ms);
    seconds("reconcile_s", &mut f.reconcile_ms);
    f.answer_ahead = section.boolean("answer_ahead", problems).unwrap_or(f.answer_ahead);
    Some(f)
}

/// Who else has this rtm_protocol (linux/rtnetlink.h).
pub fn rt_protocol(n: u8) -> Option<&'static str> {
    Some(match n {
        99 => "OpenR",
        186 => "BGP",
        187 => "IS-IS",
        188 => "OSPF",
        189 => "RIP",
        192 => "EIGRP",
        193..=199 => "FRR",
        _ => return None,
    })
}

/// `fib_scope`; the default is everything.
fn fib_scope(section: &Section<'_>, problems: &mut Problems) -> FibScope {
    let expected = "words like \"bgp\", \"igp\", \"static\"; [] for an instance that writes no FIB";
    let words = section.array("fib_scope", expected, problems, |value, problems| {
        let scope = match value.get_ref() {
            DeValue::String(word) => match word.as_ref() {
                "bgp" => Some(FibScope::BGP),
                "igp" | "ospf" | "isis" | "rip" | "babel" | "eigrp" => Some(FibScope::IGP),
                "static" => Some(FibScope::STATIC),
                _ => None,
            },
            _ => None,
        };
        if scope.is_none() {
            problems.at(value.span(), "no routing protocol that writes a FIB", format!("expected {expected}"));
        }
        scope
    });
    words.map_or(FibScope::ALL, |list| list.into_iter().fold(FibScope::NONE, FibScope::union))
}

/// What `role` says of an instance.
#[derive(Clone, Copy)]
enum Role {
    Voter,
    Observer,
    Standby(Standby),
}

/// An instance with the places that later checks point at.
pub(crate) struct Placed<T> {
    /// What was read.
    pub(crate) value: T,
    /// The whole table.
    pub(crate) span: Range<usize>,
    /// What makes it unique: `name` or `address`. `None` where that was absent or wrong.
    pub(crate) key: Option<Range<usize>>,
    /// `limit.sessions`, one by one.
    pub(crate) sessions: Vec<Range<usize>>,
    /// What of `diversity` must fit other sections.
    pub(crate) diversity: Option<diversity::Places>,
    /// A peer's `bfd`, which names an instance.
    pub(crate) bfd: Option<Range<usize>>,
}

/// Reads one `[[instance]]`.
pub(crate) fn instance(value: Value<'_>, problems: &mut Problems) -> Option<Placed<Instance>> {
    let section = Section::open("[[instance]]", value, keys_of("instance"), problems)?;
    let name = name(&section, problems);
    let roles = [
        ("voter", Role::Voter),
        ("observer", Role::Observer),
        ("standby", Role::Standby(Standby::Cold)),
        ("warm-standby", Role::Standby(Standby::Warm)),
    ];
    let role = section.word("role", &roles, problems).unwrap_or(Role::Voter);
    let mut instance = Instance {
        name: name.unwrap_or_default().to_owned(),
        observer: matches!(role, Role::Observer),
        standby: if let Role::Standby(standby) = role { Some(standby) } else { None },
        kind: section.word("kind", &[Kind::Frr, Kind::Bird, Kind::OpenBgpd].map(|k| (k.name(), k)), problems),
        config_file: section.path("config", false, problems),
        version: version::read(&section, problems),
        root: section.path("root", false, problems),
        shim_library: section.path("shim_library", false, problems),
        command: command(&section, problems),
        env: env(&section, problems),
        user: section.text("user", "a user's name in quotes", problems).map(str::to_owned),
        fib_scope: fib_scope(&section, problems),
        ..Instance::default()
    };
    check_start(&section, &instance, problems);
    let sessions = section.value("limit").map_or_else(Vec::new, |v| limit(v, &mut instance, problems));
    if let Some(value) = section.value("environment") {
        environment::read(value, &mut instance, problems);
    }
    let diversity = section.value("diversity").and_then(|v| diversity::read(v, &mut instance, problems));
    Some(Placed {
        value: instance,
        span: value.span(),
        key: name.map(|_| section.span_of("name")),
        sessions,
        diversity,
        bfd: None,
    })
}

/// What goes with `kind`, with `command`, and with neither.
fn check_start(section: &Section<'_>, instance: &Instance, problems: &mut Problems) {
    let [kind, command, config, env] = ["kind", "command", "config", "env"].map(|key| section.value(key).is_some());
    if kind && command {
        let help = "a kind has its own command line; leave one of the two out";
        problems.at(section.span_of("command"), "`command` and `kind` exclude each other", help);
    }
    if kind && !config {
        let help = "add `config = \"/path\"`: the daemon's own configuration file";
        problems.at(section.span_of("kind"), "`kind` without `config`", help);
    }
    if config && !kind {
        let help = "it goes with `kind`; a `command` names its file itself";
        problems.at(section.span_of("config"), "`config` without `kind` has no effect", help);
    }
    check_root(section, instance, problems);
    if env && !command && !kind {
        let help = "virtd starts only instances that have a `kind` or a `command`; set it where the daemon is started";
        problems.at(section.span_of("env"), "`env` without `kind` or `command` has no effect", help);
    }
    if instance.kind == Some(Kind::OpenBgpd) && instance.user.is_some() {
        let help = "OpenBGPD starts as root and chooses users for its processes itself; leave it out";
        problems.at(section.span_of("user"), "`user` has no effect on OpenBGPD", help);
    }
    if instance.kind.is_some() && matches!(instance.name.as_str(), "." | "..") {
        let help = "an instance with a `kind` has a folder of its name";
        problems.at(section.span_of("name"), format!("`{}` cannot be a folder's name", instance.name), help);
    }
}

/// What goes with `root`.
fn check_root(section: &Section<'_>, instance: &Instance, problems: &mut Problems) {
    let has = |key: &str| section.value(key).is_some();
    if has("root") && !has("kind") {
        let help = "it goes with `kind`; a `command` may itself start something in another root";
        problems.at(section.span_of("root"), "`root` without `kind` has no effect", help);
    }
    if instance.root.as_ref().is_some_and(|root| root.components().count() < 2) {
        let help = "leave it out for the installed version";
        problems.at(section.span_of("root"), "`root` is the system's own", help);
    }
    if has("shim_library") && !has("kind") && !has("command") {
        let help = "virtd starts only instances that have a `kind` or a `command`; set LD_PRELOAD where it is started";
        problems.at(section.span_of("shim_library"), "`shim_library` without `kind` or `command` has no effect", help);
    }
    let path = instance.shim_library.as_deref().map(|p| p.to_string_lossy().into_owned());
    if path.is_some_and(|path| path.contains([' ', ':', '\t'])) {
        let help = "LD_PRELOAD takes no path with a space or colon in it";
        problems.at(section.span_of("shim_library"), "`shim_library` cannot be preloaded", help);
    }
}

fn name<'t>(section: &Section<'t>, problems: &mut Problems) -> Option<&'t str> {
    let help = "every instance needs a name: the daemon is started with HV_INSTANCE=name";
    section.require("name", help, problems);
    let name = section.text("name", "a name in quotes", problems)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > MAX_NAME || !name.chars().all(allowed) {
        let help = format!("expected at most {MAX_NAME} letters, digits, dashes, dots and underscores");
        problems.at(section.span_of("name"), format!("`{name}` cannot be an instance's name"), help);
        return None;
    }
    Some(name)
}

fn command(section: &Section<'_>, problems: &mut Problems) -> Vec<String> {
    let Some(value) = section.value("command") else { return Vec::new() };
    if let DeValue::String(line) = value.get_ref() {
        let words: Vec<String> = line.split_whitespace().map(|w| format!("{w:?}")).collect();
        let help = format!("expected an array, one argument each: command = [{}]", words.join(", "));
        problems.at(value.span(), "`command` is text", help);
        return Vec::new();
    }
    let argument = |value: Value<'_>, problems: &mut Problems| match value.get_ref() {
        // An empty argument is legal everywhere but in front.
        DeValue::String(s) if s.is_empty() => Some(String::new()),
        _ => reader::text("command", value, "an argument in quotes", problems).map(str::to_owned),
    };
    let expected = "arguments, like [\"/usr/lib/frr/bgpd\", \"-f\", \"/etc/frr/bgpd.conf\"]";
    let before = problems.is_empty();
    let command = section.array("command", expected, problems, argument).unwrap_or_default();
    if before && problems.is_empty() && command.first().is_none_or(String::is_empty) {
        let help = "leave the key out for an instance that something else starts";
        problems.at(value.span(), "`command` names no program", help);
    }
    command
}

fn env(section: &Section<'_>, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(value) = section.value("env") else { return env };
    let DeValue::Table(table) = value.get_ref() else {
        problems.at(value.span(), "`env` is not a table", "expected { NAME = \"value\" }");
        return env;
    };
    for (key, value) in table.iter() {
        let name = key.get_ref().as_ref();
        if matches!(name, "HV_SOCKET" | "HV_INSTANCE") {
            problems.at(key.span(), format!("virtd sets {name} itself"), "leave it out");
        } else if name.is_empty() || name.contains(['=', '\0']) {
            problems.at(key.span(), format!("{name:?} cannot be an environment variable"), "expected a name without =");
        } else if let DeValue::String(s) = value.get_ref() {
            if s.contains('\0') {
                problems.at(value.span(), format!("`{name}` holds a NUL character"), "expected text without it");
            }
            env.insert(name.to_owned(), s.clone().into_owned());
        } else {
            problems.at(value.span(), format!("`{name}` is not text"), "expected a value in quotes");
        }
    }
    env
}

/// Reads `limit`; returns the places of its sessions.
fn limit(value: Value<'_>, instance: &mut Instance, problems: &mut Problems) -> Vec<Range<usize>> {
    let Some(section) = Section::open("limit", value, names::LIMIT_KEYS, problems) else { return Vec::new() };
    let sessions = section.array("sessions", "peers' addresses", problems, |v, problems| {
        reader::unicast("sessions", v, problems).map(|a| (a, v.span()))
    });
    let (addresses, places) = sessions.unwrap_or_default().into_iter().unzip();
    instance.limit_sessions = addresses;
    let families = section.array("families", "families", problems, family);
    instance.limit_families = families.unwrap_or_default();
    instance.limit_prefixes =
        section.array("prefixes", "prefixes", problems, |v, p| reader::prefix("prefixes", v, p)).unwrap_or_default();
    for key in names::LIMIT_KEYS {
        if section.value(key).is_some_and(|v| matches!(v.get_ref(), DeValue::Array(a) if a.is_empty())) {
            let help = "an empty list would limit nothing; leave the key out";
            problems.at(section.span_of(key), format!("`{key}` names nothing"), help);
        }
    }
    places
}

fn family(value: Value<'_>, problems: &mut Problems) -> Option<Family> {
    let given = reader::text("families", value, "\"ipv4-unicast\" or \"ipv6-unicast\"", problems)?;
    reader::one_of("families", given, value.span(), names::FAMILIES, problems)
}

/// Reads one `[[peer]]`.
pub(crate) fn peer(value: Value<'_>, allow_own_as: bool, problems: &mut Problems) -> Option<Placed<Peer>> {
    let section = Section::open("[[peer]]", value, keys_of("peer"), problems)?;
    section.require("address", "every peer needs the address its session comes from", problems);
    let asn = asn(&section, problems);
    let description = section.text("description", "text", problems).map(str::to_owned);
    let allow_own_as = section.boolean("allow_own_as", problems).unwrap_or(allow_own_as);
    let address = reader::unicast("address", section.value("address")?, problems)?;
    let bfd = section.text("bfd", "an instance's name in quotes", problems).map(str::to_owned);
    let at = bfd.is_some().then(|| section.span_of("bfd"));
    let port = port(&section, problems);
    let peer = Peer { address, port, asn, description, allow_own_as, bfd };
    let (span, key) = (value.span(), Some(section.span_of("address")));
    Some(Placed { value: peer, span, key, sessions: Vec::new(), diversity: None, bfd: at })
}
