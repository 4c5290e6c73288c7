// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver that asks for everything that linux/htlb.h offers, rightly and wrongly.
 *
 * /dev/htlb_caller runs one case at a time, by name. A case fails at the first expectation that does not hold; its line and what was
 * found instead are the answer. Buffers that a case keeps for the next are mapped by mapping the device file.
 */
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "caller.h"
#include "htlb_caller.h"

u32 failed_at;
const char *failed_in;
s64 found;
s64 answer;
u64 argument;
struct platform_device *device;

static DEFINE_MUTEX(one);
static struct htlb_buffer *kept;
/* What the driver says of an area before it passes it on. */
static vm_flags_t area_flags;
static LIST_HEAD(taken);

struct htlb_buffer *strict(u64 pages)
{
	struct htlb_request request = { .size = pages * HUGE, .page_size = HUGE, .flags = HTLB_REQUEST_STRICT };

	return htlb_create(&request);
}

ssize_t fill(void *context, struct page *page, u64 offset, u64 len)
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

bool all_bytes(struct htlb_buffer *buffer, u64 offset, u64 len, u8 byte)
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

/* 1 for an area of frames, 2 for one of frames and pages, 3 for one that is only kept from growing; 0 for none of these. */
static void mark_areas(void)
{
	static const vm_flags_t marks[] = { 0, VM_PFNMAP, VM_MIXEDMAP, VM_IO | VM_DONTEXPAND };

	EXPECT_TRUE(argument < ARRAY_SIZE(marks));
	area_flags = marks[argument];
out:
	return;
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
	CASE(a_table_has_an_entry_for_each_run), CASE(one_run_is_one_entry), CASE(entries_are_cut_where_the_device_says),
	CASE(a_device_limits_the_pages),
	CASE(nodes_are_kept_to), CASE(a_mask_of_its_own), CASE(from_a_kernel_thread), CASE(from_probe),
	CASE(keep), CASE(drop), CASE(give_descriptor), CASE(keep_descriptor), CASE(seal_kept), CASE(unseal_kept),
	CASE(mark_areas), CASE(a_giant_page),
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
		failed_in = "htlb_caller";
		answer = 0;
		argument = record->argument;
		cases[i].run();
		record->line = failed_at;
		if (failed_at)
			strscpy(record->name, kbasename(failed_in), sizeof(record->name));
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
	vm_flags_set(vma, area_flags);
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
	/* It takes all of a run in one go. */
	dma_set_max_seg_size(&device->dev, SZ_2G);
	dma_set_seg_boundary(&device->dev, ULONG_MAX);
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
