// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How many passed, failed and were skipped.

use std::fmt;
use std::ops::AddAssign;

/// A sum of test results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) const PASSED: Self = Self::new(1, 0, 0);
    pub(crate) const FAILED: Self = Self::new(0, 1, 0);
    pub(crate) const SKIPPED: Self = Self::new(0, 0, 1);

    pub(crate) const fn new(passed: u64, failed: u64, skipped: u64) -> Self {
        Self {
            passed,
            failed,
            skipped,
        }
    }

    /// How many really ran.
    pub(crate) const fn ran(self) -> u64 {
        self.passed + self.failed
    }

    /// Moves `skips` tests from passed to skipped: libtest saw them return and called that a pass.
    #[must_use]
    pub(crate) const fn with_skips(self, skips: u64) -> Self {
        Self {
            passed: self.passed.saturating_sub(skips),
            failed: self.failed,
            skipped: self.skipped + skips,
        }
    }

    /// The sum of libtest's `test result:` lines in `output`; `None` if there is none.
    ///
    /// Ignored tests count as skipped, filtered ones not at all.
    pub(crate) fn of_libtest(output: &str) -> Option<Self> {
        let mut sum = None;
        for line in output.lines() {
            if let Some(counts) = result_line(line) {
                *sum.get_or_insert_with(Self::default) += counts;
            }
        }
        sum
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s`.
///
/// A test may print without a final newline, so the line may have something before it.
fn result_line(line: &str) -> Option<Counts> {
    let (_, rest) = line.split_once("test result: ")?;
    let (verdict, fields) = rest.split_once(". ")?;
    if verdict != "ok" && verdict != "FAILED" {
        return None;
    }
    let mut counts = Counts::default();
    for field in fields.split(';') {
        let mut words = field.split_whitespace();
        let (number, what) = (words.next()?, words.next()?);
        match what {
            "passed" => counts.passed = number.parse().ok()?,
            "failed" => counts.failed = number.parse().ok()?,
            "ignored" => counts.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

/// How the reason begins of what is marked `#[ignore]` because another test runs it, in a process of its own: it is a part
/// of that test, and none that was left out.
const PART_OF_ANOTHER: &str = "the child of ";

/// The tests that libtest says it ignored, with the reason where one is given.
pub(crate) fn ignored(output: &str) -> impl Iterator<Item = (&str, &str)> {
    all_ignored(output).filter(|(_, why)| !why.starts_with(PART_OF_ANOTHER))
}

/// How many parts of other tests libtest counted as ignored.
pub(crate) fn parts_of_others(output: &str) -> u64 {
    // CAST: a number of lines.
    all_ignored(output)
        .filter(|(_, why)| why.starts_with(PART_OF_ANOTHER))
        .count() as u64
}

fn all_ignored(output: &str) -> impl Iterator<Item = (&str, &str)> {
    output.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
        Some((name, rest.strip_prefix(", ").unwrap_or("marked #[ignore]")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
    const FAILED: &str =
        "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s";

    #[test]
    fn one_line_per_program_is_added_up() {
        let output = format!("running 13 tests\n...\n{PASSED}\n\nrunning 3 tests\n{FAILED}\n");
        assert_eq!(Counts::of_libtest(&output), Some(Counts::new(14, 1, 1)));
    }

    #[test]
    fn a_result_after_unfinished_output_counts() {
        let output = format!("no newline{PASSED}\n");
        assert_eq!(Counts::of_libtest(&output), Some(Counts::new(12, 0, 1)));
    }

    #[test]
    fn doc_tests_have_no_finished_field_in_old_compilers() {
        let output = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(Counts::of_libtest(output), Some(Counts::new(3, 0, 0)));
    }

    #[test]
    fn no_result_is_not_zero_results() {
        assert_eq!(Counts::of_libtest("Finished in 3 s\n"), None);
        assert_eq!(Counts::of_libtest("test result: maybe. 3 passed;"), None);
        assert_eq!(Counts::of_libtest(""), None);
    }

    #[test]
    fn a_skip_is_not_also_a_pass() {
        assert_eq!(Counts::new(5, 1, 1).with_skips(2), Counts::new(3, 1, 3));
        assert_eq!(Counts::new(1, 0, 0).with_skips(2), Counts::new(0, 0, 2));
    }

    #[test]
    fn ignored_tests_are_named() {
        let output = "test a::b ... ok\ntest c ... ignored\ntest d ... ignored, needs a day\n";
        let names: Vec<_> = ignored(output).collect();
        assert_eq!(names, [("c", "marked #[ignore]"), ("d", "needs a day")]);
        assert_eq!(parts_of_others(output), 0);
    }

    #[test]
    fn a_part_of_another_test_is_none_of_its_own() {
        let output = "test a ... ok\ntest a_child ... ignored, the child of a\n";
        assert_eq!(ignored(output).count(), 0);
        assert_eq!(parts_of_others(output), 1);
    }

    #[test]
    fn the_totals_are_one_line() {
        assert_eq!(
            Counts::new(1, 2, 3).to_string(),
            "1 passed, 2 failed, 3 skipped"
        );
    }
}
