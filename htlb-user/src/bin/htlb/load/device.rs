// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb load --device`: into a buffer of the kernel module, for a program that takes the place of this one.
//!
//! Such a buffer is a descriptor and nothing else: it has no name that could outlive the processes that have it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use htlb_core::{HugeSize, NodePolicy, PageChoice};
use htlb_user::load::{self, fill, verify, Report, Source, Span};
use htlb_user::pools::{DeviceUse, Pools};
use htlb_user::{Buffer, BufferBuilder, Receipt};
use rustix::io::{fcntl_setfd, FdFlags};
use serde_json::json;

use crate::args::Load;
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::run::replace;
use crate::size::human;

pub(super) fn run(args: &Load, name: &str, source: &Source) -> Result<(), Failure> {
    let Some(len) = source.len() else {
        let what = "--device needs the length in advance, and a stream has none: load a file";
        return Err(Failure::new(Code::Usage, what));
    };
    if args.page_size == PageChoice::Huge(HugeSize::GIB1) {
        // They are mapped without what direct I/O goes by.
        let what =
            "the kernel cannot read a file into the module's pages of 1 GiB: take --page-size 2M";
        return Err(Failure::new(Code::Usage, what));
    }
    let Some((program, rest)) = args.program.split_first() else {
        return Err(Failure::new(Code::Usage, "name a program after `--`"));
    };
    let mut command = Command::new(program);
    command
        .args(rest)
        .env("HTLB_NAME", name)
        .env("HTLB_LEN", len.to_string())
        .env("HTLB_PARTS", "1")
        .env("HTLB_OFFSET", "0")
        .env_remove("HTLB_PATH");
    if len == 0 {
        let nothing = std::fs::File::open("/dev/null")?;
        return hand_over(command, nothing.into());
    }
    let interrupt = Interrupt::install()?;
    let done = loaded(args, source, len, &interrupt);
    let (buffer, report) = done.map_err(|failure| match failure.code() {
        Code::Interrupted => interrupt.failure().unwrap_or(failure),
        _ => failure,
    })?;
    tell(args, name, source, &buffer.receipt(), &report)?;
    let (file, _) = buffer.share()?;
    hand_over(command, file)
}

/// A buffer with the content of the source.
fn loaded(
    args: &Load,
    source: &Source,
    len: u64,
    interrupt: &Interrupt,
) -> Result<(Buffer, Report), Failure> {
    let mut buffer = builder(args, len)?.create()?;
    let options = load::Options {
        in_flight: args
            .threads
            .map_or(load::Options::IN_FLIGHT, |threads| threads.get()),
        cancel: Some(interrupt.flag()),
        ..load::Options::default()
    };
    let mut bytes = buffer.as_mut_slice()?;
    let mut spans = [Span::new(&mut bytes)];
    let bar = Progress::new("reading", Some(len));
    let report = fill(source, &mut spans, &options, |p| bar.set(p.bytes))?;
    drop(bar);
    if args.verify {
        let bar = Progress::new("verify", Some(len));
        verify(source, &mut spans, &options, |p| bar.set(p.bytes))?;
    }
    drop(bytes);
    Ok((buffer, report))
}

fn builder(args: &Load, len: u64) -> Result<BufferBuilder, Failure> {
    let pools = Pools::builder().device(DeviceUse::Only).build()?;
    let mut builder = pools.buffer(len).shareable();
    builder = match args.page_size {
        PageChoice::Base => builder.base_pages(),
        PageChoice::Huge(size) => builder.page_size(size),
        PageChoice::Transparent => builder.transparent(),
        PageChoice::Automatic => builder.page_size(HugeSize::MIB2),
    };
    if let Some(bits) = args.dma_mask {
        builder = builder.dma_mask(bits);
    }
    if let Some(node) = args.node {
        builder = builder.nodes(NodePolicy::Bind(node.mask()));
    }
    if let Some(threads) = args.threads {
        builder = builder.threads(threads.get());
    }
    Ok(match args.strict {
        true => builder.strict(),
        false => builder,
    })
}

/// On standard error: what follows on standard output is the program's.
fn tell(
    args: &Load,
    name: &str,
    source: &Source,
    receipt: &Receipt,
    report: &Report,
) -> Result<(), Failure> {
    let len = report.bytes;
    match Format::of(args.json) {
        Format::Text => {
            let seconds = report.elapsed.as_secs_f64();
            let path = source.path().display();
            let mut text = format!("{name}: {} from {path} in {seconds:.3} s\n", human(len));
            for line in receipt.to_string().lines() {
                text.push_str(&format!("  {line}\n"));
            }
            output::notice(&text)
        }
        Format::Json => output::json_notice(json!({
            "name": name,
            "source": source.path().display().to_string(),
            "bytes": len,
            "parts": [{
                "path": null,
                "kind": "device",
                "page_bytes": receipt.shares.first().map(|share| share.size.bytes()),
                "offset": 0,
                "bytes": len,
            }],
            "receipt": receipt,
            "load": super::figures(report),
            "verified": args.verify,
        })),
    }
}

/// Runs the program in the place of this one, with the file as `HTLB_FD`.
fn hand_over(mut command: Command, file: OwnedFd) -> Result<(), Failure> {
    fcntl_setfd(&file, FdFlags::empty()).map_err(|error| {
        Failure::new(Code::Failed, format!("cannot pass the buffer on: {error}"))
    })?;
    command.env("HTLB_FD", file.as_raw_fd().to_string());
    Err(replace(command))
}
