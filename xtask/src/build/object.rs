//! Reads the object with the kernel programs, and checks that the kernel can load it. Changes
//! nothing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object as _, ObjectSection, ObjectSymbol, SymbolKind};

/// A kernel instruction is eight bytes.
const INSTRUCTION: u64 = 8;

/// The object with the kernel programs.
pub(crate) struct Object {
    /// Size of the file.
    pub(crate) bytes: u64,
    /// The licence that it declares to the kernel.
    pub(crate) license: String,
    /// The programs, sorted by name.
    pub(crate) programs: Vec<Program>,
    /// Length of the functions that programs share, in instructions.
    pub(crate) shared_instructions: u64,
    panics: Vec<String>,
}

/// One program of the object.
pub(crate) struct Program {
    /// Name of the function.
    pub(crate) name: String,
    /// The section, which tells the loader the kind of program.
    pub(crate) section: String,
    /// Length in instructions.
    pub(crate) instructions: u64,
}

impl Object {
    /// Reads an object file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let data = std::fs::read(path)?;
        let file = object::File::parse(&*data)?;
        let license = match file.section_by_name("license") {
            Some(section) => String::from_utf8_lossy(section.data()?).trim_end_matches('\0').to_owned(),
            None => String::new(),
        };
        let mut programs = Vec::new();
        let mut panics = Vec::new();
        for symbol in file.symbols() {
            let name = symbol.name().context("the object has a symbol without a readable name")?;
            if name.contains("panicking") {
                panics.push(name.to_owned());
            }
            let Some(index) = symbol.section_index() else { continue };
            let section = file.section_by_index(index)?;
            let section = section.name()?;
            if symbol.kind() == SymbolKind::Text && section != ".text" && symbol.size() > 0 {
                let instructions = symbol.size() / INSTRUCTION;
                programs.push(Program { name: name.to_owned(), section: section.to_owned(), instructions });
            }
        }
        programs.sort_by(|a, b| a.name.cmp(&b.name));
        let shared = file.section_by_name(".text").map_or(0, |section| section.size() / INSTRUCTION);
        Ok(Self { bytes: data.len() as u64, license, programs, shared_instructions: shared, panics })
    }

    /// Checks that the kernel can load the object.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.panics.is_empty() {
            bail!("the object can panic, which no kernel program may: {}", self.panics.join(", "));
        }
        if self.programs.is_empty() {
            bail!("the object has no program");
        }
        if !self.license.contains("GPL") {
            bail!(
                "the object's licence is `{}`, and the kernel lends its helpers only to GPL-compatible programs",
                self.license
            );
        }
        Ok(())
    }
}
