// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Windows, leases and populate on the running kernel.

use std::os::fd::AsFd;
use std::sync::Arc;

use htlb_core::{ByteLen, ByteOffset, ByteRange, Error, HugeSize, NodeId};
use htlb_user::sys::clear::Caches;
use htlb_user::sys::memfd::{Kind, Memfd};
use htlb_user::sys::numa::{self, Existing, Place, Policy};
use htlb_user::sys::pagemap::{self, HugeSource};
use htlb_user::sys::populate::{PopulateError, Populated};
use htlb_user::sys::window::{Advice, Backing, Fork, Peers, Window, WindowError};
use htlb_user::sys::{base_page_bytes, process};

mod system_support;
use system_support::{skipped, PoolGuard};

const MIB2: u64 = 2 << 20;

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), ByteLen::new(len)).unwrap()
}

fn shmem(pages: u64) -> Arc<Window> {
    let file = Memfd::new(Kind::Shmem).unwrap();
    file.set_len(ByteLen::new(pages * 4096)).unwrap();
    let len = ByteLen::new(pages * 4096);
    Arc::new(Window::reserve(Backing::Sole(file), len, HugeSize::BASE, Fork::Exclude).unwrap())
}

fn hugetlb(pages: u64) -> Arc<Window> {
    let file = Memfd::new(Kind::Hugetlb(HugeSize::MIB2)).unwrap();
    file.set_len(ByteLen::new(pages * MIB2)).unwrap();
    let len = ByteLen::new(pages * MIB2);
    Arc::new(Window::reserve(Backing::Sole(file), len, HugeSize::MIB2, Fork::Exclude).unwrap())
}

#[test]
fn a_window_is_aligned_and_grows_in_parts() {
    for granule in [HugeSize::BASE, HugeSize::MIB2, HugeSize::GIB1] {
        let len = ByteLen::new(granule.bytes() + 1);
        let window = Window::reserve(Backing::Private, len, granule, Fork::Exclude).unwrap();
        assert_eq!(window.base().as_ptr().addr() as u64 % granule.bytes(), 0);
        assert_eq!(window.len().raw(), 2 * granule.bytes());
    }
    let window = shmem(8);
    let (first, last) = (range(0, 4096), range(28672, 4096));
    assert_eq!(
        window.lease(first).unwrap_err(),
        WindowError::Leased,
        "not mapped yet"
    );
    window.map(first).unwrap();
    window.map(last).unwrap();
    assert_eq!(window.map(first), Err(WindowError::Mapping));
    assert_eq!(window.unmap(range(4096, 4096)), Err(WindowError::Mapping));
    assert_eq!(
        window.map(range(8192, 32768)),
        Err(WindowError::Range(Error::RangeBeyondEnd))
    );
    assert_eq!(
        window.map(range(100, 4096)),
        Err(WindowError::Range(Error::RangeUnaligned))
    );
    let mut lease = window.lease(last).unwrap();
    lease.bytes_mut().unwrap().fill(3);
    assert_eq!(window.lease(last).unwrap_err(), WindowError::Leased);
    assert_eq!(window.unmap(last), Err(WindowError::Leased));
    assert_eq!(window.discard(last), Err(WindowError::Leased));
    drop(lease);
    window.unmap(last).unwrap();
    window.map(last).unwrap();
    let lease = window.lease(last).unwrap();
    assert!(
        lease.bytes().unwrap().iter().all(|b| *b == 3),
        "the file kept the bytes"
    );
    drop(lease);
    window.discard(last).unwrap();
    assert!(window
        .lease(last)
        .unwrap()
        .bytes()
        .unwrap()
        .iter()
        .all(|b| *b == 0));
}

#[test]
fn sizes_at_the_edge_are_errors() {
    let reserve = |len| {
        Window::reserve(
            Backing::Private,
            ByteLen::new(len),
            HugeSize::MIB2,
            Fork::Exclude,
        )
    };
    assert_eq!(reserve(0).unwrap_err(), WindowError::Range(Error::SizeZero));
    for len in [u64::MAX, ByteLen::MAX.raw() + 1, ByteLen::MAX.raw()] {
        assert_eq!(
            reserve(len).unwrap_err(),
            WindowError::Range(Error::SizeTooLarge)
        );
    }
    assert!(matches!(reserve(1 << 60).unwrap_err(), WindowError::Kernel(f) if f.is(libc::ENOMEM)));
}

#[test]
fn lease_copies_check_their_bounds() {
    let window = shmem(2);
    window.map(window.whole()).unwrap();
    let mut lease = window.lease(window.whole()).unwrap();
    lease
        .copy_from(ByteOffset::new(4090), b"over the edge")
        .unwrap();
    let mut out = [0; 13];
    lease.copy_to(ByteOffset::new(4090), &mut out).unwrap();
    assert_eq!(&out, b"over the edge");
    for offset in [8180, 8192, u64::MAX] {
        assert!(lease.copy_to(ByteOffset::new(offset), &mut out).is_err());
        assert!(lease.copy_from(ByteOffset::new(offset), &out).is_err());
    }
    lease.zero(Caches::Bypass);
    assert!(lease.bytes().unwrap().iter().all(|b| *b == 0));
    assert!(lease.split_off(ByteLen::new(100)).is_err());
    assert!(lease.split_off(ByteLen::new(8192)).is_err());
    let rest = lease.split_off(ByteLen::new(4096)).unwrap();
    drop(lease);
    assert!(window.lease(range(0, 4096)).is_ok() && window.lease(range(4096, 4096)).is_err());
    drop(rest);
    assert!(window.lease(window.whole()).is_ok());
}

#[test]
fn untrusted_peers_get_copies_only() {
    let make = |peers| {
        let file = Memfd::new(Kind::Shmem).unwrap();
        file.set_len(ByteLen::new(4096)).unwrap();
        let window = Window::reserve(
            Backing::Shared(file.share(), peers),
            ByteLen::new(4096),
            HugeSize::BASE,
            Fork::Exclude,
        );
        let window = Arc::new(window.unwrap());
        window.map(window.whole()).unwrap();
        window
    };
    let window = make(Peers::Untrusted);
    let mut lease = window.lease(window.whole()).unwrap();
    assert!(lease.bytes().is_none() && lease.bytes_mut().is_none());
    lease.copy_from(ByteOffset::ZERO, b"by copy").unwrap();
    let mut seen = [0; 7];
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::from(window.shared_file().unwrap().try_clone_to_owned().unwrap());
    file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"by copy");
    let window = make(Peers::Trusted);
    assert!(window.lease(window.whole()).unwrap().bytes().is_some());
}

#[test]
fn a_device_reads_into_a_lease() {
    let window = shmem(2);
    window.map(window.whole()).unwrap();
    let mut lease = window.lease(window.whole()).unwrap();
    let file = std::fs::File::open(file!().replace("htlb-user/", "")).unwrap();
    let got = lease
        .read_at(
            ByteOffset::new(16),
            ByteLen::new(64),
            file.as_fd(),
            ByteOffset::ZERO,
        )
        .unwrap();
    assert_eq!(got.raw(), 64);
    assert!(lease.bytes().unwrap()[16..].starts_with(b"// SPDX-License"));
    let past = lease.read_at(
        ByteOffset::new(8192),
        ByteLen::new(1),
        file.as_fd(),
        ByteOffset::ZERO,
    );
    assert_eq!(past, Err(WindowError::Range(Error::RangeBeyondEnd)));
}

#[test]
fn populate_keeps_bytes_and_shows_in_the_page_tables() {
    for backing in [Backing::Private, Backing::SharedAnonymous] {
        let window = Arc::new(
            Window::reserve(backing, ByteLen::new(16384), HugeSize::BASE, Fork::Exclude).unwrap(),
        );
        window.map(window.whole()).unwrap();
        window
            .lease(range(4096, 4096))
            .unwrap()
            .bytes_mut()
            .unwrap()[0] = 9;
        assert_eq!(pagemap::present(&window, window.whole()).unwrap().raw(), 1);
        window.populate_write(window.whole()).unwrap();
        assert_eq!(pagemap::present(&window, window.whole()).unwrap().raw(), 4);
        assert_eq!(
            window.lease(range(4096, 4096)).unwrap().bytes().unwrap()[0],
            9
        );
        let entries = pagemap::entries(&window, window.whole()).unwrap();
        let root = process::effective_user() == 0;
        assert!(entries
            .iter()
            .all(|e| e.is_exclusive() && (root || e.pfn().is_none())));
        window.discard(window.whole()).unwrap();
        assert_eq!(pagemap::present(&window, window.whole()).unwrap().raw(), 0);
        assert_eq!(
            window.lease(range(4096, 4096)).unwrap().bytes().unwrap()[0],
            0
        );
    }
    assert_eq!(base_page_bytes(), 4096, "this test counts in 4 KiB pages");
}

#[test]
fn the_node_of_a_page_is_asked_not_assumed() {
    let window = shmem(4);
    window.map(window.whole()).unwrap();
    match window.mbind(
        window.whole(),
        Policy::Bind(NodeId::ZERO.mask()),
        Existing::Refuse,
    ) {
        Err(WindowError::Kernel(f)) if f.is(libc::ENOSYS) || f.is(libc::EPERM) => {
            return skipped("the_node_of_a_page_is_asked_not_assumed", f);
        }
        other => other.unwrap(),
    }
    window.populate_write(range(0, 8192)).unwrap();
    let nodes = window.nodes(window.whole()).unwrap();
    assert_eq!(nodes[..2], [Place::On(NodeId::ZERO); 2]);
    assert_eq!(nodes[2..], [Place::Absent; 2]);
    let nowhere = Policy::Bind(NodeId::new(63).unwrap().mask());
    let refused = window.mbind(window.whole(), nowhere, Existing::Ignore);
    assert!(
        matches!(refused, Err(WindowError::Kernel(f)) if f.is(libc::EINVAL)),
        "{refused:?}"
    );
    for policy in [
        Policy::Default,
        Policy::Preferred(NodeId::ZERO),
        Policy::PreferredMany(NodeId::ZERO.mask()),
        Policy::Interleave(NodeId::ZERO.mask()),
    ] {
        window
            .mbind(window.whole(), policy, Existing::Move)
            .unwrap();
    }
    let here = numa::here().unwrap();
    assert!(numa::allowed_cpus().unwrap().contains(&here.cpu));
}

#[test]
fn transparent_huge_pages_are_verified() {
    let name = "transparent_huge_pages_are_verified";
    let len = ByteLen::new(2 * MIB2);
    let window = Window::reserve(Backing::Private, len, HugeSize::MIB2, Fork::Exclude).unwrap();
    window.map(window.whole()).unwrap();
    window.advise(window.whole(), Advice::NoHugePage).unwrap();
    window.populate_write(window.whole()).unwrap();
    assert_eq!(
        pagemap::huge_mapped(&window, window.whole())
            .unwrap()
            .bytes
            .raw(),
        0
    );
    // Of the other half the kernel's own thread would make one sooner or later.
    window.advise(range(0, MIB2), Advice::HugePage).unwrap();
    match window.advise(range(0, MIB2), Advice::Collapse) {
        Err(WindowError::Kernel(failure)) => return skipped(name, failure),
        other => other.unwrap(),
    }
    let half = pagemap::huge_mapped(&window, range(0, MIB2)).unwrap();
    assert_eq!(half.bytes.raw(), MIB2);
    if half.by == HugeSource::PageTables {
        assert_eq!(
            pagemap::huge_mapped(&window, range(MIB2, MIB2))
                .unwrap()
                .bytes
                .raw(),
            0
        );
    }
}

#[test]
fn hugetlb_shortage_is_a_value() {
    let Some(_pool) = PoolGuard::with_pages("hugetlb_shortage_is_a_value", 4) else {
        return;
    };
    let window = hugetlb(6);
    window.map(range(0, 3 * MIB2)).unwrap();
    // The kernel reserves at mmap; the pool has one page left that is not spoken for.
    let short = window.map(range(3 * MIB2, 2 * MIB2));
    assert!(
        matches!(short, Err(WindowError::Kernel(f)) if f.is(libc::ENOMEM)),
        "{short:?}"
    );
    // INVARIANT under test: a refused part is still address space of the window, and can be mapped when there are pages.
    window.map(range(3 * MIB2, MIB2)).unwrap();
    assert_eq!(
        window.populate_write(range(0, 4 * MIB2)).unwrap(),
        Populated::ByAdvice
    );
    assert!(window
        .nodes(range(0, 4 * MIB2))
        .unwrap()
        .iter()
        .all(|p| matches!(p, Place::On(_))));
    let huge = pagemap::huge_mapped(&window, range(0, 4 * MIB2)).unwrap();
    assert_eq!(huge.bytes.raw(), 4 * MIB2);
    if process::effective_user() == 0 {
        for entry in pagemap::entries(&window, range(0, 4 * MIB2)).unwrap() {
            let pfn = entry.pfn().unwrap();
            assert_eq!(pfn.raw() % 512, 0);
            let flags = pagemap::frame_flags(pfn).unwrap();
            assert!(flags.is_hugetlb() && flags.is_head() && !flags.is_poisoned());
        }
    }
    // A hole takes page and reservation along. Somebody else takes the page; then there is none to populate with.
    window.discard(range(0, MIB2)).unwrap();
    let other = hugetlb(1);
    other.map(other.whole()).unwrap();
    other.populate_write(other.whole()).unwrap();
    let short = window.populate_write(range(0, 4 * MIB2)).unwrap_err();
    assert!(matches!(short, PopulateError::Shortage(_)), "{short:?}");
    assert_eq!(
        pagemap::present(&window, range(0, 4 * MIB2)).unwrap().raw(),
        3
    );
    drop(other);
    window.populate_write(range(0, 4 * MIB2)).unwrap();
}

#[test]
fn a_granule_smaller_than_the_files_page_is_refused() {
    let file = Memfd::new(Kind::Hugetlb(HugeSize::MIB2));
    let Ok(file) = file else {
        return skipped(
            "a_granule_smaller_than_the_files_page_is_refused",
            "no hugetlb",
        );
    };
    let got = Window::reserve(
        Backing::Sole(file),
        ByteLen::new(MIB2),
        HugeSize::BASE,
        Fork::Exclude,
    );
    assert_eq!(got.unwrap_err(), WindowError::Range(Error::PageSizeInvalid));
}

#[test]
fn a_child_neither_sees_nor_unmaps_an_excluded_window() {
    let window = shmem(1);
    window.map(window.whole()).unwrap();
    window.lease(window.whole()).unwrap().bytes_mut().unwrap()[0] = 5;
    let inherited = Arc::new(
        Window::reserve(
            Backing::SharedAnonymous,
            ByteLen::new(4096),
            HugeSize::BASE,
            Fork::Inherit,
        )
        .unwrap(),
    );
    inherited.map(inherited.whole()).unwrap();
    let lease = inherited.lease(inherited.whole()).unwrap();
    let (hidden, shown) = (window.base().as_ptr().addr(), lease.as_ptr());
    // SAFETY: the child only calls async-signal-safe functions and leaves through _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: msync only asks whether the page is mapped; the inherited byte is shared and mapped in the child.
        unsafe {
            let gone = libc::msync(hidden as *mut _, 4096, libc::MS_ASYNC) == -1;
            let foreign = !window.is_mine()
                && window.map(window.whole()) == Err(WindowError::Mapping)
                && window.discard(window.whole()) == Err(WindowError::Mapping);
            drop(window);
            // Drop in a child unmaps nothing: the shared byte is still there afterwards.
            drop(lease);
            drop(inherited);
            shown.as_ptr().write_volatile(7);
            libc::_exit(if gone && foreign { 0 } else { 1 });
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(lease.bytes().unwrap()[0], 7);
    assert_eq!(window.lease(window.whole()).unwrap().bytes().unwrap()[0], 5);
}

#[test]
fn threads_that_map_lease_and_discard_never_share_a_page() {
    let window = shmem(8);
    std::thread::scope(|scope| {
        for seed in 1..=4_u64 {
            let window = &window;
            scope.spawn(move || {
                let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let (mut leased, mut refused) = (0, 0);
                for _ in 0..4000 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let first = state % 7;
                    let part = range(first * 4096, (1 + state / 7 % 2) * 4096);
                    match state / 64 % 8 {
                        0 => drop(window.map(part)),
                        1 => drop(window.unmap(part)),
                        2 => drop(window.discard(part)),
                        _ => match window.lease(part) {
                            Ok(mut lease) => {
                                leased += 1;
                                let bytes = lease.bytes_mut().unwrap();
                                bytes.fill(seed as u8);
                                std::thread::yield_now();
                                assert!(bytes.iter().all(|byte| *byte == seed as u8));
                            }
                            Err(_) => refused += 1,
                        },
                    }
                }
                assert!(leased > 0 && refused > 0);
            });
        }
    });
}
