//! How the library is linked: so that a C library older than the one it is built with can load it.
//! src/old_libc.rs says why and how.

use std::env;

/// Functions whose newest version is younger than [`OLDEST`](../src/old_libc.rs); src/old_libc.rs
/// has the older ones.
const WRAPPED: [&str; 6] =
    ["stat64", "fstat64", "dlsym", "pthread_key_create", "pthread_key_delete", "pthread_setspecific"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let known = matches!(target("ARCH").as_str(), "x86_64" | "aarch64");
    if target("OS") != "linux" || target("ENV") != "gnu" || !known {
        return;
    }
    let wrap: String = WRAPPED.iter().map(|name| format!(",--wrap={name}")).collect();
    println!("cargo::rustc-cdylib-link-arg=-Wl{wrap}");
    // Until glibc 2.34 these held some of the functions; from there on they are empty, and still
    // there.
    println!(
        "cargo::rustc-cdylib-link-arg=-Wl,--push-state,--no-as-needed,-l:libdl.so.2,-l:libpthread.so.0,--pop-state"
    );
}
