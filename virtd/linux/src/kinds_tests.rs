use super::*;
use virtd_config::Config;
use virtd_config::FibScope;

fn instance(kind: Kind, user: Option<&str>) -> Instance {
    Instance {
        name: "x".into(),
        kind: Some(kind),
        config_file: Some("/etc/virtd/x.conf".into()),
        user: user.map(str::to_owned),
        ..Instance::default()
    }
}

fn lines(instance: &Instance) -> Vec<String> {
    programs(instance, Path::new("/run/v/x")).iter().map(|p| p.command.join(" ")).collect()
}

#[test]
fn command_lines_by_kind() {
    let frr = [
        "/usr/lib/frr/zebra -f /dev/null -z /run/v/x/zserv.api -i /run/v/x/zebra.pid --vty_socket /run/v/x -P 0",
        "/usr/lib/frr/bgpd --no_kernel -f /etc/virtd/x.conf -z /run/v/x/zserv.api -i /run/v/x/bgpd.pid --vty_socket /run/v/x -P 0",
    ];
    assert_eq!(lines(&instance(Kind::Frr, None)), frr);
    let root = lines(&instance(Kind::Frr, Some("root")));
    assert_eq!(root, frr.map(|line| format!("{line} -u root -g root")));
    let bird = "/usr/sbin/bird -f -c /etc/virtd/x.conf -s /run/v/x/bird.ctl -P /run/v/x/bird.pid";
    assert_eq!(lines(&instance(Kind::Bird, None)), [bird]);
    assert_eq!(lines(&instance(Kind::OpenBgpd, None)), ["/usr/sbin/bgpd -d -f /etc/virtd/x.conf"]);
}

#[test]
fn zebra_goes_first_and_does_without_the_shim() {
    let list = programs(&instance(Kind::Frr, None), Path::new("/run/v/x"));
    let found: Vec<_> = list.iter().map(|p| (p.name(), p.preload, p.after.clone())).collect();
    assert_eq!(found, [("zebra", false, None), ("bgpd", true, Some("/run/v/x/zserv.api".into()))]);
}

#[test]
fn with_a_fib_zebra_is_redirected_and_bgpd_writes() {
    let both = |fib_scope| {
        let frr = Instance { netlink: true, fib_scope, ..instance(Kind::Frr, None) };
        let list = programs(&frr, Path::new("/run/v/x"));
        list.iter().map(|p| (p.preload, p.command.iter().any(|w| w == "-r" || w == "--no_kernel"))).collect::<Vec<_>>()
    };
    assert_eq!(both(FibScope::ALL), [(true, true), (true, false)]);
    assert_eq!(both(FibScope::NONE), [(true, true), (true, true)]);
}

#[test]
fn a_command_is_a_plan_of_one() {
    let own = Instance { command: vec!["bgpd".into(), "-f".into()], ..Instance::default() };
    assert_eq!(lines(&own), ["bgpd -f"]);
    assert!(lines(&Instance::default()).is_empty(), "something else starts it");
}

#[test]
fn who_talks_to_it() {
    let words = ["show".to_owned(), "bgp summary".to_owned()];
    let line = |kind, words| control_line(control(kind, Path::new("/run/v/x")), words).join("|");
    assert_eq!(
        line(Kind::Frr, &words),
        "vtysh|--vty_socket|/run/v/x|--config_dir|/run/vtysh|-d|bgpd|-c|show bgp summary"
    );
    assert_eq!(line(Kind::Frr, &[]), "vtysh|--vty_socket|/run/v/x|--config_dir|/run/vtysh|-d|bgpd");
    assert_eq!(line(Kind::Bird, &words), "birdc|-s|/run/v/x/bird.ctl|show|bgp summary");
    assert_eq!(line(Kind::OpenBgpd, &[]), "bgpctl|-s|/run/v/x/bgpd.sock");
}

#[test]
fn a_configuration_comes_into_a_root_with_its_folder_but_never_with_all_of_etc() {
    let table = [
        ("/etc/virtd/frr.conf", "/etc/virtd"),
        ("/srv/a/b/c.conf", "/srv/a/b"),
        ("/etc/bgpd.conf", "/etc/bgpd.conf"),
        ("/bgpd.conf", "/bgpd.conf"),
    ];
    for (file, shared) in table {
        assert_eq!(shared_configuration(Path::new(file)), Path::new(shared));
    }
}

#[test]
fn a_root_brings_its_own_users() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/passwd"), "someone:x:4711:4712::/:\n").unwrap();
    fs::write(dir.path().join("etc/group"), "some:x:4712:\n").unwrap();
    let bird = Instance { root: Some(dir.path().to_owned()), ..instance(Kind::Bird, Some("someone")) };
    assert!(lines(&bird)[0].ends_with("bird.pid -u someone -g some"), "{:?}", lines(&bird));
    assert_eq!(uid(&bird), Some(4711));
    fs::write(dir.path().join("etc/passwd"), "frr:x:4713:4712::/:\n").unwrap();
    assert_eq!(uid(&Instance { root: bird.root.clone(), ..instance(Kind::Frr, None) }), Some(4713), "whom it becomes");
    assert_eq!(groups(&Instance { root: bird.root.clone(), ..instance(Kind::Frr, None) }), ["frr", "frrvty"]);
}

#[test]
fn nothing_in_its_own_folder_keeps_a_daemon_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("precious");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "kept").unwrap();
    let config = Config { shim_socket: dir.path().join("hv.sock"), ..Config::default() };
    let folder = folder(&config, "x");
    let bird = instance(Kind::Bird, None);
    prepare(&bird, &folder).unwrap();
    for round in 1..=3 {
        fs::create_dir(folder.join("bird.pid")).unwrap();
        // Deeper than a program can walk that goes down a call for each.
        let mut deep = folder.join("bird.ctl");
        for _ in 0..200 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        std::os::unix::fs::symlink(&outside, folder.join("other.ctl")).unwrap();
        std::os::unix::fs::symlink(outside.join("file"), folder.join("other.pid")).unwrap();
        prepare(&bird, &folder).unwrap();
        for name in ["bird.pid", "bird.ctl", "other.ctl", "other.pid"] {
            assert!(folder.join(name).symlink_metadata().is_err(), "{name} is in the way, round {round}");
        }
        assert!(folder.join(format!("bird.left-{round}/d/d")).is_dir());
    }
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
}

#[test]
fn what_an_earlier_run_left_is_removed() {
    if !untested::needs_root(nix::unistd::geteuid().is_root()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Config { shim_socket: dir.path().join("hv.sock"), ..Config::default() };
    let folder = folder(&config, "x");
    assert_eq!(folder, dir.path().join("instances/x"));
    let bird = instance(Kind::Bird, Some("nobody"));
    prepare(&bird, &folder).unwrap();
    for name in ["bird.pid", "bird.ctl", "kept.log"] {
        fs::write(folder.join(name), "").unwrap();
    }
    prepare(&bird, &folder).unwrap();
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["kept.log"]);
    let found = fs::metadata(&folder).unwrap();
    let nobody = Accounts(None).user("nobody").unwrap();
    assert_eq!((found.permissions().mode() & 0o777, std::os::unix::fs::MetadataExt::uid(&found)), (0o755, nobody.uid));
    assert!(prepare(&instance(Kind::Bird, Some("no-such-user")), &folder).is_err());
}

#[test]
fn who_stays_root_is_named() {
    let named = |mut i: Instance, name: &str| {
        i.name = name.into();
        i
    };
    let own = |user: Option<&str>| Instance {
        command: vec!["/opt/bgpd".into(), "-f".into()],
        user: user.map(str::to_owned),
        ..Instance::default()
    };
    let instances = vec![
        named(instance(Kind::Frr, None), "frr"),
        named(instance(Kind::Frr, Some("root")), "frr-root"),
        named(instance(Kind::OpenBgpd, None), "openbgpd"),
        named(instance(Kind::Bird, None), "bird"),
        named(instance(Kind::Bird, Some("nobody")), "bird-nobody"),
        named(own(None), "own"),
        named(own(Some("root")), "own-root"),
        named(own(Some("nobody")), "own-nobody"),
        named(Instance::default(), "started-by-something-else"),
    ];
    let told = roots(&Config { instances, ..Config::default() });
    let named: Vec<&str> = told.iter().map(|t| t.split(' ').nth(1).unwrap()).collect();
    assert_eq!(named, ["frr-root", "bird", "own", "own-root"]);
    assert!(told[2].contains("/opt/bgpd does not give its rights up; `user` names"), "{}", told[2]);
}
