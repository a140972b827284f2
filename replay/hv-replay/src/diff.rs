//! Compares two tables that `hv-replay --table` wrote, prefix by prefix and attribute by attribute.

use anyhow::{Context, Result};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use wire::bgp::Prefix;

/// `hv-replay diff`.
#[derive(Debug, clap::Args)]
pub struct DiffOptions {
    /// One table, as --table writes it
    pub a: PathBuf,
    /// The other
    pub b: PathBuf,
    /// Attributes to leave out: next_hop, link_local, origin, as_path, med, local_pref,
    /// communities, large_communities, other, or the name of one kind under "other" (AGGREGATOR)
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub ignore: Vec<String>,
    /// Print at most this many differences (all are counted)
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub max: usize,
}

type Table = BTreeMap<Prefix, Box<RawValue>>;

/// How many prefixes differ, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Prefixes in the first table.
    pub a: usize,
    /// Prefixes in the second.
    pub b: usize,
    /// Only in the first.
    pub only_a: usize,
    /// Only in the second.
    pub only_b: usize,
    /// In both, with different attributes.
    pub changed: usize,
}

impl Difference {
    /// Whether the tables say the same.
    pub fn is_none(&self) -> bool {
        self.only_a + self.only_b + self.changed == 0
    }
}

fn read(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a table of hv-replay", path.display()))
}

/// The attributes of a route that count.
fn attributes(route: &RawValue, ignore: &[String]) -> Result<BTreeMap<String, Value>> {
    let mut out: BTreeMap<String, Value> = serde_json::from_str(route.get())?;
    // The same in octets; it would repeat every difference, and show those that are to be left out.
    out.remove("canonical");
    out.retain(|name, _| !ignore.contains(name));
    if let Some(Value::Array(other)) = out.get_mut("other") {
        other.retain(|text| {
            let name = text.as_str().and_then(|t| t.split_whitespace().next()).unwrap_or_default();
            !ignore.iter().any(|i| i.eq_ignore_ascii_case(name))
        });
        if other.is_empty() {
            out.remove("other");
        }
    }
    Ok(out)
}

/// Compares the tables and writes each difference to `out`.
///
/// # Errors
/// A file cannot be read, or is no table.
pub fn diff(options: &DiffOptions, out: &mut dyn Write) -> Result<Difference> {
    let (a, b) = (read(&options.a)?, read(&options.b)?);
    let mut difference = Difference { a: a.len(), b: b.len(), ..Difference::default() };
    let mut printed = 0;
    let mut print = |line: String| -> Result<()> {
        printed += 1;
        if printed <= options.max {
            writeln!(out, "{line}")?;
        }
        Ok(())
    };
    for prefix in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        match (a.get(prefix), b.get(prefix)) {
            (Some(route), None) => {
                difference.only_a += 1;
                print(format!("- {prefix} {}", short(route)))?;
            }
            (None, Some(route)) => {
                difference.only_b += 1;
                print(format!("+ {prefix} {}", short(route)))?;
            }
            (Some(x), Some(y)) if x.get() != y.get() => {
                let (x, y) = (attributes(x, &options.ignore)?, attributes(y, &options.ignore)?);
                if x == y {
                    continue;
                }
                difference.changed += 1;
                for name in x.keys().chain(y.keys()).collect::<BTreeSet<_>>() {
                    let (was, is) = (x.get(name), y.get(name));
                    if was != is {
                        let show = |v: Option<&Value>| v.map_or("nothing".to_owned(), ToString::to_string);
                        print(format!("! {prefix} {name}: {} | {}", show(was), show(is)))?;
                    }
                }
            }
            _ => {}
        }
    }
    let Difference { a, b, only_a, only_b, changed } = difference;
    writeln!(
        out,
        "{a} and {b} prefixes: {only_a} only in the first, {only_b} only in the second, {changed} with other attributes"
    )?;
    Ok(difference)
}

/// A route without its octets.
fn short(route: &RawValue) -> String {
    let mut value: Value = serde_json::from_str(route.get()).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        members.remove("canonical");
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(a: &str, b: &str, ignore: &[&str]) -> (Difference, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let (path_a, path_b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&path_a, a).expect("written");
        fs::write(&path_b, b).expect("written");
        let ignore = ignore.iter().map(ToString::to_string).collect();
        let mut out = Vec::new();
        let difference = diff(&DiffOptions { a: path_a, b: path_b, ignore, max: 100 }, &mut out).expect("two tables");
        (difference, String::from_utf8(out).expect("text"))
    }

    const A: &str =
        r#"{"10.0.0.0/8":{"as_path":"1 2","other":["AGGREGATOR 00"],"canonical":"00"},"11.0.0.0/8":{"as_path":"1"}}"#;

    #[test]
    fn every_difference_is_named() {
        let b = r#"{"10.0.0.0/8":{"as_path":"1 3","canonical":"01"},"2001:db8::/32":{"as_path":"1"}}"#;
        let (difference, text) = compare(A, b, &[]);
        assert_eq!(difference, Difference { a: 2, b: 2, only_a: 1, only_b: 1, changed: 1 });
        assert!(text.contains(r#"! 10.0.0.0/8 as_path: "1 2" | "1 3""#), "{text}");
        assert!(text.contains(r#"! 10.0.0.0/8 other: ["AGGREGATOR 00"] | nothing"#), "{text}");
        assert!(text.contains("- 11.0.0.0/8") && text.contains("+ 2001:db8::/32"), "{text}");
    }

    #[test]
    fn what_is_ignored_is_no_difference() {
        let b = r#"{"10.0.0.0/8":{"as_path":"9","canonical":"01"},"11.0.0.0/8":{"as_path":"1"}}"#;
        assert_eq!(compare(A, b, &["aggregator"]).0.changed, 1);
        assert!(compare(A, b, &["aggregator", "as_path"]).0.is_none());
        assert!(compare(A, A, &[]).0.is_none());
    }
}
