//! BGP-4 on the wire (RFC 4271 and what later RFCs add).
//!
//! Reading order: [`types`] (families, prefixes, what a session negotiated), [`frame`] (cutting a
//! byte stream into messages), [`message`] (OPEN, NOTIFICATION, ROUTE-REFRESH), [`update`] (an
//! UPDATE taken apart without copying), [`hygiene`] (RFC 7606: what a router must do with a
//! malformed UPDATE), [`canonical`] (the form in which two routes are compared), [`encode`]
//! (canonical routes back to UPDATEs), [`as2`] (speakers without 4-octet AS numbers).

pub mod as2;
pub mod canonical;
pub mod encode;
pub mod frame;
pub mod hygiene;
pub mod message;
pub mod types;
pub mod update;

pub use types::{Family, Notification, Prefix, SessionKind, UpdateContext, hex, unhex};
