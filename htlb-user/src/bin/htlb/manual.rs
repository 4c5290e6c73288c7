// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the command says of itself: JSON, completions, manual pages.

use std::path::Path;

use clap::CommandFactory;
use htlb_user::cli::words;

use crate::args::{Args, Completions, Man};
use crate::exit::{Code, Failure};
use crate::output;

pub(crate) fn json() -> Result<(), Failure> {
    output::text(&format!("{}\n", words::JSON))
}

pub(crate) fn completions(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "htlb", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}

pub(crate) fn man(args: &Man) -> Result<(), Failure> {
    match &args.dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Args::command()).render(&mut page)?;
            output::text(&String::from_utf8_lossy(&page))
        }
        Some(dir) => pages(dir).map_err(|error| {
            let dir = dir.display();
            Failure::new(
                Code::Failed,
                format!("cannot write manual pages to {dir}: {error}"),
            )
        }),
    }
}

fn pages(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Args::command(), dir)
}
