//! The fields of messages, into and out of octets.

use super::{Address, MAX_MESSAGE, MAX_OPTION_LEN, MAX_OPTIONS, Malformed, Options, SocketOption};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Writes fields one after another; remembers that one did not fit instead of failing each time.
pub(super) struct Writer<'a> {
    pub(super) buf: &'a mut [u8],
    pub(super) len: usize,
    pub(super) full: bool,
}

impl Writer<'_> {
    pub(super) fn put(&mut self, bytes: &[u8]) {
        match self.buf.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.full = true,
        }
    }

    pub(super) fn block(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(n) => {
                self.put(&n.to_le_bytes());
                self.put(bytes);
            }
            Err(_) => self.full = true,
        }
    }

    pub(super) fn address(&mut self, a: &Address) {
        match a {
            SocketAddr::V4(v4) => {
                self.put(&[4]);
                self.put(&v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                self.put(&[6]);
                self.put(&v6.ip().octets());
                self.put(&v6.scope_id().to_le_bytes());
            }
        }
        self.put(&a.port().to_le_bytes());
    }

    pub(super) fn option(&mut self, o: &SocketOption<'_>) {
        self.put(&o.level.to_le_bytes());
        self.put(&o.name.to_le_bytes());
        self.block(o.value);
    }

    pub(super) fn done(self) -> Result<usize, Malformed> {
        if self.full || self.len > MAX_MESSAGE { Err(Malformed) } else { Ok(self.len) }
    }
}

/// Reads fields one after another.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Of a whole message.
    pub(super) fn new(message: &'a [u8]) -> Result<Reader<'a>, Malformed> {
        if message.len() > MAX_MESSAGE { Err(Malformed) } else { Ok(Reader { rest: message }) }
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (now, later) = self.rest.split_at_checked(n).ok_or(Malformed)?;
        self.rest = later;
        Ok(now)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub(super) fn block(&mut self) -> Result<&'a [u8], Malformed> {
        let n = usize::from(self.u16()?);
        self.take(n)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.block()?).map_err(|_| Malformed)
    }

    pub(super) fn address(&mut self) -> Result<Address, Malformed> {
        match self.u8()? {
            4 => {
                let ip = Ipv4Addr::from(self.array::<4>()?);
                Ok(SocketAddr::new(IpAddr::V4(ip), self.u16()?))
            }
            6 => {
                let ip = Ipv6Addr::from(self.array::<16>()?);
                let scope = self.u32()?;
                Ok(SocketAddr::V6(SocketAddrV6::new(ip, self.u16()?, 0, scope)))
            }
            _ => Err(Malformed),
        }
    }

    pub(super) fn options(&mut self) -> Result<Options<'a>, Malformed> {
        let options = Options { encoded: self.block()? };
        let mut check = Reader { rest: options.encoded };
        let mut n = 0;
        while !check.rest.is_empty() {
            check.option()?;
            n += 1;
        }
        if n > MAX_OPTIONS { Err(Malformed) } else { Ok(options) }
    }

    pub(super) fn option(&mut self) -> Result<SocketOption<'a>, Malformed> {
        let (level, name, value) = (self.i32()?, self.i32()?, self.block()?);
        if value.len() > MAX_OPTION_LEN { Err(Malformed) } else { Ok(SocketOption { level, name, value }) }
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}
