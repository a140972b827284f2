use super::*;

fn instance(name: &str) -> Instance {
    Instance { name: name.into(), command: vec![format!("/bin/{name}")], ..Instance::default() }
}

fn config(names: &[&str]) -> Config {
    Config { instances: names.iter().map(|name| instance(name)).collect(), ..Config::default() }
}

fn who(name: &str, label: &str) -> Who {
    Who { name: name.into(), label: label.into() }
}

/// A worker with these instances, all of which run.
fn running(names: &[&str]) -> Seats {
    let mut seats = Seats::new(Roster::default());
    seats.begin(&config(names));
    for slot in 0..names.len() {
        seats.heard(slot, ProcessNews::Started { pid: 100 + slot as u32 });
    }
    seats
}

fn started(index: u8, pid: u32) -> Step {
    Step::Tell(index, ProcessNews::Started { pid })
}

#[test]
fn a_worker_can_name_nobody_but_who_is_configured() {
    let (mut seats, known) = (running(&["frr"]), config(&["frr", "bird"]));
    let mut seat = |who: Who| seats.seat(1, Some(&who), &[&known]);
    for (name, label) in
        [("sh", "sh"), ("bird", "frr"), ("bird", "bird+"), ("bird", "bird+2/../x"), ("bird", "birdx"), ("frr", "frr")]
    {
        assert!(seat(who(name, label)).is_err(), "{name:?} as {label:?}");
    }
    assert_eq!(seat(who("bird", "bird+2")), Ok(()));
    assert_eq!(seats.slot(1), Some(1));
    assert_eq!((seats.slot(2), seats.slot(255)), (None, None));
}

#[test]
fn a_new_worker_is_told_who_runs_and_the_others_are_started() {
    let mut seats = running(&["a", "b", "c"]);
    seats.heard(1, ProcessNews::Ended { unasked: true, text: String::new() });
    seats.heard(2, ProcessNews::Version { version: "3.1".into() });
    // Another order in the file is another order of the indices; d is new, and a is no more.
    let labels = seats.begin(&config(&["c", "b", "d"]));
    assert_eq!(labels, ["c", "b", "d"]);
    let version = Step::Tell(0, ProcessNews::Version { version: "3.1".into() });
    let free = seats.slot(2).unwrap();
    assert_eq!(seats.ready(), [started(0, 102), version, Step::Start(1), Step::Start(free), Step::Stop(0)]);
    assert_eq!(seats.heard(2, ProcessNews::Usage { cpu_permille: 1, rss_kib: 1 }).map(|(index, _)| index), Some(0));
    assert_eq!(seats.heard(0, ProcessNews::Usage { cpu_permille: 1, rss_kib: 1 }), None, "a is nobody to this worker");
}

#[test]
fn who_runs_under_another_label_keeps_it() {
    let mut seats = running(&["frr", "bird"]);
    // frr is swapped: its successor has a place of its own until the old one is gone.
    let known = config(&["frr", "bird"]);
    seats.seat(2, Some(&who("frr", "frr+2")), &[&known]).unwrap();
    let slot = seats.slot(2).unwrap();
    seats.heard(slot, ProcessNews::Started { pid: 200 });
    seats.heard(0, ProcessNews::Ended { unasked: false, text: String::new() });
    seats.seat(0, None, &[&known]).unwrap();
    assert_eq!(seats.begin(&known), ["frr+2", "bird"]);
    assert_eq!(seats.ready(), [started(0, 200), started(1, 101)]);
}

#[test]
fn who_runs_as_another_configuration_says_comes_back_and_was_not_asked_to() {
    let mut seats = running(&["frr"]);
    let mut changed = config(&["frr"]);
    changed.instances[0].command.push("--other".into());
    seats.begin(&changed);
    assert_eq!(seats.ready(), [started(0, 100), Step::Kill(0)]);
    let ended = ProcessNews::Ended { unasked: false, text: String::new() };
    assert_eq!(seats.heard(0, ended.clone()), Some((0, ProcessNews::Ended { unasked: true, text: String::new() })));
    seats.heard(0, ProcessNews::Started { pid: 101 });
    assert_eq!(seats.heard(0, ended.clone()), Some((0, ended)));
}

#[test]
fn who_rests_is_not_started_and_is_ended_where_it_runs() {
    let mut seats = running(&["a", "b"]);
    seats.heard(0, ProcessNews::Ended { unasked: false, text: String::new() });
    seats.begin(&config(&["a", "b"]));
    seats.rest(0);
    seats.rest(1);
    assert_eq!(seats.ready(), [Step::Stop(1)]);
}
