// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which pages the calling thread is filling: a producer that asks for its own page gets an error, not a hang.

use std::cell::RefCell;

use htlb_core::page_map::PageMap;
use htlb_core::PageIndex;

use crate::arena::Slots;

thread_local! {
    static FILLING: RefCell<Vec<(usize, PageIndex)>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, the calling thread fills a page.
#[derive(Debug)]
pub(crate) struct Filling {
    /// It belongs to the thread that made it.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Filling {
    pub(crate) fn of(map: &PageMap<Slots>, index: PageIndex) -> Self {
        FILLING.with_borrow_mut(|pages| pages.push((place(map), index)));
        Self {
            _not_send: std::marker::PhantomData,
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        // INVARIANT: producers nest, so the last to begin is the first to end.
        FILLING.with_borrow_mut(|pages| pages.pop());
    }
}

/// The lowest page of `map` that the calling thread is filling.
pub(crate) fn lowest(map: &PageMap<Slots>) -> Option<PageIndex> {
    FILLING.with_borrow(|pages| {
        let of_map = pages.iter().filter(|(of, _)| *of == place(map));
        of_map.map(|(_, index)| *index).min()
    })
}

fn place(map: &PageMap<Slots>) -> usize {
    std::ptr::from_ref(map).addr()
}
