//! What all peers have sent (docs/DECISIONS.md, "Bootstrap without the peer"): one table of
//! prefixes for all of them, with who announces each of them, and the id of the attribute block
//! ([`wire::bgp::encode::stored_attributes`], held in an [`Interner`](crate::intern::Interner)).
//!
//! A session is a small number, given by the caller; what a session said that has ended is taken out
//! in slices, under a number that is nobody's. The time that a question takes grows with the
//! sessions that announce the prefix, and not with those that there are. An IPv4 prefix takes 16
//! octets and an IPv6 prefix 28, some 7 more of index, 4 in the list of its session; one of several
//! sessions 14 for each of them.
//!
//! ```text
//!  index ─▶ entry: key, when, session and block; of several ─▶ session, block ─▶ session, block …
//!  list of a session: entries that it announces, or has announced
//! ```
//! What a session withdraws keeps its place in the session's list until half of that is such: so
//! nothing needs to know where in the list an entry stands.

mod table;

use crate::intern::BlobId;
use table::{MARK, NOBODY, Place, SEVERAL, Said, Table, age, key, prefix};
use wire::bgp::{Family, Prefix};

/// Sessions that there may be.
pub const MAX_SESSIONS: usize = SEVERAL as usize;

/// How far what a peer says has been read, slice by slice ([`Stores::next`]). What comes while it is
/// read may be among it or not; what stood before and still stands is.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cursor {
    family: Option<Family>,
    v4: Option<Place>,
    v6: Option<Place>,
}

impl Cursor {
    /// Nothing has been read, of one family or of all.
    pub fn new(family: Option<Family>) -> Cursor {
        let place = |f| family.is_none_or(|only| only == f).then(Place::default);
        Cursor { family, v4: place(Family::IPV4_UNICAST), v6: place(Family::IPV6_UNICAST) }
    }

    /// Reads again what was read, of a family more.
    pub fn with(self, family: Family) -> Cursor {
        Cursor::new(self.family.filter(|only| *only == family))
    }
}

/// What every peer last said of each prefix, IPv4 and IPv6 unicast. The reference counts of the
/// blocks are the caller's business. Sessions are below [`MAX_SESSIONS`].
#[derive(Debug, Default)]
pub struct Stores {
    v4: Table<5>,
    v6: Table<17>,
    /// By session, the number that its records have; [`NOBODY`]: it has said nothing.
    numbers: Vec<u16>,
    /// By such a number, whose it is; `None` of one that waits in `ended`, or is nobody's.
    sessions: Vec<Option<usize>>,
    /// Numbers of sessions that have ended, whose records have not all been taken out.
    ended: Vec<u16>,
    free: Vec<u16>,
}

/// Does the same with the table of a prefix's family.
macro_rules! of_family {
    ($stores:expr, $family:expr, $table:ident => $what:expr) => {
        match $family {
            Family::IPV4_UNICAST => {
                let $table = &mut $stores.v4;
                $what
            }
            _ => {
                let $table = &mut $stores.v6;
                $what
            }
        }
    };
}

impl Stores {
    /// Nobody has said anything.
    pub fn new() -> Stores {
        Stores::default()
    }

    fn number(&self, session: usize) -> u16 {
        self.numbers.get(session).copied().unwrap_or(NOBODY)
    }

    fn known(&self, session: usize) -> Option<u16> {
        Some(self.number(session)).filter(|number| *number != NOBODY)
    }

    fn number_or_new(&mut self, session: usize) -> u16 {
        if let Some(known) = self.known(session) {
            return known;
        }
        let next = u16::try_from(self.sessions.len()).ok().filter(|n| usize::from(*n) < MAX_SESSIONS);
        let number = self.free.pop().or(next).expect("fewer sessions than MAX_SESSIONS");
        if self.sessions.len() <= usize::from(number) {
            self.sessions.push(None);
        }
        self.sessions[usize::from(number)] = Some(session);
        if self.numbers.len() <= session {
            self.numbers.resize(session + 1, NOBODY);
        }
        self.numbers[session] = number;
        number
    }

    /// Sets what the peer of `session` says of `prefix`. Returns the id that stood there,
    /// [`BlobId::NONE`] if it is new: the caller passes its own reference to `attributes` in and
    /// gets the one to the returned id back.
    pub fn announce(&mut self, session: usize, prefix: Prefix, attributes: BlobId, now_ms: u32) -> BlobId {
        let number = self.number_or_new(session);
        of_family!(self, prefix.family(), t => t.announce(number, &key(&prefix), attributes, now_ms))
    }

    /// The peer says nothing of `prefix` any more. Returns the id that stood there,
    /// [`BlobId::NONE`] if none did.
    pub fn withdraw(&mut self, session: usize, prefix: &Prefix, now_ms: u32) -> BlobId {
        let number = self.number(session);
        of_family!(self, prefix.family(), t => t.withdraw(number, &key(prefix), now_ms))
    }

    /// The attribute block of what the peer of `session` says of `prefix`.
    pub fn find(&self, session: usize, prefix: &Prefix) -> Option<BlobId> {
        match prefix.family() {
            Family::IPV4_UNICAST => self.v4.find(self.number(session), &key(prefix)),
            _ => self.v6.find(self.number(session), &key(prefix)),
        }
    }

    /// The sessions whose peers announce `prefix`.
    pub fn announcers(&self, prefix: &Prefix) -> impl Iterator<Item = usize> + '_ {
        let (mut v4, mut v6) = (None, None);
        match prefix.family() {
            Family::IPV4_UNICAST => v4 = self.v4.slot(&key(prefix)).map(|slot| self.v4.said(slot)),
            _ => v6 = self.v6.slot(&key(prefix)).map(|slot| self.v6.said(slot)),
        }
        let said = v4.into_iter().flatten().chain(v6.into_iter().flatten());
        let session = |said: Said| self.sessions.get(usize::from(said.session & !MARK)).copied().flatten();
        said.filter(Said::stands).filter_map(session)
    }

    /// How long ago any peer last said anything about `prefix`, in milliseconds; `None`: not
    /// lately ([`Stores::forget_silent`]).
    pub fn age_ms(&self, prefix: &Prefix, now_ms: u32) -> Option<u32> {
        let (updated_ms, all_ms) = match prefix.family() {
            Family::IPV4_UNICAST => {
                (self.v4.slot(&key(prefix)).map(|s| self.v4.entries[s as usize].updated_ms), self.v4.all_ms)
            }
            _ => (self.v6.slot(&key(prefix)).map(|s| self.v6.entries[s as usize].updated_ms), self.v6.all_ms),
        };
        [updated_ms, all_ms].into_iter().flatten().map(|then| age(now_ms, then)).min()
    }

    /// What nobody announces, and has not for `keep_ms`, is forgotten.
    pub fn forget_silent(&mut self, now_ms: u32, keep_ms: u32) {
        self.v4.forget_silent(now_ms, keep_ms);
        self.v6.forget_silent(now_ms, keep_ms);
    }

    /// Number of prefixes that the peer of `session` announces.
    pub fn len(&self, session: usize) -> usize {
        self.v4.len_of(self.number(session)) + self.v6.len_of(self.number(session))
    }

    /// Whether it announces nothing.
    pub fn is_empty(&self, session: usize) -> bool {
        self.len(session) == 0
    }

    /// The same of `family`; 0 for a family other than IPv4 and IPv6 unicast.
    pub fn len_of(&self, session: usize, family: Family) -> usize {
        match family {
            Family::IPV4_UNICAST => self.v4.len_of(self.number(session)),
            Family::IPV6_UNICAST => self.v6.len_of(self.number(session)),
            _ => 0,
        }
    }

    /// Every prefix of a session and its block, IPv4 first, else in no order that means anything.
    pub fn iter(&self, session: usize) -> impl Iterator<Item = (Prefix, BlobId)> {
        let (v4, v6) = (self.v4.iter(self.number(session)), self.v6.iter(self.number(session)));
        let v4 = v4.filter_map(|(e, id)| Some((prefix(Family::IPV4_UNICAST, &e.key)?, id)));
        v4.chain(v6.filter_map(|(e, id)| Some((prefix(Family::IPV6_UNICAST, &e.key)?, id))))
    }

    /// The peer says nothing any more. What it said is taken out by [`Stores::take_out`].
    pub fn end(&mut self, session: usize) {
        if let Some(number) = self.known(session) {
            self.numbers[session] = NOBODY;
            self.sessions[usize::from(number)] = None;
            self.ended.push(number);
        }
    }

    /// Whether something of sessions that have ended is still there.
    pub fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Takes out `n` of what sessions said that have ended. It goes to `gone`; the ids are the
    /// caller's to release.
    pub fn take_out(&mut self, mut n: usize, now_ms: u32, gone: &mut Vec<(Prefix, BlobId)>) {
        while n > 0
            && let Some(&number) = self.ended.last()
        {
            let taken = self.v4.take_out(number, Family::IPV4_UNICAST, n, now_ms, gone);
            let taken = taken + self.v6.take_out(number, Family::IPV6_UNICAST, n - taken, now_ms, gone);
            if taken < n {
                self.ended.pop();
                self.free.push(number);
            }
            n -= taken;
        }
    }

    /// How many prefixes a cursor has not read yet, at most.
    pub fn unread(&self, session: usize, cursor: &Cursor) -> usize {
        let left = |slots: usize, place: Option<Place>| place.map_or(0, |place| slots.saturating_sub(place.at));
        let number = self.number(session);
        left(self.v4.len_of(number), cursor.v4) + left(self.v6.len_of(number), cursor.v6)
    }

    /// The prefixes of a session (of `family`, or all, IPv4 first), those of one block side by side
    /// so that a replay packs well.
    pub fn prefixes_by_attributes(&self, session: usize, family: Option<Family>) -> Vec<Prefix> {
        let wanted = |f| family.is_none_or(|only| only == f);
        let mut out = Vec::with_capacity(family.map_or(self.len(session), |f| self.len_of(session, f)));
        if wanted(Family::IPV4_UNICAST) {
            self.v4.append_sorted(self.number(session), Family::IPV4_UNICAST, &mut out);
        }
        if wanted(Family::IPV6_UNICAST) {
            self.v6.append_sorted(self.number(session), Family::IPV6_UNICAST, &mut out);
        }
        out
    }

    /// The next prefixes that the peer of `session` announces, IPv4 first, not many more than `n` and
    /// in the order in which they came; whether there may be more.
    pub fn next(&self, session: usize, cursor: &mut Cursor, n: usize, out: &mut Vec<Prefix>) -> bool {
        if let Some(place) = &mut cursor.v4 {
            if self.v4.next(self.number(session), Family::IPV4_UNICAST, place, n, out) {
                return true;
            }
            cursor.v4 = None;
        }
        if let Some(place) = &mut cursor.v6 {
            if self.v6.next(self.number(session), Family::IPV6_UNICAST, place, n, out) {
                return true;
            }
            cursor.v6 = None;
        }
        false
    }

    /// Marks every prefix of `family` of a session; whatever its peer announces from now on is
    /// marked no more, and what is new is not.
    pub fn mark(&mut self, session: usize, family: Family) {
        if let Some(number) = self.known(session) {
            of_family!(self, family, t => t.mark(number, true));
        }
    }

    /// Takes all these marks off.
    pub fn unmark(&mut self, session: usize, family: Family) {
        if let Some(number) = self.known(session) {
            of_family!(self, family, t => t.mark(number, false));
        }
    }

    /// Appends to `out` up to `n` prefixes of `family` that are still marked; fewer only where
    /// there are no more.
    pub fn marked(&mut self, session: usize, family: Family, n: usize, out: &mut Vec<Prefix>) {
        if let Some(number) = self.known(session) {
            of_family!(self, family, t => t.marked(number, family, n, out));
        }
    }

    /// Octets in use, without the blocks.
    pub fn memory_bytes(&self) -> usize {
        self.v4.memory_bytes() + self.v6.memory_bytes()
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
