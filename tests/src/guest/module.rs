// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The modules under test: loaded for a group, and taken out again.

use std::ffi::CString;
use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use rustix::io::Errno;
use rustix::system::{delete_module, finit_module};

use super::meminfo::Memory;
use super::rest;

/// Modules that can never be unloaded, and keep what they depend on: a dma-heap has no end.
pub const PERMANENT: &[&str] = &["htlb_heap"];

/// A module that a group needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// The name that the kernel knows it by; its file is `/lib/modules/<name>.ko`.
    pub name: &'static str,
    /// Its parameters, as for `insmod`.
    pub parameters: &'static str,
}

impl Module {
    /// This module with these parameters.
    #[must_use]
    pub const fn new(name: &'static str, parameters: &'static str) -> Self {
        Self { name, parameters }
    }

    /// Whether it is in the kernel.
    ///
    /// # Errors
    /// `/proc/modules` cannot be read.
    pub fn is_loaded(self) -> Result<bool> {
        let modules = fs::read_to_string("/proc/modules").context("reading /proc/modules")?;
        Ok(modules
            .lines()
            .any(|line| line.split(' ').next() == Some(self.name)))
    }

    /// Whether it is a part of the kernel, as some are of the debug kernel.
    ///
    /// # Errors
    /// `/sys` or `/lib` cannot be read.
    pub fn is_built_in(self) -> Result<bool> {
        Ok(fs::exists(format!("/sys/module/{}", self.name))? && !fs::exists(self.file())?)
    }

    fn file(self) -> String {
        format!("/lib/modules/{}.ko", self.name)
    }

    /// Puts it into the kernel, if it is not a part of it.
    ///
    /// # Errors
    /// No such file, or what the kernel answers.
    pub fn load(self) -> Result<()> {
        if self.is_built_in()? {
            return Ok(());
        }
        let file = self.file();
        let object = File::open(&file).with_context(|| format!("opening {file}"))?;
        finit_module(object, &CString::new(self.parameters)?, 0)
            .with_context(|| format!("loading {} {}", self.name, self.parameters))
    }

    /// Takes it out.
    ///
    /// # Errors
    /// It is in use for longer than what has just ended may keep it: some seconds.
    pub fn unload(self) -> Result<()> {
        // O_NONBLOCK: a module in use is an answer, not something to wait for.
        const NO_WAIT: i32 = libc::O_NONBLOCK;
        let name = CString::new(self.name)?;
        let began = Instant::now();
        loop {
            match delete_module(&name, NO_WAIT) {
                // The last reference to a file is dropped after the process that had it is gone.
                Err(Errno::AGAIN) if began.elapsed() < Duration::from_secs(10) => {
                    thread::sleep(Duration::from_millis(50));
                }
                done => return done.with_context(|| format!("unloading {}", self.name)),
            }
        }
    }
}

/// The modules of a group, in the kernel.
#[derive(Debug)]
pub struct Loaded {
    modules: &'static [Module],
    before: Memory,
}

impl Loaded {
    /// Loads them, in this order. Those that another group could not get rid of are taken as they are if they can never leave,
    /// and are an error else.
    ///
    /// # Errors
    /// As [`Module::load`]; those before it are taken out again.
    pub fn load(modules: &'static [Module]) -> Result<Self> {
        let before = Memory::settled()?;
        let loaded = Self { modules, before };
        let stays = loaded.stays()?;
        for (index, module) in modules.iter().enumerate() {
            if module.is_loaded()? {
                ensure!(
                    stays,
                    "{} is still loaded, by an earlier group",
                    module.name
                );
                continue;
            }
            if let Err(error) = module.load() {
                for earlier in modules.iter().take(index).rev() {
                    // The error that there is to tell is the other one.
                    let _ = earlier.unload();
                }
                return Err(error);
            }
        }
        Ok(loaded)
    }

    /// Whether some module is, or will be, in the kernel for good.
    fn stays(&self) -> Result<bool> {
        for name in PERMANENT {
            let permanent = Module::new(name, "");
            if self.modules.iter().any(|module| module.name == *name) || permanent.is_loaded()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks whether the modules are at rest, takes them out, and compares memory with what it was before they came.
    ///
    /// # Errors
    /// What is left, all of it.
    pub fn leave(self) -> Result<()> {
        let mut left = Vec::new();
        let mut note = |done: Result<()>| {
            if let Err(error) = done {
                left.push(format!("{error:#}"));
            }
        };
        if self.modules.iter().any(|module| module.name == "htlb") {
            note(rest::wait());
        }
        if !self.stays()? {
            for module in self.modules.iter().rev() {
                // A case may have taken it out itself.
                if module.is_loaded()? {
                    note(module.unload());
                }
            }
            note(self.before.is_back());
        }
        if !left.is_empty() {
            bail!("{}", left.join("; "));
        }
        Ok(())
    }
}
