use super::*;
use serde_json::json;

const NEXT_HOP: &str = "10.0.3.1";

fn route(path: &str) -> Value {
    json!({"as_path": path, "next_hop": NEXT_HOP, "origin": "IGP"})
}

fn change(at_us: u64, prefix: &str, route: Option<Value>) -> Change {
    Change { at_us, prefix: prefix.to_owned(), route }
}

fn judged(changes: &[Change]) -> Seen {
    let reference = Table::from([("192.0.2.0/24".to_owned(), route("65000 65001 1"))]);
    let probes = Probes::from([("198.18.3.0/24".to_owned(), Some(5_000_000)), ("198.18.4.0/24".to_owned(), None)]);
    let mut seen = Seen::default();
    let should = Should { reference: &reference, probes: &probes, next_hop: NEXT_HOP };
    judge("n", changes, &should, 10_000_000, &mut seen);
    seen
}

#[test]
fn a_withdraw_of_what_should_stand_is_a_lost_route() {
    let seen = judged(&[change(1_000_000, "192.0.2.0/24", None)]);
    assert_eq!((seen.lost.len(), seen.standing, seen.longest), (1, true, Duration::from_secs(9)));
}

#[test]
fn what_is_put_right_is_measured() {
    let back = Some(route("65000 65001 1"));
    let seen = judged(&[
        change(1_000_000, "192.0.2.0/24", Some(route("65000 64999 1"))),
        change(3_500_000, "192.0.2.0/24", back),
        change(4_000_000, "203.0.113.0/24", Some(route("65000"))),
        change(5_000_000, "203.0.113.0/24", None),
    ]);
    assert_eq!((seen.lost.len(), seen.wrong.len(), seen.standing), (0, 2, false));
    assert_eq!(seen.longest, Duration::from_millis(2_500));
}

#[test]
fn a_probe_is_right_only_as_and_while_it_was_announced() {
    let probe = || Some(route("65000 65002"));
    let good = judged(&[change(1, "198.18.3.0/24", probe()), change(5_000_001, "198.18.3.0/24", None)]);
    assert!(good.wrong.is_empty() && good.lost.is_empty() && good.needless.is_empty());
    assert_eq!(judged(&[change(1, "198.18.3.0/24", Some(route("65000 64999 65002")))]).wrong.len(), 1);
    assert_eq!(judged(&[change(6_000_000, "198.18.3.0/24", probe())]).wrong.len(), 1);
    assert_eq!(judged(&[change(1, "198.18.5.0/24", probe())]).wrong.len(), 1);
    assert_eq!(judged(&[change(1, "198.18.4.0/24", probe()), change(2, "198.18.4.0/24", None)]).lost.len(), 1);
}

#[test]
fn an_update_that_says_nothing_new_is_needless() {
    assert_eq!(judged(&[change(1, "192.0.2.0/24", Some(route("65000 65001 1")))]).needless.len(), 1);
    assert_eq!(judged(&[change(1, "203.0.113.0/24", None)]).needless.len(), 1);
}
