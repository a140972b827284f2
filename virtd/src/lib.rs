//! virtd and virtctl: the loop ([`driver`]) between peers, instances and the core ([`broker`]), and
//! all that is put together around it.

pub mod control;
pub mod driver;
pub mod recorder;
pub mod serve;
pub mod show;
pub mod state;

pub use broker::{self as core, event};
pub use virtd_config as config;
pub use virtd_linux::{bypass, eventlog, files, foreign, instances, kernel, kinds};
