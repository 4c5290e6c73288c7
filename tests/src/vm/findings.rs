// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the kernel's log complains about.

use std::fmt;

use super::ktap::without_timestamp;

/// What kind of complaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A fault in the kernel, a `BUG`, a panic.
    Oops,
    /// The address sanitizer: use after free, out of bounds.
    Kasan,
    /// Lock order, sleeping where one must not, RCU.
    Locking,
    /// Memory that nobody refers to and nobody freed.
    Leak,
    /// A page, list, reference count or DMA mapping in a state it must not be in.
    Corruption,
    /// A task, processor or grace period that does not get on.
    Hang,
    /// A `WARN`.
    Warning,
    /// A taint that loading an unsigned out-of-tree module does not explain.
    Taint,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oops => "oops",
            Self::Kasan => "KASAN",
            Self::Locking => "locking",
            Self::Leak => "leak",
            Self::Corruption => "corruption",
            Self::Hang => "hang",
            Self::Warning => "warning",
            Self::Taint => "taint",
        })
    }
}

/// Before the name of a test, in the kernel's log: what follows happened during it.
pub const BEGIN: &str = "htlb-guest: begin";

/// Before a text, in the kernel's log: until the next [`BEGIN`], lines that contain the text are provoked.
pub const EXPECT: &str = "htlb-guest: expect";

/// One complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The test during which it came, as far as that was told.
    pub during: Option<String>,
    /// Its kind.
    pub kind: Kind,
    /// The line of the log, from 1; 0 if it is not from the log.
    pub line: usize,
    /// What the line says.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.kind, self.text),
            line => write!(f, "{}: line {line}: {}", self.kind, self.text),
        }?;
        self.during
            .iter()
            .try_for_each(|test| write!(f, " (during {test})"))
    }
}

/// The first that matches names the kind: reports share words.
const SIGNS: &[(Kind, &[&str])] = &[
    (Kind::Kasan, &["BUG: KASAN", "KASAN: "]),
    (
        Kind::Locking,
        &[
            "possible circular locking dependency",
            "possible recursive locking",
            "possible irq lock inversion",
            "inconsistent lock state",
            "bad unlock balance",
            "held lock freed",
            "lock held when returning to user space",
            "suspicious RCU usage",
            "sleeping function called from invalid context",
            "scheduling while atomic",
            "Invalid wait context",
            "DEBUG_LOCKS_WARN_ON",
            "BUG: MAX_LOCK",
            "trying to register non-static key",
        ],
    ),
    (
        Kind::Leak,
        &[
            "new suspected memory leaks",
            "Objects remaining in",
            "DMA-API: device driver has pending",
        ],
    ),
    (
        Kind::Corruption,
        &[
            "Bad page state",
            "Bad page map",
            "Bad rss-counter",
            "non-zero pgtables_bytes",
            "list_add corruption",
            "list_del corruption",
            "refcount_t: ",
            "Slab corruption",
            "Poison overwritten",
            "pagealloc: memory corruption",
        ],
    ),
    (
        Kind::Hang,
        &[
            "blocked for more than",
            "soft lockup",
            "hard LOCKUP",
            "detected stalls on CPUs",
            "self-detected stall",
            "detected expedited stalls",
        ],
    ),
    (
        Kind::Oops,
        &[
            "BUG: ",
            "kernel BUG at",
            "Oops: ",
            "general protection fault",
            "Unable to handle kernel",
            "Kernel panic",
            "double fault",
            "rust_kernel: panicked",
        ],
    ),
    (
        Kind::Warning,
        &[
            "WARNING: ",
            // What the module says of its own mistakes.
            "htlb: an account could not be closed",
            "htlb: a buffer could not be released",
            "is not a page of this module",
        ],
    ),
];

/// Finds the complaints in a log, but those in lines that contain one of `expected`.
pub fn scan(log: &str, expected: &[String]) -> Vec<Finding> {
    let mut during: Option<&str> = None;
    let mut provoked: Vec<&str> = Vec::new();
    let mut findings = Vec::new();
    for (index, line) in log.lines().enumerate() {
        let text = without_timestamp(line.trim_end());
        if let Some(test) = text.strip_prefix(BEGIN) {
            during = Some(test.trim());
            provoked.clear();
        } else if let Some(text) = text.strip_prefix(EXPECT) {
            provoked.push(text.trim());
        } else if let Some(kind) = kind_of(text) {
            let is_expected = expected
                .iter()
                .map(String::as_str)
                .chain(provoked.iter().copied())
                .any(|expected| text.contains(expected));
            if !is_expected {
                findings.push(Finding {
                    during: during.map(str::to_owned),
                    kind,
                    line: index.saturating_add(1),
                    text: text.trim().to_owned(),
                });
            }
        }
    }
    findings
}

fn kind_of(line: &str) -> Option<Kind> {
    SIGNS
        .iter()
        .find(|(_, signs)| signs.iter().any(|sign| line.contains(sign)))
        .map(|(kind, _)| *kind)
}

/// Letters of `/proc/sys/kernel/tainted`, from bit 0 (`Documentation/admin-guide/tainted-kernels.rst`).
const TAINTS: &str = "PFSRMBUDAWCIOELKXTNJ";

/// The taints that say something beyond "an out-of-tree, unsigned module was loaded".
pub fn unexpected_taint(taint: u64) -> Option<Finding> {
    let letters: String = TAINTS
        .chars()
        .enumerate()
        .filter(|(bit, letter)| taint >> bit & 1 == 1 && !matches!(letter, 'O' | 'E'))
        .map(|(_, letter)| letter)
        .collect();
    let beyond = taint >> TAINTS.len() != 0;
    let text = format!(
        "the kernel is tainted: {letters}{}",
        if beyond { "?" } else { "" }
    );
    (beyond || !letters.is_empty()).then_some(Finding {
        during: None,
        kind: Kind::Taint,
        line: 0,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_recognised_and_calm_lines_are_not() {
        let log = "[    0.0] Linux version 7.3.4\n\
            [    1.0] kmemleak: Kernel memory leak detector initialized\n\
            [    2.0] BUG: KASAN: slab-use-after-free in htlb\r\n\
            [    3.0] WARNING: possible circular locking dependency detected\n\
            [    4.0] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)\n\
            [    5.0] BUG: Bad page state in process x\n\
            [    6.0] INFO: task a:1 blocked for more than 120 seconds.\n\
            [    7.0] BUG: kernel NULL pointer dereference\n\
            [    8.0] WARNING: mm/x.c:3 at y\n\
            [    9.0] lockdep: all is well; no warning\n\
            [    9.5] DMA-API: debugging enabled by kernel config\n";
        let kinds: Vec<(Kind, usize)> = scan(log, &[])
            .iter()
            .map(|finding| (finding.kind, finding.line))
            .collect();
        assert_eq!(
            kinds,
            [
                (Kind::Kasan, 3),
                (Kind::Locking, 4),
                (Kind::Leak, 5),
                (Kind::Corruption, 6),
                (Kind::Hang, 7),
                (Kind::Oops, 8),
                (Kind::Warning, 9)
            ]
        );
        assert_eq!(
            scan(log, &["KASAN".to_owned(), "WARNING: mm/x.c".to_owned()]).len(),
            5
        );
    }

    #[test]
    fn a_test_is_told_with_its_complaint_and_may_provoke_its_own() {
        let log = "[ 1.0] htlb-guest: begin a: x\n[ 1.1] htlb-guest: expect BUG: mine\n[ 1.2] BUG: mine, of a\n\
                   [ 1.3] WARNING: not mine\n[ 1.4] htlb-guest: begin a: y\n[ 1.5] BUG: mine no more\n";
        let found: Vec<(Option<String>, usize)> = scan(log, &[])
            .into_iter()
            .map(|finding| (finding.during, finding.line))
            .collect();
        assert_eq!(
            found,
            [(Some("a: x".to_owned()), 4), (Some("a: y".to_owned()), 6)]
        );
    }

    #[test]
    fn an_out_of_tree_unsigned_module_is_no_finding() {
        assert_eq!(unexpected_taint(0), None);
        assert_eq!(unexpected_taint(1 << 12 | 1 << 13), None);
        let letters = |taint| {
            unexpected_taint(taint)
                .map(|finding| finding.text)
                .unwrap_or_default()
        };
        assert!(letters(1 << 9 | 1 << 12).ends_with(": W"));
        assert!(letters(1 << 5 | 1 << 7).ends_with(": BD"));
        assert!(letters(1 << 40).ends_with('?'));
    }
}
