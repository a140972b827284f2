//! What a test could not try on this machine: a version that cannot be had, a bug that is gone, a
//! right that is missing.
//!
//! libtest knows no skipping at run time, and counts such a test as passed. So it is written down
//! here by the test's name, and `make test` ends with what is written down (.ci/not-tested).

use std::fmt::Write as _;
use std::fs::{OpenOptions, create_dir_all};
use std::io::Write as _;
use std::path::Path;

/// This test has not tried `what`, a name that does not change from run to run, and why. Said on
/// stderr too, past the harness.
///
/// # Panics
/// It cannot be written down: then the test must not pass.
pub fn not_tested(what: &str, why: &str) {
    // There is nobody to tell where stderr is closed.
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {what}: {why}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let file = folder.join("not-tested");
    if let Err(e) = create_dir_all(&folder).and_then(|()| write_down(&file, what, why)) {
        panic!("{} cannot be written: {e}", file.display());
    }
}

/// One more line: the calling test, `what` and `why`, parted by tabs.
///
/// # Errors
/// The file's.
pub fn write_down(file: &Path, what: &str, why: &str) -> std::io::Result<()> {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = [&test(), what, why].map(words).join("\t") + "\n";
    // In one piece: other tests write at the same time.
    OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes())
}

/// Whether the tests run as root, as the caller has found out; a test that needs it says so here.
pub fn needs_root(root: bool) -> bool {
    if !root {
        not_tested("what needs root", "the tests do not run as root");
    }
    root
}

/// The calling test: its program, and its name in there, which libtest gives its thread.
fn test() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.file_stem().unwrap_or_default().to_string_lossy();
    // Without the hash that cargo puts behind it.
    let mut name = program.rsplit_once('-').map_or(&*program, |(name, _)| name).to_owned();
    if let Some(test) = std::thread::current().name().filter(|name| *name != "main") {
        // Writing to a String cannot fail.
        let _ = write!(name, "::{test}");
    }
    name
}
