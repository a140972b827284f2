//! tools/hv-versions, as an operator calls it, as far as it needs no network; that it fetches what
//! runs, every scenario with another version shows.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::lab::{Lab, run, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it on a folder; returns its exit status, and its output and errors.
fn hv_versions(folder: &Path, words: &[&str], path: Option<&Path>) -> Result<(i32, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/hv-versions");
    let mut command = Command::new("/bin/bash");
    command.arg(script).arg("--folder").arg(folder).args(words);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let out = command.output().context("running hv-versions")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    Ok((out.status.code().context("it was killed")?, text))
}

/// A version in which one program can run.
fn made_by_hand(folder: &Path, name: &str) -> Result<PathBuf> {
    let root = folder.join(name);
    let libraries = run("ldd", &["/bin/sleep"])?;
    let files = libraries.split_whitespace().filter(|w| w.starts_with('/')).chain(["/bin/sleep"]);
    for file in files {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a folder")?)?;
        fs::copy(file, to)?;
    }
    fs::write(root.join(".complete"), "form 3\nversion 1.2-3\npackage x\n")?;
    Ok(root)
}

#[test]
fn it_teaches_and_refuses() -> Result<()> {
    let lab = Lab::new("hv-versions-words")?;
    let folder = lab.directory().join("versions");
    let (status, text) = hv_versions(&folder, &["--help"], None)?;
    ensure!(status == 0 && text.contains("hv-versions fetch bullseye/bird2 trixie/frr"), "{text}");
    let table: [(&[&str], i32, &str); 10] = [
        (&["--version"], 0, concat!("hv-versions ", env!("CARGO_PKG_VERSION"))),
        (&[], 1, "fetch [--again] RELEASE/PACKAGE"),
        (&["list"], 0, "no other version in"),
        (&["fetch"], 1, "needs RELEASE/PACKAGE"),
        (&["fetch", "trixie"], 1, "which daemon? Write trixie/frr"),
        (&["fetch", "../frr"], 1, "is no RELEASE/PACKAGE"),
        (&["remove", "trixie/.."], 1, "is no RELEASE/PACKAGE"),
        (&["remove", "/etc"], 1, "is no RELEASE/PACKAGE"),
        (&["remove", "trixie/frr"], 3, "trixie/frr is not there"),
        (&["install", "trixie/frr"], 1, "unknown command install"),
    ];
    for (words, expected, part) in table {
        let (status, text) = hv_versions(&folder, words, None)?;
        ensure!(status == expected && text.contains(part), "{words:?} gave {status} and: {text}");
    }
    ensure!(!folder.exists(), "a refused command has made {}", folder.display());
    lab.passed();
    Ok(())
}

#[test]
fn without_apt_it_says_what_to_do() -> Result<()> {
    let lab = Lab::new("hv-versions-no-apt")?;
    let (folder, bin) = (lab.directory().join("versions"), lab.folder("bin")?);
    for program in ["head", "sed", "cat"] {
        std::os::unix::fs::symlink(format!("/usr/bin/{program}"), bin.join(program))?;
    }
    let (status, text) = hv_versions(&folder, &["fetch", "trixie/frr"], Some(&bin))?;
    ensure!(status == 3 && text.contains("has no apt-get") && text.contains("by hand"), "{status}: {text}");
    lab.passed();
    Ok(())
}

#[test]
fn what_runs_is_not_removed() -> Result<()> {
    let mut lab = Lab::new("hv-versions-remove")?;
    let ns = lab.namespace("r")?;
    let folder = lab.folder("versions")?;
    let root = made_by_hand(&folder, "trixie/bird3")?;
    made_by_hand(&folder, "trixie/frr")?;
    let (status, text) = hv_versions(&folder, &["list"], None)?;
    ensure!(status == 0 && text.contains("1.2-3") && text.contains("version = \"trixie/bird3\""), "{text}");
    ensure!(text.contains("version = \"trixie\"\n"), "{text}");
    // What is there is not fetched.
    let (status, text) = hv_versions(&folder, &["fetch", "trixie/frr"], None)?;
    ensure!(status == 0 && text.contains("trixie/frr is there: 1.2-3"), "{text}");

    let mut command = ns.command("chroot");
    let mut process = lab.spawn("sleep", command.arg(&root).args(["/bin/sleep", "1000"]))?;
    let inside = format!("/proc/{}/root/.complete", process.pid());
    wait_for("the process to be inside", PATIENCE, || Path::new(&inside).exists())?;
    let (status, text) = hv_versions(&folder, &["remove", "trixie/bird3"], None)?;
    ensure!(status == 1 && text.contains("in use by process") && root.join(".complete").exists(), "{status}: {text}");
    process.signal(Signal::SIGKILL)?;
    process.wait(PATIENCE)?;
    let (status, text) = hv_versions(&folder, &["remove", "trixie/bird3", "trixie/frr"], None)?;
    ensure!(status == 0 && !folder.join("trixie").exists(), "{status}: {text}");
    lab.passed();
    Ok(())
}
