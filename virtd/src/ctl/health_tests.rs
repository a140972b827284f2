use super::*;
use serde::de::DeserializeOwned;

/// What virtd answers, as it was written down (virtd/api/tests/form).
fn sample<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("api/tests/form").join(name).with_extension("json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("a sample")).expect("an answer")
}

/// The router of the samples, put right: what is wrong with it is what a test adds.
fn well() -> Facts {
    let mut status: api::Status = sample("status");
    (status.disagreements_now, status.native_bgp) = (0, Some(0));
    let api::Instances { mut instances } = sample("instances");
    for i in &mut instances {
        i.legs_up = i.legs;
        if i.state == "catching-up" {
            i.state = "voting".to_owned();
        }
    }
    let api::Sessions { mut sessions } = sample("sessions");
    for leg in sessions.iter_mut().flat_map(|s| &mut s.legs) {
        "Established".clone_into(&mut leg.state);
    }
    let mut fib: api::Fib = sample("fib");
    fib.instances.iter_mut().for_each(|i| i.dissents = 0);
    Facts { status, instances, sessions, fib: Some(fib) }
}

/// The conditions that hold once something was done to a router that is well.
fn after(change: impl Fn(&mut Facts)) -> Vec<(&'static str, Level)> {
    let mut facts = well();
    change(&mut facts);
    let health = facts.health();
    for p in &health.problems {
        assert!(CONDITIONS.contains(&p.condition) && health.line().contains(&one_line(&p.text)), "{p:?}");
    }
    health.problems.iter().map(|p| (p.condition, p.level)).collect()
}

#[test]
fn a_router_that_is_well_is_ok() {
    let health = well().health();
    assert_eq!((health.level, health.exit), (Level::Ok, 0), "{:?}", health.problems);
    let line = health.line();
    assert!(line.starts_with("OK - 3 instances vote, 3 of 3 sessions are up | disagreements=0 "), "{line}");
    assert!(line.contains(" votes=224c ") && line.ends_with('\n') && line.lines().count() == 1, "{line}");
}

#[test]
fn what_stands_in_the_samples_is_told() {
    let api::Sessions { sessions } = sample("sessions");
    let api::Instances { instances } = sample("instances");
    let facts = Facts { status: sample("status"), instances, sessions, fib: Some(sample("fib")) };
    let mut told: Vec<_> = facts.problems().iter().map(|p| p.condition).collect();
    told.sort_unstable();
    assert_eq!(told, ["disagreements", "fib-apart", "instance-apart"]);
    assert_eq!(facts.health().exit, 1);
}

type Case = (&'static str, Level, fn(&mut Facts));

/// One change for each condition, which is told then, alone.
const CASES: &[Case] = &[
    ("native-bgp", Level::Critical, |f| f.status.native_bgp = Some(2)),
    ("instance-missing", Level::Critical, |f| "absent".clone_into(&mut f.instances[0].state)),
    ("instance-missing", Level::Critical, |f| f.instances[1].legs_up = 0),
    ("instance-missing", Level::Warning, |f| "absent".clone_into(&mut f.instances[3].state)),
    ("instance-out", Level::Warning, |f| "drained".clone_into(&mut f.instances[0].role)),
    ("instance-out", Level::Warning, |f| "disabled".clone_into(&mut f.instances[0].role)),
    ("instance-apart", Level::Warning, |f| f.instances[0].legs_up = 1),
    ("not-level", Level::Warning, |f| "catching-up".clone_into(&mut f.instances[0].state)),
    ("one-alone", Level::Critical, |f| {
        f.sessions[1].legs.iter_mut().skip(1).for_each(|leg| "none".clone_into(&mut leg.state));
    }),
    ("verdicts-off", Level::Critical, |f| f.status.majority_split = true),
    ("policy-change", Level::Warning, |f| f.status.change_us = Some(7_200_000_000)),
    ("all-sessions-down", Level::Critical, |f| f.sessions.iter_mut().for_each(|s| s.up_us = None)),
    ("session-down", Level::Warning, |f| f.sessions[0].up_us = None),
    ("disagreements", Level::Warning, |f| f.status.disagreements_now = 3),
    ("no-quorum", Level::Warning, |f| f.status.without_quorum = 1),
    ("no-quorum", Level::Warning, |f| f.fib.as_mut().expect("it").without_quorum = 1),
    ("suspect", Level::Warning, |f| f.instances[0].suspect.push("memory".to_owned())),
    ("withheld", Level::Warning, |f| f.instances[0].withheld = 1),
    ("events-lost", Level::Warning, |f| f.status.events_dropped = Some(4)),
    ("events-lost", Level::Warning, |f| {
        let (file, failing) = ("/var/log/x".into(), Some("No space left on device".to_owned()));
        f.status.event_log = Some(api::EventLog { file, failing, lost: 0 });
    }),
    ("fib-refused", Level::Warning, |f| f.fib.as_mut().expect("it").failed = 1),
    ("fib-apart", Level::Warning, |f| f.fib.as_mut().expect("it").instances[0].dissents = 1),
];

#[test]
fn each_condition_is_told_by_its_name_and_how_bad_it_is() {
    for (condition, level, change) in CASES {
        assert_eq!(after(change), [(*condition, *level)], "{condition}");
    }
    // These two are told of a virtd that does not answer, below.
    let tried = |name| ["no-answer", "cannot-ask"].contains(name) || CASES.iter().any(|(c, ..)| c == name);
    assert!(CONDITIONS.iter().all(tried));
}

#[test]
fn what_an_operator_wants_is_nothing_critical() {
    assert_eq!(after(|f| f.sessions[0].shut = true), []);
    assert_eq!(after(|f| (f.sessions[0].shut, f.sessions[0].up_us) = (true, None)), []);
    for role in ["standby", "leaving", "successor"] {
        let absent =
            |f: &mut Facts| (f.instances[3].role, f.instances[3].state) = (role.to_owned(), "absent".to_owned());
        assert_eq!(after(absent), [], "{role}");
    }
    // Of one voter nobody can take anything: it always is alone.
    let single = |f: &mut Facts| {
        f.status.voters = 1;
        f.sessions.iter_mut().flat_map(|s| s.legs.iter_mut().skip(1)).for_each(|leg| leg.votes = false);
    };
    assert_eq!(after(single), []);
}

#[test]
fn the_worst_decides_and_all_is_said() {
    let mut facts = well();
    (facts.status.disagreements_now, facts.status.native_bgp) = (2, Some(1));
    let health = facts.health();
    assert_eq!((health.level, health.exit), (Level::Critical, 2));
    let line = health.line();
    assert!(line.starts_with("CRITICAL - 1 BGP socket goes past virtd; 2 disagreements | "), "{line}");
}

#[test]
fn one_is_not_said_as_many() {
    let mut facts = well();
    (facts.status.disagreements_now, facts.status.without_quorum) = (1, 1);
    let line = facts.health().line();
    assert!(line.contains("1 disagreement") && !line.contains("1 disagreements"), "{line}");
    assert!(line.contains("1 prefix without a majority"), "{line}");
}

#[test]
fn a_native_router_has_one_instance_and_nothing_to_vote_on() {
    let status: api::Status = sample("status_native");
    let attached = api::Instance { name: "frr".to_owned(), attached: true, ..Default::default() };
    let mut facts = Facts { status, instances: vec![attached], ..Facts::default() };
    assert_eq!(facts.health().exit, 0, "{:?}", facts.problems());
    facts.instances[0].attached = false;
    assert_eq!(facts.problems()[0].condition, "instance-missing");
}

#[test]
fn a_line_is_a_line_whatever_is_in_it() {
    let mut facts = well();
    let log = api::EventLog { file: "/x".into(), failing: Some("a|b\nc\u{1b}[0m".to_owned()), lost: 0 };
    facts.status.event_log = Some(log);
    let line = facts.health().line();
    assert!(line.starts_with("WARNING - the event log cannot be written (a/b c\u{fffd}[0m) | "), "{line}");
    assert_eq!((line.lines().count(), line.matches('|').count()), (1, 1));
}

#[test]
fn who_does_not_answer_is_critical_and_who_may_not_be_asked_is_unknown() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("control");
    let told = |health: Health| (health.exit, health.problems[0].condition);
    assert_eq!(told(look(&path, Duration::from_secs(1))), (2, "no-answer"));
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    // It hangs.
    let begun = Instant::now();
    let health = look(&path, Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(5) && health.line().contains("did not answer within 1 s"));
    assert_eq!(told(health), (2, "no-answer"));
    // It has died.
    drop(listener);
    assert_eq!(told(look(&path, Duration::from_secs(1))), (2, "no-answer"));
    std::fs::remove_file(&path).expect("it goes");
    std::fs::write(&path, "").expect("a file");
    assert_eq!(told(look(&path, Duration::from_secs(1))), (3, "cannot-ask"));
}

/// Who is woken by a condition looks it up.
#[test]
fn every_condition_is_documented_with_its_remedy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/MONITORING.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let (_, chapter) = text.split_once("\n## Monitoring\n").expect("a chapter");
    let chapter = chapter.split("\n## ").next().expect("its text");
    let rows: Vec<&str> = chapter.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(rows, CONDITIONS);
}
