use super::*;
use crate::eventlog::{self, EventLog};
use broker::io::Death;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::kill;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use virtd_config::Environment;

/// A shim's socket of each test's own: what is left of another virtd with the same one is ended.
pub(super) fn socket() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("/tmp/hv-test-{}-{}.sock", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// An empty library stands in for the shim: what matters here is that the process gets its path.
fn config(instances: Vec<Instance>) -> Config {
    Config { instances, shim_socket: socket(), ..Config::default() }
}

fn shell(name: &str, script: &str) -> Instance {
    Instance { name: name.into(), command: vec!["/bin/sh".into(), "-c".into(), script.into()], ..Instance::default() }
}

/// What stands in for the core: takes the reports, gives orders.
struct Core {
    orders: Sender<(InstanceId, Order)>,
    reports: Receiver<Report>,
    wishes: Sender<(InstanceId, IpAddr)>,
}

impl Core {
    fn new() -> (Core, CoreLine) {
        let ((orders, ordered), (reporter, reports)) = (crossbeam_channel::unbounded(), crossbeam_channel::unbounded());
        // Never a wish: the sender is kept so that the line is not taken for one that has ended.
        let (wishes, neighbours) = crossbeam_channel::unbounded();
        let line = CoreLine { orders: ordered, neighbours, reports: reporter };
        (Core { orders, reports, wishes }, line)
    }

    fn order(&self, i: u8, order: Order) {
        self.orders.send((InstanceId(i), order)).unwrap();
    }

    /// The next news that is no usage.
    fn news(&self) -> (u8, ProcessNews) {
        loop {
            let report = self.reports.recv_timeout(Duration::from_secs(20)).unwrap();
            if !matches!(report.news, ProcessNews::Usage { .. }) {
                return (report.instance.0, report.news);
            }
        }
    }

    fn started(&self) -> String {
        match self.news().1 {
            ProcessNews::Started { pid } => pid.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

fn launch(list: Vec<Instance>) -> (Instances, EventLog) {
    let (instances, log, core) = supervise(list);
    // Nobody orders anything.
    std::mem::forget((core.orders.clone(), core.wishes.clone()));
    (instances, log)
}

fn supervise(list: Vec<Instance>) -> (Instances, EventLog, Core) {
    let (events, log, _) = eventlog::start(None).unwrap();
    // An existing library without hooks: a missing one would only make ld.so complain.
    let shim = fs::canonicalize("/lib/x86_64-linux-gnu/libdl.so.2").unwrap_or_else(|_| "/nonexistent".into());
    let (core, line) = Core::new();
    let config = config(list);
    let roster = Roster::new(&config);
    (Instances::start(&config, roster, &shim, Instant::now(), events, line).unwrap(), log, core)
}

fn event(log: &EventLog, kind: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = log.last(1, Some(kind)).first() {
            return serde_json::from_str(&found.json).unwrap();
        }
        assert!(Instant::now() < deadline, "no {kind} in {:?}", log.last(99, None));
        log.after(log.last_seq(), Duration::from_millis(100));
    }
}

fn contents(path: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.ends_with("end\n") => return text,
            _ => assert!(Instant::now() < deadline, "{} was never written", path.display()),
        }
        std::thread::sleep(GROUP_CHECK);
    }
}

fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

#[test]
fn an_instance_gets_its_environment_and_a_session_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seen");
    let script = format!(
        "{{ echo $HV_SOCKET $HV_INSTANCE $A; echo $LD_PRELOAD; pwd; cut -d' ' -f1,5,6 /proc/$$/stat; echo end; }} > {}.new; mv {}.new {}; sleep 99",
        file.display(),
        file.display(),
        file.display()
    );
    let mut instance = shell("frr", &script);
    instance.env = [("A", "b c"), ("LD_PRELOAD", "libm.so.6")].map(|(k, v)| (k.into(), v.into())).into();
    let (instances, log) = launch(vec![instance]);
    let text = contents(&file);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("/tmp/hv-test-") && lines[0].ends_with(".sock frr b c"), "{text}");
    assert!(lines[1].starts_with('/') && lines[1].ends_with(":libm.so.6"), "{text}");
    assert_eq!(lines[2], "/");
    let ids: Vec<&str> = lines[3].split(' ').collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "pid, group and session differ: {ids:?}");
    assert_eq!(event(&log, "instance-started")["instance"], "frr");
    let before = Instant::now();
    instances.stop();
    assert!(before.elapsed() < TERM_PATIENCE, "SIGTERM should have been enough");
    assert!(!is_alive(ids[0]));
    event(&log, "instance-stopped");
}

#[test]
fn an_exit_is_an_event_and_takes_the_group_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!("sleep 99 & echo $! > {0}; echo end >> {0}; exit 7", file.display());
    let (instances, log) = launch(vec![shell("bird", &script)]);
    let exited = event(&log, "instance-exited");
    assert!(exited["text"].as_str().unwrap().contains("has exited with status 7"), "{exited}");
    assert_eq!((exited["severity"].as_str(), exited["instance"].as_str()), (Some("warning"), Some("bird")));
    let text = contents(&file);
    let child = text.lines().next().unwrap().to_owned();
    let deadline = Instant::now() + TERM_PATIENCE * 2;
    while is_alive(&child) {
        assert!(Instant::now() < deadline, "process {child} outlived its instance");
        std::thread::sleep(GROUP_CHECK);
    }
    instances.stop();
}

#[test]
fn a_signal_is_named() {
    let (instances, log) = launch(vec![shell("frr", "kill -SEGV $$")]);
    let text = event(&log, "instance-exited")["text"].as_str().unwrap().to_owned();
    assert!(text.contains("was ended by SIGSEGV"), "{text}");
    instances.stop();
}

#[test]
fn who_ignores_sigterm_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!("trap '' TERM; echo $$ > {0}; echo end >> {0}; while :; do sleep 1; done", file.display());
    let (instances, _log) = launch(vec![shell("deaf", &script)]);
    let pid = contents(&file).lines().next().unwrap().to_owned();
    let before = Instant::now();
    instances.stop();
    assert!(before.elapsed() >= TERM_PATIENCE && before.elapsed() < TERM_PATIENCE * 3);
    assert!(!is_alive(&pid));
}

#[test]
fn what_cannot_start_is_an_event_and_the_others_run() {
    let missing = Instance { name: "gone".into(), command: vec!["/nonexistent/bgpd".into()], ..Instance::default() };
    let nobody = Instance { user: Some("no-such-user".into()), ..shell("user", "sleep 99") };
    let (instances, log) = launch(vec![missing, nobody, shell("frr", "sleep 99")]);
    assert_eq!(event(&log, "instance-started")["instance"], "frr");
    let failed: Vec<_> = log.last(9, Some("instance-failed")).iter().map(|r| r.json.to_string()).collect();
    assert_eq!(failed.len(), 2);
    assert!(failed[0].contains("gone cannot be started: No such file"), "{failed:?}");
    assert!(failed[1].contains("there is no user \\\"no-such-user\\\""), "{failed:?}");
    instances.stop();
}

#[test]
fn a_user_is_taken_with_its_groups() {
    if !untested::needs_root(nix::unistd::geteuid().is_root()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let file = dir.path().join("id");
    let script = format!("{{ id -un; id -Gn; echo end; }} > {0}.new; mv {0}.new {0}; sleep 99", file.display());
    let (instances, _log) = launch(vec![Instance { user: Some("nobody".into()), ..shell("frr", &script) }]);
    assert_eq!(contents(&file), "nobody\nnogroup\nend\n");
    instances.stop();
}

#[test]
fn orders_are_obeyed_and_what_happens_is_reported() {
    let standby = Instance { standby: Some(Standby::Cold), ..shell("cold", "sleep 99") };
    let (instances, _log, core) = supervise(vec![shell("frr", "sleep 99"), standby]);
    let first = core.started();
    core.order(0, Order::Kill);
    let (i, news) = core.news();
    assert!(matches!(&news, ProcessNews::Ended { unasked: false, text } if text.contains("SIGKILL")), "{news:?}");
    assert_eq!(i, 0);
    assert!(!is_alive(&first));
    core.order(0, Order::Start);
    let second = core.started();
    core.order(0, Order::Start);
    core.order(0, Order::Stop);
    assert!(matches!(core.news().1, ProcessNews::Ended { unasked: false, .. }), "a second start is no news");
    assert!(!is_alive(&second));
    core.order(1, Order::Start);
    assert_eq!(core.news().0, 1, "the cold standby waited for its order");
    instances.stop();
}

#[test]
fn an_end_of_its_own_is_reported_as_such_and_may_be_followed_by_a_start_at_once() {
    let (instances, _log, core) = supervise(vec![shell("frr", "sleep 0.2; kill -SEGV $$")]);
    for _ in 0..5 {
        core.started();
        assert_eq!(core.news().1, ProcessNews::Died { death: Death::Crash });
        let (_, news) = core.news();
        assert!(matches!(&news, ProcessNews::Ended { unasked: true, text } if text.contains("SIGSEGV")), "{news:?}");
        core.order(0, Order::Start);
    }
    core.started();
    instances.stop();
}

#[test]
fn a_start_that_overtakes_the_end_is_none_the_less_obeyed() {
    let (events, _log, _) = eventlog::start(None).unwrap();
    let (core, line) = Core::new();
    let roster = Roster::new(&config(vec![shell("short", "exit 3")]));
    let preload = Preload { shim: "/nonexistent".into(), socket: "/nonexistent".into() };
    let reporter = Reporter::new(Instant::now(), events, line.reports);
    let groups = Groups(Arc::new(Mutex::new(left::Groups::new(left::record_beside(&socket())))));
    let mut keeper = Keeper::new(roster, preload, reporter, groups);
    keeper.start(0);
    core.started();
    assert_eq!(core.news().1, ProcessNews::Died { death: Death::Exit });
    assert!(matches!(core.news().1, ProcessNews::Ended { .. }));
    // Busy with somebody else, the keeper has not looked at the end yet.
    keeper.obey(0, Order::Start);
    core.started();
    keeper.end_all();
}

#[test]
fn who_does_not_stop_when_ordered_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ready");
    let script = format!("trap '' TERM; echo end > {}; while :; do sleep 1; done", file.display());
    let (instances, _log, core) = supervise(vec![shell("deaf", &script)]);
    let pid = core.started();
    contents(&file);
    core.order(0, Order::Stop);
    assert!(matches!(core.news().1, ProcessNews::Ended { unasked: false, .. }));
    assert!(!is_alive(&pid));
    instances.stop();
}

#[test]
fn a_death_is_told_before_the_end_of_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ready");
    // The child outlives its parent by as much as it is given.
    let script = format!("(trap '' TERM; echo end > {}; while :; do sleep 1; done) & wait", file.display());
    let (instances, _log, core) = supervise(vec![shell("frr", &script)]);
    let pid = core.started();
    contents(&file);
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(core.news().1, ProcessNews::Died { death: Death::FromOutside });
    assert!(matches!(core.news().1, ProcessNews::Ended { unasked: true, .. }));
    instances.stop();
}

#[test]
fn a_wish_for_a_neighbours_restart_has_an_outcome_and_holds_up_nobody() {
    let (instances, log, core) = supervise(vec![shell("frr", "sleep 99")]);
    core.started();
    core.wishes.send((InstanceId(0), "10.0.1.2".parse().unwrap())).unwrap();
    let event = event(&log, "neighbour-restart-failed");
    assert_eq!((&event["instance"], &event["session"]), (&"frr".into(), &"10.0.1.2".into()));
    assert!(event["text"].as_str().unwrap().contains("no `kind`"), "{event}");
    core.order(0, Order::Kill);
    assert!(matches!(core.news().1, ProcessNews::Ended { unasked: false, .. }));
    instances.stop();
}

#[test]
fn what_all_processes_use_is_reported() {
    let (instances, _log, core) = supervise(vec![shell("busy", "sh -c 'while :; do :; done' & wait")]);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(Instant::now() < deadline, "a busy loop was never seen");
        let report = core.reports.recv_timeout(Duration::from_secs(20)).unwrap();
        if matches!(report.news, ProcessNews::Usage { cpu_permille, rss_kib } if cpu_permille > 50 && rss_kib > 100) {
            break;
        }
    }
    instances.stop();
}

#[test]
fn preflight_finds_what_can_be_known() {
    let dir = tempfile::tempdir().unwrap();
    let shim = dir.path().join("libhvlibc.so");
    // A library's header, and nothing behind it.
    let mut head = fs::read("/proc/self/exe").unwrap()[..64].to_vec();
    head[56..58].fill(0);
    fs::write(&shim, &head).unwrap();
    fs::set_permissions(&shim, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let one = |command: &str, user: Option<&str>| Instance {
        name: "x".into(),
        command: vec![command.into()],
        user: user.map(str::to_owned),
        ..Instance::default()
    };
    let table = [
        (one("/bin/sh", None), ""),
        (one("sh", None), ""),
        (one("/nonexistent/x", None), "instance x: /nonexistent/x: No such file or directory (os error 2)"),
        (one("/etc/passwd", None), "instance x: /etc/passwd is not an executable file"),
        (one("./bgpd", None), "instance x: ./bgpd is a relative path; instances start in /"),
        (one("/bin/sh", Some("no-such-user")), "instance x: user: there is no user \"no-such-user\" on this system"),
        (one("/bin/sh", Some("nobody")), "instance x: user nobody may not read "),
    ];
    for (instance, expected) in table {
        let found = preflight::check(&config(vec![instance]), &shim).join("\n");
        assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{found:?} for {expected:?}");
    }
}

#[test]
fn the_shim_is_looked_for_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.so");
    let error = preflight::find_shim(Some(&path)).unwrap_err();
    assert_eq!(error.tried, std::slice::from_ref(&path));
    fs::write(&path, "").unwrap();
    assert!(preflight::find_shim(Some(&path)).unwrap().is_absolute());
    if let Err(error) = preflight::find_shim(None) {
        assert_eq!(error.tried.len(), 3);
        assert!(error.to_string().contains("/usr/lib/virtd/libhvlibc.so; name it with --shim PATH"), "{error}");
    }
}

#[test]
fn stat_lines_are_read_whatever_the_name() {
    let group = Pid::from_raw(42);
    let table = [
        ("9 (sh) S 1 42 42 0", true),
        ("9 (a) Z 1 42) (b) R 1 42 9", true),
        ("9 (sh) Z 1 42 42 0", false),
        ("9 (sh) S 42 1 42 0", false),
        ("", false),
        ("9 (sh", false),
    ];
    for (stat, expected) in table {
        assert_eq!(runs_in(stat, group), expected, "{stat}");
    }
}

#[test]
fn output_cannot_drive_a_terminal() {
    assert_eq!(output::printable(b"plain\ttext \x1b[2J\x07\xff\n"), "plain\ttext \u{fffd}[2J\u{fffd}\u{fffd}");
}

/// What `environment` says is true of the process itself.
#[test]
fn an_instance_has_the_surroundings_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, other) = (folder.path().join("plain"), folder.path().join("other"));
    let script = |file: &Path| {
        let told = "cat /proc/self/personality; nice; grep Cpus_allowed_list /proc/self/status; echo $MALLOC_PERTURB_ ${#HV_STACK_OFFSET}; echo end";
        format!("({told}) > {0}.new; mv {0}.new {0}; exec sleep 1000", file.display())
    };
    let mine = sched_getaffinity(Pid::this()).unwrap();
    let cpu = (0..CpuSet::count()).rfind(|n| mine.is_set(*n).unwrap()).unwrap();
    let environment = Environment {
        malloc_perturb: Some(165),
        stack_offset: 5000,
        fixed_layout: true,
        cpus: vec![cpu as u16],
        nice: 7,
    };
    let list = vec![shell("plain", &script(&plain)), Instance { environment, ..shell("other", &script(&other)) }];
    let (instances, _log) = launch(list);
    let lines = contents(&other);
    let lines: Vec<&str> = lines.lines().collect();
    let own_nice: i32 = contents(&plain).lines().nth(1).unwrap().parse().unwrap();
    let nice = lines[1].parse::<i32>().unwrap();
    assert_eq!((lines[0], nice), ("00040000", 7), "personality and priority (this test's own is {own_nice})");
    assert_eq!(lines[2].split_whitespace().last(), Some(cpu.to_string().as_str()));
    assert_eq!(lines[3], "165 5000");
    let plain = contents(&plain);
    assert!(plain.starts_with("00000000\n") && plain.ends_with("\n0\nend\n"), "{plain}");
    drop(instances);
}

#[test]
fn a_processor_that_is_not_there_is_found_before_the_start() {
    let environment = Environment { cpus: vec![1023], ..Environment::default() };
    let found = preflight::check(&config(vec![Instance { environment, ..shell("frr", "true") }]), Path::new("/lib"));
    assert!(found.iter().any(|p| p.contains("processor 1023")), "{found:?}");
}

#[test]
fn a_version_is_what_the_program_says_it_is() {
    let table = [
        ("bgpd version 8.4.4\nCopyright 1996-2005 Kunihiro Ishiguro, et al.\n", Some("8.4.4")),
        ("BIRD version 2.0.12\n", Some("2.0.12")),
        ("OpenBGPD 7.7\n", Some("7.7")),
        ("bgpd version 10.3, built today\n", Some("10.3")),
        ("no number", None),
        ("", None),
    ];
    for (said, version) in table {
        assert_eq!(version::number(said).as_deref(), version, "{said:?}");
    }
    assert_eq!(version::number(&"1".repeat(500)).map(|v| v.len()), Some(32));
    assert_eq!(version::ask(&shell("x", "echo 1.2")).unwrap(), None, "only a kind has a known way to ask");
}
