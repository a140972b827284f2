//! Reading one table of the file: each value by its key, of its type, in its range. Nothing here
//! stops at the first error; a value that is wrong is noted with its place and counts as absent, so
//! that one run names everything.

use super::diagnostic::{Problem, any_of, nearest};
use super::names;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};
use wire::bgp::Prefix;

/// Longest path of an AF_UNIX socket: sun_path is 108 octets with its NUL.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// A value with its place.
pub(crate) type Value<'t> = &'t Spanned<DeValue<'t>>;

/// The problems found so far.
#[derive(Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// Notes a problem at a place.
    pub(crate) fn at(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let help = help.into();
        let help = (!help.is_empty()).then_some(help);
        self.0.push(Problem { span: Some(span), message: message.into(), help });
    }

    /// Notes a problem of the file as a whole.
    pub(crate) fn missing(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.0.push(Problem { span: None, message: message.into(), help: Some(help.into()) });
    }

    /// Whether all is well.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// What was found.
    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    /// A value of the wrong type.
    fn wrong_type(&mut self, key: &str, value: Value<'_>, expected: &str) {
        let found = type_name(value.get_ref());
        self.at(value.span(), format!("`{key}` is {found}"), format!("expected {expected}"));
    }
}

/// One table: `[router]`, one `[[peer]]`, …
pub(crate) struct Section<'t> {
    /// As it stands in the file, for messages: `[router]`, `[[instance]]`.
    title: &'static str,
    table: &'t DeTable<'t>,
    /// Where it begins.
    span: Range<usize>,
}

impl<'t> Section<'t> {
    /// Opens a table and notes every key of it that is not in `known`.
    pub(crate) fn open(
        title: &'static str,
        value: Value<'t>,
        known: &[&str],
        problems: &mut Problems,
    ) -> Option<Section<'t>> {
        let DeValue::Table(table) = value.get_ref() else {
            problems.wrong_type(title.trim_matches(['[', ']']), value, "a table");
            return None;
        };
        for key in table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let name = key.get_ref().as_ref();
                let message = format!("unknown key `{name}` in {title}");
                problems.at(key.span(), message, unknown_key_help(name, known));
            }
        }
        Some(Section { title, table, span: value.span() })
    }

    /// The value of a key, whatever its type.
    pub(crate) fn value(&self, key: &str) -> Option<Value<'t>> {
        self.table.get(key)
    }

    /// The place of a key's value, or of the section where it has none.
    pub(crate) fn span_of(&self, key: &str) -> Range<usize> {
        self.value(key).map_or(self.span.clone(), |v| v.span())
    }

    /// Notes that a key without a default is absent.
    pub(crate) fn require(&self, key: &str, help: &str, problems: &mut Problems) {
        if self.value(key).is_none() {
            problems.at(self.span.clone(), format!("{} has no `{key}`", self.title), help);
        }
    }

    /// Text, not empty and without NUL.
    pub(crate) fn text(&self, key: &str, expected: &str, problems: &mut Problems) -> Option<&'t str> {
        text(key, self.value(key)?, expected, problems)
    }

    /// A whole number within bounds.
    pub(crate) fn number(
        &self,
        key: &str,
        bounds: RangeInclusive<u32>,
        unit: &str,
        problems: &mut Problems,
    ) -> Option<u32> {
        let value = self.value(key)?;
        let expected = format!("a whole number from {} to {}{unit}", bounds.start(), bounds.end());
        let DeValue::Integer(number) = value.get_ref() else {
            problems.wrong_type(key, value, &expected);
            return None;
        };
        match integer(number).and_then(|n| u32::try_from(n).ok()).filter(|n| bounds.contains(n)) {
            Some(n) => Some(n),
            None => {
                problems.at(value.span(), format!("`{key}` is out of range"), format!("expected {expected}"));
                None
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, key: &str, problems: &mut Problems) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(b) => Some(*b),
            _ => {
                problems.wrong_type(key, value, "true or false, without quotes");
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, key: &str, words: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let value = self.value(key)?;
        let expected = any_of(words.iter().map(|(w, _)| *w));
        let given = text(key, value, &expected, problems)?;
        one_of(key, given, value.span(), words, problems)
    }

    /// A file system path from the root; `socket` bounds its length.
    pub(crate) fn path(&self, key: &str, socket: bool, problems: &mut Problems) -> Option<PathBuf> {
        let value = self.value(key)?;
        let given = text(key, value, "a path in quotes", problems)?;
        let mut refuse = |message: String, help: String| {
            problems.at(value.span(), message, help);
            None
        };
        if !given.starts_with('/') {
            return refuse(
                format!("`{key}` is not an absolute path"),
                "expected a path that starts with /: virtd's working directory may be anywhere".into(),
            );
        }
        if socket && given.len() > MAX_SOCKET_PATH {
            return refuse(
                format!("`{key}` is {} octets long", given.len()),
                format!("the path of a Unix socket has at most {MAX_SOCKET_PATH} octets"),
            );
        }
        Some(PathBuf::from(given))
    }

    /// An array, each element read by `read`; elements that are wrong are left out.
    pub(crate) fn array<T>(
        &self,
        key: &str,
        expected: &str,
        problems: &mut Problems,
        mut read: impl FnMut(Value<'t>, &mut Problems) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            problems.wrong_type(key, value, &format!("an array of {expected}"));
            return None;
        };
        Some(array.iter().filter_map(|element| read(element, problems)).collect())
    }
}

/// Text, not empty and without NUL (which neither a path nor an argument can hold).
pub(crate) fn text<'t>(key: &str, value: Value<'t>, expected: &str, problems: &mut Problems) -> Option<&'t str> {
    let DeValue::String(text) = value.get_ref() else {
        problems.wrong_type(key, value, expected);
        return None;
    };
    if text.is_empty() || text.contains('\0') {
        let what = if text.is_empty() { "is empty" } else { "holds a NUL character" };
        problems.at(value.span(), format!("`{key}` {what}"), format!("expected {expected}"));
        return None;
    }
    Some(text)
}

/// One of a few words, with the nearest where it is none.
pub(crate) fn one_of<T: Copy>(
    key: &str,
    given: &str,
    span: Range<usize>,
    words: &[(&str, T)],
    problems: &mut Problems,
) -> Option<T> {
    if let Some((_, found)) = words.iter().find(|(w, _)| *w == given) {
        return Some(*found);
    }
    let help = format!("expected {}", any_of(words.iter().map(|(w, _)| *w)));
    let help = with_nearest(help, given, words.iter().map(|(w, _)| *w));
    problems.at(span, format!("`{given}` is not a value of `{key}`"), help);
    None
}

/// An address of a host that BGP can be spoken with.
pub(crate) fn unicast(key: &str, value: Value<'_>, problems: &mut Problems) -> Option<IpAddr> {
    let address = address(key, value, problems)?;
    let wrong = match address {
        IpAddr::V4(a) if a.is_broadcast() => Some("the broadcast address"),
        a if a.is_unspecified() => Some("the unspecified address"),
        a if a.is_multicast() => Some("a multicast address"),
        _ => None,
    };
    if let Some(wrong) = wrong {
        problems.at(value.span(), format!("{address} is {wrong}"), "expected the address of one neighbour");
        return None;
    }
    Some(address)
}

/// An IPv4 or IPv6 address; an IPv4 address in IPv6 clothes is refused, since the kernel reports it
/// bare.
pub(crate) fn address(key: &str, value: Value<'_>, problems: &mut Problems) -> Option<IpAddr> {
    let expected = "an IPv4 or IPv6 address in quotes, like \"192.0.2.1\" or \"2001:db8::1\"";
    let given = text(key, value, expected, problems)?;
    let parsed = given.parse::<IpAddr>();
    let (message, help) = match parsed {
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            None => return Some(IpAddr::V6(v6)),
            Some(v4) => (format!("{given} is an IPv4-mapped address"), format!("write \"{v4}\"")),
        },
        Ok(v4) => return Some(v4),
        Err(_) if given.contains('%') => (
            format!("{given} has a zone"),
            "write the address alone: the daemon's own socket names the interface".into(),
        ),
        Err(_) => match given.split_once('/') {
            Some((host, _)) if host.parse::<IpAddr>().is_ok() => {
                (format!("{given} is a prefix"), format!("write \"{host}\""))
            }
            _ => (format!("`{given}` is not an address"), format!("expected {expected}")),
        },
    };
    problems.at(value.span(), message, help);
    None
}

/// A whole number, of any radix TOML has.
pub(crate) fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// `help`, with the nearest of `known` behind it.
pub(crate) fn with_nearest<'a>(help: String, given: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(given, known) {
        Some(near) => format!("{help}; did you mean `{near}`?"),
        None => help,
    }
}

/// What to do about a key that this section does not have.
fn unknown_key_help(name: &str, known: &[&str]) -> String {
    if let Some(near) = nearest(name, known.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere: Vec<String> = names::sections_with(name).map(section_title).collect();
    if elsewhere.is_empty() {
        format!("expected {}", any_of(known.iter().copied()))
    } else {
        format!("`{name}` belongs in {}", elsewhere.join(" or "))
    }
}

/// A section's name with its brackets.
pub(crate) fn section_title(name: &str) -> String {
    match name {
        "instance" | "peer" | "bmp" | "alert" => format!("[[{name}]]"),
        _ => format!("[{name}]"),
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A prefix without bits behind its length.
pub(super) fn prefix(key: &str, value: Value<'_>, problems: &mut Problems) -> Option<Prefix> {
    let expected = "a prefix in quotes, like \"198.51.100.0/24\"";
    let given = text(key, value, expected, problems)?;
    let Ok(prefix) = given.parse::<Prefix>() else {
        problems.at(value.span(), format!("`{given}` is not a prefix"), format!("expected {expected}"));
        return None;
    };
    let written = given.split('/').next().unwrap_or(given);
    if written.parse() != Ok(prefix.addr()) {
        let message = format!("`{given}` has bits set behind its length");
        problems.at(value.span(), message, format!("did you mean `{prefix}`?"));
        return None;
    }
    Some(prefix)
}
