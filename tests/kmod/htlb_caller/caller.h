/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of this module share: the case under way, and what its expectations are written with. */
#ifndef CALLER_H
#define CALLER_H

#include <linux/htlb.h>
#include <linux/mm.h>
#include <linux/platform_device.h>
#include <linux/sizes.h>

#define HUGE (2 * (u64)SZ_1M)

/* Where the case under way failed. Cases run one at a time, some of them on another thread. */
extern u32 failed_at;
extern const char *failed_in;
extern s64 found;
/* What it was given, and what it answers. */
extern u64 argument;
extern s64 answer;

/* The device that buffers are mapped for. */
extern struct platform_device *device;

/* Notes the first expectation that does not hold, and leaves the case by its label `out`. */
#define EXPECT(is, wanted)							\
	do {									\
		s64 is_ = (s64)(is);						\
										\
		if (is_ != (s64)(wanted)) {					\
			if (!failed_at) {					\
				failed_at = __LINE__;				\
				failed_in = __FILE__;				\
				found = is_;					\
			}							\
			goto out;						\
		}								\
	} while (0)

#define EXPECT_TRUE(what) EXPECT(!!(what), 1)

struct filling {
	atomic_t pages;
	u64 written;
	int error;
	u64 error_at;
};

/* A buffer of so many pages of 2 MiB. */
struct htlb_buffer *strict(u64 pages);
/* Fills a page as its &struct filling says, with a byte that tells which it is. */
ssize_t fill(void *context, struct page *page, u64 offset, u64 len);
/* Whether all bytes of a range are there, and alike. */
bool all_bytes(struct htlb_buffer *buffer, u64 offset, u64 len, u8 byte);
void set_mask(u64 mask);

void bad_requests(void);
void bad_arguments(void);
void filled_by_the_driver(void);
void a_fill_that_fails(void);
void threads_fill_each_page_once(void);
void kept_in_place(void);
void unbalanced(void);
void a_table_has_an_entry_for_each_run(void);
void one_run_is_one_entry(void);
void entries_are_cut_where_the_device_says(void);
void a_device_limits_the_pages(void);
void nodes_are_kept_to(void);
void a_mask_of_its_own(void);
void from_a_kernel_thread(void);
void from_probe(void);
void a_giant_page(void);

#endif
