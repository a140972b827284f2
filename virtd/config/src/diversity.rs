//! `diversity` of an instance: how what it is given differs in time from what the others are given
//! (papers/001 section 2.2).

use super::names::DIVERSITY_KEYS;
use super::reader::{Problems, Section, Value, integer};
use super::{Config, Instance, OpenMode};
use std::ops::Range;
use toml::de::DeValue;
use wire::bgp::Prefix;

/// A message is held back for a minute at most: nobody waits longer for a vote, and the queues stay
/// small.
const MAX_DELAY_MS: u32 = 60_000;

/// A day: who wants to wait longer wants nothing.
const MAX_WAIT_S: u32 = 86_400;

/// How the delays of one instance are spread between the least and the greatest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Distribution {
    /// Each as likely as any other.
    #[default]
    Uniform,
    /// Most of them short: half within an eighth of the way to the greatest, at which the rest is
    /// cut off.
    Exponential,
}

/// `delay_ms` and `distribution`: how long each UPDATE is held back. Milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delay {
    /// The least.
    pub min_ms: u32,
    /// The greatest; no message is held back longer, however many come.
    pub max_ms: u32,
    /// What lies between.
    pub distribution: Distribution,
}

/// `connect_order`: in which order an instance that begins to listen is given its legs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConnectOrder {
    /// In which the sessions were first heard of.
    #[default]
    Given,
    /// The other way round.
    Reversed,
    /// Another one each time, by the seed.
    Shuffled,
}

/// `diversity` of an `[[instance]]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diversity {
    /// `seed`: the same one gives the same times again. Left out, it is made of the instance's
    /// name.
    pub seed: u64,
    /// `delay_ms`, `distribution`: `None` holds nothing back.
    pub delay: Option<Delay>,
    /// `connect_delay_ms`: the least and the greatest that a connection comes later to it; `None`
    /// is at once.
    pub connect_delay_ms: Option<(u32, u32)>,
    /// `connect_order`.
    pub connect_order: ConnectOrder,
    /// `readvertise_s`: the least and the greatest between two routes that it alone is told to be
    /// gone and there again; `None` is never.
    pub readvertise_s: Option<(u32, u32)>,
    /// `reconnect_s`: the least and the greatest between two connections of it that are closed;
    /// `None` is never.
    pub reconnect_s: Option<(u32, u32)>,
    /// `link_reset_ms`: an address that comes or goes is a link that goes down and up again, so
    /// much later; `None` is never.
    pub link_reset_ms: Option<(u32, u32)>,
    /// `blocks`: of each family that is named, it is given only what lies in these; empty is
    /// everything.
    pub blocks: Vec<Prefix>,
}

impl Distribution {
    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Exponential => "exponential",
        }
    }
}

impl Diversity {
    /// Whether the instance is given routes to `prefix`.
    pub fn is_given(&self, prefix: &Prefix) -> bool {
        let mut named = self.blocks.iter().filter(|b| b.family() == prefix.family()).peekable();
        named.peek().is_none() || named.any(|b| b.covers(prefix))
    }
}

impl ConnectOrder {
    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            ConnectOrder::Given => "given",
            ConnectOrder::Reversed => "reversed",
            ConnectOrder::Shuffled => "shuffled",
        }
    }
}

impl std::fmt::Display for Delay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.min_ms == self.max_ms {
            true => write!(f, "UPDATEs held back {} ms", self.min_ms),
            false => write!(f, "UPDATEs held back {} to {} ms, {}", self.min_ms, self.max_ms, self.distribution.name()),
        }
    }
}

impl std::fmt::Display for Diversity {
    /// What it does, in words, with the seed that does it again.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(delay) = &self.delay {
            write!(f, "{delay}, ")?;
        }
        if let Some((least, greatest)) = self.connect_delay_ms {
            write!(f, "connections held back {least} to {greatest} ms, ")?;
        }
        if self.connect_order != ConnectOrder::Given {
            write!(f, "order of connections {}, ", self.connect_order.name())?;
        }
        if let Some((least, greatest)) = self.readvertise_s {
            write!(f, "a route withdrawn and announced again every {least} to {greatest} s, ")?;
        }
        if let Some((least, greatest)) = self.reconnect_s {
            write!(f, "a connection closed every {least} to {greatest} s, ")?;
        }
        if let Some((least, greatest)) = self.link_reset_ms {
            write!(f, "links reset {least} to {greatest} ms after a change of their addresses, ")?;
        }
        if !self.blocks.is_empty() {
            let blocks: Vec<String> = self.blocks.iter().map(ToString::to_string).collect();
            write!(f, "given only {}, ", blocks.join(" "))?;
        }
        write!(f, "seed {}", self.seed)
    }
}

/// Where times stand that must fit others of the file.
pub(crate) struct Places {
    delay: Range<usize>,
    connect_delay: Range<usize>,
    link_reset: Range<usize>,
}

/// Reads `diversity` into `instance`.
pub(super) fn read(value: Value<'_>, instance: &mut Instance, problems: &mut Problems) -> Option<Places> {
    let section = Section::open("diversity", value, DIVERSITY_KEYS, problems)?;
    let seed = section.number("seed", 0..=u32::MAX, "", problems).map(u64::from);
    let distributions = [Distribution::Uniform, Distribution::Exponential].map(|d| (d.name(), d));
    let distribution = section.word("distribution", &distributions, problems);
    let times = span_of_time(&section, "delay_ms", MAX_DELAY_MS, " milliseconds", problems);
    if distribution.is_some() && section.value("delay_ms").is_none() {
        let help = "add `delay_ms = [1, 10]`, or leave it out";
        problems.at(section.span_of("distribution"), "`distribution` without `delay_ms` has no effect", help);
    }
    let delay = times.map(|(min_ms, max_ms)| Delay { min_ms, max_ms, distribution: distribution.unwrap_or_default() });
    let orders = [ConnectOrder::Given, ConnectOrder::Reversed, ConnectOrder::Shuffled].map(|o| (o.name(), o));
    instance.diversity = Some(Diversity {
        seed: seed.unwrap_or_else(|| seed_of(&instance.name)),
        delay,
        connect_delay_ms: span_of_time(&section, "connect_delay_ms", MAX_DELAY_MS, " milliseconds", problems),
        connect_order: section.word("connect_order", &orders, problems).unwrap_or_default(),
        readvertise_s: span_of_time(&section, "readvertise_s", MAX_WAIT_S, " seconds", problems),
        reconnect_s: span_of_time(&section, "reconnect_s", MAX_WAIT_S, " seconds", problems),
        link_reset_ms: span_of_time(&section, "link_reset_ms", MAX_DELAY_MS, " milliseconds", problems),
        blocks: blocks(&section, problems),
    });
    Some(Places {
        delay: section.span_of("delay_ms"),
        connect_delay: section.span_of("connect_delay_ms"),
        link_reset: section.span_of("link_reset_ms"),
    })
}

fn blocks(section: &Section<'_>, problems: &mut Problems) -> Vec<Prefix> {
    let one = |v: Value<'_>, problems: &mut Problems| super::reader::prefix("blocks", v, problems);
    let blocks = section.array("blocks", "prefixes", problems, one);
    if section.value("blocks").is_some_and(|v| matches!(v.get_ref(), DeValue::Array(a) if a.is_empty())) {
        problems.at(section.span_of("blocks"), "`blocks` names nothing", "leave the key out for everything");
    }
    blocks.unwrap_or_default()
}

/// A seed that differs from instance to instance and is the same at every start (FNV-1a, cut to
/// what the file can say).
fn seed_of(name: &str) -> u64 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    u64::from(hash)
}

/// One time, or the least and the greatest of several: `5` or `[1, 10]`.
fn span_of_time(
    section: &Section<'_>,
    key: &str,
    most: u32,
    unit: &str,
    problems: &mut Problems,
) -> Option<(u32, u32)> {
    let value = section.value(key)?;
    if let DeValue::Integer(_) = value.get_ref() {
        return section.number(key, 0..=most, unit, problems).map(|n| (n, n));
    }
    let expected = format!("the least and the greatest, like [1, 10], each from 0 to {most}{unit}");
    let one = |v: Value<'_>, problems: &mut Problems| {
        let number = match v.get_ref() {
            DeValue::Integer(n) => integer(n).and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= most),
            _ => None,
        };
        if number.is_none() {
            problems.at(v.span(), format!("`{key}` is out of range"), format!("expected {expected}"));
        }
        number
    };
    let good = problems.count();
    let numbers = section.array(key, &expected, problems, one)?;
    match numbers[..] {
        _ if problems.count() > good => None,
        [least, greatest] if least <= greatest => Some((least, greatest)),
        [least, greatest] => {
            let help = format!("write [{greatest}, {least}]");
            problems.at(value.span(), format!("`{key}` begins with the greater one"), help);
            None
        }
        _ => {
            problems.at(value.span(), format!("`{key}` is not two numbers"), format!("expected {expected}"));
            None
        }
    }
}

/// T must leave a delayed instance time to answer: it is late by the delay of what it is told and,
/// where that is told by several peers, by that of each in turn.
pub(super) fn check(config: &Config, instance: &Instance, places: Option<&Places>, problems: &mut Problems) {
    let (Some(diversity), Some(places)) = (&instance.diversity, places) else { return };
    if config.open == OpenMode::Native {
        let help = "native is one instance whose bytes pass verbatim; leave it out";
        problems.at(places.delay.clone(), "`diversity` with `open = \"native\"` has no effect", help);
    }
    if diversity.link_reset_ms.is_some() && config.fib.is_none() {
        let help = "without [fib] instances have the kernel's own notifications; add [fib], or leave it out";
        problems.at(places.link_reset.clone(), "`link_reset_ms` without [fib] has no effect", help);
    }
    let open_wait_ms = config.timers.open_wait_ms;
    if let Some((_, most)) = diversity.connect_delay_ms.filter(|(_, most)| *most >= open_wait_ms) {
        let message = format!("connections come {most} ms late, and `open_wait_s` is {}", open_wait_ms / 1000);
        let help = "sessions would be opened without the instance: it must be less";
        problems.at(places.connect_delay.clone(), message, help);
    }
    let Some(delay) = diversity.delay else { return };
    let t_ms = config.vote.t_ms;
    if delay.max_ms.saturating_mul(2) >= t_ms {
        let message = format!("{} is told things {} ms late, and T is {t_ms} ms", instance.name, delay.max_ms);
        let help = format!("T must be more than twice the delay: set `t_ms` in [vote] above {}", delay.max_ms * 2);
        problems.at(places.delay.clone(), message, help);
    }
}
