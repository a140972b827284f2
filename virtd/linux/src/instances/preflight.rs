//! What can be known before an instance is started: the shim, its user, its program.

use super::launch::{self, Account};
use super::library;
use crate::kinds::accounts::Accounts;
use crate::kinds::root::{Entry, inside};
use crate::kinds::{self, Program};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use virtd_config::version::fetch_command;
use virtd_config::{Config, Instance, Kind};

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

/// The absolute path of libhvlibc.so: `given`, or else next to the running program (a build
/// folder), in the `lib` beside its folder (`make install`), or where a package puts it.
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

/// Everything that would keep the instances that virtd starts from starting, or from being ours
/// when they do.
pub fn check(config: &Config, shim: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let started: Vec<_> = config.instances.iter().filter(|i| i.is_ours()).collect();
    if started.is_empty() {
        return problems;
    }
    if shim.to_string_lossy().contains([' ', ':', '\t']) {
        problems.push(format!("{}: LD_PRELOAD takes no path with a space or colon in it", shim.display()));
    }
    for &instance in &started {
        let folder = kinds::folder(config, &instance.name);
        let shim = instance.shim_library.as_deref().unwrap_or(shim);
        if let Some(library) = instance.shim_library.as_deref() {
            let found = match library.is_file() {
                true => library::problem(library),
                false => Some("is not a file".to_owned()),
            };
            let name = &instance.name;
            problems.extend(found.map(|p| format!("instance {name}: shim_library: {} {p}", library.display())));
        }
        problems.extend(processor_problem(instance).map(|p| format!("instance {}: {p}", instance.name)));
        if let Some(root) = &instance.root {
            let fetch = fetch_command(config, instance);
            let found = root_problems(instance, root, fetch.as_deref(), &kinds::programs(instance, &folder), shim);
            problems.extend(found.into_iter().map(|p| format!("instance {}: {p}", instance.name)));
        }
        for program in kinds::programs(instance, &folder).iter().filter(|_| instance.root.is_none()) {
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
            // The dynamic loader only warns about a library it cannot open, and the daemon would go
            // native.
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
    if started.iter().any(|i| i.shim_library.is_none()) {
        problems.extend(
            library::problem(shim).map(|p| format!("{}: the shim {p}; name it with --shim PATH", shim.display())),
        );
    }
    problems
}

/// A processor that virtd may not use: the instance would not start.
fn processor_problem(instance: &Instance) -> Option<String> {
    let ours = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok()?;
    let foreign = |n: &&u16| !ours.is_set(usize::from(**n)).unwrap_or(false);
    let n = instance.environment.cpus.iter().find(foreign)?;
    Some(format!("environment: virtd may not run on a processor {n} (taskset -p shows on which it may)"))
}

/// What a kind needs besides its programs: its file, its users, paths of a length that the kernel
/// takes.
fn kind_problems(instance: &Instance, kind: Kind, folder: &Path) -> impl Iterator<Item = String> {
    let mut problems = Vec::new();
    // A root that is not there is named once.
    if instance.root.as_ref().is_none_or(|root| root.is_dir()) {
        let accounts = Accounts(instance.root.as_deref());
        for user in kinds::users(instance) {
            match accounts.user(user) {
                Err(e) => problems.push(format!("user: {e}")),
                Ok(account) if accounts.group_name(account.gid).is_none() => {
                    problems.push(format!(
                        "group: user {user} has group {}, which is not in {}",
                        account.gid,
                        accounts.groups_file()
                    ));
                }
                Ok(_) => {}
            }
        }
        let groups = kinds::groups(instance).into_iter().filter_map(|group| accounts.group(group).err());
        problems.extend(groups.map(|e| format!("group: {e}")));
    }
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

/// What is wrong with a root: not there, without the daemon, or not complete enough for it and the
/// shim.
fn root_problems(
    instance: &Instance,
    root: &Path,
    fetch: Option<&str>,
    programs: &[Program],
    shim: &Path,
) -> Vec<String> {
    let key = if instance.version.is_some() { "version" } else { "root" };
    let remedy = match fetch {
        Some(command) => format!("bring it with: {command}"),
        None => "unpack the daemon's packages and all they depend on there (docs/INSTALL.md, Other versions)".into(),
    };
    match fs::metadata(root) {
        Err(e) => return vec![format!("{key}: {}: {e}; {remedy}", root.display())],
        Ok(m) if !m.is_dir() => return vec![format!("{key}: {} is not a folder; {remedy}", root.display())],
        Ok(_) => {}
    }
    let paths = || programs.iter().filter_map(|p| p.command.first());
    let outside = paths().map(|p| inside(root, Path::new(p)).display().to_string());
    let missing: Vec<String> =
        outside.filter_map(|p| program_problem(&p)).map(|p| format!("{key}: {p}; {remedy}")).collect();
    // Nothing of it is tried before what can be seen is right, and only root can try it.
    if !missing.is_empty() || !shim.is_file() || !nix::unistd::geteuid().is_root() {
        return missing;
    }
    let tried = programs.iter().filter_map(|p| loader_problem(root, p, shim, instance.shim_library.is_some()));
    tried.collect()
}

/// Asks the root's own dynamic loader whether it would find everything, the shim included, which it
/// would otherwise leave out with no more than a warning. The program itself is not run.
fn loader_problem(root: &Path, program: &Program, shim: &Path, own_shim: bool) -> Option<String> {
    let path = program.command.first()?;
    let Some(loader) = loader(root) else {
        let text = "has no dynamic loader (/lib64/ld-linux-*, /lib/ld-linux-*): the packages' C library is missing";
        return Some(format!("root: {} {text}", root.display()));
    };
    let preload = program.preload.then(|| shim.to_owned());
    let entry = match Entry::new(root, preload.as_slice(), &[]) {
        Ok(entry) => entry,
        Err(e) => return Some(format!("root: {e}")),
    };
    let mut command = Command::new(loader);
    command
        .args(["--list", path])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_remove("LD_PRELOAD");
    if let Some(shim) = &preload {
        command.env("LD_PRELOAD", shim);
    }
    let out = match launch::spawn_inside(command, entry).and_then(Child::wait_with_output) {
        Ok(out) => out,
        Err(e) => return Some(format!("root: {} cannot be entered: {e}", root.display())),
    };
    let (found, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let wrong = said.lines().chain(found.lines().filter(|l| l.contains("not found"))).find(|l| !l.trim().is_empty());
    let wrong = match wrong {
        Some(line) => line.trim().to_owned(),
        None if !out.status.success() => format!("{path}: its loader ends with {}", out.status),
        None => return None,
    };
    let of_shim = preload.is_some_and(|shim| wrong.contains(&*shim.to_string_lossy()));
    let remedy = match (of_shim, own_shim) {
        (true, false) => "name a shim built for its C library by `shim_library` (docs/INSTALL.md, Other versions)",
        (true, true) => {
            "`shim_library` must be built for its C library or an older one (docs/INSTALL.md, Other versions)"
        }
        (false, _) => "unpack what is missing there, too",
    };
    Some(format!("root: in {}, {wrong}; {remedy}", root.display()))
}

/// The dynamic loader of a root, by its path inside.
fn loader(root: &Path) -> Option<PathBuf> {
    ["/lib64", "/lib"].iter().find_map(|folder| {
        let names = fs::read_dir(inside(root, Path::new(folder))).ok()?.flatten().map(|e| e.file_name());
        names.into_iter().find(|n| n.to_string_lossy().starts_with("ld-linux")).map(|n| Path::new(folder).join(n))
    })
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
