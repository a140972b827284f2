//! Bytes to types and back: BGP framing and messages, canonical routes, rtnetlink, MRT, and
//! the messages between the shim and the broker. No sockets, no clock, no environment.
#![forbid(unsafe_code)]

#[cfg(feature = "bgp")]
pub mod bgp;
#[cfg(any(test, feature = "laws"))]
pub mod laws;
#[cfg(feature = "bgp")]
pub mod mrt;
pub mod netlink;
pub mod shim;
