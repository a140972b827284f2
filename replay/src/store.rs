//! What all peers have sent (docs/DECISIONS.md, "Bootstrap without the peer"): one table of
//! prefixes for all of them, with who announces each of them, and the id of the attribute block
//! ([`wire::bgp::encode::stored_attributes`], held in an [`Interner`](crate::intern::Interner)).
//!
//! A session is a small number, given by the caller; what a session said that has ended is taken out
//! in slices, under a number that is nobody's. The time that a question takes grows with the
//! sessions that announce the prefix, and not with those that there are. An IPv4 prefix of one
//! session takes 20 octets and an IPv6 prefix 32, one of several sessions 14 more for each, and a
//! prefix some 7 of index.
//!
//! ```text
//!  index ─▶ entry: key, when, session and block; of several ─▶ session, block ─▶ session, block …
//!  list of a session: entries that it announces, or has announced
//! ```
//! What a session withdraws keeps its place in the session's list until half of that is such: so
//! nothing needs to know where in the list an entry stands.

use crate::intern::BlobId;
use collections::make_room;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use wire::bgp::{Family, Prefix};

/// Sessions that there may be.
pub const MAX_SESSIONS: usize = SEVERAL as usize;
/// In a record's session: the record has not come again since [`Stores::mark`].
const MARK: u16 = 1 << 15;
/// In the place of a session: nobody.
const NOBODY: u16 = MARK - 1;
/// In the place of a session: several.
const SEVERAL: u16 = MARK - 2;
/// The end of a chain.
const END: u32 = u32::MAX;
/// Prefixes that nobody announces any more, and of which is known one by one when they went. Where
/// there are more, every prefix counts as said just now, which only makes verdicts come later.
const MAX_SILENT: usize = 1 << 16;
/// A list with fewer withdrawn entries is left as it is.
const MIN_GONE: usize = 64;

/// One prefix (its address octets with the length behind them), and who announces it.
#[derive(Clone, Copy, Debug)]
struct Entry<const N: usize> {
    key: [u8; N],
    by: By,
    /// When anybody last said anything of it, in the caller's milliseconds.
    updated_ms: u32,
}

/// Who announces a prefix: nobody, one session, or [`SEVERAL`].
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(2))]
struct By {
    session: u16,
    /// Of one session, the id of what it says; of several, the first of them in [`Table::more`].
    value: u32,
}

impl By {
    const NOBODY: By = By { session: NOBODY, value: 0 };
}

/// What one session says of a prefix; [`BlobId::NONE`]: it has withdrawn it.
#[derive(Clone, Copy, Debug)]
struct Said {
    session: u16,
    attributes: BlobId,
}

impl Said {
    fn is_of(&self, session: u16) -> bool {
        self.session & !MARK == session
    }

    fn is_marked(&self) -> bool {
        self.session & MARK != 0
    }

    fn stands(&self) -> bool {
        !self.attributes.is_none()
    }
}

/// The same of one of several.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(2))]
struct Record {
    session: u16,
    attributes: BlobId,
    /// The next of the same prefix, or [`END`].
    next: u32,
}

impl Record {
    fn said(&self) -> Said {
        Said { session: self.session, attributes: self.attributes }
    }
}

/// What one session has announced.
#[derive(Clone, Debug, Default)]
struct List {
    slots: Vec<u32>,
    /// Of them, those that it has withdrawn.
    gone: usize,
    /// Before this one nothing is marked.
    marks_from: usize,
    /// How often its entries have been moved.
    moved: u32,
}

impl List {
    fn len(&self) -> usize {
        self.slots.len() - self.gone
    }
}

/// The prefixes of one family.
#[derive(Debug)]
struct Table<const N: usize> {
    entries: Vec<Entry<N>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: RandomState,
    more: Vec<Record>,
    more_free: Vec<u32>,
    lists: Vec<List>,
    /// Entries that nobody announces, the one that has been so for longest first. Some may be
    /// announced again, or stand further behind once more.
    silent: VecDeque<u32>,
    /// When there were more of them than are remembered.
    all_ms: Option<u32>,
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Table<N> {
        Table {
            entries: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::default(),
            more: Vec::new(),
            more_free: Vec::new(),
            lists: Vec::new(),
            silent: VecDeque::new(),
            all_ms: None,
        }
    }
}

fn key<const N: usize>(prefix: &Prefix) -> [u8; N] {
    let mut key = [0; N];
    for (to, from) in key.iter_mut().zip(prefix.octets()) {
        *to = *from;
    }
    if let Some(last) = key.last_mut() {
        *last = prefix.len();
    }
    key
}

fn prefix<const N: usize>(family: Family, key: &[u8; N]) -> Option<Prefix> {
    let (&len, octets) = key.split_last()?;
    Prefix::from_wire(family, len, octets)
}

/// Appends; returns where.
fn push<T>(list: &mut Vec<T>, value: T) -> u32 {
    make_room(list, 1);
    list.push(value);
    u32::try_from(list.len() - 1).expect("fewer than 2^32 prefixes")
}

/// How long ago `then` was. Times wrap after 49 days; what is that old may then look fresh.
fn age(now_ms: u32, then: u32) -> u32 {
    now_ms.wrapping_sub(then)
}

impl<const N: usize> Table<N> {
    fn slot(&self, key: &[u8; N]) -> Option<u32> {
        self.index.find(self.hasher.hash_one(key), |&i| self.entries[i as usize].key == *key).copied()
    }

    /// The entry of `key`; a new one where there is none.
    fn slot_or_new(&mut self, key: &[u8; N]) -> u32 {
        if let Some(slot) = self.slot(key) {
            return slot;
        }
        let entry = Entry { key: *key, by: By::NOBODY, updated_ms: 0 };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => push(&mut self.entries, entry),
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.index.insert_unique(hasher.hash_one(key), slot, |&i| hasher.hash_one(entries[i as usize].key));
        slot
    }

    /// What everybody says of the prefix at `slot`, withdrawals among it.
    fn said(&self, slot: u32) -> impl Iterator<Item = Said> + '_ {
        let by = self.entries.get(slot as usize).map_or(By::NOBODY, |e| e.by);
        let (one, chain) = match by.session {
            NOBODY => (None, END),
            SEVERAL => (None, by.value),
            session => (Some(Said { session, attributes: BlobId(by.value) }), END),
        };
        let more = std::iter::successors(self.more.get(chain as usize), |r| self.more.get(r.next as usize));
        one.into_iter().chain(more.map(Record::said))
    }

    fn said_by(&self, session: u16, slot: u32) -> Option<Said> {
        self.said(slot).find(|said| said.is_of(session))
    }

    /// What this session says is another than before: it has said something.
    fn set(&mut self, slot: u32, said: Said) {
        let Some(entry) = self.entries.get_mut(slot as usize) else { return };
        if entry.by.session != SEVERAL {
            entry.by = By { session: said.session, value: said.attributes.0 };
            return;
        }
        let mut at = entry.by.value;
        while let Some(record) = self.more.get_mut(at as usize) {
            if record.said().is_of(said.session & !MARK) {
                (record.session, record.attributes) = (said.session, said.attributes);
                return;
            }
            at = record.next;
        }
    }

    /// A session that has said nothing of it says this.
    fn add(&mut self, slot: u32, said: Said) {
        let Said { session, attributes } = said;
        let by = self.entries[slot as usize].by;
        self.entries[slot as usize].by = match by.session {
            NOBODY => By { session, value: attributes.0 },
            SEVERAL => By { session: SEVERAL, value: self.add_record(Record { session, attributes, next: by.value }) },
            first => {
                let next = self.add_record(Record { session: first, attributes: BlobId(by.value), next: END });
                By { session: SEVERAL, value: self.add_record(Record { session, attributes, next }) }
            }
        };
    }

    fn add_record(&mut self, record: Record) -> u32 {
        match self.more_free.pop() {
            Some(at) => {
                self.more[at as usize] = record;
                at
            }
            None => push(&mut self.more, record),
        }
    }

    fn find(&self, session: u16, key: &[u8; N]) -> Option<BlobId> {
        let said = self.said_by(session, self.slot(key)?)?;
        said.stands().then_some(said.attributes)
    }

    /// Its list; there is one of everybody whose number has been given.
    fn list(&mut self, session: u16) -> &mut List {
        let at = usize::from(session);
        if self.lists.len() <= at {
            self.lists.resize(at + 1, List::default());
        }
        &mut self.lists[at]
    }

    fn announce(&mut self, session: u16, key: &[u8; N], attributes: BlobId, now_ms: u32) -> BlobId {
        let slot = self.slot_or_new(key);
        self.entries[slot as usize].updated_ms = now_ms;
        if let Some(was) = self.said_by(session, slot) {
            self.set(slot, Said { session, attributes });
            self.list(session).gone -= usize::from(!was.stands());
            return was.attributes;
        }
        self.add(slot, Said { session, attributes });
        push(&mut self.list(session).slots, slot);
        BlobId::NONE
    }

    fn withdraw(&mut self, session: u16, key: &[u8; N], now_ms: u32) -> BlobId {
        let Some(slot) = self.slot(key) else { return BlobId::NONE };
        let Some(was) = self.said_by(session, slot).filter(Said::stands) else { return BlobId::NONE };
        self.set(slot, Said { session, attributes: BlobId::NONE });
        self.entries[slot as usize].updated_ms = now_ms;
        let list = self.list(session);
        list.gone += 1;
        if list.gone > MIN_GONE + list.slots.len() / 2 {
            let slots = std::mem::take(&mut list.slots);
            *list = List { moved: list.moved.wrapping_add(1), ..List::default() };
            let kept = slots.into_iter().filter(|&slot| {
                let stands = self.said_by(session, slot).is_some_and(|said| said.stands());
                if !stands {
                    self.remove(session, slot);
                }
                stands
            });
            let kept = kept.collect();
            self.list(session).slots = kept;
            self.bound_silent(now_ms);
        }
        was.attributes
    }

    /// The session says nothing of this prefix.
    fn remove(&mut self, session: u16, slot: u32) -> BlobId {
        let Some(entry) = self.entries.get_mut(slot as usize) else { return BlobId::NONE };
        let by = entry.by;
        if by.session != SEVERAL {
            let said = Said { session: by.session, attributes: BlobId(by.value) };
            if by.session == NOBODY || !said.is_of(session) {
                return BlobId::NONE;
            }
            entry.by = By::NOBODY;
            self.silent.push_back(slot);
            return said.attributes;
        }
        let (mut before, mut at) = (END, by.value);
        while let Some(record) = self.more.get(at as usize).copied() {
            if record.said().is_of(session) {
                match self.more.get_mut(before as usize) {
                    Some(before) => before.next = record.next,
                    None => entry.by.value = record.next,
                }
                self.more_free.push(at);
                // Where one is left it stands in the entry.
                let first = entry.by.value;
                if let Some(left) = self.more.get(first as usize).copied().filter(|left| left.next == END) {
                    entry.by = By { session: left.session, value: left.attributes.0 };
                    self.more_free.push(first);
                }
                return record.attributes;
            }
            (before, at) = (at, record.next);
        }
        BlobId::NONE
    }

    /// Takes `n` of what a session has said out, from the end of its list; how many that were.
    fn take_out(
        &mut self,
        session: u16,
        family: Family,
        n: usize,
        now_ms: u32,
        gone: &mut Vec<(Prefix, BlobId)>,
    ) -> usize {
        let list = self.list(session);
        let slots = list.slots.split_off(list.slots.len().saturating_sub(n));
        if list.slots.is_empty() {
            *list = List { moved: list.moved.wrapping_add(1), ..List::default() };
        }
        for &slot in &slots {
            let was = self.remove(session, slot);
            if !was.is_none() {
                let entry = &mut self.entries[slot as usize];
                entry.updated_ms = now_ms;
                gone.extend(prefix(family, &entry.key).map(|prefix| (prefix, was)));
            }
        }
        self.bound_silent(now_ms);
        slots.len()
    }

    /// Forgets the entries that have been silent for `keep_ms`.
    fn forget_silent(&mut self, now_ms: u32, keep_ms: u32) {
        self.all_ms = self.all_ms.filter(|then| age(now_ms, *then) < keep_ms);
        while let Some(&slot) = self.silent.front() {
            let (nobody, updated_ms) =
                self.entries.get(slot as usize).map_or((false, 0), |e| (e.by.session == NOBODY, e.updated_ms));
            if nobody && age(now_ms, updated_ms) < keep_ms {
                break;
            }
            self.silent.pop_front();
            if nobody {
                self.free(slot);
            }
        }
        if self.silent.is_empty() {
            self.silent = VecDeque::new();
        }
    }

    fn bound_silent(&mut self, now_ms: u32) {
        if self.silent.len() > MAX_SILENT {
            self.forget_silent(now_ms, 0);
            self.all_ms = Some(now_ms);
        }
    }

    fn free(&mut self, slot: u32) {
        let key = self.entries[slot as usize].key;
        let entries = &self.entries;
        // One that stands in the list of the silent twice is free already, or somebody else's.
        let found = self
            .index
            .find_entry(self.hasher.hash_one(key), |&i| i == slot && entries[i as usize].by.session == NOBODY);
        let Ok(found) = found else { return };
        found.remove();
        self.free.push(slot);
        if self.index.is_empty() {
            let (lists, all_ms) = (std::mem::take(&mut self.lists), self.all_ms);
            *self = Table { lists, all_ms, silent: std::mem::take(&mut self.silent), ..Table::default() };
        }
    }

    /// The entries of a session, with what it says.
    fn iter(&self, session: u16) -> impl Iterator<Item = (&Entry<N>, BlobId)> {
        let slots = self.lists.get(usize::from(session)).map_or(&[][..], |list| &list.slots);
        slots.iter().filter_map(move |&slot| {
            let said = self.said_by(session, slot).filter(Said::stands)?;
            Some((&self.entries[slot as usize], said.attributes))
        })
    }

    fn len_of(&self, session: u16) -> usize {
        self.lists.get(usize::from(session)).map_or(0, List::len)
    }

    fn mark(&mut self, session: u16, on: bool) {
        let list = std::mem::take(self.list(session));
        for &slot in &list.slots {
            if let Some(said) = self.said_by(session, slot).filter(Said::stands) {
                self.set(slot, Said { session: session | if on { MARK } else { 0 }, ..said });
            }
        }
        *self.list(session) = List { marks_from: 0, ..list };
    }

    fn marked(&mut self, session: u16, family: Family, n: usize, out: &mut Vec<Prefix>) {
        let mut list = std::mem::take(self.list(session));
        let is_marked = |slot: u32| self.said_by(session, slot).is_some_and(|said| said.is_marked());
        let slots = list.slots.get(list.marks_from..).unwrap_or_default();
        list.marks_from += slots.iter().take_while(|slot| !is_marked(**slot)).count();
        let slots = list.slots.get(list.marks_from..).unwrap_or_default();
        let marked = slots.iter().filter(|slot| is_marked(**slot)).take(n);
        out.extend(marked.filter_map(|&slot| prefix(family, &self.entries[slot as usize].key)));
        *self.list(session) = list;
    }

    /// The next `n` of what a session says, behind `place`; whether there may be more.
    fn next(&self, session: u16, family: Family, place: &mut Place, n: usize, out: &mut Vec<Prefix>) -> bool {
        let Some(list) = self.lists.get(usize::from(session)) else { return false };
        if place.moved != list.moved {
            *place = Place { moved: list.moved, at: 0 };
        }
        let slots = list.slots.get(place.at..).unwrap_or_default();
        let slots = slots.get(..n).unwrap_or(slots);
        place.at += slots.len();
        let stands = |slot: u32| self.said_by(session, slot).is_some_and(|said| said.stands());
        let standing = slots.iter().filter(|slot| stands(**slot));
        out.extend(standing.filter_map(|&slot| prefix(family, &self.entries[slot as usize].key)));
        place.at < list.slots.len()
    }

    fn append_sorted(&self, session: u16, family: Family, out: &mut Vec<Prefix>) {
        let mut order: Vec<(BlobId, [u8; N])> = self.iter(session).map(|(e, id)| (id, e.key)).collect();
        order.sort_unstable();
        out.extend(order.iter().filter_map(|(_, key)| prefix(family, key)));
    }

    fn memory_bytes(&self) -> usize {
        let lists = self.lists.iter().map(|list| list.slots.capacity()).sum::<usize>();
        self.entries.capacity() * size_of::<Entry<N>>()
            + self.more.capacity() * size_of::<Record>()
            + (lists + self.free.capacity() + self.more_free.capacity() + self.silent.capacity()) * size_of::<u32>()
            + self.index.allocation_size()
    }
}

/// How far one table has been read.
#[derive(Clone, Copy, Default, Debug)]
struct Place {
    moved: u32,
    at: usize,
}

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
