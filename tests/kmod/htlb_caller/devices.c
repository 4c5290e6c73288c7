// SPDX-License-Identifier: GPL-2.0-only
/* Buffers for a device, and made where there is no program. */
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/kthread.h>
#include <linux/scatterlist.h>

#include "caller.h"

/* The runs of a range, counted page by page. */
static unsigned int runs(struct htlb_buffer *buffer, u64 offset, u64 len)
{
	unsigned int runs = 0;
	u64 at, last = 0;

	for (at = round_down(offset, PAGE_SIZE); at < offset + len; at += PAGE_SIZE) {
		u64 pfn = page_to_pfn(htlb_page_at(buffer, at));

		if (!runs || pfn != last + 1)
			runs++;
		last = pfn;
	}
	return runs;
}

static void mapped(struct htlb_buffer *buffer, u64 offset, u64 len)
{
	struct device *dev = &device->dev;
	struct sg_table *table = htlb_sg_map(buffer, dev, offset, len, DMA_BIDIRECTIONAL);
	struct scatterlist *entry;
	u64 at = offset;
	int i;

	EXPECT(PTR_ERR_OR_ZERO(table), 0);
	EXPECT(table->orig_nents, runs(buffer, offset, len));
	for_each_sgtable_dma_sg(table, entry, i) {
		u64 address = sg_dma_address(entry);

		EXPECT(address, page_to_phys(htlb_page_at(buffer, at)) + offset_in_page(at));
		EXPECT_TRUE(address + sg_dma_len(entry) - 1 <= dma_get_mask(dev));
		at += sg_dma_len(entry);
	}
	EXPECT(at, offset + len);
	EXPECT(htlb_punch(buffer, 0, htlb_size(buffer)), -EPERM);
out:
	if (!IS_ERR(table))
		htlb_sg_unmap(buffer, dev, table, DMA_BIDIRECTIONAL);
}

void a_table_has_an_entry_for_each_run(void)
{
	struct htlb_buffer *buffer = strict(4), *other = NULL;
	int i;

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	other = strict(4);
	EXPECT(PTR_ERR_OR_ZERO(other), 0);
	/* Taken in turn, and so scattered. */
	for (i = 0; i < 4; i++) {
		EXPECT(htlb_populate(buffer, i * HUGE, HUGE, NULL, NULL), 0);
		EXPECT(htlb_populate(other, (3 - i) * HUGE, HUGE, NULL, NULL), 0);
	}
	mapped(buffer, 0, 4 * HUGE);
	mapped(other, 0, 4 * HUGE);
	mapped(buffer, HUGE / 2 + 123, HUGE + 7);
	mapped(buffer, HUGE - 1, 2);
	mapped(buffer, 4 * HUGE - 1, 1);
	/* Unmapped, it can be punched, and a hole is populated for the device. */
	EXPECT(htlb_punch(buffer, 0, 4 * HUGE), 0);
	mapped(buffer, HUGE + 1, HUGE);
	EXPECT_TRUE(!htlb_page_at(buffer, 0));
	EXPECT_TRUE(htlb_page_at(buffer, 3 * HUGE - 1));
	EXPECT_TRUE(!htlb_page_at(buffer, 3 * HUGE));
out:
	if (!IS_ERR_OR_NULL(other))
		htlb_put(other);
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

void one_run_is_one_entry(void)
{
	struct htlb_request request = { .size = 4 * HUGE, .page_size = HUGE,
					.flags = HTLB_REQUEST_STRICT | HTLB_REQUEST_CONTIGUOUS };
	struct htlb_buffer *buffer = htlb_create(&request);
	struct sg_table *table;

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	EXPECT(runs(buffer, 0, 4 * HUGE), 1);
	table = htlb_sg_map(buffer, &device->dev, 0, 4 * HUGE, DMA_TO_DEVICE);
	EXPECT(PTR_ERR_OR_ZERO(table), 0);
	answer = table->nents;
	htlb_sg_unmap(buffer, &device->dev, table, DMA_TO_DEVICE);
	EXPECT(answer, 1);
out:
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

void entries_are_cut_where_the_device_says(void)
{
	struct htlb_buffer *buffer = strict(2);
	struct device *dev = &device->dev;
	struct sg_table *table;
	struct scatterlist *entry;
	u64 at = HUGE / 2;
	int i;

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	dma_set_max_seg_size(dev, SZ_64K);
	table = htlb_sg_map(buffer, dev, at, HUGE, DMA_TO_DEVICE);
	EXPECT(PTR_ERR_OR_ZERO(table), 0);
	for_each_sgtable_dma_sg(table, entry, i) {
		if (sg_dma_len(entry) != SZ_64K || sg_dma_address(entry) != page_to_phys(htlb_page_at(buffer, at)))
			break;
		at += sg_dma_len(entry);
	}
	htlb_sg_unmap(buffer, dev, table, DMA_TO_DEVICE);
	EXPECT(at, HUGE / 2 + HUGE);
out:
	dma_set_max_seg_size(dev, SZ_2G);
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

void set_mask(u64 mask)
{
	dma_coerce_mask_and_coherent(&device->dev, mask);
}

void a_device_limits_the_pages(void)
{
	struct htlb_request request = { .size = 2 * HUGE, .page_size = HUGE, .dev = &device->dev,
					.flags = HTLB_REQUEST_STRICT | HTLB_REQUEST_POPULATE };
	struct htlb_buffer *buffer, *anywhere = NULL;
	u64 at;

	/* Of a mask with a gap, what lies below it. */
	set_mask(DMA_BIT_MASK(40) & ~BIT_ULL(33));
	buffer = htlb_create(&request);
	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	for (at = 0; at < 2 * HUGE; at += HUGE)
		EXPECT_TRUE(page_to_phys(htlb_page_at(buffer, at)) + HUGE <= BIT_ULL(33));
	htlb_put(buffer);

	set_mask(DMA_BIT_MASK(32));
	buffer = htlb_create(&request);
	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	for (at = 0; at < 2 * HUGE; at += HUGE)
		EXPECT_TRUE(page_to_phys(htlb_page_at(buffer, at)) + HUGE <= SZ_4G);
	mapped(buffer, 0, 2 * HUGE);
	/* What the driver says itself may be narrower, not wider. */
	request.dma_bits = 64;
	anywhere = htlb_create(&request);
	EXPECT(PTR_ERR_OR_ZERO(anywhere), 0);
	EXPECT_TRUE(page_to_phys(htlb_page_at(anywhere, 0)) + HUGE <= SZ_4G);

	/* A buffer that was not made for the device is refused, not bounced, and stays unsealed. */
	/* The narrowest that the kernel lets a device have. */
	set_mask(DMA_BIT_MASK(24));
	EXPECT(PTR_ERR(htlb_sg_map(buffer, &device->dev, 0, 2 * HUGE, DMA_FROM_DEVICE)), -EFAULT);
	EXPECT(htlb_punch(buffer, 0, 2 * HUGE), 0);
out:
	set_mask(DMA_BIT_MASK(64));
	if (!IS_ERR_OR_NULL(anywhere))
		htlb_put(anywhere);
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

void nodes_are_kept_to(void)
{
	struct htlb_request request = { .size = HUGE, .page_size = HUGE, .dev = &device->dev,
					.flags = HTLB_REQUEST_STRICT | HTLB_REQUEST_POPULATE };
	struct htlb_buffer *buffer = NULL;
	int nid;

	for (nid = 0; nid < 2; nid++) {
		set_dev_node(&device->dev, nid);
		buffer = htlb_create(&request);
		EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
		EXPECT(page_to_nid(htlb_page_at(buffer, 0)), nid);
		htlb_put(buffer);

		/* What the driver says is stronger. */
		request.node_policy = HTLB_REQUEST_NODES_BIND;
		request.nodes = BIT(1 - nid);
		buffer = htlb_create(&request);
		EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
		EXPECT(page_to_nid(htlb_page_at(buffer, 0)), 1 - nid);
		htlb_put(buffer);
		buffer = NULL;
		request.node_policy = HTLB_REQUEST_NODES_DEFAULT;
		request.nodes = 0;
	}
out:
	set_dev_node(&device->dev, NUMA_NO_NODE);
	if (!IS_ERR_OR_NULL(buffer))
		htlb_put(buffer);
}

void a_mask_of_its_own(void)
{
	struct htlb_request request = { .size = HUGE, .gfp = GFP_KERNEL | __GFP_DMA32, .dma_bits = 32,
					.flags = HTLB_REQUEST_POPULATE };
	struct htlb_buffer *buffer = htlb_create(&request);

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	EXPECT_TRUE(page_to_phys(htlb_page_at(buffer, HUGE - 1)) < SZ_4G);
out:
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

/* ---- without a program -------------------------------------------------- */

static void everything(void)
{
	filled_by_the_driver();
	if (!failed_at)
		kept_in_place();
	if (!failed_at)
		a_table_has_an_entry_for_each_run();
}

static int thread(void *done)
{
	EXPECT_TRUE(!current->mm);
	everything();
out:
	complete(done);
	return 0;
}

void from_a_kernel_thread(void)
{
	DECLARE_COMPLETION_ONSTACK(done);
	struct task_struct *task = kthread_run(thread, &done, "htlb_caller");

	EXPECT(PTR_ERR_OR_ZERO(task), 0);
	wait_for_completion(&done);
out:
	return;
}

static int probe(struct platform_device *found_device)
{
	everything();
	return 0;
}

static struct platform_driver driver = {
	.probe = probe,
	.driver = { .name = "htlb_caller" },
};

void from_probe(void)
{
	EXPECT(platform_driver_register(&driver), 0);
	EXPECT_TRUE(device->dev.driver);
	platform_driver_unregister(&driver);
out:
	return;
}

/* One page of 1 GiB, with the mask @argument; answers what the table of all of it has for entries. */
void a_giant_page(void)
{
	struct htlb_request request = { .size = SZ_1G, .page_size = SZ_1G, .flags = HTLB_REQUEST_STRICT, .dev = &device->dev };
	struct sg_table *table = NULL;
	struct htlb_buffer *buffer;
	struct page *first, *last;

	request.gfp = argument ? GFP_KERNEL | __GFP_HIGH | __GFP_NOMEMALLOC | __GFP_NORETRY : 0;
	buffer = htlb_create(&request);
	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	EXPECT(htlb_populate(buffer, 0, SZ_1G, NULL, NULL), 0);
	first = htlb_page_at(buffer, 0);
	last = htlb_page_at(buffer, SZ_1G - 1);
	EXPECT_TRUE(first && last);
	EXPECT(page_to_pfn(first) % (SZ_1G >> PAGE_SHIFT), 0);
	EXPECT(page_to_pfn(last) - page_to_pfn(first), (SZ_1G >> PAGE_SHIFT) - 1);
	EXPECT_TRUE(all_bytes(buffer, 0, HUGE, 0) && all_bytes(buffer, SZ_1G - HUGE, HUGE, 0));
	table = htlb_sg_map(buffer, &device->dev, 0, SZ_1G, DMA_BIDIRECTIONAL);
	EXPECT(PTR_ERR_OR_ZERO(table), 0);
	answer = table->nents;
	EXPECT(sg_dma_address(table->sgl), page_to_phys(first));
	EXPECT(sg_dma_len(table->sgl), SZ_1G);
out:
	if (!IS_ERR_OR_NULL(table))
		htlb_sg_unmap(buffer, &device->dev, table, DMA_BIDIRECTIONAL);
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}
