// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the threads of a process have in common: buffers that any of them uses and replaces at any time, addresses that all know, and
//! a record that all write to.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;
use htlb_core::Gfp;
use htlb_user::device::DeviceBuffer;

use super::super::area::Area;
use super::plan::Dice;
use super::tally::Tally;
use super::view::BASE;

/// A buffer, and what it is stamped with.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) buffer: DeviceBuffer,
    /// What it was made with; its size changes.
    pub(super) bytes: u64,
    pub(super) stamp: u64,
}

/// How much the actors of a round may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    /// Processes at a time.
    pub(super) processes: u64,
    /// Threads of each.
    pub(super) threads: u64,
    /// Buffers of each process.
    pub(super) buffers: usize,
    /// The most huge pages of a buffer.
    pub(super) pages: u64,
    /// The mask of every buffer; an empty one for any.
    pub(super) gfp: Gfp,
}

/// What the processes of a round have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) tally: Tally,
    /// Buffers that every process has inherited.
    pub(super) inherited: Vec<Arc<Made>>,
    /// The first word tells everybody to stop, the second numbers stamps, the third processes.
    words: Area,
    pub(super) measure: Measure,
}

const WORDS: usize = 3;

impl Common {
    pub(super) fn new(measure: Measure) -> Result<Self> {
        Ok(Self {
            tally: Tally::new()?,
            inherited: Vec::new(),
            words: Area::anonymous(BASE)?,
            measure,
        })
    }

    fn words(&self) -> &[AtomicU64; WORDS] {
        // SAFETY: the area has room, is aligned to a page, zero at first, and mapped until `self` is dropped.
        unsafe { &*self.words.pointer(0).cast() }
    }

    pub(super) fn stop(&self, now: bool) {
        self.words()[0].store(u64::from(now), Ordering::Relaxed);
    }

    pub(super) fn goes_on(&self) -> bool {
        self.words()[0].load(Ordering::Relaxed) == 0
    }

    /// A stamp that no other buffer has or had.
    pub(super) fn stamp(&self) -> u64 {
        1 + self.words()[1].fetch_add(1, Ordering::Relaxed) % 0xffff
    }

    /// A number that no other process has or had.
    pub(super) fn process(&self) -> u64 {
        self.words()[2].fetch_add(1, Ordering::Relaxed)
    }
}

/// What the threads of one process have in common.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) common: &'a Common,
    places: Vec<Mutex<Option<Arc<Made>>>>,
    /// Where each thread has its last mapping.
    addresses: Vec<AtomicUsize>,
    /// A record that everybody writes to while the kernel reads it.
    pub(super) scribbles: Area,
    failed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl<'a> World<'a> {
    pub(super) fn new(common: &'a Common) -> Result<Self> {
        let threads = common.measure.threads;
        Ok(Self {
            common,
            places: (0..common.measure.buffers)
                .map(|_| Mutex::default())
                .collect(),
            addresses: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
            scribbles: Area::anonymous(BASE)?,
            failed: AtomicBool::new(false),
        })
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn goes_on(&self) -> bool {
        self.common.goes_on() && !self.failed.load(Ordering::Relaxed)
    }

    /// One of the buffers, if there is one at the place that was chosen.
    pub(super) fn any(&self, dice: &mut Dice) -> Option<Arc<Made>> {
        let inherited = &self.common.inherited;
        let place = dice.index(inherited.len() + self.places.len());
        match inherited.get(place) {
            Some(made) => Some(made.clone()),
            None => lock(&self.places[place - inherited.len()]).clone(),
        }
    }

    /// One of this process's own: no page of it is ever with more devices than the kernel's check of DMA can count.
    pub(super) fn own(&self, dice: &mut Dice) -> Option<Arc<Made>> {
        lock(&self.places[dice.index(self.places.len())]).clone()
    }

    /// Puts a buffer, or nothing, at some place; what was there goes, with no lock held. Says whether something did.
    pub(super) fn replace(&self, dice: &mut Dice, by: Option<Made>) -> bool {
        let place = &self.places[dice.index(self.places.len())];
        let before = std::mem::replace(&mut *lock(place), by.map(Arc::new));
        before.is_some()
    }

    /// Tells others where a thread has something mapped.
    pub(super) fn publish(&self, thread: usize, address: usize) {
        self.addresses[thread].store(address, Ordering::Relaxed);
    }

    /// Where some thread had something mapped.
    pub(super) fn somewhere(&self, dice: &mut Dice) -> usize {
        self.addresses[dice.index(self.addresses.len())].load(Ordering::Relaxed)
    }
}
