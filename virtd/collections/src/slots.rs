//! Things that are known by small numbers, and found by a hash of what they are.

use hashbrown::HashTable;

#[derive(Debug)]
enum Slot<T> {
    Taken(T),
    /// The next free one.
    Free(Option<u32>),
}

/// Numbered slots. One that is given back is the next to be taken again.
#[derive(Debug)]
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// The free one that was given back last.
    free: Option<u32>,
    index: HashTable<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { slots: Vec::new(), free: None, index: HashTable::new() }
    }
}

impl<T> Slots<T> {
    /// What a slot takes: no more than the thing, where that has a value it never takes (a pointer's
    /// null, say) and two words of four octets beside it.
    pub const SLOT_BYTES: usize = size_of::<Slot<T>>();

    /// What has this number.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&T> {
        match self.slots.get(number as usize) {
            Some(Slot::Taken(thing)) => Some(thing),
            _ => None,
        }
    }

    /// The same, to change.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        match self.slots.get_mut(number as usize) {
            Some(Slot::Taken(thing)) => Some(thing),
            _ => None,
        }
    }

    /// The number of what has this hash and `is` it.
    pub fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<u32> {
        self.index.find(hash, |&number| self.get(number).is_some_and(&is)).copied()
    }

    /// Gives a number to something that has none. `hash` is asked of others too, when the index
    /// grows.
    pub fn insert(&mut self, thing: T, hash: impl Fn(&T) -> u64) -> u32 {
        let own = hash(&thing);
        let number = match self.free.and_then(|free| Some((free, self.slots.get_mut(free as usize)?))) {
            Some((free, slot)) => {
                if let Slot::Free(next) = std::mem::replace(slot, Slot::Taken(thing)) {
                    self.free = next;
                }
                free
            }
            None => {
                crate::make_room(&mut self.slots, 1);
                self.slots.push(Slot::Taken(thing));
                // So many do not fit any machine this runs on.
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 slots")
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(own, number, |&i| match slots.get(i as usize) {
            Some(Slot::Taken(thing)) => hash(thing),
            _ => 0,
        });
        number
    }

    /// Gives a number back; what had it.
    pub fn remove(&mut self, number: u32, hash: impl Fn(&T) -> u64) -> Option<T> {
        let hash = hash(self.get(number)?);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == number) {
            found.remove();
        }
        match std::mem::replace(self.slots.get_mut(number as usize)?, Slot::Free(self.free.replace(number))) {
            Slot::Taken(thing) => Some(thing),
            Slot::Free(_) => None,
        }
    }

    /// All things, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.slots).filter_map(|(number, slot)| match slot {
            Slot::Taken(thing) => Some((number, thing)),
            Slot::Free(_) => None,
        })
    }

    /// Slots that are taken.
    pub fn taken(&self) -> usize {
        self.index.len()
    }

    /// Slots, taken or not: all numbers are below.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Octets of slots and index; what the things hold elsewhere is not counted.
    pub fn memory_bytes(&self) -> usize {
        self.slots.capacity() * Self::SLOT_BYTES + self.index.allocation_size()
    }
}
