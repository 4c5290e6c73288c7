// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why a window says no.

use std::fmt;

use htlb_core::Error;

use crate::sys::Failure;

/// Why a window said no. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowError {
    /// The range is not in whole granules, or ends past the window.
    Range(Error),
    /// A lease on a part of it is alive.
    Leased,
    /// A part of it is not mapped, or, for [`Window::map`](super::Window::map), is mapped already; or a child calls that has no part in the window.
    Mapping,
    /// The kernel refused.
    Kernel(Failure),
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => write!(f, "window: {error}"),
            Self::Leased => f.write_str("window: a lease on a part of the range is alive"),
            Self::Mapping => f.write_str("window: a part of the range is not mapped as expected"),
            Self::Kernel(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for WindowError {}

impl From<Failure> for WindowError {
    fn from(failure: Failure) -> Self {
        Self::Kernel(failure)
    }
}

impl From<Error> for WindowError {
    fn from(error: Error) -> Self {
        Self::Range(error)
    }
}

impl From<WindowError> for std::io::Error {
    fn from(error: WindowError) -> Self {
        match error {
            WindowError::Kernel(failure) => failure.into(),
            WindowError::Range(inner) => inner.into(),
            WindowError::Leased => Self::new(std::io::ErrorKind::ResourceBusy, error),
            WindowError::Mapping => Self::new(std::io::ErrorKind::InvalidInput, error),
        }
    }
}
