// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The kernel's side: hugetlbfs mounts that no path leads to, their files and mappings, and the machine's counters.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use htlb_core::HugeSize;
use rustix::fs::{fallocate, fstat, fstatfs, ftruncate, openat, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, FsMountFlags, FsOpenFlags,
    MountAttrFlags,
};

use crate::mapping::Mapping;
use crate::op::{Access, Limits, Reserving, Span, FILES, MAPPINGS, MOUNTS};
use crate::world::Counted;
use crate::PAGE;

/// A file that has no name.
#[derive(Debug)]
struct OpenFile {
    // ORDER: the mappings go first, so that closing the file is its end.
    mappings: Vec<Mapping>,
    fd: OwnedFd,
}

/// The machine's counters and this case's mounts and files.
#[derive(Debug)]
pub(crate) struct Linux {
    files: [Option<OpenFile>; FILES],
    mounts: [Option<OwnedFd>; MOUNTS],
    counters: [File; 4],
    resize: File,
    overcommit: File,
}

impl Linux {
    /// The running kernel, without mounts.
    pub(crate) fn new() -> io::Result<Self> {
        let kib = HugeSize::MIB2.bytes() / 1024;
        let folder = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB");
        let read = |name: &str| File::open(format!("{folder}/{name}"));
        let write = |name: &str| File::options().write(true).open(format!("{folder}/{name}"));
        Ok(Self {
            files: Default::default(),
            mounts: Default::default(),
            counters: [
                read("nr_hugepages")?,
                read("free_hugepages")?,
                read("resv_hugepages")?,
                read("surplus_hugepages")?,
            ],
            resize: write("nr_hugepages")?,
            overcommit: write("nr_overcommit_hugepages")?,
        })
    }

    /// What the kernel counts now.
    pub(crate) fn counted(&self) -> Counted {
        let [nr, free, reserved, surplus] = self.counters.each_ref().map(|file| {
            let mut text = [0; 24];
            let length = file.read_at(&mut text, 0).expect("sysfs can be read");
            let text = std::str::from_utf8(&text[..length]).expect("digits");
            text.trim().parse().expect("a number")
        });
        Counted {
            nr,
            free,
            reserved,
            surplus,
        }
    }

    /// `f_blocks` and `f_bfree` of a mount.
    pub(crate) fn statfs(&self, mount: usize) -> Option<[u64; 2]> {
        let mount = self.mounts[mount].as_ref()?;
        let found = fstatfs(mount).expect("a mount can be asked");
        Some([found.f_blocks, found.f_bfree])
    }

    /// The size and the pages of a file.
    pub(crate) fn stat(&self, file: usize) -> [u64; 2] {
        let open = self.files[file].as_ref().expect("the core has it");
        let found = fstat(&open.fd).expect("a file can be asked");
        let [size, blocks] = [found.st_size, found.st_blocks].map(i64::unsigned_abs);
        [size / PAGE, blocks * 512 / PAGE]
    }

    /// Whether the file has a mapping of this number, and which pages that shows.
    pub(crate) fn mapped(&self, file: usize, mapping: usize) -> Option<Span> {
        let open = self.files[file].as_ref()?;
        open.mappings.get(mapping).map(Mapping::span)
    }

    fn file(&mut self, file: usize) -> &mut OpenFile {
        self.files[file].as_mut().expect("the core has this file")
    }

    pub(crate) fn map(
        &mut self,
        file: usize,
        span: Span,
        reserving: Reserving,
    ) -> Result<(), Errno> {
        let open = self.file(file);
        let new = Mapping::new(open.fd.as_fd(), span, reserving)?;
        if open.mappings.len() == MAPPINGS {
            drop(open.mappings.remove(0));
        }
        open.mappings.push(new);
        Ok(())
    }

    pub(crate) fn unmap(&mut self, file: usize, mapping: usize) {
        drop(self.file(file).mappings.remove(mapping));
    }

    pub(crate) fn fault(
        &mut self,
        file: usize,
        mapping: usize,
        part: Span,
        access: Access,
    ) -> Result<(), Errno> {
        self.file(file).mappings[mapping].populate(part, access)
    }

    pub(crate) fn allocate(&mut self, file: usize, span: Span) -> Result<(), Errno> {
        let none = FallocateFlags::empty();
        fallocate(&self.file(file).fd, none, span.at * PAGE, span.len * PAGE)
    }

    pub(crate) fn punch(&mut self, file: usize, span: Span) -> Result<(), Errno> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file(file).fd, mode, span.at * PAGE, span.len * PAGE)
    }

    pub(crate) fn truncate(&mut self, file: usize, pages: u64) -> Result<(), Errno> {
        ftruncate(&self.file(file).fd, pages * PAGE)
    }

    /// The file's end.
    pub(crate) fn close(&mut self, file: usize) {
        self.files[file] = None;
    }

    pub(crate) fn open(&mut self, file: usize, mount: usize) -> Result<(), Errno> {
        let mount = self.mounts[mount].as_ref().expect("the core has it");
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = openat(mount, ".", flags, Mode::RUSR | Mode::WUSR)?;
        self.files[file] = Some(OpenFile {
            mappings: Vec::new(),
            fd,
        });
        Ok(())
    }

    /// The mount's end; its files have gone before.
    pub(crate) fn unmount(&mut self, mount: usize) {
        self.mounts[mount] = None;
    }

    /// A mount that is attached nowhere: the kernel gives each a mount namespace of its own.
    pub(crate) fn mount(&mut self, mount: usize, limits: Limits) -> Result<(), Errno> {
        self.mounts[mount] = Some(detached(limits)?);
        Ok(())
    }

    /// Writes `nr_hugepages`.
    pub(crate) fn set_nr(&self, pages: u64) -> io::Result<()> {
        self.resize.write_at(pages.to_string().as_bytes(), 0)?;
        Ok(())
    }

    /// Writes `nr_overcommit_hugepages`.
    pub(crate) fn set_overcommit(&self, pages: u64) -> io::Result<()> {
        self.overcommit.write_at(pages.to_string().as_bytes(), 0)?;
        Ok(())
    }

    /// How often this machine had no huge page in one piece, since its boot.
    pub(crate) fn fragmented(&self) -> u64 {
        let all = fs::read_to_string("/proc/vmstat").expect("/proc can be read");
        let counter = all
            .lines()
            .find_map(|line| line.strip_prefix("htlb_buddy_alloc_fail "));
        counter.map_or(0, |number| number.parse().expect("a number"))
    }

    /// Makes pieces whole, as far as this kernel can.
    pub(crate) fn compact(&self) {
        // It helps, or the next attempt says that it did not.
        let _ = fs::write("/proc/sys/vm/compact_memory", "1");
    }

    /// The end of everything, and an empty pool.
    pub(crate) fn clear(&mut self) -> io::Result<Counted> {
        self.files = Default::default();
        self.mounts = Default::default();
        self.set_overcommit(0)?;
        self.set_nr(0)?;
        Ok(self.counted())
    }
}

fn detached(limits: Limits) -> Result<OwnedFd, Errno> {
    let context = fsopen("hugetlbfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set =
        |key, pages: u64| fsconfig_set_string(context.as_fd(), key, (pages * PAGE).to_string());
    set("pagesize", 1)?;
    if let Some(max) = limits.max {
        set("size", max)?;
    }
    if limits.min > 0 {
        set("min_size", limits.min)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}
