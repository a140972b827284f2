//! What a neighbour announces: items from a [`Source`], made fit for the session, remembered,
//! packed into UPDATEs.

use crate::route::{Rewrite, Route};
use anyhow::Result;
use bytes::{Bytes, BytesMut};
use replay::intern::{BlobId, Interner};
use replay::level;
use replay::store::Stores;
use std::time::Duration;
use wire::bgp::message::{RefreshKind, RouteRefresh};
use wire::bgp::{Family, Prefix, UpdateContext, encode};

/// One thing to send.
#[derive(Clone, PartialEq, Debug)]
pub enum Item {
    /// One route for several prefixes of one family.
    Announce {
        /// The attributes.
        route: Box<Route>,
        /// At least one prefix.
        prefixes: Vec<Prefix>,
    },
    /// Withdrawals of prefixes of one family.
    Withdraw(Vec<Prefix>),
    /// Bytes sent as they are.
    Raw(Bytes),
    /// End-of-RIB, of one family or of all that were negotiated.
    EndOfRib(Option<Family>),
    /// Asks the neighbour for its routes again.
    Refresh(Family),
    /// What follows belongs to this time, counted from the source's first item.
    At(Duration),
    /// Nothing is sent for this long.
    Wait(Duration),
    /// Nothing is sent until this many prefixes are known from the neighbour.
    WaitRoutes(u64),
    /// Sends a NOTIFICATION and ends the session.
    Notify(u8, u8),
    /// Closes the connection without a word.
    Drop,
    /// Ends the program as a signal would.
    Exit,
    /// Nothing now; ask again later (a script that is typed).
    Pending,
}

/// Where items come from.
pub trait Source {
    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// What cannot be read, with its place in the file.
    fn next(&mut self) -> Result<Option<Item>>;

    /// How many prefixes are still to come, where that is known.
    fn total(&self) -> Option<u64> {
        None
    }
}

/// The store has one session.
const ONE: usize = 0;

/// Everything one neighbour has announced and not withdrawn, as it was sent (its Adj-RIB-Out).
#[derive(Debug, Default)]
pub struct AdjOut {
    stores: Stores,
    interner: Interner,
    /// The block made last and for what: the prefixes of one set of attributes often come in
    /// several items.
    last: Option<(Route, bool, BlobId)>,
    /// Prefixes announced, repetitions included.
    pub prefixes_sent: u64,
    /// Prefixes withdrawn.
    pub withdrawals_sent: u64,
    /// Prefixes that could not be sent: no next hop of their family, or attributes longer than a
    /// message.
    pub unsendable: u64,
}

impl AdjOut {
    /// Announces `prefixes`, all of one family.
    pub fn announce(
        &mut self,
        route: Route,
        prefixes: &[Prefix],
        rewrite: &Rewrite,
        context: &UpdateContext,
        out: &mut BytesMut,
    ) {
        let Some(first) = prefixes.first() else { return };
        let count = prefixes.len() as u64;
        let v6 = first.addr().is_ipv6();
        let id = match &self.last {
            Some((same, of, id)) if *of == v6 && *same == route => *id,
            _ => {
                let Some(block) = rewrite.block(&route, first) else {
                    self.unsendable += count;
                    return;
                };
                let id = self.interner.intern(&block);
                if let Some((_, _, old)) = self.last.replace((route, v6, id)) {
                    self.interner.release(old);
                }
                id
            }
        };
        let unsent = encode::announce_stored(self.interner.bytes(id), prefixes, context, out) as u64;
        self.unsendable += unsent;
        self.prefixes_sent += count - unsent.min(count);
        if unsent > 0 {
            return;
        }
        self.interner.retain(id, u32::try_from(prefixes.len()).unwrap_or(u32::MAX));
        for prefix in prefixes {
            let old = self.stores.announce(ONE, *prefix, id, 0);
            self.interner.release(old);
        }
    }

    /// Withdraws `prefixes`, all of one family.
    pub fn withdraw(&mut self, prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) {
        encode::withdraw(prefixes, context, out);
        self.withdrawals_sent += prefixes.len() as u64;
        for prefix in prefixes {
            let old = self.stores.withdraw(ONE, prefix, 0);
            self.interner.release(old);
        }
    }

    /// Answers a ROUTE-REFRESH for `family`: everything again, between the markers of RFC 7313
    /// where both sides know them.
    pub fn refresh(&self, family: Family, enhanced: bool, context: &UpdateContext, out: &mut BytesMut) {
        let marker = |kind| RouteRefresh { family, kind }.encode();
        if enhanced {
            out.extend_from_slice(&marker(RefreshKind::Begin));
        }
        let mut prefixes = self.stores.prefixes_by_attributes(ONE, Some(family));
        level::replay((&self.stores, ONE), &self.interner, &mut prefixes, context, false, out);
        if enhanced {
            out.extend_from_slice(&marker(RefreshKind::End));
        }
    }

    /// Number of prefixes announced now.
    pub fn len(&self) -> usize {
        self.stores.len(ONE)
    }

    /// Whether nothing is announced.
    pub fn is_empty(&self) -> bool {
        self.stores.is_empty(ONE)
    }
}
