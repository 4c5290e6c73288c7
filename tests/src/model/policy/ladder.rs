// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The ladder that a request must get, by trying every rung that exists.

use htlb_core::{
    Attempt, Error, Fallback, Gfp, HugeSize, NodePolicy, PageChoice, PageIndex, Placement, Request,
    Rung, Topology,
};

/// Every rung of a machine, in the order in which a ladder has them.
fn rungs(topology: &Topology) -> Vec<(Rung, HugeSize)> {
    let mut sizes: Vec<HugeSize> = topology.sizes.iter().collect();
    sizes.sort();
    sizes.reverse();
    let pools = sizes
        .into_iter()
        .flat_map(|size| [(Rung::Pool, size), (Rung::System, size)]);
    pools
        .chain(topology.transparent.map(|size| (Rung::Transparent, size)))
        .chain([(Rung::Base, HugeSize::BASE)])
        .collect()
}

/// Whether the request allows a rung, and the device can reach a page of it.
fn allows(request: &Request, (rung, size): (Rung, HugeSize)) -> bool {
    let falls_back = |how| request.fallback().contains(how);
    let wanted = match (request.page(), rung) {
        // Anything, but no page larger than the buffer.
        (PageChoice::Automatic, Rung::Base) => true,
        (PageChoice::Automatic, Rung::Pool | Rung::System) => {
            size <= HugeSize::GIB1 && size.bytes() <= request.size().raw()
        }
        (PageChoice::Automatic, Rung::Transparent) => size.bytes() <= request.size().raw(),
        (PageChoice::Huge(chosen), Rung::Pool | Rung::System) => {
            size == chosen || (size < chosen && falls_back(Fallback::SMALLER))
        }
        (PageChoice::Huge(chosen), Rung::Transparent) => {
            size <= chosen && falls_back(Fallback::TRANSPARENT)
        }
        (PageChoice::Transparent, Rung::Transparent) | (PageChoice::Base, Rung::Base) => true,
        (PageChoice::Huge(_) | PageChoice::Transparent, Rung::Base) => falls_back(Fallback::BASE),
        (PageChoice::Transparent, _) | (PageChoice::Base, _) => false,
    };
    wanted && size.bytes() - 1 <= request.dma_mask().last_address()
}

/// The answer is the rungs that are allowed, each within what the request may have.
pub(super) fn compare(request: &Request, topology: &Topology, answer: &Result<Placement, Error>) {
    let named = request.nodes().named().and(topology.nodes);
    if named.is_empty() {
        assert_eq!(answer.err(), Some(Error::NodeMaskOffline));
        return;
    }
    let mut expected = rungs(topology);
    expected.retain(|rung| allows(request, *rung));
    let placement = match answer {
        Ok(placement) => placement,
        Err(error) => {
            assert_eq!(*error, Error::PageSizeUnsupported);
            assert!(expected.is_empty(), "{expected:?} were allowed");
            return;
        }
    };
    let attempts: Vec<Attempt> = placement.attempts().copied().collect();
    let found: Vec<_> = attempts.iter().map(|at| (at.rung, at.size)).collect();
    assert_eq!(found, expected);
    assert!(!attempts.is_empty());
    for (place, attempt) in attempts.iter().enumerate() {
        within(request, topology, attempt);
        mask(request, topology, attempt, place + 1 == attempts.len());
        let one = placement.only(attempt);
        assert_eq!(one.attempts().collect::<Vec<_>>(), [attempt]);
    }
    assert_eq!(placement.to_string().lines().count(), attempts.len());
    assert_eq!(
        (placement.size(), placement.page(), placement.dma_mask()),
        (request.size(), request.page(), request.dma_mask())
    );
    assert_eq!(
        (placement.contiguity, placement.alignment, placement.fill),
        (request.contiguity(), request.alignment(), request.fill())
    );
}

/// Pages of an attempt lie on nodes that have memory, on named ones where only those will do, and below the mask.
fn within(request: &Request, topology: &Topology, attempt: &Attempt) {
    let nodes = attempt.reach.nodes();
    assert!(!nodes.is_empty() && nodes.is_subset_of(topology.nodes));
    let strict = matches!(
        request.nodes(),
        NodePolicy::Bind(_) | NodePolicy::Interleave(_)
    );
    let all = if strict {
        topology.nodes.and(request.nodes().named())
    } else {
        topology.nodes
    };
    assert_eq!(nodes, all);
    assert!(attempt.reach.level().bits() <= request.dma_mask().raw());
}

/// The allocator accepts the mask, which means no zone beyond the device's, and is patient only where nothing follows.
fn mask(request: &Request, topology: &Topology, attempt: &Attempt, last: bool) {
    let gfp = attempt.gfp;
    assert_eq!(
        gfp.validate(attempt.size.order(), request.mobility()),
        Ok(())
    );
    if request.dma_mask().raw() <= 32 {
        assert!(!gfp.contains(Gfp::HIGHMEM));
        assert!(gfp.intersects(Gfp::DMA | Gfp::DMA32));
        if request.gfp().is_none() {
            let narrow = request.dma_mask() <= topology.dma_zone;
            assert_eq!(gfp.contains(Gfp::DMA), narrow);
        }
    }
    if let Some(own) = request.gfp() {
        // Only the zone may be taken back.
        assert!(gfp.contains(own.difference(Gfp::HIGHMEM)));
    }
    let own = request.gfp().unwrap_or(Gfp::empty());
    let patience = Gfp::NOFAIL | Gfp::NORETRY | Gfp::RETRY_MAYFAIL;
    if attempt.size != HugeSize::BASE && !own.intersects(patience) {
        assert_eq!(gfp.contains(Gfp::RETRY_MAYFAIL), last);
        assert_eq!(gfp.contains(Gfp::NORETRY), !last);
    }
}

/// The nodes to try first are among those that will do.
pub(super) fn preferred(request: &Request, topology: &Topology, placement: &Placement, index: u64) {
    let first = placement.preferred(PageIndex::new(index));
    assert!(!first.is_empty());
    let Some(attempt) = placement.attempts().next() else {
        return;
    };
    let usable = attempt.reach.nodes();
    match request.nodes() {
        // The caller's own node, which may have no memory.
        NodePolicy::Default => assert_eq!(first, topology.local.mask()),
        NodePolicy::Interleave(_) => {
            let turn = index % u64::from(usable.count());
            let node = usable.iter().nth(usize::try_from(turn).unwrap()).unwrap();
            assert_eq!(first, node.mask());
        }
        NodePolicy::Bind(_) | NodePolicy::Preferred(_) | NodePolicy::PreferredMany(_) => {
            assert!(!first.and(usable).is_empty(), "{first} of {usable}");
            assert!(first.is_subset_of(request.nodes().named()));
        }
    }
}
