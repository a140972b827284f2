//! What the journal keeps of a session besides its streams: how it was ended by those that had it,
//! and who has left it. A virtd that did not know would let a peer back in that a limit has ended.

use super::*;
use crate::leaving::Meaning;
use serde::{Deserialize, Serialize};

/// See the module's comment. Only what is to be kept: the default says nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    /// How it was last ended, where it has not come back since.
    ended: Option<Ended>,
    /// Who has left it by their own will while they had a vote.
    left: Vec<Left>,
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

/// A standing and whose it is, as the journal has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Whose {
    /// The peer's address.
    pub peer: SocketAddr,
    /// How its session stands.
    pub standing: Standing,
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
        Standing { ended, left: left.collect() }
    }

    /// Has it kept where it has changed.
    pub(super) fn keep_standing(&mut self, env: &mut Env) {
        let quiet = self.ended.is_none() && self.seats.iter().all(|s| s.departure.is_none());
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
        for left in &standing.left {
            let Some(i) = (0..self.seats.len()).find(|i| env.name(*i) == left.instance) else { continue };
            let seat = &mut self.seats[i];
            seat.departure = Some(Departure::left(env.now, left.said.map(notification)));
            seat.had_leg = true;
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
