// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What is done to a machine: one list of operations, for the core and for the kernel.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;

/// Files that a case has, each on one of the mounts.
pub(crate) const FILES: usize = 4;
/// Mounts.
pub(crate) const MOUNTS: usize = 3;
/// Pages of a file at most.
pub(crate) const FILE_PAGES: u64 = 6;
/// Mappings of one file at most; the oldest goes when there is another.
pub(crate) const MAPPINGS: usize = 3;

/// Some pages of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) at: u64,
    pub(crate) len: u64,
}

impl Span {
    pub(crate) const fn end(self) -> u64 {
        self.at + self.len
    }

    /// What of it lies before `end`.
    pub(crate) fn before(self, end: u64) -> Self {
        let len = end.saturating_sub(self.at).min(self.len);
        Self { at: self.at, len }
    }

    pub(crate) fn pages(self) -> impl Iterator<Item = u64> {
        self.at..self.end()
    }
}

/// What a subpool is mounted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `size=`, in pages.
    pub(crate) max: Option<u64>,
    /// `min_size=`, in pages; none for 0.
    pub(crate) min: u64,
}

/// How a page is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Whether a mapping reserves its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reserving {
    /// `MAP_SHARED`.
    Reserve,
    /// `MAP_SHARED | MAP_NORESERVE`.
    NoReserve,
}

/// One operation. What a file or a mapping lacks at that moment makes it a step that does nothing, and is not counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// `mmap`: promises the holes of the span, and makes the file that long.
    Map {
        file: usize,
        span: Span,
        reserving: Reserving,
    },
    /// `munmap`.
    Unmap { file: usize, mapping: usize },
    /// `MADV_POPULATE_READ` or `_WRITE` on a part of a mapping: a page fault whose failure is an errno and no signal.
    Fault {
        file: usize,
        mapping: usize,
        span: Span,
        access: Access,
    },
    /// `fallocate`: populates ahead of any fault, and makes the file that long.
    Allocate { file: usize, span: Span },
    /// `fallocate` with `FALLOC_FL_PUNCH_HOLE`.
    Punch { file: usize, span: Span },
    /// `ftruncate`, either way.
    Truncate { file: usize, pages: u64 },
    /// The file's end, and an empty one, perhaps on another mount.
    Renew { file: usize, mount: usize },
    /// The end of a mount and of its files, and another one.
    Mount { mount: usize, limits: Limits },
    /// The end of a mount and of its files.
    Unmount { mount: usize },
    /// `nr_hugepages`.
    Resize { pages: u64 },
    /// `nr_overcommit_hugepages`.
    Overcommit { pages: u64 },
}

fn span() -> impl Strategy<Value = Span> {
    (0..FILE_PAGES).prop_flat_map(|at| (1..=FILE_PAGES - at).prop_map(move |len| Span { at, len }))
}

fn limits() -> impl Strategy<Value = Limits> {
    (
        weighted(0.6, 1..9u64),
        prop_oneof![3 => Just(0), 2 => 1..4u64],
    )
        .prop_map(|(max, min)| Limits {
            max,
            min: max.map_or(min, |max| min.min(max)),
        })
}

fn op() -> impl Strategy<Value = Op> {
    let file = || 0..FILES;
    let mapping = || 0..MAPPINGS;
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    let reserving = prop_oneof![3 => Just(Reserving::Reserve), 2 => Just(Reserving::NoReserve)];
    prop_oneof![
        20 => (file(), span(), reserving)
            .prop_map(|(file, span, reserving)| Op::Map { file, span, reserving }),
        3 => (file(), mapping()).prop_map(|(file, mapping)| Op::Unmap { file, mapping }),
        20 => (file(), mapping(), span(), access)
            .prop_map(|(file, mapping, span, access)| Op::Fault { file, mapping, span, access }),
        8 => (file(), span()).prop_map(|(file, span)| Op::Allocate { file, span }),
        14 => (file(), span()).prop_map(|(file, span)| Op::Punch { file, span }),
        10 => (file(), 0..=FILE_PAGES).prop_map(|(file, pages)| Op::Truncate { file, pages }),
        4 => (file(), 0..MOUNTS).prop_map(|(file, mount)| Op::Renew { file, mount }),
        2 => (0..MOUNTS, limits()).prop_map(|(mount, limits)| Op::Mount { mount, limits }),
        5 => (0..=12u64).prop_map(|pages| Op::Resize { pages }),
        4 => (0..=4u64).prop_map(|pages| Op::Overcommit { pages }),
    ]
}

/// A case: a machine of 4 to 12 pages with three mounts and four files, and what happens to it.
pub(crate) fn case() -> impl Strategy<Value = Vec<Op>> {
    let pages = (4..=12u64).prop_map(|pages| Op::Resize { pages });
    let overcommit = (0..=3u64).prop_map(|pages| Op::Overcommit { pages });
    let mounts = [limits(), limits(), limits()];
    let files = vec(0..MOUNTS, FILES);
    (pages, overcommit, mounts, files, vec(op(), 1..=160)).prop_map(
        |(pages, overcommit, mounts, files, ops)| {
            let mounts = mounts.into_iter().enumerate();
            let files = files.into_iter().enumerate();
            [pages, overcommit]
                .into_iter()
                .chain(mounts.map(|(mount, limits)| Op::Mount { mount, limits }))
                .chain(files.map(|(file, mount)| Op::Renew { file, mount }))
                .chain(ops)
                .collect()
        },
    )
}
