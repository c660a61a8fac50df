//! Stack usage of programs, read off the object.
//!
//! The verifier adds up the frames of the deepest chain of calls, each rounded up to 16 bytes when
//! the program is compiled to machine code, and allows 512 bytes (`check_max_stack_depth` in
//! kernel/bpf/verifier.c). This module does the same without loading anything.

use std::collections::HashMap;

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SectionKind, SymbolKind};

/// A function: its frame in bytes, and the functions that it calls.
struct Function {
    frame: u64,
    calls: Vec<(SectionIndex, u64)>,
}

/// Returns the stack usage of each function and of all that it calls, bytes, by name.
pub(crate) fn depths(elf: &[u8]) -> HashMap<String, u64> {
    let file = object::File::parse(elf).unwrap();
    let mut functions = HashMap::new();
    let mut names = HashMap::new();
    for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text && s.size() > 0) {
        let Some(section) = symbol.section_index() else { continue };
        let at = (section, symbol.address());
        functions.insert(at, function(&file, section, symbol.address(), symbol.size()));
        names.insert(symbol.name().unwrap().to_owned(), at);
    }
    names.into_iter().map(|(name, at)| (name, depth(&functions, at, 0))).collect()
}

fn depth(functions: &HashMap<(SectionIndex, u64), Function>, at: (SectionIndex, u64), level: u32) -> u64 {
    assert!(level < 8, "the kernel follows at most 8 calls");
    let f = functions.get(&at).unwrap_or_else(|| panic!("call target is not a function: {at:?}"));
    f.frame + f.calls.iter().map(|c| depth(functions, *c, level + 1)).max().unwrap_or(0)
}

/// Reads the instructions of a function (Documentation/bpf/standardization/instruction-set.rst).
fn function(file: &object::File<'_>, section: SectionIndex, start: u64, size: u64) -> Function {
    let container = file.section_by_index(section).unwrap();
    let code = container.data().unwrap();
    let relocations: HashMap<u64, _> = container.relocations().collect();
    let (mut lowest, mut calls) = (0_i64, Vec::new());
    let mut frame_pointers = [false; 16];
    frame_pointers[10] = true;
    for at in (start..start + size).step_by(8) {
        let insn: [u8; 8] = code[usize::try_from(at).unwrap()..][..8].try_into().unwrap();
        let (opcode, dst, src) = (insn[0], usize::from(insn[1] & 15), usize::from(insn[1] >> 4));
        let offset = i64::from(i16::from_le_bytes([insn[2], insn[3]]));
        let immediate = i64::from(i32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]]));
        match opcode {
            // The address of a function, for a helper that calls it.
            0x18 => {
                frame_pointers[dst] = false;
                if let Some(RelocationTarget::Symbol(index)) = relocations.get(&at).map(object::Relocation::target)
                    && let symbol = file.symbol_by_index(index).unwrap()
                    && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Section)
                    && let Some(target) = symbol.section_index()
                    && file.section_by_index(target).unwrap().kind() == SectionKind::Text
                {
                    let skip = if symbol.kind() == SymbolKind::Section { immediate } else { 0 };
                    calls.push((target, symbol.address().checked_add_signed(skip).unwrap()));
                }
            }
            0x85 if src == 1 => calls.push(match relocations.get(&at).map(object::Relocation::target) {
                Some(RelocationTarget::Symbol(index)) => {
                    let symbol = file.symbol_by_index(index).unwrap();
                    let target = symbol.section_index().unwrap();
                    let whole = symbol.kind() == SymbolKind::Section;
                    let skip = if whole { (immediate + 1) * 8 } else { 0 };
                    (target, symbol.address().checked_add_signed(skip).unwrap())
                }
                _ => (section, at.checked_add_signed((immediate + 1) * 8).unwrap()),
            }),
            // rX = rY; rX += immediate: an address within the frame.
            0xbf => frame_pointers[dst] = frame_pointers[src],
            0x07 if frame_pointers[dst] && dst != 10 => {
                lowest = lowest.min(immediate);
                frame_pointers[dst] = false;
            }
            _ => {
                // Loads have the base in src, stores in dst.
                let base = if opcode & 7 == 1 { src } else { dst };
                if matches!(opcode & 7, 1..=3) && base == 10 {
                    lowest = lowest.min(offset);
                }
                if matches!(opcode & 7, 0 | 1 | 4 | 7) && dst != 10 {
                    frame_pointers[dst] = false;
                }
            }
        }
    }
    Function { frame: lowest.unsigned_abs().next_multiple_of(16), calls }
}
