// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Everything that can be said wrongly to the device or to a buffer, and what the answer must be: the number of the core's own
//! table, and nothing changed.

mod create;
mod files;
mod random;
mod records;
mod values;

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{
    Create, CreateFlags, Export, Import, Info, Limit, Lookup, Populate, Punch, Record, Reserve,
    Resize, Seal, SealFlags, Stats, Truncate, NODE_ANY,
};
use htlb_core::{Error as Reason, HugeSize, NodeId};
use htlb_user::device::{Account, Device, DeviceBuffer};

use create::{
    buffers_that_cannot_be, capacities_of_any_size, every_bit_of_the_gfp_mask, every_dma_mask,
};
use files::{
    calls_that_a_buffer_does_not_know, mappings_that_cannot_be, other_files_do_not_know_our_calls,
};
use random::records_at_random;
use records::{
    a_newer_record_is_understood_where_its_tail_is_zero, a_size_that_is_none_is_refused,
    an_answer_that_cannot_be_given_changes_nothing, every_byte_of_an_answer_is_defined,
    numbers_of_nobody_are_no_calls, pointers_to_nothing_are_faults,
    unknown_flags_and_reserved_fields_are_refused,
};
use values::{
    donations_that_are_none, pools_and_limits_that_cannot_be, ranges_that_are_none,
    sizes_and_seals_that_cannot_be,
};

use super::raw::{self, Arena, Errno, Place};
use super::{cases, rest, Group, Module};

pub(super) const GROUP: Group = Group {
    name: "bad_input",
    modules: &[Module::new("htlb", "pages_2m=8")],
    cases: || {
        cases![
            a_size_that_is_none_is_refused,
            a_newer_record_is_understood_where_its_tail_is_zero,
            unknown_flags_and_reserved_fields_are_refused,
            pointers_to_nothing_are_faults,
            an_answer_that_cannot_be_given_changes_nothing,
            every_byte_of_an_answer_is_defined,
            numbers_of_nobody_are_no_calls,
            buffers_that_cannot_be,
            every_dma_mask,
            every_bit_of_the_gfp_mask,
            ranges_that_are_none,
            sizes_and_seals_that_cannot_be,
            pools_and_limits_that_cannot_be,
            donations_that_are_none,
            capacities_of_any_size.within(120),
            mappings_that_cannot_be,
            calls_that_a_buffer_does_not_know,
            other_files_do_not_know_our_calls,
            records_at_random.within(240),
        ]
    },
};

const MIB2: u64 = 2 << 20;
const GIB1: u64 = 1 << 30;
/// The size of the buffer in the middle of it all.
const SIZE: u64 = 4 * MIB2;
/// The most it may grow to.
const CAPACITY: u64 = 8 * MIB2;

/// What an ioctl is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Device,
    Buffer,
}

/// What an ioctl answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The record, changed.
    Record,
    /// The record, with a descriptor in it at this byte.
    RecordWithDescriptor(usize),
    /// A descriptor.
    Descriptor,
}

/// An ioctl, with a record that it accepts.
#[derive(Clone, Debug)]
struct Call {
    name: &'static str,
    on: On,
    number: u32,
    first_size: u32,
    size: u32,
    answer: Answer,
    /// It may be made again and again, and leaves everything as it was.
    bytes: Vec<u8>,
    /// Where fields lie that must be zero.
    reserved: &'static [usize],
}

fn bytes_of<R: Record>(record: &R) -> Vec<u8> {
    let mut bytes = vec![0; R::SIZE as usize];
    record.encode(&mut bytes);
    bytes[..4].copy_from_slice(&R::SIZE.to_ne_bytes());
    bytes
}

fn call<R: Record>(name: &'static str, on: On, record: &R) -> Call {
    Call {
        name,
        on,
        number: R::IOCTL,
        first_size: R::FIRST_SIZE,
        size: R::SIZE,
        answer: Answer::Record,
        bytes: bytes_of(record),
        reserved: &[],
    }
}

/// A device and a buffer of four pages: one is there, one is promised, two are holes.
struct Bench {
    device: Device,
    buffer: DeviceBuffer,
    arena: Arena,
    memfd: File,
}

/// Every number that must not change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Books {
    pools: Vec<Stats>,
    buffer: Info,
    account: Vec<Limit>,
}

impl Bench {
    fn new() -> Result<Self> {
        let device = Device::open()?;
        let fd = device.create_record(&create())?;
        let buffer = DeviceBuffer::from(fd);
        buffer.populate(0, MIB2)?;
        buffer.reserve(MIB2, MIB2)?;
        let memfd = donation()?;
        Ok(Self {
            device,
            buffer,
            arena: Arena::new()?,
            memfd,
        })
    }

    fn fd(&self, on: On) -> RawFd {
        match on {
            On::Device => self.device.as_fd().as_raw_fd(),
            On::Buffer => self.buffer.as_fd().as_raw_fd(),
        }
    }

    /// Every ioctl there is.
    fn calls(&self) -> Vec<Call> {
        let none = NODE_ANY;
        let stats = Stats {
            page_bytes: MIB2,
            node: none,
            ..Stats::default()
        };
        let resize = Resize {
            page_bytes: MIB2,
            target: 8 * MIB2,
            node: none,
            ..Resize::default()
        };
        let limit = Limit {
            flags: 2,
            page_bytes: MIB2,
            ..Limit::default()
        };
        let import = Import {
            len: MIB2,
            memfd: self.memfd.as_raw_fd(),
            ..Import::default()
        };
        let start = |len| (0, len);
        let (offset, len) = start(MIB2);
        vec![
            Call {
                answer: Answer::Descriptor,
                reserved: &[72],
                ..call("CREATE", On::Device, &create())
            },
            Call {
                reserved: &[88],
                ..call("STATS", On::Device, &stats)
            },
            Call {
                reserved: &[28],
                ..call("RESIZE", On::Device, &resize)
            },
            Call {
                reserved: &[36],
                ..call("LIMIT", On::Device, &limit)
            },
            Call {
                answer: Answer::Descriptor,
                reserved: &[28],
                ..call("IMPORT", On::Device, &import)
            },
            call(
                "POPULATE",
                On::Buffer,
                &Populate {
                    offset,
                    len,
                    ..Populate::default()
                },
            ),
            call(
                "RESERVE",
                On::Buffer,
                &Reserve {
                    offset,
                    len: 2 * len,
                    ..Reserve::default()
                },
            ),
            call(
                "PUNCH",
                On::Buffer,
                &Punch {
                    offset: 2 * MIB2,
                    len,
                    ..Punch::default()
                },
            ),
            call(
                "TRUNCATE",
                On::Buffer,
                &Truncate {
                    bytes: SIZE,
                    ..Truncate::default()
                },
            ),
            call(
                "SEAL",
                On::Buffer,
                &Seal {
                    flags: SealFlags::ADD.bits(),
                    ..Seal::default()
                },
            ),
            call("INFO", On::Buffer, &Info::default()),
            Call {
                reserved: &[36],
                ..call("LOOKUP", On::Buffer, &Lookup::default())
            },
            Call {
                answer: Answer::RecordWithDescriptor(24),
                reserved: &[28],
                ..call(
                    "EXPORT",
                    On::Buffer,
                    &Export {
                        offset,
                        len,
                        ..Export::default()
                    },
                )
            },
        ]
    }

    /// Makes a call with these bytes; what it makes is thrown away, what it seals is unsealed.
    fn make(&self, call: &Call, place: Place, bytes: &[u8]) -> Result<Result<(), Errno>> {
        let mut bytes = bytes.to_vec();
        let done = self
            .arena
            .ioctl(self.fd(call.on), call.number, place, &mut bytes)?;
        if let (Ok(value), true) = (
            done,
            place == Place::Good || call.answer == Answer::Descriptor,
        ) {
            match call.answer {
                Answer::Descriptor => raw::close(value),
                Answer::RecordWithDescriptor(at) => {
                    let fd = bytes.get(at..at + 4).context("no room for a descriptor")?;
                    raw::close(i64::from(i32::from_ne_bytes(fd.try_into()?)));
                }
                Answer::Record if call.number == Seal::IOCTL => {
                    let added = bytes.get(4..8) == Some(&SealFlags::ADD.bits().to_ne_bytes());
                    if added {
                        self.buffer.unseal()?;
                    }
                }
                Answer::Record => {}
            }
        }
        Ok(done.map(drop))
    }

    fn books(&self) -> Result<Books> {
        let node = |node| NodeId::new(node).map(Some);
        let mut pools = Vec::new();
        let mut account = Vec::new();
        for size in [HugeSize::MIB2, HugeSize::GIB1] {
            for node in [None, node(0)?, node(1)?] {
                pools.push(self.device.stats(size, node)?);
            }
            account.push(self.device.usage(Account::ThisFile, size)?);
            account.push(self.device.usage(Account::User(0), size)?);
        }
        Ok(Books {
            pools,
            buffer: self.buffer.info()?,
            account,
        })
    }

    /// Runs `body`, after which the books are in order and as they were.
    fn unchanged(&self, what: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.books()?;
        body().with_context(|| what.to_owned())?;
        let after = self.books()?;
        ensure!(before == after, "{what} changed {before:?} to {after:?}");
        in_order(what)
    }

    /// One call, for this reason refused, with everything as it was.
    fn refused(
        &self,
        what: &str,
        call: &Call,
        bytes: &[u8],
        place: Place,
        wanted: Errno,
    ) -> Result<()> {
        let before = self.books()?;
        let done = self.make(call, place, bytes)?;
        let name = call.name;
        ensure!(
            done == Err(wanted),
            "{name}, {what}: {done:?}, not errno {wanted}"
        );
        let after = self.books()?;
        ensure!(
            before == after,
            "{name}, {what} changed {before:?} to {after:?}"
        );
        Ok(())
    }

    /// A record that is refused for this reason.
    fn wrong<R: Record + Debug>(&self, call: &Call, record: &R, reason: Reason) -> Result<()> {
        let what = format!("{record:?}");
        self.refused(&what, call, &bytes_of(record), Place::Good, reason.errno())
    }
}

fn in_order(what: &str) -> Result<()> {
    rest::check().map_err(|broken| anyhow::anyhow!("after {what}: {broken}"))
}

/// A small buffer of 2 MiB pages, or nothing.
fn create() -> Create {
    Create {
        flags: (CreateFlags::STRICT | CreateFlags::CLOEXEC | CreateFlags::NORESERVE).bits(),
        bytes: SIZE,
        capacity: CAPACITY,
        page_bytes: MIB2,
        ..Create::default()
    }
}

/// The kernel's own pool of such pages.
pub(super) const HUGETLB_POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// A memfd of one 2 MiB page of that pool.
pub(super) fn donation() -> Result<File> {
    use rustix::fs::{memfd_create, MemfdFlags};
    std::fs::write(HUGETLB_POOL, "1")?;
    let fd = memfd_create("donation", MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)?;
    let file = File::from(fd);
    file.set_len(MIB2)?;
    Ok(file)
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The kernel's own pool as it was, or the group's last look would miss the page.
        let _ = self.memfd.set_len(0);
        let _ = std::fs::write(HUGETLB_POOL, "0");
    }
}
