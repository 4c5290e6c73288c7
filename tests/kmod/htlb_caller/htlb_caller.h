/* SPDX-License-Identifier: GPL-2.0-only */
/* tests/src/guest/drivers.rs has the same numbers. */
#ifndef HTLB_CALLER_H
#define HTLB_CALLER_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define HTLB_CALLER_NAME 48

/**
 * struct htlb_caller_run - runs a case
 * @name: which, with a zero behind it; out: the source file where it failed
 * @argument: what some cases take: a descriptor, a number of bytes
 * @line: out: where it failed, or 0
 * @value: out: what some cases answer, or what was found where it failed
 */
struct htlb_caller_run {
	char name[HTLB_CALLER_NAME];
	__u64 argument;
	__u32 line;
	__u32 spare;
	__s64 value;
};

#define HTLB_CALLER_RUN _IOWR('k', 2, struct htlb_caller_run)

#endif
