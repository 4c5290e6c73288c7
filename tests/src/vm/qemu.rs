// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The machine: QEMU without hardware virtualisation, from the toolchain, so that it is the same everywhere.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::kernel::toolchain::Bind;
use crate::kernel::Prepared;

/// Where the guest's two serial ports lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// The kernel's log and the results, each to a file.
    Logs,
    /// The first to the caller's terminal; there is no second.
    Terminal,
}

/// The kernel's log.
pub const CONSOLE: &str = "console.log";
/// What the test printed.
pub const RESULTS: &str = "results.log";
/// What QEMU itself said.
const OWN_LOG: &str = "qemu.log";

/// Memory of the two nodes, in MiB: unequal, so that a mistaken node shows.
const NODE_MIB: [u32; 2] = [3072, 1024];

/// One machine, ready to be switched on; its initramfs is `initrd` in `folder`.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// What it boots.
    pub kernel: &'a Prepared,
    /// Where its files are.
    pub folder: &'a Path,
    /// Words after the standard ones.
    pub command_line: &'a [String],
    /// The serial ports.
    pub serial: Serial,
}

/// How the machine went off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOff {
    /// By itself, with this exit status of QEMU.
    Exit(Option<i32>),
    /// It was killed after this time.
    Killed(Duration),
}

/// A run that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How it ended.
    pub power_off: PowerOff,
    /// How long it took.
    pub took: Duration,
}

impl Machine<'_> {
    fn command(&self) -> Command {
        let image = self.kernel.image.parent().unwrap_or(Path::new("/"));
        let binds = [Bind::same(image), Bind::same(self.folder)];
        let [first, second] = NODE_MIB;
        let words = |words: &str| {
            words
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        // One socket per processor: a node boundary inside a socket makes the kernel warn.
        let mut arguments = words(
            "qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2,sockets=2 -nodefaults -no-reboot -display none \
             -device edu -device isa-debug-exit,iobase=0xf4,iosize=0x04 \
             -numa node,nodeid=0,cpus=0,memdev=m0 -numa node,nodeid=1,cpus=1,memdev=m1",
        );
        arguments.extend(words(&format!(
            "-m {}M -object memory-backend-ram,id=m0,size={first}M -object memory-backend-ram,id=m1,size={second}M",
            first.saturating_add(second)
        )));
        arguments.extend(match self.serial {
            Serial::Logs => words(&format!("-serial file:{CONSOLE} -serial file:{RESULTS}")),
            Serial::Terminal => words("-serial mon:stdio"),
        });
        arguments.extend([
            "-kernel".to_owned(),
            self.kernel.image.display().to_string(),
        ]);
        arguments.extend(["-initrd".to_owned(), "initrd".to_owned()]);
        // A fault in the kernel ends the machine at once: what follows it proves nothing. And a host that is busy
        // with other things must not look like a broken timer or a stuck processor.
        let level = if self.serial == Serial::Logs { 7 } else { 4 };
        let mut line = format!(
            "console=ttyS0 loglevel={level} panic=-1 oops=panic page_owner=off \
             no_timer_check watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120"
        );
        for words in self.command_line {
            line.push(' ');
            line.push_str(words);
        }
        arguments.extend(["-append".to_owned(), line]);
        self.kernel.toolchain.enter(&binds, arguments)
    }
}

/// Runs the machine until it goes off or `timeout` has passed.
///
/// # Errors
///
/// QEMU could not be started.
pub fn run(machine: &Machine<'_>, timeout: Duration) -> Result<Run> {
    for name in [CONSOLE, RESULTS] {
        fs::write(machine.folder.join(name), "")?;
    }
    let log = fs::File::create(machine.folder.join(OWN_LOG))?;
    let started = Instant::now();
    let mut command = machine.command();
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn();
    let mut child = PoweredOn(child.context("starting QEMU")?);
    let power_off = loop {
        if let Some(status) = child.0.try_wait()? {
            break PowerOff::Exit(status.code());
        }
        if started.elapsed() >= timeout {
            child.0.kill()?;
            child.0.wait()?;
            break PowerOff::Killed(timeout);
        }
        thread::sleep(Duration::from_millis(50));
    };
    Ok(Run {
        power_off,
        took: started.elapsed(),
    })
}

/// Runs the machine on the caller's terminal.
///
/// # Errors
///
/// QEMU could not be started, or failed.
pub fn interact(machine: &Machine<'_>) -> Result<()> {
    let status: ExitStatus = machine.command().status().context("starting QEMU")?;
    anyhow::ensure!(status.success(), "QEMU: {status}");
    Ok(())
}

/// What QEMU itself had to say.
pub fn own_log(folder: &Path) -> String {
    fs::read_to_string(folder.join(OWN_LOG)).unwrap_or_default()
}

/// A running QEMU, that does not outlive an error on this side.
struct PoweredOn(Child);

impl Drop for PoweredOn {
    fn drop(&mut self) {
        // It has ended already in every ordinary case, and then these two do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
