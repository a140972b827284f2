//! stub
use super::super::io::{KernelNews, Link};
use super::system::System;
use wire::netlink::Frame;
use wire::netlink::fib::{FibKey, FibRoute};
#[derive(Default, Debug)]
pub struct Effects {
    pub changed: Vec<FibKey>,
    pub notify: Vec<(u32, u16, Vec<u8>)>,
}
#[derive(Debug)]
pub struct Refusal {
    pub errno: i32,
    pub text: &'static str,
}
#[derive(Debug)]
pub struct VirtualKernel;
impl VirtualKernel {
    pub fn new() -> Self {
        VirtualKernel
    }
    pub fn clear(&mut self) {}
    pub fn routes(&self) -> usize {
        0
    }
    pub fn memory_bytes(&self) -> usize {
        0
    }
    pub fn request(&mut self, _: &Frame<'_>, _: &System, _: &mut Effects) -> Result<(), Refusal> {
        Ok(())
    }
    pub fn best(&self, _: &FibKey) -> Option<(FibRoute, u8)> {
        None
    }
    pub fn dump(&self, _: &Frame<'_>, _: u32, _: &System) -> Vec<Vec<u8>> {
        Vec::new()
    }
    pub fn system_changed(&mut self, _: &KernelNews, _: Option<&Link>, _: &System, _: &mut Effects) {}
}
