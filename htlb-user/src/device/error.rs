// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the device answered, in the core's words where the number says which.

use std::fmt;
use std::io;

use htlb_core::Error as Cause;

/// What a number means for one kind of call. Several causes share a number, so it is named only where the call leaves one.
pub(super) type Meanings = &'static [(i32, Cause)];

/// For every call.
const ANY: Meanings = &[
    (libc::E2BIG, Cause::RecordSize),
    (libc::EINTR, Cause::Interrupted),
    (libc::EDQUOT, Cause::AccountLimit),
    (libc::ENOMEM, Cause::NoRoom),
    (libc::EFBIG, Cause::BeyondCapacity),
    (libc::ENXIO, Cause::RangeBeyondEnd),
    (libc::ENODATA, Cause::NotPresent),
    (libc::EDEADLK, Cause::WouldDeadlock),
    (libc::EAGAIN, Cause::Closed),
];
/// For those that make a buffer.
pub(super) const CREATE: Meanings = &[
    (libc::EOPNOTSUPP, Cause::PageSizeUnsupported),
    (libc::EOVERFLOW, Cause::SizeTooLarge),
];
/// For donations, of which the record says a range.
pub(super) const IMPORT: Meanings = &[
    (libc::EOPNOTSUPP, Cause::PageSizeUnsupported),
    (libc::EOVERFLOW, Cause::RangeOverflow),
    (libc::EIO, Cause::Poisoned),
];
/// For those that are about a pool.
pub(super) const POOL: Meanings = &[
    (libc::EOPNOTSUPP, Cause::PageSizeUnsupported),
    (libc::EBUSY, Cause::AccountBusy),
];
/// For those that put pages into a buffer.
pub(super) const FILL: Meanings = &[
    (libc::EIO, Cause::Poisoned),
    (libc::EOVERFLOW, Cause::RangeOverflow),
];
/// For those that take pages out of one.
pub(super) const CUT: Meanings = &[
    (libc::EBUSY, Cause::Pinned),
    (libc::EPERM, Cause::Sealed),
    (libc::EOVERFLOW, Cause::RangeOverflow),
];
/// For seals.
pub(super) const SEAL: Meanings = &[(libc::EOVERFLOW, Cause::PinOverflow)];
/// For those that look at one.
pub(super) const LOOK: Meanings = &[(libc::EOVERFLOW, Cause::RangeOverflow)];

/// Why the device said no. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceError {
    asked: String,
    errno: i32,
    cause: Option<Cause>,
    /// What to do next, where the call knows better than the number.
    advice: Option<&'static str>,
}

impl DeviceError {
    pub(super) fn new(asked: impl Into<String>, error: &io::Error, meanings: Meanings) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let meant = meanings.iter().chain(ANY).find(|(of, _)| *of == errno);
        Self {
            asked: asked.into(),
            errno,
            cause: meant.map(|(_, cause)| *cause),
            advice: None,
        }
    }

    /// The same, of a donation: no right of the caller's is missing, but one of the file's.
    pub(super) fn of_donation(asked: impl Into<String>, error: &io::Error) -> Self {
        let error = Self::new(asked, error, IMPORT);
        let advice = match error.errno {
            libc::EACCES => Some("open the memfd for reading and writing"),
            libc::EPERM => Some("its seals forbid writing: donate a memfd without F_SEAL_WRITE and F_SEAL_FUTURE_WRITE"),
            _ => None,
        };
        Self { advice, ..error }
    }

    /// Refused on this side, before the kernel was asked.
    pub(super) fn of_cause(asked: impl Into<String>, cause: Cause) -> Self {
        Self {
            asked: asked.into(),
            errno: cause.errno(),
            cause: Some(cause),
            advice: None,
        }
    }

    /// The number that the kernel answered.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        self.errno
    }

    /// The reason in the core's terms, where the number leaves one only.
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// What was refused, why, and what to do next, without a line break.
    pub(crate) fn in_one_line(&self) -> String {
        self.to_string().replace('\n', "; ")
    }

    fn advice(&self) -> Option<&'static str> {
        if self.advice.is_some() {
            return self.advice;
        }
        Some(match (self.errno, self.cause) {
            (_, Some(Cause::Pinned)) => "end what uses the range first: a device, or a program that does direct I/O to it",
            (_, Some(Cause::Sealed)) => "take the seals away first; a dma-buf that a device is attached to is one",
            (_, Some(Cause::NotPresent)) => "populate the range first",
            (_, Some(Cause::NoRoom)) => "grow the module's pool: htlb pool 2M 512 --device, as root; `htlb info` shows what it has",
            (_, Some(Cause::AccountLimit)) => "drop a buffer, or have the limit raised: `htlb info` shows it",
            (libc::EPERM | libc::EACCES, _) => "this takes CAP_SYS_ADMIN: run as root",
            (libc::ENOTTY, _) => "this is no file of the htlb module, or of one that is older than this program",
            _ => return None,
        })
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} in /dev/htlb: ", self.asked)?;
        match self.cause {
            Some(cause) => cause.fmt(f)?,
            None => io::Error::from_raw_os_error(self.errno).fmt(f)?,
        }
        match self.advice() {
            Some(advice) => write!(f, "\n{advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DeviceError {}

impl From<DeviceError> for io::Error {
    fn from(error: DeviceError) -> Self {
        io::Error::new(io::Error::from_raw_os_error(error.errno).kind(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: i32, meanings: Meanings) -> DeviceError {
        DeviceError::new("try", &io::Error::from_raw_os_error(errno), meanings)
    }

    #[test]
    fn a_number_is_named_where_the_call_leaves_one_cause() {
        assert_eq!(of(libc::EPERM, CUT).cause(), Some(Cause::Sealed));
        assert_eq!(of(libc::EPERM, POOL).cause(), None);
        assert_eq!(of(libc::EBUSY, CUT).cause(), Some(Cause::Pinned));
        assert_eq!(of(libc::EINVAL, CREATE).cause(), None);
        assert_eq!(of(libc::EINVAL, CREATE).errno(), libc::EINVAL);
    }

    #[test]
    fn every_name_gives_the_number_back() {
        for table in [ANY, CREATE, IMPORT, POOL, FILL, CUT, SEAL, LOOK] {
            for (errno, cause) in table {
                assert_eq!(cause.errno(), *errno, "{cause:?}");
            }
        }
    }

    #[test]
    fn a_donor_is_told_what_the_file_lacks_and_not_to_be_root() {
        for (errno, advice) in [
            (libc::EACCES, "reading and writing"),
            (libc::EPERM, "F_SEAL_WRITE"),
        ] {
            let error = DeviceError::of_donation("import", &io::Error::from_raw_os_error(errno));
            let text = error.to_string();
            assert!(text.contains(advice) && !text.contains("root"), "{text}");
            assert_eq!((error.errno(), error.cause()), (errno, None));
        }
        let beyond =
            DeviceError::of_donation("import", &io::Error::from_raw_os_error(libc::EOVERFLOW));
        assert_eq!(beyond.cause(), Some(Cause::RangeOverflow));
    }

    #[test]
    fn what_it_says_names_what_to_do() {
        let text = of(libc::EPERM, POOL).to_string();
        assert!(
            text.starts_with("cannot try in /dev/htlb: ") && text.contains("root"),
            "{text}"
        );
        assert!(!of(libc::EPERM, CUT).to_string().contains("root"));
    }
}
