//! `[[alert]]`, `[syslog]` and `[journald]`: what virtd-monitor does with events. virtd checks the
//! sections with all others, and does nothing with them.

use super::diagnostic::any_of;
use super::names::{FACILITIES, keys_of};
use super::reader::{self, Problems, Section, Value};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

/// More hooks than these are a mistake.
pub(crate) const MAX_ALERTS: usize = 16;
/// Where the system's syslog daemon listens.
pub const DEFAULT_SYSLOG: &str = "/dev/log";
/// Where journald listens for entries with fields.
pub const DEFAULT_JOURNAL: &str = "/run/systemd/journal/socket";
/// The port of syslog, over UDP (RFC 5426) and TCP (RFC 6587).
const SYSLOG_PORT: u16 = 514;
/// The port of HTTP.
const HTTP_PORT: u16 = 80;

/// How much an operator should care, as events have it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Ordinary life.
    #[default]
    Info,
    /// Something is wrong and was masked.
    Warning,
    /// A peer is affected, or the next fault would not be masked.
    Alarm,
}

const LEVELS: &[(&str, Level)] = &[("info", Level::Info), ("warning", Level::Warning), ("alarm", Level::Alarm)];

impl Level {
    /// What an event says; the highest where it is none that there is, since it is somebody's news.
    pub fn of(severity: &str) -> Level {
        LEVELS.iter().find(|(word, _)| *word == severity).map_or(Level::Alarm, |(_, level)| *level)
    }

    /// As it is written.
    pub fn word(self) -> &'static str {
        LEVELS.iter().find(|(_, level)| *level == self).map_or("alarm", |(word, _)| word)
    }
}

/// `[[alert]]`: what is done on some events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alert {
    /// `events`: the kinds; empty is all.
    pub events: Vec<String>,
    /// `severity`: of those with this one or a worse.
    pub severity: Level,
    /// `command` or `url`.
    pub hook: Hook,
    /// `at_most`: so often within a minute; the rest is counted, and told in one.
    pub at_most: u32,
    /// `timeout_s`: how long it may take, each time.
    pub timeout: Duration,
}

/// What an alert does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hook {
    /// Runs a program with these arguments; the first is its path.
    Command(Vec<String>),
    /// Posts to this place.
    Url(Url),
}

/// A place for HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    /// A name or an address; of an IPv6 address without its brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path and what follows it.
    pub path: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", authority(&self.host, self.port, HTTP_PORT), self.path)
    }
}

impl Url {
    /// What the header Host says.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port, HTTP_PORT)
    }
}

fn authority(host: &str, port: u16, usual: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    if port == usual { host } else { format!("{host}:{port}") }
}

/// `[syslog]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Syslog {
    /// `target`.
    pub target: Target,
    /// `facility`: its number (RFC 5424, section 6.2.1).
    pub facility: u8,
    /// `severity`: events with this one or a worse.
    pub severity: Level,
}

/// Where syslog messages go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The datagram socket of this machine's daemon.
    Local(PathBuf),
    /// A datagram for each message (RFC 5426), to a host and a port.
    Udp(String, u16),
    /// A stream, each message with its length before it (RFC 6587, section 3.4.1).
    Tcp(String, u16),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Local(path) => write!(f, "{}", path.display()),
            Target::Udp(host, port) => write!(f, "udp://{}", authority(host, *port, 0)),
            Target::Tcp(host, port) => write!(f, "tcp://{}", authority(host, *port, 0)),
        }
    }
}

/// `[journald]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journald {
    /// `socket`.
    pub socket: PathBuf,
    /// `severity`: events with this one or a worse.
    pub severity: Level,
}

/// Reads one `[[alert]]`.
pub(crate) fn alert(value: Value<'_>, problems: &mut Problems) -> Option<Alert> {
    let section = Section::open("[[alert]]", value, keys_of("alert"), problems)?;
    let events = events(&section, problems);
    let severity = severity(&section, problems);
    if section.value("events").is_none() && section.value("severity").is_none() {
        let help = "add `events = [\"instance-faulty\"]`, or `severity = \"alarm\"` for all that are as bad";
        problems.at(value.span(), "[[alert]] does not say on which events", help);
    }
    let command = command(&section, problems);
    let url = section.value("url").and_then(|value| url(value, problems));
    let given = ["command", "url"].map(|key| section.value(key).is_some());
    let hook = match given {
        [true, true] => {
            let help = "one of them; write a second [[alert]] for the other";
            problems.at(section.span_of("url"), "[[alert]] has a `command` and a `url`", help);
            None
        }
        [false, false] => {
            let help = "add `command = [\"/usr/local/bin/page\"]`, or `url = \"http://192.0.2.1/hook\"`";
            problems.at(value.span(), "[[alert]] does not say what to do", help);
            None
        }
        _ => command.map(Hook::Command).or(url.map(Hook::Url)),
    };
    let at_most = section.number("at_most", 1..=600, " a minute", problems).unwrap_or(10);
    let seconds = section.number("timeout_s", 1..=300, " seconds", problems).unwrap_or(10);
    Some(Alert { events, severity, hook: hook?, at_most, timeout: Duration::from_secs(seconds.into()) })
}

fn severity(section: &Section<'_>, problems: &mut Problems) -> Level {
    section.word("severity", LEVELS, problems).unwrap_or_default()
}

fn events(section: &Section<'_>, problems: &mut Problems) -> Vec<String> {
    let kinds: Vec<(&str, &str)> = virtd_api::kinds().map(|kind| (kind, kind)).collect();
    let expected = "kinds of events in quotes, like [\"instance-faulty\", \"session-ended\"]";
    let listed = section.array("events", expected, problems, |value, problems| {
        let given = reader::text("events", value, expected, problems)?;
        if !kinds.iter().any(|(kind, _)| *kind == given) {
            let help = "docs/EVENTS.md, \"Events\", has all of them".to_owned();
            let help = reader::with_nearest(help, given, kinds.iter().map(|(kind, _)| *kind));
            problems.at(value.span(), format!("there is no kind of event `{given}`"), help);
            return None;
        }
        Some((given.to_owned(), value.span()))
    });
    let Some(listed) = listed else { return Vec::new() };
    if listed.is_empty() && problems.is_empty() {
        problems.at(section.span_of("events"), "`events` names none", "leave the key out for all, with `severity`");
    }
    let mut events = Vec::new();
    for (kind, span) in listed {
        if events.contains(&kind) {
            problems.at(span, format!("`{kind}` is listed twice"), "leave it out here");
        } else {
            events.push(kind);
        }
    }
    events
}

fn command(section: &Section<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let expected = "a program and its arguments, like [\"/usr/local/bin/page\", \"noc\"]";
    let command = section.array("command", expected, problems, |value, problems| {
        reader::text("command", value, expected, problems).map(str::to_owned)
    })?;
    match command.first() {
        Some(program) if program.starts_with('/') => Some(command),
        Some(program) => {
            let message = format!("`{program}` is not an absolute path");
            problems.at(
                section.span_of("command"),
                message,
                "expected a path that starts with /: there is no search path",
            );
            None
        }
        None if problems.is_empty() => {
            problems.at(section.span_of("command"), "`command` is empty", format!("expected {expected}"));
            None
        }
        None => None,
    }
}

const EXPECTED_URL: &str = "a place like \"http://192.0.2.1:8080/hook\"";

fn url(value: Value<'_>, problems: &mut Problems) -> Option<Url> {
    let given = reader::text("url", value, EXPECTED_URL, problems)?;
    let mut refuse = |message: String, help: &str| {
        problems.at(value.span(), message, help);
        None
    };
    if given.starts_with("https://") {
        let help =
            "virtd-monitor has no TLS: use a `command` that has (curl --data @- URL), or a proxy on this machine";
        return refuse(format!("`{given}` is for HTTPS"), help);
    }
    let Some(rest) = given.strip_prefix("http://") else {
        return refuse(format!("`{given}` is no place for HTTP"), &format!("expected {EXPECTED_URL}"));
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (place, path) = rest.split_at(end);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let wrong = place.contains('@') || path.contains(|c: char| !c.is_ascii_graphic() || c == '#');
    match host_and_port(place, HTTP_PORT).filter(|_| !wrong) {
        Some((host, port)) => Some(Url { host, port, path }),
        None => refuse(format!("`{given}` is no place for HTTP"), &format!("expected {EXPECTED_URL}")),
    }
}

/// `name`, `name:80`, `192.0.2.1:80`, `[2001:db8::1]:80`.
fn host_and_port(text: &str, usual: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let port = match port? {
        "" if !text.ends_with(':') => usual,
        port => port.parse().ok().filter(|port| *port != 0)?,
    };
    (!host.is_empty() && host.chars().all(known)).then(|| (host.to_owned(), port))
}

/// Reads `[syslog]`.
pub(crate) fn syslog(value: Value<'_>, problems: &mut Problems) -> Option<Syslog> {
    let section = Section::open("[syslog]", value, keys_of("syslog"), problems)?;
    let target = match section.value("target") {
        None => Some(Target::Local(DEFAULT_SYSLOG.into())),
        Some(value) => target(value, problems),
    };
    let facility = section.word("facility", FACILITIES, problems).unwrap_or(3);
    let severity = severity(&section, problems);
    Some(Syslog { target: target?, facility, severity })
}

fn target(value: Value<'_>, problems: &mut Problems) -> Option<Target> {
    let expected = format!("{} in quotes", any_of(["/dev/log", "udp://192.0.2.1:514", "tcp://192.0.2.1:514"]));
    let DeValue::String(_) = value.get_ref() else {
        reader::text("target", value, &expected, problems);
        return None;
    };
    let given = reader::text("target", value, &expected, problems)?;
    let remote = |rest: &str| host_and_port(rest, SYSLOG_PORT);
    let found = match given.split_once("://") {
        None if given.starts_with('/') && given.len() <= reader::MAX_SOCKET_PATH => Some(Target::Local(given.into())),
        Some(("udp", rest)) => remote(rest).map(|(host, port)| Target::Udp(host, port)),
        Some(("tcp", rest)) => remote(rest).map(|(host, port)| Target::Tcp(host, port)),
        _ => None,
    };
    if found.is_none() {
        problems.at(value.span(), format!("`{given}` is nowhere that syslog goes"), format!("expected {expected}"));
    }
    found
}

/// Reads `[journald]`.
pub(crate) fn journald(value: Value<'_>, problems: &mut Problems) -> Option<Journald> {
    let section = Section::open("[journald]", value, keys_of("journald"), problems)?;
    let socket = match section.value("socket") {
        None => Some(DEFAULT_JOURNAL.into()),
        Some(_) => section.path("socket", true, problems),
    };
    let severity = severity(&section, problems);
    Some(Journald { socket: socket?, severity })
}

#[cfg(test)]
#[path = "alert_tests.rs"]
mod tests;
