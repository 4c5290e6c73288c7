// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The ioctl records and numbers of `/dev/htlb`, shared by the kernel module and user space.
//!
//! Rules of the ABI: lengths and offsets are in bytes, never in pages; every record begins with its own size, so that
//! it can grow at its end; what a shorter record lacks is zero, and a longer one is accepted only where its tail is zero;
//! unknown flags are refused. A record is plain integers without padding, and is decoded from bytes here, because this
//! crate has no unsafe code and the kernel must not trust a pointer cast anyway.

mod record;
mod request;
mod rung;

pub use record::Record;

use crate::error::Error;
use record::record;

/// The version of this interface, as `STATS` reports it.
pub const VERSION: u32 = 1;

/// The type byte of every ioctl number here.
pub const MAGIC: u8 = 0xBC;

/// The most extents a buffer has: one for each page size that its ladder used.
pub const EXTENTS: usize = 3;

/// `node` where no node is meant: all of them, or any.
pub const NODE_ANY: i32 = -1;

/// `max` of [`Limit`] where there is no limit.
pub const NO_LIMIT: u64 = u64::MAX;

/// The device itself.
pub const DEVICE: &str = "/dev/htlb";

record! {
    /// `HTLB_IOC_CREATE`, on the device: a buffer, answered with its file descriptor.
    pub struct Create = (b'c', 80) {
        /// [`CreateFlags`].
        pub flags: u32,
        /// The size in bytes.
        pub bytes: u64,
        /// The most it may grow to, in bytes; 0 for `bytes`.
        pub capacity: u64,
        /// The page size in bytes; 0 chooses the largest that fit.
        pub page_bytes: u64,
        /// The physical alignment in bytes; 0 for the page's own.
        pub alignment: u64,
        /// The length of physically contiguous runs in bytes; 0 for single pages.
        pub contiguous: u64,
        /// The nodes, one bit each; 0 where the policy names none.
        pub nodes: u64,
        /// One of the `NODES_` constants of [`Create`].
        pub node_policy: u32,
        /// The device's DMA mask in bits; 0 for no limit.
        pub dma_bits: u32,
        /// Bits of [`crate::Gfp`]; 0 for the default mask. Only those in [`Create::GFP_ALLOWED`].
        pub gfp: u32,
        /// Bits of [`crate::Fallback`], without [`CreateFlags::STRICT`]; 0 for any.
        pub fallback: u32,
        /// Zero.
        pub reserved: u64,
    }
}

record! {
    /// `HTLB_IOC_POPULATE`, on a buffer: pages for a range, before any program touches them.
    pub struct Populate = (b'p', 32) {
        /// Zero.
        pub flags: u32,
        /// Where the range begins, in bytes.
        pub offset: u64,
        /// Its length in bytes; it may end at the end of the buffer.
        pub len: u64,
        /// Out: the bytes that had no page before, also where an error stopped it.
        pub populated: u64,
    }
}

record! {
    /// `HTLB_IOC_RESERVE`, on a buffer: a promise for every hole of a range, all of them or none.
    pub struct Reserve = (b'v', 32) {
        /// Zero.
        pub flags: u32,
        /// Where the range begins, in bytes.
        pub offset: u64,
        /// Its length in bytes; it may end at the end of the buffer.
        pub len: u64,
        /// Out: the bytes that were neither promised nor populated before.
        pub promised: u64,
    }
}

record! {
    /// `HTLB_IOC_PUNCH`, on a buffer: gives pages and promises of a range back, and revokes every mapping of them.
    pub struct Punch = (b'h', 40) {
        /// Zero.
        pub flags: u32,
        /// Where the range begins, in bytes.
        pub offset: u64,
        /// Its length in bytes.
        pub len: u64,
        /// Out: bytes of pages that went.
        pub removed: u64,
        /// Out: bytes of promises that went, of pages that had not come yet.
        pub unpromised: u64,
    }
}

record! {
    /// `HTLB_IOC_TRUNCATE`, on a buffer: another size, up to its capacity. What lies beyond is given back, as by a punch;
    /// what is added are holes.
    pub struct Truncate = (b'z', 32) {
        /// Zero.
        pub flags: u32,
        /// The new size in bytes.
        pub bytes: u64,
        /// Out: bytes of pages that went.
        pub removed: u64,
        /// Out: bytes of promises that went, of pages that had not come yet.
        pub unpromised: u64,
    }
}

record! {
    /// `HTLB_IOC_SEAL`, on a buffer: forbids, or allows again, punching and truncating it.
    pub struct Seal = (b's', 8) {
        /// [`SealFlags`].
        pub flags: u32,
    }
}

record! {
    /// `HTLB_IOC_INFO`, on a buffer: what was got.
    pub struct Info = (b'i', 112) {
        /// Zero.
        pub flags: u32,
        /// The size in bytes.
        pub bytes: u64,
        /// The most it may grow to, in bytes.
        pub capacity: u64,
        /// Bytes with a page.
        pub populated: u64,
        /// Bytes that are promised but have no page yet.
        pub promised: u64,
        /// Pins on its pages.
        pub pins: u64,
        /// Seals on the buffer.
        pub seals: u64,
        /// The page size of each extent in bytes; 0 for none.
        pub page_bytes: [u64; EXTENTS],
        /// The length of each extent in bytes.
        pub extent_bytes: [u64; EXTENTS],
        /// The rung of the ladder that served each extent, a byte each, the first extent lowest.
        pub rungs: u64,
    }
}

impl Info {
    /// Pages of the module's own pool.
    pub const RUNG_POOL: u8 = 1;
    /// Pages that the system's allocator gave.
    pub const RUNG_SYSTEM: u8 = 2;
    /// Base pages.
    pub const RUNG_BASE: u8 = 3;
    /// Pages that user space donated.
    pub const RUNG_DONATED: u8 = 4;
}

record! {
    /// `HTLB_IOC_LOOKUP`, on a buffer: where a byte lies. Needs `CAP_SYS_ADMIN`.
    pub struct Lookup = (b'l', 40) {
        /// Zero.
        pub flags: u32,
        /// The offset in bytes.
        pub offset: u64,
        /// Out: the physical address of that byte.
        pub physical: u64,
        /// Out: the size of its page in bytes.
        pub page_bytes: u64,
        /// Out: the node of its page.
        pub node: i32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// `HTLB_IOC_EXPORT`, on a buffer: a dma-buf of the range.
    pub struct Export = (b'e', 32) {
        /// `O_CLOEXEC`, and `O_RDWR` for a writable dma-buf.
        pub flags: u32,
        /// Where the range begins, in bytes.
        pub offset: u64,
        /// Its length in bytes; 0 up to the end.
        pub len: u64,
        /// Out: the file descriptor.
        pub fd: i32,
        /// Zero.
        pub reserved: u32,
    }
}

record! {
    /// `HTLB_IOC_STATS`, on the device: the pool of one page size, on one node or on all.
    pub struct Stats = (b't', 96) {
        /// Zero.
        pub flags: u32,
        /// The page size in bytes.
        pub page_bytes: u64,
        /// The node, or [`NODE_ANY`].
        pub node: i32,
        /// Out: [`VERSION`].
        pub version: u32,
        /// Out: bytes in the pool.
        pub total: u64,
        /// Out: of these, free.
        pub free: u64,
        /// Out: promised and not yet taken; only for all nodes, since a promise may span several.
        pub reserved: u64,
        /// Out: of the total, surplus.
        pub surplus: u64,
        /// Out: how much surplus is allowed; only for all nodes.
        pub overcommit: u64,
        /// Out: what a new buffer could still be promised; only for all nodes.
        pub available: u64,
        /// Out: given back, but still held by somebody else.
        pub limbo: u64,
        /// Out: donated by user space, not part of the total.
        pub donated: u64,
        /// Zero.
        pub spare: u64,
    }
}

record! {
    /// `HTLB_IOC_RESIZE`, on the device: grows or shrinks a pool. Needs `CAP_SYS_ADMIN`.
    pub struct Resize = (b'r', 40) {
        /// [`ResizeFlags`].
        pub flags: u32,
        /// The page size in bytes.
        pub page_bytes: u64,
        /// The size to reach, in bytes, without surplus.
        pub target: u64,
        /// The node, or [`NODE_ANY`].
        pub node: i32,
        /// Zero.
        pub reserved: u32,
        /// Out: what the pool has now, in bytes.
        pub reached: u64,
    }
}

record! {
    /// `HTLB_IOC_LIMIT`, on the device: what the buffers made through this file, or those of one user, may use of one
    /// page size. A file's limit holds beside its user's. A user's, and any minimum, need `CAP_SYS_ADMIN`.
    pub struct Limit = (b'a', 48) {
        /// [`LimitFlags`].
        pub flags: u32,
        /// The page size in bytes.
        pub page_bytes: u64,
        /// The most that may be promised and used, in bytes, or [`NO_LIMIT`].
        pub max: u64,
        /// What is guaranteed to this file, in bytes; 0 for a user.
        pub min: u64,
        /// The user, with [`LimitFlags::USER`]; else zero.
        pub uid: u32,
        /// Zero.
        pub reserved: u32,
        /// Out: what is promised and used now, in bytes.
        pub used: u64,
    }
}

record! {
    /// `HTLB_IOC_IMPORT`, on the device: a buffer over pages of a hugetlb memfd that user space donates. Both share them, until
    /// the buffer's end, whatever becomes of the memfd; the buffer can neither be punched nor made smaller (`EPERM`).
    pub struct Import = (b'm', 32) {
        /// `O_CLOEXEC`.
        pub flags: u32,
        /// Where the donated range begins in the memfd, in bytes.
        pub offset: u64,
        /// Its length in bytes.
        pub len: u64,
        /// The memfd.
        pub memfd: i32,
        /// Zero.
        pub reserved: u32,
    }
}

bitflags::bitflags! {
    /// Flags of [`Create`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CreateFlags: u32 {
        /// The page size asked for, or an error.
        const STRICT = 1 << 0;
        /// Pages may hold what the same owner left there.
        const DIRTY_WITHIN_OWNER = 1 << 1;
        /// The whole buffer physically contiguous.
        const CONTIGUOUS = 1 << 2;
        /// Pages from the system may be migrated.
        const MOVABLE = 1 << 3;
        /// The new file descriptor is closed on exec.
        const CLOEXEC = 1 << 4;
        /// No page is promised: each comes when it is populated or touched, if there is one.
        const NORESERVE = 1 << 5;
        /// Every page is there when the call returns.
        const POPULATE = 1 << 6;
    }

    /// Flags of [`Seal`]: exactly one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SealFlags: u32 {
        /// Add a seal of this file descriptor.
        const ADD = 1 << 0;
        /// Take it away.
        const REMOVE = 1 << 1;
    }

    /// Flags of [`Limit`]: at most one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LimitFlags: u32 {
        /// The limit of a user, for all files of that user; without it, of this file.
        const USER = 1 << 0;
        /// Only tell what is used; `max` and `min` are out.
        const QUERY = 1 << 1;
    }

    /// Flags of [`Resize`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ResizeFlags: u32 {
        /// `target` is how much surplus is allowed, over all nodes, not the size of the pool.
        const OVERCOMMIT = 1 << 0;
    }
}

#[cfg(test)]
mod tests;
