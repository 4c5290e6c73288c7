/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ioctls of /dev/htlb_importer. Records are integers without padding or pointers; what is not marked "out" is
 * given by the caller. tests/src/importer.rs has the same records for programs in Rust.
 */
#ifndef HTLB_IMPORTER_H
#define HTLB_IMPORTER_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Directions, as the kernel numbers them. */
#define HTLB_IMPORTER_BIDIRECTIONAL	0
#define HTLB_IMPORTER_TO_DEVICE		1
#define HTLB_IMPORTER_FROM_DEVICE	2

/* What read(2) and write(2) on the importer's file go through. */
#define HTLB_IMPORTER_VIEW_VMAP		0	/* the kernel's mapping, made by VMAP */
#define HTLB_IMPORTER_VIEW_DEVICE	1	/* the addresses that the device was given by MAP */

/* The device behind this file, before the first ATTACH: what it can reach, and its longest segment. */
struct htlb_importer_device {
	__u32 dma_bits;		/* 1 to 64 */
	__u32 max_segment;	/* bytes */
};

struct htlb_importer_attach {
	__s32 fd;		/* a dma-buf */
	__u32 id;		/* out */
	__u64 bytes;		/* out: the size of the dma-buf */
};

struct htlb_importer_map {
	__u32 id;
	__u32 direction;
	__u32 cpu_entries;	/* out: sg_table.orig_nents */
	__u32 dma_entries;	/* out: sg_table.nents */
	__u64 bytes;		/* out: the sum of the lengths of the DMA entries */
	__u64 first;		/* out: the DMA address of the first */
};

struct htlb_importer_entry {
	__u32 id;
	__u32 index;		/* of a DMA entry */
	__u64 address;		/* out */
	__u64 length;		/* out */
};

struct htlb_importer_id {
	__u32 id;
	__u32 reserved;		/* 0 */
};

/* For BEGIN_CPU and END_CPU a direction, for SELECT a view. */
struct htlb_importer_choice {
	__u32 id;
	__u32 choice;
};

#define HTLB_IMPORTER_DEVICE	_IOW('j', 1, struct htlb_importer_device)
#define HTLB_IMPORTER_ATTACH	_IOWR('j', 2, struct htlb_importer_attach)
#define HTLB_IMPORTER_MAP	_IOWR('j', 3, struct htlb_importer_map)
#define HTLB_IMPORTER_ENTRY	_IOWR('j', 4, struct htlb_importer_entry)
#define HTLB_IMPORTER_BEGIN_CPU	_IOW('j', 5, struct htlb_importer_choice)
#define HTLB_IMPORTER_END_CPU	_IOW('j', 6, struct htlb_importer_choice)
#define HTLB_IMPORTER_VMAP	_IOW('j', 7, struct htlb_importer_id)
#define HTLB_IMPORTER_VUNMAP	_IOW('j', 8, struct htlb_importer_id)
#define HTLB_IMPORTER_SELECT	_IOW('j', 9, struct htlb_importer_choice)
#define HTLB_IMPORTER_UNMAP	_IOW('j', 10, struct htlb_importer_id)
#define HTLB_IMPORTER_DETACH	_IOW('j', 11, struct htlb_importer_id)

#endif
