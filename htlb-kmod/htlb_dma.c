// SPDX-License-Identifier: GPL-2.0-only
/*
 * What other drivers meet: the functions that they may call, their devices, and what is mapped for these.
 *
 * As in htlb_c.c, no decision is made here.
 */
#include <linux/dma-buf.h>
#include <linux/dma-direct.h>
#include <linux/dma-map-ops.h>
#include <linux/dma-mapping.h>
#include <linux/export.h>
#include <linux/iommu-dma.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/swiotlb.h>
#include <linux/vmalloc.h>

#include "htlb_c.h"
#include "include/linux/htlb.h"

/* ---- what drivers may call -------------------------------------------- */

/* ffi/exports.rs mirrors the record and has the functions. */
static_assert(sizeof(struct htlb_request) == 72 && offsetof(struct htlb_request, dev) == 64);
static_assert(offsetof(struct htlb_request, node_policy) == 48);
static_assert(offsetof(struct htlb_request, gfp) == 56);

EXPORT_SYMBOL_GPL(htlb_create);
EXPORT_SYMBOL_GPL(htlb_from_fd);
EXPORT_SYMBOL_GPL(htlb_get);
EXPORT_SYMBOL_GPL(htlb_put);
EXPORT_SYMBOL_GPL(htlb_install_fd);
EXPORT_SYMBOL_GPL(htlb_size);
EXPORT_SYMBOL_GPL(htlb_reserve);
EXPORT_SYMBOL_GPL(htlb_populate);
EXPORT_SYMBOL_GPL(htlb_punch);
EXPORT_SYMBOL_GPL(htlb_page_at);
EXPORT_SYMBOL_GPL(htlb_pin);
EXPORT_SYMBOL_GPL(htlb_unpin);
EXPORT_SYMBOL_GPL(htlb_seal);
EXPORT_SYMBOL_GPL(htlb_unseal);
EXPORT_SYMBOL_GPL(htlb_sg_map);
EXPORT_SYMBOL_GPL(htlb_sg_unmap);
EXPORT_SYMBOL_GPL(htlb_mmap);
EXPORT_SYMBOL_GPL(htlb_get_unmapped_area);

/* ---- devices and their tables ----------------------------------------- */

static bool htlb_c_device_is_translated(struct device *dev)
{
	return use_dma_iommu(dev) || get_dma_ops(dev);
}

/* How many address bits of memory the device drives. */
u32 htlb_c_device_bits(struct device *dev)
{
	u64 mask = min_not_zero(dma_get_mask(dev), dev->bus_dma_limit);

	if (htlb_c_device_is_translated(dev) || mask == U64_MAX)
		return 64;
	/* Of a mask with gaps, what lies below the first. */
	return __ffs64(~mask);
}

int htlb_c_device_node(struct device *dev)
{
	return dev_to_node(dev);
}

bool htlb_c_device_reaches(struct device *dev, u64 physical, u64 len)
{
	if (htlb_c_device_is_translated(dev))
		return true;
	return dev->dma_mask &&
	       phys_to_dma(dev, physical) + len - 1 <= min_not_zero(*dev->dma_mask, dev->bus_dma_limit);
}

struct sg_table *htlb_c_sg_alloc(u32 entries)
{
	struct sg_table *table = kzalloc(sizeof(*table), GFP_KERNEL);

	if (table && sg_alloc_table(table, entries, GFP_KERNEL)) {
		kfree(table);
		table = NULL;
	}
	return table;
}

void htlb_c_sg_free(struct sg_table *table)
{
	sg_free_table(table);
	kfree(table);
}

/* Returns the next entry, or NULL after the last. */
struct scatterlist *htlb_c_sg_set(struct scatterlist *entry, u64 physical, u32 len)
{
	sg_set_page(entry, pfn_to_page(physical >> PAGE_SHIFT), len, offset_in_page(physical));
	return sg_next(entry);
}

int htlb_c_sg_map(struct device *dev, struct sg_table *table, u32 direction)
{
	return dma_map_sgtable(dev, table, direction, 0);
}

void htlb_c_sg_unmap(struct device *dev, struct sg_table *table, u32 direction)
{
	dma_unmap_sgtable(dev, table, direction, 0);
}

/* ---- dma-bufs --------------------------------------------------------- */

MODULE_IMPORT_NS("DMA_BUF");
EXPORT_SYMBOL_GPL(htlb_export);

u64 htlb_c_device_longest(struct device *dev)
{
	u64 longest = dma_get_max_seg_size(dev);

	/* Where everything is copied, only so much at once can be. */
	if (!htlb_c_device_is_translated(dev) && is_swiotlb_force_bounce(dev))
		longest = min_t(u64, longest, dma_max_mapping_size(dev));
	return longest;
}

u64 htlb_c_device_boundary(struct device *dev)
{
	return dma_get_seg_boundary(dev);
}

/* Without a look at the caches, and without copying what is older back over what is newer. */
int htlb_c_sg_map_quietly(struct device *dev, struct sg_table *table)
{
	return dma_map_sgtable(dev, table, DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
}

void htlb_c_sg_unmap_quietly(struct device *dev, struct sg_table *table)
{
	dma_unmap_sgtable(dev, table, DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
}

void htlb_c_sg_sync_for_cpu(struct device *dev, struct sg_table *table, u32 direction)
{
	dma_sync_sgtable_for_cpu(dev, table, direction);
}

void htlb_c_sg_sync_for_device(struct device *dev, struct sg_table *table, u32 direction)
{
	dma_sync_sgtable_for_device(dev, table, direction);
}

/* Turns the list of frames into one of pages, in its place. */
void *htlb_c_vmap(u64 *frames, u32 pages)
{
	struct page **list = (struct page **)frames;
	u32 i;

	BUILD_BUG_ON(sizeof(*list) > sizeof(*frames));
	for (i = 0; i < pages; i++)
		list[i] = pfn_to_page(frames[i]);
	return vmap(list, pages, VM_MAP, PAGE_KERNEL);
}

void htlb_c_vunmap(void *address)
{
	vunmap(address);
}
