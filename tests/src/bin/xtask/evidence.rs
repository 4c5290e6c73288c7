// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a command that failed has said about it: the lines of its output that somebody wants to see who has nothing else.

/// The most lines of one test, or of a command that has none.
const MOST: usize = 30;
/// The longest line; facts printed on one line may be much longer.
const WIDTH: usize = 400;

/// The part of `output` that tells why: each failed test's last words before its backtrace; without tests the last panic; and
/// else its end.
pub(crate) fn of(output: &str) -> Vec<String> {
    let lines: Vec<&str> = output.lines().collect();
    let mut found: Vec<&str> = sections(&lines)
        .flat_map(|lines| last_words(lines))
        .collect();
    if found.is_empty() {
        found.extend(panic(&lines));
    }
    if found.is_empty() {
        let blank = |line: &&&str| !line.trim().is_empty();
        let said: Vec<&str> = lines.iter().filter(blank).copied().collect();
        found.extend(&said[said.len().saturating_sub(MOST)..]);
    }
    found.into_iter().map(cut).collect()
}

/// What libtest shows of each test that failed.
fn sections<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = &'a [&'a str]> {
    lines
        .split(|line| *line == "failures:")
        .skip(1)
        .flat_map(|shown| {
            let starts = (0..shown.len()).filter(|at| shown[*at].starts_with("---- "));
            let mut starts: Vec<usize> = starts.collect();
            starts.push(shown.len());
            let bounds: Vec<_> = starts.windows(2).map(|pair| pair[0]..pair[1]).collect();
            bounds.into_iter().map(|bounds| &shown[bounds])
        })
}

/// A section's head, and its end before the backtrace.
fn last_words<'a>(section: &[&'a str]) -> Vec<&'a str> {
    let is_trace = |line: &&str| line.starts_with("stack backtrace:");
    let end = section.iter().rposition(is_trace);
    let body = &section[..end.unwrap_or(section.len())];
    let tail = &body[body.len().saturating_sub(MOST).max(1)..];
    section
        .iter()
        .take(1)
        .chain(tail)
        .copied()
        .filter(|line| !line.trim().is_empty())
        .collect()
}

/// The last panic, and the fuzzer's input that led to it.
fn panic<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let Some(at) = lines.iter().rposition(|line| line.contains("panicked at")) else {
        return Vec::new();
    };
    let said = lines[at..]
        .iter()
        .take_while(|line| !line.starts_with("stack backtrace:"));
    let input = lines[at..]
        .iter()
        .filter(|line| line.starts_with("Base64: "));
    said.take(MOST).chain(input).copied().collect()
}

fn cut(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    let start: String = line.chars().take(WIDTH).collect();
    format!("{start}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_test_is_shown_without_its_backtrace() {
        let output = "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\n\n\
                      thread 'b' panicked at x.rs:1:1:\nassertion failed\nstack backtrace:\n   0: rust_begin_unwind\n\n\
                      failures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed;\n";
        let shown = [
            "---- b stdout ----",
            "thread 'b' panicked at x.rs:1:1:",
            "assertion failed",
        ];
        assert_eq!(of(output), shown);
    }

    #[test]
    fn of_a_long_story_the_end_is_shown() {
        let story = "said before\n".repeat(1000);
        let output = format!("failures:\n\n---- b stdout ----\n{story}minimal failing input: 3\n\nfailures:\n    b\n");
        let shown = of(&output);
        assert_eq!(shown.len(), MOST);
        assert_eq!(
            shown.first().map(String::as_str),
            Some("---- b stdout ----")
        );
        assert_eq!(
            shown.last().map(String::as_str),
            Some("minimal failing input: 3")
        );
    }

    #[test]
    fn a_fuzzer_that_panics_says_where_and_with_what() {
        let output = "#1 NEW cov: 3\nthread '<unnamed>' panicked at m.rs:123:17:\nleft: 1\nstack backtrace:\n   0: a\n\
                      ==1== ERROR: libFuzzer: deadly signal\nBase64: AAEC\nError: Fuzz target exited\n";
        let shown = [
            "thread '<unnamed>' panicked at m.rs:123:17:",
            "left: 1",
            "Base64: AAEC",
        ];
        assert_eq!(of(output), shown);
    }

    #[test]
    fn else_the_end_is_shown_and_long_lines_are_cut() {
        let output = format!("error: no such file\n\n{}\n", "x".repeat(500));
        let shown = of(&output);
        assert_eq!(shown[0], "error: no such file");
        assert_eq!(shown[1].len(), WIDTH + 3);
        assert!(of("").is_empty());
    }
}
