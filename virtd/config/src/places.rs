//! Where the instances that virtd starts have their sockets, and how their control programs find
//! them.

use crate::{Config, Kind};
use std::path::{Path, PathBuf};

/// The folder of an instance's sockets and pid files: `instances/NAME` beside the shim's socket.
pub fn folder(config: &Config, name: &str) -> PathBuf {
    folder_beside(&config.shim_socket, name)
}

/// The same, by the shim's socket.
pub fn folder_beside(shim_socket: &Path, name: &str) -> PathBuf {
    shim_socket.parent().unwrap_or(Path::new("/")).join("instances").join(name)
}

/// The control socket of a kind's daemon in the folder of its instance. Of FRR's, the one with the
/// longest name.
pub fn control_socket(kind: Kind, folder: &Path) -> PathBuf {
    folder.join(match kind {
        Kind::Frr => "zserv.api",
        Kind::Bird => "bird.ctl",
        Kind::OpenBgpd => "bgpd.sock",
    })
}

/// The program that talks to a daemon, up to where the operator's words begin. What vtysh is told
/// must be one word behind `-c`.
pub fn control(kind: Kind, folder: &Path) -> Vec<String> {
    let (socket, dir) = (control_socket(kind, folder).display().to_string(), folder.display().to_string());
    let settings = vtysh_settings(folder).display().to_string();
    let words: &[&str] = match kind {
        Kind::Frr => &["vtysh", "--vty_socket", &dir, "--config_dir", &settings, "-d", "bgpd"],
        Kind::Bird => &["birdc", "-s", &socket],
        Kind::OpenBgpd => &["bgpctl", "-s", &socket],
    };
    words.iter().map(|&w| w.to_owned()).collect()
}

/// Where vtysh looks for its own settings and for the file of all daemons together, which it would
/// write otherwise: the system's. Nobody but root may write there, unlike the folder of an
/// instance.
pub fn vtysh_settings(folder: &Path) -> PathBuf {
    folder.ancestors().nth(2).unwrap_or(Path::new("/")).join("vtysh")
}
