//! What a test could not try is not passed over: it is written down under the test's name, listed,
//! and refused where it is not expected.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tests::untested::write_down;

/// Runs .ci/not-tested on a file of its own.
fn list(found: &Path, allowed: Option<&Path>) -> Result<Output> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/not-tested");
    Command::new(script).env("NOT_TESTED", found).args(allowed).output().context("running .ci/not-tested")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_test_writes_its_own_name_down() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let found = folder.path().join("found");
    write_down(&found, "sid/frr", "no\tnetwork,\nno mirror")?;
    write_down(&found, "the units", "none")?;
    let name = "untested::a_test_writes_its_own_name_down";
    let expected = format!("{name}\tsid/frr\tno network, no mirror\n{name}\tthe units\tnone\n");
    ensure!(fs::read_to_string(&found)? == expected, "{}", fs::read_to_string(&found)?);
    Ok(())
}

#[test]
fn what_is_written_down_is_listed_each_once_and_nothing_where_there_is_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let found = folder.path().join("found");
    let out = list(&found, None)?;
    ensure!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    fs::write(&found, "a::b\tsid/frr\tno network\n")?;
    let out = list(&found, None)?;
    let one = "1 case could not be tested here:\n  a::b: sid/frr (no network)\n";
    ensure!(out.status.success() && text(&out.stdout) == one, "{out:?}");
    fs::write(&found, "c\tthe units\tnone (so)\na::b\tsid/frr\tno network\na::b\tsid/frr\tgone\n")?;
    let out = list(&found, None)?;
    let two = "2 cases could not be tested here:\n  a::b: sid/frr (no network)\n  c: the units (none (so))\n";
    ensure!(out.status.success() && text(&out.stdout) == two, "{out:?}");
    Ok(())
}

#[test]
fn what_is_not_allowed_to_be_missing_fails() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [found, allowed] = ["found", "allowed"].map(|name| folder.path().join(name));
    fs::write(&allowed, "# gone from the mirror\na::b: sid/frr\n\n")?;
    ensure!(list(&found, Some(&allowed))?.status.success(), "everything was tested");
    fs::write(&found, "a::b\tsid/frr\tno network\n")?;
    ensure!(list(&found, Some(&allowed))?.status.success(), "it may be missing");
    // The same of another test, and another of the same.
    for more in ["a::bb\tsid/frr\tno network\n", "a::b\ttrixie/frr\tno network\n"] {
        fs::write(&found, format!("a::b\tsid/frr\tno network\n{more}"))?;
        let out = list(&found, Some(&allowed))?;
        let said = text(&out.stderr);
        let line = format!("  {} (no network)\n", more.replacen('\t', ": ", 1).split('\t').next().unwrap_or_default());
        ensure!(out.status.code() == Some(1) && said.ends_with(&line) && said.lines().count() == 2, "{out:?}");
    }
    ensure!(list(&found, Some(&folder.path().join("none")))?.status.code() == Some(1), "no list allows nothing");
    Ok(())
}

#[test]
fn what_may_be_missing_are_tests_that_there_are() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let allowed = fs::read_to_string(folder.join("../.ci/not-tested.allowed"))?;
    for line in allowed.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, _) = line.split_once(": ").with_context(|| format!("no NAME: WHAT: {line}"))?;
        let (program, test) = name.split_once("::").with_context(|| format!("no PROGRAM::TEST: {line}"))?;
        let source = fs::read_to_string(folder.join(format!("tests/{program}.rs"))).context(line.to_owned())?;
        ensure!(source.contains(&format!("#[test]\nfn {test}()")), "there is no such test: {line}");
    }
    Ok(())
}
