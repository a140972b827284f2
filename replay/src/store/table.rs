//! The prefixes of one family: who announces each of them, and when anybody last said anything.

use crate::intern::BlobId;
use collections::make_room;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use wire::bgp::{Family, Prefix};

/// In a record's session: the record has not come again since [`super::Stores::mark`].
pub(super) const MARK: u16 = 1 << 15;
/// In the place of a session: nobody.
pub(super) const NOBODY: u16 = MARK - 1;
/// In the place of a session: several.
pub(super) const SEVERAL: u16 = MARK - 2;
/// The end of a chain.
const END: u32 = u32::MAX;
/// Prefixes that nobody announces any more, and of which is known one by one when they went. Where
/// there are more, every prefix counts as said just now, which only makes verdicts come later.
pub(super) const MAX_SILENT: usize = 1 << 16;
/// A list with fewer withdrawn entries is left as it is.
const MIN_GONE: usize = 64;

/// One prefix (its address octets with the length behind them), and who announces it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<const N: usize> {
    pub(super) key: [u8; N],
    by: By,
    /// When anybody last said anything of it, in the caller's milliseconds.
    pub(super) updated_ms: u32,
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
pub(super) struct Said {
    pub(super) session: u16,
    pub(super) attributes: BlobId,
}

impl Said {
    fn is_of(&self, session: u16) -> bool {
        self.session & !MARK == session
    }

    fn is_marked(&self) -> bool {
        self.session & MARK != 0
    }

    pub(super) fn stands(&self) -> bool {
        !self.attributes.is_none()
    }
}

/// The same of one of several.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(2))]
pub(super) struct Record {
    session: u16,
    attributes: BlobId,
    /// The next of the same prefix, or [`END`].
    next: u32,
}

impl Record {
    pub(super) fn said(&self) -> Said {
        Said { session: self.session, attributes: self.attributes }
    }
}

/// What one session has announced.
#[derive(Clone, Debug, Default)]
pub(super) struct List {
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
pub(super) struct Table<const N: usize> {
    pub(super) entries: Vec<Entry<N>>,
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
    pub(super) all_ms: Option<u32>,
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

pub(super) fn key<const N: usize>(prefix: &Prefix) -> [u8; N] {
    let mut key = [0; N];
    for (to, from) in key.iter_mut().zip(prefix.octets()) {
        *to = *from;
    }
    if let Some(last) = key.last_mut() {
        *last = prefix.len();
    }
    key
}

pub(super) fn prefix<const N: usize>(family: Family, key: &[u8; N]) -> Option<Prefix> {
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
pub(super) fn age(now_ms: u32, then: u32) -> u32 {
    now_ms.wrapping_sub(then)
}

impl<const N: usize> Table<N> {
    pub(super) fn slot(&self, key: &[u8; N]) -> Option<u32> {
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
    pub(super) fn said(&self, slot: u32) -> impl Iterator<Item = Said> + '_ {
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

    pub(super) fn find(&self, session: u16, key: &[u8; N]) -> Option<BlobId> {
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

    pub(super) fn announce(&mut self, session: u16, key: &[u8; N], attributes: BlobId, now_ms: u32) -> BlobId {
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

    pub(super) fn withdraw(&mut self, session: u16, key: &[u8; N], now_ms: u32) -> BlobId {
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
    pub(super) fn take_out(
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
    pub(super) fn forget_silent(&mut self, now_ms: u32, keep_ms: u32) {
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
    pub(super) fn iter(&self, session: u16) -> impl Iterator<Item = (&Entry<N>, BlobId)> {
        let slots = self.lists.get(usize::from(session)).map_or(&[][..], |list| &list.slots);
        slots.iter().filter_map(move |&slot| {
            let said = self.said_by(session, slot).filter(Said::stands)?;
            Some((&self.entries[slot as usize], said.attributes))
        })
    }

    pub(super) fn len_of(&self, session: u16) -> usize {
        self.lists.get(usize::from(session)).map_or(0, List::len)
    }

    pub(super) fn mark(&mut self, session: u16, on: bool) {
        let list = std::mem::take(self.list(session));
        for &slot in &list.slots {
            if let Some(said) = self.said_by(session, slot).filter(Said::stands) {
                self.set(slot, Said { session: session | if on { MARK } else { 0 }, ..said });
            }
        }
        *self.list(session) = List { marks_from: 0, ..list };
    }

    pub(super) fn marked(&mut self, session: u16, family: Family, n: usize, out: &mut Vec<Prefix>) {
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
    pub(super) fn next(
        &self,
        session: u16,
        family: Family,
        place: &mut Place,
        n: usize,
        out: &mut Vec<Prefix>,
    ) -> bool {
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

    pub(super) fn append_sorted(&self, session: u16, family: Family, out: &mut Vec<Prefix>) {
        let mut order: Vec<(BlobId, [u8; N])> = self.iter(session).map(|(e, id)| (id, e.key)).collect();
        order.sort_unstable();
        out.extend(order.iter().filter_map(|(_, key)| prefix(family, key)));
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let lists = self.lists.iter().map(|list| list.slots.capacity()).sum::<usize>();
        self.entries.capacity() * size_of::<Entry<N>>()
            + self.more.capacity() * size_of::<Record>()
            + (lists + self.free.capacity() + self.more_free.capacity() + self.silent.capacity()) * size_of::<u32>()
            + self.index.allocation_size()
    }
}

/// How far one table has been read.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Place {
    moved: u32,
    pub(super) at: usize,
}
