//! virtd and virtctl: the loop ([`driver`]) between peers, instances and the core ([`broker`]), and
//! all that is put together around it.

pub mod control;
pub mod driver;
pub mod recorder;
pub mod serve;
pub mod show;
pub mod state;
