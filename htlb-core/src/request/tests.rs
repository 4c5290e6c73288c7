// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Tests of the parent module.

use super::*;

fn of(size: u64) -> RequestBuilder {
    Request::builder(ByteLen::new(size))
}

#[test]
fn impossible_requests_name_what_is_wrong() {
    let bits = |n| AddressBits::new(n).unwrap();
    let cases = [
        (of(0), Error::SizeZero),
        (of(u64::MAX), Error::SizeTooLarge),
        (of(isize::MAX as u64), Error::SizeTooLarge),
        (
            of(1).nodes(NodePolicy::Bind(NodeMask::EMPTY)),
            Error::NodeMaskEmpty,
        ),
        (
            of(1).nodes(NodePolicy::Interleave(NodeMask::EMPTY)),
            Error::NodeMaskEmpty,
        ),
        (
            of(1).page_size(HugeSize::GIB1).dma_mask(bits(28)),
            Error::DmaMaskTooNarrow,
        ),
        (of(1).alignment(3 << 12), Error::AlignmentInvalid),
        (of(1).alignment(2048), Error::AlignmentInvalid),
        (
            of(1 << 30).page_size(HugeSize::MIB2).alignment(4 << 20),
            Error::AlignmentUnreachable,
        ),
        (
            of(4096).contiguity(Contiguity::Runs(ByteLen::ZERO)),
            Error::ContiguityInvalid,
        ),
        (
            of(4096).contiguity(Contiguity::Runs(ByteLen::new(8192))),
            Error::ContiguityInvalid,
        ),
        (
            of(1).gfp(Gfp::HIGHUSER | Gfp::THISNODE),
            Error::GfpThisNodeWithoutNode,
        ),
        (
            of(1).gfp(Gfp::HIGHUSER).dma_mask(bits(32)),
            Error::GfpZoneExceedsDmaMask,
        ),
        (of(1).gfp(Gfp::HIGHUSER_MOVABLE), Error::GfpMovablePinned),
        (
            of(1)
                .page_size(HugeSize::MIB2)
                .gfp(Gfp::KERNEL | Gfp::NOFAIL),
            Error::GfpNofailCostly,
        ),
    ];
    for (builder, error) in cases {
        assert_eq!(builder.build(), Err(error), "{builder:?}");
    }
}

#[test]
fn a_gib_page_fits_a_mask_of_exactly_its_size() {
    let bits = AddressBits::new(30).unwrap();
    assert!(of(1)
        .page_size(HugeSize::GIB1)
        .dma_mask(bits)
        .build()
        .is_ok());
}

#[test]
fn a_long_run_may_be_aligned_beyond_its_pages() {
    let run = of(1 << 30)
        .page_size(HugeSize::MIB2)
        .contiguity(Contiguity::Whole)
        .alignment(1 << 30);
    assert!(run.build().is_ok());
    assert_eq!(
        run.alignment(2 << 30).build(),
        Err(Error::AlignmentUnreachable)
    );
}

#[test]
fn a_request_can_be_changed() {
    let request = Request::builder(ByteLen::new(4 << 20))
        .strict()
        .build()
        .unwrap();
    let changed = RequestBuilder::from(request)
        .gfp(Gfp::KERNEL)
        .build()
        .unwrap();
    assert_eq!(changed.gfp(), Some(Gfp::KERNEL));
    assert_eq!(
        (changed.size(), changed.fallback()),
        (request.size(), request.fallback())
    );
    let refused = RequestBuilder::from(request)
        .gfp(Gfp::DMA | Gfp::DMA32)
        .build();
    assert_eq!(refused, Err(Error::GfpZoneConflict));
}
