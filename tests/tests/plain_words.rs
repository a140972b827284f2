//! What operators are told is so: what `virtd --check` says of the daemons' own files, what virtctl says of the router and when it fails.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tests::lab::{Lab, built};
use tests::versions::Version;

/// `virtd --check` of one instance that is started by its kind.
fn check(folder: &Path, instance: &str, more: &[&str]) -> Result<(Option<i32>, String)> {
    let file = folder.join("virtd.toml");
    let (hv, control) = (folder.join("hv.sock"), folder.join("control.sock"));
    let router =
        format!("[router]\naccept_any = true\nport = 1179\nshim_socket = {hv:?}\ncontrol_socket = {control:?}\n");
    fs::write(&file, format!("{router}[[instance]]\n{instance}\n"))?;
    let out = Command::new(built("virtd")?).arg("--check").arg("--config").arg(&file).args(more).output()?;
    Ok((out.status.code(), text(&out)))
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// A daemon's own configuration file, for whoever reads it.
fn daemons_file(lab: &Lab, name: &str, content: &str) -> Result<PathBuf> {
    let path = lab.folder("conf")?.join(name);
    fs::write(&path, content)?;
    // OpenBGPD refuses what others may use, FRR reads as a user of its own.
    let mode = if name.starts_with("openbgpd") { 0o600 } else { 0o644 };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(path)
}

/// A file that its daemon takes, one that it does not, and the daemon's words about that.
const FILES: [(&str, &str, &str, &str); 3] = [
    (
        "frr",
        "router bgp 65000\n neighbor 192.0.2.1 remote-as 65001\n",
        "router bgp 65000\n neighbour 192.0.2.1 remote-as 65001\n",
        "No such command on config line 2:  neighbour 192.0.2.1 remote-as 65001",
    ),
    (
        "bird",
        "router id 192.0.2.9;\nprotocol device {}\n",
        "router id 192.0.2.9;\nprotocol bpg one {}\n",
        ":2:10 syntax error",
    ),
    ("openbgpd", "AS 65000\n", "AS 65000\nneighbor example {\n", "could not parse address spec"),
];

fn check_files(lab: &Lab, kind: &str, root: &str) -> Result<()> {
    let folder = lab.folder("check")?;
    let (_, good, bad, words) = FILES.into_iter().find(|f| f.0 == kind).context("no such kind")?;
    for (label, content) in [("good", good), ("bad", bad)] {
        let mut content = content.to_owned();
        if kind == "openbgpd" {
            content += &format!("socket {:?}\n", folder.join("instances/x/bgpd.sock"));
        }
        let file = daemons_file(lab, &format!("{kind}-{label}.conf"), &content)?;
        let instance = format!("name = \"x\"\nkind = {kind:?}\nconfig = {file:?}\n{root}");
        let (status, said) = check(&folder, &instance, &[])?;
        match label {
            "good" => ensure!(status == Some(0), "{kind}{root}: {status:?}, {said}"),
            _ => {
                let named = said.contains("instance x: config: ") && said.contains(words);
                ensure!(status == Some(1) && named, "{kind}{root}: {status:?}, {said}");
            }
        }
    }
    Ok(())
}

#[test]
fn check_has_each_daemon_look_at_its_own_file() -> Result<()> {
    let lab = Lab::new("plain-check")?;
    for (kind, ..) in FILES {
        check_files(&lab, kind, "")?;
    }
    lab.passed();
    Ok(())
}

/// In its root, by its own program: a newer release's.
#[test]
fn check_has_a_daemon_in_a_root_look_at_its_own_file() -> Result<()> {
    let lab = Lab::new("plain-check-root")?;
    for version in [Version::BIRD_13, Version::FRR_13, Version::OPENBGPD_13] {
        if let Some(root) = version.root()? {
            check_files(&lab, version.daemon.name(), &format!("root = {:?}\n", root.path))?;
        }
    }
    lab.passed();
    Ok(())
}

#[test]
fn check_tells_a_shim_that_is_no_library() -> Result<()> {
    let lab = Lab::new("plain-shim")?;
    let folder = lab.folder("check")?;
    let file = daemons_file(&lab, "bird.conf", FILES[1].1)?;
    let no_library = daemons_file(&lab, "libhvlibc.so", "#!/bin/sh\n")?;
    let instance = format!("name = \"x\"\nkind = \"bird\"\nconfig = {file:?}\n");
    for (wrong, what) in [(no_library.to_str().context("a name")?, "no ELF file"), ("/bin/sh", "a program")] {
        let (status, said) = check(&folder, &instance, &["--shim", wrong])?;
        ensure!(status == Some(1) && said.contains("the shim is no shared library") && said.contains(what), "{said}");
        let (status, said) = check(&folder, &format!("{instance}shim_library = {wrong:?}\n"), &[])?;
        let named = said.contains("instance x: shim_library: ") && said.contains("is no shared library");
        ensure!(status == Some(1) && named, "{said}");
    }
    lab.passed();
    Ok(())
}

/// The supplied units beside Debian's own: FRR's is before network.target, so virtd's must not be after it.
#[test]
fn the_supplied_units_have_no_ordering_cycle() -> Result<()> {
    let lab = Lab::new("plain-units")?;
    let (units, ours) = (lab.folder("units")?, Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd"));
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir(&wanted)?;
    // What is wrong with paths of programs that are not installed here is not the matter.
    let unit = fs::read_to_string(ours.join("virtd.service"))?.replace("/usr/local/sbin/virtd", "/bin/true");
    fs::write(units.join("virtd.service"), unit.replace("/usr/local/bin/virtctl", "/bin/true"))?;
    std::os::unix::fs::symlink("../virtd.service", wanted.join("virtd.service"))?;
    let mut known = 0;
    for name in ["frr", "bird", "openbgpd"] {
        let theirs = Path::new("/usr/lib/systemd/system").join(format!("{name}.service"));
        known += u32::from(theirs.exists());
        let folder = units.join(format!("{name}.service.d"));
        fs::create_dir(&folder)?;
        fs::copy(ours.join(format!("{name}.conf")), folder.join("virtd.conf"))?;
        std::os::unix::fs::symlink(&theirs, wanted.join(format!("{name}.service")))?;
    }
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "multi-user.target"]);
        command.env("SYSTEMD_UNIT_PATH", format!("{}:", units.display())).output()
    };
    match verify() {
        Err(e) => tests::alone::aloud(&format!("NOT TESTED: the units, for systemd-analyze: {e}")),
        Ok(out) => ensure!(known == 3 && !text(&out).contains("ordering cycle"), "{known} units; {}", text(&out)),
    }
    lab.passed();
    Ok(())
}
