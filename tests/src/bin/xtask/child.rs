// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Commands that write to a log, end in time, and never outlive an interrupted run.

use crate::evidence;
use rustix::process::{kill_process_group, Pid, Signal};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A step's log, and the commands whose output it takes.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    interrupted: Arc<AtomicBool>,
    /// What the commands that failed have said about it.
    evidence: Vec<String>,
}

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) verdict: Verdict,
    pub(crate) output: String,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Exited(ExitStatus),
    TimedOut(Duration),
}

impl Verdict {
    pub(crate) fn success(self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => status.fmt(f),
            Self::TimedOut(limit) => write!(f, "killed after {} s", limit.as_secs()),
        }
    }
}

impl Log {
    /// A new log; `interrupted` is what a signal sets.
    pub(crate) fn create(path: PathBuf, interrupted: Arc<AtomicBool>) -> io::Result<Self> {
        // Appending: what a command that was left behind still writes lands at the end, not over other lines.
        let file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)?;
        file.set_len(0)?;
        Ok(Self {
            path,
            file,
            interrupted,
            evidence: Vec::new(),
        })
    }

    /// A log of its own for a part of the step that runs beside others.
    pub(crate) fn beside(&self, part: &str) -> io::Result<Self> {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let path = self.path.with_file_name(format!("{stem}-{part}.log"));
        Self::create(path, Arc::clone(&self.interrupted))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line of our own.
    pub(crate) fn note(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.file, "# {line}")
    }

    /// What the commands that failed so far have said about it.
    pub(crate) fn evidence(&mut self) -> Vec<String> {
        std::mem::take(&mut self.evidence)
    }

    /// Takes over what another log has of it.
    pub(crate) fn add_evidence(&mut self, mut other: Self) {
        self.evidence.append(&mut other.evidence);
    }

    /// Runs a command to its end, for at most `limit`.
    pub(crate) fn run(&mut self, command: &mut Command, limit: Duration) -> io::Result<Ended> {
        let stdout = self.file.try_clone()?;
        self.run_to(stdout, command, limit)
    }

    fn run_to(
        &mut self,
        stdout: File,
        command: &mut Command,
        limit: Duration,
    ) -> io::Result<Ended> {
        self.note(&line_of(command))?;
        let start = self.file.seek(SeekFrom::End(0))?;
        let began = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(self.file.try_clone()?)
            .process_group(0)
            .spawn()
            .map_err(|error| {
                let program = command.get_program().to_string_lossy();
                io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
            })?;
        let verdict = self.wait(child, limit)?;
        let output = self.since(start)?;
        if !verdict.success() {
            self.evidence.extend(evidence::of(&output));
        }
        self.note(&format!(
            "{verdict}, {:.1} s",
            began.elapsed().as_secs_f64()
        ))?;
        Ok(Ended { verdict, output })
    }

    /// Runs a command that must succeed; its output.
    pub(crate) fn must(&mut self, command: &mut Command, limit: Duration) -> io::Result<String> {
        let ended = self.run(command, limit)?;
        if ended.verdict.success() {
            Ok(ended.output)
        } else {
            let line = line_of(command);
            Err(io::Error::other(format!("{line}: {}", ended.verdict)))
        }
    }

    /// Runs a command that must succeed and that writes for programs on its standard output; that output, which
    /// is kept beside the log, not in it.
    pub(crate) fn messages(
        &mut self,
        command: &mut Command,
        limit: Duration,
    ) -> io::Result<String> {
        let path = self.path.with_extension("json");
        let ended = self.run_to(File::create(&path)?, command, limit)?;
        if ended.verdict.success() {
            fs::read_to_string(path)
        } else {
            let line = line_of(command);
            Err(io::Error::other(format!("{line}: {}", ended.verdict)))
        }
    }

    fn wait(&self, mut child: Child, limit: Duration) -> io::Result<Verdict> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Verdict::Exited(status));
            }
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            if interrupted || Instant::now() >= deadline {
                // The child is not reaped yet, so the group still is the one it was started with.
                let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                child.wait()?;
                return if interrupted {
                    Err(io::ErrorKind::Interrupted.into())
                } else {
                    Ok(Verdict::TimedOut(limit))
                };
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn since(&mut self, start: u64) -> io::Result<String> {
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The command as a person would type it, near enough.
pub(crate) fn line_of(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn log(name: &str) -> Log {
        let path = std::env::temp_dir().join(format!("htlb-log-{name}-{}", std::process::id()));
        Log::create(path, Arc::default()).unwrap()
    }

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_of_both_streams_is_kept_in_order_and_returned() {
        let mut log = log("order");
        log.must(&mut sh("echo first"), LONG).unwrap();
        let ended = log
            .run(&mut sh("echo a; echo b >&2; exit 3"), LONG)
            .unwrap();
        assert_eq!(ended.output, "a\nb\n");
        assert!(!ended.verdict.success());
        assert!(log.since(0).unwrap().contains("first"));
        assert_eq!(log.evidence(), ["a", "b"]);
        assert!(log.evidence().is_empty());
        std::fs::remove_file(log.path()).unwrap();
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let mut log = log("hang");
        let limit = Duration::from_millis(200);
        let ended = log.run(&mut sh("sleep 60 & echo $!; wait"), limit).unwrap();
        assert_eq!(ended.verdict, Verdict::TimedOut(limit));
        let grandchild = ended.output.trim().to_owned();
        let gone = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            // A zombie that nobody reaps here is as dead as one that is gone.
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        });
        assert!(gone, "process {grandchild} is still there");
        std::fs::remove_file(log.path()).unwrap();
    }

    #[test]
    fn an_interrupt_ends_the_command() {
        let mut log = log("interrupt");
        log.interrupted.store(true, Ordering::Relaxed);
        let error = log.run(&mut sh("sleep 60"), LONG).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        std::fs::remove_file(log.path()).unwrap();
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let mut log = log("missing");
        let mut missing = Command::new("/no/such/program");
        let error = log.run(&mut missing, LONG).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
        std::fs::remove_file(log.path()).unwrap();
    }
}
