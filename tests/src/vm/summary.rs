// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The results of a guest, group by group.

use std::fmt;

use super::ktap::Totals;

/// A group of tests, as `htlb-guest` reported it.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    name: String,
    totals: Totals,
    seconds: Option<f64>,
}

/// All groups of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    groups: Vec<Group>,
}

impl Summary {
    /// Reads what `htlb-guest` printed; a group that never ended is part of it.
    pub fn parse(results: &str) -> Self {
        let mut groups = Vec::new();
        let mut inside = String::new();
        for line in results.lines().map(str::trim_end) {
            if line.starts_with(' ') {
                inside.push_str(line);
                inside.push('\n');
            } else if line.starts_with("ok ") || line.starts_with("not ok ") {
                groups.extend(Group::parse(&inside, line));
                inside.clear();
            }
        }
        groups.extend(Group::parse(&inside, ""));
        Self { groups }
    }
}

impl Group {
    fn parse(inside: &str, end: &str) -> Option<Self> {
        let name = inside
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("# Subtest: "))?;
        let seconds = end
            .split_once("# ")
            .and_then(|(_, took)| took.strip_suffix(" s")?.parse().ok());
        Some(Self {
            name: name.to_owned(),
            totals: Totals::parse(inside),
            seconds,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.groups.iter().map(|group| group.name.len()).max();
        let width = longest.unwrap_or(0).max("group".len());
        writeln!(
            f,
            "{:<width$} {:>7} {:>7} {:>8} {:>8}",
            "group", "passed", "failed", "skipped", "seconds"
        )?;
        for group in &self.groups {
            let Totals {
                passed,
                failed,
                skipped,
                ..
            } = group.totals;
            let seconds = match group.seconds {
                Some(seconds) => format!("{seconds:.1}"),
                None => "no end".to_owned(),
            };
            writeln!(
                f,
                "{:<width$} {passed:>7} {failed:>7} {skipped:>8} {seconds:>8}",
                group.name
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_a_line_even_one_without_an_end() {
        let results = "KTAP version 1\r\n1..2\r\n    KTAP version 1\r\n    # Subtest: one\r\n    1..3\r\n\
                       \x20   ok 1 a # 0.1 s\r\n    ok 2 b # SKIP no\r\n    not ok 3 c # 1.0 s\r\nnot ok 1 one # 1.5 s\r\n\
                       \x20   KTAP version 1\r\n    # Subtest: two\r\n    1..2\r\n    ok 1 d # 0.1 s\r\n";
        let summary = Summary::parse(results);
        let rows: Vec<(&str, u64, u64, u64, Option<f64>)> = summary
            .groups
            .iter()
            .map(|group| {
                let totals = &group.totals;
                (
                    group.name.as_str(),
                    totals.passed,
                    totals.failed,
                    totals.skipped,
                    group.seconds,
                )
            })
            .collect();
        assert_eq!(
            rows,
            [("one", 1, 1, 1, Some(1.5)), ("two", 1, 1, 0, None)],
            "what was planned in `two` and did not report has failed"
        );
        assert!(summary.to_string().contains("no end"));
    }
}
