// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb load`: the main job.

mod device;

use std::fmt::Write as _;
use std::path::Path;

use htlb_core::{AddressBits, ByteLen, HugeSize, NodePolicy, PageChoice, Request, RequestBuilder};
use htlb_user::load::{self, fill, fill_stream, verify, LoadError, Report, Source};
use htlb_user::named::{Draft, Growing, Machine, NamedError, Options, Published};
use htlb_user::store::{Record, Store};
use serde_json::json;

use crate::args::Load;
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupt;
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::size::human;

/// One load.
struct Job<'a> {
    args: &'a Load,
    name: &'a str,
    source: &'a Source,
    machine: &'a Machine,
    store: &'a Store,
    interrupt: &'a Interrupt,
}

pub(crate) fn run(args: &Load) -> Result<(), Failure> {
    let stdin = args.file == Path::new("-");
    let name = name(args)?;
    let source = if stdin {
        Source::stdin()
    } else {
        Source::open(&args.file)
    }?;
    if args.strict && args.page_size == PageChoice::Automatic {
        let what = "--strict needs --page-size: which size must it be?";
        return Err(Failure::new(Code::Usage, what));
    }
    if args.verify && source.len().is_none() {
        return Err(Failure::new(
            Code::Usage,
            format!(
                "--verify reads the source twice, and {} is a stream: load a file",
                source.path().display()
            ),
        ));
    }
    if args.device {
        return device::run(args, name, &source);
    }
    let machine = Machine::host();
    let store = machine.store()?;
    // Opening a named pipe may wait for long, and nothing is to be cleaned up before.
    let interrupt = Interrupt::install()?;
    let job = Job {
        args,
        name,
        source: &source,
        machine: &machine,
        store: &store,
        interrupt: &interrupt,
    };
    let done = match source.len() {
        Some(0) => Draft::publish_empty(&store, name, job.source_words())
            .map(|published| (published, Report::default()))
            .map_err(Failure::from),
        Some(len) => job.file(len),
        None => job.stream(),
    };
    let (published, report) = done.map_err(|failure| match failure.code() {
        Code::Interrupted => interrupt.failure().unwrap_or(failure),
        _ => failure,
    })?;
    match Format::of(args.json) {
        Format::Text => output::text(&words(args, &source, &published, &report)),
        Format::Json => output::json(json!({
            "name": published.record.name.as_str(),
            "source": source.path().display().to_string(),
            "bytes": published.record.len,
            "parts": parts(&published.record),
            "receipt": published.receipt,
            "load": figures(&report),
            "verified": args.verify,
        })),
    }
}

fn figures(report: &Report) -> serde_json::Value {
    json!({
        "seconds": report.elapsed.as_secs_f64(),
        "direct_bytes": report.direct_bytes,
        "buffered_bytes": report.buffered_bytes,
        "requests": report.requests,
        "in_flight_max": report.in_flight_max,
    })
}

fn name(args: &Load) -> Result<&str, Failure> {
    if let Some(name) = &args.name {
        return Ok(name);
    }
    let missing =
        |why: &str| Failure::new(Code::Usage, format!("{why}: choose a name with --name"));
    if args.file == Path::new("-") {
        return Err(missing("standard input has no name"));
    }
    let name = args
        .file
        .file_name()
        .ok_or_else(|| missing("that path has no file name"))?;
    name.to_str()
        .ok_or_else(|| missing("the file's name is not UTF-8"))
}

impl Job<'_> {
    fn file(&self, len: u64) -> Result<(Published, Report), Failure> {
        let request = self
            .request(ByteLen::new(len))
            .build()
            .map_err(NamedError::from)?;
        let mut draft = {
            let bar = Progress::new("pages", Some(len));
            let progress = |bytes| bar.add(bytes);
            let options = Options {
                progress: Some(&progress),
                ..self.options()
            };
            Draft::new(self.store, self.name, self.machine, &request, &options)?
        };
        let mut spans = draft.spans();
        let bar = Progress::new("reading", Some(len));
        let report = fill(self.source, &mut spans, &self.reading(), |p| {
            bar.set(p.bytes)
        })?;
        drop(bar);
        if self.args.verify {
            let bar = Progress::new("verify", Some(len));
            verify(self.source, &mut spans, &self.reading(), |p| {
                bar.set(p.bytes)
            })?;
        }
        drop(spans);
        Ok((draft.publish(report.bytes, self.source_words())?, report))
    }

    fn stream(&self) -> Result<(Published, Report), Failure> {
        let request = self.request(ByteLen::ZERO);
        let options = self.options();
        let mut growing = Growing::new(self.store, self.name, self.machine, request, &options)?;
        let bar = Progress::new("reading", None);
        let filled = fill_stream(self.source, &mut growing, &self.reading(), |p| {
            bar.set(p.bytes)
        });
        drop(bar);
        let report = match filled {
            Err(LoadError::Sink(error)) => {
                return Err(growing
                    .take_failure()
                    .map_or_else(|| LoadError::Sink(error).into(), Failure::from))
            }
            filled => filled?,
        };
        Ok((growing.publish(report.bytes, self.source_words())?, report))
    }

    fn request(&self, len: ByteLen) -> RequestBuilder {
        let args = self.args;
        let request = Request::builder(len)
            .page(args.page_size)
            .dma_mask(args.dma_mask.unwrap_or(AddressBits::ALL))
            .nodes(
                args.node
                    .map_or(NodePolicy::Default, |node| NodePolicy::Bind(node.mask())),
            );
        if args.strict {
            request.strict()
        } else {
            request
        }
    }

    fn options(&self) -> Options<'_> {
        Options {
            threads: self.args.threads,
            cancel: Some(self.interrupt.flag()),
            progress: None,
        }
    }

    fn reading(&self) -> load::Options<'_> {
        load::Options {
            in_flight: self
                .args
                .threads
                .map_or(load::Options::IN_FLIGHT, |threads| threads.get()),
            cancel: Some(self.interrupt.flag()),
            ..load::Options::default()
        }
    }

    /// Where the bytes came from, for `htlb ls`. A path that is too long for a record is left out.
    fn source_words(&self) -> Option<String> {
        let path = self.source.path();
        let full = std::path::absolute(path)
            .ok()
            .filter(|_| self.args.file != Path::new("-"));
        let words = full.as_deref().unwrap_or(path).display().to_string();
        (words.len() <= 4096).then_some(words)
    }
}

/// The files, for scripts.
pub(crate) fn parts(record: &Record) -> serde_json::Value {
    let parts = record.parts.iter().zip(record.paths());
    parts
        .map(|(part, path)| {
            json!({
                "path": path.display().to_string(),
                "kind": part.kind,
                "page_bytes": part.page_size.bytes(),
                "offset": part.offset,
                "bytes": part.len,
            })
        })
        .collect()
}

fn words(args: &Load, source: &Source, published: &Published, report: &Report) -> String {
    let Published {
        record, receipt, ..
    } = published;
    let name = record.name.as_str();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{}: {} from {}",
        name,
        human(record.len),
        source.path().display()
    );
    let seconds = report.elapsed.as_secs_f64();
    if record.len > 0 && seconds > 0.0 {
        let speed = human((record.len as f64 / seconds) as u64);
        let how = match (report.direct_bytes, report.buffered_bytes) {
            (_, 0) => "by the device itself",
            (0, _) => "through the page cache",
            _ => "partly by the device itself",
        };
        let pages = receipt.took.as_secs_f64();
        let _ = write!(
            text,
            ": pages {pages:.3} s, read {seconds:.3} s ({speed}/s, {how})"
        );
        if args.verify {
            text.push_str("; read again, and the same");
        }
    }
    text.push('\n');
    for line in receipt.to_string().lines() {
        let _ = writeln!(text, "  {line}");
    }
    if let Some(cost) = cost(published) {
        let _ = writeln!(text, "  {cost}");
    }
    if let Some(advice) = &receipt.advice {
        let _ = writeln!(text, "  for huge pages next time: {advice}");
    }
    if record.len > 0 {
        for path in record.paths() {
            let _ = writeln!(text, "  in {}", path.display());
        }
    }
    let quoted = quoted(name);
    let _ = writeln!(text, "Use it, until `htlb rm {quoted}` or a reboot:");
    let uses = [
        (format!("htlb cat {quoted}"), "the exact bytes"),
        (
            format!("htlb run {quoted} -- PROGRAM"),
            "its file as $HTLB_PATH and $HTLB_FD, its length as $HTLB_LEN",
        ),
        (
            format!("Named::attach(&store, {name:?})"),
            "a slice, in Rust (htlb_user::Named)",
        ),
    ];
    let width = uses.iter().map(|(how, _)| how.chars().count()).max();
    for (how, what) in &uses {
        let _ = writeln!(text, "  {how:<width$}  {what}", width = width.unwrap_or(0));
    }
    text
}

/// What base pages cost, where huge ones would have done.
fn cost(published: &Published) -> Option<String> {
    let receipt = &published.receipt;
    let wanted = receipt.refusals.first()?.size;
    let entries: u64 = receipt.shares.iter().map(|share| share.pages.raw()).sum();
    let better = wanted.pages_for(ByteLen::new(published.record.len)).raw();
    (wanted != HugeSize::BASE && entries > better)
        .then(|| format!("what that costs: {entries} page-table entries where {better} would do"))
}

/// For a shell.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+,:@%".contains(c);
    if !name.starts_with('-') && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', "'\\''"))
    }
}
