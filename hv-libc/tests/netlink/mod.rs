//! Route sockets natively, against the real kernel, and under the shim with a broker that relays to it.

use super::broker::Broker;
use super::{alone, compare, compiled, count, free_port, plain, text, under_shim};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Built as Debian builds: fortified, so that __recv_chk and its like are called.
fn route_probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| compiled("netlink/route_probe.c", &["-O2", "-D_FORTIFY_SOURCE=2"]))
}

fn command(scenario: &str) -> Command {
    let mut c = plain(route_probe());
    c.arg(scenario);
    c
}

/// Takes away the routes of the run before.
fn clear() {
    let flush = Command::new("ip").args(["route", "flush", "proto", "186"]).status();
    assert!(flush.expect("ip").success(), "ip route flush");
}

/// Runs a scenario both ways in a network namespace of its own, and hands on what the broker was asked.
fn same(scenario: &'static str, check: impl FnOnce(&[String]) + Send + 'static) {
    alone(move || {
        let native = text(&command(scenario).output().expect("probe"));
        clear();
        let broker = Broker::start(free_port()).redirect_netlink();
        let run = under_shim(command(scenario), broker.path()).output().expect("probe");
        compare(scenario, &native, &run);
        assert!(native.ends_with("end\n"), "{scenario} goes through to its end: {native}");
        check(&broker.log());
    });
}

#[test]
fn names_and_port_ids() {
    same("names", |log| assert!(count(log, "netlink bind") >= 4, "{log:?}"));
}

#[test]
fn dumps() {
    same("dumps", |log| assert!(count(log, "netlink") > 0, "{log:?}"));
}

#[test]
fn routes_and_their_errors() {
    same("routes", |_| {});
}

#[test]
fn batches_without_acks() {
    same("batches", |_| {});
}

#[test]
fn several_datagrams_in_one_call() {
    same("several", |_| {});
}

#[test]
fn options_reach_the_real_socket() {
    same("options", |log| assert!(count(log, "set 270") >= 4, "{log:?}"));
}

#[test]
fn filters_see_netlink() {
    same("filters", |_| {});
}

#[test]
fn notifications() {
    same("notifications", |_| {});
}

#[test]
fn duplicates_children_and_reused_numbers() {
    same("duplicates", |_| {});
}

#[test]
fn other_families_stay_native() {
    same("others", |log| assert_eq!(count(log, "netlink"), 0, "{log:?}"));
}

#[test]
fn native_where_virtd_does_not_vote_on_the_fib() {
    alone(|| {
        let native = text(&command("routes").output().expect("probe"));
        clear();
        let broker = Broker::start(free_port());
        let run = under_shim(command("routes"), broker.path()).output().expect("probe");
        compare("routes", &native, &run);
        assert_eq!(broker.log(), ["hello"]);
    });
}
