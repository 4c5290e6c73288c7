// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Running the tools that do the work: quiet ones whose output is an answer, and long ones whose output is a log.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::progress::Stage;

/// Runs `command` and returns what it printed.
///
/// # Errors
///
/// It could not be started, or failed: with what it said.
pub fn answer(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {line}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{line}: {}\n{}", output.status, last_lines(&said, 15));
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{line} printed something that is not text"))
}

/// Runs `command` with its output appended to `log`, and shows the log's last line while it runs.
///
/// # Errors
///
/// It could not be started, or failed: with the end of the log.
pub fn logged(command: &mut Command, log: &Path, stage: &Stage<'_>) -> Result<()> {
    let line = describe(command);
    let file = OpenOptions::new().create(true).append(true).open(log);
    let file = file.with_context(|| format!("opening {}", log.display()))?;
    let start = file.metadata()?.len();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("starting {line}"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Some(last) = tail(log, start)
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
        {
            stage.say(last.trim());
        }
        thread::sleep(Duration::from_millis(200));
    };
    if !status.success() {
        bail!(
            "{line}: {status}\n{}\nThe whole log is {}",
            last_lines(&tail(log, start), 30),
            log.display()
        );
    }
    Ok(())
}

/// The program and what it was asked for: of a long command line, the end.
fn describe(command: &Command) -> String {
    const SHOWN: usize = 6;
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    let start = words.len().saturating_sub(SHOWN);
    let omitted = if start > 0 { " …" } else { "" };
    let program = command.get_program().to_string_lossy();
    words[start..]
        .iter()
        .fold(format!("{program}{omitted}"), |line, word| {
            format!("{line} {word}")
        })
}

/// The last lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The last few kilobytes of a file, but nothing before `start`.
fn tail(path: &Path, start: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(8192))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// Writes `text` so that a reader sees the old file or the new one.
///
/// # Errors
///
/// The folder cannot be written.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, text).with_context(|| format!("writing {}", next.display()))?;
    fs::rename(&next, path).with_context(|| format!("renaming {}", next.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::progress::Progress;

    #[test]
    fn a_failure_is_reported_with_the_end_of_its_own_output() {
        let log = std::env::temp_dir().join(format!("htlb-command-{}", std::process::id()));
        let progress = Progress::new("test".to_owned());
        let stage = progress.stage("test");
        logged(Command::new("sh").args(["-c", "echo first"]), &log, &stage).expect("echo works");
        let error = logged(
            Command::new("sh").args(["-c", "echo second >&2; exit 3"]),
            &log,
            &stage,
        )
        .expect_err("exit 3")
        .to_string();
        assert!(
            error.contains("second") && !error.contains("first\n"),
            "{error}"
        );
        let whole = fs::read_to_string(&log).expect("the log is there");
        assert_eq!(whole, "first\nsecond\n");
        fs::remove_file(&log).expect("cleaning up");
    }

    #[test]
    fn answers_are_text_and_failures_say_why() {
        assert_eq!(
            answer(Command::new("echo").arg("x")).expect("echo works"),
            "x\n"
        );
        let error = answer(Command::new("sh").args(["-c", "echo why >&2; false"]))
            .expect_err("false")
            .to_string();
        assert!(error.contains("why"));
        assert!(answer(&mut Command::new("/nonexistent")).is_err());
    }
}
