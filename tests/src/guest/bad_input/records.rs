// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Records of a wrong size, with wrong flags, at wrong places, and by wrong numbers.

use anyhow::{ensure, Result};
use htlb_core::uapi::Seal;
use htlb_core::Error as Reason;

use super::{in_order, Answer, Bench, Call, On};
use crate::guest::raw::{self, Place};

/// The longest record that the module looks at.
const LONGEST: usize = 4096;

fn with_size(bytes: &[u8], size: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[..4].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// The same record from a caller who knows so many bytes more.
fn newer(call: &Call, len: usize) -> Vec<u8> {
    let mut bytes = with_size(&call.bytes, u32::try_from(len).unwrap_or(u32::MAX));
    bytes.resize(len, 0);
    bytes
}

pub(super) fn a_size_that_is_none_is_refused() -> Result<()> {
    let bench = Bench::new()?;
    for call in bench.calls() {
        let first = call.first_size;
        for size in [
            0,
            1,
            3,
            4,
            7,
            first - 8,
            first - 1,
            4097,
            1 << 16,
            1 << 31,
            u32::MAX,
        ] {
            if size < first || size > 4096 {
                let bytes = with_size(&call.bytes, size);
                let what = format!("a size of {size}");
                bench.refused(
                    &what,
                    &call,
                    &bytes,
                    Place::Good,
                    Reason::RecordSize.errno(),
                )?;
            }
        }
        // More than is there: the arena ends behind the record.
        let bytes = with_size(&call.bytes, call.size + 8);
        bench.refused(
            "a size beyond what is mapped",
            &call,
            &bytes,
            Place::Good,
            libc::EFAULT,
        )?;
    }
    in_order("wrong sizes")
}

pub(super) fn a_newer_record_is_understood_where_its_tail_is_zero() -> Result<()> {
    let bench = Bench::new()?;
    for call in bench.calls() {
        for len in [
            call.size as usize,
            call.size as usize + 1,
            call.size as usize + 8,
            LONGEST,
        ] {
            let bytes = newer(&call, len);
            let what = format!("{} of {len} bytes", call.name);
            bench.unchanged(&what, || {
                let done = bench.make(&call, Place::Good, &bytes)?;
                ensure!(done == Ok(()), "{done:?}");
                Ok(())
            })?;
            for at in [call.size as usize, len.saturating_sub(1)] {
                if at >= call.size as usize && at < len {
                    let mut bytes = bytes.clone();
                    bytes[at] = 1;
                    let what = format!("byte {at} of {len} set");
                    bench.refused(
                        &what,
                        &call,
                        &bytes,
                        Place::Good,
                        Reason::RecordSize.errno(),
                    )?;
                }
            }
        }
    }
    in_order("newer records")
}

/// The flags that each call knows.
fn known_flags(call: &Call) -> u32 {
    match call.name {
        "CREATE" => 0x7f,
        "SEAL" | "LIMIT" => 0b11,
        "RESIZE" => 1,
        "IMPORT" => libc::O_CLOEXEC.unsigned_abs(),
        "EXPORT" => (libc::O_CLOEXEC | libc::O_ACCMODE).unsigned_abs(),
        _ => 0,
    }
}

pub(super) fn unknown_flags_and_reserved_fields_are_refused() -> Result<()> {
    let bench = Bench::new()?;
    let refusal = Reason::RecordFlags.errno();
    for call in bench.calls() {
        for bit in (0..32)
            .map(|bit| 1_u32 << bit)
            .filter(|bit| bit & known_flags(&call) == 0)
        {
            let mut bytes = call.bytes.clone();
            let flags = u32::from_ne_bytes(bytes[4..8].try_into()?) | bit;
            bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
            bench.refused(
                &format!("flag {bit:#x}"),
                &call,
                &bytes,
                Place::Good,
                refusal,
            )?;
        }
        for field in call.reserved {
            for byte in 0..4 {
                let mut bytes = call.bytes.clone();
                bytes[field + byte] = 0x80;
                let what = format!("byte {} set", field + byte);
                bench.refused(&what, &call, &bytes, Place::Good, refusal)?;
            }
        }
    }
    in_order("wrong flags")
}

pub(super) fn pointers_to_nothing_are_faults() -> Result<()> {
    let bench = Bench::new()?;
    for call in bench.calls() {
        for place in [
            Place::Null,
            Place::Kernel,
            Place::NonCanonical,
            Place::Top,
            Place::Unmapped,
            Place::HalfMapped,
        ] {
            bench.refused(
                &format!("{place:?}"),
                &call,
                &call.bytes,
                place,
                libc::EFAULT,
            )?;
        }
    }
    in_order("wrong pointers")
}

/// Also where the call would have changed much: the records here are the ones that would.
pub(super) fn an_answer_that_cannot_be_given_changes_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let at = |bytes: &mut Vec<u8>, at: usize, value: u64| {
        bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes())
    };
    for call in bench.calls() {
        let mut bytes = call.bytes.clone();
        match call.name {
            "RESERVE" | "POPULATE" | "PUNCH" => {
                at(&mut bytes, 8, 0);
                at(&mut bytes, 16, super::SIZE);
            }
            "TRUNCATE" => at(&mut bytes, 8, super::MIB2),
            "RESIZE" => at(&mut bytes, 16, 9 * super::MIB2),
            _ => {}
        }
        for place in [Place::ReadOnly, Place::HalfReadOnly] {
            match call.answer {
                // Nothing is written to the record.
                Answer::Descriptor => bench.unchanged(call.name, || {
                    let done = bench.make(&call, place, &bytes)?;
                    ensure!(done == Ok(()), "{place:?}: {done:?}");
                    Ok(())
                })?,
                Answer::Record | Answer::RecordWithDescriptor(_) => {
                    bench.refused(&format!("{place:?}"), &call, &bytes, place, libc::EFAULT)?;
                }
            }
        }
    }
    in_order("answers that cannot be given")
}

pub(super) fn numbers_of_nobody_are_no_calls() -> Result<()> {
    let bench = Bench::new()?;
    let calls = bench.calls();
    let known: Vec<u32> = calls.iter().map(|call| call.number).collect();
    for (nth, call) in calls.iter().enumerate() {
        let number = call.number;
        let direction = |bits: u32| number & !(3 << 30) | bits << 30;
        let size = |size: u32| number & !(0x3fff << 16) | size << 16;
        let mut wrong = vec![0, u32::MAX, direction(0), direction(1), direction(2)];
        wrong.extend([
            size(0),
            size(call.size + 8),
            size(0x3fff),
            size(call.size - 1),
        ]);
        wrong.extend([number ^ 1 << 8, number & !0xff00, number & !0xff]);
        if nth == 0 {
            wrong.extend((0..=255).map(|letter| number & !0xff | letter));
        }
        wrong.retain(|number| !known.contains(number));
        let other = match call.on {
            On::Device => On::Buffer,
            On::Buffer => On::Device,
        };
        let everywhere = wrong
            .iter()
            .flat_map(|number| [(*number, On::Device), (*number, On::Buffer)]);
        bench.unchanged(call.name, || {
            for (number, on) in everywhere.chain([(number, other)]) {
                let wrong = Call {
                    on,
                    number,
                    ..call.clone()
                };
                let done = bench.make(&wrong, Place::Good, &wrong.bytes)?;
                ensure!(
                    done == Err(libc::ENOTTY),
                    "as {number:#x} on the {on:?}: {done:?}"
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Where a call answers into its record, as ranges of bytes: where each begins and ends.
fn answers(name: &str) -> &'static [(usize, usize)] {
    match name {
        "STATS" => &[(20, 88)],
        "RESIZE" => &[(32, 40)],
        "LIMIT" => &[(16, 32), (40, 48)],
        "POPULATE" | "RESERVE" => &[(24, 32)],
        "PUNCH" => &[(24, 40)],
        "TRUNCATE" => &[(16, 32)],
        "INFO" => &[(8, 112)],
        "LOOKUP" => &[(16, 36)],
        "EXPORT" => &[(24, 28)],
        _ => &[],
    }
}

/// What the kernel leaves of a record is what the caller wrote there, and the rest is the answer: no byte is anything else, such as
/// what lay on the kernel's stack.
pub(super) fn every_byte_of_an_answer_is_defined() -> Result<()> {
    const TAIL: usize = 64;
    let bench = Bench::new()?;
    for call in bench.calls() {
        let ask = |pattern: u8, wrong: bool| -> Result<(bool, Vec<u8>, Vec<u8>)> {
            let mut bytes = newer(&call, call.bytes.len() + TAIL);
            for (start, end) in answers(call.name) {
                bytes[*start..*end].fill(pattern);
            }
            if wrong {
                // Flags that nobody knows.
                bytes[4..8].copy_from_slice(&0x4000_0000_u32.to_ne_bytes());
            }
            let asked = bytes.clone();
            let done =
                bench
                    .arena
                    .ioctl(bench.fd(call.on), call.number, Place::Good, &mut bytes)?;
            if let (Ok(fd), Answer::Descriptor) = (done, call.answer) {
                raw::close(fd);
            }
            if let (Ok(_), Answer::RecordWithDescriptor(at)) = (done, call.answer) {
                let fd = i32::from_ne_bytes(bytes[at..at + 4].try_into()?);
                raw::close(i64::from(fd));
            }
            if (done.is_ok(), call.number) == (true, Seal::IOCTL) {
                bench.buffer.unseal()?;
            }
            Ok((done.is_ok(), asked, bytes))
        };
        let (done, asked, first) = ask(0, false)?;
        ensure!(done, "{} is refused", call.name);
        for pattern in [0x5a, 0xff] {
            let (done, _, again) = ask(pattern, false)?;
            ensure!(
                done && again == first,
                "{} answers {first:x?}, and {again:x?} where {pattern:#x} was",
                call.name
            );
        }
        for (at, (was, is)) in asked.iter().zip(&first).enumerate() {
            let mut places = answers(call.name).iter();
            let answered = places.any(|(start, end)| (*start..*end).contains(&at));
            ensure!(answered || was == is, "{}: byte {at} is {is:#x}", call.name);
        }
        for pattern in [0, 0x5a] {
            let (done, asked, left) = ask(pattern, true)?;
            ensure!(
                !done && asked == left,
                "{}, refused: {asked:x?} became {left:x?}",
                call.name
            );
        }
    }
    in_order("looking at answers")
}
