//! virtctl's own parts: its command line, how it asks, and what it makes of several answers.
//! [`crate::show`] has each answer as a person reads it.

pub mod arguments;
pub mod ask;
pub mod colour;
pub mod complete;
pub mod health;
pub mod top;
pub mod why;
