//! Files that virtd writes: it is root as a rule, and a folder may be others' to write in as well. A
//! symbolic link in the place of a file is never followed: it would have root write where somebody
//! else wants.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Why a file is not written, with the remedy.
fn is_link(path: &Path) -> io::Error {
    let folder = path.parent().unwrap_or(path);
    io::Error::other(format!(
        "{} is a symbolic link, which virtd does not follow: remove it or name the file itself, and see who may write in {}",
        path.display(),
        folder.display()
    ))
}

/// An error of the kernel's, with the file's name unless that is said otherwise.
fn refused(path: &Path, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ELOOP) => is_link(path),
        _ => error,
    }
}

/// Nothing where no link is in the place of this file.
///
/// # Errors
/// There is one; the error names it and says what to do.
pub fn no_link(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_symlink() => Err(is_link(path)),
        _ => Ok(()),
    }
}

/// Opens a file to write behind what is in it, and makes it where there is none.
///
/// # Errors
/// The kernel's; a link is named with the remedy.
pub fn append(path: &Path) -> io::Result<File> {
    let open = OpenOptions::new().append(true).create(true).custom_flags(libc::O_NOFOLLOW).open(path);
    open.map_err(|e| refused(path, e))
}

/// Writes a file under the name `new`, which is to be in the same folder, and then gives it its own:
/// whoever reads it sees the old one or the new one whole. What an earlier virtd has left under the
/// name `new` is removed, but not a link. `mode` is as open(2) has it; `keep`: only when its octets
/// are on the disk is it given its name.
///
/// # Errors
/// The kernel's; a link in the place of either is named with the remedy. Nothing is left under the
/// name `new`.
pub fn replace(path: &Path, new: &Path, bytes: &[u8], mode: u32, keep: bool) -> io::Result<()> {
    no_link(path)?;
    if fs::symlink_metadata(new).is_ok_and(|m| m.is_file()) {
        fs::remove_file(new)?;
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    // O_EXCL says of a link that something is there.
    let mut file = options.open(new).map_err(|e| no_link(new).err().unwrap_or(e))?;
    let done = (|| {
        file.write_all(bytes)?;
        if keep {
            file.sync_all()?;
        }
        fs::rename(new, path)
    })();
    if done.is_err() {
        let _ = fs::remove_file(new);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_is_replaced_whole_and_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (path, new) = (dir.path().join("a"), dir.path().join("a.new"));
        for (bytes, mode) in [(&b"long enough"[..], 0o644), (b"short", 0o600)] {
            // Left by a virtd that was cut short.
            fs::write(&new, "half of").unwrap();
            replace(&path, &new, bytes, mode, true).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o700, mode & 0o700);
            assert!(!new.exists());
        }
    }

    #[test]
    fn a_link_is_never_followed_and_the_error_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (path, new, victim) = (dir.path().join("a"), dir.path().join("a.new"), dir.path().join("passwd"));
        fs::write(&victim, "root").unwrap();
        // Nor one that leads nowhere: it would make a file.
        let nowhere = dir.path().join("cron.d");
        for (to, target) in [(&path, &victim), (&new, &victim), (&path, &nowhere), (&new, &nowhere)] {
            symlink(target, to).unwrap();
            let told = replace(&path, &new, b"x", 0o644, false).unwrap_err().to_string();
            assert!(told.contains(&format!("{} is a symbolic link", to.display())), "{told}");
            assert!(told.contains("remove it or name the file itself"), "{told}");
            let told = append(to).unwrap_err().to_string();
            assert!(told.contains(&format!("{} is a symbolic link", to.display())), "{told}");
            assert!(fs::symlink_metadata(to).unwrap().is_symlink(), "it is left where it is");
            fs::remove_file(to).unwrap();
            assert_eq!(fs::read(&victim).unwrap(), b"root");
            assert!(!nowhere.exists());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
