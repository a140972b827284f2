//! What instances are not told on a session because their OPEN lacks something that was negotiated
//! with the peer (`open.rs`): on that they abstain, towards every peer and in the FIB, as on
//! everything that they have not been told.

use super::env::Env;
use super::open::Terms;
use hashbrown::HashMap;
use voter::Members;
use wire::bgp::frame::MAX_LEN;
use wire::bgp::{Family, Prefix, as2, encode};

/// A block shorter than this fits a message of 4,096 octets in either form: written with two octets
/// an AS number, what takes four there takes two and, in AS4_PATH, four more.
const SURELY_FITS: usize = 2048;

/// A stored block that may not fit a message of 4,096 octets, in both its forms.
#[derive(Clone, Debug)]
pub struct Long<'a> {
    block: &'a [u8],
    narrow: Vec<u8>,
}

impl Long<'_> {
    /// `None` for one that surely fits.
    pub fn of(block: &[u8]) -> Option<Long<'_>> {
        if block.len() < SURELY_FITS {
            return None;
        }
        let mut narrow = Vec::new();
        as2::narrow_stored(block, &mut narrow);
        Some(Long { block, narrow })
    }

    /// What it takes to tell it about `prefix`; `None` where a message of 4,096 octets has room in
    /// either form.
    fn need(&self, prefix: &Prefix) -> Option<Need> {
        let as_stored = encode::stored_len(self.block, prefix)?;
        let narrow = encode::stored_len(&self.narrow, prefix)?;
        (as_stored.max(narrow) > MAX_LEN).then_some(Need { as_stored, narrow })
    }
}

/// The octets of the shortest message that tells a stored route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Need {
    as_stored: usize,
    /// With AS4_PATH, for a speaker without 4-octet AS numbers.
    narrow: usize,
}

/// What one leg lacks.
#[derive(Clone, Copy, Default, Debug)]
struct Lack {
    narrow: bool,
    max_message_len: usize,
}

/// Of one session. See the module's comment.
#[derive(Debug, Default)]
pub struct Lacks {
    /// Whose legs lack a family.
    v4: Members,
    v6: Members,
    /// Whose legs lack extended messages or 4-octet AS numbers.
    tight: Members,
    legs: HashMap<u8, Lack>,
    /// Routes that do not fit a message of 4,096 octets in one of both forms.
    long: HashMap<Prefix, Need>,
}

impl Lacks {
    /// Instance `i` has a leg of these terms. Whether it lacks anything, or did.
    pub fn set(&mut self, i: usize, terms: &Terms) -> bool {
        let i = i as u8;
        let mut changed = self.forget(i);
        for (family, members) in [(Family::IPV4_UNICAST, &mut self.v4), (Family::IPV6_UNICAST, &mut self.v6)] {
            if terms.lacking.contains(&family) {
                members.insert(i);
                changed = true;
            }
        }
        if terms.short || terms.narrow {
            self.tight.insert(i);
            self.legs.insert(i, Lack { narrow: terms.narrow, max_message_len: terms.context.max_message_len });
            changed = true;
        }
        changed
    }

    /// Instance `i` has no leg any more. Whether it lacked anything.
    pub fn forget(&mut self, i: u8) -> bool {
        let lacked = self.lackers().contains(i);
        [&mut self.v4, &mut self.v6, &mut self.tight].into_iter().for_each(|m| m.remove(i));
        self.legs.remove(&i);
        lacked
    }

    /// Those that lack anything.
    pub fn lackers(&self) -> Members {
        self.v4.union(self.v6).union(self.tight)
    }

    /// Whether every leg is told everything.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.tight.is_empty()
    }

    /// Those without the family of `prefix`.
    pub fn family_of(&self, prefix: &Prefix) -> Members {
        if prefix.family() == Family::IPV4_UNICAST { self.v4 } else { self.v6 }
    }

    /// Those without `family`.
    pub fn family(&self, family: Family) -> Members {
        match family {
            Family::IPV4_UNICAST => self.v4,
            Family::IPV6_UNICAST => self.v6,
            _ => Members::EMPTY,
        }
    }

    /// Whether what is stored about `prefix` does not fit a message that instance `i` can be told.
    pub fn is_too_long(&self, i: u8, prefix: &Prefix) -> bool {
        let (Some(leg), Some(need)) = (self.legs.get(&i), self.long.get(prefix)) else { return false };
        let octets = if leg.narrow { need.narrow } else { need.as_stored };
        octets > leg.max_message_len
    }

    /// Those that are not told what is stored about `prefix`.
    pub fn untold(&self, prefix: &Prefix) -> Members {
        let mut members = self.family_of(prefix);
        if !self.long.is_empty() {
            members = members.union(self.tight.iter().filter(|i| self.is_too_long(*i, prefix)).collect());
        }
        members
    }

    /// Whether anybody abstains on anything.
    pub fn matters(&self) -> bool {
        !self.v4.is_empty() || !self.v6.is_empty() || (!self.tight.is_empty() && !self.long.is_empty())
    }

    /// The peer says something else about `prefix` now, or nothing; `long` where that may not fit.
    /// True where somebody may begin or cease to abstain on it.
    fn changed(&mut self, prefix: &Prefix, long: Option<&Long<'_>>) -> bool {
        let need = long.and_then(|long| long.need(prefix));
        if need.is_none() && self.long.is_empty() {
            return false;
        }
        let was = match need {
            Some(need) => self.long.insert(*prefix, need),
            None => self.long.remove(prefix),
        };
        was != need && !self.tight.is_empty()
    }

    /// The session has ended.
    pub fn clear(&mut self) {
        *self = Lacks::default();
    }
}

impl Env {
    /// The peer of `session` says something else about `prefix`, or nothing: see
    /// [`Lacks::changed`].
    pub fn note_length(&mut self, session: usize, prefix: Prefix, long: Option<&Long<'_>>) {
        if self.heard.change_lacks(session, |lacks| lacks.changed(&prefix, long)) {
            self.followups.vote_on(prefix);
        }
    }
}
