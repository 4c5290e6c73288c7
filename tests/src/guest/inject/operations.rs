// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The operations, with the number of allocations that each is known to have.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use anyhow::{bail, ensure, Result};
use htlb_core::uapi::{Create, CreateFlags, DEVICE};
use htlb_core::{ByteLen, Gfp, HugeSize, NodeId};
use htlb_user::device::{Account, Device, DeviceBuffer};

use super::faults::Faults;
use super::{watched, Trial};
use crate::guest::{raw, rest};

pub(super) const MIB2: u64 = 2 << 20;
pub(super) const NO_MEMORY: &[i32] = &[libc::ENOMEM];

/// An error of [`raw`], with the number only.
fn io_of(done: Result<(), raw::Errno>) -> io::Result<()> {
    done.map_err(io::Error::from_raw_os_error)
}

pub(super) fn closed<T>(value: T) -> Result<()> {
    drop(value);
    Ok(())
}

pub(super) fn strict(bytes: u64, flags: CreateFlags) -> Create {
    Create {
        flags: (CreateFlags::STRICT | CreateFlags::CLOEXEC | flags).bits(),
        bytes,
        page_bytes: MIB2,
        ..Create::default()
    }
}

pub(super) fn files_of_new_users() -> Result<()> {
    let (device, faults) = watched()?;
    let trial = Trial {
        name: "opening the device",
        device: &device,
        faults: &faults,
        errors: NO_MEMORY,
    };
    fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o666))?;
    let mut user = 5000;
    trial.run(
        6,
        || -> io::Result<File> {
            user += 1;
            raw::open_as(user).map_err(io::Error::other)?;
            let file = File::options().read(true).write(true).open(DEVICE);
            raw::open_as(0).map_err(io::Error::other)?;
            file
        },
        closed,
    )?;
    fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o600))?;
    rest::wait()
}

/// The tables of accounts grow in between, which they do only once.
pub(super) fn more_files_than_there_is_room_for() -> Result<()> {
    let (device, faults) = watched()?;
    let trial = Trial {
        name: "opening the device 24 times",
        device: &device,
        faults: &faults,
        errors: NO_MEMORY,
    };
    let open = || File::options().read(true).write(true).open(DEVICE);
    trial.run(
        90,
        || (0..24).map(|_| open()).collect::<io::Result<Vec<File>>>(),
        closed,
    )?;
    rest::wait()
}

pub(super) fn many_kinds_of_promises() -> Result<()> {
    let (device, faults) = watched()?;
    let trial = Trial {
        name: "promises of many kinds",
        device: &device,
        faults: &faults,
        errors: NO_MEMORY,
    };
    let kinds: Vec<Create> = [32, 34, 36, 38, 40, 42, 44, 46, 48, 64]
        .into_iter()
        .map(|dma_bits| Create {
            dma_bits,
            ..strict(MIB2, CreateFlags::empty())
        })
        .collect();
    let make = || {
        kinds
            .iter()
            .map(|kind| device.create_record(kind))
            .collect::<io::Result<Vec<OwnedFd>>>()
    };
    trial.run(130, make, closed)?;
    rest::wait()
}

fn create(faults: &Faults, device: &Device, name: &str, least: u32, record: &Create) -> Result<()> {
    let trial = Trial {
        name,
        device,
        faults,
        errors: NO_MEMORY,
    };
    trial.run(least, || device.create_record(record), closed)
}

pub(super) fn buffers_of_every_rung() -> Result<()> {
    let (device, faults) = watched()?;
    let size = HugeSize::MIB2;
    let surplus = device.stats(size, None)?.overcommit;
    let make = |name, least, record: &Create| create(&faults, &device, name, least, record);
    let populate = CreateFlags::POPULATE;
    make(
        "a buffer of holes",
        12,
        &strict(4 * MIB2, CreateFlags::NORESERVE),
    )?;
    make(
        "a buffer of promises",
        12,
        &strict(4 * MIB2, CreateFlags::empty()),
    )?;
    make("a buffer of pool pages", 12, &strict(4 * MIB2, populate))?;
    make(
        "a buffer of more than the pool",
        15,
        &strict(20 * MIB2, populate),
    )?;
    let contiguous = CreateFlags::CONTIGUOUS | CreateFlags::POPULATE;
    device.allow_surplus(size, ByteLen::new(0))?;
    let lenient = |bytes| Create {
        flags: populate.bits(),
        page_bytes: 0,
        ..strict(bytes, populate)
    };
    make(
        "a buffer with a rest of base pages",
        13,
        &lenient(2 * MIB2 + 4096 * 3),
    )?;
    make(
        "a buffer of base pages",
        28,
        &Create {
            page_bytes: 4096,
            ..strict(16 * 4096, populate)
        },
    )?;
    device.allow_surplus(size, ByteLen::new(surplus))?;
    let run = Create {
        page_bytes: MIB2,
        ..strict(2 * MIB2, contiguous)
    };
    match device.create_record(&run) {
        Ok(buffer) => {
            drop(buffer);
            make("a contiguous buffer", 12, &run)?;
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
            println!("no two pages side by side here")
        }
        Err(error) => bail!("a contiguous buffer: {error}"),
    }
    rest::wait()
}

pub(super) fn buffers_of_charged_pages() -> Result<()> {
    let (device, faults) = watched()?;
    let record = Create {
        gfp: Gfp::ACCOUNT.bits(),
        ..strict(3 * MIB2, CreateFlags::POPULATE)
    };
    create(&faults, &device, "a buffer of charged pages", 14, &record)?;
    rest::wait()
}

pub(super) fn tables_of_any_size() -> Result<()> {
    let (device, faults) = watched()?;
    // In one slab, in pages side by side, in pages anywhere.
    for (name, capacity, least) in [
        ("a table of some slots", 16 * MIB2, 12),
        ("a table of 64 KiB", 16 << 30, 12),
        ("a table of 4 MiB", 1 << 40, 12),
    ] {
        let record = Create {
            capacity,
            ..strict(MIB2, CreateFlags::NORESERVE)
        };
        create(&faults, &device, name, least, &record)?;
    }
    rest::wait()
}

pub(super) fn buffer(device: &Device, record: &Create) -> Result<DeviceBuffer> {
    Ok(DeviceBuffer::from(device.create_record(record)?))
}

pub(super) fn a_fault_without_memory() -> Result<()> {
    let (device, faults) = watched()?;
    let lazy = CreateFlags::NORESERVE;
    let signal: &[i32] = &[libc::EFAULT, libc::ENOMEM];
    let size = HugeSize::MIB2;
    let before = device.stats(size, None)?;
    for (name, pool, record, least) in [
        ("faults on pool pages", 16, strict(3 * MIB2, lazy), 0),
        ("faults on the system's pages", 0, strict(3 * MIB2, lazy), 3),
        (
            "faults on charged pages",
            16,
            Create {
                gfp: Gfp::ACCOUNT.bits(),
                ..strict(3 * MIB2, lazy)
            },
            3,
        ),
    ] {
        device.resize(size, None, ByteLen::new(pool * MIB2))?;
        let buffer = buffer(&device, &record)?;
        let fd = buffer.as_fd().as_raw_fd();
        // Its pages are the operation's: those that came before one failed, too.
        let trial = Trial {
            name,
            device: &device,
            faults: &faults,
            errors: signal,
        };
        trial.run(
            least,
            || {
                let done = io_of(raw::touch(fd, 3 * MIB2 as usize));
                done.inspect_err(|_| drop(buffer.punch(0, 3 * MIB2)))
            },
            |()| buffer.punch(0, 3 * MIB2).map(drop).map_err(Into::into),
        )?;
    }
    device.resize(size, None, ByteLen::new(before.total))?;
    rest::wait()
}

pub(super) fn ranges_of_a_buffer() -> Result<()> {
    let (device, faults) = watched()?;
    let size = HugeSize::MIB2;
    let len = 4 * MIB2;
    let buffer = buffer(
        &device,
        &Create {
            capacity: 8 * MIB2,
            ..strict(len, CreateFlags::NORESERVE)
        },
    )?;
    let trial = |name| Trial {
        name,
        device: &device,
        faults: &faults,
        errors: NO_MEMORY,
    };
    let punched = |_: u64| buffer.punch(0, len).map(drop).map_err(anyhow::Error::from);
    trial("reserving").run(1, || buffer.reserve(0, len), punched)?;
    let back = |done: &htlb_user::device::DeviceError| {
        // Pages that came before stay, as the interface says.
        let _ = (done, buffer.punch(0, len));
    };
    trial("populating from the pool").run(
        1,
        || buffer.populate(0, len).inspect_err(back),
        punched,
    )?;
    device.resize(size, None, ByteLen::new(0))?;
    trial("reserving from the system").run(5, || buffer.reserve(0, len), punched)?;
    trial("populating from the system").run(
        5,
        || buffer.populate(0, len).inspect_err(back),
        punched,
    )?;
    device.resize(size, None, ByteLen::new(16 * MIB2))?;

    buffer.populate(0, len)?;
    let again = |_| {
        buffer
            .populate(0, len)
            .map(drop)
            .map_err(anyhow::Error::from)
    };
    trial("punching").run(1, || buffer.punch(0, len), again)?;
    let grown = |_| {
        buffer.truncate(len)?;
        buffer.populate(0, len)?;
        Ok(())
    };
    trial("truncating").run(1, || buffer.truncate(MIB2), grown)?;
    trial("growing").run(
        1,
        || buffer.truncate(8 * MIB2),
        |_| buffer.truncate(len).map(drop).map_err(Into::into),
    )?;
    trial("sealing").run(
        1,
        || buffer.seal(),
        |()| buffer.unseal().map_err(Into::into),
    )?;
    trial("looking at a buffer").run(1, || buffer.info(), closed)?;
    trial("looking up an address").run(1, || buffer.lookup(0), closed)?;
    drop(buffer);
    rest::wait()
}

pub(super) fn pools_of_another_size() -> Result<()> {
    let (device, faults) = watched()?;
    let size = HugeSize::MIB2;
    let before = device.stats(size, None)?;
    let trial = |name| Trial {
        name,
        device: &device,
        faults: &faults,
        errors: NO_MEMORY,
    };
    // On one node, so that it is known where pages come from and go.
    let node = Some(NodeId::new(0)?);
    let total = device.stats(size, node)?.total;
    let resize = |bytes| device.resize(size, node, ByteLen::new(bytes));
    let resized = |_: ByteLen| {
        let reached = resize(total)?;
        ensure!(reached.raw() == total, "{} of {total} bytes", reached.raw());
        Ok(())
    };
    trial("growing a pool").run(4, || resize(total + 4 * MIB2), resized)?;
    trial("shrinking a pool").run(1, || resize(total - 2 * MIB2), resized)?;
    let most = ByteLen::new(before.overcommit);
    trial("allowing surplus").run(1, || device.allow_surplus(size, most), closed)?;
    trial("looking at a pool").run(1, || device.stats(size, None), closed)?;
    trial("looking at a limit").run(1, || device.usage(Account::ThisFile, size), closed)?;
    let unlimited = |_| {
        device
            .limit(Account::ThisFile, size, None, ByteLen::new(0))
            .map(drop)
            .map_err(Into::into)
    };
    let guarantee = || device.limit(Account::ThisFile, size, Some(most), ByteLen::new(MIB2));
    trial("a guarantee").run(1, guarantee, unlimited)?;
    let of_user = |user| device.limit(Account::User(user), size, None, ByteLen::new(0));
    let mut user = 9000;
    let known = || {
        user += 1;
        of_user(user)
    };
    trial("a limit of a new user").run(2, known, closed)?;
    rest::wait()
}

pub(super) fn books_that_are_looked_at() -> Result<()> {
    let (device, faults) = watched()?;
    let _buffer = buffer(&device, &strict(2 * MIB2, CreateFlags::POPULATE))?;
    for (name, file) in [
        ("comparing the books", rest::CHECK),
        ("looking at the state", rest::STATE),
    ] {
        let trial = Trial {
            name,
            device: &device,
            faults: &faults,
            errors: NO_MEMORY,
        };
        trial.run(0, || fs::read_to_string(file), closed)?;
    }
    Ok(())
}
