// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-heaps of huge pages: /dev/dma_heap/htlb-2m, htlb-2m-dma32 and htlb-1g.
 *
 * A heap gives pages of its size, all of them zeroed and there when the allocation returns, or an error. The last page
 * of an allocation is whole, however little of it was asked for: see htlb_heap_allocate().
 *
 * The kernel has no way to remove a heap. So this module has no exit and stays, and htlb.ko with it.
 */
#include <linux/dma-heap.h>
#include <linux/err.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sizes.h>

#include "include/linux/htlb.h"

struct htlb_heap {
	const char *name;
	u64 page_size;
	u32 dma_bits;
};

static const struct htlb_heap heaps[] = {
	{ .name = "htlb-2m",	   .page_size = SZ_2M },
	{ .name = "htlb-2m-dma32", .page_size = SZ_2M, .dma_bits = 32 },
	{ .name = "htlb-1g",	   .page_size = SZ_1G },
};

/* @len is in whole base pages, and so is the dma-buf; nobody else can use the rest of its last page. */
static struct dma_buf *htlb_heap_allocate(struct dma_heap *heap, unsigned long len, u32 fd_flags, u64 heap_flags)
{
	const struct htlb_heap *of = dma_heap_get_drvdata(heap);
	struct htlb_request request = {
		.size = len,
		.page_size = of->page_size,
		.flags = HTLB_REQUEST_STRICT | HTLB_REQUEST_POPULATE,
		.dma_bits = of->dma_bits,
	};
	struct htlb_buffer *buffer;
	struct dma_buf *dmabuf;

	/* Every page is to be there at once: more than there are is refused before any is taken. */
	if (len >> PAGE_SHIFT > totalram_pages())
		return ERR_PTR(-ENOMEM);
	buffer = htlb_create(&request);
	if (IS_ERR(buffer))
		return ERR_CAST(buffer);
	dmabuf = htlb_export(buffer, 0, 0, fd_flags);
	/* The dma-buf keeps it. */
	htlb_put(buffer);
	return dmabuf;
}

static const struct dma_heap_ops htlb_heap_ops = {
	.allocate = htlb_heap_allocate,
};

static int __init htlb_heap_init(void)
{
	unsigned int added = 0, i;
	int error = -ENODEV;

	for (i = 0; i < ARRAY_SIZE(heaps); i++) {
		struct dma_heap_export_info info = {
			.name = heaps[i].name,
			.ops = &htlb_heap_ops,
			.priv = (void *)&heaps[i],
		};
		struct dma_heap *heap = dma_heap_add(&info);

		if (IS_ERR(heap)) {
			error = PTR_ERR(heap);
			pr_err("htlb_heap: no heap %s: error %d\n", info.name, error);
		} else {
			added++;
		}
	}
	/* With one heap there, its code must stay. */
	if (!added)
		return error;
	pr_info("htlb_heap: %u heaps; a dma-heap cannot be removed, so neither this module nor htlb can be\n", added);
	return 0;
}
module_init(htlb_heap_init);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The htlb authors");
MODULE_DESCRIPTION("dma-heaps of huge pages; cannot be unloaded");
MODULE_IMPORT_NS("DMA_BUF_HEAP");
