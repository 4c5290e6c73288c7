// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Records at random: whatever is said, the books stay right.

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{Create, CreateFlags, Record, Resize};
use htlb_core::HugeSize;

use super::{in_order, Bench, Call, CAPACITY, GIB1, MIB2, SIZE};
use crate::guest::raw::{Errno, Place};
use crate::guest::{is_debug_kernel, rest};

/// Records for each call.
const ROUNDS: u64 = 20_000;
/// The same on the debug kernel, which looks at each of them for milliseconds.
const DEBUG_ROUNDS: u64 = 2_000;
/// The same in every run.
const SEED: u64 = 0x6874_6c62;
/// No call is to fetch more than this from the system.
const MOST: u64 = 16 * MIB2;

/// SplitMix64: a state, and all of its bits mixed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number that means something, or any.
    fn number(&mut self) -> u64 {
        const KNOWN: [u64; 16] = [
            0,
            1,
            2,
            3,
            28,
            32,
            4096,
            MIB2,
            2 * MIB2,
            3 * MIB2,
            SIZE,
            CAPACITY,
            GIB1,
            1 << 40,
            1 << 63,
            u64::MAX,
        ];
        match self.below(8) {
            0 => self.next(),
            1 => self.next() >> self.below(64),
            2 => self.below(CAPACITY / MIB2) * MIB2,
            _ => KNOWN[usize::try_from(self.below(16)).unwrap_or(0)],
        }
    }
}

/// A record of this call with some of its fields thrown anew.
fn throw(dice: &mut Dice, call: &Call) -> Vec<u8> {
    let mut bytes = call.bytes.clone();
    let fields = bytes.len() / 8;
    for _ in 0..=dice.below(3) {
        let at = usize::try_from(dice.below(fields as u64)).unwrap_or(0) * 8;
        let number = dice.number();
        match dice.below(3) {
            // A half, since many fields are: the flags first of all.
            0 => bytes[at + 4..at + 8].copy_from_slice(&number.to_ne_bytes()[..4]),
            1 if at > 0 => bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes()[..4]),
            _ if at > 0 => bytes[at..at + 8].copy_from_slice(&number.to_ne_bytes()),
            _ => bytes[4..8].copy_from_slice(&(number & 0xff).to_ne_bytes()[..4]),
        }
    }
    // Now and then the size is wrong, too.
    if dice.below(64) == 0 {
        bytes[..4].copy_from_slice(&dice.number().to_ne_bytes()[..4]);
    }
    bytes
}

/// Whether the answer must be this one, since the core alone says so.
fn verdict(call: &Call, bytes: &[u8]) -> Option<Errno> {
    if call.number != Create::IOCTL {
        return None;
    }
    let record = match Create::decode(bytes) {
        Ok(record) => record,
        Err(_) if bytes[..4] != call.size.to_ne_bytes() => return None,
        Err(reason) => return Some(reason.errno()),
    };
    record.to_request().err().map(|reason| reason.errno())
}

/// What would take all memory is not asked for: that there is none left then is no news.
fn affordable(call: &Call, bytes: &[u8]) -> bool {
    match call.number {
        Create::IOCTL => Create::decode(bytes).map_or(true, |record| {
            let lazy = record.flags & CreateFlags::NORESERVE.bits() != 0
                && record.flags & CreateFlags::POPULATE.bits() == 0;
            let slots = record.capacity.max(record.bytes) >> 12;
            (lazy || record.bytes <= MOST || record.bytes >= 1 << 62) && slots <= 1 << 20
        }),
        Resize::IOCTL => Resize::decode(bytes).map_or(true, |record| record.target <= MOST),
        _ => true,
    }
}

pub(super) fn records_at_random() -> Result<()> {
    let mut dice = Dice(SEED);
    let rounds = if is_debug_kernel() {
        DEBUG_ROUNDS
    } else {
        ROUNDS
    };
    let calls = Bench::new()?.calls().len();
    for number in 0..calls {
        // Fresh, since a call may have been understood.
        let bench = Bench::new()?;
        let call = bench
            .calls()
            .into_iter()
            .nth(number)
            .context("as many as before")?;
        let overcommit = bench.device.stats(HugeSize::MIB2, None)?.overcommit;
        let mut answers: BTreeMap<Errno, u64> = BTreeMap::new();
        for round in 0..rounds {
            let bytes = throw(&mut dice, &call);
            if !affordable(&call, &bytes) {
                continue;
            }
            let done = bench.make(&call, Place::Good, &bytes)?;
            let errno = done.err().unwrap_or(0);
            if let Some(wanted) = verdict(&call, &bytes) {
                ensure!(
                    errno == wanted,
                    "round {round}: {} {bytes:x?}: errno {errno}, not {wanted}",
                    call.name
                );
            }
            *answers.entry(errno).or_default() += 1;
            if round % 1000 == 0 {
                in_order(call.name)?;
            }
        }
        println!("{}: {answers:?}", call.name);
        ensure!(
            answers.len() > 2,
            "{} answered always the same: {answers:?}",
            call.name
        );
        in_order(call.name)?;
        let size = HugeSize::MIB2;
        bench
            .device
            .allow_surplus(size, htlb_core::ByteLen::new(overcommit))?;
        drop(bench);
        let device = htlb_user::device::Device::open()?;
        device.resize(size, None, htlb_core::ByteLen::new(8 * MIB2))?;
        device.resize(HugeSize::GIB1, None, htlb_core::ByteLen::new(0))?;
        drop(device);
        rest::wait()?;
    }
    Ok(())
}
