// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What could not run, and whether that is good enough.

use htlb_tests::skip::UNPROVIDABLE;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// A test, or a whole step, that could not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skip {
    /// The test program, or the step if there is none.
    pub(crate) program: String,
    pub(crate) name: String,
    pub(crate) why: String,
}

impl Skip {
    pub(crate) fn new(program: &str, name: &str, why: &str) -> Self {
        Self {
            program: program.to_owned(),
            name: name.to_owned(),
            why: why.to_owned(),
        }
    }

    /// The skips of one test program from its skip log, which is not there if there were none.
    pub(crate) fn of_log(program: &str, log: &Path) -> io::Result<Vec<Self>> {
        match fs::read_to_string(log) {
            Ok(text) => Ok(Self::of_lines(program, &text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Each test once.
    fn of_lines(program: &str, log: &str) -> Vec<Self> {
        let mut skips: Vec<Self> = Vec::new();
        for (name, why) in log.lines().filter_map(|line| line.split_once('\t')) {
            if !skips.iter().any(|skip| skip.name == name) {
                skips.push(Self::new(program, name, why));
            }
        }
        skips
    }

    fn is_excused(&self) -> bool {
        UNPROVIDABLE
            .iter()
            .any(|reason| self.why.starts_with(reason))
    }
}

/// The skips of tests that nothing ran: skipped every time their program was run, and not for a reason that
/// no machine of ours can remove. `runs` says how often each program was run; a program not in it ran once.
pub(crate) fn never_ran<'a>(skips: &'a [Skip], runs: &BTreeMap<String, usize>) -> Vec<&'a Skip> {
    let mut times: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for skip in skips {
        *times.entry((&skip.program, &skip.name)).or_default() += 1;
    }
    let mut never: Vec<&Skip> = Vec::new();
    for skip in skips {
        let key = (skip.program.as_str(), skip.name.as_str());
        let ran_at_least_once = times[&key] < runs.get(&skip.program).copied().unwrap_or(1);
        let known = never
            .iter()
            .any(|other| (other.program.as_str(), other.name.as_str()) == key);
        if !ran_at_least_once && !skip.is_excused() && !known {
            never.push(skip);
        }
    }
    never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_skips_twice_is_skipped_once() {
        let skips = Skip::of_lines("p", "a\tno pages\na\tstill none\nb\tno root\n");
        let names: Vec<_> = skips.iter().map(|skip| skip.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(skips[0].why, "no pages");
    }

    #[test]
    fn a_test_that_ran_in_one_way_may_skip_in_the_others() {
        let skips = [Skip::new("p", "a", "x"), Skip::new("p", "a", "x")];
        let runs = BTreeMap::from([("p".to_owned(), 3)]);
        assert!(never_ran(&skips, &runs).is_empty());
    }

    #[test]
    fn a_test_that_never_ran_is_reported_once() {
        let skips = [Skip::new("p", "a", "x"), Skip::new("p", "a", "y")];
        let runs = BTreeMap::from([("p".to_owned(), 2)]);
        assert_eq!(never_ran(&skips, &runs), [&skips[0]]);
    }

    #[test]
    fn what_no_machine_can_provide_is_excused() {
        let skips = [Skip::new("p", "a", htlb_tests::skip::ONE_NODE)];
        assert!(never_ran(&skips, &BTreeMap::new()).is_empty());
    }

    #[test]
    fn a_skipped_step_never_ran() {
        let skips = [Skip::new("fuzz", "fuzz", "no targets")];
        assert_eq!(never_ran(&skips, &BTreeMap::new()).len(), 1);
    }
}
