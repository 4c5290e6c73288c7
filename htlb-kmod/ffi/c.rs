// SPDX-License-Identifier: GPL-2.0-only
//! The C companion's functions, as `htlb_c.h` declares them.
#![allow(improper_ctypes)]

use kernel::bindings;
use kernel::prelude::*;

extern "C" {
    pub(super) fn htlb_c_gfp(bits: u32) -> bindings::gfp_t;

    pub(super) fn htlb_c_page_is_ours(pfn: usize) -> bool;
    pub(super) fn htlb_c_page_alloc(gfp: bindings::gfp_t, order: u32, nid: c_int) -> usize;
    pub(super) fn htlb_c_page_free(pfn: usize);
    pub(super) fn htlb_c_range_alloc(
        gfp: bindings::gfp_t,
        order: u32,
        nid: c_int,
        nodes: *mut bindings::nodemask_t,
    ) -> usize;
    pub(super) fn htlb_c_range_free(pfn: usize, order: u32);
    pub(super) fn htlb_c_page_node(pfn: usize) -> c_int;
    pub(super) fn htlb_c_page_place(pfn: usize, index: usize);
    pub(super) fn htlb_c_page_is_exclusive(pfn: usize) -> bool;
    pub(super) fn htlb_c_page_is_poisoned(pfn: usize, pages: usize) -> bool;
    pub(super) fn htlb_c_page_drain(pfn: usize);
    pub(super) fn htlb_c_page_clear(pfn: usize, from: u64, to: u64) -> bool;

    pub(super) fn htlb_c_wait(
        key: *mut c_void,
        killable: bool,
        over: unsafe extern "C" fn(*mut c_void) -> bool,
        context: *mut c_void,
    ) -> c_long;
    pub(super) fn htlb_c_wake(key: *mut c_void);
    pub(super) fn htlb_c_fatal_signal() -> bool;

    pub(super) fn htlb_c_file_create(
        fops: *const bindings::file_operations,
        private: *mut c_void,
        size: u64,
    ) -> *mut bindings::file;
    pub(super) fn htlb_c_file_resize(file: *mut bindings::file, size: u64);
    pub(super) fn htlb_c_file_get(file: *mut bindings::file) -> *mut bindings::file;
    pub(super) fn htlb_c_revoke(
        mapping: *mut bindings::address_space,
        start: u64,
        len: u64,
        even_cows: bool,
    );
    pub(super) fn htlb_c_revoke_begin(mapping: *mut bindings::address_space);
    pub(super) fn htlb_c_revoke_end(mapping: *mut bindings::address_space);

    pub(super) fn htlb_c_hold_begin(mapping: *mut bindings::address_space);
    pub(super) fn htlb_c_hold_end(mapping: *mut bindings::address_space);
    pub(super) fn htlb_c_page_get_locked(pfn: usize, subpage: usize) -> *mut bindings::page;
    pub(super) fn htlb_c_page_put_locked(pfn: usize);
    pub(super) fn htlb_c_release_fault_lock(vmf: *mut bindings::vm_fault);
    pub(super) fn htlb_c_vma_flags_set(
        vma: *mut bindings::vm_area_struct,
        flags: bindings::vm_flags_t,
    ) -> bool;
    pub(super) fn htlb_c_vma_is_window(vma: *mut bindings::vm_area_struct);
    pub(super) fn htlb_c_remaps_window(file: *mut bindings::file, address: usize, flags: usize) -> bool;
    pub(super) fn htlb_c_vma_is_cow(vma: *mut bindings::vm_area_struct) -> bool;
    pub(super) fn htlb_c_unmapped_area(
        file: *mut bindings::file,
        len: usize,
        pgoff: usize,
        flags: usize,
        align: usize,
    ) -> usize;
    pub(super) fn htlb_c_unmapped_area_at(
        file: *mut bindings::file,
        addr: usize,
        len: usize,
        pgoff: usize,
        flags: usize,
    ) -> usize;

    pub(super) fn htlb_c_memory_nodes() -> u64;
    pub(super) fn htlb_c_local_node() -> c_int;
    pub(super) fn htlb_c_total_pages() -> u64;
    pub(super) fn htlb_c_available_pages() -> u64;
    pub(super) fn htlb_c_capable_admin() -> bool;
}
