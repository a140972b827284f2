//! virtd.toml(5): the chapters of docs/CONFIGURATION.md on the file, held against the keys that virtd
//! reads.

use crate::roff::{escape, inline, line};
use crate::{see_also, title};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use virtd_config::names::{DIVERSITY_KEYS, ENVIRONMENT_KEYS, SECTIONS};

const CONFIGURATION: &str = include_str!("../../../docs/CONFIGURATION.md");

/// A row of a table of keys.
#[derive(Clone, Debug)]
pub(crate) struct Row<'t> {
    /// The keys that it is about; mostly one.
    pub keys: Vec<&'t str>,
    /// As it is written.
    pub default: &'t str,
    unit: &'t str,
    words: &'t str,
}

/// The chapter on the file, without its heading.
fn chapter() -> Result<&'static str> {
    let (_, rest) =
        CONFIGURATION.split_once("\n## The configuration file\n").context("CONFIGURATION.md has no chapter on it")?;
    Ok(rest.split_once("\n## ").map_or(rest, |(chapter, _)| chapter))
}

/// The parts of the chapter: what stands in brackets in the heading, the heading, and what follows.
fn parts() -> Result<Vec<(&'static str, &'static str, &'static str)>> {
    let parts = chapter()?.split("\n### ").skip(1);
    parts
        .map(|part| {
            let (heading, text) = part.split_once('\n').context("a heading alone")?;
            let name = heading.split('`').nth(1).context("a heading without a section")?.trim_matches(['[', ']']);
            Ok((name, heading, text))
        })
        .collect()
}

/// The rows of all tables of keys of a section.
pub(crate) fn rows(section: &str) -> Result<Vec<Row<'static>>> {
    let parts = parts()?;
    let (_, _, text) = parts.iter().find(|(name, ..)| *name == section).context("no such part")?;
    Ok(text.lines().filter_map(row).collect())
}

/// A row of a table; none for its heading.
fn row(text: &'static str) -> Option<Row<'static>> {
    let cells = cells(text)?;
    let [key, default, unit, words] = cells.as_slice() else { return None };
    let keys: Vec<&str> = key.split('`').skip(1).step_by(2).collect();
    (!keys.is_empty()).then_some(Row { keys, default, unit, words })
}

fn cells(text: &str) -> Option<Vec<&str>> {
    Some(text.trim().strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect())
}

/// Whether the tables have the keys that virtd reads, and no others.
pub(crate) fn check() -> Result<()> {
    let parts = parts()?;
    let names: BTreeSet<&str> = parts.iter().map(|(name, ..)| *name).collect();
    ensure!(
        names == SECTIONS.iter().map(|(name, _)| *name).collect(),
        "CONFIGURATION.md has other sections: {names:?}"
    );
    for (section, keys) in SECTIONS {
        let inner: &[&[&str]] = if *section == "instance" { &[DIVERSITY_KEYS, ENVIRONMENT_KEYS] } else { &[] };
        let read: BTreeSet<&str> = keys.iter().chain(inner.concat().iter()).copied().collect();
        let told: BTreeSet<&str> = rows(section)?.into_iter().flat_map(|row| row.keys).collect();
        let missing: Vec<_> = read.difference(&told).collect();
        let unknown: Vec<_> = told.difference(&read).collect();
        ensure!(missing.is_empty(), "docs/CONFIGURATION.md does not explain {missing:?} of {section}");
        ensure!(
            unknown.is_empty(),
            "docs/CONFIGURATION.md explains {unknown:?} of {section}, which virtd does not read"
        );
    }
    Ok(())
}

/// The page.
pub(crate) fn page(date: &str) -> Result<(String, String)> {
    check()?;
    let mut text = title("virtd.toml", 5, date);
    text += ".SH NAME\nvirtd.toml \\- the configuration of virtd\n.SH DESCRIPTION\n";
    let chapter = chapter()?;
    text += &markdown(chapter.split("\n### ").next().unwrap_or_default());
    for (_, heading, part) in parts()? {
        text += &format!(".SH {}\n", escape(&heading.replace('`', "")));
        text += &markdown(part);
    }
    text += ".SH EXAMPLES\nexamples/virtd.toml shows every key with a comment, examples/three a whole router.\n";
    text += &see_also(&[("virtd", 8), ("virtctl", 8), ("virtd-monitor", 8), ("hv-versions", 1)]);
    Ok(("virtd.toml.5".to_owned(), text))
}

/// Paragraphs, lists and tables.
fn markdown(text: &'static str) -> String {
    let mut out = String::new();
    // Lines that belong together, and what they begin with.
    let mut block = (String::new(), ".PP");
    let mut code = false;
    for l in text.lines() {
        let item = l.strip_prefix("- ");
        if l.starts_with("```") {
            end(&mut block, &mut out);
            code = !code;
            out += if code { ".PP\n.RS 4\n.nf\n" } else { ".fi\n.RE\n" };
        } else if code {
            out += &line(&escape(l));
        } else if let Some(row) = row(l) {
            out += &entry(&row);
        } else if l.trim().is_empty() || cells(l).is_some() {
            // Of a table of keys the heading is left out.
            end(&mut block, &mut out);
        } else {
            if item.is_some() {
                end(&mut block, &mut out);
                block.1 = ".IP \\(bu 2";
            }
            block.0 = format!("{} {}", block.0, item.unwrap_or(l).trim());
        }
    }
    end(&mut block, &mut out);
    out
}

/// A paragraph or an item of a list is over.
fn end((words, request): &mut (String, &'static str), out: &mut String) {
    if !words.is_empty() {
        // A heading begins a paragraph itself.
        let request = if out.is_empty() && *request == ".PP" { String::new() } else { format!("{request}\n") };
        *out += &format!("{request}{}", line(&inline(words.trim())));
    }
    (*words, *request) = (String::new(), ".PP");
}

/// A key: its default, what it may be, and what it is for.
fn entry(row: &Row<'_>) -> String {
    let keys: Vec<String> = row.keys.iter().map(|key| format!("\\fB{}\\fR", escape(key))).collect();
    let default = match row.default {
        "required" => "required".to_owned(),
        default if default.starts_with("required") => inline(default),
        default => format!("default: {}", inline(default)),
    };
    let unit = if row.unit.is_empty() { String::new() } else { format!("; {}", inline(row.unit)) };
    let words = if row.words.is_empty() { String::new() } else { line(&inline(row.words)) };
    format!(".TP\n{} ({default}{unit})\n{words}", keys.join(", "))
}
