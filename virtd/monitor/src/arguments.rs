//! virtd-monitor's command line.

use crate::tell::Plan;
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use virtd_config::parse::{self, LoadError};
use virtd_config::{Collector, DEFAULT_CONTROL_SOCKET, DEFAULT_LISTEN};

const EXAMPLES: &str = "\
Examples:
  virtd-monitor --config /etc/virtd/virtd.toml
  virtd-monitor --control /run/virtd/control-ro.sock --listen 127.0.0.1:9180
  virtd-monitor --config /etc/virtd/virtd.toml --listen 192.0.2.1:9180 --listen '[::1]:9180'

What it serves:
  /                   the router on one page, live
  /prefix?q=PREFIX    who says what about a prefix or an address, as virtctl why has it
  /metrics            OpenMetrics, for Prometheus
  /api/birdwatcher/   birdwatcher's JSON, for Alice-LG

It tells BMP collectors (RFC 7854) the routing tables: those that [[bmp]] of virtd.toml names.
What it tells of events, and whom: [[alert]], [syslog] and [journald] there.

In virtd.toml it reads these, control_socket_ro (else control_socket) of [router], and listen of [http].
It needs no right but to open that socket: put its user into control_ro_group. It asks virtd at
most once a second, whoever looks, and changes nothing. Everything that it serves is for whoever
reaches it: listen on an address of this machine, and put a proxy before it that knows who may look.

Logging: RUST_LOG=warn; the default is info. Metrics, alerts, a unit: docs/MONITORING.md, virtd-monitor.";

/// Shows a running virtd over HTTP: a page for people, metrics for Prometheus, a looking glass. Tells
/// collectors its tables by BMP, and of its events commands, HTTP hooks, syslog and journald.
#[derive(Clone, Debug, Parser)]
#[command(name = "virtd-monitor", after_help = EXAMPLES)]
pub struct Arguments {
    /// virtd's configuration file, for its control socket and the section [http]
    #[arg(long, short, value_name = "FILE", required_unless_present = "control")]
    pub config: Option<PathBuf>,
    /// virtd's control socket; one for asking only will do
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Where to serve; may stand several times. Port 0 is any that is free, which the log names
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Where to write down up to which event [[alert]], [syslog] and [journald] were told, so that one
    /// that is started again goes on from there; without it from its start
    #[arg(long, value_name = "FILE")]
    pub position: Option<PathBuf>,
}

/// Where virtd is asked, and where we serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The control socket.
    pub control: PathBuf,
    /// At least one.
    pub listen: Vec<SocketAddr>,
    /// Who is told the tables by BMP.
    pub collectors: Vec<Collector>,
}

impl Arguments {
    /// What is said here comes before what the file says.
    ///
    /// # Errors
    /// There is something wrong with the file.
    pub fn places(&self) -> Result<Places, LoadError> {
        let config = self.config.as_deref().map(parse::load).transpose()?;
        let said = config.as_ref().map(|c| c.control_socket_ro.as_ref().unwrap_or(&c.control_socket).clone());
        let control = self.control.clone().or(said).unwrap_or_else(|| PathBuf::from(DEFAULT_CONTROL_SOCKET));
        let (http, collectors) = config.map_or((None, Vec::new()), |c| (c.http, c.bmp));
        let listen = match (self.listen.as_slice(), http) {
            ([], Some(http)) => http.listen,
            ([], None) => vec![DEFAULT_LISTEN],
            (given, _) => given.to_vec(),
        };
        Ok(Places { control, listen, collectors })
    }

    /// Who is told of events.
    ///
    /// # Errors
    /// There is something wrong with the file.
    pub fn plan(&self) -> Result<Plan, LoadError> {
        let Some(config) = self.config.as_deref().map(parse::load).transpose()? else { return Ok(Plan::default()) };
        let (alerts, syslog, journald) = (config.alerts, config.syslog, config.journald);
        Ok(Plan { alerts, syslog, journald, position: self.position.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(words: &[&str]) -> Places {
        let words = ["virtd-monitor"].iter().chain(words);
        Arguments::try_parse_from(words).expect("arguments").places().expect("a good file")
    }

    #[test]
    fn the_command_line_comes_before_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("virtd.toml");
        let path = file.to_str().expect("a name");
        let write = |router: &str, http: &str| {
            let rest = "accept_any = true\n[[instance]]\nname = \"frr\"\n";
            std::fs::write(&file, format!("[router]\n{router}{rest}{http}")).expect("written");
        };
        write("control_socket = \"/a\"\n", "");
        assert_eq!(
            places(&["--config", path]),
            Places { control: "/a".into(), listen: vec![DEFAULT_LISTEN], collectors: Vec::new() }
        );
        write("control_socket = \"/a\"\ncontrol_socket_ro = \"/b\"\n", "[http]\nlisten = \"[::1]:80\"\n");
        let listen = vec!["[::1]:80".parse().expect("an address")];
        assert_eq!(places(&["--config", path]), Places { control: "/b".into(), listen, collectors: Vec::new() });
        let given = places(&["--config", path, "--control", "/c", "--listen", "192.0.2.1:0"]);
        assert_eq!((given.control, given.listen), ("/c".into(), vec!["192.0.2.1:0".parse().expect("an address")]));
        write("", "[[bmp]]\ncollector = \"192.0.2.9:5000\"\n");
        assert_eq!(places(&["--config", path]).collectors.len(), 1);
        assert_eq!(places(&["--control", "/c"]).listen, [DEFAULT_LISTEN]);
        assert!(Arguments::try_parse_from(["virtd-monitor"]).is_err());
    }
}
