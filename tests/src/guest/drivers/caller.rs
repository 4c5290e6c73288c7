// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The cases that the test driver runs by itself, in the kernel.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use crate::guest::{expect_in_log, skip, Case};
use crate::skip::NO_FREE_RUN;

const NAME: usize = 48;

/// `struct htlb_caller_run` of `tests/kmod/htlb_caller/htlb_caller.h`.
#[repr(C)]
struct Run {
    name: [u8; NAME],
    argument: u64,
    line: u32,
    spare: u32,
    value: i64,
}

/// `HTLB_CALLER_RUN`: read and written, `'k'`, 2, and the size of the record.
const RUN: u32 = (3 << 30) | ((size_of::<Run>() as u32) << 16) | ((b'k' as u32) << 8) | 2;

/// The test driver's device file.
#[derive(Debug)]
pub(in crate::guest) struct Caller {
    pub(super) file: File,
}

impl Caller {
    pub(in crate::guest) fn open() -> Result<Self> {
        let path = "/dev/htlb_caller";
        let file = OpenOptions::new().read(true).write(true).open(path);
        Ok(Self {
            file: file.with_context(|| format!("opening {path}"))?,
        })
    }

    /// Runs a case; says what it answers.
    pub(in crate::guest) fn run(&self, name: &str, argument: u64) -> Result<i64> {
        let mut run = Run {
            name: [0; NAME],
            argument,
            line: 0,
            spare: 0,
            value: 0,
        };
        let place = run.name.get_mut(..name.len()).context("a long name")?;
        place.copy_from_slice(name.as_bytes());
        // SAFETY: the record is of the size that the number says.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), u64::from(RUN), &raw mut run) };
        if done != 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("running {name}"));
        }
        if run.line != 0 {
            let file = run.name.split(|byte| *byte == 0).next().unwrap_or_default();
            return Err(Unexpected {
                place: format!("{}:{}", String::from_utf8_lossy(file), run.line),
                value: run.value,
            }
            .into());
        }
        Ok(run.value)
    }
}

/// What a case found instead of what it expects.
#[derive(Debug)]
struct Unexpected {
    place: String,
    value: i64,
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, value } = self;
        write!(
            f,
            "{place}: what was expected there was not so, but {value}"
        )
    }
}

impl std::error::Error for Unexpected {}

/// Where groups before this one have filled memory to the last page, the kernel's own objects may lie in every run that there is.
fn one_run_is_one_entry() -> Result<()> {
    let outcome = Caller::open()?.run("one_run_is_one_entry", 0);
    let unexpected = outcome
        .as_ref()
        .err()
        .and_then(|error| error.downcast_ref());
    match unexpected {
        Some(Unexpected { value, .. }) if *value == -i64::from(libc::ENOMEM) => {
            println!(
                "{}",
                fs::read_to_string("/proc/pagetypeinfo").unwrap_or_default()
            );
            skip(NO_FREE_RUN)
        }
        _ => outcome.map(drop),
    }
}

fn case(name: &'static str) -> Case {
    Case::new(name, move || Caller::open()?.run(name, 0).map(drop))
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        "bad_requests",
        "filled_by_the_driver",
        "a_fill_that_fails",
        "threads_fill_each_page_once",
        "kept_in_place",
        "a_table_has_an_entry_for_each_run",
        "entries_are_cut_where_the_device_says",
        "a_device_limits_the_pages",
        "nodes_are_kept_to",
        "a_mask_of_its_own",
        "from_a_kernel_thread",
        "from_probe",
    ]
    .into_iter()
    .map(case)
    .collect();
    cases.push(Case::new("one_run_is_one_entry", one_run_is_one_entry));
    cases.push(Case::new("bad_arguments", || {
        let caller = Caller::open()?;
        let own = u64::try_from(caller.file.as_raw_fd())?;
        caller.run("bad_arguments", own).map(drop)
    }));
    cases.push(Case::new("unbalanced", || {
        expect_in_log("without its counterpart")?;
        Caller::open()?.run("unbalanced", 0).map(drop)
    }));
    cases
}
