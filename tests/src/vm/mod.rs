// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Virtual machines that boot a prepared kernel, run a script, and report.
//!
//! ```text
//! Guest (files, modules, script) ─► initramfs ─► qemu ─┬─► console.log: the kernel's log ─► findings ─┐
//!                                                      └─► results.log: the script's KTAP ─► totals ──┴─► Outcome
//! ```
//!
//! The kernel's log and the script's output leave the guest by two serial ports, so that neither breaks the other's
//! lines. A guest that hangs is killed; one that panics ends by itself. An [`Outcome`] is a success only if the
//! guest reached its end, no test failed, and the kernel had nothing to complain about.

pub mod bench;
pub mod findings;
pub mod init;
pub mod initramfs;
pub mod ktap;
pub mod outcome;
pub mod program;
pub mod qemu;
pub mod selftest;
pub mod summary;
pub mod test;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use clap::{Args, Subcommand, ValueEnum};

use crate::kernel::command::answer;
use crate::kernel::{self, workspace, Prepared, Route};
use init::Module;
use initramfs::Initramfs;
pub use outcome::{Ended, Outcome};

/// How often a guest is booted whose kernel complains before any module is loaded.
const BOOTS: u32 = 3;

/// A machine to be: two NUMA nodes with a processor each, QEMU's `edu` device, and what is put into it.
#[derive(Clone, Debug)]
pub struct Guest {
    kernel: Prepared,
    name: String,
    files: Initramfs,
    modules: Vec<Module>,
    script: String,
    timeout: Duration,
    command_line: Vec<String>,
    expected: Vec<String>,
}

impl Guest {
    /// A machine with busybox and nothing else. Its logs go to `target/vm/<route>/<name>/`.
    ///
    /// # Errors
    ///
    /// The toolchain lacks busybox.
    pub fn new(kernel: &Prepared, name: &str) -> Result<Self> {
        let mut files = Initramfs::default();
        files.device("/dev/console", 5, 1).copy(
            "/bin/busybox",
            &kernel.toolchain.inside(Path::new("/usr/bin/busybox")),
        )?;
        files.symlink("/bin/sh", "busybox");
        for folder in [
            "/proc",
            "/sys",
            "/dev",
            "/tmp",
            "/root",
            "/run",
            "/etc",
            "/lib/modules",
        ] {
            files.folder(folder);
        }
        files.file(
            "/etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
            0o644,
        );
        files.file("/etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644);
        let timeout = match kernel.route {
            Route::Stock => Duration::from_secs(180),
            Route::Debug => Duration::from_secs(600),
        };
        Ok(Self {
            kernel: kernel.clone(),
            name: name.to_owned(),
            files,
            modules: Vec::new(),
            script: "true\n".to_owned(),
            timeout,
            command_line: Vec::new(),
            expected: Vec::new(),
        })
    }

    /// Puts a file of this machine into the guest; it may be executed if it may be here.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn copy(mut self, inside: &str, file: &Path) -> Result<Self> {
        self.files.copy(inside, file)?;
        Ok(self)
    }

    /// Loads a module before the script runs, after those named before, and unloads it after the script.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn module(mut self, object: &Path, parameters: &str) -> Result<Self> {
        let module = Module::new(object, parameters)?;
        self.files.copy(&module.place(), object)?;
        self.modules.push(module);
        Ok(self)
    }

    /// Loads a module of the kernel's own, with what it depends on. Nothing to do where it is built in.
    ///
    /// # Errors
    ///
    /// The kernel has no such module.
    pub fn kernel_module(mut self, name: &str, parameters: &str) -> Result<Self> {
        let Some(object) = self.unpacked(name)? else {
            return Ok(self);
        };
        for needed in init::dependencies(&fs::read(&object)?) {
            if !self.modules.iter().any(|module| module.is_named(&needed)) {
                self = self.kernel_module(&needed, "")?;
            }
        }
        self.module(&object, parameters)
    }

    /// The file of one of the kernel's own modules; `None` where all is built in.
    fn unpacked(&self, name: &str) -> Result<Option<PathBuf>> {
        let Some(folder) = &self.kernel.modules else {
            return Ok(None);
        };
        let packed = find_module(folder, name)?
            .with_context(|| format!("Debian's kernel has no module {name}"))?;
        let object = workspace()
            .join("target/vm/modules")
            .join(&self.kernel.release)
            .join(format!("{name}.ko"));
        if !object.exists() {
            unpack_module(&packed, &object)?;
        }
        Ok(Some(object))
    }

    /// The shell script that is the test; it prints KTAP, and its exit status counts.
    pub fn script(mut self, text: &str) -> Self {
        self.script = text.to_owned();
        self
    }

    /// How long the guest may take from power-on to its end.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Adds words to the kernel's command line.
    pub fn command_line(mut self, words: &str) -> Self {
        self.command_line.push(words.to_owned());
        self
    }

    /// Does not count as findings the lines of the kernel's log that contain `text`: a test provokes them.
    pub fn expect(mut self, text: &str) -> Self {
        self.expected.push(text.to_owned());
        self
    }

    /// Boots, runs the script, unloads the modules, looks for leaks, and reports.
    ///
    /// Where the kernel complains before any module is loaded, it is booted once more, three times at most: its address
    /// sanitizer tells of one mistake only, so that nothing later would be found, and now and then it
    /// takes the interruption of an early function for one.
    ///
    /// # Errors
    ///
    /// QEMU could not be run. What goes wrong in the guest is part of the outcome.
    pub fn run(&self) -> Result<Outcome> {
        let folder = self.folder()?;
        let image = self.initramfs(&init::test(&self.modules))?;
        let machine = self.machine(&folder, &image, qemu::Serial::Logs)?;
        let mut boots: u32 = 1;
        loop {
            let run = qemu::run(&machine, self.timeout)?;
            let outcome = Outcome::new(run, &folder, &self.expected)?;
            if outcome.ended != Ended::Status(init::TAINTED_AT_BOOT) || boots == BOOTS {
                return Ok(outcome);
            }
            boots = boots.saturating_add(1);
            eprint!("booting once more:\n{outcome}");
        }
    }

    /// Boots, loads the modules, and gives the caller's terminal a prompt.
    ///
    /// # Errors
    ///
    /// QEMU could not be run.
    pub fn shell(&self) -> Result<()> {
        let folder = self.folder()?;
        let image = self.initramfs(&init::shell(&self.modules))?;
        qemu::interact(&self.machine(&folder, &image, qemu::Serial::Terminal)?)
    }

    fn machine<'a>(
        &'a self,
        folder: &'a Path,
        image: &[u8],
        serial: qemu::Serial,
    ) -> Result<qemu::Machine<'a>> {
        let initrd = folder.join("initrd");
        fs::write(&initrd, image).with_context(|| format!("writing {}", initrd.display()))?;
        Ok(qemu::Machine {
            kernel: &self.kernel,
            folder,
            command_line: &self.command_line,
            serial,
        })
    }

    fn initramfs(&self, init: &str) -> Result<Vec<u8>> {
        let mut files = self.files.clone();
        files.file("/init", init.as_bytes(), 0o755);
        files.file(init::SCRIPT, self.script.as_bytes(), 0o755);
        files.to_cpio()
    }

    fn folder(&self) -> Result<PathBuf> {
        let folder = workspace()
            .join("target/vm")
            .join(self.kernel.route.to_string())
            .join(&self.name);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(folder)
    }
}

/// A module's file below `folder`, by the name that the kernel knows it by.
fn find_module(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for found in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let found = found?;
        let path = found.path();
        if found.file_type()?.is_dir() {
            if let Some(module) = find_module(&path, name)? {
                return Ok(Some(module));
            }
        } else if init::module_name(&path) == Some(name.replace('-', "_")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn unpack_module(packed: &Path, object: &Path) -> Result<()> {
    let parent = object.parent().context("a module lies in a folder")?;
    fs::create_dir_all(parent)?;
    let partial = object.with_extension("partial");
    match packed.extension().and_then(|suffix| suffix.to_str()) {
        Some("xz") => {
            let script = r#"xz --decompress --stdout "$1" > "$2""#;
            answer(
                Command::new("sh")
                    .args(["-c", script, "sh"])
                    .arg(packed)
                    .arg(&partial),
            )?;
        }
        Some("ko") => drop(fs::copy(packed, &partial)?),
        _ => bail!("{} is packed in a way unknown here", packed.display()),
    }
    fs::rename(&partial, object).with_context(|| format!("renaming {}", partial.display()))
}

/// `cargo xtask vm`
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Boot a kernel, load modules, run a script, report.
    Run {
        #[command(flatten)]
        machine: MachineArguments,
        /// Commands for the guest's shell.
        #[arg(long, default_value = "true")]
        script: String,
        /// Text of complaints in the kernel's log that the script provokes; they are no findings.
        #[arg(long = "expect", value_name = "TEXT")]
        expected: Vec<String>,
        /// Seconds until a hanging guest is killed.
        #[arg(long)]
        timeout: Option<u64>,
    },
    /// Build the modules, boot, and run the tests of `htlb-guest`; the last line is `N passed, M failed`.
    Test {
        /// On which kernel.
        #[arg(default_value = "both")]
        kernels: Kernels,
        #[command(flatten)]
        selection: test::Selection,
    },
    /// Build the modules, boot, load them, and get a prompt, with `htlb` installed.
    Shell {
        /// Which kernel.
        #[arg(default_value = "stock")]
        route: Route,
        /// Words for the kernel's command line.
        #[arg(long, value_name = "WORDS")]
        append: Option<String>,
    },
    /// Measure htlb beside the kernel's own exporters of dma-bufs, in a guest.
    Bench(bench::Arguments),
    /// Boot good guests and bad ones, and see that they are told apart; the last line is `N passed, M failed`.
    Selftest,
}

/// One kernel, or each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kernels {
    Stock,
    Debug,
    Both,
}

impl Kernels {
    const fn routes(self) -> &'static [Route] {
        match self {
            Self::Stock => &[Route::Stock],
            Self::Debug => &[Route::Debug],
            Self::Both => &[Route::Stock, Route::Debug],
        }
    }
}

#[derive(Args, Debug)]
struct MachineArguments {
    /// Which kernel.
    route: Route,
    /// Module objects to load, in this order; parameters follow the file's name after a space.
    #[arg(long = "module", value_name = "KO [PARAMETERS]")]
    modules: Vec<String>,
    /// The kernel's own modules to load.
    #[arg(long = "kernel-module", value_name = "NAME")]
    kernel_modules: Vec<String>,
    /// Programs to put into the guest's /bin.
    #[arg(long = "program", value_name = "FILE")]
    programs: Vec<PathBuf>,
    /// Words for the kernel's command line.
    #[arg(long, value_name = "WORDS")]
    append: Option<String>,
}

impl MachineArguments {
    fn guest(&self, name: &str) -> Result<Guest> {
        let mut guest = Guest::new(&kernel::prepare(self.route)?, name)?;
        for module in &self.kernel_modules {
            guest = guest.kernel_module(module, "")?;
        }
        for module in &self.modules {
            let (object, parameters) = module.split_once(' ').unwrap_or((module, ""));
            guest = guest.module(Path::new(object), parameters)?;
        }
        for program in &self.programs {
            let name = program
                .file_name()
                .with_context(|| format!("{} has no name", program.display()))?;
            guest = guest.copy(&format!("/bin/{}", name.to_string_lossy()), program)?;
        }
        Ok(self
            .append
            .iter()
            .fold(guest, |guest, words| guest.command_line(words)))
    }
}

/// Runs `cargo xtask vm`.
///
/// # Errors
///
/// The guest could not be booted, or its outcome is no success.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.action {
        Action::Run {
            machine,
            script,
            expected,
            timeout,
        } => {
            let mut guest = machine.guest("run")?.script(&script);
            if let Some(seconds) = timeout {
                guest = guest.timeout(Duration::from_secs(seconds));
            }
            for text in &expected {
                guest = guest.expect(text);
            }
            let outcome = guest.run()?;
            print!("{outcome}");
            if !outcome.is_success() {
                bail!("the guest's run is no success");
            }
            Ok(())
        }
        Action::Test { kernels, selection } => test::run(kernels.routes(), &selection),
        Action::Shell { route, append } => {
            let kernel = kernel::prepare(route)?;
            let mut guest = test::programs(Guest::new(&kernel, "shell")?)?;
            for object in test::modules(&kernel)? {
                guest = guest.module(&object, "")?;
            }
            append
                .iter()
                .fold(guest, |guest, words| guest.command_line(words))
                .shell()
        }
        Action::Bench(arguments) => bench::run(&arguments),
        Action::Selftest => selftest::run(),
    }
}
