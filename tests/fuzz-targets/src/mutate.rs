//! One input out of others.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// The longest input that is made; what is longer finds nothing that this does not.
const MAX_LEN: usize = 8192;
/// Numbers at which lengths, counts and signs turn over.
const EDGES: [u16; 12] = [0, 1, 2, 4, 19, 23, 127, 128, 255, 256, 4096, 65535];
/// Octets of the texts that are read: brackets, quotes, digits, and the first octets of what UTF-8
/// writes with several.
const CHARACTERS: &[u8] = b"{}[]\"',.:/=#\\-+09eE \t\n\r|%_\x00\x7f\xc3\xe2\xf0\xff";

/// The input that has this seed, made of one of `seeds` by some changes.
pub fn mutated(seed: u64, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut input = seeds.choose(&mut rng).cloned().unwrap_or_default();
    // Most inputs are changed little: they come far before they are refused.
    let changes = 1 << rng.random_range(0..5);
    for _ in 0..rng.random_range(0..=changes) {
        change(&mut input, seeds, &mut rng);
        input.truncate(MAX_LEN);
    }
    input
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut SmallRng) {
    let at = rng.random_range(0..=input.len());
    let end = rng.random_range(at..=input.len());
    let end = if rng.random_bool(0.8) { end.min(at + 16) } else { end };
    match rng.random_range(0..11) {
        0 => drop(input.get_mut(at).map(|octet| *octet ^= 1 << rng.random_range(0..8))),
        1 => drop(input.get_mut(at).map(|octet| *octet = rng.random())),
        2 => drop(input.get_mut(at).map(|octet| *octet = *CHARACTERS.choose(rng).unwrap_or(&0))),
        3 => drop(input.drain(at..end)),
        4 => input.truncate(at),
        // A piece twice.
        5 => {
            let piece = input.get(at..end).unwrap_or_default().to_vec();
            let to = rng.random_range(0..=input.len());
            input.splice(to..to, piece);
        }
        // A piece of another input.
        6 => {
            let other = seeds.choose(rng).map_or(&[][..], Vec::as_slice);
            let from = rng.random_range(0..=other.len());
            let to = rng.random_range(from..=other.len()).min(from + 64);
            input.splice(at..end, other.get(from..to).unwrap_or_default().iter().copied());
        }
        7 => {
            let fresh: Vec<u8> = (0..rng.random_range(1..9)).map(|_| rng.random()).collect();
            input.splice(at..at, fresh);
        }
        // A length: one or two octets, in either order, near what it was or at an edge.
        8 => drop(input.get_mut(at).map(|octet| *octet = octet.wrapping_add_signed(rng.random_range(-4..=4)))),
        9 => {
            if let Some([a, b]) = input.get_mut(at..at.saturating_add(2)) {
                let little = rng.random_bool(0.5);
                let was = if little { u16::from_le_bytes([*a, *b]) } else { u16::from_be_bytes([*a, *b]) };
                let near = was.wrapping_add_signed(rng.random_range(-8..=8));
                let is = if rng.random_bool(0.5) { near } else { *EDGES.choose(rng).unwrap_or(&0) };
                [*a, *b] = if little { is.to_le_bytes() } else { is.to_be_bytes() };
            }
        }
        _ => drop(input.get_mut(at).map(|octet| *octet = *EDGES.choose(rng).unwrap_or(&0) as u8)),
    }
}
