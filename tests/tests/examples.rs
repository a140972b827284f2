//! The configurations in examples/three are the ones that the scenarios run with, line by line, and each daemon accepts them.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use tests::daemons::{Daemon, PeerSpec, RouterSpec};
use tests::lab::{Lab, run};
use tests::neighbours::prefixes;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/three")
}

fn spec() -> Result<RouterSpec> {
    Ok(RouterSpec {
        asn: 65000,
        router_id: [192, 0, 2, 1].into(),
        peers: vec![
            PeerSpec::new("192.0.2.2".parse()?, "192.0.2.1".parse()?, 64501),
            PeerSpec::new("2001:db8::2".parse()?, "2001:db8::1".parse()?, 64501),
        ],
        networks: prefixes(&["198.51.100.0/24"])?,
        lie: None,
        fib: false,
    })
}

/// The lines that mean something and do not name a file of this machine.
fn meaningful(text: &str) -> Vec<&str> {
    let comment = |l: &&str| l.is_empty() || l.starts_with(['#', '!']);
    let file = |l: &&str| l.starts_with("log ") || l.starts_with("socket ");
    text.lines().map(str::trim).filter(|l| !comment(l) && !file(l)).collect()
}

#[test]
fn the_example_files_are_what_the_scenarios_use() -> Result<()> {
    let spec = spec()?;
    for daemon in Daemon::ALL {
        let path = examples().join(format!("{}.conf", daemon.name()));
        let file = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let ours = daemon.configuration(&spec, Path::new("/run"));
        assert_eq!(meaningful(&file), meaningful(&ours), "{}", path.display());
    }
    Ok(())
}

#[test]
fn each_daemon_accepts_its_example() -> Result<()> {
    let lab = Lab::new("examples")?;
    let folder = lab.folder("three")?;
    for daemon in Daemon::ALL {
        let name = format!("{}.conf", daemon.name());
        fs::copy(examples().join(&name), folder.join(&name))?;
    }
    let file = |name: &str| folder.join(name).display().to_string();
    run("chmod", &["600", &file("openbgpd.conf")])?;
    run("/usr/sbin/bgpd", &["-n", "-f", &file("openbgpd.conf")])?;
    run("bird", &["-p", "-c", &file("bird.conf")])?;
    // bgpd says on stderr what it does not understand, and is content all the same.
    let dry = format!("/usr/lib/frr/bgpd --dryrun --skip_runas -f {} 2>&1", file("frr.conf"));
    let answer = run("sh", &["-c", &dry])?;
    // A killed FRR leaves a folder by the number of its process, and numbers come again.
    let about_files = |l: &&str| l.contains("/var/tmp/frr/") || l.contains("crashlog");
    let complaints: Vec<&str> = answer.lines().filter(|l| !l.trim().is_empty() && !about_files(l)).collect();
    ensure!(complaints.is_empty(), "bgpd: {answer}");
    lab.passed();
    Ok(())
}
