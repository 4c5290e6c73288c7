// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Who may do what, and how much of it: users, limits, memory cgroups, and what one user finds of another's.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use htlb_core::uapi::{Create, CreateFlags, DEVICE, NO_LIMIT};
use htlb_core::{ByteLen, Gfp, HugeSize};
use htlb_user::device::{Account, Device, DeviceBuffer, DeviceError, How};

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

fn used(device: &Device, account: Account) -> Result<u64> {
    Ok(device.usage(account, HugeSize::MIB2)?.used / MIB2)
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
    let buffer = make(device, 1)?;
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
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {USER} 1"))?;
        ensure!(
            fs::read_to_string("/proc/self/status")?.contains("CapEff:\t000001ff"),
            "no rights inside"
        );
        everything_else_is_refused(&device()?)
    })
}

fn limits_of_a_file_and_of_its_user_hold_both() -> Result<()> {
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

fn a_limit_goes_with_the_file() -> Result<()> {
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

fn only_the_administrator_raises_a_limit() -> Result<()> {
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

fn a_closed_file_gives_all_back() -> Result<()> {
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

fn a_page_that_is_held_stays_charged_until_it_is_let_go() -> Result<()> {
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

/// A memory cgroup, gone when this is.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str, max: u64) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        fs::write(root.join("cgroup.subtree_control"), "+memory")
            .context("the memory controller")?;
        let folder = root.join(name);
        fs::create_dir(&folder)?;
        let group = Self(folder);
        fs::write(group.0.join("memory.max"), max.to_string())?;
        Ok(group)
    }

    fn enter(&self) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), "0").context("entering a cgroup")
    }

    fn number(&self, file: &str, key: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(file))?;
        let mut lines = text
            .lines()
            .map(|line| line.rsplit_once(' ').unwrap_or(("", line)));
        let value = lines
            .find(|(name, _)| *name == key)
            .with_context(|| format!("no {key} in {file}"))?
            .1;
        Ok(value.trim().parse()?)
    }

    fn killed(&self) -> Result<u64> {
        self.number("memory.events", "oom_kill")
    }

    fn current(&self) -> Result<u64> {
        self.number("memory.current", "")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Pages of `page_bytes` beyond the group's limit: an error, nobody killed, and the pool as it was.
fn limited(name: &str, page_bytes: u64, gfp: Gfp) -> Result<()> {
    const MAX: u64 = 48 << 20;
    if !fs::exists("/sys/fs/cgroup/cgroup.controllers")? {
        return skip("no cgroups in this guest");
    }
    let group = Cgroup::new(name, MAX)?;
    let before = device()?.stats(HugeSize::MIB2, None)?;
    let of = |bytes, flags| Create {
        page_bytes,
        ..record(bytes, flags, gfp)
    };
    raw::apart(|| {
        group.enter()?;
        let device = device()?;
        let start = group.current()?;
        let buffer = device
            .create_record(&of(16 << 20, CreateFlags::POPULATE))
            .context("below the limit")?;
        let grown = group.current()?.saturating_sub(start);
        ensure!(grown >= 16 << 20, "only {grown} bytes were charged");
        let during = device.stats(HugeSize::MIB2, None)?;
        ensure!(
            before == during,
            "charged pages are no pool's: {before:?} became {during:?}"
        );
        for _ in 0..3 {
            let more = of(2 * MAX, CreateFlags::POPULATE);
            refused_io(
                "more than the limit",
                device.create_record(&more),
                libc::ENOMEM,
            )?;
            // A promise that no pool can keep is kept by populating.
            let promise = of(2 * MAX, CreateFlags::empty());
            refused_io(
                "a promise of more",
                device.create_record(&promise),
                libc::ENOMEM,
            )?;
        }
        // Step by step, too; what came before the error stays.
        let lazy = DeviceBuffer::from(device.create_record(&of(2 * MAX, CreateFlags::NORESERVE))?);
        refused("too many pages", lazy.populate(0, 2 * MAX), libc::ENOMEM)?;
        let there = lazy.info()?.populated;
        ensure!(there > 0 && there < MAX, "{there} bytes are there");
        drop(lazy);
        drop(buffer);
        let left = group.current()?.saturating_sub(start);
        ensure!(left < 8 << 20, "{left} bytes are still charged");
        Ok(())
    })?;
    ensure!(group.killed()? == 0, "somebody was killed");
    let after = device()?.stats(HugeSize::MIB2, None)?;
    ensure!(before == after, "{before:?} became {after:?}");
    rest::wait()
}

fn charged_pages_are_limited_by_the_memory_cgroup() -> Result<()> {
    limited("htlb-huge", MIB2, Gfp::ACCOUNT)
}

/// No account limits them, so that nobody gets them for nothing.
fn base_pages_are_always_charged() -> Result<()> {
    limited("htlb-base", 4096, Gfp::empty())
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
            let fd = buffer.as_fd();
            ensure!(fd.try_clone_to_owned().is_ok());
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
