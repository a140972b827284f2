//! What virtd has of Linux besides its loop: system calls, the kernel's routes, the instances'
//! processes, the disk. Each of its threads is told what to do over a channel, and tells what
//! happens over another; none takes a decision about routes.
//!
//! | module | is |
//! |---|---|
//! | [`sys`] | system calls that no crate has |
//! | [`kernel`] | the kernel's routes, links and addresses: reads, writes, watches |
//! | [`kinds`] | how each kind of daemon is started and asked |
//! | [`instances`] | starts the instances' processes and tells of their end |
//! | [`bypass`] | looks for what goes past virtd |
//! | [`by_name`] | the shim's socket by its abstract name |
//! | [`foreign`] | files that others have passed |
//! | [`identity`] | whom the worker runs as |
//! | [`folders`] | the folders that it writes in |
//! | [`files`] | the limit of open files |
//! | [`eventlog`] | the log of events |
//! | [`confine`] | what a worker gives up before it hears from anybody |
//! | [`journal`] | what the next worker must know, in memory that outlives this one |
//! | [`notify`] | what a service manager is told |
//! | [`written`] | files that are written: no link is followed |

pub mod by_name;
pub mod bypass;
pub mod confine;
pub mod eventlog;
pub mod files;
pub mod folders;
pub mod foreign;
pub mod identity;
pub mod instances;
pub mod journal;
pub mod kernel;
pub mod kinds;
pub mod notify;
pub mod sys;
pub mod written;
