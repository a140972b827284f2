//! Scenarios of one test each, in one program: cargo runs one program after another, and of a
//! program with one test the second core would see nothing.

#[path = "one_each/fresh_keys.rs"]
mod fresh_keys;
#[path = "one_each/link_local.rs"]
mod link_local;
#[path = "one_each/link_watch.rs"]
mod link_watch;
#[path = "one_each/restless.rs"]
mod restless;
