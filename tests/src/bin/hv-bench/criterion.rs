//! What the criterion benches measured (candidates a second, and allocations for an unchanged one),
//! out of the files they leave.

use crate::figures::Figures;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The group of virtd/benches/votes.rs.
const GROUP: &str = "votes";
/// Candidates a second that one processor is to take.
const WANTED: f64 = 2_000_000.0;

/// Adds what is there; says what is not.
pub fn collect(folder: &Path, figures: &mut Figures) -> Result<()> {
    let named = |function: &str| rate(&folder.join(GROUP).join(function).join("new")).map(|r| (function.to_owned(), r));
    let Ok((_, decode)) = named("bgpkit-parser decode") else {
        println!("no criterion results in {}: run `cargo bench -p virtd --bench votes` first", folder.display());
        return Ok(());
    };
    for function in ["core unchanged", "core new"] {
        let (_, value) = named(function)?;
        let title = format!("P6 candidates a second, {function}, to bgpkit-parser's decoding");
        figures.judge(title, (value, "1/s"), Some(decode), "2 million or more", value >= WANTED);
    }
    let allocations = read(&folder.join("allocations.json"))?;
    let count = |key: &str| allocations[key].as_f64().with_context(|| format!("no {key} in allocations.json"));
    let each = count("blocks")? / count("candidates")?;
    let of_reads = count("reads")? / count("candidates")?;
    // A read is one allocation or two, whatever is in it; what is beyond that would be a
    // candidate's.
    let target = "none but the reads' own";
    figures.judge(
        "P6 allocations an unchanged candidate, to reads",
        (each, ""),
        Some(of_reads),
        target,
        each <= 4.0 * of_reads,
    );
    let (_, value) = named("voter decide")?;
    figures.note("decisions a second, voter alone, three candidates", value, "1/s", None);
    Ok(())
}

/// Elements a second, by the median.
fn rate(folder: &Path) -> Result<f64> {
    let read = |file: &str| read(&folder.join(file));
    let elements = read("benchmark.json")?["throughput"]["Elements"].as_f64().context("no number of elements")?;
    let ns = read("estimates.json")?["median"]["point_estimate"].as_f64().context("no median")?;
    Ok(elements * 1e9 / ns)
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}
