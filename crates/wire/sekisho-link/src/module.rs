//! Which host ABI a WebAssembly module is written for, for whoever makes its manifest.

use crate::Manifest;

/// Number of the export section (WebAssembly Core Specification 1.0, 5.5.10).
const EXPORTS: u8 = 7;
/// The export that modules of ABI 3 have, and those of ABI 2 have not (`docs/spec/os-part.md`).
const TRANSIENT: &[u8] = b"transient";

/// The host ABI of a module, by what it exports: 3 with `transient`, else 2. Nothing is judged here: a secure element does that, and refuses a module
/// that is not of the ABI of its manifest.
pub fn host_abi(module: &[u8]) -> u8 {
    match exports(module).and_then(|mut exports| is_among(&mut exports, TRANSIENT)) {
        Some(true) => 3,
        _ => Manifest::ABI,
    }
}

/// The export section's content.
fn exports(module: &[u8]) -> Option<&[u8]> {
    let mut rest = module.get(8..)?;
    loop {
        let id = take(&mut rest, 1)?;
        let len = number(&mut rest)?;
        let section = take(&mut rest, len)?;
        if id == [EXPORTS] {
            return Some(section);
        }
    }
}

/// Whether a function of this name is exported.
fn is_among(exports: &mut &[u8], wanted: &[u8]) -> Option<bool> {
    for _ in 0..number(exports)? {
        let len = number(exports)?;
        let name = take(exports, len)?;
        let kind = take(exports, 1)?;
        number(exports)?;
        if name == wanted && kind == [0] {
            return Some(true);
        }
    }
    Some(false)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

/// An unsigned number of 32 bits (5.2.2).
fn number(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let [byte] = *take(rest, 1)? else { return None };
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_abi_of_a_module_is_told_by_its_exports() {
        let head = b"\0asm\x01\0\0\0";
        // A type section, and exports: a memory and a function.
        let types = [1, 4, 1, 0x60, 0, 0];
        let exports = |name: &[u8], kind: u8| {
            let len = u8::try_from(name.len()).unwrap();
            let one = [&[len], name, &[kind, 0x80, 0x00]].concat();
            let content = [&[2, 1, b'm', 2, 0][..], &one].concat();
            [&[7, u8::try_from(content.len()).unwrap()][..], &content].concat()
        };
        let module = |name: &[u8], kind| [&head[..], &types, &exports(name, kind)].concat();
        assert_eq!(host_abi(&module(b"transient", 0)), 3);
        assert_eq!(host_abi(&module(b"transient", 2)), 2, "no function");
        assert_eq!(host_abi(&module(b"transienT", 0)), 2);
        assert_eq!(host_abi(head), 2);
        // Whatever the bytes: a number.
        let whole = module(b"transient", 0);
        for len in 0..whole.len() {
            assert_eq!(host_abi(&whole[..len]), 2, "{len}");
            let mut damaged = whole.clone();
            for byte in [0x00, 0x7F, 0x80, 0xFF] {
                damaged[len] = byte;
                assert!(matches!(host_abi(&damaged), 2 | 3));
            }
        }
    }
}
