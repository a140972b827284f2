//! What ends a session and what must not, as a part of `make test`: one case for each row of
//! docs/SESSIONS.md, in the router that it is first of all about. `make sessions` plays all of them
//! in all routers.

use anyhow::{Context, Result};
use tests::daemons::Daemon;
use tests::sessions::ALL;
use tests::sessions::stage::{Made, Stage};

fn play(name: &str, made: Made, strategy: &'static str) -> Result<()> {
    let case = ALL.iter().find(|case| case.name == name).with_context(|| format!("no case {name}"))?;
    let told = case.run(Stage { made, strategy })?;
    let outside = told.outside_ms.map_or_else(String::new, |ms| format!("ended {ms} ms after its cause; "));
    println!("{name}, {}: {outside}{}", made.name(), told.notes.join(", "));
    Ok(())
}

fn trio(name: &str) -> Result<()> {
    play(name, Made::Trio, "wait-for-consensus")
}

#[test]
fn a_maximum_of_prefixes_ends_the_session_and_withdraws_the_leak() -> Result<()> {
    trio("limit")
}

#[test]
fn b_bfd_ends_the_session_where_its_owner_decides() -> Result<()> {
    trio("bfd-key")
}

#[test]
fn c_with_one_instance_its_word_on_a_link_is_enough() -> Result<()> {
    play("link-down-and-withdraw", Made::One(Daemon::Frr), "wait-for-consensus")
}

#[test]
fn d_two_of_three_notice_that_a_link_is_down() -> Result<()> {
    trio("link-down")
}

#[test]
fn e_a_link_that_flaps_accuses_nobody() -> Result<()> {
    trio("link-flap")
}

#[test]
fn g_who_is_absent_has_its_neighbour_restarted() -> Result<()> {
    trio("absent")
}

#[test]
fn h_who_drops_its_leg_for_updates_keeps_voting() -> Result<()> {
    trio("dropped-leg")
}

#[test]
fn k_who_is_killed_from_outside_was_killed_by_no_update() -> Result<()> {
    trio("killed")
}

#[test]
fn n_another_as_number_reopens_the_session() -> Result<()> {
    trio("new-as")
}

#[test]
fn p_who_leaves_alone_is_told_once() -> Result<()> {
    trio("shutdown-in-one")
}

#[test]
fn q_services_that_are_stopped_have_left_nothing() -> Result<()> {
    trio("two-stopped")
}

#[test]
fn q_a_tie_keeps_the_session_until_the_link_is_down() -> Result<()> {
    play("tie", Made::Two, "wait-for-consensus")
}
