//! Inputs by their seed, one after the other, and what is told of the one that breaks a law.

use crate::{Target, mutated};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use wire::bgp::hex;

/// Inputs between two looks at the clock.
const BETWEEN_LOOKS: u64 = 16;

/// How a run without a broken law went.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Inputs tried, seeds included.
    pub inputs: u64,
    /// How long that took.
    pub took: Duration,
}

impl Run {
    /// Inputs per second.
    pub fn rate(&self) -> f64 {
        self.inputs as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// A law is broken.
#[derive(Clone, Debug)]
pub struct Broken {
    /// By which target.
    pub target: &'static str,
    /// The seed of the input; `None` for one that mutation begins with.
    pub seed: Option<u64>,
    /// The input.
    pub input: Vec<u8>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (target, input) = (self.target, hex(&self.input));
        match self.seed {
            Some(seed) => write!(f, "{target} breaks a law with the input of seed {seed}")?,
            None => write!(f, "{target} breaks a law with an input that is not mutated")?,
        }
        write!(f, "; again: hv-fuzz --target {target} --input {input}")
    }
}

/// Tries the seeds, and then so many mutated inputs, the first of which has the seed `first`; ends
/// early where `patience` does.
///
/// # Errors
/// The first input that breaks a law.
pub fn run(target: &Target, first: u64, inputs: u64, patience: Option<Duration>) -> Result<Run, Box<Broken>> {
    let begun = Instant::now();
    let seeds = (target.seeds)();
    let check = |seed: Option<u64>, input: &[u8]| {
        let broken = || Box::new(Broken { target: target.name, seed, input: input.to_vec() });
        // A target keeps nothing from one input to the next.
        catch_unwind(AssertUnwindSafe(|| (target.check)(input))).map_err(|_| broken())
    };
    for input in &seeds {
        check(None, input)?;
    }
    let mut tried = 0;
    while tried < inputs {
        let late = patience.is_some_and(|p| tried.is_multiple_of(BETWEEN_LOOKS) && begun.elapsed() >= p);
        if late {
            break;
        }
        let seed = first.wrapping_add(tried);
        check(Some(seed), &mutated(seed, &seeds))?;
        tried += 1;
    }
    Ok(Run { inputs: tried + seeds.len() as u64, took: begun.elapsed() })
}
