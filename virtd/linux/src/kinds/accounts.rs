//! Users and groups by name: this system's, or those of a root that an instance's daemon is started
//! in, whose numbers may differ.

use nix::unistd::{Group, User};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    /// Its home.
    pub home: PathBuf,
}

/// Where names are looked up: the root with its /etc/passwd and /etc/group (passwd(5), group(5)),
/// or `None` for this system.
#[derive(Clone, Copy, Debug)]
pub struct Accounts<'r>(pub Option<&'r Path>);

impl Accounts<'_> {
    /// The user of that name.
    ///
    /// # Errors
    /// There is none, which the error says with the remedy; or the list cannot be read.
    pub fn user(&self, name: &str) -> io::Result<Account> {
        let Some(root) = self.0 else {
            let found =
                User::from_name(name)?.ok_or_else(|| missing(format!("there is no user {name:?} on this system")))?;
            return Ok(Account { uid: found.uid.as_raw(), gid: found.gid.as_raw(), home: found.dir });
        };
        let (file, text) = read(root, "etc/passwd")?;
        let line = text.lines().map(fields).find(|line| line.first() == Some(&name));
        let account = line.and_then(|line| {
            let number = |i: usize| line.get(i)?.parse().ok();
            Some(Account { uid: number(2)?, gid: number(3)?, home: PathBuf::from(line.get(5)?) })
        });
        account.ok_or_else(|| {
            let copy = format!("`getent passwd {name} >>{}`", file.display());
            missing(format!("there is no user {name:?} in {}; {copy} copies this system's", file.display()))
        })
    }

    /// The number of the group of that name.
    ///
    /// # Errors
    /// As of [`Accounts::user`].
    pub fn group(&self, name: &str) -> io::Result<u32> {
        let Some(root) = self.0 else {
            let found =
                Group::from_name(name)?.ok_or_else(|| missing(format!("there is no group {name:?} on this system")))?;
            return Ok(found.gid.as_raw());
        };
        let (file, text) = read(root, "etc/group")?;
        let line = text.lines().map(fields).find(|line| line.first() == Some(&name));
        line.and_then(|line| line.get(2)?.parse().ok()).ok_or_else(|| {
            let copy = format!("`getent group {name} >>{}`", file.display());
            missing(format!("there is no group {name:?} in {}; {copy} copies this system's", file.display()))
        })
    }

    /// The list of groups, for messages.
    pub fn groups_file(&self) -> String {
        self.0.unwrap_or(Path::new("/")).join("etc/group").display().to_string()
    }

    /// The name of a group.
    pub fn group_name(&self, gid: u32) -> Option<String> {
        let Some(root) = self.0 else { return Group::from_gid(gid.into()).ok().flatten().map(|g| g.name) };
        let (_, text) = read(root, "etc/group").ok()?;
        let line = text.lines().map(fields).find(|line| line.get(2).and_then(|n| n.parse().ok()) == Some(gid))?;
        line.first().map(|name| (*name).to_owned())
    }
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

fn read(root: &Path, name: &str) -> io::Result<(PathBuf, String)> {
    let file = root.join(name);
    match fs::read(&file) {
        Ok(text) => Ok((file, String::from_utf8_lossy(&text).into_owned())),
        Err(e) => Err(io::Error::new(e.kind(), format!("{}: {e}", file.display()))),
    }
}

fn missing(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, text)
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
