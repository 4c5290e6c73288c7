// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Tests of the parent module.

use super::*;
use std::string::{String, ToString};
use std::vec::Vec;

fn machine() -> Topology {
    Topology {
        nodes: NodeMask::from_bits(0b1011),
        local: NodeId::new(1).unwrap(),
        sizes: Sizes::new([HugeSize::MIB2, HugeSize::GIB1]),
        transparent: Some(HugeSize::MIB2),
        dma_zone: AddressBits::new(24).unwrap(),
    }
}

fn rungs(request: Request) -> Vec<(Rung, HugeSize)> {
    let placement = resolve(&request, &machine()).unwrap();
    placement.attempts().map(|a| (a.rung, a.size)).collect()
}

#[test]
fn the_ladder_descends_only_where_allowed() {
    use HugeSize as S;
    let of = |size| Request::builder(ByteLen::new(size));
    assert_eq!(
        rungs(of(3 << 30).build().unwrap()),
        [
            (Rung::Pool, S::GIB1),
            (Rung::System, S::GIB1),
            (Rung::Pool, S::MIB2),
            (Rung::System, S::MIB2),
            (Rung::Transparent, S::MIB2),
            (Rung::Base, S::BASE)
        ]
    );
    assert_eq!(rungs(of(4096).build().unwrap()), [(Rung::Base, S::BASE)]);
    assert_eq!(
        rungs(of(4096).page_size(S::GIB1).strict().build().unwrap()),
        [(Rung::Pool, S::GIB1), (Rung::System, S::GIB1)]
    );
    assert_eq!(
        rungs(
            of(4096)
                .page_size(S::GIB1)
                .fallback(Fallback::SMALLER)
                .build()
                .unwrap()
        )
        .len(),
        4
    );
    assert_eq!(
        rungs(
            of(4096)
                .page(PageChoice::Transparent)
                .strict()
                .build()
                .unwrap()
        ),
        [(Rung::Transparent, S::MIB2)]
    );
    assert_eq!(
        rungs(of(1 << 30).page(PageChoice::Base).build().unwrap()),
        [(Rung::Base, S::BASE)]
    );
    let narrow = of(1 << 30)
        .dma_mask(AddressBits::new(28).unwrap())
        .build()
        .unwrap();
    assert_eq!(
        rungs(narrow)[0],
        (Rung::Pool, S::MIB2),
        "a 1 GiB page does not fit 28 bits"
    );
}

#[test]
fn a_size_the_machine_lacks_is_refused_only_when_strict() {
    let odd = HugeSize::from_bytes(32 << 20).unwrap();
    let of = Request::builder(ByteLen::new(1 << 30)).page_size(odd);
    assert_eq!(
        resolve(&of.strict().build().unwrap(), &machine()),
        Err(Error::PageSizeUnsupported)
    );
    assert_eq!(rungs(of.build().unwrap())[0], (Rung::Pool, HugeSize::MIB2));
}

#[test]
fn zones_follow_the_dma_mask_unless_the_request_says() {
    let zone = |bits: u32, own: Option<Gfp>| {
        let mut builder =
            Request::builder(ByteLen::new(1 << 21)).dma_mask(AddressBits::new(bits).unwrap());
        if let Some(own) = own {
            builder = builder.gfp(own);
        }
        let placement = resolve(&builder.build().unwrap(), &machine()).unwrap();
        let gfp = placement.attempts().next().unwrap().gfp;
        gfp & Gfp::ZONES
    };
    assert_eq!(zone(24, None), Gfp::DMA);
    assert_eq!(zone(28, None), Gfp::DMA32);
    assert_eq!(zone(32, None), Gfp::DMA32);
    assert_eq!(zone(40, None), Gfp::HIGHMEM);
    assert_eq!(zone(28, Some(Gfp::KERNEL | Gfp::DMA)), Gfp::DMA);
}

#[test]
fn only_the_last_rung_is_patient() {
    let strict = Request::builder(ByteLen::new(2 << 20))
        .page_size(HugeSize::MIB2)
        .strict();
    let placement = resolve(&strict.build().unwrap(), &machine()).unwrap();
    let patience: Vec<_> = placement
        .attempts()
        .map(|a| a.gfp & (Gfp::NORETRY | Gfp::RETRY_MAYFAIL))
        .collect();
    assert_eq!(patience, [Gfp::NORETRY, Gfp::RETRY_MAYFAIL]);
    let own = strict.gfp(Gfp::KERNEL | Gfp::NORETRY).build().unwrap();
    let placement = resolve(&own, &machine()).unwrap();
    assert!(placement.attempts().all(|a| a.gfp.contains(Gfp::NORETRY)));
}

#[test]
fn node_policies_place_and_prefer() {
    let place = |nodes| {
        let request = Request::builder(ByteLen::new(4 << 20))
            .nodes(nodes)
            .build()
            .unwrap();
        resolve(&request, &machine())
    };
    let node = |n| NodeId::new(n).unwrap();
    let reach = |p: &Placement| p.attempts().next().unwrap().reach.nodes();
    let placed = place(NodePolicy::Default).unwrap();
    assert_eq!(placed.preferred(PageIndex::ZERO), node(1).mask());
    assert_eq!(reach(&placed), machine().nodes);
    let placed = place(NodePolicy::Interleave(NodeMask::from_bits(0b1101))).unwrap();
    assert_eq!(reach(&placed).bits(), 0b1001, "node 2 has no memory");
    let turns: Vec<_> = (0..4)
        .map(|i| placed.preferred(PageIndex::new(i)).bits())
        .collect();
    assert_eq!(turns, [1, 8, 1, 8]);
    let placed = place(NodePolicy::Preferred(node(3))).unwrap();
    assert_eq!(
        (reach(&placed), placed.preferred(PageIndex::ZERO)),
        (machine().nodes, node(3).mask())
    );
    assert_eq!(
        place(NodePolicy::Bind(node(2).mask())),
        Err(Error::NodeMaskOffline)
    );
    assert_eq!(
        reach(&place(NodePolicy::Bind(node(1).mask())).unwrap()),
        node(1).mask()
    );
}

#[test]
fn a_caller_on_a_node_without_memory_prefers_the_nodes_that_it_named() {
    let node = |n| NodeId::new(n).unwrap();
    let both = node(2).mask().or(node(3).mask());
    let request = Request::builder(ByteLen::new(4 << 20))
        .nodes(NodePolicy::Bind(both))
        .build()
        .unwrap();
    let machine = Topology {
        local: node(2),
        ..machine()
    };
    let placed = resolve(&request, &machine).unwrap();
    assert!(placed.preferred(PageIndex::ZERO).contains(node(3)));
}

#[test]
fn a_transparent_page_that_the_mask_does_not_cover_is_no_rung() {
    let machine = Topology {
        transparent: Some(HugeSize::from_bytes(512 << 20).unwrap()),
        ..machine()
    };
    let request = Request::builder(ByteLen::new(1 << 30))
        .dma_mask(AddressBits::new(28).unwrap())
        .page(PageChoice::Transparent);
    let placed = resolve(&request.build().unwrap(), &machine).unwrap();
    let rungs: Vec<_> = placed.attempts().map(|a| a.rung).collect();
    assert_eq!(rungs, [Rung::Base]);
    let strict = request.strict().build().unwrap();
    assert_eq!(resolve(&strict, &machine), Err(Error::PageSizeUnsupported));
}

#[test]
fn a_transparent_page_larger_than_the_one_asked_for_is_no_rung() {
    let small = HugeSize::from_bytes(16 << 10).unwrap();
    let machine = Topology {
        sizes: Sizes::new([small]),
        ..machine()
    };
    let request = Request::builder(ByteLen::new(4 << 20))
        .page_size(small)
        .gfp(Gfp::KERNEL | Gfp::NOFAIL)
        .build()
        .unwrap();
    let placement = resolve(&request, &machine).unwrap();
    for attempt in placement.attempts() {
        assert!(attempt.size <= small);
        assert_eq!(
            attempt
                .gfp
                .validate(attempt.size.order(), request.mobility()),
            Ok(())
        );
    }
}

#[test]
fn a_ladder_can_be_printed() {
    let request = Request::builder(ByteLen::new(2 << 20)).build().unwrap();
    let text: String = resolve(&request, &machine()).unwrap().to_string();
    assert!(
        text.starts_with("1. 2MiB from pool (nodes 0-1,3, 64 bits)\n"),
        "{text}"
    );
    assert!(
        text.contains("2. 2MiB from system (nodes 0-1,3, 64 bits), gfp "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 4);
}

#[test]
fn sizes_sort_and_deduplicate() {
    let sizes: Vec<_> = Sizes::new([
        HugeSize::MIB2,
        HugeSize::BASE,
        HugeSize::GIB1,
        HugeSize::MIB2,
    ])
    .iter()
    .collect();
    assert_eq!(sizes, [HugeSize::GIB1, HugeSize::MIB2]);
}
