//! `[[bmp]]`: to which collectors virtd-monitor tells the routing tables (RFC 7854). virtd checks the
//! sections with all others, and does nothing with them.

use super::names::keys_of;
use super::reader::{self, Problems, Section, Value};
use super::sections::Placed;
use std::net::{IpAddr, SocketAddr};

/// Collectors at most: each costs virtd memory, and it takes no more readers of its tables.
pub const MAX_COLLECTORS: usize = 8;
/// How often the statistics are told unless the file says otherwise.
const DEFAULT_STATISTICS_S: u32 = 60;

/// `[[bmp]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collector {
    /// `collector`: where it listens.
    pub address: SocketAddr,
    /// `source`: the address that it is to see us come from; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
    /// `instances`: what each instance would tell each peer, too.
    pub instances: bool,
    /// `statistics_s`: how often the statistics are told, seconds; 0: never.
    pub statistics_s: u32,
}

const EXPECTED: &str = "an address with a port in quotes, like \"192.0.2.1:5000\" or \"[2001:db8::1]:5000\"";

/// Reads one section.
pub(crate) fn read(value: Value<'_>, problems: &mut Problems) -> Option<Placed<Collector>> {
    let section = Section::open("[[bmp]]", value, keys_of("bmp"), problems)?;
    section.require("collector", "add where the collector listens: collector = \"192.0.2.1:5000\"", problems);
    let instances = section.boolean("instances", problems).unwrap_or(false);
    let statistics_s = section.number("statistics_s", 0..=86_400, " (seconds)", problems);
    let statistics_s = statistics_s.unwrap_or(DEFAULT_STATISTICS_S);
    let source = section.value("source").and_then(|v| reader::unicast("source", v, problems));
    let given = section.text("collector", EXPECTED, problems)?;
    let span = section.span_of("collector");
    let address = given.parse::<SocketAddr>().ok();
    let Some(address) = address.filter(|a| a.port() != 0 && !a.ip().is_unspecified() && !a.ip().is_multicast()) else {
        problems.at(span, format!("`{given}` is not where a collector listens"), format!("expected {EXPECTED}"));
        return None;
    };
    if source.is_some_and(|source| source.is_ipv4() != address.is_ipv4()) {
        let help = "expected an IPv4 address for an IPv4 collector, an IPv6 address for an IPv6 one";
        problems.at(section.span_of("source"), "`source` is of another family than `collector`", help);
    }
    let collector = Collector { address, source, instances, statistics_s };
    Some(Placed {
        value: collector,
        span: value.span(),
        key: Some(span),
        sessions: Vec::new(),
        diversity: None,
        bfd: None,
    })
}

/// What concerns several of them.
pub(crate) fn check(collectors: &[Placed<Collector>], problems: &mut Problems) {
    for (n, c) in collectors.iter().enumerate() {
        let span = c.key.clone().unwrap_or(c.span.clone());
        if collectors.iter().take(n).any(|other| other.value.address == c.value.address) {
            problems.at(span, format!("{} is listed twice", c.value.address), "leave out one of the two sections");
        } else if n == MAX_COLLECTORS {
            problems.at(span, format!("more than {MAX_COLLECTORS} collectors"), "leave this and the following out");
        }
    }
}
