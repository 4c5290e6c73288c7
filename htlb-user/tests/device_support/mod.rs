// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the tests against a real `/dev/htlb` share: they run where the module is loaded, in the guest above all.
#![allow(dead_code, unreachable_pub)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use htlb_core::{ByteLen, HugeSize, Request};
use htlb_tests::skip::{skip, NO_DEVICE};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer};

pub const MIB2: u64 = 2 << 20;
/// Pages in the pool while a test runs.
pub const PAGES: u64 = 16;

/// One test at a time: they count pages.
static TURN: Mutex<()> = Mutex::new(());

/// A pool of [`PAGES`] free pages without surplus, given back as it was found, and found free again.
pub struct Ground {
    pub device: Device,
    before: (u64, u64),
    _turn: MutexGuard<'static, ()>,
}

impl Ground {
    /// `None`, said aloud, where the module is not loaded or this is not root.
    pub fn new(test: &str) -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let device = match Device::open() {
            Ok(device) => device,
            Err(_) => {
                skip(test, NO_DEVICE);
                return None;
            }
        };
        let stats = device.stats(HugeSize::MIB2, None).unwrap();
        let ground = Self {
            before: (stats.total - stats.surplus, stats.overcommit),
            device,
            _turn: turn,
        };
        ground.surplus(0);
        assert_eq!(
            ground.resize(PAGES),
            PAGES,
            "the guest has too little memory"
        );
        assert_eq!(ground.free(), PAGES);
        Some(ground)
    }

    pub fn resize(&self, pages: u64) -> u64 {
        let target = ByteLen::new(pages * MIB2);
        let reached = self.device.resize(HugeSize::MIB2, None, target).unwrap();
        reached.raw() / MIB2
    }

    /// Makes the pool so large that there are runs in it, whatever was allocated before; says how many pages it has.
    pub fn with_runs(&self) -> u64 {
        let pages = self.resize(8 * PAGES);
        assert_eq!(pages, 8 * PAGES, "the guest has too little memory");
        pages
    }

    /// How many pages may come from the system.
    pub fn surplus(&self, pages: u64) {
        let most = ByteLen::new(pages * MIB2);
        self.device.allow_surplus(HugeSize::MIB2, most).unwrap();
    }

    /// Free pages.
    pub fn free(&self) -> u64 {
        self.device.stats(HugeSize::MIB2, None).unwrap().free / MIB2
    }

    /// Pages that could be promised.
    pub fn available(&self) -> u64 {
        self.device.stats(HugeSize::MIB2, None).unwrap().available / MIB2
    }

    /// A buffer of 2 MiB pages and no others.
    pub fn buffer(&self, pages: u64, populate: Populate) -> DeviceBuffer {
        let request = strict(pages);
        self.device
            .create(&request, request.size(), populate)
            .unwrap()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let stats = self.device.stats(HugeSize::MIB2, None).unwrap();
        assert_eq!(stats.reserved, 0);
        assert_eq!(stats.free, stats.total, "pages were left behind");
        self.resize(self.before.0 / MIB2);
        self.surplus(self.before.1 / MIB2);
    }
}

pub fn strict(pages: u64) -> Request {
    Request::builder(ByteLen::new(pages * MIB2))
        .page_size(HugeSize::MIB2)
        .strict()
        .build()
        .unwrap()
}

/// The size of the largest page-table entries of the area at `address`, and how many bytes they map: from `/proc/self/smaps`.
pub fn huge_mapped(address: usize) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{address:x}-");
    let area = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let pmd = area
        .skip(1)
        .take_while(|line| {
            line.split_whitespace()
                .next()
                .is_some_and(|word| word.ends_with(':'))
        })
        .filter(|line| line.starts_with("FilePmdMapped:") || line.starts_with("ShmemPmdMapped:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    pmd.sum::<u64>() << 10
}
