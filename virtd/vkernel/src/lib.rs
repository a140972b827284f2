//! The virtual kernel: what an instance writes into its own table of routes, judged and answered as
//! Linux would, over the links and addresses that really are there. It knows netlink's messages and
//! nothing else: no votes, no BGP, no sockets.
//!
//! | module | holds |
//! |---|---|
//! | [`gate`] | which message goes to a virtual kernel, which to the real one |
//! | `kernel` | one instance's own routes and nexthop objects |
//! | [`system`] | the real links and addresses, which all virtual kernels share |
//! | `others` | the real kernel's other routes, over which gateways can be reached |
//! | [`io`] | what comes from the real kernel, and goes to the instance |
#![forbid(unsafe_code)]

pub mod gate;
pub mod io;
mod kernel;
mod others;
pub mod system;

pub use kernel::{Effects, Refusal, VirtualKernel};
pub use others::{MAX_OTHERS, other_routes};
