//! What is under way, told to somebody who outlives this process ([`Witness`]): if virtd dies in the
//! middle of it, the next one knows what it was. And what follows for the leg of an instance whose
//! message it was ([`Core::leg_killed`]).

use crate::Core;
use crate::env::Env;
use crate::event::{Event, Severity};
use crate::io::Micros;
use crate::session::{Session, Whose};
use bytes::Bytes;
use journal::Record;
use std::fmt;
use std::net::SocketAddr;
use wire::bgp::Prefix;

/// After so many deaths by what it has said an instance has no leg at all, until an operator says
/// otherwise: it may say the same to each of many peers.
const MAX_DEATHS: u32 = 3;

/// What the core does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stage {
    /// Nothing: it waits, or octets are read and written.
    Outside = 0,
    /// Octets of a peer's.
    Peer = 1,
    /// A message of an instance's, on a leg.
    Leg = 2,
    /// What happens to connections, legs, processes and links.
    Happening = 3,
    /// An instance's own routes.
    Netlink = 4,
    /// What is due by the clock.
    Timers = 5,
    /// The votes on the FIB, and what is written of it.
    Fib = 6,
    /// The votes that are due on the sessions.
    Votes = 7,
    /// What is told to the peers.
    Tells = 8,
    /// An operator's request.
    Operator = 9,
}

impl Stage {
    const ALL: [Stage; 10] = [
        Stage::Outside,
        Stage::Peer,
        Stage::Leg,
        Stage::Happening,
        Stage::Netlink,
        Stage::Timers,
        Stage::Fib,
        Stage::Votes,
        Stage::Tells,
        Stage::Operator,
    ];

    /// The one of this number; `None`: there is none.
    pub fn of(number: u8) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| *stage as u8 == number)
    }
}

impl fmt::Display for Stage {
    /// As it stands behind "while".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Outside => "it waited, or moved octets",
            Stage::Peer => "it took in what a peer had sent",
            Stage::Leg => "it took in a message of an instance",
            Stage::Happening => "it saw to a connection, a process or a link",
            Stage::Netlink => "it saw to the kernel's routes of an instance",
            Stage::Timers => "it saw to what was due",
            Stage::Fib => "it voted on the FIB",
            Stage::Votes => "it held the votes that were due",
            Stage::Tells => "it told the peers what was chosen",
            Stage::Operator => "it saw to an operator's request",
        })
    }
}

/// A message of an instance's that is about to be handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saying<'a> {
    /// The instance's name.
    pub instance: &'a str,
    /// The peer that its leg is for.
    pub peer: SocketAddr,
    /// AS numbers in it have four octets.
    pub as4: bool,
    /// The whole message.
    pub octets: &'a [u8],
}

/// Is told what is about to be done. Each call costs a few stores at most: it is on the way of every
/// message.
pub trait Witness: Send {
    /// This begins, and what was under way before is over.
    fn begins(&self, stage: Stage);

    /// [`Stage::Peer`]: of which peer.
    fn hears(&self, peer: &SocketAddr);

    /// [`Stage::Leg`] begins, with this.
    fn is_told(&self, saying: &Saying<'_>);

    /// Whatever the stage: there is a vote on this prefix.
    fn votes_on(&self, prefix: &Prefix);
}

/// What an instance had said that was being handled when virtd died.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastWord {
    /// The instance's name.
    pub instance: String,
    /// The peer that its leg was for.
    pub peer: SocketAddr,
    /// AS numbers in it have four octets.
    pub as4: bool,
    /// The whole message.
    pub octets: Bytes,
}

impl Core {
    /// From now on this one is told what is under way.
    pub fn set_witness(&mut self, witness: Box<dyn Witness>) {
        self.env.witness = Some(witness);
    }

    /// Sessions have ended because it was not known what kills: where several instances have said it
    /// they are as before.
    pub fn forgive_several(&mut self) {
        self.sessions.iter_mut().for_each(Session::forgive_several);
    }

    /// The virtd before died of what an instance has said on a leg. That costs the instance this leg:
    /// if it says the same again, the leg is ended before that is looked at; if virtd dies again of
    /// what it says there, it has no leg there until an operator says so.
    pub fn leg_killed(&mut self, now: Micros, said: &LastWord) {
        self.env.now = self.env.now.max(now);
        let i = self.env.taken().find(|i| self.env.name(*i) == said.instance);
        let session = self.session_for(said.peer).and_then(|s| self.sessions.get_mut(s));
        match (i, session) {
            (Some(i), Some(s)) => s.leg_killed(i, said, &mut self.env),
            _ => {
                let text = format!(
                    "virtd died of a message of {} about {}, neither of which it knows any more",
                    said.instance, said.peer
                );
                self.env.out.push(Event::new(self.env.now, "leg-poison", Severity::Alarm, text).into());
            }
        }
        bar(&self.sessions, &mut self.env);
    }
}

impl LastWord {
    /// Whether what virtd died of is this instance's alone, by what the journal says of the session:
    /// nobody else has said there what killed.
    pub fn is_its_own<'a>(&self, journal: impl Iterator<Item = Record<'a>>) -> bool {
        let standings = journal.filter_map(|record| match record {
            Record::Standing { text } => Whose::of(text).filter(|whose| whose.peer.ip() == self.peer.ip()),
            _ => None,
        });
        standings.last().is_none_or(|whose| !whose.has_other_killer(&self.instance))
    }
}

/// Whoever has killed virtd too often, on whatever leg, has none, until an operator has forgiven it
/// enough.
pub fn bar(sessions: &[Session], env: &mut Env) {
    for i in env.taken().collect::<Vec<_>>() {
        let deaths: u32 = sessions.iter().map(|s| s.deaths_by(i)).sum();
        if deaths < MAX_DEATHS {
            env.barred.remove(i as u8);
        } else if !env.barred.contains(i as u8) {
            env.barred.insert(i as u8);
            let name = env.name(i);
            let text = format!(
                "virtd has died {deaths} times of what {name} said: it has no leg on any session until \
                 `virtctl instance {name} restart`, or `virtctl session PEER start` for those where it was"
            );
            env.tell_about("leg-poison", Severity::Alarm, i, text);
        }
    }
}
