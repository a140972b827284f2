//! What can be known before an instance is started: the shim, its user, its program.

use super::launch::Account;
use crate::config::{Config, Instance, Kind};
use crate::kinds;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The shim's file name.
pub const SHIM: &str = "libhvlibc.so";
/// Longest path of a Unix socket (unix(7): 108 with the NUL behind it).
const MAX_SOCKET_PATH: usize = 107;
/// Where a package puts the shim.
pub const SHIM_INSTALLED: &str = "/usr/lib/virtd/libhvlibc.so";

/// The shim is nowhere.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("libhvlibc.so is not found; tried {}; name it with --shim PATH", list(.tried))]
pub struct ShimNotFound {
    /// Where it was looked for.
    pub tried: Vec<PathBuf>,
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The absolute path of libhvlibc.so: `given`, or else next to the running program (a build folder), in the `lib` beside its folder
/// (`make install`), or where a package puts it.
pub fn find_shim(given: Option<&Path>) -> Result<PathBuf, ShimNotFound> {
    let tried = match given {
        Some(path) => vec![path.to_owned()],
        None => {
            let exe = std::env::current_exe().ok();
            let folder = exe.as_deref().and_then(Path::parent);
            let beside = folder.map(|folder| folder.join(SHIM));
            let lib = folder.and_then(Path::parent).map(|prefix| prefix.join("lib").join(SHIM));
            beside.into_iter().chain(lib).chain([PathBuf::from(SHIM_INSTALLED)]).collect()
        }
    };
    let found = tried.iter().find(|p| p.is_file()).and_then(|p| fs::canonicalize(p).ok());
    found.ok_or(ShimNotFound { tried })
}

/// Everything that would keep the instances that virtd starts from starting, or from being ours when they do.
pub fn check(config: &Config, shim: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let started: Vec<_> = config.instances.iter().filter(|i| i.is_ours()).collect();
    if started.is_empty() {
        return problems;
    }
    if shim.to_string_lossy().contains([' ', ':', '\t']) {
        problems.push(format!("{}: LD_PRELOAD takes no path with a space or colon in it", shim.display()));
    }
    for instance in started {
        let folder = kinds::folder(config, &instance.name);
        for program in kinds::programs(instance, &folder) {
            if let Some(problem) = program.command.first().and_then(|p| program_problem(p)) {
                problems.push(format!("instance {}: {problem}", instance.name));
            }
        }
        if let Some(kind) = instance.kind {
            problems.extend(kind_problems(instance, kind, &folder).map(|p| format!("instance {}: {p}", instance.name)));
            continue;
        }
        let Some(user) = &instance.user else { continue };
        match Account::of(user) {
            Err(e) => problems.push(format!("instance {}: user: {e}", instance.name)),
            // The dynamic loader only warns about a library it cannot open, and the daemon would go native.
            Ok(account) if !account.uid.is_root() => {
                if let Some(path) = closed_to_others(shim) {
                    problems.push(format!(
                        "instance {}: user {user} may not read {}, because of {}; install the shim as {SHIM_INSTALLED}",
                        instance.name,
                        shim.display(),
                        path.display()
                    ));
                }
            }
            Ok(_) => {}
        }
    }
    problems
}

/// What a kind needs besides its programs: its file, its users, paths of a length that the kernel takes.
fn kind_problems(instance: &Instance, kind: Kind, folder: &Path) -> impl Iterator<Item = String> {
    let users = kinds::users(instance).into_iter().filter_map(|user| Account::of(user).err());
    let mut problems: Vec<String> = users.map(|e| format!("user: {e}")).collect();
    let file = instance.config_file.as_deref().unwrap_or(Path::new(""));
    match fs::metadata(file) {
        Err(e) => problems.push(format!("config: {}: {e}", file.display())),
        Ok(m) if !m.is_file() => problems.push(format!("config: {} is not a file", file.display())),
        Ok(m) if kind == Kind::OpenBgpd && m.permissions().mode() & 0o037 != 0 => {
            problems.push(format!("config: OpenBGPD refuses {}, which others may use: chmod 600", file.display()));
        }
        Ok(_) => {}
    }
    if !nix::unistd::geteuid().is_root() {
        problems.push("virtd must be root to start a daemon by its kind".to_owned());
    }
    let socket = kinds::control_socket(kind, folder);
    if socket.as_os_str().len() > MAX_SOCKET_PATH {
        let length = socket.as_os_str().len();
        problems.push(format!("{} has {length} octets, a socket's path at most {MAX_SOCKET_PATH}", socket.display()));
    }
    problems.into_iter()
}

/// Why a program cannot be started: not there, or neither executable.
fn program_problem(program: &str) -> Option<String> {
    let runs = |path: &Path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        let path = Path::new(program);
        if !path.is_absolute() {
            return Some(format!("{program} is a relative path; instances start in /"));
        }
        return match fs::metadata(path) {
            Err(e) => Some(format!("{program}: {e}")),
            Ok(_) if !runs(path) => Some(format!("{program} is not an executable file")),
            Ok(m) if m.permissions().mode() & 0o6000 != 0 => Some(format!(
                "{program} has the setuid or setgid bit, so the kernel ignores LD_PRELOAD; use `user` instead"
            )),
            Ok(_) => None,
        };
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&search).any(|dir| runs(&dir.join(program))) {
        return None;
    }
    Some(format!("{program} is not in PATH ({}); give its full path", search.to_string_lossy()))
}

/// The first part of a path that others than its owner and group may not pass or read.
fn closed_to_others(path: &Path) -> Option<PathBuf> {
    let bit = |p: &Path, bit: u32| fs::metadata(p).is_ok_and(|m| m.permissions().mode() & bit != 0);
    if let Some(dir) = path.ancestors().skip(1).find(|dir| !bit(dir, 0o001)) {
        return Some(dir.to_owned());
    }
    (!bit(path, 0o004)).then(|| path.to_owned())
}
