//! mrt
