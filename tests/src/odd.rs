//! BGP messages written by hand, octet by octet, for scenarios that say what no speaker should.

use crate::lab::Site;
use anyhow::{Context, Result};

/// Message type OPEN (RFC 4271 section 4.1).
pub const OPEN: u8 = 1;
/// Message type UPDATE.
pub const UPDATE: u8 = 2;
/// Message type NOTIFICATION.
pub const NOTIFICATION: u8 = 3;
/// Message type KEEPALIVE.
pub const KEEPALIVE: u8 = 4;

/// A message of RFC 4271 section 4.1.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut all = vec![0xff; 16];
    let length = u16::try_from(19 + body.len()).unwrap_or(u16::MAX);
    all.extend_from_slice(&length.to_be_bytes());
    all.push(kind);
    all.extend_from_slice(body);
    all
}

/// An UPDATE without withdrawn routes.
pub fn update(attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend_from_slice(&u16::try_from(attributes.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(attributes);
    body.extend_from_slice(nlri);
    message(UPDATE, &body)
}

/// ORIGIN, AS_PATH and NEXT_HOP of a route that this site makes.
pub fn attributes(site: &Site) -> Vec<u8> {
    let mut all = vec![0x40, 1, 1, 0, 0x40, 2, 6, 2, 1];
    all.extend_from_slice(&site.asn.to_be_bytes());
    all.extend_from_slice(&[0x40, 3, 4]);
    all.extend_from_slice(&site.v4.octets());
    all
}

/// Hexadecimal, as bug reports have it; blanks are passed over.
///
/// # Errors
/// There is something else in it, or half an octet.
pub fn octets(text: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let digits = digits.filter(|d| d.len() % 2 == 0).with_context(|| format!("not hexadecimal: {text}"))?;
    Ok(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | d)).collect())
}
