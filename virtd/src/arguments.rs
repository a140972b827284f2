//! virtd's command line.

use clap::Parser;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Example, two commands:
  virtd --config /etc/virtd/virtd.toml --check    what the file means; errors have file, line and column
  virtd --config /etc/virtd/virtd.toml            run in the foreground until SIGTERM
Run it as root; with a user virtd on the system (useradd --system virtd) the part that talks to the network is that user.

The smallest configuration, one daemon that something else starts:
  [router]
  accept_any = true
  [[instance]]
  name = \"frr\"

A daemon becomes an instance by three variables:
  LD_PRELOAD=/usr/local/lib/libhvlibc.so HV_SOCKET=/run/virtd/hv.sock HV_INSTANCE=frr bgpd -f bgpd.conf

Logging: RUST_LOG=warn, or RUST_LOG=virtd=debug; the default is info.
Every key: docs/CONFIGURATION.md and examples/virtd.toml. What it is: README.md. What it cannot do: docs/LIMITATIONS.md.
Ask a running one: virtctl status, virtctl events -f.";

/// One BGP router made of several unmodified daemons: owns the sessions with the peers, gives every
/// daemon what the peers say, votes on what the daemons say, and tells the peers the outcome.
#[derive(Debug, Parser)]
#[command(name = "virtd", after_help = EXAMPLES)]
pub struct Arguments {
    /// The configuration file (TOML)
    #[arg(long, short, value_name = "FILE", required_unless_present = "worker")]
    pub config: Option<PathBuf>,
    /// Check the file and print what would be done; exit status 0 if it would start, 1 if not
    #[arg(long)]
    pub check: bool,
    /// libhvlibc.so, for the instances that virtd starts; default: next to virtd, in ../lib from
    /// there, in /usr/lib/virtd
    #[arg(long, value_name = "PATH")]
    pub shim: Option<PathBuf>,
    /// For virtd itself: this process is the worker, and its standard input the link to the master
    #[arg(long, hide = true, conflicts_with_all = ["config", "check", "shim"])]
    pub worker: bool,
    /// For virtd itself: what the worker before had open is open
    #[arg(long, hide = true, requires = "worker")]
    pub resumed: bool,
    /// For virtd itself: this process only sees whether it could be the worker
    #[arg(long = "try", hide = true, requires = "worker", conflicts_with = "resumed")]
    pub tries: bool,
}
