//! A TOML file to a [`Config`], or everything that is wrong with it.

use super::alert;
use super::diagnostic::{ConfigError, Problem, any_of, line_of, nearest};
use super::names::SECTIONS;
use super::reader::{Problems, Value, section_title};
use super::sections::{self, Placed, VotePlaces};
use super::{Config, Instance, MAX_INSTANCES, OpenMode, Peer, Strategy};
use super::{bmp, http};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// A configuration file longer than this is some other file.
const MAX_FILE: u64 = 4 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{file}: {error}")]
    Read {
        /// Which file.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// The file says something wrong.
    #[error(transparent)]
    Wrong(#[from] ConfigError),
}

/// Reads and checks a configuration file.
pub fn load(file: &Path) -> Result<Config, LoadError> {
    Ok(parse(file, &read(file)?)?)
}

/// Reads a configuration file, as far as it is not too long for one.
pub fn read(file: &Path) -> Result<String, LoadError> {
    let read = || {
        let length = std::fs::metadata(file)?.len();
        if length > MAX_FILE {
            return Err(io::Error::other(format!("{length} octets are too many for a configuration")));
        }
        std::fs::read_to_string(file)
    };
    read().map_err(|error| LoadError::Read { file: file.display().to_string(), error })
}

/// Checks the text of a configuration file; `file` is only for messages.
pub fn parse(file: &Path, source: &str) -> Result<Config, ConfigError> {
    let (document, errors) = DeTable::parse_recoverable(source);
    if !errors.is_empty() {
        // What follows a syntax error is guesswork: only the syntax is reported.
        let problems = errors.iter().map(|e| syntax_error(e, source)).collect();
        return Err(ConfigError::new(file, source, problems));
    }
    let mut problems = Problems::default();
    let config = document_to_config(document.get_ref(), source, &mut problems);
    if problems.is_empty() { Ok(config) } else { Err(ConfigError::new(file, source, problems.into_vec())) }
}

fn syntax_error(error: &toml::de::Error, source: &str) -> Problem {
    let marked = error.span().and_then(|span| source.get(span)).unwrap_or("");
    let bare_word = marked.starts_with(|c: char| c.is_alphabetic() || c == '/');
    let help = if error.message().contains("duplicate key") {
        Some(format!("`{marked}` stands further up already; keep one of them"))
    } else if bare_word && matches!(marked, "True" | "False" | "TRUE" | "FALSE") {
        Some(format!("write {}", marked.to_lowercase()))
    } else if bare_word && source.get(..error.span().map_or(0, |s| s.start)).is_some_and(is_after_equals) {
        Some(format!("text stands in double quotes: \"{marked}\""))
    } else {
        None
    };
    Problem { span: error.span(), message: format!("not TOML: {}", error.message()), help }
}

/// Whether what follows `before` is a value and not a key.
fn is_after_equals(before: &str) -> bool {
    before.trim_end_matches([' ', '\t']).ends_with(['=', '[', ','])
}

fn document_to_config(document: &DeTable<'_>, source: &str, problems: &mut Problems) -> Config {
    let mut config = Config::default();
    for key in document.keys() {
        unknown_section(key.get_ref(), key.span(), problems);
    }
    if let Some(value) = table(document, "router", problems) {
        sections::router(value, &mut config, problems);
    }
    let mut places = None;
    if let Some(value) = table(document, "vote", problems) {
        (config.vote, places) = sections::vote(value, problems);
    }
    if let Some(value) = table(document, "timers", problems) {
        config.timers = sections::timers(value, problems);
    }
    if let Some(value) = table(document, "faults", problems) {
        config.faults = sections::faults(value, problems);
    }
    if let Some(value) = table(document, "recorder", problems) {
        config.recorder = sections::recorder(value, problems);
    }
    if let Some(value) = table(document, "fib", problems) {
        config.fib = sections::fib(value, problems);
    }
    if let Some(value) = table(document, "http", problems) {
        config.http = Some(http::read(value, problems));
    }
    let collectors = tables(document, "bmp", problems, bmp::read);
    bmp::check(&collectors, problems);
    config.bmp = collectors.into_iter().map(|c| c.value).collect();
    config.alerts = tables(document, "alert", problems, alert::alert);
    check_alerts(document, problems);
    config.syslog = table(document, "syslog", problems).and_then(|value| alert::syslog(value, problems));
    config.journald = table(document, "journald", problems).and_then(|value| alert::journald(value, problems));
    let instances = tables(document, "instance", problems, sections::instance);
    let peers =
        tables(document, "peer", problems, |value, problems| sections::peer(value, config.allow_own_as, problems));

    check_instances(&instances, source, problems);
    check_peers(&config, &peers, document, source, problems);
    check_bfd(&instances, &peers, problems);
    check_limits(&config, &instances, &peers, problems);
    instances.iter().for_each(|i| super::diversity::check(&config, &i.value, i.diversity.as_ref(), problems));
    let complete = instances.len() == array_len(document, "instance");
    config.instances = instances.into_iter().map(|i| i.value).collect();
    config.instances.iter_mut().for_each(|i| i.netlink = config.fib.is_some());
    super::version::resolve(&mut config);
    config.peers = peers.into_iter().map(|p| p.value).collect();
    if complete && !config.instances.is_empty() {
        check_vote(&config, places.as_ref(), problems);
        check_native(&config, document, problems);
    }
    config
}

fn unknown_section(name: &str, span: std::ops::Range<usize>, problems: &mut Problems) {
    if SECTIONS.iter().any(|(known, _)| *known == name) {
        return;
    }
    let homes: Vec<String> = super::names::sections_with(name).map(section_title).collect();
    let help = if let Some(near) = nearest(name, SECTIONS.iter().map(|(known, _)| *known)) {
        format!("did you mean `{}`?", section_title(near))
    } else if homes.is_empty() {
        let titles: Vec<String> = SECTIONS.iter().map(|(known, _)| section_title(known)).collect();
        format!("expected {}", any_of(titles.iter().map(String::as_str)))
    } else {
        format!("`{name}` belongs in {}", homes.join(" or "))
    };
    problems.at(span, format!("unknown section or key `{name}`"), help);
}

/// A section that stands once.
fn table<'t>(document: &'t DeTable<'t>, name: &str, problems: &mut Problems) -> Option<Value<'t>> {
    let value = document.get(name)?;
    if matches!(value.get_ref(), DeValue::Table(_)) {
        return Some(value);
    }
    problems.at(
        value.span(),
        format!("`{name}` is not a section"),
        format!("write [{name}], once, with single brackets"),
    );
    None
}

/// A section that stands any number of times.
fn tables<'t, T>(
    document: &'t DeTable<'t>,
    name: &str,
    problems: &mut Problems,
    read: impl Fn(Value<'t>, &mut Problems) -> Option<T>,
) -> Vec<T> {
    let Some(value) = document.get(name) else { return Vec::new() };
    match value.get_ref() {
        DeValue::Array(array) => array.iter().filter_map(|element| read(element, problems)).collect(),
        _ => {
            let help = format!("write [[{name}]] with double brackets, once for each");
            problems.at(value.span(), format!("`{name}` is not a list of sections"), help);
            Vec::new()
        }
    }
}

fn array_len(document: &DeTable<'_>, name: &str) -> usize {
    match document.get(name).map(|v| v.get_ref()) {
        Some(DeValue::Array(array)) => array.len(),
        _ => 0,
    }
}

fn check_alerts(document: &DeTable<'_>, problems: &mut Problems) {
    let count = array_len(document, "alert");
    if count > alert::MAX_ALERTS {
        let help = format!("expected at most {}: one [[alert]] can name many kinds", alert::MAX_ALERTS);
        problems.missing(format!("{count} alerts are too many"), help);
    }
}

fn check_instances(instances: &[Placed<Instance>], source: &str, problems: &mut Problems) {
    let mut seen = BTreeMap::new();
    for placed in instances {
        let Some(span) = &placed.key else { continue };
        if let Some(first) = seen.insert(placed.value.name.as_str(), span.clone()) {
            let message = format!("two instances are named `{}`", placed.value.name);
            let line = line_of(source, first.start);
            problems.at(span.clone(), message, format!("the first is in line {line}; names must differ"));
        }
    }
    if let Some(surplus) = instances.get(MAX_INSTANCES) {
        let message = format!("{} instances are too many", instances.len());
        problems.at(surplus.span.clone(), message, format!("one router has at most {MAX_INSTANCES}"));
    }
    if instances.is_empty() && problems.is_empty() {
        problems.missing("no instance is configured", "add an [[instance]] with a name for every daemon");
    }
    if !instances.is_empty() && instances.iter().all(|i| !i.value.is_voter()) && problems.is_empty() {
        let help = "every instance is an observer or a standby, so nothing would ever be published; make one a voter";
        problems.missing("no instance votes", help);
    }
}

fn check_peers(config: &Config, peers: &[Placed<Peer>], document: &DeTable<'_>, source: &str, problems: &mut Problems) {
    let mut seen = BTreeMap::new();
    for placed in peers {
        let Some(span) = &placed.key else { continue };
        if let Some(first) = seen.insert(placed.value.address, span.clone()) {
            let message = format!("two peers have the address {}", placed.value.address);
            let line = line_of(source, first.start);
            problems.at(
                span.clone(),
                message,
                format!("the first is in line {line}; there is one session per address"),
            );
        }
    }
    for placed in peers {
        if let Some(port) = placed.value.port.filter(|p| config.native_ports.contains(p)) {
            let message = format!("port {port} of {} stands in `native_ports`", placed.value.address);
            problems.at(placed.span.clone(), message, "its sessions are virtd's: leave it out there");
        }
    }
    if document.get("peer").is_none() && !config.accept_any && problems.is_empty() {
        let help = "add a [[peer]] for each, or `accept_any = true` in [router] to leave the choice to the instances";
        problems.missing("no peer is configured", help);
    }
}

/// Whose BFD decides must be one of the instances.
fn check_bfd(instances: &[Placed<Instance>], peers: &[Placed<Peer>], problems: &mut Problems) {
    let names = || instances.iter().map(|i| i.value.name.as_str());
    for placed in peers {
        let (Some(name), Some(span)) = (&placed.value.bfd, &placed.bfd) else { continue };
        if names().any(|known| known == name) {
            continue;
        }
        let help = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "expected the name of an [[instance]]".to_owned(),
        };
        problems.at(span.clone(), format!("no instance is named `{name}`"), help);
    }
}

/// A limit to a session that cannot exist is a typing error.
fn check_limits(config: &Config, instances: &[Placed<Instance>], peers: &[Placed<Peer>], problems: &mut Problems) {
    if config.accept_any {
        return;
    }
    let known: Vec<String> = peers.iter().map(|p| p.value.address.to_string()).collect();
    for placed in instances {
        for (address, span) in placed.value.limit_sessions.iter().zip(&placed.sessions) {
            if peers.iter().any(|p| p.value.address == *address) {
                continue;
            }
            let near = nearest(&address.to_string(), known.iter().map(String::as_str));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "expected the address of a [[peer]]".to_owned(),
            };
            problems.at(span.clone(), format!("no peer has the address {address}"), help);
        }
    }
}

fn check_vote(config: &Config, places: Option<&VotePlaces>, problems: &mut Problems) {
    let Some(places) = places else { return };
    let voters = config.voters();
    let too_many = |n: u8| usize::from(n) > voters && voters > 0;
    if let Some(k) = config.vote.k {
        let strategy = config.vote.strategy;
        if !matches!(strategy, Strategy::WaitForConsensus | Strategy::FirstK) {
            let help = format!("{} does not count to k; leave it out", strategy.name());
            problems.at(places.k.clone(), format!("`k` has no meaning with {}", strategy.name()), help);
        } else if too_many(k) {
            problems.at(places.k.clone(), format!("`k` is {k}, but {voters} instances vote"), bounds(voters));
        }
    }
    if too_many(config.vote.min_voters) {
        let message = format!("`min_voters` is {}, but {voters} instances vote", config.vote.min_voters);
        problems.at(places.min_voters.clone(), message, bounds(voters));
    }
}

fn bounds(voters: usize) -> String {
    format!("expected a whole number from 1 to {voters}, the number of instances that vote")
}

/// docs/DECISIONS.md, "One instance is a product": native mode passes one instance's bytes
/// verbatim, so there is nothing to vote on or compare.
fn check_native(config: &Config, document: &DeTable<'_>, problems: &mut Problems) {
    if config.open != OpenMode::Native || config.instances.len() == 1 {
        return;
    }
    let span = match document.get("router").map(|v| v.get_ref()) {
        Some(DeValue::Table(router)) => router.get("open").map(|v| v.span()),
        _ => None,
    };
    let message = format!("`open = \"native\"` with {} instances", config.instances.len());
    problems.at(
        span.unwrap_or(0..0),
        message,
        "native is for exactly one instance, a voter, whose bytes pass verbatim; write open = \"voted\" for several",
    );
}
