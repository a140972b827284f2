//! A handful of the faults of `make faults`, as a part of `make test`: each kind of way to break an
//! instance, once.

use anyhow::{Context, Result};
use tests::faults::cases::ALL;
use tests::faults::scene::{Keeper, Scene, Size};

/// Plays the cases of these names, in this order, in one router.
fn play(strategy: &'static str, size: Size, names: &[&str]) -> Result<()> {
    let mut scene = Scene::start(strategy, size, Keeper::Virtd)?;
    for name in names {
        let case = ALL.iter().find(|case| case.name == *name).with_context(|| format!("no case {name}"))?;
        let notes = case.run(&mut scene).with_context(|| format!("{strategy}, {name}"))?;
        println!("{strategy}, {name}: {}", notes.join(", "));
    }
    scene.passed();
    Ok(())
}

#[test]
fn with_consensus_no_neighbour_notices() -> Result<()> {
    play("wait-for-consensus", Size::Three, &["wrong-path", "sigkill", "random-bytes", "missing-withdraw"])
}

#[test]
fn a_masters_wrong_route_is_put_right() -> Result<()> {
    play("master-slave", Size::Three, &["wrong-next-hop", "all-dead"])
}

#[test]
fn two_faults_at_once_among_five() -> Result<()> {
    play("continuous-majority", Size::Five, &["two-lies"])
}

#[test]
fn the_first_two_that_agree_are_never_the_wrong_one() -> Result<()> {
    play("first-k", Size::Three, &["extra-route", "degraded"])
}
