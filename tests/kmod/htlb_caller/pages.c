// SPDX-License-Identifier: GPL-2.0-only
/* Pages that the driver fills, and keeps where they are. */
#include <linux/kthread.h>
#include <linux/smp.h>

#include "caller.h"

void filled_by_the_driver(void)
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

void a_fill_that_fails(void)
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

void threads_fill_each_page_once(void)
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

void kept_in_place(void)
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
void unbalanced(void)
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
