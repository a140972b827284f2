//! The virtd binary as an operator meets it before anything runs.

use std::path::Path;
use std::process::{Command, Output};

fn virtd(folder: &Path, text: &str, arguments: &[&str]) -> Output {
    std::fs::write(folder.join("v.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtd"));
    command.current_dir(folder).args(["--config", "v.toml"]).args(arguments).output().unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[test]
fn check_says_what_a_good_file_means() {
    let dir = tempfile::tempdir().unwrap();
    // Whether there is a user virtd is the system's matter.
    let file = "[router]\nuser='root'\naccept_any = true\n[[instance]]\nname='a'\n[[instance]]\nname='b'\n[[instance]]\nname='c'\n";
    let o = virtd(dir.path(), file, &["--check"]);
    assert!(o.status.success(), "{}", text(&o.stderr));
    assert_eq!(
        text(&o.stdout),
        "\
AS              as the instances say
router id       as the instances say
listens on      0.0.0.0:179, [::]:179
shim socket     /run/virtd/hv.sock (mode 0660)
control socket  /run/virtd/control.sock (mode 0660)
state           /var/lib/virtd/state.json
OPEN            voted: one OPEN out of what the instances share
inbound         rfc7606
strategy        wait-for-consensus, T = 10 s
quorum          3 voters, k=2: masks 1 fault
faults          wrong on 10 prefixes for 60 s, or on one for 600 s: started again after 1 s to 60 s, at most 10 times within 600 s
instance        a (voter), started by something else
instance        b (voter), started by something else
instance        c (voter), started by something else
peer            any other that an instance listens for or dials
worker          runs as the user that starts virtd
v.toml is good.
"
    );
}

#[test]
fn check_refuses_with_the_place_and_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let o = virtd(dir.path(), "[router]\nacept_any = true\n[[instance]]\nname='a'\n", &["--check"]);
    assert_eq!(o.status.code(), Some(1));
    assert_eq!(
        text(&o.stderr),
        "\
v.toml:2:1: unknown key `acept_any` in [router]
  |
2 | acept_any = true
  | ^^^^^^^^^
  = did you mean `accept_any`?
"
    );
    let o = virtd(dir.path(), "", &["--check", "--config", "gone.toml"]);
    assert_ne!(o.status.code(), Some(0));
}

#[test]
fn check_looks_for_what_the_instances_need() {
    let dir = tempfile::tempdir().unwrap();
    let file = "[router]\naccept_any = true\n[[instance]]\nname='a'\ncommand=['/nonexistent/bgpd']\n";
    let o = virtd(dir.path(), file, &["--check", "--shim", "/nonexistent/libhvlibc.so"]);
    assert_eq!(o.status.code(), Some(1));
    assert!(
        text(&o.stderr)
            .contains("libhvlibc.so is not found; tried /nonexistent/libhvlibc.so; name it with --shim PATH")
    );
    let shim = dir.path().join("s.so");
    std::fs::write(&shim, "").unwrap();
    let o = virtd(dir.path(), file, &["--check", "--shim", "s.so"]);
    let said = text(&o.stderr);
    let (first, second) = said.split_once('\n').expect("two lines");
    assert_eq!(first, "instance a: /nonexistent/bgpd: No such file or directory (os error 2)");
    assert!(
        second.ends_with("s.so: the shim is no shared library (no ELF file); name it with --shim PATH\n"),
        "{said}"
    );
}

#[test]
fn check_warns_of_what_stays_root() {
    let dir = tempfile::tempdir().unwrap();
    let own = |name: &str, rest: &str| format!("[[instance]]\nname='{name}'\ncommand=['/bin/sleep','9']\n{rest}\n");
    let file = format!("[router]\naccept_any = true\n{}{}", own("a", ""), own("b", "user='nobody'"));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.contains("/libgcc_s.so"));
    // Where whoever an instance becomes can read it.
    let o = virtd(dir.path(), &file, &["--check", "--shim", library.expect("every Rust program has it")]);
    assert!(o.status.success(), "a warning is no error: {}", text(&o.stderr));
    let said = text(&o.stdout);
    let lines: Vec<&str> = said.lines().filter(|l| l.starts_with("rights")).collect();
    assert_eq!(
        lines,
        [
            "rights          warning: instance a runs as root: /bin/sleep does not give its rights up; `user` names whom it is to become"
        ]
    );
}

#[test]
fn check_says_what_a_kind_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let shim = dir.path().join("s.so");
    std::fs::write(&shim, "").unwrap();
    let kind = |name: &str, rest: &str| format!("[[instance]]\nname='{name}'\nkind='{name}'\n{rest}\n");
    let file = format!(
        "[router]\naccept_any = true\nshim_socket='/run/{}/hv.sock'\n{}{}",
        "v".repeat(90),
        kind("bird", "config='/nonexistent/bird.conf'\nuser='no-such-user'"),
        kind("frr", "config='/etc'"),
    );
    let o = virtd(dir.path(), &file, &["--check", "--shim", "s.so"]);
    assert_eq!(o.status.code(), Some(1));
    let said = text(&o.stderr);
    for part in [
        "instance bird: user: there is no user \"no-such-user\" on this system",
        "instance bird: config: /nonexistent/bird.conf: No such file or directory (os error 2)",
        "/instances/bird/bird.ctl has 119 octets, a socket's path at most 107",
        "instance frr: config: /etc is not a file",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let o = Command::new(env!("CARGO_BIN_EXE_virtd"))
        .current_dir(dir.path())
        .args(["--config", "v.toml"])
        .output()
        .unwrap();
    assert_eq!(o.status.code(), Some(1));
    assert_eq!(text(&o.stderr), "v.toml: No such file or directory (os error 2)\n");
}

#[test]
fn the_help_teaches() {
    let o = Command::new(env!("CARGO_BIN_EXE_virtd")).arg("--help").output().unwrap();
    let help = text(&o.stdout);
    for part in ["[[instance]]", "LD_PRELOAD=", "docs/CONFIGURATION.md", "virtctl status", "--check"] {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
}

/// As many peers as a router at an exchange has.
fn many_peers(n: u32) -> String {
    let instances = ["a", "b", "c"].map(|name| format!("[[instance]]\nname='{name}'\n")).concat();
    let peer = |i| format!("[[peer]]\naddress='10.0.{}.{}'\n", i / 250, i % 250 + 1);
    instances + &(0..n).map(peer).collect::<String>()
}

#[test]
fn check_counts_the_open_files_that_the_peers_need() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("v.toml"), many_peers(300)).unwrap();
    let check = |limit: &str| {
        let line = format!("ulimit -n {limit}; exec {} --config v.toml --check", env!("CARGO_BIN_EXE_virtd"));
        let o = Command::new("sh").current_dir(dir.path()).args(["-c", &line]).output().unwrap();
        assert!(o.status.success(), "{}", text(&o.stderr));
        text(&o.stdout)
    };
    let few = check("1024");
    assert!(few.contains("warning: 300 peers and 3 instances may need 1424 open files, and only 1024 are"), "{few}");
    assert!(!check("1500").contains("open files"));
}

#[test]
fn virtd_takes_all_the_files_that_it_may_have_and_gives_its_instances_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let file = format!(
        "[router]\naccept_any=true\nport={0}\nlisten=['127.0.0.1']\nshim_socket='{1}'\ncontrol_socket='{2}'\nstate='{3}'\n\
         [[instance]]\nname='a'\ncommand=['/bin/sh','-c','ulimit -n > {4}.new; mv {4}.new {4}; exec sleep 1000']\n",
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(),
        path("hv.sock"),
        path("control.sock"),
        path("state.json"),
        path("limit"),
    );
    std::fs::write(dir.path().join("v.toml"), file).unwrap();
    // Any library will do: nothing speaks BGP here.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.contains("/libgcc_s.so"));
    std::fs::copy(library.expect("every Rust program has it"), dir.path().join("s.so")).unwrap();
    let line = format!("ulimit -Sn 300; exec {} --config v.toml --shim s.so", env!("CARGO_BIN_EXE_virtd"));
    let mut virtd = Command::new("sh").current_dir(dir.path()).args(["-c", &line]).spawn().unwrap();
    let limit = Path::new(&path("limit")).to_owned();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !limit.exists() && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", virtd.id())).unwrap();
    let given = std::fs::read_to_string(&limit);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(virtd.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    virtd.wait().unwrap();
    let words: Vec<&str> =
        limits.lines().find(|l| l.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(words[3], words[4], "soft and hard: {words:?}");
    assert_eq!(given.expect("the instance was started").trim(), "300");
}
