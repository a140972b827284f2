//! The broker's decisions, without I/O: `core.handle(now, input, &mut outputs)`. (Written by the integrator.)
pub mod io;
