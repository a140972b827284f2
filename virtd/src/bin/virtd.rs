//! virtd: the broker between the outside world and the routing daemons behind it.

use broker::Core;
use broker::event::{Event, Severity};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use virtd::driver::Driver;
use virtd::serve::{self, Lines};
use virtd::state;
use virtd_config::{Config, parse, summary};
use virtd_linux::{files, kinds};

const EXAMPLES: &str = "\
Example, two commands:
  virtd --config /etc/virtd/virtd.toml --check    what the file means; errors have file, line and column
  virtd --config /etc/virtd/virtd.toml            run in the foreground until SIGTERM

The smallest configuration, one daemon that something else starts:
  [router]
  accept_any = true
  [[instance]]
  name = \"frr\"

A daemon becomes an instance by three variables:
  LD_PRELOAD=/usr/local/lib/libhvlibc.so HV_SOCKET=/run/virtd/hv.sock HV_INSTANCE=frr bgpd -f bgpd.conf

Logging: RUST_LOG=warn, or RUST_LOG=virtd=debug; the default is info.
Every key: docs/OPERATIONS.md and examples/virtd.toml. What it is: README.md. What it cannot do: docs/LIMITATIONS.md.
Ask a running one: virtctl status, virtctl events -f.";

/// One BGP router made of several unmodified daemons: owns the sessions with the peers, gives every
/// daemon what the peers say, votes on what the daemons say, and tells the peers the outcome.
#[derive(Parser)]
#[command(name = "virtd", version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration file (TOML)
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Check the file and print what would be done; exit status 0 if it would start, 1 if not
    #[arg(long)]
    check: bool,
    /// libhvlibc.so, for the instances that virtd starts; default: next to virtd, in ../lib from
    /// there, in /usr/lib/virtd
    #[arg(long, value_name = "PATH")]
    shim: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let outcome = match parse::load(&arguments.config) {
        Err(e) => Err(anyhow::Error::new(e)),
        Ok(config) if arguments.check => check(&config, &arguments),
        Ok(config) => run(&config, &arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    let open = |config: &Config, lines: Lines| {
        let mut core = Core::new(config, 0);
        match state::read(&config.state) {
            Ok(state) => core.restore(&state).into_iter().for_each(|i| lines.roster.rest(i)),
            Err(text) => {
                let text =
                    format!("{text}: what an operator has shut down, drained, disabled or pinned is not so any more");
                // There is room for the first.
                let _ = lines.events.try_send(Event::new(0, "state-unreadable", Severity::Warning, text));
            }
        }
        Driver::new(config.clone(), core, lines)
    };
    serve::serve(config, Some(&arguments.config), arguments.shim.as_deref(), open)
}

fn check(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    print!("{}", summary::summary(config));
    if let Some(shim) = serve::check_all(config, arguments.shim.as_deref())? {
        println!("{:<16}{}", "shim", shim.display());
    }
    if let Some(text) = files::shortage(config) {
        println!("{:<16}warning: {text}", "open files");
    }
    for text in kinds::roots(config) {
        println!("{:<16}warning: {text}", "rights");
    }
    println!("{} is good.", arguments.config.display());
    Ok(())
}
