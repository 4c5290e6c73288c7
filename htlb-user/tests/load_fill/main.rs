// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Loads from real files, devices and pipes: every byte, every error, nothing behind the end.

mod changes;
mod files;
mod kinds;
mod memory;
mod scratch;
mod streams;

use std::path::Path;

use htlb_user::load::{fill, LoadError, Options, Report, Source, Span};

use memory::Pages;

pub(crate) fn small() -> Options<'static> {
    Options {
        request_bytes: 64 << 10,
        ..Options::default()
    }
}

pub(crate) fn load(path: &Path, memory: &mut Pages) -> Result<Report, LoadError> {
    fill(
        &Source::open(path)?,
        &mut [Span::new(memory.bytes())],
        &small(),
        |_| {},
    )
}
