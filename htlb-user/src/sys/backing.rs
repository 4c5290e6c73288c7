// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a window is made of: where its bytes live, who else has them, and what the kernel is told about them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::memfd::Memfd;

/// What the kernel maps into a window.
#[derive(Debug)]
pub enum Backing {
    /// Private anonymous memory: transparent huge pages or base pages.
    Private,
    /// Anonymous memory that a forked child shares.
    SharedAnonymous,
    /// A memory file that this window alone maps.
    Sole(Memfd),
    /// A file that other processes may have too.
    Shared(OwnedFd, Peers),
    /// A buffer of `/dev/htlb` that this window alone maps.
    Device(OwnedFd),
}

/// Whether the other processes that have a file keep to the rules.
///
/// Rust cannot see them, so this is a statement, not a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Nobody writes where this process holds a slice, and this process maps the file in no other window.
    Trusted,
    /// Anybody may write at any time: the window gives no slices, only copies.
    Untrusted,
}

/// What a forked child gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// What the kernel does by itself.
    Inherit,
    /// Nothing: no address space, no pages, no reservation.
    #[doc(alias = "MADV_DONTFORK")]
    Exclude,
}

/// What can be told to the kernel about a part of a window; none of it changes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Use transparent huge pages here.
    HugePage,
    /// Do not.
    NoHugePage,
    /// Make transparent huge pages of what is here, now (Linux 6.1).
    Collapse,
    /// A child does not get it.
    DontFork,
    /// A core dump does not get it.
    DontDump,
}

impl Advice {
    pub(super) const fn raw(self) -> libc::c_int {
        match self {
            Self::HugePage => libc::MADV_HUGEPAGE,
            Self::NoHugePage => libc::MADV_NOHUGEPAGE,
            Self::Collapse => 25,
            Self::DontFork => libc::MADV_DONTFORK,
            Self::DontDump => libc::MADV_DONTDUMP,
        }
    }
}

impl Backing {
    /// The file, if it is one.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Private | Self::SharedAnonymous => None,
            Self::Sole(memfd) => Some(memfd.descriptor()),
            Self::Shared(file, _) | Self::Device(file) => Some(file.as_fd()),
        }
    }
}
