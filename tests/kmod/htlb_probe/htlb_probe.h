/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ioctls of /dev/htlb_probe: what only a driver can do with a buffer of htlb, done for a test. Records are
 * integers without padding; what is not marked "out" is given by the caller. tests/src/guest/probe.rs has the
 * same records for programs in Rust.
 */
#ifndef HTLB_PROBE_H
#define HTLB_PROBE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* A place in a buffer. */
struct htlb_probe_place {
	__s32 fd;		/* the buffer */
	__u32 reserved;		/* 0 */
	__u64 offset;
};

/* A page of the machine, by its frame number. */
struct htlb_probe_frame {
	__u64 pfn;
};

/* Population by a producer, which is the program that calls NEXT, WRITE and ANSWER meanwhile. */
struct htlb_probe_fill {
	__s32 fd;		/* the buffer */
	__u32 reserved;		/* 0 */
	__u64 offset;
	__u64 len;
};

/* The page that the producer has in hand. */
struct htlb_probe_page {
	__u64 offset;		/* out: where it begins in the buffer */
	__u64 len;		/* out */
};

struct htlb_probe_write {
	__u64 at;		/* in the page */
	__u64 data;		/* the address of the bytes */
	__u64 len;
};

/* How many bytes of the page were written, or a negative errno. */
struct htlb_probe_answer {
	__s64 written;
};

/* Pins a page, and takes one such pin away. */
#define HTLB_PROBE_PIN		_IOW('q', 1, struct htlb_probe_place)
#define HTLB_PROBE_UNPIN	_IOW('q', 2, struct htlb_probe_place)
/* Takes a reference on a page, as somebody does who knows nothing of buffers, and drops it. */
#define HTLB_PROBE_HOLD		_IOW('q', 3, struct htlb_probe_frame)
#define HTLB_PROBE_LET_GO	_IOW('q', 4, struct htlb_probe_frame)
/* Calls htlb_populate(); once for each open file. */
#define HTLB_PROBE_FILL		_IOW('q', 5, struct htlb_probe_fill)
/* Waits for a page to fill; ENODATA when FILL has ended. */
#define HTLB_PROBE_NEXT		_IOR('q', 6, struct htlb_probe_page)
#define HTLB_PROBE_WRITE	_IOW('q', 7, struct htlb_probe_write)
#define HTLB_PROBE_ANSWER	_IOW('q', 8, struct htlb_probe_answer)
/* Every page from now on fails: the producer is no more. */
#define HTLB_PROBE_ABANDON	_IO('q', 9)

#endif
