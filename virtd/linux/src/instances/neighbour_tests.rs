use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// As BIRD 2.0.12 says it.
const PROTOCOLS: &str = "\
BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     12:13:15.942  

my-peer    BGP        ---        up     12:13:15.942  Established   
  BGP state:          Established
    Neighbor address: 10.0.1.2
    Neighbor AS:      65001
    Local AS:         65000
    Neighbor ID:      10.0.1.2
  Channel ipv4
    State:          UP
    Table:          master4

n2         BGP        ---        down   12:13:15.942  
  BGP state:          Down
    Neighbor address: 10.0.1.20
    Neighbor AS:      65001

n3         BGP        ---        start  12:13:15.942  Idle          
  BGP state:          Idle
    Neighbor address: fe80::2%lo
    Neighbor AS:      65001

n4         BGP        ---        start  12:13:15.942  Idle          
  BGP state:          Idle
    Neighbor range: 10.0.1.0/24

n5         BGP        ---        start  12:13:15.942  Idle          
  BGP state:          Idle
    Neighbor address: FD00:0::2
n6         BGP        ---        start  12:13:15.942  Idle          
    Neighbor address: 10.0.1.2
odd\"     BGP        ---        start  12:13:15.942  Idle          
    Neighbor address: 10.0.1.3
static1    Static     master4    up     12:13:15.942  
    Neighbor address: 10.0.1.4
";

#[test]
fn birds_protocols_are_found_by_their_neighbour() {
    for (peer, names) in [
        ("10.0.1.2", vec!["my-peer", "n6"]),
        ("10.0.1.20", vec!["n2"]),
        ("fe80::2", vec!["n3"]),
        ("fd00::2", vec!["n5"]),
        ("10.0.1.3", vec![]),
        ("10.0.1.4", vec![]),
        ("10.0.9.9", vec![]),
    ] {
        assert_eq!(protocols_with(PROTOCOLS, peer.parse().unwrap()), names, "{peer}");
    }
    assert!(protocols_with("", "10.0.1.2".parse().unwrap()).is_empty());
}

/// A script in the place of a control program, started as the program would be.
fn ask(script: &str, patience: Duration) -> Result<(ExitStatus, String), String> {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let instance = Instance::default();
    let deadline = Instant::now() + patience;
    let control = Control { instance: &instance, kind: Kind::Bird, folder: dir.path(), deadline };
    control.run(&[program.display().to_string()])
}

#[test]
fn what_a_program_says_is_heard_on_both_pipes() {
    let long =
        "head -c 300000 /dev/zero | tr '\\0' a; head -c 300000 /dev/zero | tr '\\0' b >&2; echo; echo last; exit 3";
    let (status, said) = ask(long, PATIENCE).unwrap();
    assert_eq!((status.code(), said.len()), (Some(3), 600_006));
    assert_eq!(shown("a\n  b \u{7}c\n\n", status), "b c");
    assert_eq!(shown("", status), "exit status: 3");
}

#[test]
fn a_program_that_hangs_is_killed_with_what_it_has_started() {
    let started = Instant::now();
    let error = ask("sleep 1000 & sleep 1000", Duration::from_millis(200)).unwrap_err();
    assert!(error.contains("was killed"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(900), "it was waited for");
    assert!(ask("exec /nonexistent", PATIENCE).unwrap().1.contains("nonexistent"));
}

#[test]
fn who_has_no_kind_has_no_control_program() {
    let error = restart(&Instance::default(), Path::new("/nonexistent"), "10.0.1.2".parse().unwrap()).unwrap_err();
    assert!(error.contains("kind"), "{error}");
}

/// A root with a shell and nothing else, in which `birdc` is this script.
fn root_with_birdc(script: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let libraries = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
    let files = libraries.split_whitespace().filter(|word| word.starts_with('/')).chain(["/bin/sh"]);
    for file in files {
        let inside = root.path().join(file.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(file, inside).unwrap();
    }
    let program = root.path().join("usr/sbin/birdc");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    root
}

#[test]
fn a_daemon_in_a_root_is_asked_by_the_program_in_there() {
    if !untested::needs_root(nix::unistd::geteuid().is_root()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bird.ctl"), "").unwrap();
    let script = "test -e \"$2\" || exit 7\n\
        case \"$3 $4\" in\n\
        'show protocols') echo 'n-1 BGP x'; echo '  Neighbor address: 10.0.1.2'; echo 'n2 BGP x'; echo '  Neighbor address: 10.0.1.3';;\n\
        'restart \"n-1\"') echo 'n-1: restarted';;\n\
        *) echo \"n2: already disabled\";;\n\
        esac";
    let root = root_with_birdc(script);
    let root = Some(root.path().to_owned());
    let instance = Instance { kind: Some(Kind::Bird), root, ..Instance::default() };
    let ask = |peer: &str| restart(&instance, folder.path(), peer.parse().unwrap());
    assert_eq!(ask("10.0.1.2"), Ok(()));
    assert_eq!(ask("10.0.1.3"), Err("n2: already disabled".to_owned()));
    let elsewhere = restart(&instance, Path::new("/nonexistent"), "10.0.1.2".parse().unwrap()).unwrap_err();
    assert!(elsewhere.contains("/nonexistent"), "{elsewhere}");
}
