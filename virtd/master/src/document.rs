//! The configuration, as the master reads it.

use anyhow::Result;
use std::path::{Path, PathBuf};
use virtd_config::{Config, Instance, parse};

/// What is checked before a configuration is in force; each gives the shim, where one is needed.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// Before a start.
    pub start: fn(&Config, Option<&Path>) -> Result<Option<PathBuf>>,
    /// Before a reload.
    pub reload: fn(&Config, Option<&Path>) -> Result<Option<PathBuf>>,
    /// Finds the shim where no instance needs it yet.
    pub find_shim: fn(Option<&Path>) -> Option<PathBuf>,
}

/// A configuration, and the text that it was made of.
#[derive(Clone, Debug)]
pub struct Document {
    /// What the file holds.
    pub text: String,
    /// What that means.
    pub config: Config,
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or something is wrong in it.
    pub fn read(file: &Path) -> Result<Document, parse::LoadError> {
        let text = parse::read(file)?;
        let config = parse::parse(file, &text)?;
        Ok(Document { text, config })
    }

    /// Reads a file for a reload. `starts`: the shim was found when virtd started.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn checked(
        file: &Path,
        shim: Option<&Path>,
        starts: bool,
        check: fn(&Config, Option<&Path>) -> Result<Option<PathBuf>>,
    ) -> Result<Document, String> {
        let document = Document::read(file).map_err(|e| e.to_string())?;
        check(&document.config, shim).map_err(|e| format!("{e:#}"))?;
        if !starts && document.config.instances.iter().any(Instance::is_ours) {
            let why = "virtd was started without libhvlibc.so, and can start no instance until it is started again";
            return Err(why.to_owned());
        }
        Ok(document)
    }
}
