//! Faults put into the instances of a running router, and what its neighbours see of them.
//! docs/FAULTS.md explains it.
//!
//! Reading order: [`slot`] (an instance that can be broken in every way), [`watch`] (a neighbour
//! and its own log), [`scene`] (a router with its neighbours, and the state that counts as
//! healthy), [`trial`] (one fault: before, during, after, and the verdict), [`cases`] (the faults).

pub mod cases;
pub mod scene;
pub mod slot;
pub mod trial;
pub mod watch;
