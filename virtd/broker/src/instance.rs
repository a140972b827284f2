//! What is known of one instance, over all sessions, and its listening sockets.

use super::dissent;
use super::io::{Death, InstanceId, Micros};
use crate::config::Instance;
use std::net::SocketAddr;

/// One instance, over all sessions.
#[derive(Clone, Debug)]
pub struct InstanceState {
    /// Its name.
    pub name: String,
    /// Its control channel is open.
    pub attached: bool,
    /// Its processes that said hello, once for each open channel.
    pub pids: Vec<u32>,
    /// When one of its control channels last closed: a process of its has ended, or has become
    /// another program.
    pub last_channel_closed: Option<Micros>,
    /// On how many keys it is not with a steady majority now, and since when.
    pub account: dissent::Account,
    /// The same keys, ever.
    pub dissents_total: u64,
    /// Candidates it has sent, changed or not.
    pub candidates: u64,
    /// When it last sent an UPDATE on any session: it may still be digesting what one peer sent
    /// while it tells another.
    pub last_output: Micros,
    /// When anything last came from it on any established leg.
    pub last_heard: Micros,
    /// Its legs that have the short hold time ([`crate::session::SHORT_LEGS`]), as of the last
    /// tick, and those that have come since.
    pub short_legs: usize,
    /// Since when too few of these are left, or since one was last opened anew for that.
    pub few_short: Option<Micros>,
    /// What it did wrong last, in words.
    pub last_fault: Option<String>,
    /// When virtd last did something to it that may end its legs.
    pub touched: Option<Micros>,
    /// When and how one of its processes last ended, as the supervisor says.
    pub last_death: Option<(Micros, Death)>,
    /// When it last closed a listening socket.
    pub listener_closed: Option<Micros>,
}

/// A listening socket of an instance.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Whose.
    pub instance: InstanceId,
    /// Where it is bound.
    pub local: SocketAddr,
    /// An IPv6 wildcard that does not take IPv4.
    pub v6_only: bool,
}

impl InstanceState {
    /// Nothing has been heard of it.
    pub fn new(instance: &Instance) -> InstanceState {
        InstanceState {
            name: instance.name.clone(),
            attached: false,
            pids: Vec::new(),
            last_channel_closed: None,
            account: dissent::Account::default(),
            dissents_total: 0,
            candidates: 0,
            last_output: 0,
            last_heard: 0,
            short_legs: 0,
            few_short: None,
            last_fault: None,
            touched: None,
            last_death: None,
            listener_closed: None,
        }
    }
}
