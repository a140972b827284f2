//! What virtd and virtctl say of themselves.

use std::process::Command;

fn said(program: &str, words: &[&str]) -> String {
    let out = Command::new(program).args(words).output().expect("it runs");
    assert!(out.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// The commit in parentheses, where these sources are a repository's; nothing where they are not.
fn commit() -> String {
    if std::env::var_os("HV_COMMIT").is_none() {
        let git = |words: &[&str]| {
            let out = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(words).output().ok()?;
            out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        let tracked = git(&["ls-files", "--error-unmatch", "Cargo.toml"]);
        if let Some(words) = tracked.and_then(|_| git(&["log", "-1", "--abbrev=8", "--format=%h, %cs"])) {
            return format!(" ({words})");
        }
    }
    String::new()
}

#[test]
fn the_version_has_the_commit() {
    let expected = format!("{}{}", env!("CARGO_PKG_VERSION"), commit());
    for (name, program) in [("virtd", env!("CARGO_BIN_EXE_virtd")), ("virtctl", env!("CARGO_BIN_EXE_virtctl"))] {
        for flag in ["--version", "-V"] {
            let version = said(program, &[flag]);
            assert!(version.starts_with(&format!("{name} {expected}")), "{version} is not {expected}");
        }
    }
}
