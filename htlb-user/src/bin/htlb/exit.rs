// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why the command ends, for people and for scripts.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use htlb_core::Error;
use htlb_user::device::DeviceError;
use htlb_user::load::LoadError;
use htlb_user::named::NamedError;
use htlb_user::store::StoreError;
use htlb_user::system;
use serde_json::json;

use crate::output::{Format, SCHEMA};

/// The exit codes; documented in `manual.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Shortage = 4,
    Source = 5,
    Mismatch = 6,
    CannotStart = 126,
    NoProgram = 127,
    Interrupted = 130,
    Terminated = 143,
}

impl Code {
    const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not-found",
            Self::Shortage => "shortage",
            Self::Source => "source-changed",
            Self::Mismatch => "mismatch",
            Self::CannotStart => "cannot-start",
            Self::NoProgram => "no-program",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }
}

/// Why the command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    /// One or two lines; empty if all is said already.
    message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }

    /// All was said already.
    pub(crate) const fn silent(code: Code) -> Self {
        Self {
            code,
            message: String::new(),
        }
    }

    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Says it, and gives the exit code.
    pub(crate) fn report(self, format: Format) -> ExitCode {
        if !self.message.is_empty() {
            // Nothing is left to be done if nobody listens.
            let _ = match format {
                Format::Text => writeln!(io::stderr(), "htlb: {}", self.message),
                Format::Json => writeln!(
                    io::stdout(),
                    "{}",
                    json!({"schema": SCHEMA, "error": {
                        "code": self.code as u8, "kind": self.code.word(), "message": self.message}})
                ),
            };
        }
        ExitCode::from(self.code as u8)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NameInvalid { .. } => Code::Usage,
            StoreError::NotFound { .. } | StoreError::Lost { .. } => Code::NotFound,
            StoreError::NoHugetlbfs { .. } | StoreError::NoSharedMemory { .. } => Code::Shortage,
            _ => Code::Failed,
        };
        Self::new(code, error)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let code = match &error {
            LoadError::Short { .. } | LoadError::Changed { .. } => Code::Source,
            LoadError::Mismatch { .. } => Code::Mismatch,
            LoadError::Sink(_) | LoadError::TooSmall { .. } => Code::Shortage,
            LoadError::Cancelled => Code::Interrupted,
            LoadError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                Code::NotFound
            }
            _ => Code::Failed,
        };
        Self::new(code, error)
    }
}

impl From<NamedError> for Failure {
    fn from(error: NamedError) -> Self {
        let code = match error {
            NamedError::Store(error) => return error.into(),
            NamedError::Shortage(_) => Code::Shortage,
            NamedError::Request(Error::PageSizeUnsupported) => {
                return Self::new(
                    Code::Shortage,
                    format!("{error}: `htlb info` lists those it has"),
                )
            }
            NamedError::Request(Error::NodeMaskOffline) => {
                return Self::new(Code::Usage, format!("{error}: `htlb info` lists the nodes"))
            }
            NamedError::Request(_) => Code::Usage,
            NamedError::Cancelled => Code::Interrupted,
            _ => Code::Failed,
        };
        Self::new(code, error)
    }
}

impl From<htlb_user::Error> for Failure {
    fn from(error: htlb_user::Error) -> Self {
        let code = match error.cause() {
            Error::NoRoom
            | Error::OutOfPages
            | Error::OutOfReach
            | Error::NoContiguousRun
            | Error::AccountLimit
            | Error::OvercommitLimit
            | Error::PageSizeUnsupported => Code::Shortage,
            Error::NodeMaskOffline | Error::DmaMaskTooNarrow => Code::Usage,
            _ => Code::Failed,
        };
        Self::new(code, error)
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        let code = match error.cause() {
            Some(Error::NoRoom | Error::AccountLimit) => Code::Shortage,
            Some(Error::PageSizeUnsupported) => Code::NotFound,
            _ => Code::Failed,
        };
        Self::new(code, error)
    }
}

impl From<system::Error> for Failure {
    fn from(error: system::Error) -> Self {
        let code = match error {
            system::Error::NoPool { .. } => Code::NotFound,
            _ => Code::Failed,
        };
        Self::new(code, error)
    }
}

impl From<io::Error> for Failure {
    /// Of standard output. A reader that went away had enough: see [`crate::output`].
    fn from(error: io::Error) -> Self {
        Self::new(Code::Failed, format!("cannot write the output: {error}"))
    }
}
