// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Memory that several processes have, and memory that a child must not have.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use htlb_core::{Error as Cause, HugeSize};
use htlb_tests::skip::skip;
use htlb_user::buffer::{Access, Populate};
use htlb_user::pools::{CheckError, Pools};
use htlb_user::sys::memfd::{self, Kind, Memfd, Seals};
use htlb_user::{Buffer, Owner};

mod buffer_support;
use buffer_support::{again, base, cause, huge, mib2, role, MIB2, PAGE};

/// Where a peer finds the file.
const FILE: i32 = 40;

/// The same test in another process, which has the file and speaks over its standard streams.
struct Peer {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Peer {
    fn of(test: &str, file: &OwnedFd) -> Self {
        let mut command: Command = again(test, "peer");
        let raw = file.as_raw_fd();
        // SAFETY: dup2 may be called between fork and exec.
        unsafe {
            command.pre_exec(move || match libc::dup2(raw, FILE) {
                FILE => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, to, from }
    }

    /// Tells the peer to go on, and waits until it has done its part.
    fn turn(&mut self) {
        self.to.write_all(b"x").unwrap();
        self.to.flush().unwrap();
        let mut byte = [0];
        // The test program's own words come first.
        while byte != [TURN] {
            self.from
                .read_exact(&mut byte)
                .expect("the peer has failed");
        }
    }

    fn end(mut self) {
        drop(self.to);
        let mut rest = Vec::new();
        self.from.read_to_end(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// A byte that no test program prints.
const TURN: u8 = 1;

fn my_file() -> OwnedFd {
    // SAFETY: the parent has put it there, and nobody else in this process knows of it.
    unsafe { OwnedFd::from_raw_fd(FILE) }
}

fn wait_for_turn() {
    let mut byte = [0];
    std::io::stdin().read_exact(&mut byte).unwrap();
}

fn done() {
    std::io::stdout().write_all(&[TURN]).unwrap();
    std::io::stdout().flush().unwrap();
}

fn attach_and_answer(size: u64) {
    let pools = Pools::new().unwrap();
    wait_for_turn();
    let mut copies = pools.attach(my_file(), size, Access::Copies).unwrap();
    assert_eq!(copies.len(), size);
    let mut bytes = [0; 12];
    copies.read_at(size - 12, &mut bytes).unwrap();
    assert_eq!(&bytes, b"from the top");
    assert_eq!(cause(copies.as_slice()), Cause::Sealed);
    assert_eq!(cause(copies.as_mut_slice()), Cause::Sealed);
    copies.write_at(PAGE + 1, b"from the peer").unwrap();
    assert!(copies.share().is_ok(), "passed on");
    pools.check().unwrap();
    done();
    wait_for_turn();
    drop(copies);
    pools.check().unwrap();
    done();
}

fn give_and_take(test: &str, mut here: Buffer, pools: &Pools) {
    let size = here.len();
    here.write_at(size - 12, b"from the top").unwrap();
    let (file, offset) = here.share().unwrap();
    assert_eq!(offset, 0);
    let mut peer = Peer::of(test, &file);
    drop(file);
    peer.turn();
    assert_eq!(here.slice(PAGE + 1, 13).unwrap()[..], *b"from the peer");
    peer.turn();
    peer.end();
    // A peer that has gone has taken nothing with it.
    assert_eq!(here.slice(PAGE + 1, 13).unwrap()[..], *b"from the peer");
    pools.check().unwrap();
}

#[test]
fn base_pages_pass_to_another_process() {
    if role().is_some() {
        return attach_and_answer(5 * PAGE + 7);
    }
    let pools = Pools::new().unwrap();
    let here = pools
        .buffer(5 * PAGE + 7)
        .base_pages()
        .shareable()
        .create()
        .unwrap();
    give_and_take("base_pages_pass_to_another_process", here, &pools);
    assert_eq!(base(&pools), (0, 0, 0), "it never was in the pools");
}

#[test]
fn huge_pages_pass_to_another_process() {
    const NAME: &str = "huge_pages_pass_to_another_process";
    if role().is_some() {
        return attach_and_answer(3 * MIB2 - 100);
    }
    let Some(_lease) = huge(NAME, 3) else { return };
    let pools = Pools::new().unwrap();
    let builder = pools
        .buffer(3 * MIB2 - 100)
        .page_size(HugeSize::MIB2)
        .strict();
    let here = builder.shareable().create().unwrap();
    assert_eq!(here.receipt().huge().raw(), 3 * MIB2);
    give_and_take(NAME, here, &pools);
    assert_eq!(mib2(&pools), (0, 0, 0), "it never was in the pools");
}

#[test]
fn a_private_buffer_has_no_file() {
    let pools = Pools::new().unwrap();
    let buffer = pools.buffer(PAGE).base_pages().create().unwrap();
    let error = buffer.share().unwrap_err();
    assert!(error.to_string().contains("shareable"), "{error}");
}

#[test]
fn a_shareable_buffer_is_a_buffer() {
    let pools = Pools::new().unwrap();
    let mut buffer = pools
        .buffer(3 * PAGE)
        .base_pages()
        .shareable()
        .capacity(6 * PAGE)
        .populate(Populate::Later)
        .create()
        .unwrap();
    assert_eq!(cause(buffer.as_slice()), Cause::NotPresent);
    assert_eq!(buffer.receipt().reserved.raw(), 3 * PAGE);
    assert_eq!(buffer.reserve(0, 3 * PAGE).unwrap(), 0, "it is set aside");
    assert_eq!(buffer.populate(0, 3 * PAGE).unwrap(), 3 * PAGE);
    buffer.as_mut_slice().unwrap().fill(5);
    pools.check().unwrap();
    buffer.punch(PAGE, PAGE).unwrap();
    pools.check().unwrap();
    buffer.populate(PAGE, PAGE).unwrap();
    buffer.truncate(6 * PAGE).unwrap();
    assert_eq!(buffer.populate(0, 6 * PAGE).unwrap(), 3 * PAGE);
    pools.check().unwrap();
    let bytes = buffer.as_slice().unwrap();
    let page = |number: usize| &bytes[number * PAGE as usize..][..PAGE as usize];
    assert!(page(0).iter().all(|byte| *byte == 5) && page(1).iter().all(|byte| *byte == 0));
    assert!((3..6).all(|number| page(number).iter().all(|byte| *byte == 0)));
    drop(bytes);
    let refused = pools.buffer(PAGE).base_pages().shareable();
    assert!(refused
        .create_with(|_| Err(std::io::Error::other("no")))
        .is_err());
    drop(buffer);
    pools.check().unwrap();
}

#[test]
fn what_can_be_attached_and_how() {
    let pools = Pools::new().unwrap();
    let mut here = pools
        .buffer(2 * PAGE)
        .base_pages()
        .shareable()
        .create()
        .unwrap();
    here.as_mut_slice().unwrap().fill(6);
    let file = || here.share().unwrap().0;
    let reader = pools
        .attach(file(), 2 * PAGE, Access::InPlaceReadOnly)
        .unwrap();
    assert_eq!(reader.as_slice().unwrap()[PAGE as usize], 6);
    assert_eq!(cause(reader.punch(0, PAGE)), Cause::Sealed);
    assert_eq!(
        cause(reader.populate_with(0, PAGE, |_| Ok(0))),
        Cause::Sealed
    );
    let mut reader = reader;
    assert_eq!(cause(reader.truncate(PAGE)), Cause::Sealed);
    assert_eq!(cause(reader.write_at(0, b"x")), Cause::Sealed);
    assert_eq!(cause(reader.as_mut_slice()), Cause::Sealed);
    drop(reader);
    assert_eq!(
        here.as_slice().unwrap()[PAGE as usize],
        6,
        "a reader that ends changes nothing"
    );

    let mut writer = pools.attach(file(), PAGE + 1, Access::InPlace).unwrap();
    writer.as_mut_slice().unwrap()[PAGE as usize] = 7;
    drop(writer);
    assert_eq!(here.as_slice().unwrap()[PAGE as usize], 7);

    assert_eq!(
        cause(pools.attach(file(), 0, Access::Copies)),
        Cause::SizeZero
    );
    assert_eq!(
        cause(pools.attach(file(), 2 * PAGE + 1, Access::Copies)),
        Cause::RangeBeyondEnd
    );
    for bytes in [u64::MAX, 1 << 62] {
        assert!(pools.attach(file(), bytes, Access::Copies).is_err());
    }
    let disk = File::open("/proc/self/exe").unwrap();
    assert_eq!(
        cause(pools.attach(disk.into(), PAGE, Access::Copies)),
        Cause::PageSizeUnsupported
    );
    pools.check().unwrap();
}

#[test]
fn a_file_that_can_shrink_is_not_trusted() {
    let pools = Pools::new().unwrap();
    let file = Memfd::new(Kind::Shmem).unwrap();
    file.set_len(htlb_core::ByteLen::new(2 * PAGE)).unwrap();
    let file = file.share();
    for access in [Access::InPlace, Access::InPlaceReadOnly] {
        let refused = pools.attach(file.try_clone().unwrap(), 2 * PAGE, access);
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("shrink"), "{error}");
    }
    let copies = pools
        .attach(file.try_clone().unwrap(), 2 * PAGE, Access::Copies)
        .unwrap();
    copies.read_at(0, &mut [0; 100]).unwrap();
    memfd::add_seals(std::os::fd::AsFd::as_fd(&file), Seals::SHRINK).unwrap();
    assert!(pools.attach(file, 2 * PAGE, Access::InPlace).is_ok());
    // Whoever has one of ours cannot cut it short.
    let here = pools
        .buffer(2 * PAGE)
        .base_pages()
        .shareable()
        .create()
        .unwrap();
    let (file, _) = here.share().unwrap();
    let file = File::from(file);
    assert!(file.set_len(PAGE).is_err() && file.set_len(4 * PAGE).is_err());
}

#[test]
fn what_a_peer_punches_is_zero_or_a_signal() {
    const NAME: &str = "what_a_peer_punches_is_zero_or_a_signal";
    let punch = |file: OwnedFd, offset: u64, len: u64| {
        // SAFETY: an open descriptor and numbers.
        let punched = unsafe {
            libc::fallocate(
                file.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                offset as i64,
                len as i64,
            )
        };
        assert_eq!(punched, 0);
    };
    let pools = Pools::new().unwrap();
    if role().is_some() {
        // The one exception: the pool has no page for the hole, so the touch is a signal.
        let mut here = pools
            .buffer(MIB2)
            .page_size(HugeSize::MIB2)
            .strict()
            .shareable()
            .create()
            .unwrap();
        here.as_mut_slice().unwrap().fill(8);
        punch(here.share().unwrap().0, 0, MIB2);
        let taken = pools
            .buffer(MIB2)
            .page_size(HugeSize::MIB2)
            .strict()
            .create();
        assert!(taken.is_ok(), "what was punched is anybody's");
        let byte = here.as_slice().unwrap()[0];
        unreachable!("read {byte}");
    }
    let mut here = pools
        .buffer(2 * PAGE)
        .base_pages()
        .shareable()
        .create()
        .unwrap();
    here.as_mut_slice().unwrap().fill(8);
    punch(here.share().unwrap().0, 0, PAGE);
    let bytes = here.as_slice().unwrap();
    assert_eq!((bytes[0], bytes[PAGE as usize]), (0, 8));
    drop(bytes);
    // The books are not the peer's to change.
    pools.check().unwrap();
    assert_eq!(here.punch(0, 2 * PAGE).unwrap().pages.raw(), 2);
    drop(here);
    pools.check().unwrap();

    let Some(lease) = huge(NAME, 1) else { return };
    if lease.pools().available(HugeSize::MIB2).unwrap().raw() != 1 {
        return skip(NAME, "the pool cannot be made to end");
    }
    let child = again(NAME, "bus").output().unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGBUS), "{child:?}");
}

#[test]
fn a_forked_child_has_nothing_and_breaks_nothing() {
    let pools = Pools::new().unwrap();
    let owner = Owner::new(&pools);
    let mut buffer = pools
        .buffer(2 * PAGE)
        .base_pages()
        .owner(&owner)
        .create()
        .unwrap();
    buffer.as_mut_slice().unwrap().fill(4);
    let kept = pools
        .buffer(PAGE)
        .base_pages()
        .owner(&owner)
        .create()
        .unwrap();
    drop(kept);
    let later = pools
        .buffer(PAGE)
        .base_pages()
        .populate(Populate::Later)
        .create()
        .unwrap();
    let shared = pools
        .buffer(PAGE)
        .base_pages()
        .shareable()
        .create()
        .unwrap();
    // SAFETY: the child uses nothing that another thread could have locked but the allocator, which libc makes safe to use.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let refused = buffer.as_slice().unwrap_err();
            assert!(refused.to_string().contains("forked child"));
            assert_eq!(cause(buffer.as_mut_slice()), Cause::NotPresent);
            assert_eq!(cause(buffer.read_at(0, &mut [0])), Cause::NotPresent);
            assert_eq!(cause(buffer.write_at(0, &[0])), Cause::NotPresent);
            assert_eq!(cause(buffer.page_at(0)), Cause::NotPresent);
            assert_eq!(cause(buffer.pin(0)), Cause::NotPresent);
            assert_eq!(cause(buffer.seal()), Cause::NotPresent);
            assert_eq!(cause(buffer.raw_parts()), Cause::NotPresent);
            assert_eq!(cause(buffer.punch(0, PAGE)), Cause::NotPresent);
            assert_eq!(cause(buffer.truncate(PAGE)), Cause::NotPresent);
            assert_eq!(cause(later.populate(0, PAGE)), Cause::NotPresent);
            assert_eq!(cause(later.reserve(0, PAGE)), Cause::NotPresent);
            assert_eq!(cause(shared.share()), Cause::NotPresent);
            let make = || pools.buffer(PAGE).base_pages();
            assert_eq!(cause(make().create()), Cause::NotPresent);
            assert_eq!(cause(make().owner(&owner).create()), Cause::NotPresent);
            assert_eq!((pools.trim(), pools.state().len()), (0, 0));
            assert_eq!(pools.check(), Err(CheckError::ForkedChild));
            // Pools of its own are another matter.
            let own = Pools::new().unwrap();
            let mut mine = own.buffer(PAGE).base_pages().create().unwrap();
            mine.as_mut_slice().unwrap()[0] = 1;
            own.check().unwrap();
            drop((buffer, later, shared, owner, pools));
        }));
        // SAFETY: ends the child without running what the test program registered.
        unsafe { libc::_exit(i32::from(fine.is_err())) };
    }
    let mut status = -1;
    // SAFETY: a child of ours and a live integer.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    pools.check().unwrap();
    assert!(buffer.as_slice().unwrap().iter().all(|byte| *byte == 4));
    assert_eq!(later.populate(0, PAGE).unwrap(), PAGE);
    let (_, _, reserved) = base(&pools);
    assert_eq!(reserved, 0);
}
