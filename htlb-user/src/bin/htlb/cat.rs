// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb cat`: the exact bytes.

use std::io::{self, Write};

use htlb_user::named::Machine;
use htlb_user::Named;

use crate::args::Cat;
use crate::exit::Failure;
use crate::output;

/// How much is written at once, in bytes: a page-table entry's worth, which the next level of cache still holds.
const AT_ONCE: usize = 2 << 20;

pub(crate) fn run(args: &Cat) -> Result<(), Failure> {
    let named = Named::attach(&Machine::host().store()?, &args.name)?;
    // Standard output as a plain file: no buffer, no search for line ends.
    let out = rustix::stdio::stdout();
    let mut out = Raw(out);
    let written = named
        .as_slice()
        .chunks(AT_ONCE)
        .try_for_each(|piece| out.write_all(piece));
    output::enough(written)
}

/// Writes straight from the pages of the buffer.
struct Raw<'a>(rustix::fd::BorrowedFd<'a>);

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
