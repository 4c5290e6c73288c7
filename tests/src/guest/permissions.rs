// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Who may do what, and how much of it: users, limits, memory cgroups, and what one user finds of another's.

pub(super) mod charging;
mod limits;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use htlb_core::uapi::{Create, CreateFlags, DEVICE};
use htlb_core::{ByteLen, Gfp, HugeSize};
use htlb_user::device::{Account, Device, DeviceBuffer, DeviceError, How};

use charging::{base_pages_are_always_charged, charged_pages_are_limited_by_the_memory_cgroup};
use limits::{
    a_closed_file_gives_all_back, a_limit_goes_with_the_file,
    a_page_that_is_held_stays_charged_until_it_is_let_go,
    limits_of_a_file_and_of_its_user_hold_both, one_user_cannot_have_every_account,
    only_the_administrator_raises_a_limit, what_only_a_guarantee_needed_leaves_with_it,
};

use super::raw::{self, as_user, Child, End};
use super::{cases, rest, skip, Group, Module};

pub(super) const GROUP: Group = Group {
    name: "permissions",
    modules: &[Module::new("htlb", "pages_2m=16")],
    cases: || {
        cases![
            the_node_is_roots,
            another_user_may_make_buffers_and_no_more,
            rights_in_a_user_namespace_are_none_here,
            limits_of_a_file_and_of_its_user_hold_both,
            a_limit_goes_with_the_file,
            only_the_administrator_raises_a_limit,
            what_only_a_guarantee_needed_leaves_with_it,
            one_user_cannot_have_every_account,
            a_closed_file_gives_all_back,
            a_page_that_is_held_stays_charged_until_it_is_let_go,
            charged_pages_are_limited_by_the_memory_cgroup,
            base_pages_are_always_charged,
            a_page_is_zero_for_the_next_user,
            a_long_populate_can_be_killed,
        ]
    },
};

const MIB2: u64 = 2 << 20;
/// Somebody, and somebody else.
const USER: u32 = 4711;
const OTHER: u32 = 4712;

fn device() -> Result<Device> {
    Device::open().context("opening the device")
}

/// The node, open to everybody for as long as this lives.
struct Opened;

impl Opened {
    fn new() -> Result<Self> {
        fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o666))?;
        Ok(Self)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // The next case would say so.
        let _ = fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o600));
    }
}

/// A strict record of 2 MiB pages, populated at once.
fn record(bytes: u64, flags: CreateFlags, gfp: Gfp) -> Create {
    Create {
        flags: (CreateFlags::STRICT | CreateFlags::CLOEXEC | flags).bits(),
        bytes,
        page_bytes: MIB2,
        gfp: gfp.bits(),
        ..Create::default()
    }
}

fn make(device: &Device, pages: u64) -> io::Result<DeviceBuffer> {
    let record = record(pages * MIB2, CreateFlags::POPULATE, Gfp::empty());
    device.create_record(&record).map(DeviceBuffer::from)
}

fn refused<T>(what: &str, done: Result<T, DeviceError>, errno: i32) -> Result<()> {
    match done {
        Err(error) if error.errno() == errno => Ok(()),
        Err(error) => bail!("{what}: errno {}, not {errno}: {error}", error.errno()),
        Ok(_) => bail!("{what} was allowed"),
    }
}

fn refused_io<T>(what: &str, done: io::Result<T>, errno: i32) -> Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        Err(error) => bail!("{what}: {error}, not errno {errno}"),
        Ok(_) => bail!("{what} was allowed"),
    }
}

fn limit(device: &Device, account: Account, pages: Option<u64>) -> Result<(), DeviceError> {
    let most = pages.map(|pages| ByteLen::new(pages * MIB2));
    device
        .limit(account, HugeSize::MIB2, most, ByteLen::new(0))
        .map(drop)
}

fn the_node_is_roots() -> Result<()> {
    let node = fs::metadata(DEVICE)?;
    ensure!(
        node.uid() == 0 && node.gid() == 0,
        "it belongs to {}:{}",
        node.uid(),
        node.gid()
    );
    ensure!(
        node.mode() & 0o777 == 0o600,
        "its mode is {:o}",
        node.mode()
    );
    as_user(USER, || refused_io("opening", Device::open(), libc::EACCES))
}

/// What takes `CAP_SYS_ADMIN`, each once.
fn everything_else_is_refused(device: &Device) -> Result<()> {
    let size = HugeSize::MIB2;
    let buffer = make(device, 1).context("making a buffer")?;
    refused("LOOKUP", buffer.lookup(0), libc::EPERM)?;
    for pages in [0, 1, 16, 64] {
        let target = ByteLen::new(pages * MIB2);
        refused("RESIZE", device.resize(size, None, target), libc::EPERM)?;
        refused(
            "the overcommit limit",
            device.allow_surplus(size, target),
            libc::EPERM,
        )?;
    }
    let minimum = device.limit(Account::ThisFile, size, None, ByteLen::new(MIB2));
    refused("a minimum", minimum, libc::EPERM)?;
    for user in [USER, OTHER, 0] {
        refused(
            "a user's limit",
            limit(device, Account::User(user), Some(1)),
            libc::EPERM,
        )?;
        refused(
            "no limit for a user",
            limit(device, Account::User(user), None),
            libc::EPERM,
        )?;
        refused(
            "a user's use",
            device.usage(Account::User(user), size),
            libc::EPERM,
        )?;
    }
    Ok(())
}

fn another_user_may_make_buffers_and_no_more() -> Result<()> {
    let _opened = Opened::new()?;
    let before = device()?.stats(HugeSize::MIB2, None)?;
    as_user(USER, || {
        let device = device()?;
        let buffer = make(&device, 2)?;
        let mut mapping = buffer.map(0, 2 * MIB2 as usize, How::SHARED)?;
        mapping.write_at(0, b"mine")?;
        drop(mapping);
        ensure!(buffer.info()?.populated == 2 * MIB2);
        // How much there is, is no secret.
        device.stats(HugeSize::MIB2, None)?;
        limit(&device, Account::ThisFile, Some(8))?;
        limit(&device, Account::ThisFile, Some(4))?;
        everything_else_is_refused(&device)
    })?;
    let after = device()?.stats(HugeSize::MIB2, None)?;
    ensure!(before == after, "{before:?} became {after:?}");
    rest::wait()
}

fn rights_in_a_user_namespace_are_none_here() -> Result<()> {
    let _opened = Opened::new()?;
    if !fs::exists("/proc/self/ns/user")? {
        return skip("this kernel has no user namespaces");
    }
    as_user(USER, || {
        raw::own_user_namespace().map_err(|errno| anyhow::anyhow!("unshare: errno {errno}"))?;
        fs::write("/proc/self/setgroups", "deny").context("denying groups")?;
        fs::write("/proc/self/uid_map", format!("0 {USER} 1")).context("becoming root inside")?;
        ensure!(
            fs::read_to_string("/proc/self/status")?.contains("CapEff:\t000001ff"),
            "no rights inside"
        );
        everything_else_is_refused(&device()?)
    })
}

fn a_page_is_zero_for_the_next_user() -> Result<()> {
    let _opened = Opened::new()?;
    let pages = 16;
    let device = device()?;
    // Every page of the pool, and none besides.
    device.allow_surplus(HugeSize::MIB2, ByteLen::new(0))?;
    let len = usize::try_from(pages * MIB2)?;
    for round in 0..2 {
        as_user(USER, || {
            let buffer = make(&Device::open()?, pages)?;
            let mut mapping = buffer.map(0, len, How::SHARED)?;
            let secret = vec![0x5a; 1 << 16];
            for at in (0..len).step_by(secret.len()) {
                mapping.write_at(at, &secret)?;
            }
            Ok(())
        })?;
        as_user(OTHER, || {
            let device = Device::open()?;
            let flags = [
                CreateFlags::POPULATE,
                CreateFlags::empty(),
                CreateFlags::POPULATE | CreateFlags::DIRTY_WITHIN_OWNER,
            ];
            let buffer = device.create_record(&record(pages * MIB2, flags[round], Gfp::empty()))?;
            let buffer = DeviceBuffer::from(buffer);
            let mapping = buffer.map(0, len, How::SHARED)?;
            let mut seen = vec![0xff; 1 << 16];
            for at in (0..len).step_by(seen.len()) {
                mapping.read_at(at, &mut seen)?;
                ensure!(
                    seen.iter().all(|byte| *byte == 0),
                    "somebody else's bytes at {at}"
                );
            }
            Ok(())
        })?;
    }
    drop(device);
    rest::wait()
}

fn a_long_populate_can_be_killed() -> Result<()> {
    const BYTES: u64 = 256 << 20;
    let device = device()?;
    device.allow_surplus(HugeSize::MIB2, ByteLen::new(BYTES))?;
    for page_bytes in [MIB2, 4096] {
        let mut pause = Duration::from_millis(40);
        loop {
            let lazy = Create {
                page_bytes,
                ..record(BYTES, CreateFlags::NORESERVE, Gfp::empty())
            };
            let buffer = DeviceBuffer::from(device.create_record(&lazy)?);
            let child = Child::start(|| buffer.populate(0, BYTES).map(drop).map_err(Into::into))?;
            while buffer.info()?.populated == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(pause);
            let killed = Instant::now();
            child.kill();
            let end = child.end()?;
            let took = killed.elapsed();
            let there = buffer.info()?.populated;
            drop(buffer);
            rest::check().map_err(anyhow::Error::msg)?;
            println!(
                "{page_bytes}: {there} of {BYTES} bytes were there, {} ms after the signal",
                took.as_millis()
            );
            if end == End::Signal(libc::SIGKILL) && there < BYTES {
                ensure!(took < Duration::from_secs(5), "it died only after {took:?}");
                break;
            }
            // It was done before the signal came.
            ensure!(
                pause > Duration::from_millis(1),
                "it ended by {end:?}, and all of it was there"
            );
            pause /= 2;
        }
    }
    drop(device);
    rest::wait()
}
