//! virtctl's command line, and what it asks of virtd.

use super::ask::PATIENCE;
use super::complete;
use crate::show;
use clap::{ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::ArgValueCandidates;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;
use virtd_api::{Exec, Request};
use virtd_config::DEFAULT_CONTROL_SOCKET;
use wire::bgp::Prefix;

/// As long as a program may take to be tried, and more.
const TRY_PATIENCE: Duration = Duration::from_secs(120);

const EXAMPLES: &str = "\
Examples:
  virtctl status                                  is everybody there, does anybody disagree
  virtctl routes 192.0.2.0/24                     who says what about a prefix, and why
  virtctl routes 192.0.2.7                        the longest prefix with an address in it
  virtctl why 192.0.2.7                           all about it on one screen
  virtctl health                                  one line and an exit status, for monitoring
  virtctl top                                     the same figures live, until q
  virtctl differs frr                             where frr is not with the others
  virtctl fib --diff                              where the instances' routes to the kernel differ
  virtctl diversity --sessions                    which two instances are the least independent
  virtctl events -f                               what happens, as it happens
  virtctl events -n 500 --kind disagreement       only that kind
  virtctl session 192.0.2.1                       who has that session, who has left it, and why
  virtctl instance frr restart                    end it and start it again; the others go on
  virtctl exec frr show bgp summary               the daemon's own control program
  virtctl change begin                            before policy is changed in the daemons
  virtctl reload --dry-run                        what the changed file would do
  virtctl upgrade                                 the program that was just installed takes over
  virtctl --json sessions | jq '.sessions[].peer'

Kinds of events: docs/EVENTS.md. The fields of each answer: docs/OPERATIONS.md.
Exit status: 0 answered, 1 virtd could not be asked or refused (no such prefix,
instance or kind of event), 2 wrong arguments, 3 virtd has ended while its events were followed. With exec: the program's; with health: see there.";

/// Asks a running virtd, and tells it what an operator wants.
#[derive(Clone, Debug, Parser)]
#[command(name = "virtctl", after_help = EXAMPLES)]
pub struct Arguments {
    /// virtd's control socket
    #[arg(long, short, global = true, value_name = "PATH", default_value = DEFAULT_CONTROL_SOCKET)]
    pub socket: PathBuf,
    /// Print the JSON as virtd sends it, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Colours: an alarm red, a warning yellow. `auto` is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// What is wanted.
    #[command(subcommand)]
    pub command: Command,
}

/// Octets of what a daemon is told that virtd hears: it is for an event, and a whole configuration
/// would not fit a request.
const MAX_TOLD: usize = 500;

/// What is wanted.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// The router in a few lines
    #[command(after_help = "\
Examples:
  virtctl status
  virtctl --json status | jq .disagreements_now")]
    Status,
    /// The sessions with the peers, and the instances' legs on each
    #[command(after_help = "\
Examples:
  virtctl sessions
  virtctl --json sessions | jq -r '.sessions[] | select(.state != \"Established\") | .peer'")]
    Sessions,
    /// The instances: who votes, who is catching up, who disagreed
    #[command(after_help = "\
Example:
  virtctl instances")]
    Instances,
    /// One prefix: what peers sent, what each instance says, what was published and why
    #[command(after_help = "\
Examples:
  virtctl routes 192.0.2.0/24        this very prefix
  virtctl routes 192.0.2.7           the longest prefix with this address in it")]
    Routes {
        /// An exact prefix, like 192.0.2.0/24 or 2001:db8::/32; or an address: the longest prefix
        /// that has it
        #[arg(value_parser = prefix_or_address)]
        prefix: String,
    },
    /// The prefixes on which somebody has not been with the majority for T or longer, and in what
    #[command(after_help = "\
Examples:
  virtctl differs                    everybody
  virtctl differs frr -n 1000        only where frr differs")]
    Differs {
        /// Only those on which this instance differs
        #[arg(add = ArgValueCandidates::new(complete::instances))]
        instance: Option<String>,
        /// How many prefixes, at most 1000; the rest is counted
        #[arg(short, value_name = "N", default_value_t = 50)]
        n: u64,
    },
    /// The routes that the vote puts into the kernel: the whole, one prefix, or where not everybody
    /// agrees
    #[command(after_help = "\
Examples:
  virtctl fib                        the whole in figures
  virtctl fib 192.0.2.0/24           one entry, with what each instance says
  virtctl fib --diff                 where somebody differs, and what the kernel does not take")]
    Fib {
        /// An exact prefix, like 192.0.2.0/24, or `all`; or `flush`, without [fib]: remove the
        /// routes that a virtd with it has left
        prefix: Option<String>,
        /// Only entries on which an instance differs, or that the kernel does not take
        #[arg(long, conflicts_with = "prefix")]
        diff: bool,
        /// With `flush`: by which protocol number they are known, where that was not 245
        #[arg(long, value_name = "N", requires = "prefix")]
        protocol: Option<u8>,
    },
    /// How independent the instances are, pair by pair: how often they disagree, in what, and how
    /// often they are wrong together
    #[command(after_help = "\
Example:
  virtctl diversity --sessions")]
    Diversity {
        /// Session by session, too
        #[arg(long)]
        sessions: bool,
    },
    /// Do something with an instance: restart, drain (no vote, but fed and compared), disable (no
    /// vote, stopped), enable (undoes both), promote (first in line; a standby gets a vote), pin
    /// (no verdict ends it), unpin
    #[command(after_help = "\
Examples:
  virtctl instance frr restart       end it and start it again; the others go on
  virtctl instance bird drain        before work on it
  virtctl instance bird enable       after it")]
    Instance {
        /// Its name
        #[arg(add = ArgValueCandidates::new(complete::instances))]
        name: String,
        /// What to do with it
        #[arg(value_enum)]
        action: InstanceAction,
    },
    /// The session with a peer: who has it, who has left it, since when and with which words. With
    /// an action: reset it, shut it down, or let it start again
    #[command(after_help = "\
Examples:
  virtctl session 192.0.2.1          who has it, who has left it, and why
  virtctl session 192.0.2.1 reset    Cease/Administrative Reset
  virtctl session fe80::2%eth1       a link-local peer")]
    Session {
        /// The peer's address; a link-local one with its interface, as in fe80::2%eth1
        #[arg(value_parser = peer, add = ArgValueCandidates::new(complete::peers))]
        peer: String,
        /// What to do with it; only show it where this is left out
        #[arg(value_enum)]
        action: Option<SessionAction>,
    },
    /// Run vtysh, birdc or bgpctl on an instance that has a `kind`; without words, vtysh and birdc
    /// ask for them
    #[command(after_help = "\
Examples:
  virtctl exec frr show bgp summary
  virtctl exec bird show route all
  virtctl exec openbgpd show rib")]
    Exec {
        /// Its name
        #[arg(add = ArgValueCandidates::new(complete::instances))]
        name: String,
        /// What the daemon is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Say that policy is being changed in the instances, one after another: between begin and
    /// commit no verdict ends one
    #[command(after_help = "\
Examples:
  virtctl change begin
  virtctl exec bird configure        and so on, one instance after the other
  virtctl change commit              says who does not have the new policy")]
    Change {
        /// Which end
        #[arg(value_enum)]
        action: ChangeAction,
    },
    /// Read virtd's configuration file again and change what can be changed with sessions up:
    /// instances, peers, [vote], [timers], [faults]. An error in the file leaves everything as it
    /// was
    #[command(after_help = "\
Examples:
  virtctl reload --dry-run           what would follow
  virtctl reload")]
    Reload {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Have another program of virtd take over, as one that was just installed, while all sessions
    /// stay up. It is tried with a copy of what there is first; where that fails, or it does not come
    /// to serve, everything stays as it was. An older one is taken the same way
    #[command(after_help = "\
Examples:
  install -m 755 virtd /usr/local/sbin/virtd
  virtctl upgrade --dry-run          only try it
  virtctl upgrade")]
    Upgrade {
        /// The program; default: the file that virtd was started from, as it is there now
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
        /// Only try it
        #[arg(long)]
        dry_run: bool,
    },
    /// What happened
    #[command(after_help = "\
Examples:
  virtctl events -n 100              the last hundred
  virtctl events -f                  as they happen
  virtctl events --kind no-quorum    only these")]
    Events {
        /// Go on printing as events happen, until interrupted
        #[arg(short, long)]
        follow: bool,
        /// How many of the past, at most; virtd remembers 10,000
        #[arg(short, value_name = "N", default_value_t = 20)]
        n: u64,
        /// Only this kind, like session-up or disagreement
        #[arg(long, short)]
        kind: Option<String>,
    },
    /// All about one prefix on one screen: what peers sent, what each instance says to whom, what
    /// was told and because of which rule, since when, what the kernel has, and the events about it
    #[command(after_help = "\
Examples:
  virtctl why 192.0.2.0/24           this very prefix
  virtctl why 192.0.2.7              the longest prefix with this address in it
  virtctl why 192.0.2.7 --all        every peer, every event, however long it gets
Peers to whom all say the same are shown together. `self` is our own address on their session.
Marks: = with the winner, ! counted and different, blank not counted (with the reason).")]
    Why {
        /// A prefix, or an address in one
        #[arg(value_parser = prefix_or_address)]
        prefix: String,
        /// Leave nothing out
        #[arg(long)]
        all: bool,
    },
    /// One line and an exit status for monitoring, as a Nagios plugin gives them: 0 OK, 1 WARNING
    /// (something is wrong and is masked), 2 CRITICAL (a peer is affected, or the next fault would
    /// not be masked; or virtd does not answer), 3 UNKNOWN (it cannot be asked)
    #[command(after_help = "\
Examples:
  virtctl health                     OK - 3 instances vote, 12 of 12 sessions are up | ...
  virtctl --socket /run/virtd/ro.sock health -t 5
  virtctl --json health | jq -r '.problems[].condition'
In NRPE's configuration:
  command[check_virtd]=/usr/local/bin/virtctl --socket /run/virtd/ro.sock health
docs/MONITORING.md, Monitoring, has every condition with its remedy.")]
    Health {
        /// After so many seconds virtd counts as not answering
        #[arg(short, long, value_name = "S", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
        timeout: u64,
    },
    /// The router as it is now, on the terminal, until `q`: sessions, instances, votes a second and
    /// the last events. It only asks, and goes on when virtd is restarted
    #[command(after_help = "\
Examples:
  virtctl top                        asks once a second
  virtctl top -i 5                   every five seconds
Keys:
  q, Esc, Ctrl-C                     the end
  Tab                                to the next table, whose heading is reversed
  arrows, PgUp, PgDn, Home, End      scroll
  1 to 8, < and >                    sort by a column, once more the other way round
  r                                  the other way round
A * or ^ marks the column. IN and OUT are prefixes, IN/s UPDATEs of that peer a second.")]
    Top {
        /// Seconds between two questions
        #[arg(short, long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
        interval: f64,
    },
    /// What a shell has to read so that it completes virtctl's words on TAB
    #[command(after_help = "\
Examples:
  virtctl completion bash > /etc/bash_completion.d/virtctl
  virtctl completion zsh > /usr/local/share/zsh/site-functions/_virtctl
  virtctl completion fish > /etc/fish/completions/virtctl.fish
Peers and instances are asked of the virtd whose socket the line names, when TAB is pressed.")]
    Completion {
        /// For which shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// See [`Command::Completion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // The words are all there is to say.
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// As it was typed: what has no length is an address, for virtd to look up.
fn prefix_or_address(text: &str) -> Result<String, String> {
    text.parse::<Prefix>().map(|_| text.to_owned())
}

/// A tenth of a second to an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let s: f64 = text.parse().map_err(|_| "expected a number of seconds, like 2 or 0.5".to_owned())?;
    (0.1..=3600.0).contains(&s).then_some(s).ok_or_else(|| "expected 0.1 to 3600 seconds".to_owned())
}

/// See [`Command::Instance`].
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs)] // The words are all there is to say.
pub enum InstanceAction {
    Restart,
    Drain,
    Disable,
    Enable,
    Promote,
    Pin,
    Unpin,
}

/// See [`Command::Session`].
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs)] // The words are all there is to say.
pub enum SessionAction {
    Reset,
    Shutdown,
    Start,
}

/// See [`Command::Change`].
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs)] // The words are all there is to say.
pub enum ChangeAction {
    Begin,
    Commit,
}

/// The word on the command line, which is the word on the wire.
fn word(action: impl ValueEnum) -> String {
    action.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// An address, with an interface where that is needed to tell which (RFC 4007 section 11), as virtd
/// writes it.
fn peer(text: &str) -> Result<String, String> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(a, z)| (a, Some(z)));
    let ip: std::net::IpAddr = address.parse().map_err(|_| "expected an address, like 192.0.2.1 or fe80::2%eth1")?;
    match zone {
        None => Ok(ip.to_string()),
        Some(zone) if ip.is_ipv6() && !zone.is_empty() => Ok(format!("{ip}%{zone}")),
        Some(_) => Err("only an IPv6 address has an interface behind %".to_owned()),
    }
}

/// The words, as far as they are of use in an event.
fn shortened(words: &[String]) -> Vec<String> {
    let mut left = MAX_TOLD;
    let mut fits = |c: &char| {
        left = left.saturating_sub(c.len_utf8());
        left > 0
    };
    words.iter().map(|w| w.chars().take_while(&mut fits).collect::<String>()).filter(|w| !w.is_empty()).collect()
}

impl Command {
    /// The line for virtd; `None` of what is more than one question, or none.
    pub fn request(&self) -> Option<Request> {
        Some(match self.clone() {
            Command::Status => Request::Status,
            Command::Sessions => Request::Sessions,
            Command::Instances => Request::Instances { exec: None },
            Command::Exec { name, words } => Request::Instances { exec: Some(Exec { name, words: shortened(&words) }) },
            Command::Routes { prefix } => Request::Routes { prefix },
            Command::Differs { instance, n } => Request::Differs { instance, n: Some(n) },
            Command::Fib { prefix: Some(word), protocol, .. } if word == "flush" => {
                Request::Fib { prefix: None, diff: false, flush: true, protocol: protocol.map(u64::from) }
            }
            Command::Fib { prefix, diff, .. } => Request::Fib { prefix, diff, flush: false, protocol: None },
            Command::Diversity { sessions } => Request::Diversity { sessions },
            Command::Instance { name, action } => Request::Instance { name, action: word(action) },
            Command::Session { peer, action } => Request::Session { peer, action: action.map(word) },
            Command::Change { action } => Request::Change { action: word(action) },
            Command::Reload { dry_run } => Request::Reload { dry_run },
            Command::Upgrade { to, dry_run } => {
                let to = to.map(|to| std::path::absolute(&to).unwrap_or(to));
                Request::Upgrade { to, dry_run }
            }
            Command::Events { follow, n, kind } => Request::Events { follow, n: Some(n), kind },
            Command::Why { .. } | Command::Health { .. } | Command::Top { .. } | Command::Completion { .. } => {
                return None;
            }
        })
    }

    /// How long virtd may take to answer.
    pub const fn patience(&self) -> Duration {
        match self {
            Command::Upgrade { .. } => TRY_PATIENCE,
            _ => PATIENCE,
        }
    }

    /// Goes on after the first line.
    pub const fn follows(&self) -> bool {
        matches!(self, Command::Events { follow: true, .. })
    }

    /// An answer as a person reads it.
    ///
    /// # Errors
    /// It is no such answer.
    pub fn show(&self, line: &str) -> serde_json::Result<String> {
        match self {
            Command::Status => shown(line, show::status),
            Command::Sessions => shown(line, show::sessions),
            Command::Session { action: None, .. } => shown(line, show::session),
            Command::Instances | Command::Exec { .. } => shown(line, show::instances),
            Command::Routes { .. } => shown(line, show::routes),
            Command::Differs { .. } => shown(line, show::differs),
            Command::Fib { prefix: Some(word), .. } if word == "flush" => shown(line, show::done),
            Command::Fib { prefix: None, diff: false, .. } => shown(line, show::fib),
            Command::Fib { .. } => shown(line, show::fib_entries),
            Command::Diversity { .. } => shown(line, show::diversity),
            Command::Instance { .. } | Command::Session { .. } | Command::Change { .. } => shown(line, show::done),
            Command::Reload { .. } => shown(line, show::reload),
            Command::Upgrade { .. } => shown(line, show::upgrade),
            Command::Events { follow: true, .. } => shown(line, show::followed),
            Command::Events { .. } => shown(line, show::events),
            Command::Why { .. } | Command::Health { .. } | Command::Top { .. } | Command::Completion { .. } => {
                Ok(String::new())
            }
        }
    }
}

fn shown<T: DeserializeOwned>(line: &str, show: impl Fn(&T) -> String) -> serde_json::Result<String> {
    Ok(show(&serde_json::from_str(line)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Who asks for help in the night wants a line to copy.
    #[test]
    fn every_command_teaches_with_an_example() {
        Arguments::command().debug_assert();
        for command in Arguments::command().get_subcommands_mut() {
            let (name, help) = (command.get_name().to_owned(), command.render_long_help().to_string());
            let (_, examples) = help.split_once("\nExample").unwrap_or_default();
            assert!(examples.contains(&format!("virtctl {name}")) || examples.contains(&format!(" {name} ")), "{help}");
        }
    }
}
