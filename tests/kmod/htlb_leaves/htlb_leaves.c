// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts the entries of the caller's page tables that map something, level by level, for tests and benchmarks.
 *
 * smaps and pagemap do not see mappings without a struct page behind them (VM_PFNMAP), and those are what the kernel's
 * own exporters make. The tables themselves say the same of every mapping.
 */
#include <linux/fs.h>
#include <linux/ioctl.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

/* tests/src/leaves.rs has the same record. */
struct htlb_leaves {
	__u64 address;
	__u64 len;
	__u64 pud;	/* out: entries of 1 GiB */
	__u64 pmd;	/* out: entries of 2 MiB */
	__u64 pte;	/* out: entries of 4 KiB */
};

#define HTLB_LEAVES_COUNT _IOWR('k', 1, struct htlb_leaves)

/* Adds the leaf that maps @address, if any; returns where the next one may be. "Present" is a set of bits. */
static unsigned long step(struct mm_struct *mm, unsigned long address, struct htlb_leaves *found)
{
	pgd_t pgd = READ_ONCE(*pgd_offset(mm, address));
	p4d_t *p4dp, p4d;
	pud_t *pudp, pud;
	pmd_t *pmdp, pmd;

	if (pgd_none(pgd) || pgd_bad(pgd))
		return (address & PGDIR_MASK) + PGDIR_SIZE;
	p4dp = p4d_offset(&pgd, address);
	p4d = READ_ONCE(*p4dp);
	if (p4d_none(p4d) || p4d_bad(p4d))
		return (address & P4D_MASK) + P4D_SIZE;
	pudp = pud_offset(&p4d, address);
	pud = READ_ONCE(*pudp);
	if (!pud_present(pud) || pud_leaf(pud)) {
		found->pud += !!pud_present(pud);
		return (address & PUD_MASK) + PUD_SIZE;
	}
	pmdp = pmd_offset(&pud, address);
	pmd = READ_ONCE(*pmdp);
	if (!pmd_present(pmd) || pmd_leaf(pmd)) {
		found->pmd += !!pmd_present(pmd);
		return (address & PMD_MASK) + PMD_SIZE;
	}
	found->pte += !!pte_present(ptep_get(pte_offset_kernel(&pmd, address)));
	return (address & PAGE_MASK) + PAGE_SIZE;
}

static int count(struct htlb_leaves *found)
{
	struct mm_struct *mm = current->mm;
	unsigned long address = found->address;
	unsigned long end;

	if (check_add_overflow(found->address, found->len, &end) || end > TASK_SIZE)
		return -EINVAL;
	found->pud = 0;
	found->pmd = 0;
	found->pte = 0;
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	while (address < end) {
		if (fatal_signal_pending(current)) {
			mmap_read_unlock(mm);
			return -EINTR;
		}
		/* The lock keeps munmap away; tables that others free meanwhile are freed after a grace period. */
		rcu_read_lock();
		address = step(mm, address, found);
		rcu_read_unlock();
		cond_resched();
	}
	mmap_read_unlock(mm);
	return 0;
}

static long leaves_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct htlb_leaves found;
	int error;

	if (cmd != HTLB_LEAVES_COUNT)
		return -ENOTTY;
	if (copy_from_user(&found, (void __user *)arg, sizeof(found)))
		return -EFAULT;
	error = count(&found);
	if (error)
		return error;
	return copy_to_user((void __user *)arg, &found, sizeof(found)) ? -EFAULT : 0;
}

static const struct file_operations leaves_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = leaves_ioctl,
};

static struct miscdevice leaves_node = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "htlb_leaves",
	.fops = &leaves_operations,
};

module_misc_device(leaves_node);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Counts the page-table entries behind a range of addresses, for tests");
