// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why a named buffer was not made.

use std::fmt;

use htlb_core::{AddressBits, Error};

use super::shortage::Shortage;
use crate::store::StoreError;

/// Why a named buffer was not made. Nothing is left of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum NamedError {
    /// No machine, or not this one, can meet the request.
    Request(Error),
    /// The name, or a folder.
    Store(StoreError),
    /// Every rung together gave too few pages.
    Shortage(Box<Shortage>),
    /// A DMA mask was asked for, and the system shows no physical addresses to this process.
    DmaMaskUnknown {
        /// The mask.
        bits: AddressBits,
    },
    /// The caller's flag was raised.
    Cancelled,
}

impl fmt::Display for NamedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Shortage(shortage) => shortage.fmt(f),
            Self::DmaMaskUnknown { bits } => write!(
                f,
                "whether pages lie below {} address bits cannot be known without CAP_SYS_ADMIN: \
                 the kernel hides physical addresses. Run as root, or leave the DMA mask out",
                bits.raw()
            ),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for NamedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Request(error) => Some(error),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for NamedError {
    fn from(error: Error) -> Self {
        Self::Request(error)
    }
}

impl From<StoreError> for NamedError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
