//! stub
use super::super::io::{KernelNews, Link};
use wire::netlink::fib::FibRoute;
#[derive(Default, Debug)]
pub struct System;
impl System {
    pub fn apply(&mut self, _: &KernelNews) {}
    pub fn clone_link(&self, _: &KernelNews) -> Option<Link> {
        None
    }
    pub fn describe(&self, r: &FibRoute) -> String {
        r.to_string()
    }
}
