// SPDX-License-Identifier: GPL-2.0-only
/* What htlb.ko refuses, and that nothing is left of it. */
#include <linux/dma-mapping.h>
#include <linux/fcntl.h>

#include "caller.h"

static int refused(struct htlb_request request)
{
	struct htlb_buffer *buffer = htlb_create(&request);

	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	htlb_put(buffer);
	return 0;
}

void bad_requests(void)
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
	/* No pool has such pages; without HTLB_REQUEST_STRICT smaller ones do. */
	REFUSED(0, page_size, SZ_4M);
	bad = good;
	bad.page_size = SZ_4M;
	bad.flags = HTLB_REQUEST_STRICT;
	EXPECT(refused(bad), -EOPNOTSUPP);
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

void bad_arguments(void)
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
