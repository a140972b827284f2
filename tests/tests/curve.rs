//! Three FRRs of one version with one bug (docs/BUGS.md, "The lost re-announcement"): told things a
//! few milliseconds apart, all three lose the route and the neighbour with them; told them seconds
//! apart, hardly ever two of them do. docs/DIVERSITY.md has the whole curve.

use anyhow::{Result, ensure};
use tests::curve::{Between, INSTANCES, Plan, Run, play};
use tests::untested::not_tested;

/// Every gap lies within the interval, wherever in a second the history begins, and is longer than
/// the 50 ms for which FRR lets changes gather: alone it loses the route each time.
const PLAN: Plan =
    Plan { interval_s: 2, gap_ms: (100, 400), pairs: 12, runs: 12, seed: 7, versions: [None; INSTANCES] };
/// Far below the interval, and far above it.
const SHORT_MS: u32 = 10;
const LONG_MS: u32 = 8_000;
/// A machine that stops for seconds at the wrong moment makes histories of its own.
const ATTEMPTS: usize = 3;

/// The runs, of which each has to be consistent in itself: the neighbour is without the route just
/// where a majority is.
fn runs(between: Between) -> Result<Vec<Run>> {
    let runs = play(&PLAN, between, &|_| ())?;
    for run in &runs {
        let majority = if between == Between::Alone { 1 } else { 2 };
        ensure!(run.lost == (run.lost_by.len() >= majority), "{between:?}: {run:?}");
    }
    Ok(runs)
}

fn lost(runs: &[Run]) -> usize {
    runs.iter().filter(|run| run.lost).count()
}

#[test]
fn seconds_help_and_milliseconds_do_not() -> Result<()> {
    let behind = |delay_ms| Between::Behind { delay_ms, delayed: INSTANCES };
    for attempt in 1..=ATTEMPTS {
        let all = std::thread::scope(|scope| {
            let threads = [Between::Alone, behind(SHORT_MS), behind(LONG_MS)].map(|b| scope.spawn(move || runs(b)));
            threads.map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let [alone, short, long] = all;
        let (alone, short, long) = (lost(&alone?), lost(&short?), lost(&long?));
        println!("of {}: {alone} lost alone, {short} with {SHORT_MS} ms, {long} with {LONG_MS} ms", PLAN.runs);
        if alone == 0 && short == 0 {
            not_tested("the lost re-announcement of the installed frr", "it loses none");
            return Ok(());
        }
        if alone > PLAN.runs * 3 / 4 && short > PLAN.runs * 3 / 4 && long < PLAN.runs / 2 {
            return Ok(());
        }
        ensure!(attempt < ATTEMPTS, "{ATTEMPTS} times something else than what is known");
    }
    Ok(())
}
