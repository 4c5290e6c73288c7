// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Accounts: of a file, of a user, and for how long.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{CreateFlags, NO_LIMIT};
use htlb_core::{ByteLen, Gfp, HugeSize};
use htlb_user::device::{Account, Device, DeviceBuffer, DeviceError};
use rustix::process::{setrlimit, Resource, Rlimit};

use super::{device, limit, make, record, refused, refused_io, Opened, MIB2, OTHER, USER};
use crate::guest::raw::{self, as_user, Child, End};
use crate::guest::rest;

/// How many pages an account uses.
fn used(device: &Device, account: Account) -> Result<u64> {
    Ok(device.usage(account, HugeSize::MIB2)?.used / MIB2)
}

pub(super) fn limits_of_a_file_and_of_its_user_hold_both() -> Result<()> {
    let _opened = Opened::new()?;
    let admin = device()?;
    limit(&admin, Account::User(USER), Some(6))?;
    as_user(USER, || {
        let (one, other) = (device()?, device()?);
        limit(&one, Account::ThisFile, Some(4))?;
        let first = make(&one, 4)?;
        refused_io("a fifth page of the file", make(&one, 1), libc::EDQUOT)?;
        let second = make(&other, 2)?;
        refused_io("a seventh page of the user", make(&other, 1), libc::EDQUOT)?;
        ensure!(used(&one, Account::ThisFile)? == 4 && used(&other, Account::ThisFile)? == 2);
        // A punch gives back to both.
        first.punch(0, MIB2)?;
        ensure!(used(&one, Account::ThisFile)? == 3);
        let third = make(&other, 1)?;
        refused_io("an eighth page", make(&other, 1), libc::EDQUOT)?;
        refused_io(
            "the punched page",
            first.populate(0, MIB2).map_err(io_of),
            libc::EDQUOT,
        )?;
        drop(third);
        first.populate(0, MIB2)?;
        drop(second);
        refused_io("a fifth page of the file", make(&one, 1), libc::EDQUOT)?;
        drop(first);
        // A promise counts as much as a page, and a hole does not.
        let promise = record(4 * MIB2, CreateFlags::empty(), Gfp::empty());
        let promised = one.create_record(&promise)?;
        ensure!(used(&one, Account::ThisFile)? == 4);
        refused_io(
            "a promise beyond",
            one.create_record(&promise),
            libc::EDQUOT,
        )?;
        drop(promised);
        let hole = one.create_record(&record(64 * MIB2, CreateFlags::NORESERVE, Gfp::empty()))?;
        ensure!(used(&one, Account::ThisFile)? == 0);
        drop(hole);
        Ok(())
    })?;
    // Other users are not touched by it.
    as_user(OTHER, || {
        make(&device()?, 8)
            .map(drop)
            .context("another user's buffer")
    })?;
    ensure!(used(&admin, Account::User(USER))? == 0);
    limit(&admin, Account::User(USER), None)?;
    drop(admin);
    rest::wait()
}

/// The number of a refusal, for those who compare [`io::Error`]s.
fn io_of(error: DeviceError) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

pub(super) fn a_limit_goes_with_the_file() -> Result<()> {
    let _opened = Opened::new()?;
    let device = device()?;
    limit(&device, Account::ThisFile, Some(2))?;
    // What a child inherits is what a message on a socket carries: the open file.
    as_user(USER, || {
        let first = make(&device, 2)?;
        refused_io("a third page", make(&device, 1), libc::EDQUOT)?;
        // It is the opener's user that pays, not the one who has the file now.
        ensure!(used(&device, Account::ThisFile)? == 2);
        drop(first);
        let again = make(&device, 2)?;
        drop(again);
        // An opening of one's own has one's own limits.
        make(&Device::open()?, 3)
            .map(drop)
            .context("through another opening")
    })?;
    ensure!(
        used(&device, Account::ThisFile)? == 0,
        "a dead process has pages"
    );
    // A buffer that outlives the device's file is charged until its own end.
    let buffer = make(&device, 2)?;
    let before = used(&Device::open()?, Account::User(0))?;
    drop(device);
    let other = Device::open()?;
    ensure!(
        used(&other, Account::User(0))? == before && before >= 2,
        "the user's use is {before}"
    );
    drop(buffer);
    ensure!(used(&other, Account::User(0))? + 2 == before);
    drop(other);
    rest::wait()
}

pub(super) fn only_the_administrator_raises_a_limit() -> Result<()> {
    let _opened = Opened::new()?;
    let device = device()?;
    limit(&device, Account::ThisFile, Some(2))?;
    as_user(USER, || {
        for pages in [Some(3), Some(1 << 20), None] {
            refused(
                "more",
                limit(&device, Account::ThisFile, pages),
                libc::EPERM,
            )?;
        }
        limit(&device, Account::ThisFile, Some(2))?;
        limit(&device, Account::ThisFile, Some(1))?;
        refused(
            "what it was",
            limit(&device, Account::ThisFile, Some(2)),
            libc::EPERM,
        )
    })?;
    let usage = device.usage(Account::ThisFile, HugeSize::MIB2)?;
    ensure!(usage.max == MIB2, "the limit is {}", usage.max);
    limit(&device, Account::ThisFile, None)?;
    ensure!(device.usage(Account::ThisFile, HugeSize::MIB2)?.max == NO_LIMIT);
    // A guarantee is kept from others, and ends with the file.
    let size = HugeSize::MIB2;
    device.limit(Account::ThisFile, size, None, ByteLen::new(12 * MIB2))?;
    let other = Device::open()?;
    other.allow_surplus(size, ByteLen::new(0))?;
    refused_io("a guaranteed page", make(&other, 5), libc::ENOMEM)?;
    drop(make(&other, 4)?);
    drop(make(&device, 16)?);
    as_user(USER, || {
        // Whoever has the file may not give the guarantee away, either.
        let gone = device.limit(Account::ThisFile, size, None, ByteLen::new(0));
        refused("no minimum", gone, libc::EPERM)
    })?;
    drop(device);
    drop(make(&other, 16)?);
    drop(other);
    rest::wait()
}

pub(super) fn a_closed_file_gives_all_back() -> Result<()> {
    let _opened = Opened::new()?;
    let before = device()?.stats(HugeSize::MIB2, None)?;
    // More accounts than the first tables have room for, each with a page or none.
    as_user(USER, || {
        let mut open = Vec::new();
        for number in 0..200 {
            let device = device()?;
            limit(&device, Account::ThisFile, Some(1))?;
            let buffer = if number % 20 == 0 {
                Some(make(&device, 1)?)
            } else {
                None
            };
            open.push((device, buffer));
        }
        // The devices first: buffers keep what they are charged to.
        let buffers: Vec<_> = open
            .into_iter()
            .map(|(device, buffer)| {
                drop(device);
                buffer
            })
            .collect();
        rest_of(buffers)
    })?;
    // And a process that is killed in the middle.
    let child = Child::start(|| {
        raw::become_user(USER)?;
        let device = device()?;
        let _buffers = [make(&device, 3)?, make(&device, 2)?];
        thread::sleep(Duration::from_secs(600));
        Ok(())
    })?;
    let began = Instant::now();
    while used(&device()?, Account::User(USER))? < 5 {
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "the child made nothing"
        );
        thread::sleep(Duration::from_millis(5));
    }
    child.kill();
    ensure!(child.end()? == End::Signal(libc::SIGKILL));
    rest::wait()?;
    let after = device()?.stats(HugeSize::MIB2, None)?;
    ensure!(before == after, "{before:?} became {after:?}");
    ensure!(used(&device()?, Account::User(USER))? == 0);
    Ok(())
}

fn rest_of(buffers: Vec<Option<DeviceBuffer>>) -> Result<()> {
    let mine = buffers.into_iter().flatten();
    for buffer in mine {
        ensure!(buffer.info()?.populated == MIB2);
    }
    Ok(())
}

/// What the kernel's log has so far.
fn log() -> Result<String> {
    let mut log = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut all = String::new();
    let mut line = [0; 8192];
    // Each read is a line; one that was overwritten in between is not asked for here.
    while let Ok(len) = log.read(&mut line) {
        all.push_str(&String::from_utf8_lossy(&line[..len]));
    }
    Ok(all)
}

pub(super) fn a_page_that_is_held_stays_charged_until_it_is_let_go() -> Result<()> {
    let admin = device()?;
    let size = HugeSize::MIB2;
    for _ in 0..3 {
        let device = device()?;
        limit(&device, Account::ThisFile, Some(1))?;
        let buffer = make(&device, 1)?;
        let held = raw::hold(buffer.as_fd().as_raw_fd(), 4096)
            .map_err(|errno| anyhow::anyhow!("vmsplice: errno {errno}"))?;
        // A punch does not get around the limit.
        buffer.punch(0, MIB2)?;
        ensure!(
            used(&device, Account::ThisFile)? == 1,
            "the held page is not charged"
        );
        refused(
            "a page beside the held one",
            buffer.populate(0, MIB2),
            libc::EDQUOT,
        )?;
        drop(buffer);
        drop(device);
        ensure!(admin.stats(size, None)?.limbo == MIB2);
        ensure!(
            used(&admin, Account::User(0))? == 1,
            "the user's charge is gone before the page"
        );
        drop(held);
        rest::wait()?;
        ensure!(used(&admin, Account::User(0))? == 0);
    }
    ensure!(
        !log()?.contains("could not be closed"),
        "an account was left"
    );
    Ok(())
}

/// How many pages of 2 MiB there are, and how many of them are surplus.
fn pages(device: &Device) -> Result<(u64, u64)> {
    let stats = device.stats(HugeSize::MIB2, None)?;
    Ok((stats.total / MIB2, stats.surplus / MIB2))
}

/// Promises `pages` pages of 2 MiB to a file.
fn guarantee(device: &Device, pages: u64) -> Result<()> {
    let bytes = ByteLen::new(pages * MIB2);
    device.limit(Account::ThisFile, HugeSize::MIB2, None, bytes)?;
    Ok(())
}

pub(super) fn what_only_a_guarantee_needed_leaves_with_it() -> Result<()> {
    let admin = device()?;
    let size = HugeSize::MIB2;
    let (before, surplus) = pages(&admin)?;
    ensure!(surplus == 0, "{surplus} surplus pages");
    let pool = ByteLen::new(before * MIB2);
    for lowered in [true, false] {
        admin.resize(size, None, ByteLen::new(4 * MIB2))?;
        let guaranteed = device()?;
        guarantee(&guaranteed, 3)?;
        // In use, they become surplus; and given back, they are what the guarantee needs.
        let buffer = make(&guaranteed, 3)?;
        admin.resize(size, None, ByteLen::new(0))?;
        drop(buffer);
        ensure!(pages(&admin)? == (3, 3), "{:?} of 3", pages(&admin)?);
        if lowered {
            guarantee(&guaranteed, 1)?;
            ensure!(pages(&admin)? == (1, 1), "{:?} of 1", pages(&admin)?);
            guarantee(&guaranteed, 0)?;
        } else {
            drop(guaranteed);
        }
        ensure!(pages(&admin)? == (0, 0), "{:?} of 0", pages(&admin)?);
    }
    admin.resize(size, None, pool)?;
    ensure!(pages(&admin)? == (before, 0), "{:?}", pages(&admin)?);
    drop(admin);
    rest::wait()
}

pub(super) fn one_user_cannot_have_every_account() -> Result<()> {
    const OPENINGS: usize = 1024;
    let _opened = Opened::new()?;
    raw::apart(|| {
        let files = Some(4 * OPENINGS as u64);
        let limit = Rlimit {
            current: files,
            maximum: files,
        };
        setrlimit(Resource::Nofile, limit)?;
        raw::open_as(USER)?;
        let mut devices: Vec<Device> = Vec::new();
        while devices.len() < OPENINGS {
            devices.push(device().with_context(|| format!("{} are open", devices.len()))?);
        }
        let one_more = || fs::File::open("/dev/htlb");
        refused_io("one more", one_more(), libc::EDQUOT)?;
        raw::open_as(0)?;
        raw::open_as(OTHER)?;
        one_more().context("opening by another user")?;
        raw::open_as(0)?;
        raw::open_as(USER)?;
        drop(devices.pop());
        devices.push(device().context("opening in the place of one that is closed")?);
        raw::open_as(0)?;
        // The administrator has no such limit.
        for _ in 0..=OPENINGS {
            devices.push(device()?);
        }
        Ok(())
    })?;
    rest::wait()
}
