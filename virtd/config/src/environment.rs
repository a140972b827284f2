//! `environment` of an instance: the surroundings of its processes (papers/000 section 3.2,
//! "different execution environments").

use super::Instance;
use super::names::ENVIRONMENT_KEYS;
use super::reader::{Problems, Section, Value, integer};
use toml::de::DeValue;

/// The kernel takes no longer string among a program's variables (execve(2), MAX_ARG_STRLEN: 32
/// pages with the name and a NUL).
const MAX_STACK_OFFSET: u32 = 65_536;
/// Processors have numbers below this (CPU_SETSIZE).
const MAX_CPU: u32 = 1023;

/// `environment` of an `[[instance]]` that virtd starts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Environment {
    /// `malloc_perturb`: memory that is taken is filled with the complement of this octet, memory
    /// that is given back with it, by the GNU C library. What a daemon reads without having written
    /// it is another value in each instance.
    pub malloc_perturb: Option<u8>,
    /// `stack_offset`: octets by which the stack begins lower.
    pub stack_offset: u32,
    /// `aslr = false`: the kernel lays out the memory the same way at each start.
    pub fixed_layout: bool,
    /// `cpus`: the processors it may run on; empty is all that virtd may.
    pub cpus: Vec<u16>,
    /// `nice`: how much it yields to others, 0 to 19.
    pub nice: u8,
}

impl std::fmt::Display for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.malloc_perturb.map(|n| format!("malloc perturbed by {n}")));
        parts.extend((self.stack_offset > 0).then(|| format!("stack {} octets lower", self.stack_offset)));
        parts.extend(self.fixed_layout.then(|| "memory laid out the same way each time".to_owned()));
        parts.extend((!self.cpus.is_empty()).then(|| {
            let numbers: Vec<String> = self.cpus.iter().map(ToString::to_string).collect();
            format!("on processor {}", numbers.join(", "))
        }));
        parts.extend((self.nice > 0).then(|| format!("nice {}", self.nice)));
        f.write_str(&parts.join(", "))
    }
}

/// Reads `environment` into `instance`.
pub(super) fn read(value: Value<'_>, instance: &mut Instance, problems: &mut Problems) {
    let Some(section) = Section::open("environment", value, ENVIRONMENT_KEYS, problems) else { return };
    if !instance.is_ours() {
        let help =
            "virtd starts only instances that have a `kind` or a `command`; change it where the daemon is started";
        problems.at(value.span(), "`environment` without `kind` or `command` has no effect", help);
    }
    let octet = |n: u32| u8::try_from(n).ok();
    instance.environment = Environment {
        malloc_perturb: section.number("malloc_perturb", 1..=255, "", problems).and_then(octet),
        stack_offset: section.number("stack_offset", 1..=MAX_STACK_OFFSET, " octets", problems).unwrap_or(0),
        fixed_layout: section.boolean("aslr", problems) == Some(false),
        cpus: cpus(&section, problems),
        nice: section.number("nice", 0..=19, "", problems).and_then(octet).unwrap_or(0),
    };
    for (name, key) in [("MALLOC_PERTURB_", "malloc_perturb"), (STACK_OFFSET, "stack_offset")] {
        if section.value(key).is_some() && instance.env.contains_key(name) {
            problems.at(section.span_of(key), format!("`{key}` and {name} in `env`"), "leave one of the two out");
        }
    }
}

/// The variable whose length moves the stack: the kernel puts a program's variables where its stack
/// begins.
pub const STACK_OFFSET: &str = "HV_STACK_OFFSET";

fn cpus(section: &Section<'_>, problems: &mut Problems) -> Vec<u16> {
    let expected = "numbers of processors, like [0, 1]";
    let one = |v: Value<'_>, problems: &mut Problems| {
        let number = match v.get_ref() {
            DeValue::Integer(n) => integer(n).and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= MAX_CPU),
            _ => None,
        };
        if number.is_none() {
            problems.at(v.span(), "no number of a processor", format!("expected {expected}, each up to {MAX_CPU}"));
        }
        number.and_then(|n| u16::try_from(n).ok())
    };
    let mut cpus = section.array("cpus", expected, problems, one).unwrap_or_default();
    if section.value("cpus").is_some_and(|v| matches!(v.get_ref(), DeValue::Array(a) if a.is_empty())) {
        problems.at(section.span_of("cpus"), "`cpus` names no processor", "leave the key out for all of them");
    }
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}
