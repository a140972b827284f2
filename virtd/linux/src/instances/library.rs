//! Whether a file is a shared library that this machine can load: the dynamic loader only warns
//! about one that it cannot, and the daemon would then run without it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Octets that are read: the header and the table of segments behind it, of which a library has a
/// dozen.
const HEAD: u64 = 4096;
/// e_type of what can be mapped anywhere (elf(5)): a library, or a program of that kind.
const ET_DYN: u16 = 3;
/// p_type of the segment that names a program's loader.
const PT_INTERP: u32 = 3;
/// Octets of an ELF header of 64 bits.
const HEADER_LEN: usize = 64;

/// Why the file at `path` cannot be preloaded, or `None`.
pub(super) fn problem(path: &Path) -> Option<String> {
    let read = |path: &Path| {
        let mut head = Vec::new();
        File::open(path)?.take(HEAD).read_to_end(&mut head).map(|_| head)
    };
    let head = match read(path) {
        Ok(head) => head,
        Err(e) => return Some(e.to_string()),
    };
    let own = read(Path::new("/proc/self/exe")).unwrap_or_default();
    fault(&head, &own).map(str::to_owned)
}

/// The same of what a file begins with; `own` is how a program of this machine begins.
fn fault(head: &[u8], own: &[u8]) -> Option<&'static str> {
    if !head.starts_with(b"\x7fELF") || head.len() < HEADER_LEN {
        return Some("is no shared library (no ELF file)");
    }
    // Class and byte order, then the machine.
    let of = |head: &[u8]| (head.get(4..6).map(<[u8]>::to_vec), u16_at(head, 18));
    if own.len() >= HEADER_LEN && of(head) != of(own) {
        return Some("is for another kind of machine than this one");
    }
    if u16_at(head, 16) != Some(ET_DYN) || segments(head).any(|kind| kind == PT_INTERP) {
        return Some("is no shared library, but an object file or a program");
    }
    None
}

fn u16_at(head: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(head.get(at..at + 2)?.try_into().ok()?))
}

/// The p_type of each segment whose description was read.
fn segments(head: &[u8]) -> impl Iterator<Item = u32> {
    let table = head.get(32..40).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
    let (size, count) = (u16_at(head, 54).unwrap_or(0), u16_at(head, 56).unwrap_or(0));
    (0..count).filter_map(move |i| {
        let at = usize::try_from(table).ok()?.checked_add(usize::from(i) * usize::from(size))?;
        Some(u32::from_ne_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_told_from_what_only_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let libm = std::fs::read_dir("/proc/self/map_files").ok().and_then(|list| {
            let mut targets = list.flatten().filter_map(|e| std::fs::read_link(e.path()).ok());
            targets.find(|t| t.to_string_lossy().contains("/libgcc_s.so"))
        });
        if let Some(library) = libm {
            assert_eq!(problem(&library), None, "{}", library.display());
            let head = std::fs::read(&library).unwrap();
            let mut foreign = head.clone();
            foreign[18] ^= 0x40;
            assert!(problem(&file("foreign.so", &foreign)).is_some_and(|p| p.contains("another kind of machine")));
            assert!(problem(&file("short.so", &head[..40])).is_some_and(|p| p.contains("no shared library")));
            // A table of segments that lies outside the file is no reason to panic.
            let mut far = head[..HEADER_LEN].to_vec();
            far[32..40].fill(0xff);
            assert_eq!(problem(&file("far.so", &far)), None);
        }
        assert!(problem(Path::new("/bin/sh")).is_some_and(|p| p.contains("a program")), "a program is not preloaded");
        assert!(problem(&file("empty.so", b"")).is_some_and(|p| p.contains("no ELF file")));
        assert!(problem(&file("text.so", &[b'x'; 200])).is_some_and(|p| p.contains("no ELF file")));
        assert!(problem(Path::new("/nonexistent.so")).is_some_and(|p| p.contains("No such file")));
    }
}
