// SPDX-License-Identifier: GPL-2.0-only
/*
 * What Rust cannot see: inline functions, macros and exports of the kernel.
 *
 * No decision is made here. Pages are named by their first frame number; whoever passes one owns the page, which
 * the Rust side proves before each call.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/hugetlb.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/page_ref.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/wait_bit.h>
#include <linux/workqueue.h>

#include "htlb_c.h"

/* ---- GFP masks -------------------------------------------------------- */

/* By the bit that the core has for each name. */
static const gfp_t htlb_gfp_bits[] = {
	__GFP_DMA,	     __GFP_HIGHMEM,	 __GFP_DMA32,
	__GFP_MOVABLE,	     __GFP_RECLAIMABLE,	 __GFP_HIGH,
	__GFP_IO,	     __GFP_FS,		 __GFP_DIRECT_RECLAIM,
	__GFP_KSWAPD_RECLAIM, __GFP_ZERO,	 __GFP_COMP,
	__GFP_NOWARN,	     __GFP_RETRY_MAYFAIL, __GFP_NOFAIL,
	__GFP_NORETRY,	     __GFP_MEMALLOC,	 __GFP_NOMEMALLOC,
	__GFP_HARDWALL,	     __GFP_THISNODE,	 __GFP_ACCOUNT,
	__GFP_WRITE,
};

gfp_t htlb_c_gfp(u32 bits)
{
	gfp_t gfp = 0;
	u32 bit;

	for (bit = 0; bit < ARRAY_SIZE(htlb_gfp_bits); bit++)
		if (bits & BIT(bit))
			gfp |= htlb_gfp_bits[bit];
	return gfp;
}

/* The reverse of htlb_c_gfp(); false where a bit has no name. */
bool htlb_c_gfp_names(gfp_t gfp, u32 *names)
{
	u32 bit;

	*names = 0;
	for (bit = 0; bit < ARRAY_SIZE(htlb_gfp_bits); bit++)
		if (gfp & htlb_gfp_bits[bit])
			*names |= BIT(bit);
	return !(gfp & ~htlb_c_gfp(*names));
}

/* ---- pages ------------------------------------------------------------ */

/* In folio->private of every page that is ours: nobody else looks there while the folio has no mapping. */
#define HTLB_OURS ((void *)0x68746c6272757374UL)

bool htlb_c_page_is_ours(unsigned long pfn)
{
	return pfn_valid(pfn) && page_folio(pfn_to_page(pfn)) == (struct folio *)pfn_to_page(pfn) &&
	       pfn_folio(pfn)->private == HTLB_OURS;
}

static unsigned long htlb_c_adopt(struct folio *folio)
{
	folio->private = HTLB_OURS;
	/* NUMA balancing passes over dirty file folios. */
	folio_mark_dirty(folio);
	return folio_pfn(folio);
}

/* 0 where there is none: no frame that the allocator gives has this number. */
unsigned long htlb_c_page_alloc(gfp_t gfp, unsigned int order, int nid)
{
	struct folio *folio = __folio_alloc_node(gfp, order, nid);

	return folio ? htlb_c_adopt(folio) : 0;
}

void htlb_c_page_free(unsigned long pfn)
{
	struct folio *folio = pfn_folio(pfn);

	folio->private = NULL;
	folio_put(folio);
}

/*
 * Frames are taken one range at a time, as CMA does: two that isolate the same blocks of frames meet a BUG in the kernel's
 * mm/page_isolation.c.
 */
static DEFINE_MUTEX(htlb_range_lock);

/* Frames that are no folio: for pages larger than the allocator's own. */
unsigned long htlb_c_range_alloc(gfp_t gfp, unsigned int order, int nid, nodemask_t *nodes)
{
	struct page *page;

	if (mutex_lock_killable(&htlb_range_lock))
		return 0;
	page = alloc_contig_pages(1UL << order, gfp, nid, nodes);
	mutex_unlock(&htlb_range_lock);
	if (!page)
		return 0;
	((struct folio *)page)->private = HTLB_OURS;
	return page_to_pfn(page);
}

void htlb_c_range_free(unsigned long pfn, unsigned int order)
{
	pfn_folio(pfn)->private = NULL;
	free_contig_range(pfn, 1UL << order);
}

/* Of any frame, also where somebody else has its page by now. */
int htlb_c_page_node(unsigned long pfn)
{
	return pfn_valid(pfn) ? page_to_nid(pfn_to_page(pfn)) : NUMA_NO_NODE;
}

void htlb_c_page_place(unsigned long pfn, pgoff_t index)
{
	pfn_folio(pfn)->index = index;
}

/* Whether nobody but the caller, who has one reference, can reach the folio. */
bool htlb_c_page_is_exclusive(unsigned long pfn)
{
	struct page *page = pfn_to_page(pfn);

	if (!page_ref_freeze(page, 1))
		return false;
	page_ref_unfreeze(page, 1);
	return true;
}

bool htlb_c_page_is_poisoned(unsigned long pfn, unsigned long pages)
{
	unsigned long i;

	for (i = 0; i < pages; i++)
		if (PageHWPoison(pfn_to_page(pfn + i)))
			return true;
	return false;
}

void htlb_c_page_drain(unsigned long pfn)
{
	struct folio *folio = pfn_folio(pfn);

	folio_lock(folio);
	folio_unlock(folio);
}

/* Zeroes the bytes from @from up to @to; false where a fatal signal came first. */
bool htlb_c_page_clear(unsigned long pfn, u64 from, u64 to)
{
	while (from < to) {
		u64 end = min(to, (from | (PMD_SIZE - 1)) + 1);

		for (; from < end; from = (from | (PAGE_SIZE - 1)) + 1) {
			struct page *page = pfn_to_page(pfn + (from >> PAGE_SHIFT));
			u64 last = min(end, (from | (PAGE_SIZE - 1)) + 1);

			if (last - from == PAGE_SIZE)
				clear_highpage(page);
			else
				memzero_page(page, offset_in_page(from), last - from);
		}
		cond_resched();
		if (from < to && fatal_signal_pending(current))
			return false;
	}
	return true;
}

struct page *htlb_c_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

/* ---- waiting ---------------------------------------------------------- */

long htlb_c_wait(void *key, bool killable, bool (*over)(void *context), void *context)
{
	if (killable)
		return wait_var_event_killable(key, over(context));
	wait_var_event(key, over(context));
	return 0;
}

void htlb_c_wake(void *key)
{
	/* The change before, then the look at the queue. */
	smp_mb();
	wake_up_var(key);
}

bool htlb_c_fatal_signal(void)
{
	return fatal_signal_pending(current);
}

/* ---- the buffer's file ------------------------------------------------ */

struct file *htlb_c_file_create(const struct file_operations *fops, void *private, u64 size)
{
	struct file *file = anon_inode_create_getfile("[htlb]", fops, private, O_RDWR, NULL);

	if (!IS_ERR(file))
		i_size_write(file_inode(file), size);
	return file;
}

void htlb_c_file_resize(struct file *file, u64 size)
{
	i_size_write(file_inode(file), size);
}

struct file *htlb_c_file_get(struct file *file)
{
	return get_file(file);
}

void htlb_c_revoke(struct address_space *mapping, u64 start, u64 len, bool even_cows)
{
	unmap_mapping_range(mapping, start, len, even_cows);
}

void htlb_c_revoke_begin(struct address_space *mapping)
{
	filemap_invalidate_lock(mapping);
}

void htlb_c_revoke_end(struct address_space *mapping)
{
	filemap_invalidate_unlock(mapping);
}

/* ---- faults ----------------------------------------------------------- */

void htlb_c_hold_begin(struct address_space *mapping)
{
	filemap_invalidate_lock_shared(mapping);
}

void htlb_c_hold_end(struct address_space *mapping)
{
	filemap_invalidate_unlock_shared(mapping);
}

struct page *htlb_c_page_get_locked(unsigned long pfn, unsigned long subpage)
{
	struct folio *folio = pfn_folio(pfn);

	folio_get(folio);
	folio_lock(folio);
	return folio_page(folio, subpage);
}

void htlb_c_page_put_locked(unsigned long pfn)
{
	folio_unlock(pfn_folio(pfn));
	folio_put(pfn_folio(pfn));
}

void htlb_c_release_fault_lock(struct vm_fault *vmf)
{
	release_fault_lock(vmf);
}

/* False for an area that its driver has made one of frames already: ours is one of folios, or makes itself one of frames. */
bool htlb_c_vma_flags_set(struct vm_area_struct *vma, vm_flags_t flags)
{
	if (vma->vm_flags & (VM_PFNMAP | VM_MIXEDMAP))
		return false;
	vm_flags_set(vma, flags);
	return true;
}

/* For an area that shows a part of a buffer to somebody who has no file of it. */
void htlb_c_vma_is_window(struct vm_area_struct *vma)
{
	vma->vm_private_data = HTLB_OURS;
}

/*
 * Whether this is remap_file_pages() on such an area: it would show all of the buffer, since it asks nobody but the area's file.
 * A program that maps its own buffer over a window of it, and populates that in the same call, is taken for one. Under the mmap lock.
 */
bool htlb_c_remaps_window(struct file *file, unsigned long address, unsigned long flags)
{
	struct vm_area_struct *vma;

	if (~flags & (MAP_FIXED | MAP_POPULATE))
		return false;
	vma = vma_lookup(current->mm, address);
	return vma && vma->vm_file == file && vma->vm_private_data;
}

bool htlb_c_vma_is_cow(struct vm_area_struct *vma)
{
	return vma_is_cow_mapping(vma);
}

unsigned long htlb_c_unmapped_area(struct file *file, unsigned long len, unsigned long pgoff,
				   unsigned long flags, unsigned long align)
{
	unsigned long padded, at, offset;

	/* Address 0 is no hint, but it can be a demand. */
	if (flags & MAP_FIXED)
		return mm_get_unmapped_area(file, 0, len, pgoff, flags);
	/* As mm/huge_memory.c: __thp_get_unmapped_area, for any alignment: address and offset agree modulo it. */
	if (check_add_overflow(len, align, &padded) || pgoff > (ULONG_MAX >> PAGE_SHIFT))
		return -ENOMEM;
	offset = (pgoff << PAGE_SHIFT) & (align - 1);
	at = mm_get_unmapped_area(file, 0, padded, 0, flags);
	/* Where there is no room for the padding there may be for the area. */
	if (IS_ERR_VALUE(at))
		return mm_get_unmapped_area(file, 0, len, pgoff, flags);
	return at + ((offset - at) & (align - 1));
}

unsigned long htlb_c_unmapped_area_at(struct file *file, unsigned long addr, unsigned long len,
				      unsigned long pgoff, unsigned long flags)
{
	return mm_get_unmapped_area(file, addr, len, pgoff, flags);
}

/* ---- limbo ------------------------------------------------------------ */

/* Often enough that nobody waits for a page that is free, seldom enough that one that is held for long costs nothing. */
#define HTLB_LIMBO_INTERVAL (HZ / 4)

static void htlb_c_limbo_look(struct work_struct *work);
static DECLARE_DELAYED_WORK(htlb_c_limbo_work, htlb_c_limbo_look);

static void htlb_c_limbo_look(struct work_struct *work)
{
	if (htlb_rs_limbo_retry())
		queue_delayed_work(system_dfl_wq, &htlb_c_limbo_work, HTLB_LIMBO_INTERVAL);
}

void htlb_c_limbo_enter(void)
{
	__module_get(THIS_MODULE);
	queue_delayed_work(system_dfl_wq, &htlb_c_limbo_work, HTLB_LIMBO_INTERVAL);
}

void htlb_c_limbo_leave(void)
{
	module_put(THIS_MODULE);
}

void htlb_c_limbo_stop(void)
{
	cancel_delayed_work_sync(&htlb_c_limbo_work);
}

/* ---- ranges ----------------------------------------------------------- */

/* The frame numbers of a node: all of it is below the second, and not all of what lies between need be its. */
void htlb_c_node_span(int nid, unsigned long *start, unsigned long *end)
{
	*start = node_start_pfn(nid);
	*end = node_end_pfn(nid);
}

/* Whether all of these frames are memory of one zone of this node, and not of one whose pages must be able to move. */
static bool htlb_range_is_memory(unsigned long pfn, unsigned long pages, int nid)
{
	struct zone *zone = NULL;
	unsigned long at;

	for (at = pfn; at < pfn + pages; at += pageblock_nr_pages) {
		struct page *page = pfn_to_online_page(at);

		if (!page || page_to_nid(page) != nid)
			return false;
		if (!zone)
			zone = page_zone(page);
		if (page_zone(page) != zone)
			return false;
	}
	return zone && zone_idx(zone) != ZONE_MOVABLE && !is_zone_device_page(pfn_to_page(pfn)) &&
	       zone_spans_pfn(zone, pfn) && zone_spans_pfn(zone, pfn + pages - 1);
}

/*
 * Makes exactly these frames a page of ours, as htlb_c_page_alloc() and htlb_c_range_alloc() would have made it. What is in use there
 * moves elsewhere, if it can.
 */
bool htlb_c_range_alloc_at(gfp_t gfp, unsigned int order, int nid, unsigned long pfn)
{
	unsigned long pages = 1UL << order;
	bool is_folio = order <= HPAGE_PMD_ORDER;
	struct folio *folio;
	int refused;

	if (!htlb_range_is_memory(pfn, pages, nid) || mutex_lock_killable(&htlb_range_lock))
		return false;
	if (is_folio)
		refused = alloc_contig_frozen_range(pfn, pfn + pages, ACR_FLAGS_NONE, gfp | __GFP_COMP);
	else
		refused = alloc_contig_range(pfn, pfn + pages, ACR_FLAGS_NONE, gfp);
	mutex_unlock(&htlb_range_lock);
	if (refused)
		return false;
	if (!is_folio) {
		pfn_folio(pfn)->private = HTLB_OURS;
		return true;
	}
	folio = pfn_folio(pfn);
	/* It comes without a reference, and nobody can have found it. */
	set_page_count(&folio->page, 1);
	folio_set_large_rmappable(folio);
	htlb_c_adopt(folio);
	return true;
}

/* ---- imports ---------------------------------------------------------- */

/* The order of a hugetlb file's pages; a negative error for a file whose pages may not be written to through a buffer. */
int htlb_c_import_order(struct file *file)
{
	if (!is_file_hugepages(file))
		return -EOPNOTSUPP;
	if ((file->f_mode & (FMODE_READ | FMODE_WRITE)) != (FMODE_READ | FMODE_WRITE))
		return -EACCES;
	if (READ_ONCE(HUGETLBFS_I(file_inode(file))->seals) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		return -EPERM;
	return huge_page_order(hstate_file(file));
}

/* Whether a pinned folio is what a hugetlb file of this order has, all of its memory sound. */
bool htlb_c_import_is_sound(struct folio *folio, unsigned int order)
{
	return folio_test_hugetlb(folio) && folio_order(folio) == order && !folio_test_hwpoison(folio);
}

unsigned long htlb_c_import_pfn(struct folio *folio)
{
	return folio_pfn(folio);
}

/* ---- the machine ------------------------------------------------------ */

u64 htlb_c_memory_nodes(void)
{
	u64 mask = 0;
	int nid;

	for_each_node_state(nid, N_MEMORY)
		if (nid < 64)
			mask |= BIT_ULL(nid);
	return mask;
}

int htlb_c_local_node(void)
{
	return numa_mem_id();
}

u64 htlb_c_total_pages(void)
{
	return totalram_pages();
}

u64 htlb_c_available_pages(void)
{
	return max(si_mem_available(), 0L);
}

bool htlb_c_capable_admin(void)
{
	return capable(CAP_SYS_ADMIN);
}
