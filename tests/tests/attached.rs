//! A virtd that starts no daemon itself needs few rights: what the unit file of such a one leaves it
//! (examples/systemd/virtd-attached.conf) is enough, and little.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::lab::{Lab, built, run, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router, WORKER};

const UP: Duration = Duration::from_secs(90);
/// What `systemd-analyze security` may say of it.
const EXPOSURE: f64 = 2.0;

fn unit(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The value of a setting in the drop-in.
fn setting(name: &str) -> Result<String> {
    let text = unit("virtd-attached.conf")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.map(str::to_owned).with_context(|| format!("no {name}"))
}

#[test]
fn the_unit_is_little_exposed() -> Result<()> {
    if run("systemd-analyze", &["--version"]).is_err() {
        untested::not_tested("how exposed the unit is", "there is no systemd-analyze");
        return Ok(());
    }
    let lab = Lab::new("attached-unit")?;
    let file = lab.directory().join("virtd.service");
    let service = unit("virtd.service")?;
    let (service, _) = service.split_once("[Install]").context("no [Install]")?;
    fs::write(&file, service.to_owned() + &unit("virtd-attached.conf")?.replace("[Service]", ""))?;
    let said = run("systemd-analyze", &["security", "--offline=true", &file.display().to_string()])?;
    let level = said.lines().find_map(|l| l.split_once("virtd.service: ")?.1.split(' ').next()?.parse::<f64>().ok());
    let level = level.with_context(|| said.clone())?;
    ensure!(level <= EXPOSURE, "{level}");
    lab.passed();
    Ok(())
}

/// virtd as another user, with no more capabilities than the drop-in leaves it, and with the folder
/// that systemd makes for it.
fn confined(lab: &Lab) -> Result<PathBuf> {
    ensure!(setting("User")? == "virtd" && setting("AmbientCapabilities")? == setting("CapabilityBoundingSet")?);
    let kept = setting("CapabilityBoundingSet")?.to_lowercase().replace("cap_", "+").replace(' ', ",");
    let user = User::from_name(WORKER)?.context("no such user")?;
    chown(lab.folder("virtd")?, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    // Where the build is may be closed to that user.
    let virtd = lab.directory().join("virtd-copy");
    fs::copy(built("virtd")?, &virtd)?;
    let script = lab.directory().join("virtd-confined");
    let (uid, gid) = (user.uid, user.gid);
    let become_user = format!("--reuid={uid} --regid={gid} --clear-groups --no-new-privs");
    let rights = format!("--bounding-set=-all,{kept} --inh-caps=-all,{kept} --ambient-caps=-all,{kept}");
    fs::write(&script, format!("#!/bin/sh\nexec setpriv {become_user} {rights} {} \"$@\"\n", virtd.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

#[test]
fn what_the_unit_leaves_is_enough() -> Result<()> {
    let mut lab = Lab::new("attached")?;
    let star = lab.star(2)?;
    let options = Options { virtd: Some(confined(&lab)?), ..Options::default() };
    let router = Router::start(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "100"])?;
    let out = || {
        wait_until("all routes outside", UP, || match router.prefixes_out("10.0.2.2") {
            Ok(100) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    };
    out()?;
    let master = router.virtd.pid().to_string();
    let worker: i32 = run("pgrep", &["-P", &master, "virtd-worker"])?.trim().parse()?;
    let status = fs::read_to_string(format!("/proc/{worker}/status"))?;
    let value = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim().to_owned());
    let capabilities = u64::from_str_radix(&value("CapEff:").context("no CapEff")?, 16)?;
    ensure!(capabilities.count_ones() == 3, "{status}");
    ensure!(value("NoNewPrivs:").as_deref() == Some("1") && value("Seccomp:").as_deref() == Some("2"), "{status}");
    kill(Pid::from_raw(worker), Signal::SIGKILL)?;
    wait_for("the sessions to be taken over", UP, || router.events("taken-over").len() == 1)?;
    out()?;
    let left = router.events("not-confined");
    let old = left.iter().any(|e| e["text"].as_str().is_some_and(|text| text.contains("no Landlock")));
    if old {
        untested::not_tested("what a worker may write", "this kernel has no Landlock");
    }
    ensure!(old || left.is_empty(), "{left:?}");
    for replayer in [&mut monitor, &mut feed] {
        ensure!(replayer.count("session-down") == 0);
        replayer.finish()?;
    }
    lab.passed();
    Ok(())
}
