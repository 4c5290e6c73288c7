// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What can be said on the command line.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use htlb_core::{AddressBits, HugeSize, NodeId, PageChoice};

use super::{size, words};

/// Files in huge pages, by name
///
/// `htlb load` puts a file into memory of huge pages and gives it a name. The disk writes the pages by direct I/O; they stay until
/// `htlb rm` or a reboot, and any program of this user can map them.
#[derive(Debug, Parser)]
#[command(name = "htlb", version, arg_required_else_help = true, after_help = words::EXAMPLES, after_long_help = words::AFTER_LONG_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Load(Load),
    Cat(Cat),
    Ls(Ls),
    Rm(Rm),
    Info(Info),
    Pool(Pool),
    Run(Run),
    Bench(Bench),
    Completions(Completions),
    Man(Man),
    /// What --json prints
    #[command(long_about = words::JSON)]
    Json,
}

impl Command {
    /// Whether one JSON object is to be printed.
    #[must_use]
    pub const fn wants_json(&self) -> bool {
        match self {
            Self::Load(Load { json, .. })
            | Self::Ls(Ls { json })
            | Self::Rm(Rm { json, .. })
            | Self::Info(Info { json })
            | Self::Bench(Bench { json, .. })
            | Self::Pool(Pool { json, .. }) => *json,
            _ => false,
        }
    }
}

/// Put a file into huge pages
///
/// The largest pages that fit are tried first, then smaller ones, then base pages; the receipt says what was got, and which command
/// would get better pages. Nobody sees the buffer before it is complete. A buffer that had the name is replaced in one step, and
/// whoever has the old one open keeps it.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  htlb load model.gguf                        as `model.gguf`
  htlb load model.gguf --page-size 2M --strict   2 MiB pages, or exit code 4
  zstd -dc dump.zst | htlb load - --name dump    from a pipe
  htlb load frames.raw --node 1 --dma-mask 32    for a device on node 1 that drives 32 address bits
  htlb load frames.raw --device -- PROGRAM   into a buffer of the kernel module")]
pub struct Load {
    /// The file, a block device, or `-` for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// What to call it [default: the name of the file]
    #[arg(long)]
    pub name: Option<String>,
    /// 1G, 2M, another size of this machine, `thp`, `base` or `auto`
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = size::page_choice)]
    pub page_size: PageChoice,
    /// That page size or none: exit code 4 if there are too few. Needs --page-size
    #[arg(long)]
    pub strict: bool,
    /// Only pages on this NUMA node; verified
    #[arg(long, value_name = "N", value_parser = size::node)]
    pub node: Option<NodeId>,
    /// Only pages below this many address bits (24 to 64); verified, which takes root
    #[arg(long, value_name = "BITS", value_parser = size::address_bits)]
    pub dma_mask: Option<AddressBits>,
    /// Threads that clear pages, and reads in flight [default: a thread for each allowed CPU, 4 reads]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Read the file again and compare before anybody sees the buffer: exit code 6 if they differ
    #[arg(long)]
    pub verify: bool,
    /// Into a buffer of the kernel module (/dev/htlb), for the program after `--`: such a buffer has no name, and ends with the last
    /// process that has it open
    #[arg(long, requires = "program")]
    pub device: bool,
    /// With --device, the program that takes the place of htlb, and its arguments. It finds the buffer as $HTLB_FD, to be mapped, and
    /// the length of the content as $HTLB_LEN; what htlb has to say goes to standard error
    #[arg(last = true, requires = "device", value_hint = ValueHint::CommandWithArguments)]
    pub program: Vec<OsString>,
    /// Print one JSON object; see `htlb help json`
    #[arg(long)]
    pub json: bool,
}

/// Write the exact bytes of a buffer to standard output
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  htlb cat model.gguf | sha256sum")]
pub struct Cat {
    /// The buffer
    pub name: String,
}

/// List the buffers of this user
///
/// Also removes what loads that were killed have left.
#[derive(Debug, Parser)]
pub struct Ls {
    /// Print one JSON object; see `htlb help json`
    #[arg(long)]
    pub json: bool,
}

/// Remove buffers
///
/// The memory is free once no process has it open or mapped.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  htlb rm model.gguf dump")]
pub struct Rm {
    /// The buffers
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Print one JSON object; see `htlb help json`
    #[arg(long)]
    pub json: bool,
}

/// Show the pools, those of the kernel module, transparent huge pages, and the limits that apply here
///
/// A page is available if it is free and not reserved, or if the pool may still grow by it (overcommit).
#[derive(Debug, Parser)]
pub struct Info {
    /// Print one JSON object; see `htlb help json`
    #[arg(long)]
    pub json: bool,
}

/// Resize the pool of one page size, the system's or the kernel module's (root)
///
/// The kernel does what it can and always reports success; here the pool is read back. If it fell short: by how much, where, the
/// likely cause, and exit code 4.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  sudo htlb pool 2M 512            512 pages of 2 MiB, over all nodes
  sudo htlb pool 1G 4 --node 1     4 pages of 1 GiB on node 1
  sudo htlb pool 2M 0              give the pages back
  sudo htlb pool 2M 64 --device    64 pages of 2 MiB in the kernel module's pool")]
pub struct Pool {
    /// The page size: 2M, 1G
    #[arg(value_name = "SIZE", value_parser = size::huge_size)]
    pub size: HugeSize,
    /// How many pages the pool shall have
    #[arg(value_name = "COUNT")]
    pub count: u64,
    /// On this NUMA node only
    #[arg(long, value_name = "N", value_parser = size::node)]
    pub node: Option<NodeId>,
    /// The pool of the kernel module (/dev/htlb), not the system's
    #[arg(long)]
    pub device: bool,
    /// Print one JSON object; see `htlb help json`
    #[arg(long)]
    pub json: bool,
}

/// Run a program with a buffer
///
/// The program takes the place of htlb, and finds the buffer in its environment:
///
///   HTLB_PATH   the file, to be opened and mapped
///   HTLB_FD     a descriptor of the same file, open for reading: it works even if the name is removed meanwhile
///   HTLB_LEN    the length of the content in bytes; the file is longer, up to the end of its last page, with zeros
///   HTLB_NAME   the name
///   HTLB_PARTS  how many files there are: 1, unless huge pages ran short. Of several, the others are HTLB_PATH_1,
///               HTLB_FD_1, HTLB_OFFSET_1 and so on, each beginning at its offset in the buffer
///
/// On a file of huge pages mmap(2) with MAP_SHARED works as on any other, if the length is a multiple of the page size; read(2)
/// works too. An empty buffer is /dev/null.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  htlb run model.gguf -- sh -c 'head -c 16 /proc/self/fd/$HTLB_FD | xxd'
  htlb run model.gguf -- sh -c 'llama-cli --model \"$HTLB_PATH\"'

Exit code: the program's own; 126 if it cannot be started, 127 if there is none.")]
pub struct Run {
    /// The buffer
    pub name: String,
    /// The program and its arguments
    #[arg(required = true, last = true, value_hint = ValueHint::CommandWithArguments)]
    pub program: Vec<OsString>,
}

/// Print a completion script for a shell
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  htlb completions bash > ~/.local/share/bash-completion/completions/htlb"
)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Print the manual page, or write one per subcommand into a directory
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  htlb man | man -l -\n  htlb man --dir /usr/local/share/man/man1"
)]
pub struct Man {
    /// Where to write htlb.1, htlb-load.1 and so on
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// Measure this machine, ours beside what a program does by hand
///
/// Every figure is measured warm, in turns with its peer in this one run, and is a median. Root's run lends itself 2 MiB pages for as
/// long as it takes and gives them back; anybody else's uses those that are free. About three minutes on an idle machine; a
/// busy one gives worse figures for both sides.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  sudo htlb bench                        every figure, with its target
  htlb bench --only page_at_ns           one of them
  sudo htlb bench --json > bench.json    one object")]
pub struct Bench {
    /// Only these figures; may be given several times
    #[arg(long, value_name = "KEY")]
    pub only: Vec<String>,
    /// Where the sample file of 1 GiB goes; its file system is what loads are measured on [default: the folder for temporary files]
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub folder: Option<PathBuf>,
    /// Use the huge pages that are free, and do not lend more
    #[arg(long)]
    pub keep_pool: bool,
    /// Print one JSON object; see `htlb help json`
    #[arg(long)]
    pub json: bool,
}
