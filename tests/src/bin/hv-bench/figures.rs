//! The figures: a table for a person, a list for a program.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::Path;

/// One measured value beside what it is measured by.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The measured value.
    pub value: f64,
    /// Its unit and the baseline's.
    pub unit: &'static str,
    /// The reference, in the same unit.
    pub baseline: Option<f64>,
    /// Value over baseline.
    pub ratio: Option<f64>,
    /// What is to be reached, in words; empty where the figure is context.
    pub target: String,
    /// Whether it is; `null` without a target.
    pub met: Option<bool>,
}

/// All of them, in the order of measurement.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// Context: no target.
    pub fn note(&mut self, name: impl Into<String>, value: f64, unit: &'static str, baseline: Option<f64>) {
        let ratio = baseline.map(|b| value / b);
        self.0.push(Figure { name: name.into(), value, unit, baseline, ratio, target: String::new(), met: None });
    }

    /// Held against a target.
    pub fn judge(
        &mut self,
        name: impl Into<String>,
        (value, unit): (f64, &'static str),
        baseline: Option<f64>,
        target: &str,
        met: bool,
    ) {
        self.note(name, value, unit, baseline);
        if let Some(last) = self.0.last_mut() {
            (last.target, last.met) = (target.to_owned(), Some(met));
        }
    }

    /// Writes the list.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(&self.0)? + "\n")
            .with_context(|| format!("writing {}", path.display()))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: f64| if n.abs() >= 1000.0 { format!("{n:.0}") } else { format!("{n:.3}") };
        let maybe = |n: Option<f64>| n.map_or("-".to_owned(), number);
        writeln!(f, "{:<62} {:>11} {:<7} {:>11} {:>7}  target", "figure", "value", "unit", "baseline", "ratio")?;
        for x in &self.0 {
            let met = match x.met {
                None => "",
                Some(true) => "met: ",
                Some(false) => "MISSED: ",
            };
            let (value, baseline, ratio) = (number(x.value), maybe(x.baseline), maybe(x.ratio));
            writeln!(f, "{:<62} {value:>11} {:<7} {baseline:>11} {ratio:>7}  {met}{}", x.name, x.unit, x.target)?;
        }
        Ok(())
    }
}

/// The middle one; of an even number, the mean of the two in the middle. 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.into_iter().collect();
    all.sort_by(f64::total_cmp);
    let upper = all.get(all.len() / 2).copied().unwrap_or(0.0);
    let lower = all.get(all.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
    f64::midpoint(lower, upper)
}
