// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What every request keeps, and what a refusal must have for a reason.

use htlb_core::{
    ByteLen, Contiguity, Error, Gfp, HugeSize, Mobility, NodePolicy, PageChoice, Request,
};

use super::Choices;

const ZONES: [Gfp; 3] = [Gfp::DMA, Gfp::DMA32, Gfp::HIGHMEM];
const RETRIES: [Gfp; 3] = [Gfp::NOFAIL, Gfp::NORETRY, Gfp::RETRY_MAYFAIL];

fn several(gfp: Gfp, of: [Gfp; 3]) -> bool {
    of.iter().filter(|one| gfp.contains(**one)).count() > 1
}

fn run_of(size: u64, contiguity: Contiguity) -> u64 {
    match contiguity {
        Contiguity::Pages => 0,
        Contiguity::Runs(len) => len.raw(),
        Contiguity::Whole => size,
    }
}

fn largest(page: PageChoice) -> HugeSize {
    match page {
        PageChoice::Huge(size) => size,
        PageChoice::Base => HugeSize::BASE,
        PageChoice::Automatic | PageChoice::Transparent => HugeSize::GIB1,
    }
}

/// Whether a run, or else a page, can begin at every multiple of this.
fn aligns(alignment: u64, natural: u64, run: u64) -> bool {
    // In 128 bits there is a power of two above every run.
    alignment <= natural || u128::from(alignment) <= u128::from(run).next_power_of_two()
}

pub(super) fn is_valid(request: &Request) {
    let (size, run) = (
        request.size().raw(),
        run_of(request.size().raw(), request.contiguity()),
    );
    assert!(size > 0 && size <= ByteLen::MAX.raw() / 2);
    assert!(!request.nodes().named().is_empty());
    assert!(request.alignment().is_power_of_two() && request.alignment() >= 4096);
    assert!(run <= size);
    assert!(request.contiguity() == Contiguity::Pages || run > 0);
    let natural = largest(request.page()).bytes();
    assert!(aligns(request.alignment(), natural, run));
    if let PageChoice::Huge(page) = request.page() {
        assert!(page.bytes() - 1 <= request.dma_mask().last_address());
    }
    if let Some(gfp) = request.gfp() {
        assert!(!several(gfp, ZONES) && !several(gfp, RETRIES));
        assert!(!gfp.contains(Gfp::MOVABLE) || request.mobility() == Mobility::Movable);
        assert!(!gfp.contains(Gfp::THISNODE) || request.nodes() != NodePolicy::Default);
        assert!(!gfp.contains(Gfp::HIGHMEM) || request.dma_mask().raw() > 32);
    }
}

/// The reason given is one that holds.
pub(super) fn is_refused_for(choices: Choices, error: Error) {
    let size = choices.size.raw();
    // What was chosen, as a request that can be asked: the size is judged apart.
    let like = |choices: Choices| Choices {
        size: super::Bytes::Any(4096),
        contiguity: super::Contiguous::Pages,
        alignment: None,
        ..choices
    };
    let run = match choices.contiguity {
        super::Contiguous::Pages => 0,
        super::Contiguous::Runs(len) => len.raw(),
        super::Contiguous::Whole => size,
    };
    let alignment = match choices.alignment {
        None => 4096,
        Some(super::Alignment::Any(bytes)) => bytes,
        Some(super::Alignment::PowerOfTwo(shift)) => 1 << (shift % 64),
    };
    let page = match choices.page {
        super::Page::Automatic => PageChoice::Automatic,
        super::Page::Huge(order) => PageChoice::Huge(order.size()),
        super::Page::Transparent => PageChoice::Transparent,
        super::Page::Base => PageChoice::Base,
    };
    let gfp = choices.gfp.map_or(Gfp::empty(), Gfp::from_bits_truncate);
    let dma_mask = super::bits(choices.dma_bits);
    let holds = match error {
        Error::SizeZero => size == 0,
        Error::SizeTooLarge => size > ByteLen::MAX.raw() / 2,
        Error::ContiguityInvalid => run == 0 || run > size,
        Error::AlignmentInvalid => !alignment.is_power_of_two() || alignment < 4096,
        Error::AlignmentUnreachable => !aligns(alignment, largest(page).bytes(), run),
        Error::DmaMaskTooNarrow => largest(page).bytes() - 1 > dma_mask.last_address(),
        Error::GfpZoneConflict => several(gfp, ZONES),
        Error::GfpMobilityConflict => gfp.contains(Gfp::MOVABLE | Gfp::RECLAIMABLE),
        Error::GfpMovablePinned => gfp.contains(Gfp::MOVABLE) && !choices.movable,
        Error::GfpRetryConflict => several(gfp, RETRIES),
        Error::GfpNofailAtomic => gfp.contains(Gfp::NOFAIL) && !gfp.contains(Gfp::DIRECT_RECLAIM),
        Error::GfpNofailCostly => gfp.contains(Gfp::NOFAIL) && largest(page).order() > 3,
        Error::GfpReservesConflict => gfp.contains(Gfp::MEMALLOC | Gfp::NOMEMALLOC),
        Error::GfpZoneExceedsDmaMask => gfp.contains(Gfp::HIGHMEM) && dma_mask.raw() <= 32,
        Error::GfpThisNodeWithoutNode => {
            gfp.contains(Gfp::THISNODE) && matches!(choices.nodes, super::Policy::Default)
        }
        Error::NodeMaskEmpty => match choices.nodes {
            super::Policy::Default | super::Policy::Preferred(_) => false,
            super::Policy::Bind(nodes)
            | super::Policy::PreferredMany(nodes)
            | super::Policy::Interleave(nodes) => nodes.mask().is_empty(),
        },
        other => panic!("{other:?} is no reason to refuse {choices:?}"),
    };
    assert!(holds, "{error:?} does not hold for {choices:?}");
    // A size, a run and an alignment that nobody could refuse leave the reasons that are none of theirs.
    let of_size = matches!(
        error,
        Error::SizeZero
            | Error::SizeTooLarge
            | Error::ContiguityInvalid
            | Error::AlignmentInvalid
            | Error::AlignmentUnreachable
    );
    if !of_size {
        assert_eq!(like(choices).builder().build(), Err(error));
    }
}
