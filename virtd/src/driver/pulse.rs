//! KEEPALIVEs while the journal of an earlier worker is read: with a full table that takes longer
//! than the shortest hold time.

use super::net;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::Duration;
use virtd_linux::sys;
use wire::bgp::message;

/// No two KEEPALIVEs may follow each other within a second (RFC 4271, section 4.4).
const BEAT: Duration = Duration::from_secs(1);

/// Sends KEEPALIVEs, until it is dropped.
#[derive(Debug)]
pub struct Pulse {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Over these connections, to which nothing else is sent meanwhile, and whose last message has
    /// left whole. The journal knows nothing of these KEEPALIVEs: a connection takes one only when
    /// it has room for all of it.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn begin(connections: Vec<OwnedFd>) -> io::Result<Pulse> {
        let (stop, stopped) = bounded(0);
        let thread = std::thread::Builder::new().name("pulse".into()).spawn(move || beat(&connections, &stopped))?;
        Ok(Pulse { stop: Some(stop), thread: Some(thread) })
    }
}

fn beat(connections: &[OwnedFd], stopped: &Receiver<()>) {
    let keepalive = message::keepalive();
    while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
        // Whoever has not taken what was sent before has heard enough.
        for connection in connections.iter().filter(|c| sys::unacknowledged(*c).is_ok_and(|octets| octets == 0)) {
            let _ = net::send(connection, &keepalive);
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn one_a_second_until_it_ends_and_none_to_who_does_not_take_them() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let ours = || TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (one, full) = (ours(), ours());
        let (mut peer, _) = listener.accept().expect("a peer");
        let (mut silent, _) = listener.accept().expect("a peer");
        full.set_nonblocking(true).expect("a flag");
        while net::send(&full, &[0; 65536]).is_ok() {}
        let pulse = Pulse::begin(vec![one.into(), full.into()]).expect("a thread");
        let mut octets = [0; 38];
        peer.read_exact(&mut octets).expect("two KEEPALIVEs");
        assert_eq!(octets, [message::keepalive(), message::keepalive()].concat()[..]);
        drop(pulse);
        assert_eq!(peer.read(&mut octets).expect("the end"), 0, "whole messages");
        let mut all = Vec::new();
        silent.read_to_end(&mut all).expect("all that it was sent");
        assert!(all.len() > 65536 && all.iter().all(|octet| *octet == 0), "nothing was added");
    }
}
