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
 * @dev: the device that is going to use the buffer, or NULL: its DMA mask limits the pages, unless an IOMMU translates
 *       for it, and its node is tried first where @node_policy is the default
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

/**
 * htlb_create - makes a buffer
 * @request: what is wanted
 *
 * Unless HTLB_REQUEST_NORESERVE is given, every page is promised when this returns, so that no later access fails for want of
 * one. What cannot be promised, because no pool has pages of that kind, is populated at once.
 *
 * Context: may sleep; needs no user context.
 * Return: the buffer, with one reference, or an ERR_PTR: -EINVAL for a request that contradicts itself or names a bit that is not
 * known, -ENOMEM where the pages are not to be had, -ENODEV while htlb.ko is being loaded, -EINTR by a fatal signal.
 */
struct htlb_buffer *htlb_create(const struct htlb_request *request);

/**
 * htlb_from_fd - the buffer behind a descriptor that a program made of /dev/htlb or htlb_install_fd()
 * @fd: the descriptor
 *
 * Context: may sleep; in the context of the program.
 * Return: the buffer, with a new reference, or an ERR_PTR: -EBADF, or -EINVAL for another kind of file.
 */
struct htlb_buffer *htlb_from_fd(int fd);

/**
 * htlb_get - one more reference
 * @buffer: the buffer, or NULL
 *
 * Context: any.
 * Return: @buffer.
 */
struct htlb_buffer *htlb_get(struct htlb_buffer *buffer);

/**
 * htlb_put - gives a reference up
 * @buffer: the buffer, or NULL
 *
 * The buffer's end comes soon after its last reference, not always inside this call; htlb.ko can be unloaded after that.
 * Pins and seals are given back before.
 *
 * Context: any.
 */
void htlb_put(struct htlb_buffer *buffer);

/**
 * htlb_install_fd - a descriptor for the calling program, with a reference of its own
 * @buffer: the buffer
 * @flags: O_CLOEXEC or 0
 *
 * The program can do with it all that it can do with a buffer of its own making, as include/uapi/linux/htlb.h says.
 *
 * Context: may sleep; in the context of the program.
 * Return: the descriptor or a negative errno.
 */
int htlb_install_fd(struct htlb_buffer *buffer, int flags);

/**
 * htlb_size - the size in bytes
 * @buffer: the buffer
 *
 * Context: any.
 */
u64 htlb_size(const struct htlb_buffer *buffer);

/**
 * htlb_reserve - promises the pages of a range that are neither there nor promised
 * @buffer: the buffer
 * @offset: where the range begins: a multiple of the page size there
 * @len: its length: whole pages, or up to the end of the buffer
 *
 * Context: may sleep; needs no user context.
 * Return: 0, or a negative errno with nothing promised: -ENOMEM where the pages are not to be had.
 */
int htlb_reserve(struct htlb_buffer *buffer, u64 offset, u64 len);

/**
 * htlb_populate - makes sure that every page of a range is there
 * @buffer: the buffer
 * @offset: where the range begins: a multiple of the page size there
 * @len: its length: whole pages, or up to the end of the buffer
 * @fill: called with each page that was not there; NULL for zeroes
 * @context: for @fill
 *
 * May be called by several threads at once, for the same range too: each page is filled once.
 *
 * Context: may sleep; needs no user context. Not from inside @fill with the same buffer.
 * Return: 0, or a negative errno, that of @fill included; pages that are there by then stay.
 */
int htlb_populate(struct htlb_buffer *buffer, u64 offset, u64 len, htlb_fill_t fill, void *context);

/**
 * htlb_punch - gives the pages and promises of a range back, and takes them out of every mapping
 * @buffer: the buffer
 * @offset: where the range begins: a multiple of the page size there
 * @len: its length: whole pages, or up to the end of the buffer
 *
 * Context: may sleep; needs no user context.
 * Return: 0, or a negative errno with nothing given back: -EBUSY for pinned pages, -EPERM for a sealed buffer. -EINTR by a fatal
 * signal; what had been given back by then stays so.
 */
int htlb_punch(struct htlb_buffer *buffer, u64 offset, u64 len);

/**
 * htlb_page_at - the page at an offset, if there is one
 * @buffer: the buffer
 * @offset: in bytes
 *
 * Wait-free. The page may be punched at any moment after this, unless it is pinned or the buffer is sealed.
 *
 * Context: any, interrupts included.
 * Return: the page structure of the base page that holds the byte, or NULL.
 */
struct page *htlb_page_at(const struct htlb_buffer *buffer, u64 offset);

/**
 * htlb_pin - keeps the page at an offset where it is, until htlb_unpin()
 * @buffer: the buffer
 * @offset: in bytes
 * @page: where the page structure of the base page that holds the byte is stored, or NULL
 *
 * Context: may sleep, while somebody fills or punches the page; needs no user context.
 * Return: 0, -ENODATA where there is no page, -ENXIO beyond the end, -EOVERFLOW beyond a million pins, -EINTR by a fatal signal.
 */
int htlb_pin(struct htlb_buffer *buffer, u64 offset, struct page **page);

/**
 * htlb_unpin - gives a pin back
 * @buffer: the buffer
 * @offset: any in the page that was pinned
 *
 * Context: any, interrupts included.
 */
void htlb_unpin(struct htlb_buffer *buffer, u64 offset);

/**
 * htlb_seal - keeps every page of the buffer where it is, those to come included, until htlb_unseal()
 * @buffer: the buffer
 *
 * One count, not one pin for each page. Punching and truncating are refused with -EPERM meanwhile.
 *
 * Context: may sleep, while somebody punches; needs no user context.
 * Return: 0 or a negative errno.
 */
int htlb_seal(struct htlb_buffer *buffer);

/**
 * htlb_unseal - gives a seal back
 * @buffer: the buffer
 *
 * Context: any, interrupts included.
 */
void htlb_unseal(struct htlb_buffer *buffer);

/**
 * htlb_sg_map - maps a range for a device
 * @buffer: the buffer, of which the caller keeps a reference until htlb_sg_unmap()
 * @dev: the device
 * @offset: where the range begins, in bytes
 * @len: its length in bytes
 * @direction: as for dma_map_sgtable()
 *
 * Populates the range, seals the buffer, and maps one entry for each physically contiguous run. Runs are cut only where
 * dma_get_max_seg_size() and dma_get_seg_boundary() of @dev ask for it, and at 2 GiB: a driver whose device takes more than the 64 KiB
 * that a PCI device is given says so with dma_set_max_seg_size() first. Use the dma_sync_sgtable_for_*() functions between
 * the processor's accesses and the device's.
 *
 * Context: may sleep; needs no user context.
 * Return: the table, or an ERR_PTR: -EFAULT where the device cannot reach a page (a buffer that was made with @dev has none such),
 * or as htlb_populate() and dma_map_sgtable().
 */
struct sg_table *htlb_sg_map(struct htlb_buffer *buffer, struct device *dev, u64 offset, u64 len,
			     enum dma_data_direction direction);

/**
 * htlb_sg_unmap - ends what htlb_sg_map() did, and frees the table
 * @buffer: as it was given there
 * @dev: as it was given there
 * @table: what that returned
 * @direction: as it was given there
 *
 * Context: may sleep.
 */
void htlb_sg_unmap(struct htlb_buffer *buffer, struct device *dev, struct sg_table *table,
		   enum dma_data_direction direction);

/**
 * htlb_mmap - for the mmap operation of a driver's own file
 * @buffer: the buffer
 * @vma: the area; its vm_pgoff is the offset in the buffer, in pages
 *
 * The area becomes one of the buffer's and keeps it; the driver's file is let go, so that the driver can leave while programs
 * still have the mapping.
 *
 * Context: that of the mmap operation.
 * Return: 0, -ENXIO for an area beyond the buffer's capacity, -EINVAL for a private one of pages larger than 2 MiB, and for one that
 * has VM_PFNMAP or VM_MIXEDMAP already.
 */
int htlb_mmap(struct htlb_buffer *buffer, struct vm_area_struct *vma);

/**
 * htlb_get_unmapped_area - for the get_unmapped_area operation of a driver's own file
 * @buffer: the buffer
 * @address: as there
 * @len: as there
 * @pgoff: the offset in the buffer, in pages
 * @flags: as there
 *
 * Without it, addresses do not agree with the pages, and mappings are made of small entries.
 *
 * Context: that of the get_unmapped_area operation.
 * Return: an address or a negative errno.
 */
unsigned long htlb_get_unmapped_area(struct htlb_buffer *buffer, unsigned long address, unsigned long len,
				     unsigned long pgoff, unsigned long flags);

/**
 * htlb_export - make a dma-buf of a range
 * @buffer: the buffer
 * @offset: where the range begins, in bytes, at a base page
 * @len: its length in bytes, in base pages; 0 for all from @offset on
 * @flags: the access mode and O_CLOEXEC, as for dma_buf_fd()
 *
 * The dma-buf keeps the buffer. A device that attaches to it gets every page of the range, with one entry for each
 * physically contiguous run that its maximum segment size allows; as long as one is attached, or has the dma-buf mapped
 * by dma_buf_vmap(), the buffer is sealed.
 *
 * Context: may sleep.
 * Return: the dma-buf, which dma_buf_put() lets go; or -EINVAL for a range of no base pages or for other flags, -ENXIO
 * for one beyond the end, -ENOMEM, each as a pointer.
 */
struct dma_buf *htlb_export(struct htlb_buffer *buffer, u64 offset, u64 len, int flags);

#endif
