//! Words of the configuration file: which keys each section has, and the names of path attributes
//! and families.

use wire::bgp::Family;
use wire::bgp::update::attr;

/// The sections and their keys, in the order in which docs/CONFIGURATION.md explains them. A key that
/// is not here is an error.
pub const SECTIONS: &[(&str, &[&str])] = &[
    (
        "router",
        &[
            "asn",
            "router_id",
            "port",
            "listen",
            "user",
            "group",
            "shim_socket",
            "shim_group",
            "control_socket",
            "control_mode",
            "control_group",
            "control_socket_ro",
            "control_ro_mode",
            "control_ro_group",
            "state",
            "event_log",
            "versions",
            "open",
            "inbound",
            "accept_any",
            "allow_own_as",
            "allow_reserved_ranges",
            "confederation",
            "confederation_members",
            "native_ports",
            "ignore_attributes",
        ],
    ),
    ("vote", &["strategy", "k", "t_ms", "min_voters"]),
    ("timers", &["open_wait_s", "grace_s", "leg_hold_s", "fault_threshold_s"]),
    (
        "faults",
        &[
            "action",
            "min_keys",
            "one_key_s",
            "split_keys",
            "leg_losses",
            "leg_losses_s",
            "restart_min_s",
            "restart_max_s",
            "restart_limit",
            "restart_limit_s",
            "cpu_percent",
            "cpu_s",
            "memory_mib",
            "poison_restarts",
        ],
    ),
    ("recorder", &["folder", "minutes", "memory_mib", "disk_mib"]),
    ("fib", &["protocol", "metric", "on_exit", "sweep_s", "reconcile_s", "answer_ahead"]),
    ("http", &["listen"]),
    ("bmp", &["collector", "source", "instances", "statistics_s"]),
    ("alert", &["events", "severity", "command", "url", "at_most", "timeout_s"]),
    ("syslog", &["target", "facility", "severity"]),
    ("journald", &["socket", "severity"]),
    (
        "instance",
        &[
            "name",
            "role",
            "kind",
            "config",
            "version",
            "root",
            "shim_library",
            "command",
            "env",
            "user",
            "limit",
            "diversity",
            "environment",
            "fib_scope",
        ],
    ),
    ("peer", &["address", "port", "asn", "description", "allow_own_as", "bfd"]),
];

/// The keys of an instance's `diversity`.
pub const DIVERSITY_KEYS: &[&str] = &[
    "seed",
    "delay_ms",
    "distribution",
    "connect_delay_ms",
    "connect_order",
    "readvertise_s",
    "reconnect_s",
    "link_reset_ms",
    "blocks",
];

/// Keys of `action` of `[faults]`, where it is a table: kinds of faults.
pub const ACTION_KEYS: &[&str] = &["wrong", "silent", "absent", "flapping", "large", "flooding"];

/// The keys of an instance's `environment`.
pub const ENVIRONMENT_KEYS: &[&str] = &["malloc_perturb", "stack_offset", "aslr", "cpus", "nice"];

/// Facilities of syslog by name (RFC 5424, section 6.2.1), those that are for daemons.
pub const FACILITIES: &[(&str, u8)] = &[
    ("user", 1),
    ("daemon", 3),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// The keys of an instance's `limit`.
pub const LIMIT_KEYS: &[&str] = &["sessions", "families", "prefixes"];

/// Path attributes by the names people use (IANA's, and the short forms of daemons' documentation).
const ATTRIBUTES: &[(&str, u8)] = &[
    ("ORIGIN", attr::ORIGIN),
    ("AS_PATH", attr::AS_PATH),
    ("NEXT_HOP", attr::NEXT_HOP),
    ("MULTI_EXIT_DISC", attr::MULTI_EXIT_DISC),
    ("MED", attr::MULTI_EXIT_DISC),
    ("LOCAL_PREF", attr::LOCAL_PREF),
    ("ATOMIC_AGGREGATE", attr::ATOMIC_AGGREGATE),
    ("AGGREGATOR", attr::AGGREGATOR),
    ("COMMUNITIES", attr::COMMUNITIES),
    ("COMMUNITY", attr::COMMUNITIES),
    ("ORIGINATOR_ID", attr::ORIGINATOR_ID),
    ("CLUSTER_LIST", attr::CLUSTER_LIST),
    ("MP_REACH_NLRI", attr::MP_REACH_NLRI),
    ("MP_UNREACH_NLRI", attr::MP_UNREACH_NLRI),
    ("EXTENDED_COMMUNITIES", attr::EXTENDED_COMMUNITIES),
    ("AS4_PATH", attr::AS4_PATH),
    ("AS4_AGGREGATOR", attr::AS4_AGGREGATOR),
    ("PMSI_TUNNEL", attr::PMSI_TUNNEL),
    ("TUNNEL_ENCAP", attr::TUNNEL_ENCAP),
    ("IPV6_EXTENDED_COMMUNITIES", attr::IPV6_EXTENDED_COMMUNITIES),
    ("AIGP", attr::AIGP),
    ("LARGE_COMMUNITY", attr::LARGE_COMMUNITY),
    ("LARGE_COMMUNITIES", attr::LARGE_COMMUNITY),
    ("OTC", attr::ONLY_TO_CUSTOMER),
    ("ONLY_TO_CUSTOMER", attr::ONLY_TO_CUSTOMER),
    ("PREFIX_SID", attr::PREFIX_SID),
    ("ATTR_SET", attr::ATTR_SET),
];

/// The names a path attribute can be given by.
pub fn attribute_names() -> impl Iterator<Item = &'static str> {
    ATTRIBUTES.iter().map(|(name, _)| *name)
}

/// A path attribute's code by its name; case, `-` and `_` do not matter.
pub fn attribute_code(name: &str) -> Option<u8> {
    let name = name.to_uppercase().replace('-', "_");
    ATTRIBUTES.iter().find(|(known, _)| *known == name).map(|(_, code)| *code)
}

/// A path attribute's name, or its number.
pub fn attribute_name(code: u8) -> String {
    ATTRIBUTES.iter().find(|(_, c)| *c == code).map_or_else(|| code.to_string(), |(name, _)| (*name).to_owned())
}

/// Families a limit can name.
pub const FAMILIES: &[(&str, Family)] =
    &[("ipv4-unicast", Family::IPV4_UNICAST), ("ipv6-unicast", Family::IPV6_UNICAST)];

/// The keys of a section; empty for a section that is not known.
pub fn keys_of(section: &str) -> &'static [&'static str] {
    SECTIONS.iter().find(|(name, _)| *name == section).map_or(&[], |(_, keys)| keys)
}

/// The sections that have this key.
pub fn sections_with(key: &str) -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().filter(move |(_, keys)| keys.contains(&key)).map(|(name, _)| *name)
}
