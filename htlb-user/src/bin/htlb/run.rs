// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb run`: a program with a buffer.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use htlb_user::named::Machine;
use rustix::io::{fcntl_setfd, FdFlags};

use crate::args::Run;
use crate::exit::{Code, Failure};

pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    let Some((program, rest)) = args.program.split_first() else {
        return Err(Failure::new(Code::Usage, "name a program after `--`"));
    };
    let opened = Machine::host().store()?.open_name(&args.name)?;
    let failed = |error: io::Error| {
        Failure::new(Code::Failed, format!("cannot pass the buffer on: {error}"))
    };
    let mut command = Command::new(program);
    command
        .args(rest)
        .env("HTLB_NAME", &args.name)
        .env("HTLB_LEN", opened.len().to_string())
        .env("HTLB_PARTS", opened.parts().len().max(1).to_string());
    let paths: Vec<_> = opened.record().paths().collect();
    for ((number, (part, file)), path) in opened.parts().enumerate().zip(&paths) {
        fcntl_setfd(file, FdFlags::empty()).map_err(|error| failed(error.into()))?;
        let suffix = match number {
            0 => String::new(),
            number => format!("_{number}"),
        };
        command
            .env(format!("HTLB_FD{suffix}"), file.as_raw_fd().to_string())
            .env(format!("HTLB_PATH{suffix}"), path)
            .env(format!("HTLB_OFFSET{suffix}"), part.offset.to_string());
    }
    let nothing = std::fs::File::open("/dev/null").map_err(failed)?;
    if paths.is_empty() {
        fcntl_setfd(nothing.as_fd(), FdFlags::empty()).map_err(|error| failed(error.into()))?;
        command
            .env("HTLB_FD", nothing.as_raw_fd().to_string())
            .env("HTLB_PATH", "/dev/null")
            .env("HTLB_OFFSET", "0");
    }
    // The descriptors stay open in the program, since it takes the place of this process.
    Err(replace(command))
}

/// Puts a program in the place of this one; comes back only where that is not possible.
pub(crate) fn replace(mut command: Command) -> Failure {
    let error = command.exec();
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NoProgram,
        _ => Code::CannotStart,
    };
    let program = command.get_program().to_string_lossy();
    Failure::new(code, format!("cannot start {program}: {error}"))
}
