//! What a program says to `--version`: the package's version, and of which commit it was made.
//!
//! A build script would be simpler, but cargo compiles a whole package anew, its library and all
//! its tests, whenever its build script has run, which would be after each commit. A macro is part
//! of the one program that uses it, and names the files of git that it has read as inputs of that
//! program alone.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stands in the parentheses in the place of the commit, for who builds packages: a release
/// of Debian's, say. Empty: no parentheses.
const GIVEN: &str = "HV_COMMIT";

/// `"0.1.0 (9f86cd96, 2026-12-01)"`: the version, the commit and its day. Without git, and where
/// the sources are none of a repository's, `"0.1.0"`. What the environment variable `HV_COMMIT`
/// holds takes the place of the commit and the day.
///
/// To be used in a program (`main.rs`, `src/bin`) and not in a library, which would be compiled
/// anew after each commit.
#[proc_macro]
pub fn version(_: TokenStream) -> TokenStream {
    let package = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let folder = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let (words, inputs) = match env::var(GIVEN) {
        Ok(given) => (given, Vec::new()),
        Err(_) => commit(&folder).unwrap_or_default(),
    };
    let text = match words.trim() {
        "" => package,
        words => format!("{package} ({words})"),
    };
    // Whatever they hold, they are constants that nothing uses, and so in no program.
    let inputs: String = inputs
        .iter()
        .map(|file| format!("const _: &[u8] = include_bytes!({:?});", file.display().to_string()))
        .collect();
    let code = format!("{{ const _: Option<&str> = option_env!({GIVEN:?}); {inputs} {text:?} }}");
    code.parse().unwrap_or_default()
}

/// The commit in words, and the files that change with it. `None` without git, or where `folder` is
/// none of a repository's, though it may lie in one.
fn commit(folder: &Path) -> Option<(String, Vec<PathBuf>)> {
    git(folder, &["ls-files", "--error-unmatch", "Cargo.toml"])?;
    let words = git(folder, &["log", "-1", "--abbrev=8", "--format=%h, %cs"])?;
    let mut inputs = Vec::new();
    let branch = git(folder, &["symbolic-ref", "--quiet", "HEAD"]);
    // The last of these has a line for each change of the others, but may be switched off.
    for name in ["HEAD", branch.as_deref().unwrap_or("HEAD"), "logs/HEAD"] {
        let path = git(folder, &["rev-parse", "--git-path", name])?;
        let path = folder.join(path);
        if path.is_file() && !inputs.contains(&path) {
            inputs.push(path);
        }
    }
    Some((words, inputs))
}

/// What git says, if it succeeds.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let said = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    said.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn must(folder: &Path, arguments: &[&str]) -> String {
        git(folder, arguments).unwrap_or_else(|| panic!("git {arguments:?} in {}", folder.display()))
    }

    #[test]
    fn the_commit_is_that_of_who_has_the_sources() {
        let top = env::temp_dir().join(format!("program-version-{}", std::process::id()));
        let package = top.join("package");
        fs::create_dir_all(&package).expect("a folder");
        fs::write(package.join("Cargo.toml"), "").expect("a file");
        assert_eq!(commit(&package), None, "no repository");
        assert_eq!(commit(&top.join("nowhere")), None);

        let _ = git(&top, &["init", "--quiet"]);
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let record = |words: &[&str]| {
            let _ = git(&top, &[&identity[..], &["commit", "--quiet", "--allow-empty", "-m", "x"], words].concat());
            must(&top, &["rev-parse", "--short=8", "HEAD"])
        };
        record(&[]);
        assert_eq!(commit(&package), None, "a tarball that is unpacked in somebody's repository");
        must(&top, &["add", "--verbose", "package"]);
        let short = record(&["--date", "2026-01-02T00:00:00Z"]);
        let (words, inputs) = commit(&package).expect("a commit");
        assert!(words.starts_with(&format!("{short}, 20")) && words.len() == "01234567, 2026-12-01".len(), "{words}");

        // Whatever becomes of HEAD, one of the inputs is another one.
        let read = || inputs.iter().map(|f| fs::read(f).expect("an input")).collect::<Vec<_>>();
        let before = read();
        assert!(!before.is_empty());
        record(&[]);
        assert_ne!(read(), before);
        fs::remove_dir_all(&top).expect("it goes");
    }
}
