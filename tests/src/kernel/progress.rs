// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a person sees while a kernel is prepared: a line per stage that runs, with its last word, and the seconds
//! each stage took. Where nobody watches (a pipe), only the finished stages are printed.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The stages of one preparation.
#[derive(Debug)]
pub struct Progress {
    name: String,
    lines: MultiProgress,
    started: Instant,
    finished: Mutex<Vec<(String, Duration)>>,
    audience: Audience,
}

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    Someone,
    Nobody,
}

/// A stage that runs; ends when dropped.
pub struct Stage<'a> {
    progress: &'a Progress,
    name: String,
    line: ProgressBar,
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn new(name: String) -> Self {
        Self {
            name,
            lines: MultiProgress::new(),
            started: Instant::now(),
            finished: Mutex::default(),
            audience: Audience::Someone,
        }
    }

    /// Starts the clock, and shows nothing: for work that is part of something with a display of its own.
    pub fn unseen(name: String) -> Self {
        Self {
            lines: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            audience: Audience::Nobody,
            ..Self::new(name)
        }
    }

    /// Starts a stage.
    pub fn stage(&self, name: impl Into<String>) -> Stage<'_> {
        let name = name.into();
        let line = self.lines.add(ProgressBar::new_spinner());
        if let Ok(style) =
            ProgressStyle::with_template("{elapsed:>5} {spinner} {prefix}: {wide_msg:.dim}")
        {
            line.set_style(style);
        }
        line.set_prefix(name.clone());
        line.enable_steady_tick(Duration::from_millis(200));
        Stage {
            progress: self,
            name,
            line,
            started: Instant::now(),
        }
    }

    /// Prints the total time and how long it may take from nothing, unless everything was there already.
    pub fn finish(&self, budget: Duration) {
        let stages = self
            .finished
            .lock()
            .map(|stages| stages.len())
            .unwrap_or_default();
        if stages > 0 {
            self.print(&format!(
                "{:>7.1} s  {}, in all (budget {} s)",
                self.started.elapsed().as_secs_f64(),
                self.name,
                budget.as_secs()
            ));
        }
    }

    fn print(&self, text: &str) {
        if self.audience == Audience::Nobody {
            return;
        }
        if self.lines.is_hidden() || self.lines.println(text).is_err() {
            eprintln!("{text}");
        }
    }
}

impl Stage<'_> {
    /// Shows the stage's last word.
    pub fn say(&self, word: impl Into<String>) {
        self.line.set_message(word.into());
    }
}

impl fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.line.finish_and_clear();
        self.progress
            .print(&format!("{:>7.1} s  {}", took.as_secs_f64(), self.name));
        if let Ok(mut finished) = self.progress.finished.lock() {
            finished.push((self.name.clone(), took));
        }
    }
}
