// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Any command line: an error that can be printed, or what may be done. One argument a line.
#![no_main]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Parser;
use htlb_core::{HugeSize, PageChoice};
use htlb_user::cli::args::{Args, Command};
use htlb_user::cli::size;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let given: Vec<OsString> = bytes
        .split(|byte| *byte == b'\n')
        .map(|argument| OsStr::from_bytes(argument).to_owned())
        .collect();
    for text in given.iter().filter_map(|argument| argument.to_str()) {
        values(text);
    }
    match Args::try_parse_from([OsString::from("htlb")].into_iter().chain(given)) {
        Ok(args) => understood(&args),
        Err(error) => {
            assert!(!error.render().to_string().is_empty());
            // What was asked for, such as help, or wrong usage; nothing else is clap's to say.
            assert_eq!(error.exit_code(), if error.use_stderr() { 2 } else { 0 });
        }
    }
});

/// What was understood can be obeyed.
fn understood(args: &Args) {
    let _ = args.command.wants_json();
    match &args.command {
        Command::Load(load) => {
            assert_ne!(load.page_size, PageChoice::Huge(HugeSize::BASE));
            assert_eq!(load.device, !load.program.is_empty());
        }
        Command::Pool(pool) => assert_ne!(pool.size, HugeSize::BASE),
        Command::Run(run) => assert!(!run.program.is_empty()),
        Command::Rm(rm) => assert!(!rm.names.is_empty()),
        _ => {}
    }
}

/// Each value by itself: what it means, written again, means the same.
fn values(text: &str) {
    let huge = size::huge_size(text);
    let choice = size::page_choice(text);
    if let Ok(size) = huge {
        assert_ne!(size, HugeSize::BASE);
        assert_eq!(choice, Ok(PageChoice::Huge(size)));
        for again in [
            format!("{}", size.bytes()),
            format!("{}kB", size.bytes() >> 10),
            format!(" {}KiB ", size.bytes() >> 10),
        ] {
            assert_eq!(size::huge_size(&again), Ok(size), "{again}");
        }
    } else if let Ok(PageChoice::Huge(size)) = choice {
        panic!("{text} is {size} for a load, and no size for a pool");
    }
    if let Ok(node) = size::node(text) {
        assert!(node.raw() < 64 && size::node(&node.to_string()) == Ok(node));
    }
    if let Ok(bits) = size::address_bits(text) {
        assert!((24..=64).contains(&bits.raw()));
        assert_eq!(size::address_bits(&bits.raw().to_string()), Ok(bits));
    }
    if let Ok(bytes) = text.parse::<u64>() {
        let human = size::human(bytes);
        assert!(
            human.ends_with('B') && human.len() <= "16384.0 PiB".len(),
            "{human}"
        );
    }
}
