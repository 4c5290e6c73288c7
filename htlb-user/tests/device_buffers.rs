// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers of the module, by its own calls.

mod device_support;

use std::os::fd::AsFd;

use htlb_core::uapi::{Create, NO_LIMIT};
use htlb_core::{
    AddressBits, ByteLen, Error as Cause, HugeSize, NodePolicy, PageCount, Request, Rung,
};
use htlb_tests::host::PoolLease;
use htlb_tests::skip::skip;
use htlb_user::buffer::Populate;
use htlb_user::device::{Account, Cut, DeviceBuffer, Export, Faults, How, Mapping};
use htlb_user::sys::memfd::{Kind, Memfd};

use device_support::{huge_mapped, strict, Ground, MIB2, PAGES};

fn byte(of: u64) -> u8 {
    u8::try_from(of % 251).unwrap()
}

#[test]
fn what_is_written_through_one_mapping_is_read_through_another() {
    let Some(ground) = Ground::new("device_mapping") else {
        return;
    };
    let buffer = ground.buffer(4, Populate::Now);
    let info = buffer.info().unwrap();
    assert_eq!(
        (info.bytes, info.populated, info.promised),
        (4 * MIB2, 4 * MIB2, 0)
    );
    let parts = buffer.parts().unwrap();
    assert_eq!(
        (parts.len(), parts[0].size, parts[0].rung),
        (1, HugeSize::MIB2, Some(Rung::Pool))
    );
    let len = usize::try_from(4 * MIB2).unwrap();
    let mut mapping = buffer.map(0, len, How::SHARED).unwrap();
    assert_eq!(mapping.address() % usize::try_from(MIB2).unwrap(), 0);
    for offset in (0..len).step_by(4096) {
        assert_eq!(mapping.byte(offset).unwrap(), 0, "fresh pages hold zeroes");
        mapping
            .write_at(offset, &[byte(offset as u64 / 4096)])
            .unwrap();
    }
    assert_eq!(huge_mapped(mapping.address()), 4 * MIB2);
    // From the second page on, and with every entry there from the start.
    let from = MIB2 + 12288;
    let part = buffer
        .map(
            from,
            len - usize::try_from(from).unwrap(),
            How::READ.ahead(),
        )
        .unwrap();
    for offset in (0..part.len()).step_by(4096) {
        assert_eq!(
            part.byte(offset).unwrap(),
            byte((offset as u64 + from) / 4096)
        );
    }
    let mut private = buffer.map(0, len, How::PRIVATE).unwrap();
    private.write_at(0, b"mine").unwrap();
    assert_eq!(mapping.byte(0).unwrap(), 0);
}

#[test]
fn promises_and_pages_are_counted_and_a_shortage_is_an_error() {
    let Some(ground) = Ground::new("device_promises") else {
        return;
    };
    let promised = ground.buffer(10, Populate::Later);
    assert_eq!((ground.free(), ground.available()), (PAGES, PAGES - 10));
    let request = strict(PAGES - 10 + 1);
    let error = ground
        .device
        .create(&request, request.size(), Populate::Later)
        .unwrap_err();
    assert_eq!(error.cause(), Some(Cause::NoRoom), "{error}");
    assert!(error.to_string().contains("htlb pool"), "{error}");

    assert_eq!(promised.populate(0, 3 * MIB2).unwrap(), 3 * MIB2);
    assert_eq!(promised.populate(0, 4 * MIB2).unwrap(), MIB2);
    let info = promised.info().unwrap();
    assert_eq!((info.populated, info.promised), (4 * MIB2, 6 * MIB2));
    assert_eq!((ground.free(), ground.available()), (PAGES - 4, PAGES - 10));

    let holes = ground.buffer(PAGES, Populate::Unpromised);
    assert_eq!(holes.reserve(0, 6 * MIB2).unwrap(), 6 * MIB2);
    assert_eq!(holes.reserve(0, 6 * MIB2).unwrap(), 0);
    let error = holes.reserve(6 * MIB2, MIB2).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::NoRoom));
    let error = holes.populate(6 * MIB2, MIB2).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::NoRoom));
    assert_eq!(ground.available(), 0);

    let cut = promised.punch(0, 5 * MIB2).unwrap();
    assert_eq!(
        cut,
        Cut {
            removed: 4 * MIB2,
            unpromised: MIB2
        }
    );
    assert_eq!(holes.populate(6 * MIB2, MIB2).unwrap(), MIB2);
    assert_eq!(
        holes.populate(PAGES * MIB2, MIB2).unwrap_err().cause(),
        Some(Cause::RangeBeyondEnd)
    );
}

#[test]
fn a_hole_is_revoked_from_every_mapping_and_comes_back_zeroed() {
    let Some(ground) = Ground::new("device_punch") else {
        return;
    };
    let buffer = ground.buffer(4, Populate::Now);
    let len = usize::try_from(4 * MIB2).unwrap();
    let mut one = buffer.map(0, len, How::SHARED).unwrap();
    let other = buffer.map(0, len, How::READ).unwrap();
    let page = usize::try_from(MIB2).unwrap();
    for at in 0..4 {
        one.write_at(at * page, b"old").unwrap();
        assert_eq!(other.byte(at * page).unwrap(), b'o');
    }
    let cut = buffer.punch(MIB2, 2 * MIB2).unwrap();
    assert_eq!((cut.removed, cut.unpromised), (2 * MIB2, 0));
    assert_eq!(buffer.info().unwrap().populated, 2 * MIB2);
    for (at, expected) in [(0, b'o'), (1, 0), (2, 0), (3, b'o')] {
        assert_eq!(other.byte(at * page).unwrap(), expected, "page {at}");
    }
    assert_eq!(buffer.info().unwrap().populated, 4 * MIB2, "touched again");

    let cut = buffer.truncate(MIB2).unwrap();
    assert_eq!(cut.removed, 3 * MIB2);
    assert_eq!(buffer.size().unwrap(), MIB2);
    assert_eq!(buffer.truncate(4 * MIB2).unwrap(), Cut::default());
    assert_eq!(other.byte(3 * page).unwrap(), 0);
    let error = buffer.truncate(5 * MIB2).unwrap_err();
    assert_eq!(error.cause(), Some(Cause::BeyondCapacity));
}

#[test]
fn a_sealed_buffer_keeps_its_pages_until_the_seal_goes() {
    let Some(ground) = Ground::new("device_seal") else {
        return;
    };
    let buffer = ground.buffer(2, Populate::Now);
    buffer.seal().unwrap();
    assert_eq!(buffer.info().unwrap().seals, 1);
    for refused in [buffer.punch(0, MIB2), buffer.truncate(MIB2)] {
        assert_eq!(refused.unwrap_err().cause(), Some(Cause::Sealed));
    }
    buffer.unseal().unwrap();
    assert_eq!(buffer.punch(0, MIB2).unwrap().removed, MIB2);
    buffer.unseal().expect_err("no seal is left");
}

#[test]
fn an_address_is_below_the_mask_and_on_the_node_that_was_asked_for() {
    let Some(ground) = Ground::new("device_lookup") else {
        return;
    };
    let buffer = ground.buffer(2, Populate::Later);
    assert_eq!(
        buffer.lookup(0).unwrap_err().cause(),
        Some(Cause::NotPresent)
    );
    buffer.populate(0, 2 * MIB2).unwrap();
    let first = buffer.lookup(0).unwrap();
    assert_eq!((first.size, first.physical % MIB2), (HugeSize::MIB2, 0));
    assert_eq!(
        buffer.lookup(12345).unwrap().physical,
        first.physical + 12345
    );
    assert_ne!(buffer.lookup(MIB2).unwrap().physical, first.physical);
    let node = first.node.expect("the node of a page is known");
    let choice = || {
        Request::builder(ByteLen::new(MIB2))
            .page_size(HugeSize::MIB2)
            .strict()
    };
    let made = |request: Request| {
        let made = ground
            .device
            .create(&request, request.size(), Populate::Now);
        made.unwrap().lookup(MIB2 - 1).unwrap()
    };
    let bound = choice().nodes(NodePolicy::Bind(node.mask()));
    assert_eq!(made(bound.build().unwrap()).node, Some(node));
    let low = choice().dma_mask(AddressBits::new(32).unwrap());
    assert!(made(low.build().unwrap()).physical < 1 << 32);
}

#[test]
fn a_dma_buf_is_the_same_memory_and_seals_nothing_by_itself() {
    let Some(ground) = Ground::new("device_export") else {
        return;
    };
    let buffer = ground.buffer(4, Populate::Now);
    let len = usize::try_from(2 * MIB2).unwrap();
    let mut mapping = buffer.map(MIB2, len, How::SHARED).unwrap();
    mapping.write_at(5, b"by the buffer").unwrap();
    let dma_buf = buffer.export(MIB2, 2 * MIB2, Export::Writable).unwrap();
    let alignment = usize::try_from(MIB2).unwrap();
    let mut exported = Mapping::new(dma_buf.as_fd(), 0, len, How::SHARED, alignment).unwrap();
    let mut bytes = [0; 13];
    exported.read_at(5, &mut bytes).unwrap();
    assert_eq!(&bytes, b"by the buffer");
    exported.write_at(0, b"back").unwrap();
    let mut bytes = [0; 4];
    mapping.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"back");
    assert_eq!(exported.byte(alignment).unwrap(), 0);
    assert_eq!(huge_mapped(exported.address()), 2 * MIB2);
    // The dma-buf keeps the memory.
    drop((buffer, mapping));
    assert_eq!(ground.free(), PAGES - 4);
    assert_eq!(exported.byte(0).unwrap(), b'b');
    drop((exported, dma_buf));

    let whole = ground.buffer(1, Populate::Now);
    let read_only = whole.export(0, 0, Export::ReadOnly).unwrap();
    let len = usize::try_from(MIB2).unwrap();
    let refused = Mapping::new(read_only.as_fd(), 0, len, How::SHARED, len).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    assert!(Mapping::new(read_only.as_fd(), 0, len, How::READ, len).is_ok());
}

#[test]
fn a_file_has_a_limit_of_its_own() {
    let Some(ground) = Ground::new("device_limit") else {
        return;
    };
    let device = htlb_user::device::Device::open().unwrap();
    let usage = device.usage(Account::ThisFile, HugeSize::MIB2).unwrap();
    assert_eq!((usage.max, usage.used), (NO_LIMIT, 0));
    let three = ByteLen::new(3 * MIB2);
    let set = device.limit(
        Account::ThisFile,
        HugeSize::MIB2,
        Some(three),
        ByteLen::ZERO,
    );
    assert_eq!(set.unwrap(), ByteLen::ZERO);
    let request = strict(2);
    let two = device
        .create(&request, request.size(), Populate::Later)
        .unwrap();
    let error = device
        .create(&request, request.size(), Populate::Later)
        .unwrap_err();
    assert_eq!(error.cause(), Some(Cause::AccountLimit), "{error}");
    let usage = device.usage(Account::ThisFile, HugeSize::MIB2).unwrap();
    assert_eq!((usage.max, usage.used), (3 * MIB2, 2 * MIB2));
    // Another file has its own.
    drop(ground.buffer(4, Populate::Now));
    drop(two);
    assert!(device
        .create(&request, request.size(), Populate::Now)
        .is_ok());
}

#[test]
fn pages_of_a_memfd_are_shared_with_the_module() {
    let Some(ground) = Ground::new("device_import") else {
        return;
    };
    let _lease = match PoolLease::with_at_least(HugeSize::MIB2, PageCount::new(2)) {
        Ok(lease) => lease,
        Err(why) => return skip("device_import", &why.to_string()),
    };
    let memfd = Memfd::new(Kind::Hugetlb(HugeSize::MIB2)).unwrap();
    memfd.set_len(ByteLen::new(2 * MIB2)).unwrap();
    let file = memfd.share();
    let len = usize::try_from(2 * MIB2).unwrap();
    let alignment = usize::try_from(MIB2).unwrap();
    let mut donor = Mapping::new(file.as_fd(), 0, len, How::SHARED, alignment).unwrap();
    donor.write_at(alignment, b"given").unwrap();
    let buffer = ground.device.import(file.as_fd(), 0, 2 * MIB2).unwrap();
    assert_eq!(buffer.parts().unwrap()[0].rung, None);
    let mut mapping = buffer.map(0, len, How::SHARED).unwrap();
    assert_eq!(mapping.byte(alignment).unwrap(), b'g');
    mapping.write_at(0, b"back").unwrap();
    assert_eq!(donor.byte(0).unwrap(), b'b');
    drop((donor, file));
    assert_eq!(mapping.byte(alignment).unwrap(), b'g', "it is kept");
}

#[test]
fn what_a_request_cannot_be_is_refused_before_anything_is_taken() {
    let Some(ground) = Ground::new("device_refusals") else {
        return;
    };
    let good = Create::from_request(&strict(1), ByteLen::new(MIB2)).unwrap();
    let errno = |record: Create| {
        let refused = ground.device.create_record(&record).unwrap_err();
        refused.raw_os_error().unwrap()
    };
    assert_eq!(errno(Create { bytes: 0, ..good }), libc::EINVAL);
    assert_eq!(
        errno(Create {
            reserved: 1,
            ..good
        }),
        libc::EINVAL
    );
    assert_eq!(
        errno(Create {
            flags: 1 << 31,
            ..good
        }),
        libc::EINVAL
    );
    assert_eq!(
        errno(Create {
            page_bytes: 3,
            ..good
        }),
        libc::EINVAL
    );
    assert_eq!(
        errno(Create {
            capacity: 4096,
            ..good
        }),
        libc::EFBIG
    );
    assert_eq!(
        errno(Create {
            bytes: PAGES * 2 * MIB2,
            capacity: 0,
            ..good
        }),
        libc::ENOMEM
    );
    assert_eq!(ground.free(), PAGES);
    let buffer = DeviceBuffer::from(ground.device.create_record(&good).unwrap());
    let lazy = How {
        faults: Faults::Lazy,
        ..How::SHARED
    };
    let beyond = buffer.map(MIB2, 4096, lazy).unwrap_err();
    assert_eq!(beyond.cause(), Some(Cause::RangeBeyondEnd));
}
