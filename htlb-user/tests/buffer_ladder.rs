// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What is got on which machine, and what is said where it is not the first choice.

use std::fs;
use std::os::unix::fs::MetadataExt;

use htlb_core::{
    AddressBits, ByteLen, Contiguity, Error as Cause, Fallback, HugeSize, NodeId, NodeMask,
    NodePolicy, PageCount, Rung,
};
use htlb_tests::host::PoolLease;
use htlb_tests::skip::{skip, NO_GIB_PAGES};
use htlb_user::buffer::{Layout, Populate};
use htlb_user::pools::Pools;
use htlb_user::system::Root;

mod buffer_support;
use buffer_support::{
    again_after, can_unshare, cause, huge, limited, mib2, role, transparent, went_well, MIB2, PAGE,
};

fn bits(bits: u32) -> AddressBits {
    AddressBits::new(bits).unwrap()
}

#[test]
fn base_pages_are_everywhere() {
    let pools = Pools::new().unwrap();
    let buffer = pools.buffer(3 * PAGE + 1).base_pages().create().unwrap();
    let receipt = buffer.receipt();
    assert_eq!(receipt.asked, ByteLen::new(3 * PAGE + 1));
    assert_eq!(receipt.populated, ByteLen::new(4 * PAGE));
    assert!(receipt.is_first_choice() && receipt.huge().is_zero());
    let [share] = receipt.shares.as_slice() else {
        panic!("{receipt:?}")
    };
    assert_eq!(
        (share.rung, share.size, share.pages.raw()),
        (Rung::Base, HugeSize::BASE, 4)
    );
    let on_nodes: u64 = share.nodes.iter().map(|(_, pages)| pages.raw()).sum();
    assert!(on_nodes == 4 || share.nodes.is_empty());
    assert!(receipt.to_string().contains("4 x "), "{receipt}");
}

#[test]
fn a_strict_huge_page_or_an_error_that_helps() {
    // A pool that may hold none stands for a machine without.
    let pools = limited(0);
    if !pools.topology().sizes.contains(HugeSize::MIB2) {
        return skip(
            "a_strict_huge_page_or_an_error_that_helps",
            "no pool of 2 MiB pages",
        );
    }
    for populate in [Populate::Now, Populate::Later] {
        let strict = pools.buffer(2 * MIB2).page_size(HugeSize::MIB2).strict();
        let error = strict.populate(populate).create().unwrap_err();
        assert!(
            matches!(error.cause(), Cause::OutOfPages | Cause::NoRoom),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.starts_with("cannot make a buffer of 4194304 bytes"),
            "{text}"
        );
        assert!(
            text.contains("by their own limit") && text.lines().count() <= 2,
            "{text}"
        );
    }
    let any = pools
        .buffer(2 * MIB2)
        .page_size(HugeSize::MIB2)
        .fallback(Fallback::BASE);
    let receipt = any.create().unwrap().receipt();
    assert_eq!(receipt.shares[0].rung, Rung::Base);
    assert_eq!(receipt.refusals.len(), 1, "{receipt}");
    assert!(!receipt.is_first_choice());
    mib2(&pools);
}

#[test]
fn holes_are_of_a_size_that_there_is() {
    let pools = limited(0);
    let holes = pools
        .buffer(8 * MIB2)
        .populate(Populate::Unpromised)
        .create()
        .unwrap();
    assert_eq!(holes.populate(2 * MIB2, MIB2).unwrap(), MIB2);
    assert_ne!(holes.receipt().shares[0].rung, Rung::System);
}

#[test]
fn one_size_gives_what_it_has_and_the_next_the_rest() {
    const NAME: &str = "one_size_gives_what_it_has_and_the_next_the_rest";
    let Some(_lease) = huge(NAME, 3) else { return };
    let pools = limited(3);
    let scattered = || {
        let builder = pools.buffer(5 * MIB2).page_size(HugeSize::MIB2);
        builder.layout(Layout::Scattered).fallback(Fallback::BASE)
    };
    let mut buffer = scattered().create().unwrap();
    let receipt = buffer.receipt();
    let got: Vec<_> = receipt
        .shares
        .iter()
        .map(|s| (s.size, s.pages.raw()))
        .collect();
    assert_eq!(got, [(HugeSize::MIB2, 3), (HugeSize::BASE, 1024)]);
    assert_eq!(receipt.huge(), ByteLen::new(3 * MIB2));
    assert_eq!(mib2(&pools), (3, 0, 0));
    // Reads and writes cross the border of two sizes; a slice does not.
    buffer.write_at(3 * MIB2 - 3, b"border").unwrap();
    let mut bytes = [0; 8];
    buffer.read_at(3 * MIB2 - 4, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0border\0");
    assert_eq!(cause(buffer.as_slice()), Cause::NoContiguousRun);
    assert_eq!(buffer.slice(3 * MIB2, 3).unwrap()[..], *b"der");
    assert_eq!(
        buffer.offset_of(buffer.page_at(4 * MIB2).unwrap().address + 9),
        Some(4 * MIB2 + 9)
    );
    // Whatever is given back and asked for again is counted in its own size.
    let gone = buffer.punch(2 * MIB2, 2 * MIB2).unwrap();
    assert_eq!(gone.pages.raw(), 1 + 512);
    assert_eq!(buffer.reserve(0, 5 * MIB2).unwrap(), 2 * MIB2);
    assert_eq!(buffer.populate(0, 5 * MIB2).unwrap(), 2 * MIB2);
    mib2(&pools);
    drop(buffer);
    let later = scattered().populate(Populate::Later).create().unwrap();
    assert_eq!(later.receipt().reserved, ByteLen::new(5 * MIB2));
    assert_eq!(later.populate(0, 5 * MIB2).unwrap(), 5 * MIB2);
    // A straight one has one size, so it has to do without.
    drop(later);
    let straight = pools
        .buffer(5 * MIB2)
        .page_size(HugeSize::MIB2)
        .fallback(Fallback::BASE);
    let straight = straight.create().unwrap();
    assert_eq!(straight.receipt().shares.len(), 1);
    assert_eq!(straight.as_slice().unwrap().len() as u64, 5 * MIB2);
    mib2(&pools);
}

#[test]
fn the_system_gives_half_where_it_has_half() {
    const NAME: &str = "the_system_gives_half_where_it_has_half";
    let Some(lease) = huge(NAME, 4) else { return };
    let there = lease.pools().available(HugeSize::MIB2).unwrap().raw();
    let pools = Pools::new().unwrap();
    let buffer = pools
        .buffer((there + 2) * MIB2)
        .page_size(HugeSize::MIB2)
        .fallback(Fallback::BASE)
        .layout(Layout::Scattered)
        .create()
        .unwrap();
    let receipt = buffer.receipt();
    assert_eq!(receipt.shares[0].pages.raw(), there, "{receipt}");
    assert_eq!(receipt.shares[1].size, HugeSize::BASE);
    // Whoever may not resize the pool is told what to ask of somebody who may.
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let advice = if is_root {
        format!("htlb pool 2M {}", there + 2)
    } else {
        format!("echo {} | sudo tee", there + 2)
    };
    assert!(receipt.refusals[0].why.contains(&advice), "{receipt}");
    mib2(&pools);
}

#[test]
fn automatic_wastes_no_gigabyte() {
    const NAME: &str = "automatic_wastes_no_gigabyte";
    let Ok(lease) = PoolLease::take() else {
        return skip(NAME, "the pools cannot be locked");
    };
    let there = lease.make_available(HugeSize::GIB1, PageCount::ONE);
    if there.map_or(true, |there| there.is_zero()) {
        return skip(NAME, NO_GIB_PAGES);
    }
    let pools = Pools::new().unwrap();
    for shareable in [false, true] {
        // Half a page of 1 GiB would be wasted, and that of 2 MiB are not there.
        for size in [PAGE, 3 * MIB2, (1 << 30) / 64] {
            let builder = pools.buffer(size);
            let builder = if shareable {
                builder.shareable()
            } else {
                builder
            };
            let receipt = builder.create().unwrap().receipt();
            assert!(receipt.shares[0].size < HugeSize::GIB1, "{size}: {receipt}");
        }
    }
    pools.check().unwrap();
}

#[test]
fn a_gigabyte_in_one_page() {
    const NAME: &str = "a_gigabyte_in_one_page";
    let Ok(lease) = PoolLease::take() else {
        return skip(NAME, "the pools cannot be locked");
    };
    let there = lease.make_available(HugeSize::GIB1, PageCount::ONE);
    if there.map_or(true, |there| there.is_zero()) {
        return skip(NAME, NO_GIB_PAGES);
    }
    let pools = Pools::builder()
        .limit(Rung::System, HugeSize::GIB1, PageCount::ONE)
        .build()
        .unwrap();
    let mut buffer = pools
        .buffer(1 << 30)
        .page_size(HugeSize::GIB1)
        .strict()
        .contiguity(Contiguity::Whole)
        .create()
        .unwrap();
    let page = buffer.page_at((1 << 30) - 1).unwrap();
    assert_eq!((page.offset, page.len), (0, 1 << 30));
    assert_eq!(page.address % (1 << 30), 0);
    {
        let mut bytes = buffer.as_mut_slice().unwrap();
        (bytes[0], bytes[(1 << 30) - 1]) = (1, 2);
    }
    let again = pools.buffer(1 << 30).page_size(HugeSize::GIB1).strict();
    assert!(again.create().is_err());
    drop(buffer);
    let counts = || buffer_support::counts(&pools, Rung::System, HugeSize::GIB1);
    assert_eq!(counts(), (1, 1, 0));
    let again = pools
        .buffer(1 << 30)
        .page_size(HugeSize::GIB1)
        .strict()
        .create()
        .unwrap();
    let bytes = again.as_slice().unwrap();
    assert_eq!((bytes[0], bytes[(1 << 30) - 1]), (0, 0));
    drop(bytes);
    drop(again);
    assert_eq!(pools.trim(), 1 << 30);
}

#[test]
fn transparent_or_an_error() {
    const NAME: &str = "transparent_or_an_error";
    if role().is_some() {
        // The machine says never.
        let pools = Pools::new().unwrap();
        assert_eq!(pools.topology().transparent, None);
        let error = pools
            .buffer(2 * MIB2)
            .transparent()
            .strict()
            .create()
            .unwrap_err();
        assert_eq!(error.cause(), Cause::PageSizeUnsupported);
        assert!(
            error.to_string().contains("transparent_hugepage/enabled"),
            "{error}"
        );
        let fallback = pools.buffer(2 * MIB2).transparent().create().unwrap();
        assert_eq!(fallback.receipt().shares[0].rung, Rung::Base);
        return pools.check().unwrap();
    }
    if !transparent(NAME) {
        return;
    }
    let pools = Pools::new().unwrap();
    let buffer = pools
        .buffer(2 * MIB2)
        .transparent()
        .strict()
        .create()
        .unwrap();
    let receipt = buffer.receipt();
    assert_eq!(
        (receipt.shares[0].rung, receipt.huge()),
        (Rung::Transparent, ByteLen::new(2 * MIB2))
    );
    assert_eq!(
        buffer.page_at(0).unwrap().physical,
        None,
        "the system may move it"
    );
    let masked = pools
        .buffer(2 * MIB2)
        .transparent()
        .strict()
        .dma_mask(bits(32));
    assert_eq!(cause(masked.create()), Cause::OutOfReach);
    if !can_unshare() {
        return skip(NAME, "a private mount namespace could not be made");
    }
    let thp = "/sys/kernel/mm/transparent_hugepage";
    let script = format!(
        "t=$(mktemp -d); cp {thp}/enabled {thp}/defrag {thp}/hpage_pmd_size \"$t\"
         echo 'always madvise [never]' > \"$t/enabled\"; mount --bind \"$t\" {thp}"
    );
    went_well(again_after(&script, NAME, "never"));
}

#[test]
fn a_device_mask_is_checked_or_refused() {
    const NAME: &str = "a_device_mask_is_checked_or_refused";
    let Some(_lease) = huge(NAME, 4) else { return };
    let pools = limited(4);
    let make = |mask: u32| {
        let builder = pools.buffer(4 * MIB2).page_size(HugeSize::MIB2).strict();
        builder.dma_mask(bits(mask)).create()
    };
    // What no memory reaches is refused, and the books are as they were.
    assert_eq!(cause(make(24)), Cause::OutOfReach);
    assert_eq!(mib2(&pools).2, 0);
    // All of memory lies below 2^48; whoever may not know where, is told so.
    match make(48) {
        Ok(buffer) => {
            for page in 0..4 {
                let at = buffer.page_at(page * MIB2).unwrap().physical.unwrap();
                assert!(at % MIB2 == 0 && at + MIB2 <= 1 << 48, "{at:#x}");
            }
        }
        Err(error) => {
            assert_eq!(error.cause(), Cause::OutOfReach);
            assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
            let any = pools
                .buffer(4 * MIB2)
                .page_size(HugeSize::MIB2)
                .strict()
                .create();
            assert_eq!(any.unwrap().page_at(0).unwrap().physical, None);
        }
    }
    // Base pages may be moved, so no fallback satisfies a mask.
    let base = pools.buffer(PAGE).base_pages().dma_mask(bits(32));
    assert_eq!(cause(base.create()), Cause::OutOfReach);
    mib2(&pools);
}

#[test]
fn the_nodes_are_those_that_were_asked_for() {
    let pools = Pools::new().unwrap();
    let nodes = pools.topology().nodes;
    let first = nodes.first().unwrap();
    for policy in [
        NodePolicy::Bind(first.mask()),
        NodePolicy::Preferred(first),
        NodePolicy::PreferredMany(nodes),
        NodePolicy::Interleave(nodes),
    ] {
        let buffer = pools.buffer(8 * PAGE).base_pages().nodes(policy).create();
        let buffer = match buffer {
            Ok(buffer) => buffer,
            // A container that may not ask where its pages are cannot bind them.
            Err(error) if nodes.count() > 1 && error.cause() == Cause::OutOfReach => continue,
            Err(error) => panic!("{policy:?}: {error}"),
        };
        for (node, _) in &buffer.receipt().shares[0].nodes {
            assert!(
                !policy.is_strict() || policy.named().contains(*node),
                "{policy:?}"
            );
        }
        if policy == NodePolicy::Bind(first.mask()) {
            assert_eq!(buffer.page_at(0).unwrap().node, Some(first));
        }
    }
    let nowhere = NodeId::new(63).unwrap();
    if !nodes.contains(nowhere) {
        let bound = pools
            .buffer(PAGE)
            .base_pages()
            .nodes(NodePolicy::Bind(nowhere.mask()));
        assert_eq!(cause(bound.create()), Cause::NodeMaskOffline);
    }
    let empty = pools.buffer(PAGE).nodes(NodePolicy::Bind(NodeMask::EMPTY));
    assert_eq!(cause(empty.create()), Cause::NodeMaskEmpty);
    pools.check().unwrap();
}

#[test]
fn contiguous_within_a_page_without_asking_anybody() {
    const NAME: &str = "contiguous_within_a_page_without_asking_anybody";
    let Some(_lease) = huge(NAME, 4) else { return };
    let pools = limited(4);
    let make = |run: Contiguity, pages: u64| {
        let builder = pools
            .buffer(pages * MIB2)
            .page_size(HugeSize::MIB2)
            .strict();
        builder.contiguity(run).create()
    };
    assert!(make(Contiguity::Runs(ByteLen::new(MIB2)), 3).is_ok());
    assert!(make(Contiguity::Whole, 1).is_ok());
    match make(Contiguity::Whole, 4) {
        Ok(buffer) => {
            let at = |page: u64| buffer.page_at(page * MIB2).unwrap().physical.unwrap();
            assert!((1..4).all(|page| at(page) == at(0) + page * MIB2));
        }
        Err(error) => assert!(
            matches!(error.cause(), Cause::NoContiguousRun | Cause::OutOfReach),
            "{error}"
        ),
    }
    assert_eq!(mib2(&pools).2, 0);
}

#[test]
fn without_sys_there_is_still_memory() {
    const NAME: &str = "without_sys_there_is_still_memory";
    let check = |pools: &Pools| {
        let mut buffer = pools.buffer(3 * MIB2 + 5).create().unwrap();
        buffer.as_mut_slice().unwrap()[3 * MIB2 as usize] = 1;
        assert!(!buffer.receipt().to_string().is_empty());
        let base = pools.buffer(PAGE).base_pages().strict().create().unwrap();
        assert_eq!(base.len(), PAGE);
        let refused = pools.buffer(1 << 62).create().unwrap_err();
        assert!(!refused.to_string().is_empty());
        pools.check().unwrap();
    };
    if role().is_some() {
        assert_eq!(std::fs::read_dir("/sys").unwrap().count(), 0);
        return check(&Pools::new().unwrap());
    }
    let _lease = PoolLease::take();
    check(
        &Pools::builder()
            .system_root(Root::at("/nonexistent"))
            .build()
            .unwrap(),
    );
    if !can_unshare() {
        return skip(NAME, "a private mount namespace could not be made");
    }
    went_well(again_after("mount -t tmpfs tmpfs /sys", NAME, "bare"));
}
