// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A pool whose pages lie below given masks, and no lower than that.
//!
//! The pool is made as large as the node allows; buffers for devices with these masks then take what is wanted from it,
//! and what they did not take goes again. It is the pool's own choice that is used here, so the addresses are looked at.

use htlb_core::{AddressBits, ByteLen, HugeSize, NodePolicy, Request};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer, DeviceError};

use super::super::meminfo::node_free;
use super::machine::{node_id, LOW_NODE};
use crate::conformance::{PoolSpec, Unavailable};

/// Leaves so much to the rest of the guest.
const MARGIN: u64 = 256 << 20;

fn unavailable(error: impl std::fmt::Display) -> Unavailable {
    Unavailable(error.to_string())
}

/// Makes the low node's pool of what these say, and of nothing else.
///
/// # Errors
/// The guest has no such pages free.
pub(super) fn fill(device: &Device, pools: &[PoolSpec]) -> Result<(), Unavailable> {
    let node = node_id(LOW_NODE);
    let size = HugeSize::MIB2;
    let most = node_free(LOW_NODE)
        .map_err(unavailable)?
        .saturating_sub(MARGIN);
    let all = ByteLen::new(most - most % size.bytes());
    device.resize(size, Some(node), all).map_err(unavailable)?;
    let mut wanted: Vec<PoolSpec> = pools.to_vec();
    wanted.sort_by_key(|pool| pool.below);
    let mut kept = Vec::new();
    let mut above = 0;
    for pool in &wanted {
        let buffer = taken(device, pool).map_err(unavailable)?;
        for page in 0..pool.pages {
            let address = buffer
                .lookup(page * size.bytes())
                .map_err(unavailable)?
                .physical;
            if address < above || address + size.bytes() > 1 << pool.below {
                return Err(Unavailable(format!(
                    "the pool's page at {address:#x} is not one of those below 2^{} only",
                    pool.below
                )));
            }
        }
        above = 1 << pool.below;
        kept.push(buffer);
    }
    let pages: u64 = wanted.iter().map(|pool| pool.pages).sum();
    let rest = ByteLen::new(pages * size.bytes());
    let left = device.resize(size, Some(node), rest).map_err(unavailable)?;
    drop(kept);
    match left == rest {
        true => Ok(()),
        false => Err(Unavailable(format!(
            "the pool keeps {} bytes, not {}",
            left.raw(),
            rest.raw()
        ))),
    }
}

/// A populated buffer of such pages.
fn taken(device: &Device, pool: &PoolSpec) -> Result<DeviceBuffer, DeviceError> {
    let bits = u8::try_from(pool.below)
        .ok()
        .and_then(|bits| AddressBits::new(u32::from(bits)).ok());
    let request = Request::builder(ByteLen::new(pool.pages * pool.size.bytes()))
        .page_size(pool.size)
        .nodes(NodePolicy::Bind(node_id(LOW_NODE).mask()))
        .dma_mask(bits.expect("a mask of the suite"))
        .strict()
        .build()
        .expect("a legal request");
    device.create(&request, request.size(), Populate::Now)
}
