//! virtd and virtctl: the loop ([`driver`]) between peers, instances and the core ([`broker`]), and
//! all that is put together around it. That is the worker; the master is in [`virtd_master`].

pub mod arguments;
pub mod control;
pub mod ctl;
pub mod driver;
pub mod recorder;
pub mod serve;
pub mod show;
pub mod state;
pub mod upgrade;
pub mod worker;
