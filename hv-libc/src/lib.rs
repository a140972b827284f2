//! hv-libc
