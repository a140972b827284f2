//! How independent two instances are, as far as their words show it: counters for every pair on one
//! session.
//!
//! Masking works only while instances fail at different times (papers/001 section 2). What the
//! voter sees of that:
//!
//! | counter of a pair | one more where |
//! |---|---|
//! | compared | a vote came to its end with both in it: all said the same, or the key was steady |
//! | disagreed | of those: the two did not say the same; and in what they differed |
//! | contested | of those compared: somebody differed from somebody, these two or others |
//! | common | both are marked as wrong on a key, and one of them was not before |
//! | alike | of those: with the same wrong word |
//! | single | one is newly marked as wrong, and the other is in the vote and is not |
//!
//! A contested vote on which the pair did not disagree is one on which they stood together: right
//! together or wrong together. Among three voters that is all there is to see, since two that are
//! wrong together are the majority; see [`could_be_marked_together`].
//!
//! Where all say the very same nothing but one number changes, whatever the number of instances.

use super::env::ById;
use replay::intern::{BlobId, Interner};
use voter::{Agreement, Members};
use wire::bgp::canonical::{self, Parts, same_attribute};

/// In what two routes differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Aspect {
    /// One says a route, the other none.
    Presence,
    /// The next hop.
    NextHop,
    /// The link-local next hop.
    LinkLocal,
    /// A path attribute: its value or flags, or only one has it.
    Attribute(u8),
    /// What the kernel is to do with a packet; nothing that two routes of BGP's differ in.
    Kernel,
}

impl Aspect {
    /// The RFC's name, or words.
    pub fn name(self) -> String {
        match self {
            Aspect::Presence => "route or none".to_owned(),
            Aspect::NextHop => "NEXT_HOP".to_owned(),
            Aspect::LinkLocal => "link-local next hop".to_owned(),
            Aspect::Attribute(code) => canonical::attribute_name(code),
            Aspect::Kernel => "the route in the FIB".to_owned(),
        }
    }
}

/// The counters of one pair; the module's comment says what they count.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Pair {
    /// Votes that came to their end with both in them.
    pub compared: u64,
    /// Of those, on which the two did not say the same.
    pub disagreed: u64,
    /// Of those compared, on which not all said the same.
    pub contested: u64,
    /// Verdicts that found both wrong on the same key.
    pub common: u64,
    /// Of those, with the same wrong word.
    pub alike: u64,
    /// Verdicts that found only one of the two wrong.
    pub single: u64,
    /// In what they differed, ascending; at most one entry for each [`Aspect`].
    pub aspects: Vec<(Aspect, u64)>,
}

impl Pair {
    /// Contested votes on which the two said the same.
    pub fn together(&self) -> u64 {
        self.contested.saturating_sub(self.disagreed)
    }

    /// Verdicts that found at least one of the two wrong while both were compared.
    pub fn either(&self) -> u64 {
        self.common + self.single
    }

    /// How far up in the list of the least independent: by verdicts first, then by how often they
    /// stood together. Each share is taken with one more in its denominator, so that a single
    /// coincidence does not stand above a habit.
    pub fn rank(&self) -> (f64, f64) {
        let damped = |part: u64, whole: u64| part as f64 / (whole as f64 + 1.0);
        (damped(self.common, self.either()), damped(self.together(), self.contested))
    }

    fn differed_in(&mut self, aspect: Aspect) {
        match self.aspects.binary_search_by_key(&aspect, |(a, _)| *a) {
            Ok(at) => self.aspects.iter_mut().skip(at).take(1).for_each(|(_, n)| *n += 1),
            Err(at) => self.aspects.insert(at, (aspect, 1)),
        }
    }

    fn add(&mut self, other: &Pair) {
        self.compared += other.compared;
        self.disagreed += other.disagreed;
        self.contested += other.contested;
        self.common += other.common;
        self.alike += other.alike;
        self.single += other.single;
        for (aspect, n) in &other.aspects {
            match self.aspects.binary_search_by_key(aspect, |(a, _)| *a) {
                Ok(at) => self.aspects.iter_mut().skip(at).take(1).for_each(|(_, m)| *m += n),
                Err(at) => self.aspects.insert(at, (*aspect, *n)),
            }
        }
    }
}

/// The counters of all pairs of some instances; see the module's comment.
#[derive(Clone, Default, Debug)]
pub struct Independence {
    /// Pair (a, b), a < b, stands at b (b - 1) / 2 + a. Empty until something is counted.
    pairs: Vec<Pair>,
    /// Votes on which all said the very same since the same instances were last in a vote; not in
    /// `pairs` yet.
    unanimous: (Members, u64),
    /// Two were found wrong together since [`Independence::take_news`].
    news: bool,
}

const fn place(a: u8, b: u8) -> usize {
    let (low, high) = if a < b { (a as usize, b as usize) } else { (b as usize, a as usize) };
    (high * high.saturating_sub(1)) / 2 + low
}

/// The pairs among `members`, lower index first.
fn pairs_of(members: Members) -> impl Iterator<Item = (u8, u8)> {
    members.iter().flat_map(move |b| members.iter().take_while(move |a| *a < b).map(move |a| (a, b)))
}

impl Independence {
    /// A vote came to its end in which the words of `among` were compared; `said` is what each
    /// instance says, by index.
    pub fn vote(&mut self, among: Members, said: &[BlobId], routes: &Interner) {
        let among = among.intersect(Members::first(said.len()));
        let word = |i: u8| said.get(usize::from(i)).copied().unwrap_or(BlobId::NONE);
        let mut words = among.iter().map(word);
        let Some(first) = words.next() else { return };
        if words.all(|w| w == first) {
            if self.unanimous.0 != among {
                self.book_unanimous(among);
            }
            self.unanimous.1 += 1;
            return;
        }
        let agreement = ById(routes);
        let differ = |(a, b): &(u8, u8)| !agreement.agrees(word(*a), word(*b));
        let contested = pairs_of(among).any(|pair| differ(&pair));
        for (a, b) in pairs_of(among) {
            let differs = contested && differ(&(a, b));
            let pair = self.pair_mut(a, b);
            pair.compared += 1;
            pair.contested += u64::from(contested);
            if differs {
                pair.disagreed += 1;
                differences(word(a), word(b), routes, |aspect| pair.differed_in(aspect));
            }
        }
    }

    /// A verdict fell on a key: `wrong` of `among` are marked now, of whom `newly` were not before.
    pub fn verdict(&mut self, among: Members, wrong: Members, newly: Members, said: &[BlobId], routes: &Interner) {
        let word = |i: u8| said.get(usize::from(i)).copied().unwrap_or(BlobId::NONE);
        for (a, b) in pairs_of(among.intersect(Members::first(said.len()))) {
            if !newly.contains(a) && !newly.contains(b) {
                continue;
            }
            let both = wrong.contains(a) && wrong.contains(b);
            let alike = both && ById(routes).agrees(word(a), word(b));
            self.news |= both;
            let pair = self.pair_mut(a, b);
            pair.common += u64::from(both);
            pair.alike += u64::from(alike);
            pair.single += u64::from(!both);
        }
    }

    /// Whether two were found wrong together since this was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// The counters of the pair of `a` and `b`, in either order.
    pub fn pair(&self, a: u8, b: u8) -> Pair {
        if a == b {
            return Pair::default();
        }
        let mut pair = self.pairs.get(place(a, b)).cloned().unwrap_or_default();
        if self.unanimous.0.contains(a) && self.unanimous.0.contains(b) {
            pair.compared += self.unanimous.1;
        }
        pair
    }

    /// Adds what `other` has counted among the first `n` instances.
    pub fn add(&mut self, other: &Independence, n: usize) {
        if other.is_empty() {
            return;
        }
        for (a, b) in pairs_of(Members::first(n)) {
            let more = other.pair(a, b);
            if more.compared > 0 || more.either() > 0 {
                self.pair_mut(a, b).add(&more);
            }
        }
    }

    /// The instance at `i` is no more: its place may be another's one day.
    pub fn forget(&mut self, i: u8) {
        self.book_unanimous(Members::EMPTY);
        for other in (0..32).filter(|other| *other != i) {
            if let Some(pair) = self.pairs.get_mut(place(i, other)) {
                *pair = Pair::default();
            }
        }
    }

    /// Whether nothing was ever counted.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.unanimous.1 == 0
    }

    /// Octets the counters take.
    pub fn memory_bytes(&self) -> usize {
        let aspects: usize = self.pairs.iter().map(|p| p.aspects.capacity()).sum();
        self.pairs.capacity() * size_of::<Pair>() + aspects * size_of::<(Aspect, u64)>()
    }

    /// Adds the unanimous votes to their pairs; the next ones are `among`'s.
    fn book_unanimous(&mut self, among: Members) {
        let (members, n) = std::mem::replace(&mut self.unanimous, (among, 0));
        if n > 0 {
            for (a, b) in pairs_of(members) {
                self.pair_mut(a, b).compared += n;
            }
        }
    }

    fn pair_mut(&mut self, a: u8, b: u8) -> &mut Pair {
        let at = place(a, b);
        if self.pairs.len() <= at {
            self.pairs.resize_with(at + 1, Pair::default);
        }
        &mut self.pairs[at]
    }
}

/// Whether two of so many voters and observers can be marked on the same key at all: a strict
/// majority is always right, so of three or four voters only one can be wrong.
pub fn could_be_marked_together(voters: usize, observers: usize) -> bool {
    voters.saturating_sub(voters / 2 + 1) + observers >= 2
}

/// In what two words that do not agree differ, told to `tell`.
pub fn differences(a: BlobId, b: BlobId, routes: &Interner, mut tell: impl FnMut(Aspect)) {
    if a == BlobId::NONE || b == BlobId::NONE {
        return tell(Aspect::Presence);
    }
    let (Some(a), Some(b)) = (Parts::new(routes.bytes(a)), Parts::new(routes.bytes(b))) else { return };
    if a.next_hop != b.next_hop {
        tell(Aspect::NextHop);
    }
    if !a.link_local.is_empty() && !b.link_local.is_empty() && a.link_local != b.link_local {
        tell(Aspect::LinkLocal);
    }
    // Both ascend by code.
    let (mut left, mut right) = (a.attributes().peekable(), b.attributes().peekable());
    loop {
        let code = match (left.peek(), right.peek()) {
            (None, None) => return,
            (Some((_, code, _)), None) | (None, Some((_, code, _))) => *code,
            (Some((_, x, _)), Some((_, y, _))) => *x.min(y),
        };
        let (x, y) = (left.next_if(|(_, c, _)| *c == code), right.next_if(|(_, c, _)| *c == code));
        if !x.zip(y).is_some_and(|(x, y)| same_attribute(x, y)) {
            tell(Aspect::Attribute(code));
        }
    }
}

#[cfg(test)]
#[path = "independence_tests.rs"]
mod tests;
