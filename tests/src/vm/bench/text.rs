// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How much code a module keeps in memory.

use std::path::Path;

use anyhow::{Context, Result};

use crate::kernel::command::answer;
use crate::kernel::toolchain::Bind;
use crate::kernel::Prepared;

/// The bytes of a module's `.text` sections; those of its start and its end (`.init.text`, `.exit.text`) do not count.
///
/// # Errors
///
/// It is no object file.
pub fn bytes(kernel: &Prepared, object: &Path) -> Result<u64> {
    let folder = object.parent().context("a module lies in a folder")?;
    let command = [
        "size".into(),
        "-A".into(),
        "-d".into(),
        object.display().to_string(),
    ];
    let listed = answer(&mut kernel.toolchain.enter(&[Bind::same(folder)], command))?;
    sum(&listed).with_context(|| format!("{} has no code", object.display()))
}

/// The sum over the lines `.text… SIZE ADDRESS`; none where there is no such line.
fn sum(listed: &str) -> Option<u64> {
    let sections = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let bytes: u64 = words.next()?.parse().ok()?;
        (name == ".text" || name.starts_with(".text.")).then_some(bytes)
    });
    sections.reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sections_of_text_are_summed() {
        let listed = "htlb.ko  :\nsection   size   addr\n.note.Linux   48   0\n.text   1000   0\n\
                      .text.unlikely   200   0\n.textual   7   0\n.init.text   50   0\n.exit.text   60   0\n\
                      .rela.text  4096   0\n.data   9   0\nTotal   5470\n";
        assert_eq!(sum(listed), Some(1200));
        assert_eq!(sum("x.ko :\n.data 9 0\nTotal 9\n"), None);
    }
}
