//! A continuous stream of datagrams between two hosts behind the router, and how many of them came
//! back.

use crate::lab::Netns;
use anyhow::{Context, Result, anyhow};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two datagrams.
const PACE: Duration = Duration::from_millis(5);
/// An answer later than this is a lost datagram.
const PATIENCE: Duration = Duration::from_secs(1);
const PORT: u16 = 7007;

/// A running stream: each datagram is sent once the answer to the one before it is there, or given
/// up.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Probe {
    /// From an address in one namespace to an address in another, which answers.
    ///
    /// # Errors
    /// Sockets cannot be opened there.
    pub fn start(from: (&Netns, IpAddr), to: (&Netns, IpAddr)) -> Result<Probe> {
        let bind = |ns: &Netns, at: IpAddr, port| {
            ns.enter(|| UdpSocket::bind((at, port)))?.with_context(|| format!("binding {at}"))
        };
        let (client, server) = (bind(from.0, from.1, 0)?, bind(to.0, to.1, PORT)?);
        client.set_read_timeout(Some(PATIENCE))?;
        server.set_read_timeout(Some(PATIENCE))?;
        let (stop, sent, lost) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let end = stop.clone();
        let answer = move || {
            let mut buf = [0u8; 64];
            while !end.load(Ordering::Relaxed) {
                if let Ok((n, peer)) = server.recv_from(&mut buf) {
                    // What the network does with it is what is measured.
                    let _ = server.send_to(&buf[..n], peer);
                }
            }
            Ok(())
        };
        let (end, tried, missing, target) = (stop.clone(), sent.clone(), lost.clone(), SocketAddr::new(to.1, PORT));
        let ask = move || {
            let mut buf = [0u8; 64];
            while !end.load(Ordering::Relaxed) {
                let n = tried.fetch_add(1, Ordering::Relaxed);
                // A router that refuses says so by an ICMP error: lost as well.
                let there = client.send_to(&n.to_le_bytes(), target).is_ok() && {
                    let answered = |got: std::io::Result<usize>, buf: &[u8; 64]| {
                        got.is_ok_and(|len| buf[..len] == n.to_le_bytes())
                    };
                    let got = client.recv(&mut buf);
                    answered(got, &buf)
                };
                if !there {
                    missing.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(PACE);
            }
            Ok(())
        };
        let threads = vec![std::thread::spawn(answer), std::thread::spawn(ask)];
        Ok(Probe { stop, sent, lost, threads })
    }

    /// Sent and lost so far.
    pub fn so_far(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    /// Ends it; sent and lost.
    ///
    /// # Errors
    /// A thread of it has panicked.
    pub fn finish(mut self) -> Result<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a thread of the probe has panicked"))??;
        }
        Ok(self.so_far())
    }
}
