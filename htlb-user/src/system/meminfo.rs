// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How much memory there is, by `/proc/meminfo` and each node's own.
//!
//! Fields come and go between kernels, and some systems add lines of their own; every field is
//! optional and unknown lines are skipped.

use htlb_core::{ByteLen, HugeSize, NodeId};

use super::{Error, Root};

/// The fields that matter for huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// All memory that the kernel manages.
    pub total: Option<ByteLen>,
    /// What nobody uses.
    pub free: Option<ByteLen>,
    /// What could be had without swapping. Nodes do not say; there it is free memory and file pages.
    pub available: Option<ByteLen>,
    /// Swap that nobody uses. Nodes do not say.
    pub swap_free: Option<ByteLen>,
    /// Pages of the default size.
    pub huge_total: Option<u64>,
    /// Those that are free.
    pub huge_free: Option<u64>,
    /// Those that are reserved. Nodes do not say.
    pub huge_reserved: Option<u64>,
    /// Those that are surplus.
    pub huge_surplus: Option<u64>,
    /// The default huge page size. Nodes do not say.
    pub huge_size: Option<HugeSize>,
    /// Memory in hugetlb pages of all sizes (Linux 4.16). Nodes do not say.
    pub hugetlb: Option<ByteLen>,
}

/// The whole machine; every field absent where there is no `/proc`.
///
/// # Errors
/// [`Error::Found`] where a known field has no number.
pub fn read(root: &Root) -> Result<MemInfo, Error> {
    parse(root, "/proc/meminfo")
}

/// One node; every field absent where there is no `/sys`.
///
/// # Errors
/// As [`read`].
pub fn read_node(root: &Root, node: NodeId) -> Result<MemInfo, Error> {
    parse(
        root,
        &format!("/sys/devices/system/node/node{node}/meminfo"),
    )
}

fn parse(root: &Root, path: &str) -> Result<MemInfo, Error> {
    let mut info = MemInfo::default();
    let Some(text) = root.text(path)? else {
        return Ok(info);
    };
    let (mut file_pages, mut page_bytes) = (0_u64, None);
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        // A node's lines begin with `Node 0 `.
        let name = name.split_ascii_whitespace().next_back().unwrap_or("");
        let number = || -> Result<u64, Error> {
            let mut words = value.split_ascii_whitespace();
            let number = words.next().and_then(|word| word.parse::<u64>().ok());
            let shift = match words.next() {
                None => Some(0),
                Some("kB") => Some(10),
                Some(_) => None,
            };
            number
                .zip(shift)
                .and_then(|(number, shift)| number.checked_mul(1 << shift))
                .ok_or_else(|| Error::found(&root.path(path), "a number, perhaps of kB", line))
        };
        let bytes = || number().map(|n| Some(ByteLen::new(n)));
        match name {
            "MemTotal" => info.total = bytes()?,
            "MemFree" => info.free = bytes()?,
            "MemAvailable" => info.available = bytes()?,
            "SwapFree" => info.swap_free = bytes()?,
            "Active(file)" | "Inactive(file)" => file_pages = file_pages.saturating_add(number()?),
            "HugePages_Total" => info.huge_total = Some(number()?),
            "HugePages_Free" => info.huge_free = Some(number()?),
            "HugePages_Rsvd" => info.huge_reserved = Some(number()?),
            "HugePages_Surp" => info.huge_surplus = Some(number()?),
            "Hugetlb" => info.hugetlb = bytes()?,
            "Hugepagesize" => page_bytes = Some(number()?),
            _ => {}
        }
    }
    info.huge_size = page_bytes.and_then(|bytes| HugeSize::from_bytes(bytes).ok());
    let estimate = info.free.and_then(|free| free.checked_add(file_pages));
    info.available = info.available.or(estimate);
    Ok(info)
}
