//! A neighbour that sends what it is told to, octet by octet, and reads only when it is told to.

use crate::lab::{Site, wait_until};
use crate::odd::{KEEPALIVE, NOTIFICATION, OPEN, message};
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const UP: Duration = Duration::from_secs(30);
/// OpenBGPD waits for long before it takes up a session again that was reset.
const SETTLE: Duration = Duration::from_secs(120);

/// An OPEN with multiprotocol for IPv4, route refresh and 4-octet AS numbers.
pub fn open(version: u8, asn: u32, hold_time_s: u16, router_id: [u8; 4]) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 65, 4];
    capabilities.extend_from_slice(&asn.to_be_bytes());
    let mut body = vec![version];
    body.extend_from_slice(&u16::try_from(asn).unwrap_or(23456).to_be_bytes());
    body.extend_from_slice(&hold_time_s.to_be_bytes());
    body.extend_from_slice(&router_id);
    let length = u8::try_from(capabilities.len()).unwrap_or(0);
    body.extend_from_slice(&[length + 2, 2, length]);
    body.extend_from_slice(&capabilities);
    message(OPEN, &body)
}

/// One connection of such a neighbour.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    /// Where it is.
    pub site: Site,
}

impl Raw {
    /// A connection, once the router takes one.
    ///
    /// # Errors
    /// It does not.
    pub fn connect(site: &Site) -> Result<Raw> {
        let to = SocketAddr::new(site.router_v4.into(), 179);
        let stream = wait_until("the router to take a connection", UP, || {
            site.ns.enter(|| TcpStream::connect(to)).map_err(|e| e.to_string())?.map_err(|e| e.to_string())
        })?;
        stream.set_read_timeout(Some(SETTLE))?;
        Ok(Raw { stream, site: site.clone() })
    }

    /// An established session; tried again while the daemons recover from the last one's end.
    ///
    /// # Errors
    /// None comes to stand.
    pub fn establish(site: &Site, hold_time_s: u16) -> Result<Raw> {
        let start = Instant::now();
        loop {
            let mut raw = Raw::connect(site)?;
            match raw.shake_hands(hold_time_s) {
                Ok(()) => return Ok(raw),
                Err(e) if start.elapsed() > SETTLE => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// OPEN and KEEPALIVE, both ways.
    ///
    /// # Errors
    /// The router does not do its part.
    pub fn shake_hands(&mut self, hold_time_s: u16) -> Result<()> {
        self.send(&open(4, self.site.asn, hold_time_s, [10, 255, 1, self.site.number]))?;
        self.expect(OPEN)?;
        self.send(&message(KEEPALIVE, &[]))?;
        self.expect(KEEPALIVE).map(|_| ())
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending")
    }

    /// The next message: its type and what follows its header.
    ///
    /// # Errors
    /// The socket's.
    pub fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut header = [0; 19];
        self.stream.read_exact(&mut header).context("reading a header")?;
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let mut body = vec![0; length.saturating_sub(19)];
        self.stream.read_exact(&mut body).context("reading a message")?;
        Ok((header[18], body))
    }

    /// The next message of a type; anything but a NOTIFICATION before it is passed over.
    ///
    /// # Errors
    /// A NOTIFICATION, or the socket's.
    pub fn expect(&mut self, kind: u8) -> Result<Vec<u8>> {
        loop {
            match self.read()? {
                (found, body) if found == kind => return Ok(body),
                (NOTIFICATION, body) => bail!("NOTIFICATION {body:?}"),
                _ => {}
            }
        }
    }

    /// The router ends the session with this NOTIFICATION, and then the connection.
    ///
    /// # Errors
    /// It does something else.
    pub fn expect_notification(&mut self, code: u8, subcode: u8) -> Result<()> {
        let body = self.expect(NOTIFICATION)?;
        ensure!(body.get(..2) == Some(&[code, subcode]), "NOTIFICATION {body:?} instead of {code}/{subcode}");
        let mut rest = [0];
        ensure!(matches!(self.stream.read(&mut rest), Ok(0) | Err(_)), "the connection goes on");
        Ok(())
    }

    /// From now on a read that finds nothing fails at once.
    ///
    /// # Errors
    /// The socket's.
    pub fn never_wait(&self) -> Result<()> {
        self.stream.set_nonblocking(true).context("changing the socket")
    }
}
