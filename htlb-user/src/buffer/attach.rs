// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Memory of other processes as a buffer, by its descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use htlb_core::{
    policy, Attempt, ByteLen, ByteOffset, ByteRange, Error as Cause, Fallback, HugeSize,
    NodePolicy, Reach, Request, Rung, Supply,
};

use super::share::whole_arena;
use super::{Access, Buffer, Live};
use crate::arena::{refused, Arena, Fresh, Kin};
use crate::device::{DeviceBuffer, DeviceError};
use crate::error::Error;
use crate::host::BufferHost;
use crate::pools::Pools;
use crate::receipt::Home;
use crate::sys::memfd::{self, Seals};
use crate::sys::path::FileSystem;
use crate::sys::window::{Backing, Fork, Peers, Window};

/// A file that can be attached.
struct Found {
    kin: Kin,
    size: HugeSize,
    /// The bytes to map, in whole pages.
    len: ByteLen,
    /// The rung of the module that gave them, where it is a buffer of the device.
    device: Option<Rung>,
}

/// Why not, and what was found.
type Refused = (Cause, Option<String>);

impl Pools {
    /// The first `bytes` bytes of a file in memory that another process shared, every page of it present.
    ///
    /// ```
    /// use htlb_user::buffer::Access;
    /// let pools = htlb_user::Pools::new()?;
    /// let mut here = pools.buffer(8192).base_pages().shareable().create()?;
    /// here.write_at(4096, b"to be seen")?;
    /// let (file, _) = here.share()?;
    /// // In another process, which got the descriptor:
    /// let there = pools.attach(file, 8192, Access::Copies)?;
    /// let mut bytes = [0; 10];
    /// there.read_at(4096, &mut bytes)?;
    /// assert_eq!(&bytes, b"to be seen");
    /// # Ok::<(), htlb_user::Error>(())
    /// ```
    ///
    /// # Errors
    /// The file is shorter, is neither hugetlb nor shared memory, is not open for writing, has pages missing that the
    /// system cannot give, or, except for [`Access::Copies`], may be shortened by peers.
    pub fn attach(&self, file: OwnedFd, bytes: u64, access: Access) -> Result<Buffer, Error> {
        let began = std::time::Instant::now();
        let fail = |cause| Error::new(format!("attach {bytes} bytes of shared memory"), cause);
        let shared = self.shared();
        let _inside = shared.enter().map_err(|cause| fail(cause).forked())?;
        let (arena, size) = self
            .adopt_file(file, bytes, access)
            .map_err(|(cause, found)| match found {
                Some(found) => fail(cause).found(found),
                None => fail(cause),
            })?;
        let made = || {
            let request = Request::builder(ByteLen::new(bytes))
                .page_size(size)
                .fallback(Fallback::STRICT)
                .build()?;
            let placement = policy::resolve(&request, &shared.topology_with(size))?;
            // The last rung of a size can be asked for pages of the system; here they are there.
            let attempt = placement.attempts().last();
            let attempt = Attempt {
                reach: Reach::ANY,
                ..*attempt.ok_or(Cause::PageSizeUnsupported)?
            };
            let nodes = NodePolicy::Default;
            let host = BufferHost::new(Arc::clone(shared), Some(arena), None, nodes, 1);
            let core = whole_arena(&host, &placement, &attempt, ByteLen::new(bytes))?;
            Ok(Live { core, host })
        };
        let live = made().map_err(fail)?;
        // Publishing the pages changes no byte of them, so that may be done for a reader too.
        let mut buffer = Buffer::register(live, Home::Memfd, Access::Copies, bytes);
        buffer.populate_all(None)?;
        buffer.access = access;
        buffer.took = began.elapsed();
        Ok(buffer)
    }

    fn adopt_file(
        &self,
        file: OwnedFd,
        bytes: u64,
        access: Access,
    ) -> Result<(Arc<Arena>, HugeSize), Refused> {
        let plain = |cause: Cause| (cause, None);
        let Found {
            kin,
            size,
            len,
            device,
        } = look_at(file.as_fd(), bytes, access)?;
        let peers = match access {
            Access::Copies => Peers::Untrusted,
            Access::InPlace | Access::InPlaceReadOnly => Peers::Trusted,
        };
        let guarded = len
            .checked_add(size.bytes())
            .ok_or(plain(Cause::SizeTooLarge))?;
        let window = Window::reserve(Backing::Shared(file, peers), guarded, size, Fork::Exclude)
            .map(Arc::new)
            .map_err(|error| (refused(error), Some(error.to_string())))?;
        let range = ByteRange::at(ByteOffset::ZERO, len).map_err(plain)?;
        window
            .map(range)
            .map_err(|error| (refused(error), Some(error.to_string())))?;
        window
            .populate_write(range)
            .map_err(|error| (Cause::from(error), Some(error.to_string())))?;
        let arena = Arc::new(Arena::new(kin, size, self.shared().nodes()).map_err(plain)?);
        // What the peer wrote stays: as far as this process goes the pages are as they should be.
        let fresh = Fresh {
            window,
            range,
            reach: Reach::ANY,
            nodes: NodePolicy::Default,
            supply: Supply::Persistent,
            device,
        };
        arena.adopt(fresh, |_| ()).map_err(plain)?;
        Ok((arena, size))
    }
}

/// Whether a file can be attached, and how.
fn look_at(file: BorrowedFd<'_>, bytes: u64, access: Access) -> Result<Found, Refused> {
    let plain = |cause: Cause| (cause, None);
    let system = FileSystem::of(file).map_err(|failure| plain(failure.into()))?;
    let (kin, size) = if system.is_hugetlbfs() {
        let size = HugeSize::from_bytes(system.block).map_err(plain)?;
        (Kin::Hugetlb, size)
    } else if system.is_tmpfs() {
        (Kin::Base, HugeSize::BASE)
    } else if let Some(buffer) = device_buffer(file) {
        return look_at_device(&buffer, bytes, access);
    } else {
        let found = "the file is neither of huge pages nor of shared memory".into();
        return Err((Cause::PageSizeUnsupported, Some(found)));
    };
    let there = memfd::len(file).map_err(|failure| plain(failure.into()))?;
    let pages = size.pages_for(ByteLen::new(bytes));
    let len = size.len_of(pages).map_err(plain)?;
    if bytes == 0 {
        return Err(plain(Cause::SizeZero));
    }
    if there.raw() < bytes {
        let found = format!("the file has {there} bytes");
        return Err((Cause::RangeBeyondEnd, Some(found)));
    }
    let seals = memfd::seals(file).ok();
    let fixed = seals.is_some_and(|seals| seals.contains(Seals::SHRINK));
    if access != Access::Copies && !fixed {
        let found =
            "the file is not sealed against shrinking, so a peer could take the memory away";
        return Err((Cause::Sealed, Some(found.into())));
    }
    Ok(Found {
        kin,
        size,
        len,
        device: None,
    })
}

/// The file as a buffer of the device, if it is one.
fn device_buffer(file: BorrowedFd<'_>) -> Option<DeviceBuffer> {
    DeviceBuffer::attach(file.try_clone_to_owned().ok()?).ok()
}

/// As [`look_at`], for a buffer of the device. Where slices are to be had it is sealed, for as long as anybody has the file open.
fn look_at_device(buffer: &DeviceBuffer, bytes: u64, access: Access) -> Result<Found, Refused> {
    let refused = |error: DeviceError| {
        let cause = error.cause().unwrap_or(Cause::FrameInvalid);
        (cause, Some(error.in_one_line()))
    };
    let there = buffer.size().map_err(refused)?;
    let parts = buffer.parts().map_err(refused)?;
    let first = parts.first().ok_or((Cause::SizeZero, None))?;
    let size = first.size;
    let pages = size.pages_for(ByteLen::new(bytes));
    let len = size.len_of(pages).map_err(|cause| (cause, None))?;
    if bytes == 0 {
        return Err((Cause::SizeZero, None));
    }
    if there < bytes {
        let found = format!("the buffer has {there} bytes");
        return Err((Cause::RangeBeyondEnd, Some(found)));
    }
    if first.bytes < bytes {
        let found = "the buffer has pages of several sizes: map it with DeviceBuffer::map";
        return Err((Cause::FrameSizeMismatch, Some(found.into())));
    }
    if access != Access::Copies {
        buffer.seal().map_err(refused)?;
    }
    Ok(Found {
        kin: if size == HugeSize::BASE {
            Kin::Base
        } else {
            Kin::Hugetlb
        },
        size,
        len,
        device: Some(first.rung.unwrap_or(Rung::Pool)),
    })
}
