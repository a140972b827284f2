//! Who wants which MD5 key (RFC 2385) on virtd's listening sockets. Pure.
//!
//! The listening sockets are shared, so a key stays on them for as long as any listening socket of
//! any instance wants it: an instance that stops or takes its own away takes nothing from the
//! others. Where two want different keys for one peer, the first one's counts; once nobody wants
//! that any more, the next one's does.

use super::options;
use std::net::IpAddr;

/// Keys in all: as many as the core has sessions, for each of a few instances.
const MAX_KEYS: usize = 16384;

/// A listening socket of an instance: (instance, listener).
pub type Holder = (u8, u64);

/// A key somebody wants. Has no Debug: it is a secret.
struct Wish {
    holder: Holder,
    option: i32,
    value: Vec<u8>,
}

/// What a wish comes to on the real sockets.
#[derive(PartialEq, Eq)]
pub enum Change {
    /// Nothing to do.
    None,
    /// The option and the value to be put there (one of key length 0 takes the key away).
    Put(i32, Vec<u8>),
    /// This instance wanted another key for the same peer first.
    Differs(u8),
    /// There are too many.
    Full,
}

/// See the module's comment.
#[derive(Default)]
pub struct Keys {
    /// In the order they came: the first for a peer is the one on the sockets.
    wishes: Vec<Wish>,
}

impl Keys {
    fn first(&self, peer: options::KeyPeer) -> Option<&Wish> {
        self.wishes.iter().find(|w| options::key_peer(w.option, &w.value) == Some(peer))
    }

    /// `holder` sets a key, or takes it away.
    pub fn set(&mut self, holder: Holder, option: i32, value: &[u8]) -> Change {
        let value = options::key_unmapped(value);
        let Some(peer) = options::key_peer(option, &value) else { return Change::None };
        let mine = |w: &Wish| w.holder == holder && options::key_peer(w.option, &w.value) == Some(peer);
        if options::removes_key(&value) {
            let Some(i) = self.wishes.iter().position(mine) else { return Change::None };
            let old = self.wishes.remove(i);
            return self.after(peer, &old);
        }
        let full = self.wishes.len() >= MAX_KEYS;
        let before = self.first(peer).map(|w| (w.option, w.value.clone()));
        match self.wishes.iter_mut().find(|w| mine(w)) {
            Some(w) => (w.option, w.value) = (option, value),
            None if full => return Change::Full,
            None => self.wishes.push(Wish { holder, option, value }),
        }
        let (Some(now), Some(me)) = (self.first(peer), self.wishes.iter().find(|w| mine(w))) else {
            return Change::None;
        };
        if now.holder != holder && !same(now, me.option, &me.value) {
            return Change::Differs(now.holder.0);
        }
        match before {
            Some((o, v)) if same(now, o, &v) => Change::None,
            _ => Change::Put(now.option, now.value.clone()),
        }
    }

    /// What is to be on the sockets after `old` is gone.
    fn after(&self, peer: options::KeyPeer, old: &Wish) -> Change {
        match self.first(peer) {
            Some(w) if same(w, old.option, &old.value) => Change::None,
            Some(w) => Change::Put(w.option, w.value.clone()),
            None => Change::Put(old.option, options::key_removal(&old.value)),
        }
    }

    /// `holder` is closed: what is to be put on the sockets for it.
    pub fn forget(&mut self, holder: Holder) -> Vec<Change> {
        let (gone, kept) = std::mem::take(&mut self.wishes).into_iter().partition(|w| w.holder == holder);
        self.wishes = kept;
        let gone: Vec<Wish> = gone;
        gone.iter().filter_map(|w| Some(self.after(options::key_peer(w.option, &w.value)?, w))).collect()
    }

    /// The keys that are on the listening sockets: option and value.
    pub fn standing(&self) -> impl Iterator<Item = (i32, &[u8])> {
        let is_first = |w: &&Wish| {
            let first = options::key_peer(w.option, &w.value).and_then(|peer| self.first(peer));
            first.is_some_and(|first| std::ptr::eq(first, *w))
        };
        self.wishes.iter().filter(is_first).map(|w| (w.option, w.value.as_slice()))
    }

    /// What a holder wants: option and value.
    pub fn of_holder(&self, holder: Holder) -> Vec<(i32, Vec<u8>)> {
        self.wishes.iter().filter(|w| w.holder == holder).map(|w| (w.option, w.value.clone())).collect()
    }

    /// The keys an accepted connection with this peer has inherited: instance, option, value.
    pub fn of_peer(&self, ip: IpAddr) -> impl Iterator<Item = (u8, i32, &[u8])> {
        let here = move |w: &&Wish| options::key_peer(w.option, &w.value).is_some_and(|p| p.ip == ip.to_canonical());
        self.wishes.iter().filter(here).map(|w| (w.holder.0, w.option, w.value.as_slice()))
    }
}

fn same(w: &Wish, option: i32, value: &[u8]) -> bool {
    options::same_value(libc::IPPROTO_TCP, option, &w.value, value)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
