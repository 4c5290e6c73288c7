// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver that does what a test tells it to: it pins pages of htlb's buffers, holds pages behind htlb's back, and fills
 * buffers with what a program produces.
 *
 * What an open file of /dev/htlb_probe pinned and holds goes when the file is closed.
 */
#include <linux/fs.h>
#include <linux/htlb.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "htlb_probe.h"

/* Where a fill is. */
enum stage {
	NOT_BEGUN,
	FILLING,
	IN_HAND,	/* the program has the page */
	ANSWERED,
	OVER,
};

struct probe {
	/* Guards all below. */
	struct mutex lock;
	struct list_head pins;
	struct list_head holds;
	enum stage stage;
	bool abandoned;
	struct page *page;
	u64 offset;
	u64 len;
	s64 written;
	wait_queue_head_t changed;
};

struct pin {
	struct list_head node;
	struct htlb_buffer *buffer;
	u64 offset;
};

struct hold {
	struct list_head node;
	struct page *page;
};

static void probe_unpin_one(struct pin *pin)
{
	list_del(&pin->node);
	htlb_unpin(pin->buffer, pin->offset);
	htlb_put(pin->buffer);
	kfree(pin);
}

static void probe_let_go_one(struct hold *hold)
{
	list_del(&hold->node);
	put_page(hold->page);
	kfree(hold);
}

static int probe_open(struct inode *inode, struct file *file)
{
	struct probe *probe = kzalloc(sizeof(*probe), GFP_KERNEL);

	if (!probe)
		return -ENOMEM;
	mutex_init(&probe->lock);
	INIT_LIST_HEAD(&probe->pins);
	INIT_LIST_HEAD(&probe->holds);
	init_waitqueue_head(&probe->changed);
	file->private_data = probe;
	return 0;
}

static int probe_release(struct inode *inode, struct file *file)
{
	struct probe *probe = file->private_data;
	struct pin *pin, *next_pin;
	struct hold *hold, *next_hold;

	list_for_each_entry_safe(pin, next_pin, &probe->pins, node)
		probe_unpin_one(pin);
	list_for_each_entry_safe(hold, next_hold, &probe->holds, node)
		probe_let_go_one(hold);
	mutex_destroy(&probe->lock);
	kfree(probe);
	return 0;
}

static long probe_pin(struct probe *probe, const struct htlb_probe_place *place)
{
	struct htlb_buffer *buffer = htlb_from_fd(place->fd);
	struct page *page;
	struct pin *pin;
	int error;

	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	error = -ENOMEM;
	pin = kzalloc(sizeof(*pin), GFP_KERNEL);
	if (!pin)
		goto put;
	error = htlb_pin(buffer, place->offset, &page);
	if (error)
		goto free;
	pin->buffer = buffer;
	pin->offset = place->offset;
	mutex_lock(&probe->lock);
	list_add(&pin->node, &probe->pins);
	mutex_unlock(&probe->lock);
	return 0;

free:
	kfree(pin);
put:
	htlb_put(buffer);
	return error;
}

static long probe_unpin(struct probe *probe, const struct htlb_probe_place *place)
{
	struct htlb_buffer *buffer = htlb_from_fd(place->fd);
	struct pin *pin;
	long error = -ENOENT;

	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	mutex_lock(&probe->lock);
	list_for_each_entry(pin, &probe->pins, node) {
		if (pin->buffer == buffer && pin->offset == place->offset) {
			probe_unpin_one(pin);
			error = 0;
			break;
		}
	}
	mutex_unlock(&probe->lock);
	htlb_put(buffer);
	return error;
}

static long probe_hold(struct probe *probe, const struct htlb_probe_frame *frame)
{
	struct page *page = pfn_to_online_page(frame->pfn);
	struct hold *hold;

	if (!page)
		return -EINVAL;
	hold = kzalloc(sizeof(*hold), GFP_KERNEL);
	if (!hold)
		return -ENOMEM;
	hold->page = page;
	/* The test says which page: one that is in a buffer, so it has an owner. */
	get_page(page);
	mutex_lock(&probe->lock);
	list_add(&hold->node, &probe->holds);
	mutex_unlock(&probe->lock);
	return 0;
}

static long probe_let_go(struct probe *probe, const struct htlb_probe_frame *frame)
{
	struct hold *hold;
	long error = -ENOENT;

	mutex_lock(&probe->lock);
	list_for_each_entry(hold, &probe->holds, node) {
		if (page_to_pfn(hold->page) == frame->pfn) {
			probe_let_go_one(hold);
			error = 0;
			break;
		}
	}
	mutex_unlock(&probe->lock);
	return error;
}

/* Gives a page to the program, and waits for its answer. */
static ssize_t probe_fill_page(void *context, struct page *page, u64 offset, u64 len)
{
	struct probe *probe = context;
	ssize_t written;

	mutex_lock(&probe->lock);
	probe->page = page;
	probe->offset = offset;
	probe->len = len;
	probe->stage = IN_HAND;
	mutex_unlock(&probe->lock);
	wake_up_all(&probe->changed);
	written = wait_event_killable(probe->changed,
				      READ_ONCE(probe->stage) == ANSWERED || READ_ONCE(probe->abandoned));
	mutex_lock(&probe->lock);
	if (!written)
		written = probe->stage == ANSWERED ? probe->written : -EIO;
	else
		written = -EINTR;
	probe->page = NULL;
	probe->stage = FILLING;
	mutex_unlock(&probe->lock);
	return written;
}

static long probe_fill(struct probe *probe, const struct htlb_probe_fill *fill)
{
	struct htlb_buffer *buffer;
	long error = -EBUSY;

	mutex_lock(&probe->lock);
	if (probe->stage == NOT_BEGUN) {
		probe->stage = FILLING;
		error = 0;
	}
	mutex_unlock(&probe->lock);
	if (error)
		return error;
	buffer = htlb_from_fd(fill->fd);
	if (IS_ERR(buffer)) {
		error = PTR_ERR(buffer);
	} else {
		error = htlb_populate(buffer, fill->offset, fill->len, probe_fill_page, probe);
		htlb_put(buffer);
	}
	mutex_lock(&probe->lock);
	probe->stage = OVER;
	mutex_unlock(&probe->lock);
	wake_up_all(&probe->changed);
	return error;
}

static long probe_next(struct probe *probe, struct htlb_probe_page *page)
{
	long error;

	if (wait_event_killable(probe->changed,
				READ_ONCE(probe->stage) == IN_HAND || READ_ONCE(probe->stage) == OVER))
		return -EINTR;
	mutex_lock(&probe->lock);
	error = probe->stage == IN_HAND ? 0 : -ENODATA;
	page->offset = probe->offset;
	page->len = probe->len;
	mutex_unlock(&probe->lock);
	return error;
}

static long probe_write(struct probe *probe, const struct htlb_probe_write *write)
{
	long error = 0;

	mutex_lock(&probe->lock);
	if (probe->stage != IN_HAND)
		error = -EINVAL;
	else if (write->at > probe->len || write->len > probe->len - write->at)
		error = -ERANGE;
	else if (copy_from_user(page_address(probe->page) + write->at, u64_to_user_ptr(write->data), write->len))
		error = -EFAULT;
	mutex_unlock(&probe->lock);
	return error;
}

static long probe_answer(struct probe *probe, const struct htlb_probe_answer *answer)
{
	long error = -EINVAL;

	mutex_lock(&probe->lock);
	if (probe->stage == IN_HAND) {
		probe->written = answer->written;
		probe->stage = ANSWERED;
		error = 0;
	}
	mutex_unlock(&probe->lock);
	wake_up_all(&probe->changed);
	return error;
}

static long probe_abandon(struct probe *probe)
{
	WRITE_ONCE(probe->abandoned, true);
	wake_up_all(&probe->changed);
	return 0;
}

union record {
	struct htlb_probe_place place;
	struct htlb_probe_frame frame;
	struct htlb_probe_fill fill;
	struct htlb_probe_page page;
	struct htlb_probe_write write;
	struct htlb_probe_answer answer;
};

static long probe_ioctl(struct file *file, unsigned int number, unsigned long argument)
{
	struct probe *probe = file->private_data;
	void __user *user = (void __user *)argument;
	union record record = {};
	long error;

	if (_IOC_TYPE(number) != 'q' || _IOC_SIZE(number) > sizeof(record))
		return -ENOTTY;
	if ((_IOC_DIR(number) & _IOC_WRITE) && copy_from_user(&record, user, _IOC_SIZE(number)))
		return -EFAULT;
	switch (number) {
	case HTLB_PROBE_PIN:
		return probe_pin(probe, &record.place);
	case HTLB_PROBE_UNPIN:
		return probe_unpin(probe, &record.place);
	case HTLB_PROBE_HOLD:
		return probe_hold(probe, &record.frame);
	case HTLB_PROBE_LET_GO:
		return probe_let_go(probe, &record.frame);
	case HTLB_PROBE_FILL:
		return probe_fill(probe, &record.fill);
	case HTLB_PROBE_NEXT:
		error = probe_next(probe, &record.page);
		if (!error && copy_to_user(user, &record.page, sizeof(record.page)))
			error = -EFAULT;
		return error;
	case HTLB_PROBE_WRITE:
		return probe_write(probe, &record.write);
	case HTLB_PROBE_ANSWER:
		return probe_answer(probe, &record.answer);
	case HTLB_PROBE_ABANDON:
		return probe_abandon(probe);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations probe_operations = {
	.owner = THIS_MODULE,
	.open = probe_open,
	.release = probe_release,
	.unlocked_ioctl = probe_ioctl,
};

static struct miscdevice probe_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "htlb_probe",
	.mode = 0600,
	.fops = &probe_operations,
};

module_misc_device(probe_device);

MODULE_DESCRIPTION("Does for tests what only a driver can do with htlb's buffers");
MODULE_LICENSE("GPL");
