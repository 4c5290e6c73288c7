/* SPDX-License-Identifier: GPL-2.0-only */
/* What htlb_c.c and htlb_dma.c give to the Rust side; the files of ffi/ declare the same. */
#ifndef HTLB_C_H
#define HTLB_C_H

#include <linux/types.h>
#include <linux/nodemask_types.h>

struct address_space;
struct device;
struct file;
struct file_operations;
struct folio;
struct page;
struct scatterlist;
struct sg_table;
struct vm_area_struct;
struct vm_fault;

gfp_t htlb_c_gfp(u32 bits);

bool htlb_c_page_is_ours(unsigned long pfn);
unsigned long htlb_c_page_alloc(gfp_t gfp, unsigned int order, int nid);
void htlb_c_page_free(unsigned long pfn);
unsigned long htlb_c_range_alloc(gfp_t gfp, unsigned int order, int nid, nodemask_t *nodes);
void htlb_c_range_free(unsigned long pfn, unsigned int order);
int htlb_c_page_node(unsigned long pfn);
void htlb_c_page_place(unsigned long pfn, pgoff_t index);
bool htlb_c_page_is_exclusive(unsigned long pfn);
bool htlb_c_page_is_poisoned(unsigned long pfn, unsigned long pages);
void htlb_c_page_drain(unsigned long pfn);
bool htlb_c_page_clear(unsigned long pfn, u64 from, u64 to);

long htlb_c_wait(void *key, bool killable, bool (*over)(void *context), void *context);
void htlb_c_wake(void *key);
bool htlb_c_fatal_signal(void);

struct file *htlb_c_file_create(const struct file_operations *fops, void *private, u64 size);
void htlb_c_file_resize(struct file *file, u64 size);
struct file *htlb_c_file_get(struct file *file);
void htlb_c_revoke(struct address_space *mapping, u64 start, u64 len, bool even_cows);
void htlb_c_revoke_begin(struct address_space *mapping);
void htlb_c_revoke_end(struct address_space *mapping);

void htlb_c_hold_begin(struct address_space *mapping);
void htlb_c_hold_end(struct address_space *mapping);
struct page *htlb_c_page_get_locked(unsigned long pfn, unsigned long subpage);
void htlb_c_page_put_locked(unsigned long pfn);
void htlb_c_release_fault_lock(struct vm_fault *vmf);
bool htlb_c_vma_flags_set(struct vm_area_struct *vma, vm_flags_t flags);
void htlb_c_vma_is_window(struct vm_area_struct *vma);
bool htlb_c_remaps_window(struct file *file, unsigned long address, unsigned long flags);
bool htlb_c_vma_is_cow(struct vm_area_struct *vma);
unsigned long htlb_c_unmapped_area(struct file *file, unsigned long len, unsigned long pgoff,
				   unsigned long flags, unsigned long align);
unsigned long htlb_c_unmapped_area_at(struct file *file, unsigned long addr, unsigned long len,
				      unsigned long pgoff, unsigned long flags);

bool htlb_c_gfp_names(gfp_t gfp, u32 *names);
struct page *htlb_c_page(unsigned long pfn);
u32 htlb_c_device_bits(struct device *dev);
int htlb_c_device_node(struct device *dev);
bool htlb_c_device_reaches(struct device *dev, u64 physical, u64 len);
struct sg_table *htlb_c_sg_alloc(u32 entries);
void htlb_c_sg_free(struct sg_table *table);
struct scatterlist *htlb_c_sg_set(struct scatterlist *entry, u64 physical, u32 len);
int htlb_c_sg_map(struct device *dev, struct sg_table *table, u32 direction);
void htlb_c_sg_unmap(struct device *dev, struct sg_table *table, u32 direction);

u64 htlb_c_device_longest(struct device *dev);
u64 htlb_c_device_boundary(struct device *dev);
int htlb_c_sg_map_quietly(struct device *dev, struct sg_table *table);
void htlb_c_sg_unmap_quietly(struct device *dev, struct sg_table *table);
void htlb_c_sg_sync_for_cpu(struct device *dev, struct sg_table *table, u32 direction);
void htlb_c_sg_sync_for_device(struct device *dev, struct sg_table *table, u32 direction);
void *htlb_c_vmap(u64 *frames, u32 pages);
void htlb_c_vunmap(void *address);

/* One page more, or less, that somebody holds: each keeps the module, and is looked at again. */
void htlb_c_limbo_enter(void);
void htlb_c_limbo_leave(void);
/* Returns when nobody looks any more; nothing is in limbo. */
void htlb_c_limbo_stop(void);
/* The Rust side's: puts back what nobody holds any more, and says whether something is left. */
bool htlb_rs_limbo_retry(void);

void htlb_c_node_span(int nid, unsigned long *start, unsigned long *end);
bool htlb_c_range_alloc_at(gfp_t gfp, unsigned int order, int nid, unsigned long pfn);

int htlb_c_import_order(struct file *file);
bool htlb_c_import_is_sound(struct folio *folio, unsigned int order);
unsigned long htlb_c_import_pfn(struct folio *folio);

u64 htlb_c_memory_nodes(void);
int htlb_c_local_node(void);
u64 htlb_c_total_pages(void);
u64 htlb_c_available_pages(void);
bool htlb_c_capable_admin(void);

#endif
