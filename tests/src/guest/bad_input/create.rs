// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers that cannot be made.

use anyhow::{ensure, Result};
use htlb_core::uapi::{Create, CreateFlags};
use htlb_core::{Error as Reason, Gfp};

use super::values::of;
use super::{bytes_of, create, in_order, Bench, GIB1, MIB2, SIZE};
use crate::guest::raw::{Errno, Place};

/// What the device answers to a request, whatever it is.
fn answer(bench: &Bench, create: &Create) -> Result<Result<(), Errno>> {
    bench.make(&of(bench, "CREATE"), Place::Good, &bytes_of(create))
}

pub(super) fn buffers_that_cannot_be() -> Result<()> {
    let bench = Bench::new()?;
    let call = of(&bench, "CREATE");
    let good = create();
    let lenient = Create {
        flags: CreateFlags::NORESERVE.bits(),
        ..good
    };
    let wrong = [
        (Create { bytes: 0, ..good }, Reason::SizeZero),
        (
            Create {
                bytes: u64::MAX,
                capacity: 0,
                ..good
            },
            Reason::SizeTooLarge,
        ),
        (
            Create {
                bytes: 1 << 63,
                capacity: 0,
                ..good
            },
            Reason::SizeTooLarge,
        ),
        (
            Create {
                bytes: i64::MAX as u64,
                capacity: 0,
                ..good
            },
            Reason::SizeTooLarge,
        ),
        (
            Create {
                capacity: SIZE - 1,
                ..good
            },
            Reason::BeyondCapacity,
        ),
        (
            Create {
                capacity: 1,
                ..good
            },
            Reason::BeyondCapacity,
        ),
        (
            Create {
                page_bytes: 1,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 4095,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 3 << 20,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 32 << 30,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 1 << 63,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: u64::MAX,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 64 << 10,
                ..good
            },
            Reason::PageSizeUnsupported,
        ),
        (
            Create {
                page_bytes: 16 << 30,
                ..good
            },
            Reason::PageSizeUnsupported,
        ),
        (
            Create {
                alignment: 1,
                ..good
            },
            Reason::AlignmentInvalid,
        ),
        (
            Create {
                alignment: 2048,
                ..good
            },
            Reason::AlignmentInvalid,
        ),
        (
            Create {
                alignment: MIB2 + 1,
                ..good
            },
            Reason::AlignmentInvalid,
        ),
        (
            Create {
                alignment: u64::MAX,
                ..good
            },
            Reason::AlignmentInvalid,
        ),
        (
            Create {
                alignment: 1 << 40,
                ..good
            },
            Reason::AlignmentUnreachable,
        ),
        (
            Create {
                contiguous: SIZE + MIB2,
                ..good
            },
            Reason::ContiguityInvalid,
        ),
        (
            Create {
                contiguous: u64::MAX,
                ..good
            },
            Reason::ContiguityInvalid,
        ),
        (
            Create {
                flags: good.flags | 1 << 2,
                contiguous: MIB2,
                ..good
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                fallback: 1,
                ..good
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                fallback: 8,
                ..lenient
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                fallback: 0x101,
                ..lenient
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                node_policy: 4,
                ..good
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                node_policy: u32::MAX,
                ..good
            },
            Reason::RecordFlags,
        ),
        (Create { nodes: 1, ..good }, Reason::RecordFlags),
        (
            Create {
                node_policy: Create::NODES_BIND,
                ..good
            },
            Reason::NodeMaskEmpty,
        ),
        (
            Create {
                node_policy: Create::NODES_PREFERRED,
                ..good
            },
            Reason::NodeMaskEmpty,
        ),
        (
            Create {
                node_policy: Create::NODES_INTERLEAVE,
                ..good
            },
            Reason::NodeMaskEmpty,
        ),
        (
            Create {
                node_policy: Create::NODES_BIND,
                nodes: 1 << 2,
                ..good
            },
            Reason::NodeMaskOffline,
        ),
        (
            Create {
                node_policy: Create::NODES_BIND,
                nodes: 1 << 63,
                ..good
            },
            Reason::NodeMaskOffline,
        ),
        (
            Create {
                node_policy: Create::NODES_INTERLEAVE,
                nodes: 0xff00,
                ..good
            },
            Reason::NodeMaskOffline,
        ),
        // More pages than there are, promised.
        (
            Create {
                bytes: 1 << 40,
                capacity: 0,
                flags: CreateFlags::STRICT.bits(),
                ..good
            },
            Reason::NoRoom,
        ),
        (
            Create {
                bytes: 1 << 62,
                capacity: 0,
                flags: CreateFlags::STRICT.bits(),
                ..good
            },
            Reason::SizeTooLarge,
        ),
    ];
    for (record, reason) in wrong {
        bench.wrong(&call, &record, reason)?;
        // The core alone says the same, where it has a say.
        if let Err(said) = record.to_request() {
            ensure!(
                said == reason,
                "the core says {said:?} of {record:?}, the table {reason:?}"
            );
        }
    }
    // These pages never move.
    let moving = Create {
        flags: good.flags | CreateFlags::MOVABLE.bits(),
        ..good
    };
    bench.refused(
        "MOVABLE",
        &call,
        &bytes_of(&moving),
        Place::Good,
        libc::EOPNOTSUPP,
    )?;
    in_order("wrong buffers")
}

pub(super) fn every_dma_mask() -> Result<()> {
    let bench = Bench::new()?;
    let call = of(&bench, "CREATE");
    for page_bytes in [MIB2, GIB1] {
        for dma_bits in (0..=70).chain([255, 256, 1 << 16, u32::MAX]) {
            let record = Create {
                dma_bits,
                page_bytes,
                ..create()
            };
            let expected = match (dma_bits, page_bytes) {
                (0, _) => None,
                (1..=23 | 65.., _) => Some(Reason::DmaMaskInvalid),
                (24..=29, GIB1) => Some(Reason::DmaMaskTooNarrow),
                _ => None,
            };
            match expected {
                Some(reason) => bench.wrong(&call, &record, reason)?,
                // Nothing is promised, so that there need not be such a page.
                None => bench.unchanged(&format!("a mask of {dma_bits} bits"), || {
                    let done = answer(&bench, &record)?;
                    ensure!(done == Ok(()), "{done:?}");
                    Ok(())
                })?,
            }
        }
    }
    Ok(())
}

pub(super) fn every_bit_of_the_gfp_mask() -> Result<()> {
    let bench = Bench::new()?;
    let call = of(&bench, "CREATE");
    let good = create();
    for bit in (0..32).map(|bit| 1_u32 << bit) {
        let record = Create { gfp: bit, ..good };
        let allowed = Gfp::from_bits(bit).is_some_and(|gfp| Create::GFP_ALLOWED.contains(gfp));
        if !allowed {
            bench.wrong(&call, &record, Reason::RecordFlags)?;
            continue;
        }
        // Together with what is allowed it is as wrong or right as the core says.
        let before = bench.books()?;
        let done = answer(&bench, &record)?;
        let said = record.to_request().map(drop).map_err(Reason::errno);
        ensure!(
            done == said,
            "GFP {bit:#x}: {done:?}, the core says {said:?}"
        );
        ensure!(before == bench.books()?, "GFP {bit:#x} changed the books");
    }
    let mask = |gfp: Gfp| Create {
        gfp: gfp.bits(),
        ..good
    };
    for (record, reason) in [
        (mask(Gfp::DMA | Gfp::DMA32), Reason::GfpZoneConflict),
        (mask(Gfp::DMA32 | Gfp::HIGHMEM), Reason::GfpZoneConflict),
        (
            mask(Gfp::NORETRY | Gfp::RETRY_MAYFAIL),
            Reason::GfpRetryConflict,
        ),
        (mask(Gfp::THISNODE), Reason::GfpThisNodeWithoutNode),
        (
            Create {
                dma_bits: 32,
                ..mask(Gfp::HIGHMEM)
            },
            Reason::GfpZoneExceedsDmaMask,
        ),
        (mask(Gfp::NOFAIL | Gfp::THISNODE), Reason::RecordFlags),
        (
            Create {
                gfp: u32::MAX,
                ..good
            },
            Reason::RecordFlags,
        ),
    ] {
        bench.wrong(&call, &record, reason)?;
    }
    in_order("wrong GFP masks")
}

/// A table of slots may not fit; nobody is to be killed for it.
pub(super) fn capacities_of_any_size() -> Result<()> {
    let bench = Bench::new()?;
    for page_bytes in [4096, MIB2, GIB1] {
        for bit in [24, 30, 36, 41, 52, 62, 63] {
            for capacity in [1 << bit, (1 << bit) - 1, (1 << bit) + 1] {
                let record = Create {
                    capacity,
                    bytes: page_bytes,
                    page_bytes,
                    ..create()
                };
                bench.unchanged(
                    &format!("a capacity of {capacity} in pages of {page_bytes}"),
                    || {
                        let done = answer(&bench, &record)?;
                        let possible = [libc::ENOMEM, libc::EFBIG, libc::EOVERFLOW, libc::EINVAL];
                        ensure!(
                            done.map_or_else(|errno| possible.contains(&errno), |()| true),
                            "{done:?}"
                        );
                        Ok(())
                    },
                )?;
            }
        }
    }
    Ok(())
}
