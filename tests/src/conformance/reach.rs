// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which page: DMA masks, nodes, contiguous runs, and the ladder of page sizes.

use htlb_core::driver::Commitment::Promised;
use htlb_core::{
    AddressBits, ByteLen, ByteOffset, ByteRange, Contiguity, Error, HugeSize, NodeId, NodeMask,
    NodePolicy, Request, RequestBuilder,
};

use super::rig::{pages, strict, Buf, PAGE};
use super::{Got, Order, Rig};

fn bits(bits: u32) -> AddressBits {
    AddressBits::new(bits).expect("a legal mask")
}

fn frames(buffer: &Buf<'_>, count: u64) -> Vec<u64> {
    (0..count)
        .map(|page| buffer.page_at(page * PAGE).expect("a page").pfn.raw())
        .collect()
}

fn free_on(rig: &Rig<'_>, node: u32) -> u64 {
    rig.machine().counts(HugeSize::MIB2, Some(node)).free.raw()
}

fn reaches(buffer: &Buf<'_>, count: u64, bits: u32) -> bool {
    let last = |pfn: u64| (pfn << 12) + PAGE - 1;
    frames(buffer, count)
        .iter()
        .all(|pfn| last(*pfn) >> bits == 0)
}

pub(super) fn a_device_gets_only_pages_that_it_reaches(rig: &Rig<'_>) {
    // 33 bits lie between two levels, and round down.
    for mask in [32, 33] {
        let buffer = rig
            .of(0, strict(2).dma_mask(bits(mask)), Promised)
            .expect("both");
        let before = rig.counts();
        let more = rig.of(0, strict(1).dma_mask(bits(mask)), Promised);
        assert_eq!((more.err(), rig.counts()), (Some(Error::NoRoom), before));
        assert_eq!(buffer.populate(pages(0, 2)), Ok(2));
        assert!(reaches(&buffer, 2, 32));
        drop(rig.promised(2));
    }
}

pub(super) fn a_mask_that_no_page_fits_is_refused(rig: &Rig<'_>) {
    let before = rig.counts();
    for mask in [24, 28, 32] {
        let made = rig.of(0, strict(1).dma_mask(bits(mask)), Promised);
        assert_eq!((made.err(), rig.counts()), (Some(Error::NoRoom), before));
    }
    let large = strict(1)
        .page_size(HugeSize::GIB1)
        .dma_mask(bits(29))
        .build();
    assert_eq!(large, Err(Error::DmaMaskTooNarrow));
}

pub(super) fn scarce_pages_are_left_for_those_who_need_them(rig: &Rig<'_>) {
    let holes = rig.unpromised(2);
    assert_eq!(
        holes.populate(pages(0, 2)),
        Ok(2),
        "without a promise either"
    );
    assert!(!reaches(&holes, 1, 32));
    let device = rig
        .of(0, strict(2).dma_mask(bits(32)), Promised)
        .expect("both are left");
    assert_eq!(device.populate(pages(0, 2)), Ok(2));
}

pub(super) fn overlapping_promises_are_all_kept(rig: &Rig<'_>) {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
        let kinds = [(64, 2), (32, 2), (28, 1)];
        let buffers = kinds.map(|(mask, count)| {
            let request = strict(count).dma_mask(bits(mask));
            rig.of(0, request, Promised).expect("all fit at once")
        });
        for (mask, _) in kinds {
            let more = rig.of(0, strict(1).dma_mask(bits(mask)), Promised);
            assert_eq!(more.err(), Some(Error::NoRoom));
        }
        for at in order {
            let (mask, count) = kinds[at];
            assert_eq!(buffers[at].populate(pages(0, count)), Ok(count));
            assert!(mask == 64 || reaches(&buffers[at], count, mask));
        }
    }
}

fn on(policy: NodePolicy, count: u64) -> RequestBuilder {
    strict(count).nodes(policy)
}

fn node(number: u32) -> NodeId {
    NodeId::new(number).expect("a node")
}

pub(super) fn a_bound_buffer_lies_on_its_nodes(rig: &Rig<'_>) {
    for number in [0, 1] {
        let policy = NodePolicy::Bind(node(number).mask());
        let buffer = rig.of(0, on(policy, 3), Promised).expect("three there");
        assert_eq!(buffer.populate(pages(0, 3)), Ok(3));
        assert_eq!((free_on(rig, number), free_on(rig, 1 - number)), (0, 3));
    }
}

/// Linux grants it, and the fault gets SIGBUS.
pub(super) fn a_bound_buffer_is_refused_where_its_node_is_short(rig: &Rig<'_>) {
    let policy = NodePolicy::Bind(node(1).mask());
    let before = rig.counts();
    assert_eq!(
        rig.of(0, on(policy, 2), Promised).err(),
        Some(Error::NoRoom)
    );
    assert_eq!(rig.counts(), before);
    let bound = rig.of(0, on(policy, 1), Promised).expect("one is there");
    let anywhere = rig.promised(3);
    assert_eq!(anywhere.populate(pages(0, 3)), Ok(3));
    assert_eq!(free_on(rig, 1), 1, "a promise for the node keeps its page");
    assert_eq!(bound.populate(pages(0, 1)), Ok(1));
}

pub(super) fn a_preferred_node_is_only_a_preference(rig: &Rig<'_>) {
    let policy = NodePolicy::Preferred(node(1));
    let buffer = rig.of(0, on(policy, 3), Promised).expect("anywhere");
    assert_eq!(buffer.populate(pages(0, 1)), Ok(1));
    assert_eq!(free_on(rig, 1), 0);
    assert_eq!(buffer.populate(pages(0, 3)), Ok(2));
    assert_eq!(free_on(rig, 0), 1);
}

pub(super) fn an_interleaved_buffer_alternates(rig: &Rig<'_>) {
    let policy = NodePolicy::Interleave(NodeMask::from_bits(0b11));
    let buffer = rig.of(0, on(policy, 6), Promised).expect("all");
    for page in 0..6 {
        assert_eq!(buffer.populate(pages(page, page + 1)), Ok(1));
        let taken = (3 - free_on(rig, 0), 3 - free_on(rig, 1));
        assert_eq!(taken, (page / 2 + 1, page.div_ceil(2)));
    }
}

pub(super) fn a_whole_buffer_is_contiguous(rig: &Rig<'_>) {
    let buffer = rig
        .of(0, strict(5).contiguity(Contiguity::Whole), Promised)
        .expect("a run of five");
    let frames = frames(&buffer, 5);
    assert!(
        frames.windows(2).all(|pair| pair[1] == pair[0] + 512),
        "{frames:?}"
    );
    assert_eq!(
        rig.nr_free_reserved(),
        (8, 3, 0),
        "a run is taken when it is reserved"
    );
    assert_eq!(buffer.byte(5 * PAGE - 1), 0);
}

pub(super) fn runs_are_contiguous_and_aligned(rig: &Rig<'_>) {
    let request = strict(10)
        .contiguity(Contiguity::Runs(ByteLen::new(4 * PAGE)))
        .alignment(4 * PAGE);
    let buffer = rig.of(0, request, Promised).expect("two runs and a half");
    for run in frames(&buffer, 10).chunks(4) {
        assert_eq!(run[0] % (4 * 512), 0, "{run:?}");
        assert!(
            run.windows(2).all(|pair| pair[1] == pair[0] + 512),
            "{run:?}"
        );
    }
    assert_eq!(rig.nr_free_reserved(), (16, 6, 0));
}

pub(super) fn a_run_that_does_not_exist_is_refused(rig: &Rig<'_>) {
    let buffer = rig.promised(4);
    assert_eq!(buffer.populate(pages(0, 4)), Ok(4));
    let mut by_frame: Vec<_> = frames(&buffer, 4).into_iter().zip(0..).collect();
    by_frame.sort_unstable();
    for (_, page) in by_frame.into_iter().step_by(2) {
        assert!(buffer.punch(pages(page, page + 1)).is_ok());
    }
    let before = rig.counts();
    let made = rig.of(0, strict(2).contiguity(Contiguity::Whole), Promised);
    assert_eq!(
        (made.err(), rig.counts()),
        (Some(Error::NoContiguousRun), before)
    );
    drop(rig.promised(2));
}

pub(super) fn a_run_takes_no_page_that_a_promise_needs(rig: &Rig<'_>) {
    let promised = rig.promised(4);
    let before = rig.counts();
    let made = rig.of(0, strict(3).contiguity(Contiguity::Whole), Promised);
    assert_eq!((made.err(), rig.counts()), (Some(Error::NoRoom), before));
    let run = rig
        .of(0, strict(2).contiguity(Contiguity::Whole), Promised)
        .expect("two");
    assert_eq!(promised.populate(pages(0, 4)), Ok(4));
    drop(run);
}

pub(super) fn a_failing_producer_leaves_no_part_of_a_run(rig: &Rig<'_>) {
    let before = rig.counts();
    let request = strict(4)
        .contiguity(Contiguity::Whole)
        .build()
        .expect("legal");
    let order = Order {
        request,
        commitment: Promised,
        capacity: request.size(),
    };
    for failing in 0..4 {
        let mut calls = 0;
        let made = rig.create(
            0,
            &order,
            Some(&mut |page| {
                page.write(0, b"data");
                calls += 1;
                if calls > failing {
                    Err(Error::FillFailed)
                } else {
                    Ok(4)
                }
            }),
        );
        assert_eq!(
            (made.err(), rig.counts()),
            (Some(Error::FillFailed), before)
        );
    }
    let made = rig.create(
        0,
        &order,
        Some(&mut |page| {
            page.write(0, b"data");
            Ok(4)
        }),
    );
    let buffer = made.expect("it did not fail");
    assert_eq!([0, 4, 3 * PAGE].map(|at| buffer.byte(at)), [b'd', 0, b'd']);
}

pub(super) fn an_alignment_that_no_page_has_is_refused(rig: &Rig<'_>) {
    assert_eq!(
        strict(1).alignment(2 * PAGE).build(),
        Err(Error::AlignmentUnreachable)
    );
    let before = rig.counts();
    let request = Request::builder(ByteLen::new(3 * PAGE)).alignment(PAGE);
    let made = rig.of(0, request, Promised);
    assert_eq!(
        (made.err(), rig.counts()),
        (Some(Error::AlignmentUnreachable), before)
    );
    let request = Request::builder(ByteLen::new(2 * PAGE)).alignment(PAGE);
    drop(rig.of(0, request, Promised).expect("two pages have it"));
}

pub(super) fn a_strict_request_gets_its_page_size_or_nothing(rig: &Rig<'_>) {
    let before = rig.counts();
    assert_eq!(rig.of(0, strict(2), Promised).err(), Some(Error::NoRoom));
    assert_eq!(rig.counts(), before);
    let buffer = rig.promised(1);
    let receipt = buffer.receipt();
    assert_eq!(receipt.len(), 1);
    assert_eq!((receipt[0].size, receipt[0].pages), (HugeSize::MIB2, 1));
}

fn bytes(parts: &[Got]) -> u64 {
    parts
        .iter()
        .map(|part| part.pages * part.size.bytes())
        .sum()
}

/// Ask (e) of the idea: falling back to small pages where huge ones are short, and saying so.
pub(super) fn what_one_size_lacks_the_next_gives(rig: &Rig<'_>) {
    let size = 3 * PAGE + 10_000;
    let request = Request::builder(ByteLen::new(size));
    let buffer = rig
        .of(0, request, Promised)
        .expect("huge pages and base pages");
    let receipt = buffer.receipt();
    assert_eq!((receipt[0].size, receipt[0].pages), (HugeSize::MIB2, 2));
    assert!(
        receipt.windows(2).all(|pair| pair[0].size >= pair[1].size),
        "{receipt:?}"
    );
    assert!(bytes(&receipt) >= size, "{receipt:?}");
    assert_eq!(rig.nr_free_reserved(), (2, 2, 2));
    let all = ByteRange::new(ByteOffset::ZERO, ByteOffset::new(size)).expect("a range");
    assert!(buffer.populate(all).is_ok());
    assert_eq!(rig.nr_free_reserved(), (2, 0, 0));
    buffer.write(2 * PAGE - 2, b"over").expect("both sizes");
    assert_eq!(
        [2 * PAGE - 1, 2 * PAGE + 1].map(|at| buffer.byte(at)),
        [b'v', b'r']
    );
    assert_eq!(buffer.page_at(size), Err(Error::RangeBeyondEnd));
}

pub(super) fn base_pages_serve_where_nothing_else_is(rig: &Rig<'_>) {
    let request = Request::builder(ByteLen::new(10_000));
    let mut buffer = rig.of(0, request, Promised).expect("three base pages");
    assert_eq!(bytes(&buffer.receipt()), 12_288);
    let all = ByteRange::new(ByteOffset::ZERO, ByteOffset::new(10_000)).expect("a range");
    // Nothing can promise these, so a back end may keep the promise by putting them there at once.
    let missing = if buffer.page_at(0).is_ok() { 0 } else { 3 };
    assert_eq!(buffer.populate(all), Ok(missing));
    assert!([0, 4096, 8192].iter().all(|at| buffer.page_at(*at).is_ok()));
    buffer.write(4094, b"over").expect("two pages");
    assert_eq!([4095, 4096].map(|at| buffer.byte(at)), [b'v', b'e']);
    assert!(buffer.punch(all).is_ok());
    assert!(buffer.release().is_ok());
}
