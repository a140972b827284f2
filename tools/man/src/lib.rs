//! The manual pages, made of what the programs themselves are made of: their command lines, the
//! keys of the configuration and docs/CONFIGURATION.md. What is not documented there is an error here.
#![forbid(unsafe_code)]

mod blocks;
mod configuration;
mod programs;
mod roff;

use anyhow::{Context, Result};
use std::path::Path;

/// Writes all pages into a folder; returns how many. `date` is that of the sources, and may be
/// empty.
///
/// # Errors
/// A key of the configuration is not documented, or the folder cannot be written.
pub fn write(folder: &Path, date: &str) -> Result<usize> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pages = pages(date)?;
    for (name, text) in &pages {
        let file = folder.join(name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(pages.len())
}

/// The name of the file, and what is in it.
///
/// # Errors
/// A key of the configuration is not documented.
pub fn pages(date: &str) -> Result<Vec<(String, String)>> {
    let mut pages = programs::pages(date)?;
    pages.push(programs::versions(date)?);
    pages.push(configuration::page(date)?);
    Ok(pages)
}

/// Where a page belongs, and what it is a page of.
fn title(name: &str, section: u8, date: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".TH {} {section} \"{date}\" \"virtd {version}\" \"Router hypervisor\"\n",
        roff::escape(&name.to_uppercase())
    )
}

/// `SEE ALSO`.
fn see_also(pages: &[(&str, u8)]) -> String {
    let list: Vec<String> = pages.iter().map(|(name, n)| format!("\\fB{}\\fR({n})", roff::escape(name))).collect();
    format!(".SH SEE ALSO\n{}\n.PP\ndocs/OPERATIONS.md has it all, with examples.\n", list.join(", "))
}

#[cfg(test)]
mod tests;
