// SPDX-License-Identifier: GPL-2.0-only
/*
 * A character device whose mappings are huge pages that the driver filled.
 *
 * This is the driver for which huge pages in drivers were asked: it makes a buffer when it is loaded, fills it in the background as a
 * device would, and lets programs map it afterwards. A program that opens /dev/htlb_chardev waits until the buffer is full. Each
 * 64-bit word of the buffer holds its own offset, turned upside down.
 */
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/htlb.h>
#include <linux/kthread.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sizes.h>

static ulong size = 8 * SZ_1M;
module_param(size, ulong, 0444);
MODULE_PARM_DESC(size, "Size of the buffer in bytes");

static struct htlb_buffer *buffer;
static struct task_struct *filler;
static DECLARE_COMPLETION(filled);
static int outcome;

static ssize_t chardev_fill(void *context, struct page *page, u64 offset, u64 len)
{
	u64 done, at;

	for (done = 0; done < len; done += PAGE_SIZE) {
		u64 *words = kmap_local_page(page + (done >> PAGE_SHIFT));

		for (at = 0; at < PAGE_SIZE; at += sizeof(u64))
			words[at / sizeof(u64)] = ~(offset + done + at);
		kunmap_local(words);
		cond_resched();
	}
	return len;
}

/* What takes a device its time: nobody waits for it at the end of the module's init. */
static int chardev_filler(void *unused)
{
	outcome = htlb_populate(buffer, 0, htlb_size(buffer), chardev_fill, NULL);
	complete_all(&filled);
	return 0;
}

static int chardev_open(struct inode *inode, struct file *file)
{
	return wait_for_completion_killable(&filled) ?: outcome;
}

static int chardev_mmap(struct file *file, struct vm_area_struct *vma)
{
	return htlb_mmap(buffer, vma);
}

static unsigned long chardev_get_unmapped_area(struct file *file, unsigned long address, unsigned long len,
					       unsigned long pgoff, unsigned long flags)
{
	return htlb_get_unmapped_area(buffer, address, len, pgoff, flags);
}

static const struct file_operations chardev_operations = {
	.owner = THIS_MODULE,
	.open = chardev_open,
	.mmap = chardev_mmap,
	.get_unmapped_area = chardev_get_unmapped_area,
};

static struct miscdevice chardev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "htlb_chardev",
	.fops = &chardev_operations,
	.mode = 0600,
};

static int __init chardev_init(void)
{
	struct htlb_request request = { .size = size };
	int error;

	buffer = htlb_create(&request);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	filler = kthread_create(chardev_filler, NULL, "htlb_chardev");
	if (IS_ERR(filler)) {
		htlb_put(buffer);
		return PTR_ERR(filler);
	}
	/* Before it runs: it ends by itself, perhaps before it is stopped. */
	get_task_struct(filler);
	wake_up_process(filler);
	error = misc_register(&chardev);
	if (error) {
		kthread_stop_put(filler);
		htlb_put(buffer);
	}
	return error;
}

static void __exit chardev_exit(void)
{
	misc_deregister(&chardev);
	kthread_stop_put(filler);
	/* Programs that still have it mapped keep the buffer, and htlb.ko, but not this module. */
	htlb_put(buffer);
}

module_init(chardev_init);
module_exit(chardev_exit);
MODULE_AUTHOR("The htlb authors");
MODULE_DESCRIPTION("Example: huge pages that a driver fills before a program maps them");
MODULE_LICENSE("GPL");
