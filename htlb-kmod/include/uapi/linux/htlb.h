/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note OR MIT */
/*
 * The interface of /dev/htlb: huge-page buffers that a device can fill before any program maps them.
 *
 * Lengths, offsets and page sizes are in bytes, never in pages. Every record begins with its own size in bytes, so that
 * it can grow at its end: set it to sizeof(the record) and everything that is not used to zero. The kernel takes what a
 * shorter record lacks as zero, and refuses a longer one (EINVAL) unless what it does not know is zero. Unknown flags
 * and non-zero reserved fields are refused with EINVAL too.
 *
 * The Rust side of these records is htlb-core/src/uapi; a test compares the two, field by field.
 */
#ifndef _UAPI_LINUX_HTLB_H
#define _UAPI_LINUX_HTLB_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The character device that buffers are made with. */
#define HTLB_DEVICE "/dev/htlb"

/* The version of this interface, as HTLB_IOC_STATS reports it. */
#define HTLB_VERSION 1

/* The most extents a buffer has: one for each page size that it is made of. */
#define HTLB_EXTENTS 3

/* node where no node is meant: all of them, or any. */
#define HTLB_NODE_ANY (-1)

/* max of struct htlb_limit where there is no limit. */
#define HTLB_NO_LIMIT 0xffffffffffffffffULL

/* Flags of struct htlb_create. */
#define HTLB_CREATE_STRICT		(1U << 0) /* the page size asked for, or an error */
#define HTLB_CREATE_DIRTY_WITHIN_OWNER	(1U << 1) /* pages may hold what the same owner left there */
#define HTLB_CREATE_CONTIGUOUS		(1U << 2) /* the whole buffer physically contiguous */
#define HTLB_CREATE_MOVABLE		(1U << 3) /* pages from the system may be migrated */
#define HTLB_CREATE_CLOEXEC		(1U << 4) /* close the new file descriptor on exec */
#define HTLB_CREATE_NORESERVE		(1U << 5) /* promise no page: each comes when it is needed, if there is one */
#define HTLB_CREATE_POPULATE		(1U << 6) /* every page is there when the call returns */

/* node_policy of struct htlb_create. */
#define HTLB_NODES_DEFAULT	0 /* nodes is zero: the caller's first, then any */
#define HTLB_NODES_BIND		1 /* only those in nodes */
#define HTLB_NODES_PREFERRED	2 /* those in nodes, then any other */
#define HTLB_NODES_INTERLEAVE	3 /* those in nodes and no others, page by page */

/* gfp of struct htlb_create: where the system may look for pages, and how hard. These numbers are of this interface,
 * not of the running kernel.
 */
#define HTLB_GFP_DMA		(1U << 0)  /* only ZONE_DMA: on x86 the first 16 MiB */
#define HTLB_GFP_HIGHMEM	(1U << 1)  /* high memory is welcome; no effect on 64-bit machines */
#define HTLB_GFP_DMA32		(1U << 2)  /* only memory below 4 GiB */
#define HTLB_GFP_RETRY_MAYFAIL	(1U << 13) /* retry while progress is made, then fail */
#define HTLB_GFP_NORETRY	(1U << 15) /* one light attempt */
#define HTLB_GFP_THISNODE	(1U << 19) /* only the chosen node */
#define HTLB_GFP_ACCOUNT	(1U << 20) /* charge the page to the caller's memory cgroup */

/* fallback of struct htlb_create: what may be tried where the first choice is short. */
#define HTLB_FALLBACK_SMALLER		(1U << 0) /* smaller huge pages */
#define HTLB_FALLBACK_TRANSPARENT	(1U << 1) /* transparent huge pages */
#define HTLB_FALLBACK_BASE		(1U << 2) /* base pages */

/* A byte of rungs in struct htlb_info: where the pages of an extent came from; 0 where there is no extent. */
#define HTLB_RUNG_POOL		1 /* htlb's own pool */
#define HTLB_RUNG_SYSTEM	2 /* the page allocator, by the mask of the request */
#define HTLB_RUNG_BASE		3 /* base pages */
#define HTLB_RUNG_DONATED	4 /* user space, by HTLB_IOC_IMPORT */

/* Flags of struct htlb_seal: exactly one. */
#define HTLB_SEAL_ADD		(1U << 0) /* add a seal of this file descriptor */
#define HTLB_SEAL_REMOVE	(1U << 1) /* take it away */

/* Flags of struct htlb_resize. */
#define HTLB_RESIZE_OVERCOMMIT	(1U << 0) /* target is how much surplus is allowed, over all nodes */

/* Flags of struct htlb_limit: at most one. */
#define HTLB_LIMIT_USER		(1U << 0) /* the limit of a user, for all that user's files; else of this file */
#define HTLB_LIMIT_QUERY	(1U << 1) /* only tell what is used; max and min are out */

/**
 * struct htlb_create - HTLB_IOC_CREATE, on the device: make a buffer
 * @size: sizeof(struct htlb_create)
 * @flags: HTLB_CREATE_*
 * @bytes: size of the buffer in bytes; not zero
 * @capacity: most it may grow to, in bytes; 0 for @bytes
 * @page_bytes: page size in bytes; 0 chooses the largest that fit
 * @alignment: physical alignment in bytes; 0 for the page's own
 * @contiguous: length of physically contiguous runs in bytes; 0 for single pages
 * @nodes: NUMA nodes, one bit each; 0 where @node_policy names none
 * @node_policy: one of HTLB_NODES_*
 * @dma_bits: DMA mask of the device in bits; 0 for no limit
 * @gfp: HTLB_GFP_*; 0 for the default mask
 * @fallback: HTLB_FALLBACK_*; 0 for any, and with HTLB_CREATE_STRICT
 * @reserved: zero
 *
 * The ioctl returns the file descriptor of the buffer, which can be mapped with mmap(2).
 */
struct htlb_create {
	__u32 size;
	__u32 flags;
	__u64 bytes;
	__u64 capacity;
	__u64 page_bytes;
	__u64 alignment;
	__u64 contiguous;
	__u64 nodes;
	__u32 node_policy;
	__u32 dma_bits;
	__u32 gfp;
	__u32 fallback;
	__u64 reserved;
};

/**
 * struct htlb_populate - HTLB_IOC_POPULATE, on a buffer: pages for a range, before any program touches them
 * @size: sizeof(struct htlb_populate)
 * @flags: zero
 * @offset: where the range begins, in bytes
 * @len: its length in bytes; it may end at the end of the buffer
 * @populated: out: bytes that had no page before, also where an error stopped it
 */
struct htlb_populate {
	__u32 size;
	__u32 flags;
	__u64 offset;
	__u64 len;
	__u64 populated;
};

/**
 * struct htlb_reserve - HTLB_IOC_RESERVE, on a buffer: a promise for every hole of a range, all of them or none
 * @size: sizeof(struct htlb_reserve)
 * @flags: zero
 * @offset: where the range begins, in bytes
 * @len: its length in bytes; it may end at the end of the buffer
 * @promised: out: bytes that were neither promised nor populated before
 */
struct htlb_reserve {
	__u32 size;
	__u32 flags;
	__u64 offset;
	__u64 len;
	__u64 promised;
};

/**
 * struct htlb_punch - HTLB_IOC_PUNCH, on a buffer: give a range back, and revoke every mapping of it
 * @size: sizeof(struct htlb_punch)
 * @flags: zero
 * @offset: where the range begins, in bytes
 * @len: its length in bytes
 * @removed: out: bytes of pages that went
 * @unpromised: out: bytes of promises that went, of pages that had not come yet
 */
struct htlb_punch {
	__u32 size;
	__u32 flags;
	__u64 offset;
	__u64 len;
	__u64 removed;
	__u64 unpromised;
};

/**
 * struct htlb_truncate - HTLB_IOC_TRUNCATE, on a buffer: another size, up to its capacity
 * @size: sizeof(struct htlb_truncate)
 * @flags: zero
 * @bytes: new size in bytes
 * @removed: out: bytes of pages that went
 * @unpromised: out: bytes of promises that went, of pages that had not come yet
 *
 * What lies beyond the new size is given back, as by a punch; what is added are holes.
 */
struct htlb_truncate {
	__u32 size;
	__u32 flags;
	__u64 bytes;
	__u64 removed;
	__u64 unpromised;
};

/**
 * struct htlb_seal - HTLB_IOC_SEAL, on a buffer: forbid punching and truncating it, or allow it again
 * @size: sizeof(struct htlb_seal)
 * @flags: HTLB_SEAL_ADD or HTLB_SEAL_REMOVE
 */
struct htlb_seal {
	__u32 size;
	__u32 flags;
};

/**
 * struct htlb_info - HTLB_IOC_INFO, on a buffer: what was got
 * @size: sizeof(struct htlb_info)
 * @flags: zero
 * @bytes: out: size in bytes
 * @capacity: out: most it may grow to, in bytes
 * @populated: out: bytes with a page
 * @promised: out: bytes that are promised but have no page yet
 * @pins: out: pins on its pages
 * @seals: out: seals on the buffer
 * @page_bytes: out: page size of each extent in bytes; 0 for no extent
 * @extent_bytes: out: length of each extent in bytes
 * @rungs: out: HTLB_RUNG_* of each extent, a byte each, the first extent lowest
 */
struct htlb_info {
	__u32 size;
	__u32 flags;
	__u64 bytes;
	__u64 capacity;
	__u64 populated;
	__u64 promised;
	__u64 pins;
	__u64 seals;
	__u64 page_bytes[HTLB_EXTENTS];
	__u64 extent_bytes[HTLB_EXTENTS];
	__u64 rungs;
};

/**
 * struct htlb_lookup - HTLB_IOC_LOOKUP, on a buffer: where a byte lies; needs CAP_SYS_ADMIN
 * @size: sizeof(struct htlb_lookup)
 * @flags: zero
 * @offset: offset in the buffer, in bytes
 * @physical: out: physical address of that byte
 * @page_bytes: out: size of its page in bytes
 * @node: out: NUMA node of its page
 * @reserved: zero
 */
struct htlb_lookup {
	__u32 size;
	__u32 flags;
	__u64 offset;
	__u64 physical;
	__u64 page_bytes;
	__s32 node;
	__u32 reserved;
};

/**
 * struct htlb_export - HTLB_IOC_EXPORT, on a buffer: a dma-buf of a range
 * @size: sizeof(struct htlb_export)
 * @flags: O_CLOEXEC, and O_RDWR for a writable dma-buf
 * @offset: where the range begins, in bytes
 * @len: its length in bytes; 0 up to the end
 * @fd: out: file descriptor of the dma-buf
 * @reserved: zero
 */
struct htlb_export {
	__u32 size;
	__u32 flags;
	__u64 offset;
	__u64 len;
	__s32 fd;
	__u32 reserved;
};

/**
 * struct htlb_stats - HTLB_IOC_STATS, on the device: the pool of one page size, on one node or on all
 * @size: sizeof(struct htlb_stats)
 * @flags: zero
 * @page_bytes: page size in bytes
 * @node: NUMA node, or HTLB_NODE_ANY
 * @version: out: HTLB_VERSION of the module
 * @total: out: bytes in the pool
 * @free: out: of these, free
 * @reserved: out: bytes promised and not yet taken; only for all nodes, since a promise may span several
 * @surplus: out: of @total, surplus
 * @overcommit: out: bytes of surplus that are allowed; only for all nodes
 * @available: out: bytes that a new buffer could still be promised; only for all nodes
 * @limbo: out: bytes given back, but still held by somebody else
 * @donated: out: bytes donated by user space, not part of @total
 * @spare: zero
 */
struct htlb_stats {
	__u32 size;
	__u32 flags;
	__u64 page_bytes;
	__s32 node;
	__u32 version;
	__u64 total;
	__u64 free;
	__u64 reserved;
	__u64 surplus;
	__u64 overcommit;
	__u64 available;
	__u64 limbo;
	__u64 donated;
	__u64 spare;
};

/**
 * struct htlb_resize - HTLB_IOC_RESIZE, on the device: grow or shrink a pool; needs CAP_SYS_ADMIN
 * @size: sizeof(struct htlb_resize)
 * @flags: HTLB_RESIZE_*
 * @page_bytes: page size in bytes
 * @target: size to reach, in bytes, without surplus
 * @node: NUMA node, or HTLB_NODE_ANY
 * @reserved: zero
 * @reached: out: what the pool has now, in bytes
 */
struct htlb_resize {
	__u32 size;
	__u32 flags;
	__u64 page_bytes;
	__u64 target;
	__s32 node;
	__u32 reserved;
	__u64 reached;
};

/**
 * struct htlb_limit - HTLB_IOC_LIMIT, on the device: what the buffers of a file, or of a user, may use
 * @size: sizeof(struct htlb_limit)
 * @flags: HTLB_LIMIT_*
 * @page_bytes: page size in bytes
 * @max: most that may be promised and used, in bytes, or HTLB_NO_LIMIT
 * @min: what is guaranteed to this file, in bytes; 0 for a user
 * @uid: user, with HTLB_LIMIT_USER; else zero
 * @reserved: zero
 * @used: out: what is promised and used now, in bytes
 *
 * A file's limit holds beside its user's. A user's limit, and any @min, need CAP_SYS_ADMIN.
 */
struct htlb_limit {
	__u32 size;
	__u32 flags;
	__u64 page_bytes;
	__u64 max;
	__u64 min;
	__u32 uid;
	__u32 reserved;
	__u64 used;
};

/**
 * struct htlb_import - HTLB_IOC_IMPORT, on the device: make a buffer over pages of a donated hugetlb memfd
 * @size: sizeof(struct htlb_import)
 * @flags: O_CLOEXEC
 * @offset: where the donated range begins in the memfd, in bytes
 * @len: its length in bytes
 * @memfd: file descriptor of the memfd
 * @reserved: zero
 *
 * The ioctl returns the file descriptor of the buffer. Both files share the pages: offset and len are multiples of the memfd's
 * page size, and holes of the range get pages now. The pages stay the buffer's until its end, whatever becomes of the memfd: a
 * donor that truncates it or punches a hole into it loses sight of them, and F_SEAL_WRITE is EBUSY meanwhile. They are taken
 * from hugetlb's pool and count against the donor's hugetlb cgroup, not against any limit here nor RLIMIT_MEMLOCK.
 * HTLB_IOC_PUNCH, and HTLB_IOC_TRUNCATE to less, fail with EPERM. The buffer is mapped shared only (MAP_PRIVATE is EINVAL) and
 * its mappings cannot be pinned (O_DIRECT and the like are EFAULT): use the memfd's own mapping for that.
 *
 * Errors: EBADF for no descriptor, EOPNOTSUPP for a file without huge pages, EACCES for one that is not open for reading and
 * writing, EPERM for one that is sealed against writing, EINVAL for a range that is empty or cuts a page, ENXIO for one beyond the
 * end of the file, ENOMEM where hugetlb has no page left, EIO for a page with a memory error.
 */
struct htlb_import {
	__u32 size;
	__u32 flags;
	__u64 offset;
	__u64 len;
	__s32 memfd;
	__u32 reserved;
};

/* The sizes of the first version, in bytes. They are part of the ioctl numbers, which stay when a record grows. */
#define HTLB_CREATE_SIZE_VER0	80
#define HTLB_POPULATE_SIZE_VER0	32
#define HTLB_RESERVE_SIZE_VER0	32
#define HTLB_PUNCH_SIZE_VER0	40
#define HTLB_TRUNCATE_SIZE_VER0	32
#define HTLB_SEAL_SIZE_VER0	8
#define HTLB_INFO_SIZE_VER0	112
#define HTLB_LOOKUP_SIZE_VER0	40
#define HTLB_EXPORT_SIZE_VER0	32
#define HTLB_STATS_SIZE_VER0	96
#define HTLB_RESIZE_SIZE_VER0	40
#define HTLB_LIMIT_SIZE_VER0	48
#define HTLB_IMPORT_SIZE_VER0	32

#define HTLB_IOC_MAGIC 0xbc

/* _IOWR() with the size of the first version in place of the type's. */
#define _HTLB_IOWR(nr, size) _IOC(_IOC_READ | _IOC_WRITE, HTLB_IOC_MAGIC, nr, size)

/* On the device. */
#define HTLB_IOC_CREATE		_HTLB_IOWR('c', HTLB_CREATE_SIZE_VER0)
#define HTLB_IOC_STATS		_HTLB_IOWR('t', HTLB_STATS_SIZE_VER0)
#define HTLB_IOC_RESIZE		_HTLB_IOWR('r', HTLB_RESIZE_SIZE_VER0)
#define HTLB_IOC_LIMIT		_HTLB_IOWR('a', HTLB_LIMIT_SIZE_VER0)
#define HTLB_IOC_IMPORT		_HTLB_IOWR('m', HTLB_IMPORT_SIZE_VER0)

/* On a buffer. */
#define HTLB_IOC_POPULATE	_HTLB_IOWR('p', HTLB_POPULATE_SIZE_VER0)
#define HTLB_IOC_RESERVE	_HTLB_IOWR('v', HTLB_RESERVE_SIZE_VER0)
#define HTLB_IOC_PUNCH		_HTLB_IOWR('h', HTLB_PUNCH_SIZE_VER0)
#define HTLB_IOC_TRUNCATE	_HTLB_IOWR('z', HTLB_TRUNCATE_SIZE_VER0)
#define HTLB_IOC_SEAL		_HTLB_IOWR('s', HTLB_SEAL_SIZE_VER0)
#define HTLB_IOC_INFO		_HTLB_IOWR('i', HTLB_INFO_SIZE_VER0)
#define HTLB_IOC_LOOKUP		_HTLB_IOWR('l', HTLB_LOOKUP_SIZE_VER0)
#define HTLB_IOC_EXPORT		_HTLB_IOWR('e', HTLB_EXPORT_SIZE_VER0)

#endif /* _UAPI_LINUX_HTLB_H */
