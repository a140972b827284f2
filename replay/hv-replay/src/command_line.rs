//! `hv-replay`'s command line as a whole.

use crate::diff::DiffOptions;
use crate::exchange::ExchangeOptions;
use crate::options::{FeedOptions, ReproduceOptions, RunOptions, SessionOptions};
use crate::probe::ProbeOptions;
use crate::script;
use clap::{CommandFactory, Parser, Subcommand};

/// A BGP neighbour from the command line: plays MRT files, made-up tables or scripts to a router,
/// records what comes back, checks it, and measures.
#[derive(Debug, Parser)]
#[command(name = "hv-replay", args_conflicts_with_subcommands = true)]
pub struct Options {
    #[allow(missing_docs)] // It would stand in the help.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    #[allow(missing_docs)] // It would stand in the help.
    pub session: SessionOptions,
    #[command(flatten)]
    #[allow(missing_docs)] // It would stand in the help.
    pub feed: FeedOptions,
    #[command(flatten)]
    #[allow(missing_docs)] // It would stand in the help.
    pub reproduce: ReproduceOptions,
    #[command(flatten)]
    #[allow(missing_docs)] // It would stand in the help.
    pub run: RunOptions,
}

/// What else there is.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure the router between two sessions: the time of one UPDATE, or of a whole table
    Probe(ProbeOptions),
    /// Play all neighbours of a route server: each announces its own routes and waits for those of
    /// all the others
    Exchange(ExchangeOptions),
    /// Compare two tables that --table wrote; exit status 1 if they differ
    Diff(DiffOptions),
}

const EXAMPLES: &str = "\
Examples:
  Announce 10,000 made-up routes to a router and stay:
    hv-replay --connect 192.0.2.1 --asn 64501 --generate 10000 --ipv6-share 0.2
  Play a RIB dump as one of its vantage points said it, and stop ten seconds later:
    hv-replay --connect 192.0.2.1 --asn 64501 --mrt rib.gz --peer-filter 198.51.100.7 --hold-after 10s
  Play a file of updates as it happened, ten times as fast:
    hv-replay --listen 192.0.2.9 --asn 64501 --mrt updates.gz --speed 10
  Listen, record, and write what was learnt when nothing came for five seconds:
    hv-replay --listen 192.0.2.9 --asn 64502 --monitor --exit-after-idle 5s --table b.json --record b.mrt --json -
  What changed?
    hv-replay diff a.json b.json --ignore med
  Type commands, see what comes back:
    hv-replay --connect 192.0.2.1 --asn 64501 --script - --events - --events-updates
  Does the daemon die again of what virtd found to have killed it? With the daemon's address, from the neighbour's:
    hv-replay --reproduce 20261121T091500000Z-poison-frr.json --connect 192.0.2.1 --bind 192.0.2.9
  The latency of the router between two neighbours, and how long a table takes:
    hv-replay probe --feed '--connect 192.0.2.1 --bind 192.0.2.8 --asn 64501' \\
                    --monitor '--connect 192.0.2.1 --bind 192.0.2.9 --asn 64502' --count 10000 --rate 500
    hv-replay probe --table-run --count 1000000 --feed '...' --monitor '...'
  The same from a neighbour into the forwarding table of a router in a network namespace:
    hv-replay probe --feed '...' --fib /run/netns/router
  Each change that a recorded trace makes there, at 3000 times its speed:
    hv-replay probe --feed '...' --fib /run/netns/router --mrt updates.gz --speed 3000
  700 neighbours of a route server, each with 50 routes, until all have everything (hv-replay exchange --help):
    hv-replay exchange --connect 10.0.0.1 --neighbours 700 --routes 50 --first-address 10.0.16.0

";

const STATUS: &str = "

Exit status: 0 as planned (also after Ctrl-C), 1 the session was reset, never came up, or tables differ or routes were lost,
2 a mistake in the options, a file that cannot be read or in which nothing can be, an address that cannot be used.
With --reproduce: 0 the failure came back (the daemon closed the connection, sent a NOTIFICATION, broke the protocol or fell
silent), 1 the daemon lives, 2 it could not be tried: also where no session came up or an operator's Cease ended it.";

/// It, with all that `--help` says.
pub fn command() -> clap::Command {
    let help = format!("{EXAMPLES}{}{STATUS}", script::HELP);
    Options::command().after_long_help(help).after_help("--help shows examples")
}
