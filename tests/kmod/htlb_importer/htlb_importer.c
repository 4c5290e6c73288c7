// SPDX-License-Identifier: GPL-2.0-only
/*
 * A device that imports dma-bufs, for tests of any exporter.
 *
 * Each open file of /dev/htlb_importer is a device of its own, with its own DMA mask and its own attachments; several
 * files attach several devices to one buffer. An attachment lives until DETACH or until the file is closed, whatever
 * the program that made it does in between.
 */
#include <linux/dma-buf.h>
#include <linux/dma-direct.h>
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/iosys-map.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/platform_device.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "htlb_importer.h"

struct importer {
	struct platform_device *device;
	/* Guards all below. Taken outside of a buffer's reservation lock. */
	struct mutex lock;
	struct xarray attachments;
	struct attachment *selected;
	u32 view;
};

struct attachment {
	struct dma_buf *buffer;
	struct dma_buf_attachment *attachment;
	struct sg_table *table;
	enum dma_data_direction direction;
	struct iosys_map map;
	bool vmapped;
};

static int importer_open(struct inode *inode, struct file *file)
{
	struct platform_device_info info = {
		.name = "htlb_importer",
		.id = PLATFORM_DEVID_AUTO,
		.dma_mask = DMA_BIT_MASK(64),
	};
	struct importer *importer;

	importer = kzalloc(sizeof(*importer), GFP_KERNEL);
	if (!importer)
		return -ENOMEM;
	importer->device = platform_device_register_full(&info);
	if (IS_ERR(importer->device)) {
		int error = PTR_ERR(importer->device);

		kfree(importer);
		return error;
	}
	/* The default is 64 KiB, which would cut every entry. */
	dma_set_max_seg_size(&importer->device->dev, UINT_MAX);
	mutex_init(&importer->lock);
	xa_init_flags(&importer->attachments, XA_FLAGS_ALLOC1);
	file->private_data = importer;
	return 0;
}

static void unmap(struct attachment *a)
{
	dma_buf_unmap_attachment_unlocked(a->attachment, a->table, a->direction);
	a->table = NULL;
}

static void vunmap_attachment(struct attachment *a)
{
	dma_buf_vunmap_unlocked(a->buffer, &a->map);
	a->vmapped = false;
}

static void detach(struct attachment *a)
{
	if (a->vmapped)
		vunmap_attachment(a);
	if (a->table)
		unmap(a);
	dma_buf_detach(a->buffer, a->attachment);
	dma_buf_put(a->buffer);
	kfree(a);
}

static int importer_release(struct inode *inode, struct file *file)
{
	struct importer *importer = file->private_data;
	struct attachment *a;
	unsigned long id;

	xa_for_each(&importer->attachments, id, a)
		detach(a);
	xa_destroy(&importer->attachments);
	platform_device_unregister(importer->device);
	mutex_destroy(&importer->lock);
	kfree(importer);
	return 0;
}

static int set_device(struct importer *importer, const struct htlb_importer_device *arg)
{
	struct device *dev = &importer->device->dev;

	if (!xa_empty(&importer->attachments))
		return -EBUSY;
	if (arg->dma_bits < 1 || arg->dma_bits > 64 || arg->max_segment < PAGE_SIZE)
		return -EINVAL;
	dma_set_max_seg_size(dev, arg->max_segment);
	return dma_set_mask_and_coherent(dev, DMA_BIT_MASK(arg->dma_bits));
}

static int attach(struct importer *importer, struct htlb_importer_attach *arg)
{
	struct attachment *a;
	int error;

	a = kzalloc(sizeof(*a), GFP_KERNEL);
	if (!a)
		return -ENOMEM;
	a->buffer = dma_buf_get(arg->fd);
	if (IS_ERR(a->buffer)) {
		error = PTR_ERR(a->buffer);
		goto free;
	}
	a->attachment = dma_buf_attach(a->buffer, &importer->device->dev);
	if (IS_ERR(a->attachment)) {
		error = PTR_ERR(a->attachment);
		goto put;
	}
	error = xa_alloc(&importer->attachments, &arg->id, a, xa_limit_31b, GFP_KERNEL);
	if (error)
		goto detach;
	arg->bytes = a->buffer->size;
	return 0;

detach:
	dma_buf_detach(a->buffer, a->attachment);
put:
	dma_buf_put(a->buffer);
free:
	kfree(a);
	return error;
}

static int map(struct attachment *a, struct htlb_importer_map *arg)
{
	struct scatterlist *sg;
	struct sg_table *table;
	unsigned int i;

	if (a->table)
		return -EBUSY;
	if (arg->direction > DMA_FROM_DEVICE)
		return -EINVAL;
	table = dma_buf_map_attachment_unlocked(a->attachment, arg->direction);
	if (IS_ERR(table))
		return PTR_ERR(table);
	a->table = table;
	a->direction = arg->direction;
	arg->cpu_entries = table->orig_nents;
	arg->dma_entries = table->nents;
	arg->first = sg_dma_address(table->sgl);
	arg->bytes = 0;
	for_each_sgtable_dma_sg(table, sg, i)
		arg->bytes += sg_dma_len(sg);
	return 0;
}

static int entry(struct attachment *a, struct htlb_importer_entry *arg)
{
	struct scatterlist *sg;
	unsigned int i;

	if (!a->table)
		return -ENXIO;
	for_each_sgtable_dma_sg(a->table, sg, i) {
		if (i == arg->index) {
			arg->address = sg_dma_address(sg);
			arg->length = sg_dma_len(sg);
			return 0;
		}
	}
	return -ERANGE;
}

static int select_view(struct importer *importer, struct attachment *a, u32 view)
{
	switch (view) {
	case HTLB_IMPORTER_VIEW_VMAP:
		if (!a->vmapped)
			return -ENXIO;
		break;
	case HTLB_IMPORTER_VIEW_DEVICE:
		if (!a->table)
			return -ENXIO;
		/* The addresses are then no physical ones, and only the IOMMU knows which. */
		if (device_iommu_mapped(&importer->device->dev))
			return -EOPNOTSUPP;
		break;
	default:
		return -EINVAL;
	}
	importer->selected = a;
	importer->view = view;
	return 0;
}

/* Ends the view that goes with a mapping. */
static void forget_view(struct importer *importer, struct attachment *a, u32 view)
{
	if (importer->selected == a && importer->view == view)
		importer->selected = NULL;
}

static int on_attachment(struct importer *importer, unsigned int cmd, u32 id, u32 choice)
{
	struct attachment *a = xa_load(&importer->attachments, id);
	int error;

	if (!a)
		return -ENOENT;
	switch (cmd) {
	case HTLB_IMPORTER_BEGIN_CPU:
	case HTLB_IMPORTER_END_CPU:
		if (choice > DMA_FROM_DEVICE)
			return -EINVAL;
		return cmd == HTLB_IMPORTER_BEGIN_CPU ? dma_buf_begin_cpu_access(a->buffer, choice) :
							dma_buf_end_cpu_access(a->buffer, choice);
	case HTLB_IMPORTER_VMAP:
		if (a->vmapped)
			return -EBUSY;
		error = dma_buf_vmap_unlocked(a->buffer, &a->map);
		a->vmapped = !error;
		return error;
	case HTLB_IMPORTER_VUNMAP:
		if (!a->vmapped)
			return -ENXIO;
		forget_view(importer, a, HTLB_IMPORTER_VIEW_VMAP);
		vunmap_attachment(a);
		return 0;
	case HTLB_IMPORTER_SELECT:
		return select_view(importer, a, choice);
	case HTLB_IMPORTER_UNMAP:
		if (!a->table)
			return -ENXIO;
		forget_view(importer, a, HTLB_IMPORTER_VIEW_DEVICE);
		unmap(a);
		return 0;
	case HTLB_IMPORTER_DETACH:
		if (importer->selected == a)
			importer->selected = NULL;
		xa_erase(&importer->attachments, id);
		detach(a);
		return 0;
	default:
		return -ENOTTY;
	}
}

union record {
	struct htlb_importer_device device;
	struct htlb_importer_attach attach;
	struct htlb_importer_map map;
	struct htlb_importer_entry entry;
	struct htlb_importer_id id;
	struct htlb_importer_choice choice;
};

static int on_record(struct importer *importer, unsigned int cmd, union record *record)
{
	struct attachment *a;

	switch (cmd) {
	case HTLB_IMPORTER_DEVICE:
		return set_device(importer, &record->device);
	case HTLB_IMPORTER_ATTACH:
		return attach(importer, &record->attach);
	case HTLB_IMPORTER_MAP:
		a = xa_load(&importer->attachments, record->map.id);
		return a ? map(a, &record->map) : -ENOENT;
	case HTLB_IMPORTER_ENTRY:
		a = xa_load(&importer->attachments, record->entry.id);
		return a ? entry(a, &record->entry) : -ENOENT;
	case HTLB_IMPORTER_VMAP:
	case HTLB_IMPORTER_VUNMAP:
	case HTLB_IMPORTER_UNMAP:
	case HTLB_IMPORTER_DETACH:
		if (record->id.reserved)
			return -EINVAL;
		fallthrough;
	default:
		/* An id and, for some, a choice: both records begin alike. */
		return on_attachment(importer, cmd, record->choice.id, record->choice.choice);
	}
}

static long importer_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct importer *importer = file->private_data;
	void __user *user = (void __user *)arg;
	size_t size = _IOC_SIZE(cmd);
	union record record = {};
	int error;

	if (_IOC_TYPE(cmd) != 'j' || size > sizeof(record))
		return -ENOTTY;
	if (copy_from_user(&record, user, size))
		return -EFAULT;
	mutex_lock(&importer->lock);
	error = on_record(importer, cmd, &record);
	mutex_unlock(&importer->lock);
	if (!error && (_IOC_DIR(cmd) & _IOC_READ) && copy_to_user(user, &record, size))
		return -EFAULT;
	return error;
}

/* Copies between @bytes and the selected attachment at @offset; @len is within the buffer. */
static int copy_device(struct importer *importer, u64 offset, void *bytes, size_t len, bool write)
{
	struct device *dev = &importer->device->dev;
	struct scatterlist *sg;
	unsigned int i;

	for_each_sgtable_dma_sg(importer->selected->table, sg, i) {
		size_t part;
		void *at;

		if (offset >= sg_dma_len(sg)) {
			offset -= sg_dma_len(sg);
			continue;
		}
		part = min_t(u64, len, sg_dma_len(sg) - offset);
		at = phys_to_virt(dma_to_phys(dev, sg_dma_address(sg) + offset));
		if (write)
			memcpy(at, bytes, part);
		else
			memcpy(bytes, at, part);
		bytes += part;
		len -= part;
		offset = 0;
		if (!len)
			return 0;
	}
	return -EIO;
}

static int copy_view(struct importer *importer, u64 offset, void *bytes, size_t len, bool write)
{
	if (importer->view == HTLB_IMPORTER_VIEW_DEVICE)
		return copy_device(importer, offset, bytes, len, write);
	if (write)
		iosys_map_memcpy_to(&importer->selected->map, offset, bytes, len);
	else
		iosys_map_memcpy_from(bytes, &importer->selected->map, offset, len);
	return 0;
}

/* One page at a time, through a page of our own: nobody's lock is held while user memory is touched. */
static ssize_t transfer(struct file *file, char __user *user, size_t count, loff_t *position, bool write)
{
	struct importer *importer = file->private_data;
	void *bounce = (void *)__get_free_page(GFP_KERNEL);
	ssize_t done = 0;
	int error = 0;

	if (!bounce)
		return -ENOMEM;
	while (count) {
		size_t len = min_t(size_t, count, PAGE_SIZE);

		if (write && copy_from_user(bounce, user, len)) {
			error = -EFAULT;
			break;
		}
		mutex_lock(&importer->lock);
		if (!importer->selected) {
			error = -ENXIO;
		} else {
			u64 size = importer->selected->buffer->size;

			len = *position < size ? min_t(u64, len, size - *position) : 0;
			if (len)
				error = copy_view(importer, *position, bounce, len, write);
		}
		mutex_unlock(&importer->lock);
		if (error || !len)
			break;
		if (!write && copy_to_user(user, bounce, len)) {
			error = -EFAULT;
			break;
		}
		user += len;
		count -= len;
		done += len;
		*position += len;
	}
	free_page((unsigned long)bounce);
	return done ? done : error;
}

static ssize_t importer_read(struct file *file, char __user *user, size_t count, loff_t *position)
{
	return transfer(file, user, count, position, false);
}

static ssize_t importer_write(struct file *file, const char __user *user, size_t count, loff_t *position)
{
	return transfer(file, (char __user *)user, count, position, true);
}

static const struct file_operations importer_operations = {
	.owner = THIS_MODULE,
	.open = importer_open,
	.release = importer_release,
	.unlocked_ioctl = importer_ioctl,
	.read = importer_read,
	.write = importer_write,
};

static struct miscdevice importer_node = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "htlb_importer",
	.fops = &importer_operations,
};

module_misc_device(importer_node);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A device that imports dma-bufs, for tests of exporters");
MODULE_IMPORT_NS("DMA_BUF");
