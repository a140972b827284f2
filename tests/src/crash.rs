//! virtd's worker is killed again and again while its neighbours go on talking; judged by what the
//! neighbours saw.
//!
//! [`script`] is what the neighbours say, and when; [`judge`] follows what each of them is told and
//! compares; [`scene`] is the router with its neighbours; [`kills`] ends the worker in all the ways
//! there are. Every route that changes has a number of its own in its path, so that it is known of
//! each UPDATE which word of whom it answers.

pub mod judge;
pub mod kills;
pub mod scene;
pub mod script;
mod step;
