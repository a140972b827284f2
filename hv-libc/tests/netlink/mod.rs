//! Route sockets natively, against the real kernel, and under the shim with a broker that relays to
//! it.

mod daemons;

use super::broker::Broker;
use super::{alone, compare, compiled, count, free_port, plain, text, under_shim, until_ready};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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

/// Runs a scenario both ways in a network namespace of its own, and hands on what the broker was
/// asked.
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
fn answers_that_are_known_are_not_waited_for() {
    alone(|| {
        let native = text(&command("habit").output().expect("probe"));
        clear();
        let broker = Broker::start(free_port()).redirect_netlink().let_answer_ahead();
        let run = under_shim(command("habit"), broker.path()).output().expect("probe");
        compare("habit", &native, &run);
        assert!(native.ends_with("end\n"), "{native}");
        // All but the first of two next hops, and those after another habit.
        let ahead = count(&broker.log(), "answered ahead");
        assert!((1..=120).contains(&ahead), "{ahead}");
        assert_eq!(count(&broker.log(), "taken back"), 0);
        clear();
        let broker = Broker::start(free_port()).redirect_netlink();
        let run = under_shim(command("habit"), broker.path()).output().expect("probe");
        compare("habit", &native, &run);
        assert_eq!(count(&broker.log(), "answered ahead"), 0, "only where virtd allows it");
    });
}

#[test]
fn what_is_taken_back_is_believed() {
    alone(|| {
        let broker = Broker::start(free_port()).redirect_netlink().let_answer_ahead();
        // A process that is stopped between two calls is in no hurry, and asks: then once more.
        let hasty = |_: &u32| {
            clear();
            let run = text(&under_shim(command("hasty"), broker.path()).output().expect("probe"));
            run.contains("there already: seq 200 error 0\n").then_some(run)
        };
        let run = (0..20).find_map(|n| hasty(&n)).expect("one answer ahead of the truth");
        let log = broker.log();
        assert!(count(&log, "taken back") >= 1 && count(&log, "answered ahead") > 1, "{run}");
        let told = |word: &str, seq: u32, errno: &str| run.contains(&format!("{word}: seq {seq} error {errno}\n"));
        assert!(told("there already", 200, "0") && run.contains("poll 1\n"), "{run}");
        assert!((300..320).all(|seq| told("there already", seq, "EEXIST")), "{run}");
        assert!((400..420).all(|seq| told("add", seq, "0")), "{run}");
    });
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

#[test]
fn lost_notifications() {
    alone(|| {
        let broker = Broker::start(free_port()).redirect_netlink();
        let run = under_shim(command("lost"), broker.path()).output().expect("probe");
        let expected =
            "recv: -1 ENOBUFS\nagain: -1 EAGAIN\nrecv into no room: -1 ENOBUFS\npeek: -1 ENOBUFS\nagain: -1 EAGAIN\n\
                        filter: 0\nthrough a filter: -1 ENOBUFS\n\
                        one link: positive\nrecvmmsg 1\nthen: -1 ENOBUFS\nagain: -1 EAGAIN\nend\n";
        assert_eq!(text(&run), expected);
    });
}

#[test]
fn virtd_dies() {
    alone(|| {
        let broker = Broker::start(free_port()).redirect_netlink();
        let mut run = under_shim(command("orphan"), broker.path());
        let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("probe");
        let (mut out, mut word) = (child.stdout.take().expect("piped"), child.stdin.take().expect("piped"));
        let mut seen = String::new();
        until_ready(&mut out, &mut seen, 1);
        drop(broker);
        word.write_all(b"x").expect("pipe");
        out.read_to_string(&mut seen).expect("pipe");
        let run = child.wait_with_output().expect("probe");
        let errors = String::from_utf8_lossy(&run.stderr);
        let (_, after) = seen.split_once("ready\n").expect("ready");
        let calls = ["recv", "recv at once", "send", "send without ack", "getsockname", "bind", "option", "socket"]
            .map(|c| format!("{c}: -1 ENETDOWN\n"));
        let others = text(&command("others").output().expect("probe"));
        assert_eq!(after, format!("poll 1\n{}{others}", calls.concat()), "{errors}");
        assert_eq!(errors.lines().count(), 2, "{errors}");
        assert!(errors.contains("restart this daemon") && errors.contains("virtd does not answer"), "{errors}");
    });
}

#[test]
fn virtd_was_never_there() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = under_shim(command("absent"), &dir.path().join("nobody")).output().expect("probe");
    let others = text(&command("others").output().expect("probe"));
    assert_eq!(text(&run), format!("socket: -1 ENETDOWN\n{others}"), "never silently native");
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(errors.lines().count() == 1 && errors.contains("nobody"), "{errors}");
}

#[test]
fn the_number_of_a_refused_route_socket() {
    let broker = Broker::start(free_port()).redirect_netlink().refuse_netlink();
    let run = under_shim(command("refused"), broker.path()).output().expect("probe");
    assert_eq!(text(&run), "refused: -1 ENOBUFS\nits number: positive\nat the other end 4\nend\n");
}

#[test]
fn route_sockets_of_another_network_namespace() {
    alone(|| {
        let broker = Broker::start(free_port()).redirect_netlink();
        let run = under_shim(command("elsewhere"), broker.path()).output().expect("probe");
        assert_eq!(text(&run), "here: positive\nthere: -1 ENETDOWN\nend\n");
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(errors.lines().count() == 1 && errors.contains("another network namespace"), "{errors}");
        assert_eq!(count(&broker.log(), "netlink"), 1, "virtd hears of its own namespace's socket only");
    });
}
