//! Twelve deaths of virtd's worker while the neighbours' routes change; `make crash` has a thousand.

use anyhow::{Result, ensure};
use tests::crash::kills::{Plan, run};
use tests::crash::scene::Size;

#[test]
fn nobody_notices_twelve_deaths_of_the_worker() -> Result<()> {
    let size = Size { prefixes: 1000, fib: false, t_ms: 500, seed: 1 };
    let report = run(&Plan { size, kills: 1, bursts: 4, aimed: 1, steps: 2 })?;
    ensure!(report.json["kills"].as_u64() >= Some(12), "{}", report.json);
    ensure!(report.passed, "{}", report.json);
    Ok(())
}
