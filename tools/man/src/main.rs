//! `hv-man FOLDER`: writes the manual pages there. `make man` calls it.

use anyhow::{Context, Result};
use std::path::PathBuf;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).context("hv-man FOLDER: where shall the pages be?")?;
    // The day of the commit stands behind its comma.
    let version = program_version::version!();
    let date = version.split_once(", ").map_or("", |(_, day)| day.trim_end_matches(')'));
    let pages = man::write(&folder, date)?;
    println!("{pages} manual pages are in {}", folder.display());
    Ok(())
}
