//! What the journal keeps of a session besides its streams: how it was ended by those that had it,
//! and who has left it. A virtd that did not know would let a peer back in that a limit has ended.

use super::*;
use crate::leaving::Meaning;
use serde::{Deserialize, Serialize};
use wire::bgp::{hex, unhex};

/// See the module's comment. Only what is to be kept: the default says nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    /// How it was last ended, where it has not come back since.
    ended: Option<Ended>,
    /// Who has left it by their own will while they had a vote.
    left: Vec<Left>,
    /// Whose messages have killed virtd.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deadly: Vec<Killer>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Ended {
    code: u8,
    subcode: u8,
    left: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Left {
    instance: String,
    /// Code and subcode of the instance's NOTIFICATION, if it gave one.
    said: Option<(u8, u8)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Killer {
    instance: String,
    /// How often.
    deaths: u32,
    /// The last message, in hexadecimal.
    octets: String,
}

/// A standing and whose it is, as the journal has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Whose {
    /// The peer's address.
    pub peer: SocketAddr,
    /// How its session stands.
    pub standing: Standing,
}

impl Whose {
    /// What a record of the journal says.
    pub(crate) fn of(text: &str) -> Option<Whose> {
        serde_json::from_str(text).ok()
    }

    /// Whether a message of another instance than `instance` has killed virtd on this session.
    pub(crate) fn has_other_killer(&self, instance: &str) -> bool {
        self.standing.deadly.iter().any(|killer| killer.instance != instance)
    }
}

impl Session {
    /// What is to be kept of it just now.
    pub fn standing(&self, env: &Env) -> Standing {
        let has_left = |s: &Seat| s.departure.as_ref().filter(|d| d.is_leave()).map(|d| d.said.clone());
        let left = self.seats.iter().enumerate().filter_map(|(i, seat)| {
            let said = has_left(seat)?.map(|n| (n.code, n.subcode));
            Some(Left { instance: env.name(i).to_owned(), said })
        });
        let ended = self.ended.as_ref().filter(|farewell| !farewell.returned).map(|farewell| Ended {
            code: farewell.said.code,
            subcode: farewell.said.subcode,
            left: farewell.left.clone(),
        });
        let deadly = self.seats.iter().enumerate().filter_map(|(i, seat)| {
            let deadly = seat.deadly.as_ref()?;
            Some(Killer { instance: env.name(i).to_owned(), deaths: deadly.deaths, octets: hex(&deadly.octets) })
        });
        Standing { ended, left: left.collect(), deadly: deadly.collect() }
    }

    /// Has it kept where it has changed.
    pub(super) fn keep_standing(&mut self, env: &mut Env) {
        let quiet = self.ended.is_none() && self.seats.iter().all(|s| s.departure.is_none() && s.deadly.is_none());
        if quiet && self.kept_standing == Standing::default() {
            return;
        }
        let standing = self.standing(env);
        if standing != self.kept_standing {
            self.kept_standing = standing.clone();
            env.out.push(Output::Standing(Box::new(Whose { peer: self.peer, standing })));
        }
    }

    /// It stood so when an earlier virtd ended.
    pub fn adopt_standing(&mut self, standing: Standing, env: &Env) {
        let notification = |(code, subcode)| Notification::new(code, subcode);
        self.ended = standing.ended.as_ref().map(|ended| Farewell {
            at: env.now,
            said: notification((ended.code, ended.subcode)),
            left: ended.left.clone(),
            returned: false,
        });
        // What an earlier record of the journal has said of it is over.
        for seat in &mut self.seats {
            seat.deadly = None;
            seat.departure.take_if(|d| d.is_leave());
        }
        for left in &standing.left {
            let Some(i) = (0..self.seats.len()).find(|i| env.name(*i) == left.instance) else { continue };
            let seat = &mut self.seats[i];
            seat.departure = Some(Departure::left(env.now, left.said.map(notification)));
            seat.had_leg = true;
        }
        for killer in &standing.deadly {
            let Some(i) = (0..self.seats.len()).find(|i| env.name(*i) == killer.instance) else { continue };
            let octets = unhex(&killer.octets).unwrap_or_default().into();
            self.seats[i].deadly = Some(Box::new(Deadly::noted(octets, killer.deaths)));
        }
        self.kept_standing = standing;
        self.wanted_at = Some(env.now);
    }
}

impl Departure {
    fn is_leave(&self) -> bool {
        self.means == Meaning::Leave && self.voter
    }
}
