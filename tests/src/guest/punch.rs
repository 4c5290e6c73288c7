// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Punch and truncate take a page from everybody who has it mapped, whatever they do with it at that moment; who holds it
//! without a mapping keeps it, and until then nobody else gets it.

mod cut;
mod held;
mod race;
mod refused;
mod waiting;

use anyhow::{ensure, Result};
use htlb_core::uapi::Stats;
use htlb_core::HugeSize;
use htlb_user::device::Device;

use super::area::HUGE;
use super::{Group, Module};

pub(super) const GROUP: Group = Group {
    name: "punch",
    modules: &[
        Module::new("htlb", "pages_2m=16 overcommit_2m=0"),
        Module::new("htlb_probe", ""),
        Module::new("brd", "rd_nr=1 rd_size=16384"),
    ],
    cases: || {
        [
            cut::cases(),
            refused::cases(),
            held::cases(),
            race::cases(),
            waiting::cases(),
            held::last_cases(),
        ]
        .into_iter()
        .flatten()
        .collect()
    },
};

/// The pool of huge pages.
fn pool() -> Result<Stats> {
    Ok(Device::open()?.stats(HugeSize::MIB2, None)?)
}

/// Fails unless so many huge pages are in limbo.
fn expect_in_limbo(pages: usize) -> Result<()> {
    let found = pool()?.limbo;
    ensure!(
        found == (pages * HUGE) as u64,
        "{found} bytes in limbo instead of {pages} pages"
    );
    Ok(())
}
