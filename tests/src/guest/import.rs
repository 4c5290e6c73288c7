// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Imports: a hugetlb memfd and a buffer that share their pages, and what the one may do to the other.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{Import, Info, Record};
use htlb_core::HugeSize;
use htlb_user::device::{ioctl_bytes, Device, DeviceBuffer, DeviceError, Export};
use rustix::fs::{
    fallocate, fcntl_add_seals, ftruncate, memfd_create, FallocateFlags, MemfdFlags, SealFlags,
};
use rustix::io::Errno;

use super::span::{faults, in_child, HugetlbPool, Span, HUGE};
use super::{cases, skip, Group, Module};
use crate::kmod::importer::{Direction, Importer, View};

pub(super) const GROUP: Group = Group {
    name: "import",
    modules: &[
        Module::new("htlb_importer", ""),
        Module::new("htlb_leaves", ""),
        Module::new("htlb", "pages_2m=2"),
    ],
    cases: || {
        cases![
            both_files_share_their_pages,
            one_entry_and_one_fault_a_page,
            holes_of_the_file_get_pages,
            a_part_of_a_file_can_be_imported,
            what_cannot_be_imported_is_refused,
            hugetlb_without_pages_is_an_error_that_changes_nothing,
            the_donor_shrinks_the_file,
            the_donor_punches_the_file,
            the_donor_cannot_forbid_writing_meanwhile,
            the_donor_goes,
            pages_cannot_be_given_back_one_by_one,
            private_copies_and_pins_are_refused,
            two_imports_share_a_file,
            a_mapping_is_cut_and_inherited,
            an_import_is_exported,
            a_gibibyte_page_is_imported,
        ]
    },
};

const PAGES: u64 = 4;
const LEN: usize = PAGES as usize * HUGE;

/// A memfd of so many bytes in huge pages, none of them populated.
fn memfd(bytes: u64, size: MemfdFlags) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::ALLOW_SEALING | size;
    let fd = memfd_create("donated", flags)?;
    ftruncate(&fd, bytes)?;
    Ok(fd)
}

/// Hugetlb's pool with twice what a file takes, and a file.
fn donor() -> Result<(HugetlbPool, OwnedFd)> {
    let pool = HugetlbPool::of(HugeSize::MIB2, 2 * PAGES)?;
    ensure!(pool.total()? == 2 * PAGES, "hugetlb has {}", pool.total()?);
    Ok((pool, memfd(LEN as u64, MemfdFlags::HUGE_2MB)?))
}

fn import_all(device: &Device, file: &OwnedFd) -> Result<DeviceBuffer, DeviceError> {
    device.import(file.as_fd(), 0, LEN as u64)
}

fn donated(device: &Device) -> Result<u64> {
    Ok(device.stats(HugeSize::MIB2, None)?.donated)
}

fn number<T: std::fmt::Debug>(answer: Result<T, DeviceError>) -> i32 {
    answer.expect_err("it is refused").errno()
}

fn both_files_share_their_pages() -> Result<()> {
    let (pool, file) = donor()?;
    let device = Device::open()?;
    let before = device.stats(HugeSize::MIB2, None)?;
    let donor = Span::shared(&file, LEN)?;
    donor.stamp(1);
    let buffer = import_all(&device, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    ensure!(
        view.has_stamp(1, LEN),
        "the buffer has not what the donor wrote"
    );
    view.stamp(2);
    ensure!(
        donor.has_stamp(2, LEN),
        "the donor has not what came through the buffer"
    );

    let info = buffer.info()?;
    ensure!(
        info.bytes == LEN as u64 && info.capacity == LEN as u64 && info.populated == LEN as u64,
        "{info:?}"
    );
    ensure!(
        info.promised == 0 && info.rungs == u64::from(Info::RUNG_DONATED),
        "{info:?}"
    );
    let place = buffer.lookup(HUGE as u64 + 12)?;
    ensure!(
        place.size == HugeSize::MIB2 && place.physical % HUGE as u64 == 12,
        "{place:?}"
    );
    let after = device.stats(HugeSize::MIB2, None)?;
    ensure!(
        after.donated == LEN as u64,
        "{} bytes are donated",
        after.donated
    );
    let nodes = place.node.context("no node")?;
    ensure!(
        device.stats(HugeSize::MIB2, Some(nodes))?.donated > 0,
        "none of them on {nodes:?}"
    );
    ensure!(
        after.total == before.total && after.free == before.free,
        "they are no pool's: {after:?}"
    );
    super::rest::check().map_err(anyhow::Error::msg)?;

    drop((donor, file));
    ensure!(pool.free()? == PAGES, "the buffer holds them");
    drop((view, buffer));
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    ensure!(donated(&device)? == 0);
    Ok(())
}

fn one_entry_and_one_fault_a_page() -> Result<()> {
    let (_pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    ensure!(view.address() % HUGE == 0, "at {:#x}", view.address());
    let before = faults();
    for at in (0..LEN).step_by(4096) {
        view.write(at, 1);
    }
    let took = faults() - before;
    // One each, and what the code of this program takes.
    ensure!(took <= PAGES as i64 + 4, "{took} faults");
    let leaves = view.leaves()?;
    ensure!(
        (leaves.pud, leaves.pmd, leaves.pte) == (0, PAGES, 0),
        "{leaves:?}"
    );
    Ok(())
}

fn holes_of_the_file_get_pages() -> Result<()> {
    let (pool, file) = donor()?;
    ensure!(pool.free()? == 2 * PAGES);
    let buffer = import_all(&Device::open()?, &file)?;
    ensure!(pool.free()? == PAGES, "{} are free", pool.free()?);
    let view = Span::shared(&buffer, LEN)?;
    ensure!((0..LEN).step_by(8).all(|at| view.word(at) == 0), "not zero");
    view.stamp(3);
    ensure!(Span::shared(&file, LEN)?.has_stamp(3, LEN));
    Ok(())
}

fn a_part_of_a_file_can_be_imported() -> Result<()> {
    let (_pool, file) = donor()?;
    let donor = Span::shared(&file, LEN)?;
    donor.stamp(4);
    let device = Device::open()?;
    let buffer = device.import(file.as_fd(), HUGE as u64, 2 * HUGE as u64)?;
    ensure!(buffer.size()? == 2 * HUGE as u64);
    let view = Span::shared(&buffer, 2 * HUGE)?;
    for at in (0..2 * HUGE).step_by(4096) {
        ensure!(
            view.word(at) == 4 ^ (at + HUGE) as u64,
            "byte {at} is another's"
        );
    }
    Ok(())
}

fn what_cannot_be_imported_is_refused() -> Result<()> {
    let (pool, file) = donor()?;
    let device = Device::open()?;
    let len = LEN as u64;
    let huge = HUGE as u64;
    let import = |fd: &OwnedFd, offset, len| number(device.import(fd.as_fd(), offset, len));

    for (offset, part) in [(0, huge - 4096), (4096, huge), (0, 4096), (huge / 2, huge)] {
        ensure!(
            import(&file, offset, part) == libc::EINVAL,
            "{part} bytes from {offset}"
        );
    }
    ensure!(import(&file, 0, 0) == libc::EINVAL);
    ensure!(import(&file, 0, len + huge) == libc::ENXIO);
    ensure!(import(&file, len, huge) == libc::ENXIO);
    ensure!(import(&file, 1 << 62, huge) == libc::ENXIO);
    ensure!(import(&file, u64::MAX - huge + 1, huge) == libc::EOVERFLOW);

    let small = memfd_create("small", MemfdFlags::CLOEXEC)?;
    ftruncate(&small, len)?;
    ensure!(import(&small, 0, len) == libc::EOPNOTSUPP, "base pages");
    ensure!(import(&OwnedFd::from(File::open("/dev/null")?), 0, len) == libc::EOPNOTSUPP);
    let own = OwnedFd::from(import_all(&device, &file)?);
    ensure!(
        import(&own, 0, len) == libc::EOPNOTSUPP,
        "a buffer of our own"
    );
    drop(own);

    let by_name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let read_only = OwnedFd::from(File::open(&by_name)?);
    ensure!(
        import(&read_only, 0, len) == libc::EACCES,
        "a file that may only be read"
    );
    let sealed = memfd(len, MemfdFlags::HUGE_2MB)?;
    fcntl_add_seals(&sealed, SealFlags::WRITE)?;
    ensure!(
        import(&sealed, 0, len) == libc::EPERM,
        "a file that is sealed"
    );

    // What the library would not say.
    let device_fd = File::options().read(true).write(true).open("/dev/htlb")?;
    let raw = |record: Import| {
        let mut bytes = vec![0; Import::SIZE as usize];
        record.encode(&mut bytes);
        ioctl_bytes(device_fd.as_fd(), Import::IOCTL, &mut bytes)
            .expect_err("it is refused")
            .raw_os_error()
    };
    let good = Import {
        size: Import::SIZE,
        len,
        memfd: file.as_raw_fd(),
        ..Import::default()
    };
    ensure!(raw(Import { memfd: -1, ..good }) == Some(libc::EBADF));
    ensure!(raw(Import { memfd: 999, ..good }) == Some(libc::EBADF));
    ensure!(raw(Import { flags: 1, ..good }) == Some(libc::EINVAL));
    ensure!(
        raw(Import {
            reserved: 1,
            ..good
        }) == Some(libc::EINVAL)
    );

    ensure!(donated(&device)? == 0, "{} bytes stayed", donated(&device)?);
    drop((file, read_only, sealed));
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    Ok(())
}

fn hugetlb_without_pages_is_an_error_that_changes_nothing() -> Result<()> {
    let pool = HugetlbPool::of(HugeSize::MIB2, PAGES / 2)?;
    let file = memfd(LEN as u64, MemfdFlags::HUGE_2MB)?;
    let device = Device::open()?;
    ensure!(number(import_all(&device, &file)) == libc::ENOMEM);
    ensure!(donated(&device)? == 0);
    drop(file);
    ensure!(pool.free()? == PAGES / 2, "{} are free", pool.free()?);
    Ok(())
}

fn the_donor_shrinks_the_file() -> Result<()> {
    let (pool, file) = donor()?;
    Span::shared(&file, LEN)?.stamp(5);
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    view.write(0, 5);
    ftruncate(&file, HUGE as u64)?;
    ensure!(view.has_stamp(5, LEN), "the buffer lost what it held");
    ensure!(
        pool.free()? == PAGES,
        "pages that the buffer has are not free"
    );
    // A page that is touched for the first time after the donor lost it.
    let second = Span::shared(&buffer, LEN)?;
    ensure!(second.has_stamp(5, LEN));
    ftruncate(&file, LEN as u64)?;
    let donor = Span::shared(&file, LEN)?;
    ensure!(donor.word(HUGE) == 0, "a new page of the donor's is zero");
    donor.write(HUGE, 6);
    ensure!(
        view.has_stamp(5, LEN),
        "the donor's new page is not the buffer's"
    );
    drop((donor, view, second, buffer));
    ensure!(pool.free()? == 2 * PAGES - 2, "{} are free", pool.free()?);
    drop(file);
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    Ok(())
}

fn the_donor_punches_the_file() -> Result<()> {
    let (pool, file) = donor()?;
    let donor = Span::shared(&file, LEN)?;
    donor.stamp(7);
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, hole, HUGE as u64, HUGE as u64)?;
    ensure!(view.has_stamp(7, LEN), "the buffer lost what it held");
    ensure!(donor.word(HUGE) == 0, "the donor has a new page there");
    donor.write(HUGE + 8, 8);
    view.write(HUGE + 16, 9);
    ensure!(
        view.word(HUGE + 8) == 0 && donor.word(HUGE + 16) == 0,
        "they share it still"
    );
    donor.write(8, 10);
    ensure!(view.word(8) == 10, "the other pages are shared");
    drop((donor, view, buffer, file));
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    Ok(())
}

fn the_donor_cannot_forbid_writing_meanwhile() -> Result<()> {
    let (pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
    ensure!(
        fcntl_add_seals(&file, SealFlags::WRITE) == Err(Errno::BUSY),
        "the buffer can be written to"
    );
    let view = Span::shared(&buffer, LEN)?;
    view.stamp(11);
    drop((view, buffer));
    fcntl_add_seals(&file, SealFlags::WRITE).context("after the buffer's end")?;
    drop(file);
    ensure!(pool.free()? == 2 * PAGES);
    Ok(())
}

fn the_donor_goes() -> Result<()> {
    let (pool, file) = donor()?;
    Span::shared(&file, LEN)?.stamp(12);
    let device = Device::open()?;
    let buffer = import_all(&device, &file)?;
    drop((file, device));
    let view = Span::shared(&buffer, LEN)?;
    drop(buffer);
    ensure!(view.has_stamp(12, LEN));
    ensure!(pool.free()? == PAGES);
    drop(view);
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    Ok(())
}

fn pages_cannot_be_given_back_one_by_one() -> Result<()> {
    let (_pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    view.stamp(13);
    let huge = HUGE as u64;
    ensure!(number(buffer.punch(0, huge)) == libc::EPERM);
    ensure!(number(buffer.truncate(huge)) == libc::EPERM);
    ensure!(number(buffer.truncate(LEN as u64 + huge)) == libc::EFBIG);
    ensure!(buffer.populate(0, LEN as u64)? == 0, "all of it is there");
    ensure!(
        buffer.reserve(0, LEN as u64)? == 0,
        "nothing is left to promise"
    );
    buffer.seal()?;
    buffer.unseal()?;
    ensure!(buffer.size()? == LEN as u64 && view.has_stamp(13, LEN));
    Ok(())
}

fn private_copies_and_pins_are_refused() -> Result<()> {
    let (_pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    let refused = Span::private(&buffer, LEN).expect_err("they are frames");
    ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
    let view = Span::shared(&buffer, LEN)?;
    view.write(0, 14);
    let refused = view.hold().expect_err("they are frames");
    ensure!(refused.raw_os_error() == Some(libc::EFAULT), "{refused}");
    // The donor's own mapping has what the buffer's lacks.
    let donor = Span::shared(&file, LEN)?;
    ensure!(donor.word(0) == 14);
    drop(donor.hold()?);
    Ok(())
}

fn two_imports_share_a_file() -> Result<()> {
    let (pool, file) = donor()?;
    let device = Device::open()?;
    let (first, second) = (import_all(&device, &file)?, import_all(&device, &file)?);
    ensure!(
        donated(&device)? == 2 * LEN as u64,
        "each counts what it holds"
    );
    let (one, two) = (Span::shared(&first, LEN)?, Span::shared(&second, LEN)?);
    one.stamp(15);
    ensure!(two.has_stamp(15, LEN));
    drop((one, first));
    ensure!(two.has_stamp(15, LEN) && donated(&device)? == LEN as u64);
    drop(file);
    ensure!(two.has_stamp(15, LEN) && pool.free()? == PAGES);
    drop((two, second));
    ensure!(pool.free()? == 2 * PAGES && donated(&device)? == 0);
    Ok(())
}

fn a_mapping_is_cut_and_inherited() -> Result<()> {
    let (_pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    view.stamp(16);
    // Half of the last page goes: what is left of it is mapped by smaller entries.
    view.unmap(LEN - HUGE / 2, HUGE / 2)?;
    ensure!(
        view.has_stamp(16, LEN - HUGE / 2),
        "what is left of a cut page"
    );
    let seen = in_child(|| {
        view.write(8, 17);
        view.has_stamp(16, LEN - HUGE / 2)
    })?;
    ensure!(seen && view.word(8) == 17, "a child has the same pages");
    let refused = view
        .advise(0, LEN - HUGE, libc::MADV_DONTNEED)
        .expect_err("they are frames");
    ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
    ensure!(view.word(8) == 17 && view.word(0) == 16);
    Ok(())
}

fn an_import_is_exported() -> Result<()> {
    let (pool, file) = donor()?;
    Span::shared(&file, LEN)?.stamp(18);
    let buffer = import_all(&Device::open()?, &file)?;
    let dma_buf = buffer.export(0, 0, Export::Writable)?;
    drop((buffer, file));
    let importer = Importer::open()?;
    let attachment = importer.attach(dma_buf.as_fd())?;
    let table = importer.map(&attachment, Direction::Bidirectional)?;
    ensure!(table.bytes == LEN as u64, "{table:?}");
    importer.select(&attachment, View::Device)?;
    let mut word = [0; 8];
    for at in (0..LEN as u64).step_by(HUGE / 4) {
        ensure!(importer.read_at(&mut word, at)? == 8);
        ensure!(u64::from_ne_bytes(word) == 18 ^ at, "byte {at}");
    }
    importer.unmap(&attachment)?;
    importer.detach(attachment)?;
    let view = Span::shared(&dma_buf, LEN)?;
    ensure!(view.has_stamp(18, LEN), "by way of the dma-buf");
    drop((view, dma_buf));
    // The last reference to a dma-buf is dropped a moment after its descriptor.
    for _ in 0..50 {
        if pool.free()? == 2 * PAGES {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    anyhow::bail!("{} are free", pool.free()?)
}

fn a_gibibyte_page_is_imported() -> Result<()> {
    const GIB: usize = 1 << 30;
    if !fs::exists("/sys/kernel/mm/hugepages/hugepages-1048576kB")? {
        return skip("this processor has no 1 GiB pages");
    }
    let pool = HugetlbPool::of(HugeSize::GIB1, 1)?;
    if pool.total()? == 0 {
        return skip(crate::skip::NO_FREE_GIB);
    }
    let file = memfd(GIB as u64, MemfdFlags::HUGE_1GB)?;
    let buffer = Device::open()?.import(file.as_fd(), 0, GIB as u64)?;
    let view = Span::shared(&buffer, GIB)?;
    ensure!(view.address() % GIB == 0, "at {:#x}", view.address());
    let before = faults();
    for at in (0..GIB).step_by(HUGE) {
        view.write(at, at as u64);
    }
    // One, and what the code of this program takes.
    let took = faults() - before;
    ensure!(took <= 4, "{took} faults");
    let leaves = view.leaves()?;
    ensure!(
        (leaves.pud, leaves.pmd, leaves.pte) == (1, 0, 0),
        "{leaves:?}"
    );
    let refused = view.unmap(HUGE / 2, HUGE).expect_err("a part of a page");
    ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
    let donor = Span::shared(&file, GIB)?;
    ensure!((0..GIB).step_by(HUGE).all(|at| donor.word(at) == at as u64));
    drop((donor, view, buffer, file));
    ensure!(pool.free()? == 1, "it is hugetlb's again");
    Ok(())
}
