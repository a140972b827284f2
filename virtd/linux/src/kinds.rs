//! Daemons that virtd knows how to start: which programs, in which order, with which sockets, and
//! which program talks to them.
//!
//! Everything that a daemon makes at run time stands in a folder of its instance's own, so that
//! several of one kind run side by side; only its configuration file is the operator's.

pub mod accounts;
pub mod root;

use crate::written;
use accounts::{Account, Accounts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use root::{Entry, Own};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use virtd_config::places::vtysh_settings;
pub use virtd_config::places::{control, control_socket, folder, folder_beside};
use virtd_config::{Config, FibScope, Instance, Kind};

/// Where FRR's daemons are (Debian's package; FRR's own default).
const FRR: &str = "/usr/lib/frr";
/// Where BIRD and OpenBGPD are.
const SBIN: &str = "/usr/sbin";
/// Who FRR's daemons become unless told otherwise.
const FRR_USER: &str = "frr";
/// Whom FRR's control sockets belong to (`--enable-vty-group` of Debian's package).
const FRR_VTY_GROUP: &str = "frrvty";
/// Whom OpenBGPD's unprivileged processes become; their home is what they chroot to.
const OPENBGPD_USER: &str = "_openbgpd";
/// vtysh's own settings. PAM is not asked whether root may: in a root of its own, without what
/// stands in this system's files, it says no.
const VTYSH_SETTINGS: &str = "! Of virtd: `write memory` is each daemon's own file.\n\
    no service integrated-vtysh-config\nusername root nopassword\n";
/// Everybody may look into the folder of an instance; its sockets have permissions of their own.
const FOLDER_MODE: u32 = 0o755;

/// Folders in the place of a daemon's file that are put aside.
const MAX_LEFT: u32 = 1000;

/// One process to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it speaks BGP, so that it needs the shim.
    pub preload: bool,
    /// It can be started once this socket is there.
    pub after: Option<PathBuf>,
}

impl Program {
    fn new(command: &[&str]) -> Program {
        Program { command: command.iter().map(|&a| a.to_owned()).collect(), preload: true, after: None }
    }

    /// The program's name without its folder, for messages.
    pub fn name(&self) -> &str {
        let path = self.command.first().map_or("", String::as_str);
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// The processes of an instance, in the order in which they are started; the first leads the group.
/// Empty where virtd does not start it.
pub fn programs(instance: &Instance, folder: &Path) -> Vec<Program> {
    let Some(kind) = instance.kind else {
        let command = instance.command.clone();
        return if command.is_empty() { Vec::new() } else { vec![Program { command, preload: true, after: None }] };
    };
    let path = |p: PathBuf| p.display().to_string();
    let file = |name: &str| path(folder.join(name));
    let config = path(instance.config_file.clone().unwrap_or_default());
    let mut list = match kind {
        Kind::Frr => frr(instance, folder, &config),
        Kind::Bird => {
            let bird = format!("{SBIN}/bird");
            vec![Program::new(&[&bird, "-f", "-c", &config, "-s", &file("bird.ctl"), "-P", &file("bird.pid")])]
        }
        Kind::OpenBgpd => vec![Program::new(&[&format!("{SBIN}/bgpd"), "-d", "-f", &config])],
    };
    for program in &mut list {
        program.command.extend(become_user(instance));
    }
    list
}

/// The options that have a daemon become `user`.
fn become_user(instance: &Instance) -> Vec<String> {
    let Some(user) = &instance.user else { return Vec::new() };
    let mut options = vec!["-u".to_owned(), user.clone()];
    // Whoever is not there is named before anything starts.
    let accounts = Accounts(instance.root.as_deref());
    if let Some(group) = accounts.user(user).ok().and_then(|u| accounts.group_name(u.gid)) {
        options.extend(["-g".to_owned(), group]);
    }
    options
}

/// zebra tells bgpd of interfaces and next hops. Without `[fib]` bgpd leaves the kernel's routes
/// alone (`--no_kernel`); with it zebra is redirected too, and leaves its routes where they are at
/// its end (`-r`): an instance that is restarted has not said that they are wrong.
fn frr(instance: &Instance, folder: &Path, config: &str) -> Vec<Program> {
    let zserv = control_socket(Kind::Frr, folder);
    let (socket, dir) = (zserv.display().to_string(), folder.display().to_string());
    let daemon = |name: &str, first: &[&str]| {
        let (program, pid) = (format!("{FRR}/{name}"), folder.join(format!("{name}.pid")).display().to_string());
        let mut command = vec![program.as_str()];
        command.extend(first);
        // No port for telnet: several of a kind could not share it.
        command.extend(["-z", &socket, "-i", &pid, "--vty_socket", &dir, "-P", "0"]);
        Program::new(&command)
    };
    let own: &[&str] = if instance.netlink { &["-r", "-f", "/dev/null"] } else { &["-f", "/dev/null"] };
    let zebra = Program { preload: instance.netlink, ..daemon("zebra", own) };
    let writes = instance.netlink && instance.fib_scope != FibScope::NONE;
    let words: &[&str] = if writes { &["-f", config] } else { &["--no_kernel", "-f", config] };
    let bgpd = Program { after: Some(zserv.clone()), ..daemon("bgpd", words) };
    vec![zebra, bgpd]
}

/// What a control program needs of this system where it runs in its daemon's root.
pub fn control_needs(kind: Kind, folder: &Path) -> Vec<PathBuf> {
    let mut needs = vec![folder.to_owned()];
    needs.extend((kind == Kind::Frr).then(|| vtysh_settings(folder)));
    needs
}

/// Has vtysh leave it to each daemon to write its own file (`write memory`).
fn write_vtysh_settings(folder: &Path) -> io::Result<()> {
    let settings = vtysh_settings(folder);
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&settings)?;
    fs::set_permissions(&settings, fs::Permissions::from_mode(FOLDER_MODE))?;
    // Not in place, and each instance by itself: another one may start, or its vtysh read it, just
    // now.
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let new = settings.join(format!("vtysh.conf.{name}"));
    let file = settings.join("vtysh.conf");
    written::replace(&file, &new, VTYSH_SETTINGS.as_bytes(), 0o644, false)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))
}

/// The program of a kind that speaks BGP, with the option that has it say its version and end.
pub const fn version_command(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::Frr => ["/usr/lib/frr/bgpd", "--version"],
        Kind::Bird => ["/usr/sbin/bird", "--version"],
        Kind::OpenBgpd => ["/usr/sbin/bgpd", "-V"],
    }
}

/// The command line that has a kind's daemon look at its configuration file and end.
pub fn syntax_check(instance: &Instance) -> Option<Vec<String>> {
    let kind = instance.kind?;
    let config = instance.config_file.as_ref()?.display().to_string();
    let mut line: Vec<String> = match kind {
        // Its file is read as it is at a start: by its user, and with a neighbour's lines done, for
        // which it would open its port.
        Kind::Frr => {
            vec![format!("{FRR}/bgpd"), "-C".into(), "-Z".into(), "-p".into(), "0".into(), "-P".into(), "0".into()]
        }
        Kind::Bird => vec![format!("{SBIN}/bird"), "-p".into()],
        Kind::OpenBgpd => vec![format!("{SBIN}/bgpd"), "-n".into()],
    };
    line.extend([if kind == Kind::Bird { "-c" } else { "-f" }.to_owned(), config]);
    if kind == Kind::Frr {
        line.extend(become_user(instance));
    }
    Some(line)
}

/// The way into an instance's root for that, if it has one.
///
/// # Errors
/// What it needs of this system is not there.
pub fn syntax_entry(instance: &Instance) -> io::Result<Option<Entry>> {
    let Some(root) = &instance.root else { return Ok(None) };
    let shared: Vec<PathBuf> = instance.config_file.as_deref().map(shared_configuration).into_iter().collect();
    Entry::new(root, &shared, &own_folders(instance)?).map(Some)
}

/// The whole command line of `virtctl exec`: what [`control`] says, and an operator's words behind
/// it.
pub fn control_line(mut control: Vec<String>, words: &[String]) -> Vec<String> {
    if control.first().is_some_and(|program| program == "vtysh") && !words.is_empty() {
        control.extend(["-c".to_owned(), words.join(" ")]);
    } else {
        control.extend_from_slice(words);
    }
    control
}

/// Who writes into the folder: the user that the daemon becomes before it makes its sockets. `None`
/// is root.
pub fn owner(instance: &Instance) -> Option<&str> {
    match instance.kind? {
        Kind::Frr => Some(instance.user.as_deref().unwrap_or(FRR_USER)),
        Kind::Bird => instance.user.as_deref(),
        Kind::OpenBgpd => None,
    }
}

/// Users that must exist.
pub fn users(instance: &Instance) -> Vec<&str> {
    let own = (instance.kind == Some(Kind::OpenBgpd)).then_some(OPENBGPD_USER);
    owner(instance).into_iter().chain(own).collect()
}

/// Groups that must exist besides the users' own. Those of this system came with the daemon's
/// package.
pub fn groups(instance: &Instance) -> Vec<&str> {
    match (instance.kind, &instance.root) {
        (Some(Kind::Frr), Some(_)) if instance.user.is_none() => vec![FRR_USER, FRR_VTY_GROUP],
        (Some(Kind::Frr), Some(_)) => vec![FRR_VTY_GROUP],
        _ => Vec::new(),
    }
}

/// The number of the user who besides root may be this instance: `user`, or whom its kind becomes. A
/// daemon that finds virtd again after the death of the worker does so as that user.
pub fn uid(instance: &Instance) -> Option<u32> {
    let user = instance.user.as_deref().or_else(|| users(instance).first().copied())?;
    Accounts(instance.root.as_deref()).user(user).ok().map(|u| u.uid)
}

/// The instances that virtd starts and that stay root, each a sentence with the remedy. FRR and
/// OpenBGPD give their rights up by themselves; BIRD keeps those that it has been started with, and
/// so does any other command.
pub fn roots(config: &Config) -> Vec<String> {
    let stays = |i: &&Instance| match (i.kind, &i.user) {
        (Some(Kind::OpenBgpd), _) | (Some(Kind::Frr), None) => false,
        (_, None) => true,
        (_, Some(_)) => uid(i) == Some(0),
    };
    let told = |i: &Instance| {
        let what = match i.kind {
            Some(Kind::Bird) => "BIRD",
            Some(kind) => kind.name(),
            None => i.command.first().map_or("its command", String::as_str),
        };
        format!(
            "instance {} runs as root: {what} does not give its rights up; `user` names whom it is to become",
            i.name
        )
    };
    config.instances.iter().filter(|i| i.is_ours()).filter(stays).map(told).collect()
}

/// The way into an instance's root, if it has one. What it shares with this system: the folder of
/// its sockets, the shim and its socket, its configuration, and the system's log.
///
/// # Errors
/// Something of that is not there.
pub fn entry(instance: &Instance, shim_socket: &Path, shim: &Path) -> io::Result<Option<Entry>> {
    let Some(root) = &instance.root else { return Ok(None) };
    let mut shared = vec![folder_beside(shim_socket, instance.label()), shim_socket.to_owned(), shim.to_owned()];
    shared.extend(instance.config_file.as_deref().map(shared_configuration));
    // Where it is a link, it is one inside too, since /dev is this system's.
    shared.extend(fs::canonicalize("/dev/log").ok().filter(|log| !log.starts_with("/dev")));
    Entry::new(root, &shared, &own_folders(instance)?).map(Some)
}

/// A configuration file is shared with its folder, so that it may include others and be replaced by
/// an editor. One directly in /etc or the like is shared alone: the root has an /etc of its own.
fn shared_configuration(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder.components().count() > 2 => folder.to_owned(),
        _ => file.to_owned(),
    }
}

/// Folders in /run that a package's service or start script would make.
fn own_folders(instance: &Instance) -> io::Result<Vec<Own>> {
    let accounts = Accounts(instance.root.as_deref());
    Ok(match instance.kind {
        Some(Kind::Frr) => {
            let user = accounts.user(owner(instance).unwrap_or(FRR_USER))?;
            vec![Own { path: "/run/frr".into(), owner: Some((user.uid, user.gid)) }]
        }
        Some(Kind::OpenBgpd) => vec![Own { path: accounts.user(OPENBGPD_USER)?.home, owner: None }],
        Some(Kind::Bird) | None => Vec::new(),
    })
}

/// Makes the folder, the daemon's own, and removes what an earlier run has left there: a daemon
/// refuses to start over an old socket, and bgpd would dial a zebra that is no more.
///
/// # Errors
/// The file system's.
pub fn prepare(instance: &Instance, folder: &Path) -> io::Result<()> {
    let Some(kind) = instance.kind else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    // Whatever the umask was, the way to it must be open to the daemon's user.
    for dir in folder.ancestors().take(2) {
        fs::set_permissions(dir, fs::Permissions::from_mode(FOLDER_MODE))?;
    }
    let accounts = Accounts(instance.root.as_deref());
    if let Some(user) = owner(instance) {
        let Account { uid, gid, .. } = accounts.user(user)?;
        std::os::unix::fs::chown(folder, Some(uid), Some(gid))?;
    }
    if kind == Kind::Frr {
        write_vtysh_settings(folder)?;
    }
    end_leftovers(&programs(instance, folder), folder);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| matches!(e.to_str(), Some("pid" | "vty" | "api" | "ctl" | "sock"))) {
            remove(&path)?;
        }
    }
    if kind == Kind::OpenBgpd && instance.root.is_none() {
        // Debian's service makes it, and it is gone where that has stopped or never ran.
        fs::create_dir_all(accounts.user(OPENBGPD_USER)?.home)?;
    }
    Ok(())
}

/// Makes room for what has this name. The folder is the daemon's own, so that anything may be
/// there; what is in a folder is neither looked at nor removed, since that can be made to take for
/// ever: it is put aside.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if matches!(e.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied) => {}
        done => return done,
    }
    if fs::remove_dir(path).is_ok() {
        return Ok(());
    }
    let aside = |n: u32| path.with_extension(format!("left-{n}"));
    let free = (1..=MAX_LEFT).map(aside).find(|aside| aside.symlink_metadata().is_err());
    let aside = free.ok_or_else(|| io::Error::other(format!("{} is a folder, as often before", path.display())))?;
    log::warn!(
        "{} is a folder in the place of a daemon's file: it is put aside as {}",
        path.display(),
        aside.display()
    );
    fs::rename(path, aside)
}

/// A daemon outlives a master that is killed, and would take part beside the one that is about to
/// start. Its command line, which names this very folder, tells it from any other; this finds what
/// is left of a group whose leader is gone.
fn end_leftovers(programs: &[Program], folder: &Path) {
    let folder = folder.display().to_string();
    let named = |p: &&Program| p.command.iter().any(|a| a.starts_with(&folder));
    let lines: Vec<Vec<u8>> =
        programs.iter().filter(named).map(|p| (p.command.join("\0") + "\0").into_bytes()).collect();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if fs::read(entry.path().join("cmdline")).is_ok_and(|line| lines.contains(&line)) {
            log::warn!("process {pid} is left from an earlier virtd and is killed");
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
#[path = "kinds_tests.rs"]
mod tests;
