// SPDX-License-Identifier: GPL-2.0-only
//! The ioctls: bytes from user space become a record of the core, the record a call, and what came of it bytes again.
//!
//! User memory is touched before and after a call, never inside: whoever waits for a claim may hold the lock that a
//! fault on user memory needs.

use htlb_core::driver::Content;
use htlb_core::uapi::{
    Create, CreateFlags, Import, Export, Info, Limit, LimitFlags, Lookup, Populate as PopulateRecord, Punch, Record, Reserve, Resize, ResizeFlags, Seal,
    SealFlags, Stats, Truncate, EXTENTS, NODE_ANY, NO_LIMIT, VERSION,
};
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Error as Reason, Exclusive, HugeSize, NodeId, NodeMask, PageCount,
};
use kernel::prelude::*;
use kernel::uaccess::{UserPtr, UserSlice};

use crate::accounts::By;
use crate::buffer::{DmaBuffer, Populate};
use crate::dmabuf;
use crate::error::errno;
use crate::ffi::device::Client;
use crate::ffi::file::BufferFile;
use crate::ffi::page;
use crate::ffi::system;

/// The longest record that is looked at; a tail beyond what this version knows must be zero anyway.
const LONGEST: usize = kernel::page::PAGE_SIZE;
/// No record is longer than this.
const ROOM: usize = 128;

/// An ioctl on the device.
pub(crate) fn on_device(client: &Client, number: u32, argument: usize) -> Result<isize> {
    match number {
        Create::IOCTL => create(client, argument),
        Stats::IOCTL => serve(argument, |record| stats(client, record)),
        Resize::IOCTL => serve(argument, |record| resize(client, record)),
        Limit::IOCTL => serve(argument, |record| limit(client, record)),
        Import::IOCTL => import(client, argument),
        _ => Err(ENOTTY),
    }
}

/// An ioctl on a buffer.
pub(crate) fn on_buffer(file: &BufferFile, number: u32, argument: usize) -> Result<isize> {
    let buffer = &*file.buffer();
    match number {
        Export::IOCTL => dmabuf::export_ioctl(file, argument),
        Reserve::IOCTL => serve(argument, |record| reserve(buffer, record)),
        PopulateRecord::IOCTL => serve(argument, |record| populate(buffer, record)),
        Punch::IOCTL => serve(argument, |record| punch(buffer, record)),
        Truncate::IOCTL => serve(argument, |record| truncate(buffer, record)),
        Seal::IOCTL => serve(argument, |record| seal(buffer, record)),
        Info::IOCTL => serve(argument, |record| info(buffer, record)),
        Lookup::IOCTL => serve(argument, |record| lookup(buffer, record)),
        _ => Err(ENOTTY),
    }
}

/// Reads a record, as long as its first field says.
pub(crate) fn read<R: Record>(argument: usize) -> Result<(R, usize)> {
    let pointer = UserPtr::from_addr(argument);
    let mut size = [0u8; 4];
    UserSlice::new(pointer, size.len()).reader().read_slice(&mut size)?;
    let size = u32::from_ne_bytes(size) as usize;
    if size < R::FIRST_SIZE as usize || size > LONGEST {
        return Err(errno(Reason::RecordSize));
    }
    let mut bytes = KVec::new();
    UserSlice::new(pointer, size).read_all(&mut bytes, GFP_KERNEL)?;
    // The size may have changed between the two looks: decoding compares it with the length.
    Ok((R::decode(&bytes).map_err(errno)?, size))
}

/// Writes a record back, as much of it as the caller has room for. Needs no memory.
pub(crate) fn write<R: Record>(argument: usize, size: usize, record: &R) -> Result {
    const { assert!(R::SIZE as usize <= ROOM) };
    let mut room = [0u8; ROOM];
    let answer = room.get_mut(..size.min(R::SIZE as usize)).ok_or(EFAULT)?;
    record.encode(answer);
    UserSlice::new(UserPtr::from_addr(argument), answer.len()).writer().write_slice(answer)
}

/// Reads a record, does what it asks, and writes it back, also where that failed halfway.
pub(crate) fn serve<R: Record>(argument: usize, call: impl FnOnce(&mut R) -> Result) -> Result<isize> {
    let (mut record, size) = read::<R>(argument)?;
    // What cannot be answered is refused before anything is done.
    write(argument, size, &record)?;
    let outcome = call(&mut record);
    let written = write(argument, size, &record);
    outcome.and(written).map(|()| 0)
}

fn no_flags(flags: u32) -> Result {
    if flags == 0 {
        Ok(())
    } else {
        Err(errno(Reason::RecordFlags))
    }
}

fn range(offset: u64, len: u64) -> Result<ByteRange> {
    ByteRange::at(ByteOffset::new(offset), ByteLen::new(len)).map_err(errno)
}

fn create(client: &Client, argument: usize) -> Result<isize> {
    let (record, _) = read::<Create>(argument)?;
    let request = record.to_request().map_err(errno)?;
    let flags = CreateFlags::from_bits_truncate(record.flags);
    if flags.contains(CreateFlags::MOVABLE) {
        // These pages stay where they are.
        return Err(EOPNOTSUPP);
    }
    let populate = if flags.contains(CreateFlags::POPULATE) { Populate::Now } else { Populate::Later };
    let capacity = ByteLen::new(record.capacity.max(record.bytes));
    let file = DmaBuffer::create(
        client.payer().clone(),
        &request,
        record.commitment(),
        capacity,
        populate,
        &mut Content::Zeroes,
    )?;
    let close_on_exec = if flags.contains(CreateFlags::CLOEXEC) { kernel::fs::file::flags::O_CLOEXEC } else { 0 };
    Ok(file.install(close_on_exec)? as isize)
}

fn import(client: &Client, argument: usize) -> Result<isize> {
    let (record, _) = read::<Import>(argument)?;
    if record.flags & !kernel::fs::file::flags::O_CLOEXEC != 0 || record.reserved != 0 {
        return Err(errno(Reason::RecordFlags));
    }
    let file = crate::import::import(client.payer(), &record)?;
    Ok(file.install(record.flags)? as isize)
}

fn bytes(size: HugeSize, pages: PageCount) -> u64 {
    size.bytes().saturating_mul(pages.raw())
}

fn reserve(buffer: &DmaBuffer, record: &mut Reserve) -> Result {
    no_flags(record.flags)?;
    let promised = buffer.reserve(range(record.offset, record.len)?).map_err(errno)?;
    record.promised = promised.raw();
    Ok(())
}

fn populate(buffer: &DmaBuffer, record: &mut PopulateRecord) -> Result {
    no_flags(record.flags)?;
    let range = range(record.offset, record.len)?;
    let before = buffer.weigh(range).map_err(errno)?.populated;
    let size = buffer.only_size(range);
    let outcome = buffer.populate(range, &mut Content::Zeroes);
    record.populated = match (&outcome, size) {
        (Ok(pages), Some(size)) => bytes(size, *pages),
        _ => buffer.weigh(range).map_err(errno)?.populated.raw().saturating_sub(before.raw()),
    };
    outcome.map(drop).map_err(errno)
}

fn punch(buffer: &DmaBuffer, record: &mut Punch) -> Result {
    no_flags(record.flags)?;
    let range = range(record.offset, record.len)?;
    let before = buffer.weigh(range).map_err(errno)?;
    let size = buffer.only_size(range);
    let punched = buffer.punch(range).map_err(errno)?;
    (record.removed, record.unpromised) = match size {
        Some(size) => (bytes(size, punched.pages), bytes(size, punched.promises)),
        None => (before.populated.raw(), before.promised.raw()),
    };
    Ok(())
}

fn truncate(buffer: &DmaBuffer, record: &mut Truncate) -> Result {
    no_flags(record.flags)?;
    let before = buffer.weigh_all();
    let whole = ByteRange::at(ByteOffset::ZERO, buffer.size());
    let size = whole.ok().and_then(|whole| buffer.only_size(whole));
    let cut = buffer.truncate(ByteLen::new(record.bytes)).map_err(errno)?;
    (record.removed, record.unpromised) = match size {
        Some(size) => (bytes(size, cut.pages), bytes(size, cut.promises)),
        None => {
            let after = buffer.weigh_all();
            let less = |before: ByteLen, after: ByteLen| before.raw().saturating_sub(after.raw());
            (less(before.populated, after.populated), less(before.promised, after.promised))
        }
    };
    Ok(())
}

fn seal(buffer: &DmaBuffer, record: &mut Seal) -> Result {
    match SealFlags::from_bits(record.flags) {
        Some(SealFlags::ADD) => buffer.add_seal().map_err(errno),
        Some(SealFlags::REMOVE) => buffer.remove_seal().map_err(errno),
        _ => Err(errno(Reason::RecordFlags)),
    }
}

fn info(buffer: &DmaBuffer, record: &mut Info) -> Result {
    no_flags(record.flags)?;
    let weight = buffer.weigh_all();
    let mut rungs = [0u8; 8];
    *record = Info {
        size: record.size,
        bytes: buffer.size().raw(),
        capacity: buffer.map().extents().capacity().raw(),
        populated: weight.populated.raw(),
        promised: weight.promised.raw(),
        pins: weight.pins,
        seals: buffer.seals(),
        ..Info::default()
    };
    let extents = record.page_bytes.iter_mut().zip(record.extent_bytes.iter_mut()).zip(rungs.iter_mut());
    for (((page_bytes, extent_bytes), rung), (part, extent)) in extents.zip(buffer.parts().take(EXTENTS)) {
        *page_bytes = extent.size().bytes();
        *extent_bytes = extent.size().bytes().saturating_mul(extent.pages().raw());
        *rung = if buffer.is_donated() { Info::RUNG_DONATED } else { Info::rung_number(part.attempt.rung) };
    }
    record.rungs = u64::from_le_bytes(rungs);
    Ok(())
}

fn lookup(buffer: &DmaBuffer, record: &mut Lookup) -> Result {
    no_flags(record.flags | record.reserved)?;
    if !system::is_admin() {
        return Err(EPERM);
    }
    let located = buffer.map().page_at(ByteOffset::new(record.offset)).map_err(errno)?;
    // The answer was true when the slot was read; the page may be somebody else's by now, so it is not looked at.
    let node = page::node_of(located.pfn).ok_or(EIO)?;
    let first = located.pfn.raw() << kernel::page::PAGE_SHIFT;
    record.physical = first.saturating_add(located.offset_in_page.raw());
    record.page_bytes = located.size.bytes();
    record.node = i32::from(node.raw());
    Ok(())
}

/// The nodes that a record means.
fn nodes(node: i32) -> Result<NodeMask> {
    if node == NODE_ANY {
        return Ok(system::memory_nodes());
    }
    let node = u32::try_from(node).ok().and_then(|node| NodeId::new(node).ok());
    let mask = node.ok_or_else(|| errno(Reason::NodeInvalid))?.mask();
    if mask.and(system::memory_nodes()).is_empty() {
        return Err(errno(Reason::NodeMaskOffline));
    }
    Ok(mask)
}

fn size(page_bytes: u64) -> Result<HugeSize> {
    HugeSize::from_bytes(page_bytes).map_err(errno)
}

/// So many pages of that size, which the bytes must fill. By a mask and a shift: objtool does not know how a division by zero ends.
fn pages(size: HugeSize, bytes: u64) -> Result<PageCount> {
    if bytes & (size.bytes() - 1) == 0 {
        Ok(PageCount::new(bytes >> size.shift()))
    } else {
        Err(errno(Reason::RangeUnaligned))
    }
}

fn stats(client: &Client, record: &mut Stats) -> Result {
    no_flags(record.flags)?;
    if record.spare != 0 {
        return Err(errno(Reason::RecordFlags));
    }
    let size = size(record.page_bytes)?;
    let machine = client.machine();
    let lock = machine.stock(size).ok_or_else(|| errno(Reason::PageSizeUnsupported))?;
    machine.look_into_limbo();
    let bytes = |pages: PageCount| pages.raw().saturating_mul(size.bytes());
    let everywhere = record.node == NODE_ANY;
    let mask = nodes(record.node)?;
    let (counts, overcommit, available) = lock.with(|stock| {
        let counts = match mask.first() {
            Some(node) if !everywhere => stock.ledger().node(node),
            _ => stock.counts(),
        };
        (counts, stock.ledger().overcommit(), stock.ledger().available())
    });
    *record = Stats {
        version: VERSION,
        total: bytes(counts.nr),
        free: bytes(counts.free),
        surplus: bytes(counts.surplus),
        reserved: if everywhere { bytes(counts.reserved) } else { 0 },
        overcommit: if everywhere { bytes(overcommit) } else { 0 },
        available: if everywhere { bytes(available) } else { 0 },
        donated: bytes(machine.donated().pages(size, mask)),
        limbo: if everywhere { bytes(PageCount::new(machine.limbo().len(Some(size)) as u64)) } else { 0 },
        ..*record
    };
    Ok(())
}

fn resize(client: &Client, record: &mut Resize) -> Result {
    let flags = ResizeFlags::from_bits(record.flags).ok_or_else(|| errno(Reason::RecordFlags))?;
    if record.reserved != 0 {
        return Err(errno(Reason::RecordFlags));
    }
    if !system::is_admin() {
        return Err(EPERM);
    }
    let size = size(record.page_bytes)?;
    let machine = client.machine();
    let lock = machine.stock(size).ok_or_else(|| errno(Reason::PageSizeUnsupported))?;
    let target = pages(size, record.target)?;
    let nodes = nodes(record.node)?;
    let reached = if flags.contains(ResizeFlags::OVERCOMMIT) {
        lock.with(|stock| stock.ledger_mut().set_overcommit(target));
        target
    } else {
        let pass = machine.enter(crate::ffi::wait::Signals::Fatal).map_err(errno)?;
        let reached = machine.resize(size, nodes, target);
        machine.leave(pass);
        reached.map_err(errno)?
    };
    record.reached = reached.raw().saturating_mul(size.bytes());
    Ok(())
}

fn limit(client: &Client, record: &mut Limit) -> Result {
    let flags = LimitFlags::from_bits(record.flags).ok_or_else(|| errno(Reason::RecordFlags))?;
    let of_user = flags.contains(LimitFlags::USER);
    if record.reserved != 0 || (!of_user && record.uid != 0) || (of_user && record.min != 0) {
        return Err(errno(Reason::RecordFlags));
    }
    let size = size(record.page_bytes)?;
    let machine = client.machine();
    // Whom the number means is the caller's user namespace's business, and the privilege the initial one's.
    if of_user && !system::is_admin() {
        return Err(EPERM);
    }
    if !flags.contains(LimitFlags::QUERY) {
        let max = if record.max == NO_LIMIT { None } else { Some(pages(size, record.max)?) };
        let min = pages(size, record.min)?;
        if of_user {
            machine.limit_user(record.uid, size, max)?;
        } else {
            let by = if system::is_admin() { By::Admin } else { By::Anybody };
            client.payer().limit(size, max, min, by)?;
        }
    }
    let usage = if of_user { machine.usage_of_user(record.uid, size)? } else { client.payer().usage(size)? };
    let bytes = |pages: PageCount| pages.raw().saturating_mul(size.bytes());
    record.used = bytes(usage.used);
    record.max = usage.max.map_or(NO_LIMIT, bytes);
    record.min = bytes(usage.min);
    Ok(())
}
