// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver that asks for everything that linux/htlb.h offers, rightly and wrongly.
 *
 * /dev/htlb_caller runs one case at a time, by name. A case fails at the first expectation that does not hold; its line and what was
 * found instead are the answer. Buffers that a case keeps for the next are mapped by mapping the device file.
 */
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/htlb.h>
#include <linux/kthread.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/uaccess.h>

#include "htlb_caller.h"

#define HUGE (2 * (u64)SZ_1M)

/* Where the case under way failed. Cases run one at a time, some of them on another thread. */
static DEFINE_MUTEX(one);
static u32 failed_at;
static s64 found;
static s64 answer;
static u64 argument;

static struct platform_device *device;
static struct htlb_buffer *kept;
static LIST_HEAD(taken);

/* Notes the first expectation that does not hold, and leaves the case by its label `out`. */
#define EXPECT(is, wanted)							\
	do {									\
		s64 is_ = (s64)(is);						\
										\
		if (is_ != (s64)(wanted)) {					\
			if (!failed_at) {					\
				failed_at = __LINE__;				\
				found = is_;					\
			}							\
			goto out;						\
		}								\
	} while (0)

#define EXPECT_TRUE(what) EXPECT(!!(what), 1)

static struct htlb_buffer *strict(u64 pages)
{
	struct htlb_request request = { .size = pages * HUGE, .page_size = HUGE, .flags = HTLB_REQUEST_STRICT };

	return htlb_create(&request);
}

static int refused(struct htlb_request request)
{
	struct htlb_buffer *buffer = htlb_create(&request);

	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	htlb_put(buffer);
	return 0;
}

static bool all_bytes(struct htlb_buffer *buffer, u64 offset, u64 len, u8 byte)
{
	u64 at;

	for (at = offset; at < offset + len; at += PAGE_SIZE) {
		struct page *page = htlb_page_at(buffer, at);
		void *bytes;
		bool same;

		if (!page)
			return false;
		bytes = kmap_local_page(page);
		same = !memchr_inv(bytes, byte, min_t(u64, PAGE_SIZE, offset + len - at));
		kunmap_local(bytes);
		if (!same)
			return false;
	}
	return true;
}

/* ---- what is refused ---------------------------------------------------- */

static void bad_requests(void)
{
	const struct htlb_request good = { .size = HUGE };
	struct htlb_request bad;

	EXPECT(PTR_ERR(htlb_create(NULL)), -EINVAL);
	EXPECT(refused(good), 0);
#define REFUSED(error, field, value)			\
	do {						\
		bad = good;				\
		bad.field = value;			\
		EXPECT(refused(bad), error);		\
	} while (0)
	REFUSED(-EINVAL, size, 0);
	REFUSED(-EOVERFLOW, size, U64_MAX);
	REFUSED(-EFBIG, capacity, HUGE - 1);
	REFUSED(-EINVAL, page_size, 3);
	REFUSED(-EINVAL, page_size, SZ_1K);
	REFUSED(-EOPNOTSUPP, page_size, SZ_4M);
	REFUSED(-EINVAL, alignment, 3);
	REFUSED(-EINVAL, contiguous, 2 * HUGE);
	REFUSED(-EINVAL, nodes, 1);
	REFUSED(-EINVAL, node_policy, HTLB_REQUEST_NODES_BIND);
	REFUSED(-EINVAL, node_policy, 4);
	REFUSED(-EINVAL, flags, 1U << 4);
	REFUSED(-EINVAL, flags, 1U << 31);
	REFUSED(-EINVAL, dma_bits, 8);
	REFUSED(-EINVAL, dma_bits, 65);
	/* A bit that no name stands for, reserves for two, and pages that the system may move. */
	REFUSED(-EINVAL, gfp, (__force gfp_t)BIT(31));
	REFUSED(-EINVAL, gfp, GFP_KERNEL | __GFP_DMA | __GFP_DMA32);
	REFUSED(-EINVAL, gfp, GFP_KERNEL | __GFP_MEMALLOC | __GFP_NOMEMALLOC);
	REFUSED(-EINVAL, gfp, GFP_KERNEL | __GFP_MOVABLE);
	REFUSED(0, gfp, GFP_KERNEL);
	REFUSED(0, gfp, GFP_HIGHUSER | __GFP_RETRY_MAYFAIL);
out:
	return;
}

static void bad_arguments(void)
{
	struct device *dev = &device->dev;
	struct htlb_buffer *buffer = strict(2);
	struct page *page;

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	EXPECT(htlb_size(NULL), 0);
	htlb_put(NULL);
	EXPECT_TRUE(!htlb_get(NULL));
	EXPECT(htlb_reserve(NULL, 0, HUGE), -EINVAL);
	EXPECT(htlb_populate(NULL, 0, HUGE, NULL, NULL), -EINVAL);
	EXPECT(htlb_punch(NULL, 0, HUGE), -EINVAL);
	EXPECT_TRUE(!htlb_page_at(NULL, 0));
	EXPECT(htlb_pin(NULL, 0, &page), -EINVAL);
	htlb_unpin(NULL, 0);
	EXPECT(htlb_seal(NULL), -EINVAL);
	htlb_unseal(NULL);
	EXPECT(htlb_install_fd(NULL, 0), -EINVAL);
	EXPECT(htlb_mmap(NULL, NULL), -EINVAL);
	EXPECT(htlb_mmap(buffer, NULL), -EINVAL);
	EXPECT(htlb_get_unmapped_area(NULL, 0, HUGE, 0, 0), -EINVAL);
	EXPECT(PTR_ERR(htlb_sg_map(NULL, dev, 0, HUGE, DMA_FROM_DEVICE)), -EINVAL);
	EXPECT(PTR_ERR(htlb_sg_map(buffer, NULL, 0, HUGE, DMA_FROM_DEVICE)), -EINVAL);
	EXPECT(PTR_ERR(htlb_sg_map(buffer, dev, 0, HUGE, DMA_NONE)), -EINVAL);
	EXPECT(PTR_ERR(htlb_sg_map(buffer, dev, 0, 0, DMA_FROM_DEVICE)), -EINVAL);
	EXPECT(PTR_ERR(htlb_sg_map(buffer, dev, 0, 2 * HUGE + 1, DMA_FROM_DEVICE)), -ENXIO);
	EXPECT(PTR_ERR(htlb_sg_map(buffer, dev, U64_MAX, 2, DMA_FROM_DEVICE)), -EOVERFLOW);
	htlb_sg_unmap(buffer, dev, NULL, DMA_FROM_DEVICE);

	EXPECT(htlb_install_fd(buffer, O_NONBLOCK), -EINVAL);
	EXPECT(htlb_install_fd(buffer, -1), -EINVAL);
	EXPECT(PTR_ERR(htlb_from_fd(-1)), -EBADF);
	EXPECT(PTR_ERR(htlb_from_fd(1 << 20)), -EBADF);
	/* The device file of this very module. */
	EXPECT(PTR_ERR(htlb_from_fd(argument)), -EINVAL);

	EXPECT(htlb_populate(buffer, 0, 0, NULL, NULL), -EINVAL);
	EXPECT(htlb_populate(buffer, 1, HUGE - 1, NULL, NULL), -EINVAL);
	EXPECT(htlb_populate(buffer, 0, HUGE + 1, NULL, NULL), -EINVAL);
	EXPECT(htlb_populate(buffer, HUGE, 2 * HUGE, NULL, NULL), -ENXIO);
	EXPECT(htlb_populate(buffer, U64_MAX, HUGE, NULL, NULL), -EOVERFLOW);
	EXPECT(htlb_reserve(buffer, 0, 0), -EINVAL);
	EXPECT(htlb_reserve(buffer, 0, 3 * HUGE), -ENXIO);
	EXPECT(htlb_punch(buffer, 0, 0), -EINVAL);
	EXPECT(htlb_punch(buffer, SZ_4K, HUGE), -EINVAL);
	EXPECT(htlb_punch(buffer, 2 * HUGE, HUGE), -ENXIO);
	EXPECT(htlb_pin(buffer, 0, &page), -ENODATA);
	EXPECT(htlb_pin(buffer, 2 * HUGE, &page), -ENXIO);
	EXPECT(htlb_pin(buffer, U64_MAX, &page), -ENXIO);
	EXPECT_TRUE(!htlb_page_at(buffer, 0));
	EXPECT_TRUE(!htlb_page_at(buffer, U64_MAX));
	/* Nothing of that is left behind. */
	EXPECT(htlb_size(buffer), 2 * HUGE);
	EXPECT(htlb_punch(buffer, 0, 2 * HUGE), 0);
out:
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

/* ---- filling ------------------------------------------------------------ */

struct filling {
	atomic_t pages;
	u64 written;
	int error;
	u64 error_at;
};

static ssize_t fill(void *context, struct page *page, u64 offset, u64 len)
{
	struct filling *filling = context;
	u64 done;

	if (len != HUGE || page_to_pfn(page) % (HUGE / PAGE_SIZE))
		return -EDOM;
	if (filling->error && filling->error_at == offset)
		return filling->error;
	atomic_inc(&filling->pages);
	for (done = 0; done < len; done += PAGE_SIZE) {
		void *bytes = kmap_local_page(page + (done >> PAGE_SHIFT));

		memset(bytes, 0xa0 + offset / HUGE, PAGE_SIZE);
		kunmap_local(bytes);
	}
	return filling->written;
}

static void filled_by_the_driver(void)
{
	struct filling filling = { .written = HUGE };
	struct htlb_buffer *buffer = strict(4);

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	EXPECT(htlb_populate(buffer, HUGE, HUGE, fill, &filling), 0);
	EXPECT(atomic_read(&filling.pages), 1);
	EXPECT_TRUE(!htlb_page_at(buffer, HUGE - 1));
	EXPECT_TRUE(!htlb_page_at(buffer, 2 * HUGE));
	EXPECT_TRUE(all_bytes(buffer, HUGE, HUGE, 0xa1));
	/* What is there stays as it is. */
	EXPECT(htlb_populate(buffer, 0, 4 * HUGE, fill, &filling), 0);
	EXPECT(atomic_read(&filling.pages), 4);
	EXPECT_TRUE(all_bytes(buffer, 3 * HUGE, HUGE, 0xa3));
	EXPECT(page_to_pfn(htlb_page_at(buffer, HUGE + 5 * PAGE_SIZE + 7)),
	       page_to_pfn(htlb_page_at(buffer, HUGE)) + 5);

	/* A punched page comes back as zeroes, and a short one with zeroes behind what was written. */
	EXPECT(htlb_punch(buffer, 0, 4 * HUGE), 0);
	EXPECT_TRUE(!htlb_page_at(buffer, HUGE));
	EXPECT(htlb_populate(buffer, 0, HUGE, NULL, NULL), 0);
	EXPECT_TRUE(all_bytes(buffer, 0, HUGE, 0));
	filling.written = 3 * PAGE_SIZE;
	EXPECT(htlb_populate(buffer, HUGE, HUGE, fill, &filling), 0);
	EXPECT_TRUE(all_bytes(buffer, HUGE, 3 * PAGE_SIZE, 0xa1));
	EXPECT_TRUE(all_bytes(buffer, HUGE + 3 * PAGE_SIZE, HUGE - 3 * PAGE_SIZE, 0));
out:
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

static void a_fill_that_fails(void)
{
	struct filling filling = { .written = HUGE, .error = -ENOSPC, .error_at = 2 * HUGE };
	struct htlb_buffer *buffer = strict(4);

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	EXPECT(htlb_populate(buffer, 0, 4 * HUGE, fill, &filling), -ENOSPC);
	EXPECT(atomic_read(&filling.pages), 2);
	EXPECT_TRUE(htlb_page_at(buffer, HUGE));
	EXPECT_TRUE(!htlb_page_at(buffer, 2 * HUGE));
	EXPECT_TRUE(!htlb_page_at(buffer, 3 * HUGE));
	/* More than there is, and an errno that is none. */
	filling.error = 0;
	filling.written = HUGE + 1;
	EXPECT(htlb_populate(buffer, 2 * HUGE, HUGE, fill, &filling), -EIO);
	EXPECT_TRUE(!htlb_page_at(buffer, 2 * HUGE));
	filling.written = HUGE;
	EXPECT(htlb_populate(buffer, 2 * HUGE, 2 * HUGE, fill, &filling), 0);
	EXPECT_TRUE(all_bytes(buffer, 2 * HUGE, HUGE, 0xa2));
out:
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

struct worker {
	struct task_struct *task;
	struct htlb_buffer *buffer;
	struct filling *filling;
	int outcome;
};

static int work(void *context)
{
	struct worker *worker = context;

	worker->outcome = htlb_populate(worker->buffer, 0, htlb_size(worker->buffer), fill, worker->filling);
	while (!kthread_should_stop())
		schedule_timeout_idle(1);
	return 0;
}

static void threads_fill_each_page_once(void)
{
	struct filling filling = { .written = HUGE };
	struct htlb_buffer *buffer = strict(8);
	struct worker workers[4] = {};
	int i;

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	for (i = 0; i < ARRAY_SIZE(workers); i++) {
		struct task_struct *task;

		workers[i].buffer = buffer;
		workers[i].filling = &filling;
		task = kthread_run(work, &workers[i], "htlb_caller/%d", i);
		EXPECT(PTR_ERR_OR_ZERO(task), 0);
		workers[i].task = task;
	}
out:
	for (i = 0; i < ARRAY_SIZE(workers); i++)
		if (workers[i].task)
			kthread_stop(workers[i].task);
	if (!failed_at) {
		for (i = 0; i < ARRAY_SIZE(workers); i++)
			if (workers[i].outcome)
				failed_at = __LINE__;
		if (atomic_read(&filling.pages) != 8 || !all_bytes(buffer, 7 * HUGE, HUGE, 0xa7))
			failed_at = __LINE__;
	}
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

/* ---- keeping pages ------------------------------------------------------ */

static void let_go_in_an_interrupt(void *context)
{
	struct htlb_buffer *buffer = context;

	if (htlb_page_at(buffer, HUGE))
		htlb_unpin(buffer, HUGE + 1);
	htlb_unseal(buffer);
	htlb_put(htlb_get(buffer));
}

static void kept_in_place(void)
{
	struct htlb_buffer *buffer = strict(2);
	struct page *page = NULL;

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	EXPECT(htlb_populate(buffer, 0, 2 * HUGE, NULL, NULL), 0);
	EXPECT(htlb_pin(buffer, HUGE + PAGE_SIZE, &page), 0);
	EXPECT_TRUE(page == htlb_page_at(buffer, HUGE + PAGE_SIZE));
	EXPECT(htlb_pin(buffer, HUGE, NULL), 0);
	EXPECT(htlb_punch(buffer, 0, 2 * HUGE), -EBUSY);
	EXPECT_TRUE(htlb_page_at(buffer, 0));
	EXPECT(htlb_punch(buffer, 0, HUGE), 0);
	htlb_unpin(buffer, HUGE);
	EXPECT(htlb_punch(buffer, HUGE, HUGE), -EBUSY);
	EXPECT(htlb_seal(buffer), 0);
	EXPECT(htlb_seal(buffer), 0);
	EXPECT(htlb_punch(buffer, 0, HUGE), -EPERM);
	/* Filling goes on. */
	EXPECT(htlb_populate(buffer, 0, 2 * HUGE, NULL, NULL), 0);
	htlb_unseal(buffer);
	EXPECT(htlb_punch(buffer, 0, HUGE), -EPERM);
	EXPECT(smp_call_function_single(0, let_go_in_an_interrupt, buffer, 1), 0);
	EXPECT(htlb_punch(buffer, 0, 2 * HUGE), 0);
out:
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

/* One too few is told in the log, and changes nothing. */
static void unbalanced(void)
{
	struct htlb_buffer *buffer = strict(1);

	EXPECT(PTR_ERR_OR_ZERO(buffer), 0);
	EXPECT(htlb_populate(buffer, 0, HUGE, NULL, NULL), 0);
	htlb_unpin(buffer, 0);
	htlb_unseal(buffer);
	htlb_unpin(buffer, U64_MAX);
	EXPECT(htlb_pin(buffer, 0, NULL), 0);
	EXPECT(htlb_punch(buffer, 0, HUGE), -EBUSY);
	htlb_unpin(buffer, 0);
	EXPECT(htlb_punch(buffer, 0, HUGE), 0);
out:
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

/* ---- devices ------------------------------------------------------------ */

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

static void a_table_has_an_entry_for_each_run(void)
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

static void one_run_is_one_entry(void)
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

static void set_mask(u64 mask)
{
	dma_coerce_mask_and_coherent(&device->dev, mask);
}

static void a_device_limits_the_pages(void)
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
	set_mask(DMA_BIT_MASK(21));
	EXPECT(PTR_ERR(htlb_sg_map(buffer, &device->dev, 0, 2 * HUGE, DMA_FROM_DEVICE)), -EFAULT);
	EXPECT(htlb_punch(buffer, 0, 2 * HUGE), 0);
out:
	set_mask(DMA_BIT_MASK(64));
	if (!IS_ERR_OR_NULL(anywhere))
		htlb_put(anywhere);
	if (!IS_ERR(buffer))
		htlb_put(buffer);
}

static void nodes_are_kept_to(void)
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

static void a_mask_of_its_own(void)
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

static void from_a_kernel_thread(void)
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

static void from_probe(void)
{
	EXPECT(platform_driver_register(&driver), 0);
	EXPECT_TRUE(device->dev.driver);
	platform_driver_unregister(&driver);
out:
	return;
}

/* ---- across cases, for the program's own steps -------------------------- */

static void keep(void)
{
	struct filling filling = { .written = HUGE };

	EXPECT_TRUE(!kept);
	kept = strict(2);
	if (IS_ERR(kept)) {
		answer = PTR_ERR(kept);
		kept = NULL;
	}
	EXPECT(answer, 0);
	EXPECT(htlb_populate(kept, 0, 2 * HUGE, fill, &filling), 0);
out:
	return;
}

static void drop(void)
{
	htlb_put(kept);
	kept = NULL;
}

static void give_descriptor(void)
{
	answer = htlb_install_fd(kept, O_CLOEXEC);
	EXPECT_TRUE(answer >= 0);
out:
	return;
}

static void keep_descriptor(void)
{
	EXPECT_TRUE(!kept);
	kept = htlb_from_fd(argument);
	EXPECT(PTR_ERR_OR_ZERO(kept), 0);
	answer = htlb_size(kept);
	return;
out:
	kept = NULL;
}

static void seal_kept(void)
{
	EXPECT(htlb_seal(kept), 0);
out:
	return;
}

static void unseal_kept(void)
{
	htlb_unseal(kept);
}

/* Every page of 2 MiB below @argument that the system has to give, until give_back(). */
static void take_low_memory(void)
{
	struct page *page, *next;
	LIST_HEAD(high);

	answer = 0;
	while ((page = alloc_pages_node(0, GFP_DMA32 | __GFP_NOWARN | __GFP_NORETRY | __GFP_THISNODE, 9))) {
		if (page_to_phys(page) < argument) {
			list_add(&page->lru, &taken);
			answer++;
		} else {
			list_add(&page->lru, &high);
		}
	}
	list_for_each_entry_safe(page, next, &high, lru) {
		list_del(&page->lru);
		__free_pages(page, 9);
	}
}

static void give_back(void)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, &taken, lru) {
		list_del(&page->lru);
		__free_pages(page, 9);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
#define CASE(function) { #function, function }
	CASE(bad_requests), CASE(bad_arguments), CASE(filled_by_the_driver), CASE(a_fill_that_fails),
	CASE(threads_fill_each_page_once), CASE(kept_in_place), CASE(unbalanced),
	CASE(a_table_has_an_entry_for_each_run), CASE(one_run_is_one_entry), CASE(a_device_limits_the_pages),
	CASE(nodes_are_kept_to), CASE(a_mask_of_its_own), CASE(from_a_kernel_thread), CASE(from_probe),
	CASE(keep), CASE(drop), CASE(give_descriptor), CASE(keep_descriptor), CASE(seal_kept), CASE(unseal_kept),
	CASE(take_low_memory), CASE(give_back),
};

static int run(struct htlb_caller_run *record)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		if (strcmp(cases[i].name, record->name))
			continue;
		guard(mutex)(&one);
		failed_at = 0;
		answer = 0;
		argument = record->argument;
		cases[i].run();
		record->line = failed_at;
		record->value = failed_at ? found : answer;
		return 0;
	}
	return -ENOENT;
}

static long caller_ioctl(struct file *file, unsigned int number, unsigned long user)
{
	struct htlb_caller_run record;
	int error;

	if (number != HTLB_CALLER_RUN)
		return -ENOTTY;
	if (copy_from_user(&record, (void __user *)user, sizeof(record)))
		return -EFAULT;
	record.name[sizeof(record.name) - 1] = 0;
	error = run(&record);
	if (!error && copy_to_user((void __user *)user, &record, sizeof(record)))
		return -EFAULT;
	return error;
}

static int caller_mmap(struct file *file, struct vm_area_struct *vma)
{
	guard(mutex)(&one);
	return htlb_mmap(kept, vma);
}

static unsigned long caller_get_unmapped_area(struct file *file, unsigned long address, unsigned long len,
					      unsigned long pgoff, unsigned long flags)
{
	guard(mutex)(&one);
	return htlb_get_unmapped_area(kept, address, len, pgoff, flags);
}

static const struct file_operations caller_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = caller_ioctl,
	.mmap = caller_mmap,
	.get_unmapped_area = caller_get_unmapped_area,
};

static struct miscdevice caller = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "htlb_caller",
	.fops = &caller_operations,
	.mode = 0600,
};

static int __init caller_init(void)
{
	int error;

	device = platform_device_register_simple("htlb_caller", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(device))
		return PTR_ERR(device);
	set_mask(DMA_BIT_MASK(64));
	error = misc_register(&caller);
	if (error)
		platform_device_unregister(device);
	return error;
}

static void __exit caller_exit(void)
{
	misc_deregister(&caller);
	htlb_put(kept);
	give_back();
	platform_device_unregister(device);
}

module_init(caller_init);
module_exit(caller_exit);
MODULE_AUTHOR("The htlb authors");
MODULE_DESCRIPTION("Test: calls what htlb.ko exports");
MODULE_LICENSE("GPL");
