use super::plan::{Present, Step, instances, settings};
use crate::config::{Config, Diversity, Instance, Kind, Peer};

fn bird(name: &str) -> Instance {
    Instance { name: name.into(), kind: Some(Kind::Bird), ..Instance::default() }
}

fn other(name: &str) -> Instance {
    Instance { root: Some("/opt/other".into()), ..bird(name) }
}

fn there(list: &[Instance]) -> Vec<Present<'_>> {
    let present = |(at, config)| Present { at, config, leaves: false, successor: None };
    list.iter().enumerate().map(present).collect()
}

fn labels(list: &[Instance]) -> Vec<String> {
    list.iter().map(|i| i.label().to_owned()).collect()
}

fn plan(old: &[Instance], new: &[Instance], free: usize) -> (Vec<String>, Vec<String>) {
    let (steps, later) = instances(&there(old), new, &labels(old), free).expect("a plan");
    (steps.iter().map(|s| s.words(|i| old[i].label())).collect(), later)
}

#[test]
fn what_is_as_it_was_is_left_alone_and_order_does_not_matter() {
    let list = [bird("a"), bird("b"), other("c")];
    let turned: Vec<Instance> = list.iter().rev().cloned().collect();
    assert_eq!(plan(&list, &turned, 28), (vec![], vec![]));
}

#[test]
fn who_comes_goes_and_is_swapped() {
    let old = [bird("a"), bird("b")];
    let (steps, later) = plan(&old, &[other("a"), bird("c")], 29);
    assert_eq!(
        steps,
        [
            "b is removed, once those that come have caught up",
            "a is replaced by a+2 (bird of /opt/other), once that has caught up",
            "c is added (bird)"
        ]
    );
    assert!(later.is_empty());
}

#[test]
fn another_version_is_a_swap() {
    let of = |version: &str| Instance { version: Some(version.into()), root: Some(version.into()), ..bird("a") };
    let (steps, later) = plan(&[of("/v/bullseye")], &[of("/v/trixie")], 30);
    assert_eq!(steps, ["a is replaced by a+2 (bird of /v/trixie), once that has caught up"]);
    assert!(later.is_empty());
    assert_eq!(plan(&[of("/v/trixie")], &[of("/v/trixie")], 30).0, [""; 0]);
}

/// What else an instance got to differ by: none of it can change while its daemon runs.
#[test]
fn another_link_reset_is_a_swap() {
    let of = |ms| Instance {
        diversity: Some(Diversity { link_reset_ms: Some((ms, ms)), ..Diversity::default() }),
        ..bird("a")
    };
    let (steps, _) = plan(&[of(0)], &[of(1)], 30);
    assert_eq!(steps, ["a is replaced by a+2 (bird), once that has caught up"]);
    assert_eq!(plan(&[of(1)], &[of(1)], 30).0, [""; 0]);
}

#[test]
fn without_a_free_place_a_swap_is_a_new_start_and_nobody_can_be_added() {
    let old = [bird("a")];
    assert_eq!(plan(&old, &[other("a")], 0).0, ["a is ended and started anew (bird of /opt/other)"]);
    let error = instances(&there(&old), &[bird("a"), bird("b")], &labels(&old), 0).expect_err("no place");
    assert!(error.contains("no places left"), "{error}");
}

#[test]
fn one_that_comes_back_while_its_predecessor_ends_gets_another_label_if_it_may() {
    let ending = ["a".to_owned(), "a+2".to_owned()];
    let (steps, _) = instances(&[], &[bird("a")], &ending, 29).expect("a plan");
    assert!(matches!(&steps[..], [Step::Add(i)] if i.label() == "a+3" && i.name == "a"), "{steps:?}");
    for bound in [Instance { kind: Some(Kind::OpenBgpd), ..bird("a") }, Instance { kind: None, ..bird("a") }] {
        let error = instances(&[], &[bound], &ending, 29).expect_err("its label must be its name");
        assert!(error.contains("still being ended"), "{error}");
    }
}

#[test]
fn what_was_begun_can_be_taken_back_and_is_not_begun_twice() {
    let (old, new) = ([bird("a")], Instance { label: Some("a+2".into()), ..other("a") });
    let under_way = || vec![Present { successor: Some((1, &new)), ..there(&old).remove(0) }];
    let both = ["a".to_owned(), "a+2".to_owned()];
    let steps = |wanted: &Instance| instances(&under_way(), std::slice::from_ref(wanted), &both, 28).expect("a plan").0;
    assert_eq!(steps(&other("a")), []);
    assert_eq!(steps(&bird("a")), [Step::Recall(1)]);
    let third = Instance { root: Some("/opt/third".into()), ..bird("a") };
    let third_time = steps(&third);
    assert!(matches!(&third_time[..], [Step::Recall(1), Step::Swap(0, i)] if i.label() == "a+3"), "{third_time:?}");
    let mut leaving = there(&old);
    leaving[0].leaves = true;
    assert_eq!(instances(&leaving, &old, &labels(&old), 28).expect("a plan").0, [Step::Keep(0)]);
    assert_eq!(instances(&leaving, &[], &labels(&old), 28).expect("a plan").0, []);
}

#[test]
fn roles_and_limits_are_adjusted_and_what_somebody_else_starts_is_not_started() {
    let elsewhere = Instance { name: "x".into(), ..Instance::default() };
    let (old, mut new) = ([bird("a"), elsewhere.clone()], [bird("a"), elsewhere]);
    new[0].observer = true;
    new[1].diversity = Some(Diversity::default());
    let (steps, later) = plan(&old, &new, 29);
    assert_eq!(steps, ["a: role or limits are as configured now"]);
    assert_eq!(later, ["instance x: diversity, fib_scope, user"]);
    new[0].kind = None;
    assert!(plan(&old, &new, 29).1.contains(&"instance a: who starts it".to_owned()));
}

#[test]
fn every_setting_is_either_taken_over_or_named() {
    let old = Config::default();
    let mut new = old.clone();
    assert_eq!(settings(&old, &new), (vec![], vec![]));
    let peer = |n: u8| Peer {
        address: [192, 0, 2, n].into(),
        port: None,
        asn: None,
        description: None,
        allow_own_as: false,
        bfd: None,
    };
    new.peers = vec![peer(1)];
    (new.vote.t_ms, new.timers.grace_ms, new.faults.min_keys, new.accept_any) = (20_000, 1, 1, true);
    (new.asn, new.router_id, new.port) = (Some(1), Some([1, 1, 1, 1].into()), 1);
    (new.listen, new.shim_socket, new.control_socket) = (vec![], "/a".into(), "/b".into());
    (new.control_mode, new.control_group, new.event_log) = (0o600, Some("g".into()), Some("/c".into()));
    (new.user, new.group) = (Some("u".into()), Some("g".into()));
    (new.open, new.inbound) = (crate::config::OpenMode::Native, crate::config::Inbound::Opaque);
    (new.ignore_attributes, new.recorder.minutes, new.fib) = (vec![8], 1, Some(Default::default()));
    let (now, later) = settings(&old, &new);
    assert_eq!(now.len(), 5, "{now:?}");
    assert_eq!(later.len(), 16, "{later:?}");
}
