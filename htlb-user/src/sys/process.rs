// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Who is alive, and what its limits are.

use std::fs;
use std::os::unix::fs::MetadataExt;

use htlb_core::ByteLen;

use super::{check, Failure};

/// A process that a record can name for later: its number alone is used again, together with its start and its namespace it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The process number, in its own namespace.
    pub pid: u32,
    /// The start, in clock ticks since the machine booted.
    pub start: u64,
    /// The inode of its process namespace, 0 where unknown.
    pub namespace: u64,
}

/// Whether a process still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It runs.
    Alive,
    /// It ended; another may have its number.
    Gone,
    /// Cannot be seen from here (another namespace, hidden `/proc`): treat it as alive.
    Unknown,
}

/// A soft and a hard limit; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What applies.
    pub soft: Option<ByteLen>,
    /// How far the process itself may raise it.
    pub hard: Option<ByteLen>,
}

impl Identity {
    /// The calling process.
    ///
    /// # Errors
    /// `ENOENT` without `/proc`.
    pub fn current() -> Result<Self, Failure> {
        let stat = fs::read("/proc/self/stat").map_err(|e| Failure::of_io("open", &e))?;
        let start = Stat::parse(&stat)
            .ok_or(Failure::new("read", libc::EPROTO))?
            .start;
        Ok(Self {
            pid: std::process::id(),
            start,
            namespace: namespace(),
        })
    }

    /// Whether it still runs. A zombie does not.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        if self.namespace != 0 && self.namespace != namespace() {
            return Liveness::Unknown;
        }
        let Ok(pid) = i32::try_from(self.pid) else {
            return Liveness::Gone;
        };
        // 0 and below would mean a process group.
        if pid <= 0 {
            return Liveness::Gone;
        }
        // SAFETY: signal 0 is not sent, it only asks.
        let answer = unsafe { libc::kill(pid, 0) };
        if check("kill", answer.into()).is_err_and(|failure| failure.is(libc::ESRCH)) {
            return Liveness::Gone;
        }
        let stat = fs::read(format!("/proc/{pid}/stat")).ok();
        match stat.as_deref().and_then(Stat::parse) {
            Some(stat) if stat.start != self.start || stat.ended => Liveness::Gone,
            Some(_) => Liveness::Alive,
            None => Liveness::Unknown,
        }
    }
}

/// The two facts wanted of `/proc/<pid>/stat`.
pub(crate) struct Stat {
    pub(crate) start: u64,
    pub(crate) ended: bool,
}

impl Stat {
    /// The program's name, in parentheses, may contain anything, parentheses and spaces too; the last one ends it.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let close = line.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        // The state is field 3, the start time field 22.
        let start = fields.nth(18)?.parse().ok()?;
        Some(Self {
            start,
            ended: matches!(state, "Z" | "X" | "x"),
        })
    }
}

fn namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

/// The limit on locked memory.
///
/// # Errors
/// None known; what `getrlimit` answers.
#[doc(alias = "RLIMIT_MEMLOCK")]
pub fn memlock_limit() -> Result<Limit, Failure> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a live record of the right type.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    check("getrlimit", answer.into())?;
    let some = |raw: libc::rlim_t| (raw != libc::RLIM_INFINITY).then(|| ByteLen::new(raw));
    Ok(Limit {
        soft: some(limit.rlim_cur),
        hard: some(limit.rlim_max),
    })
}

/// The effective user of the calling process.
#[must_use]
pub fn effective_user() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether transparent huge pages are off for this process alone (`prctl`), whatever the system says.
///
/// # Errors
/// `EINVAL` where the kernel does not know the question.
#[doc(alias = "PR_GET_THP_DISABLE")]
pub fn thp_disabled() -> Result<bool, Failure> {
    // SAFETY: PR_GET_THP_DISABLE takes four zeroes and touches no memory.
    let answer = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) };
    Ok(check("prctl", answer.into())? != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_and_the_dead() {
        let me = Identity::current().unwrap();
        assert_eq!(me.liveness(), Liveness::Alive);
        let reused = Identity {
            start: me.start + 1,
            ..me
        };
        assert_eq!(reused.liveness(), Liveness::Gone);
        let elsewhere = Identity {
            namespace: me.namespace + 1,
            ..me
        };
        assert_eq!(elsewhere.liveness(), Liveness::Unknown);
        for pid in [0, u32::MAX] {
            assert_eq!(Identity { pid, ..me }.liveness(), Liveness::Gone);
        }
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let stat = fs::read(format!("/proc/{}/stat", child.id())).unwrap();
        let dead = Identity {
            pid: child.id(),
            start: Stat::parse(&stat).unwrap().start,
            ..me
        };
        child.wait().unwrap();
        assert_eq!(dead.liveness(), Liveness::Gone);
    }

    #[test]
    fn a_name_may_try_to_look_like_fields() {
        let line = b"7 (a) Z 1 2 3 (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        let stat = Stat::parse(line).unwrap();
        assert!(stat.start == 4242 && !stat.ended);
        assert!(Stat::parse(b"7 (a S 1 2 3").is_none());
        assert!(Stat::parse(b"7 (a) S 1 2 3").is_none());
        assert!(Stat::parse(b"").is_none());
    }
}
