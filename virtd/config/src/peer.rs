//! A peer that the configuration names.

use std::net::IpAddr;

/// `[[peer]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// `address`.
    pub address: IpAddr,
    /// `port`: the TCP port on which it listens, where that is not the router's own.
    pub port: Option<u16>,
    /// `asn`, optional: checked against the peer's OPEN by the instances anyway.
    pub asn: Option<u32>,
    /// `description`.
    pub description: Option<String>,
    /// `allow_own_as`.
    pub allow_own_as: bool,
    /// `bfd`: the instance whose BFD alone decides when this session ends (only one daemon can have
    /// the BFD port of an address).
    pub bfd: Option<String>,
}
