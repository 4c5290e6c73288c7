// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! KTAP, the format in which kernel tests report (`Documentation/dev-tools/ktap.rst`).
//!
//! Only leaves count: a line that sums up a nested block adds nothing, unless it fails where no leaf did. What was
//! planned and never reported is a failure.

/// Counts of tests, and the names of those that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, were planned and did not report, or bailed out.
    pub failed: u64,
    /// Tests that did not apply.
    pub skipped: u64,
    /// The failures, with the names of the tests they are nested in.
    pub failures: Vec<String>,
    /// What did not apply, named as the failures are, and why.
    pub skips: Vec<(String, String)>,
}

/// A run of tests at one indentation.
#[derive(Debug)]
struct Block {
    indent: usize,
    planned: Option<u64>,
    reported: u64,
    failed_before: u64,
    failures_before: usize,
    skips_before: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict<'a> {
    Passed,
    Failed,
    /// With the reason.
    Skipped(&'a str),
}

impl Totals {
    /// Reads a log; what is not KTAP in it is passed over.
    pub fn parse(log: &str) -> Self {
        let mut totals = Self::default();
        let mut blocks: Vec<Block> = Vec::new();
        for line in log.lines() {
            let line = without_timestamp(line.trim_end());
            let text = line.trim_start_matches(' ');
            let indent = line.len() - text.len();
            if text.starts_with("KTAP version ") || text.starts_with("TAP version ") {
                totals.leave(&mut blocks, indent);
                // A second version line at the same depth begins another report.
                if blocks.last().is_some_and(|block| block.indent == indent) {
                    totals.close(&mut blocks);
                }
                totals.open(&mut blocks, indent);
            } else if let Some(planned) = plan(text) {
                // In TAP 14 and in kselftest's output, a nested block may begin with its plan.
                if blocks.last().is_none_or(|block| block.indent < indent) {
                    totals.open(&mut blocks, indent);
                }
                if let Some(block) = blocks.last_mut() {
                    block.planned = Some(planned);
                }
            } else if let Some((verdict, name)) = result(text) {
                if blocks.is_empty() {
                    continue;
                }
                totals.report(&mut blocks, indent, verdict, name);
            } else if let (Some(reason), false) =
                (text.strip_prefix("Bail out!"), blocks.is_empty())
            {
                totals.fail(format!("bailed out: {}", reason.trim()));
            }
        }
        while !blocks.is_empty() {
            totals.close(&mut blocks);
        }
        totals
    }

    /// How many tests reported.
    pub const fn reported(&self) -> u64 {
        self.passed
            .saturating_add(self.failed)
            .saturating_add(self.skipped)
    }

    /// Counts one failure.
    pub fn fail(&mut self, name: String) {
        self.failed = self.failed.saturating_add(1);
        self.failures.push(name);
    }

    /// Counts what did not apply, and why.
    pub fn skip(&mut self, name: String, why: String) {
        self.skipped = self.skipped.saturating_add(1);
        self.skips.push((name, why));
    }

    fn open(&self, blocks: &mut Vec<Block>, indent: usize) {
        blocks.push(Block {
            indent,
            planned: None,
            reported: 0,
            failed_before: self.failed,
            failures_before: self.failures.len(),
            skips_before: self.skips.len(),
        });
    }

    fn close(&mut self, blocks: &mut Vec<Block>) -> Option<Block> {
        let block = blocks.pop()?;
        if let Some(planned) = block.planned.filter(|planned| *planned != block.reported) {
            self.fail(format!(
                "{planned} tests planned, {} reported",
                block.reported
            ));
        }
        Some(block)
    }

    /// Closes what is nested deeper; returns the outermost block closed.
    fn leave(&mut self, blocks: &mut Vec<Block>, indent: usize) -> Option<Block> {
        let mut outermost = None;
        while blocks.last().is_some_and(|block| block.indent > indent) {
            outermost = self.close(blocks);
        }
        outermost
    }

    fn report(&mut self, blocks: &mut Vec<Block>, indent: usize, verdict: Verdict<'_>, name: &str) {
        let nested = self.leave(blocks, indent);
        if let Some(block) = blocks.last_mut() {
            block.reported = block.reported.saturating_add(1);
        }
        match nested {
            Some(nested) if nested.reported > 0 => {
                for failure in self.failures.iter_mut().skip(nested.failures_before) {
                    *failure = format!("{name}: {failure}");
                }
                for (skipped, _) in self.skips.iter_mut().skip(nested.skips_before) {
                    *skipped = format!("{name}: {skipped}");
                }
                if verdict == Verdict::Failed && self.failed == nested.failed_before {
                    self.fail(name.to_owned());
                }
            }
            _ => match verdict {
                Verdict::Passed => self.passed = self.passed.saturating_add(1),
                Verdict::Skipped(why) => self.skip(name.to_owned(), why.to_owned()),
                Verdict::Failed => self.fail(name.to_owned()),
            },
        }
    }
}

/// A line without the seconds that the kernel's log puts before it.
pub fn without_timestamp(line: &str) -> &str {
    let stamped = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "));
    match stamped {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => rest,
        _ => line,
    }
}

/// `1..N`
fn plan(text: &str) -> Option<u64> {
    let count = text.strip_prefix("1..")?;
    count.split([' ', '#']).next()?.parse().ok()
}

/// `ok 1 - name # DIRECTIVE reason`
fn result(text: &str) -> Option<(Verdict<'_>, &str)> {
    let (passed, rest) = match text.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("ok")?),
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let (name, directive) = rest.split_once('#').unwrap_or((rest, ""));
    let name = name.trim();
    let name = name
        .trim_start_matches(|digit: char| digit.is_ascii_digit())
        .trim_start();
    let name = name.strip_prefix('-').map_or(name, str::trim_start);
    let directive = directive.trim();
    let (word, reason) = directive.split_once(' ').unwrap_or((directive, ""));
    let verdict = match (passed, word.to_ascii_uppercase().as_str()) {
        (_, "SKIP" | "TODO" | "XFAIL") => Verdict::Skipped(reason.trim()),
        (true, _) => Verdict::Passed,
        (false, _) => Verdict::Failed,
    };
    Some((verdict, if name.is_empty() { "unnamed" } else { name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(log: &str) -> (u64, u64, u64) {
        let totals = Totals::parse(log);
        assert_eq!(totals.failed as usize, totals.failures.len());
        (totals.passed, totals.failed, totals.skipped)
    }

    #[test]
    fn flat_results_and_directives() {
        let log = "KTAP version 1\r\n1..4\r\nok 1 - reserve\r\nnot ok 2 punch # TIMEOUT\r\nok 3 gup # SKIP no device\r\n\
                   not ok 4 later # TODO\r\n";
        assert_eq!(counts(log), (1, 1, 2));
        assert_eq!(Totals::parse(log).failures, ["punch"]);
    }

    #[test]
    fn only_leaves_count_and_failures_carry_their_path() {
        let log = "[    1.5] KTAP version 1\n[    1.5] 1..2\n    KTAP version 1\n    1..2\n    ok 1 a\n    not ok 2 b\n\
                   not ok 1 suite\n    KTAP version 1\n    1..1\n        KTAP version 1\n        1..1\n        not ok 1 c\n    not ok 1 inner\nnot ok 2 outer\n";
        assert_eq!(counts(log), (1, 2, 0));
        assert_eq!(Totals::parse(log).failures, ["suite: b", "outer: inner: c"]);
    }

    #[test]
    fn a_skip_carries_its_path_and_its_reason() {
        let log = "KTAP version 1\n1..2\n  KTAP version 1\n  1..2\n  ok 1 a # 0.2 s\n  ok 2 b # SKIP no disk\nok 1 g # 3 s\nok 2 c # skip\n";
        assert_eq!(counts(log), (1, 0, 2));
        let skips =
            [("g: b", "no disk"), ("c", "")].map(|(name, why)| (name.to_owned(), why.to_owned()));
        assert_eq!(Totals::parse(log).skips, skips);
    }

    #[test]
    fn what_never_reported_is_a_failure() {
        assert_eq!(counts("KTAP version 1\n1..3\nok 1 a\n"), (1, 1, 0));
        assert_eq!(
            counts("KTAP version 1\n1..1\n  1..2\n  ok 1 a\n"),
            (1, 2, 0)
        );
        assert_eq!(
            counts("KTAP version 1\n1..1\nBail out! no memory\n"),
            (0, 2, 0)
        );
        assert_eq!(
            counts("KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  ok 1 a\nnot ok 1 teardown\n"),
            (1, 1, 0)
        );
    }

    #[test]
    fn other_output_is_passed_over() {
        assert_eq!(
            counts("ok then\nnot ok either\n1..9\n"),
            (0, 1, 0),
            "a plan without tests is a broken promise"
        );
        assert_eq!(counts("ok 1 before any version line\nokay\n"), (0, 0, 0));
        assert_eq!(counts("KTAP version 1\n1..1\nokay\n# ok 7\nnote\nok 1\nKTAP version 1\n1..1\nok 1 again\n"), (2, 0, 0));
    }

    #[test]
    fn timestamps_go_and_other_brackets_stay() {
        assert_eq!(without_timestamp("[   12.345678] ok 1"), "ok 1");
        assert_eq!(without_timestamp("[ 12.3]     ok 1"), "    ok 1");
        assert_eq!(without_timestamp("[x] ok 1"), "[x] ok 1");
    }
}
