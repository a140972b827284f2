//! The file of what a restart of virtd must not undo ([`State`]): JSON, written beside and renamed,
//! so that it is the old one or the new one at any time.

pub use broker::state::State;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use virtd_linux::written;

/// A file that is longer is none of ours.
const MAX_OCTETS: u64 = 1 << 20;

/// Reads the file; one that does not exist says nothing.
///
/// # Errors
/// Why it could not be read or understood, for people. What was there and could not be understood
/// is put aside under the name given, so that it is not lost with the next change.
pub fn read(path: &Path) -> Result<State, String> {
    let shown = path.display();
    // It is left where it is: put aside it would be gone, and what it leads to may be what is meant.
    written::no_link(path).map_err(|e| format!("state: {e}"))?;
    let length = match fs::metadata(path) {
        Ok(m) => m.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(e) => return Err(format!("{shown} cannot be read: {e}")),
    };
    let understood = || -> Result<State, String> {
        if length > MAX_OCTETS {
            return Err(format!("it has {length} octets"));
        }
        understand(&fs::read(path).map_err(|e| e.to_string())?)
    };
    understood().map_err(|why| {
        let aside = beside(path, "unreadable");
        let kept = match fs::rename(path, &aside) {
            Ok(()) => format!("; it is kept as {}", aside.display()),
            Err(_) => String::new(),
        };
        format!("{shown} is not understood ({why}){kept}")
    })
}

/// What stands in the file.
///
/// # Errors
/// Why it is not understood.
pub fn understand(text: &[u8]) -> Result<State, String> {
    let state: State = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    state.check()
}

/// Writes the file anew.
///
/// # Errors
/// The file system's.
pub fn write(path: &Path, state: &State) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = beside(path, "new");
    let mut text = serde_json::to_vec_pretty(state)?;
    text.push(b'\n');
    written::replace(path, &new, &text, 0o640, true)?;
    if let Some(folder) = path.parent() {
        // So that the name is on the disk as well.
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn shut(peers: &[&str]) -> State {
        State::new(peers.iter().map(|&p| p.to_owned()).collect())
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state.json");
        assert_eq!(read(&path), Ok(State::default()));
        for peers in [&["192.0.2.1", "fe80::2%eth1"][..], &[]] {
            write(&path, &shut(peers)).unwrap();
            assert_eq!(read(&path), Ok(shut(peers)));
        }
        let named = |name: &str| BTreeSet::from([name.to_owned()]);
        let mut state = shut(&["192.0.2.1"]);
        (state.drained, state.disabled, state.pinned) = (named("a"), named("b"), named("c"));
        write(&path, &state).unwrap();
        assert_eq!(read(&path), Ok(state));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_knows_of_no_instances_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, b"{\"version\":1,\"shut\":[\"192.0.2.1\"]}").unwrap();
        assert_eq!(read(&path), Ok(shut(&["192.0.2.1"])));
    }

    #[test]
    fn what_cannot_be_understood_is_told_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for bad in [&b"{\"version\":1,\"shut\":[\"192"[..], b"{\"version\":2,\"shut\":[]}", b"\xff\xfe", b""] {
            fs::write(&path, bad).unwrap();
            let told = read(&path).unwrap_err();
            assert!(told.contains("is not understood") && told.contains("state.json.unreadable"), "{told}");
            assert_eq!(fs::read(dir.path().join("state.json.unreadable")).unwrap(), bad);
            assert_eq!(read(&path), Ok(State::default()));
        }
        fs::create_dir(&path).unwrap();
        assert!(read(&path).is_err(), "a folder");
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("state.json"), dir.path().join("shadow"));
        let whole = serde_json::to_vec(&shut(&["192.0.2.1"])).unwrap();
        fs::write(&victim, &whole).unwrap();
        for link in [&path, &dir.path().join("state.json.new")] {
            std::os::unix::fs::symlink(&victim, link).unwrap();
            let told = write(&path, &shut(&[])).unwrap_err().to_string();
            assert!(told.contains(&format!("{} is a symbolic link", link.display())), "{told}");
            assert_eq!(fs::read(&victim).unwrap(), whole);
            if link == &path {
                let told = read(&path).unwrap_err();
                assert!(told.contains("state.json is a symbolic link") && told.contains("remove it"), "{told}");
            }
            assert!(fs::symlink_metadata(link).unwrap().is_symlink(), "it is not put aside either");
            fs::remove_file(link).unwrap();
        }
    }
}
