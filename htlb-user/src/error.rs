// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What was asked, what was found, and what to do next.

use std::fmt;
use std::io;

use htlb_core::Error as Cause;

/// Why a buffer or a pool said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    asked: String,
    cause: Cause,
    found: Vec<String>,
    advice: Option<String>,
}

impl Error {
    /// `asked` could not be done because of `cause`: "populate 4 MiB at offset 0".
    pub(crate) fn new(asked: impl Into<String>, cause: Cause) -> Self {
        Self {
            asked: asked.into(),
            cause,
            found: Vec::new(),
            advice: advice_on(cause).map(Into::into),
        }
    }

    /// Something that `/sys` or `/proc` said was not understood.
    pub(crate) fn system(asked: &str, found: &crate::system::Error) -> Self {
        Self::new(asked, Cause::PageSizeUnsupported).found(found.to_string())
    }

    /// Adds what was found.
    #[must_use]
    pub(crate) fn found(mut self, found: impl Into<String>) -> Self {
        let found = found.into();
        // Several rungs may have met the same.
        if !self.found.contains(&found) {
            self.found.push(found);
        }
        self
    }

    /// Replaces the advice.
    #[must_use]
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Says that it was asked in a child, where nothing of it is.
    #[must_use]
    pub(crate) fn forked(self) -> Self {
        match self.cause {
            Cause::NotPresent => self
                .found("a forked child inherits neither pools nor buffers")
                .advise("make pools of its own in the child, or attach what the parent shares"),
            _ => self,
        }
    }

    /// The reason, in the core's terms.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// What to do next, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }
}

/// What helps against a cause wherever it turns up.
const fn advice_on(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::Pinned => "drop the pins and slices on the range first",
        Cause::Sealed => "drop the slices and seals on the buffer first",
        Cause::NotPresent => "populate the range first",
        Cause::RangeUnaligned => "begin and end on page boundaries, or end at the end of the buffer",
        Cause::BeyondCapacity => "give the buffer a larger capacity when it is made",
        Cause::OutOfReach => {
            "physical addresses are known to a process with CAP_SYS_ADMIN only, and for hugetlb pages only; \
             the kernel module htlb.ko needs neither"
        }
        _ => return None,
    })
}

impl fmt::Display for Error {
    /// One or two lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.asked, self.cause)?;
        for found in &self.found {
            write!(f, "; {found}")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "\n{advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(io::Error::from(error.cause).kind(), error)
    }
}
