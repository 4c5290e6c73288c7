/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * htlb: huge-page buffers for drivers.
 *
 * A driver makes a buffer when it knows how large it is to be, lets its device fill it, and maps it into programs
 * later, through huge pages. A buffer is a reference-counted object of htlb.ko; it stays while a driver, a file
 * descriptor, a mapping or a dma-buf refers to it, and htlb.ko stays with it.
 *
 * Lengths and offsets are in bytes. Unless a function says otherwise it may sleep, needs no user context (it works in
 * probe and in a kernel thread), and returns 0 or a negative errno.
 */
#ifndef _LINUX_HTLB_H
#define _LINUX_HTLB_H

#include <linux/dma-direction.h>
#include <linux/err.h>
#include <linux/types.h>

struct device;
struct dma_buf;
struct htlb_buffer;
struct page;
struct sg_table;
struct vm_area_struct;

/* Flags of struct htlb_request. */
#define HTLB_REQUEST_STRICT	(1U << 0)	/* the page size asked for, or an error */
#define HTLB_REQUEST_CONTIGUOUS	(1U << 1)	/* all of it physically contiguous */
#define HTLB_REQUEST_NORESERVE	(1U << 2)	/* no page is promised */
#define HTLB_REQUEST_POPULATE	(1U << 3)	/* every page is there when the call returns */

/* Node policies of struct htlb_request. */
#define HTLB_REQUEST_NODES_DEFAULT	0U	/* the caller's node first; @nodes is zero */
#define HTLB_REQUEST_NODES_BIND		1U	/* these nodes only */
#define HTLB_REQUEST_NODES_PREFERRED	2U	/* these nodes first */
#define HTLB_REQUEST_NODES_INTERLEAVE	3U	/* page by page over these nodes */

/**
 * struct htlb_request - what a driver wants
 * @size: the size in bytes
 * @capacity: the most it may grow to, in bytes; 0 for @size
 * @page_size: the page size in bytes; 0 chooses the largest that fit
 * @alignment: the physical alignment in bytes; 0 for the page's own
 * @contiguous: the length of physically contiguous runs in bytes; 0 for single pages
 * @nodes: the nodes, one bit each
 * @node_policy: one of HTLB_REQUEST_NODES_*
 * @flags: HTLB_REQUEST_*
 * @gfp: kept with the buffer and used for pages from outside the pool; 0 for the default mask
 * @dma_bits: the device's DMA mask in bits; 0 for no limit, or for that of @dev
 * @dev: the device that is going to use the buffer, or NULL: its DMA mask limits the pages, its node is tried first
 */
struct htlb_request {
	u64 size;
	u64 capacity;
	u64 page_size;
	u64 alignment;
	u64 contiguous;
	u64 nodes;
	u32 node_policy;
	u32 flags;
	gfp_t gfp;
	u32 dma_bits;
	struct device *dev;
};

/**
 * htlb_fill_t - writes into a page that nobody else can see yet
 * @context: what was given to htlb_populate()
 * @page: the first page structure of the page
 * @offset: where the page begins in the buffer, in bytes
 * @len: the length of the page in bytes
 *
 * Context: may sleep, must not touch user memory nor the page being filled through the buffer.
 * Return: how many bytes it wrote from the start of the page (the rest is zeroed), or a negative errno, which leaves the page out
 * of the buffer and ends htlb_populate().
 */
typedef ssize_t (*htlb_fill_t)(void *context, struct page *page, u64 offset, u64 len);

struct htlb_buffer *htlb_create(const struct htlb_request *request);
struct htlb_buffer *htlb_from_fd(int fd);
struct htlb_buffer *htlb_get(struct htlb_buffer *buffer);
void htlb_put(struct htlb_buffer *buffer);
int htlb_install_fd(struct htlb_buffer *buffer, int flags);

u64 htlb_size(const struct htlb_buffer *buffer);
int htlb_reserve(struct htlb_buffer *buffer, u64 offset, u64 len);
int htlb_populate(struct htlb_buffer *buffer, u64 offset, u64 len, htlb_fill_t fill, void *context);
int htlb_punch(struct htlb_buffer *buffer, u64 offset, u64 len);

struct page *htlb_page_at(const struct htlb_buffer *buffer, u64 offset);
int htlb_pin(struct htlb_buffer *buffer, u64 offset, struct page **page);
void htlb_unpin(struct htlb_buffer *buffer, u64 offset);
int htlb_seal(struct htlb_buffer *buffer);
void htlb_unseal(struct htlb_buffer *buffer);

struct sg_table *htlb_sg_map(struct htlb_buffer *buffer, struct device *dev, u64 offset, u64 len,
			     enum dma_data_direction direction);
void htlb_sg_unmap(struct htlb_buffer *buffer, struct device *dev, struct sg_table *table,
		   enum dma_data_direction direction);

int htlb_mmap(struct htlb_buffer *buffer, struct vm_area_struct *vma);
unsigned long htlb_get_unmapped_area(struct htlb_buffer *buffer, unsigned long address, unsigned long len,
				     unsigned long pgoff, unsigned long flags);

struct dma_buf *htlb_export(struct htlb_buffer *buffer, u64 offset, u64 len, int flags);

#endif
