// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The library's own buffers over the module: the same calls, and a receipt that says where the pages are from.

mod buffer_support;
mod device_support;

use std::fs::{set_permissions, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;

use htlb_core::uapi::DEVICE;
use htlb_core::{AddressBits, ByteLen, Contiguity, Error as Cause, HugeSize, PageCount, Rung};
use htlb_user::buffer::{Access, Layout, Populate};
use htlb_user::device::{Device, DeviceBuffer};
use htlb_user::pools::{DeviceUse, Pools, Retention};
use htlb_user::receipt::{Giver, Home};
use htlb_user::Owner;

use buffer_support::{again, role, went_well};
use device_support::{Ground, MIB2, PAGES};

fn pools(usage: DeviceUse) -> Pools {
    Pools::builder().device(usage).build().unwrap()
}

#[test]
fn pages_come_from_the_module_and_stay_for_the_next_buffer() {
    let Some(ground) = Ground::new("device_pools") else {
        return;
    };
    let pools = pools(DeviceUse::Automatic);
    let mut buffer = pools
        .buffer(3 * MIB2)
        .page_size(HugeSize::MIB2)
        .strict()
        .create()
        .unwrap();
    buffer.as_mut_slice().unwrap().fill(7);
    assert!(buffer.as_slice().unwrap().iter().all(|byte| *byte == 7));
    let receipt = buffer.receipt();
    assert!(receipt.is_first_choice(), "{receipt}");
    let share = &receipt.shares[0];
    assert_eq!(
        (receipt.shares.len(), share.giver, share.rung, share.pages),
        (1, Giver::Device, Rung::Pool, PageCount::new(3))
    );
    assert!(
        receipt
            .to_string()
            .starts_with("3 x 2MiB from the pool of htlb.ko"),
        "{receipt}"
    );
    assert_eq!(ground.free(), PAGES - 3);
    let page = buffer.page_at(MIB2).unwrap();
    assert_eq!(page.address % usize::try_from(MIB2).unwrap(), 0);
    assert!(page.physical.is_some_and(|physical| physical % MIB2 == 0));
    drop(buffer);
    assert_eq!(ground.free(), PAGES - 3, "they stay in the process");
    let again = pools
        .buffer(3 * MIB2)
        .page_size(HugeSize::MIB2)
        .create()
        .unwrap();
    assert!(again.as_slice().unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(again.receipt().shares[0].giver, Giver::Device);
    drop(again);
    pools.check().unwrap();
    assert_eq!(pools.trim(), 3 * MIB2);
    assert_eq!(ground.free(), PAGES);
}

#[test]
fn everything_of_a_buffer_works() {
    let Some(ground) = Ground::new("device_buffer_calls") else {
        return;
    };
    let pools = Pools::builder()
        .device(DeviceUse::Only)
        .retention(Retention::Return)
        .build()
        .unwrap();
    let owner = Owner::new(&pools);
    let mut buffer = pools
        .buffer(6 * MIB2)
        .page_size(HugeSize::MIB2)
        .strict()
        .owner(&owner)
        .capacity(8 * MIB2)
        .layout(Layout::Scattered)
        .populate(Populate::Unpromised)
        .create()
        .unwrap();
    assert_eq!(buffer.reserve(0, 2 * MIB2).unwrap(), 2 * MIB2);
    let filled = buffer.populate_with(0, 4 * MIB2, |page| {
        let text = format!("at {}", page.offset());
        page.bytes()[..text.len()].copy_from_slice(text.as_bytes());
        Ok(text.len())
    });
    assert_eq!(filled.unwrap(), 4 * MIB2);
    let mut text = [0; 10];
    buffer.read_at(3 * MIB2, &mut text).unwrap();
    assert_eq!(&text, b"at 6291456");
    let pin = buffer.pin(MIB2).unwrap();
    assert_eq!(buffer.punch(MIB2, MIB2).unwrap_err().cause(), Cause::Pinned);
    drop(pin);
    {
        let _sealed = buffer.seal().unwrap();
        assert_eq!(buffer.punch(0, MIB2).unwrap_err().cause(), Cause::Sealed);
    }
    assert_eq!(buffer.punch(MIB2, 2 * MIB2).unwrap().pages.raw(), 2);
    buffer.write_at(3 * MIB2 - 2, b"x").unwrap_err();
    buffer.populate(0, 6 * MIB2).unwrap();
    buffer.write_at(3 * MIB2 - 2, b"over").unwrap();
    buffer.truncate(8 * MIB2).unwrap();
    buffer.truncate(MIB2).unwrap();
    drop((buffer, owner));
    pools.check().unwrap();
    drop(pools);
    assert_eq!(ground.free(), PAGES);
}

#[test]
fn a_shareable_buffer_is_a_buffer_of_the_module() {
    let Some(ground) = Ground::new("device_share") else {
        return;
    };
    let pools = pools(DeviceUse::Automatic);
    let mut here = pools
        .buffer(2 * MIB2 + 5)
        .page_size(HugeSize::MIB2)
        .shareable()
        .create()
        .unwrap();
    assert_eq!(here.receipt().home, Home::Device);
    here.write_at(MIB2, b"to be seen").unwrap();
    let (file, offset) = here.share().unwrap();
    assert_eq!(offset, 0);
    let device_buffer = DeviceBuffer::attach(file.try_clone().unwrap()).unwrap();
    let refused = device_buffer.punch(0, MIB2).unwrap_err();
    assert_eq!(refused.cause(), Some(Cause::Sealed));
    for access in [Access::Copies, Access::InPlaceReadOnly] {
        let file = file.as_fd().try_clone_to_owned().unwrap();
        let there = pools.attach(file, 2 * MIB2 + 5, access).unwrap();
        let mut bytes = [0; 10];
        there.read_at(MIB2, &mut bytes).unwrap();
        assert_eq!(&bytes, b"to be seen");
        assert_eq!(there.receipt().shares[0].giver, Giver::Device);
        if access == Access::InPlaceReadOnly {
            assert_eq!(&there.slice(MIB2, 5).unwrap()[..], b"to be");
        }
    }
    let error = pools.attach(file, 4 * MIB2, Access::Copies).unwrap_err();
    assert_eq!(error.cause(), Cause::RangeBeyondEnd);
    drop((here, device_buffer));
    assert_eq!(ground.free(), PAGES);
}

#[test]
fn where_the_module_is_short_the_rest_comes_from_elsewhere_and_the_receipt_says_so() {
    let Some(ground) = Ground::new("device_short") else {
        return;
    };
    let pools = pools(DeviceUse::Automatic);
    let buffer = pools
        .buffer((PAGES + 4) * MIB2)
        .page_size(HugeSize::MIB2)
        .create()
        .unwrap();
    let receipt = buffer.receipt();
    let said = receipt
        .refusals
        .iter()
        .find(|refusal| refusal.giver == Giver::Device);
    assert!(
        said.is_some_and(|said| said.why.contains("htlb pool")),
        "{receipt}"
    );
    assert!(
        receipt
            .shares
            .iter()
            .all(|share| share.giver == Giver::Kernel),
        "{receipt}"
    );
    drop(buffer);

    let only = Pools::builder().device(DeviceUse::Only).build().unwrap();
    let builder = only.buffer((PAGES + 4) * MIB2).page_size(HugeSize::MIB2);
    let error = builder.strict().create().unwrap_err();
    assert!(error.to_string().contains("htlb pool"), "{error}");
    drop(only);
    assert_eq!(ground.free(), PAGES);

    // What the pool lacks, the module may get from the system.
    ground.surplus(PAGES);
    let only = Pools::builder().device(DeviceUse::Only).build().unwrap();
    let builder = only.buffer((PAGES + 4) * MIB2).page_size(HugeSize::MIB2);
    let buffer = builder.strict().create().unwrap();
    let receipt = buffer.receipt();
    assert_eq!(
        (receipt.shares[0].giver, receipt.populated.raw()),
        (Giver::Device, (PAGES + 4) * MIB2),
        "{receipt}"
    );
    drop((buffer, only));
    ground.surplus(0);
}

#[test]
fn masks_and_runs_are_the_modules_business() {
    let Some(ground) = Ground::new("device_reach") else {
        return;
    };
    let pages = ground.with_runs();
    let pools = pools(DeviceUse::Only);
    let bits = AddressBits::new(32).unwrap();
    let buffer = pools
        .buffer(2 * MIB2)
        .page_size(HugeSize::MIB2)
        .strict()
        .dma_mask(bits)
        .create()
        .unwrap();
    for offset in [0, MIB2] {
        let physical = buffer.page_at(offset).unwrap().physical;
        assert!(
            physical.is_some_and(|at| at + MIB2 <= 1 << 32),
            "{physical:?}"
        );
    }
    let runs = pools
        .buffer(4 * MIB2)
        .page_size(HugeSize::MIB2)
        .strict()
        .contiguity(Contiguity::Whole)
        .create()
        .unwrap();
    let first = runs.page_at(0).unwrap().physical.unwrap();
    for page in 1..4 {
        let physical = runs.page_at(page * MIB2).unwrap().physical.unwrap();
        assert_eq!(physical, first + page * MIB2);
    }
    assert_eq!(runs.receipt().home, Home::Device);
    drop((buffer, runs, pools));
    assert_eq!(ground.free(), pages);
}

#[test]
fn a_file_is_loaded_into_it() {
    use htlb_user::load::{fill, Options, Source, Span};
    let Some(ground) = Ground::new("device_load") else {
        return;
    };
    let pools = pools(DeviceUse::Only);
    let path = std::env::current_exe().unwrap();
    let content = std::fs::read(&path).unwrap();
    let len = content.len().min(usize::try_from(PAGES * MIB2).unwrap());
    let file = std::env::temp_dir().join(format!("htlb-device-{}", std::process::id()));
    std::fs::write(&file, &content[..len]).unwrap();
    let mut buffer = pools
        .buffer(len as u64)
        .page_size(HugeSize::MIB2)
        .shareable()
        .create()
        .unwrap();
    {
        let mut bytes = buffer.as_mut_slice().unwrap();
        let source = Source::open(&file).unwrap();
        let spans = &mut [Span::new(&mut bytes)];
        let report = fill(&source, spans, &Options::default(), |_| {}).unwrap();
        assert_eq!(report.bytes, len as u64);
    }
    assert_eq!(&buffer.as_slice().unwrap()[..], &content[..len]);
    std::fs::remove_file(&file).unwrap();
    drop((buffer, pools));
    assert_eq!(ground.free(), PAGES);
}

/// A block device that the guest makes (`brd`).
const DISK: &str = "/dev/ram0";

#[test]
fn a_disk_writes_into_it_by_direct_io() {
    use htlb_user::load::{fill, Options, Source, Span};
    let test = "a_disk_writes_into_it_by_direct_io";
    let Some(ground) = Ground::new(test) else {
        return;
    };
    let len = 4 * MIB2;
    let content: Vec<u8> = (0..len).map(|at| (at % 239) as u8).collect();
    let Some(disk) = empty_disk(content.len()) else {
        htlb_tests::skip::skip(test, htlb_tests::skip::NO_RAM_DISK);
        return;
    };
    disk.write_all_at(&content, 0).unwrap();
    disk.sync_all().unwrap();
    let pools = pools(DeviceUse::Only);
    let source = Source::open(DISK.as_ref()).unwrap();
    assert!(source.is_direct());
    // The disk may be larger than the pool.
    ground.surplus(source.len().unwrap().div_ceil(MIB2));
    let mut buffer = pools
        .buffer(source.len().unwrap())
        .page_size(HugeSize::MIB2)
        .strict()
        .create()
        .unwrap();
    {
        let mut bytes = buffer.as_mut_slice().unwrap();
        let spans = &mut [Span::new(&mut bytes)];
        let report = fill(&source, spans, &Options::default(), |_| {}).unwrap();
        assert_eq!(
            (report.direct_bytes, report.buffered_bytes),
            (report.bytes, 0)
        );
    }
    assert!(buffer.slice(0, len).unwrap()[..] == content[..]);
    disk.write_all_at(&vec![0; content.len()], 0).unwrap();
    drop((buffer, pools));
    ground.surplus(0);
    assert_eq!(ground.free(), PAGES);
}

/// The disk, if it holds nothing that could be lost.
fn empty_disk(len: usize) -> Option<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    let disk = options.read(true).write(true).open(DISK).ok()?;
    let mut bytes = vec![1; len];
    disk.read_exact_at(&mut bytes, 0).ok()?;
    bytes.iter().all(|byte| *byte == 0).then_some(disk)
}

/// The mode of the device, put back when dropped.
struct Opened(Permissions);

impl Opened {
    fn to_everybody() -> Self {
        let before = std::fs::metadata(DEVICE).unwrap().permissions();
        set_permissions(DEVICE, Permissions::from_mode(0o666)).unwrap();
        Self(before)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        set_permissions(DEVICE, self.0.clone()).unwrap();
    }
}

#[test]
fn a_user_without_rights_has_masks_and_runs_from_the_module_and_no_more() {
    let test = "a_user_without_rights_has_masks_and_runs_from_the_module_and_no_more";
    if role().is_some() {
        return as_nobody();
    }
    let Some(ground) = Ground::new(test) else {
        return;
    };
    let pages = ground.with_runs();
    let mut child = again(test, "nobody");
    child.uid(65534).gid(65534);
    {
        let _opened = Opened::to_everybody();
        went_well(child);
    }
    assert_eq!(ground.free(), pages);
}

/// The kernel shows this process no physical address, so what the module says must do.
fn as_nobody() {
    let pools = pools(DeviceUse::Only);
    let buffer = pools
        .buffer(2 * MIB2)
        .page_size(HugeSize::MIB2)
        .strict()
        .dma_mask(AddressBits::new(32).unwrap())
        .create()
        .unwrap();
    assert_eq!(buffer.page_at(0).unwrap().physical, None);
    let runs = pools
        .buffer(4 * MIB2)
        .page_size(HugeSize::MIB2)
        .contiguity(Contiguity::Whole)
        .create()
        .unwrap();
    assert_eq!(runs.receipt().shares[0].giver, Giver::Device);
    let device = Device::open().unwrap();
    let target = ByteLen::new(MIB2);
    let refused = device.resize(HugeSize::MIB2, None, target).unwrap_err();
    assert_eq!(refused.errno(), libc::EPERM);
    assert!(refused.to_string().contains("run as root"), "{refused}");
    let request = device_support::strict(1);
    let own = device
        .create(&request, request.size(), Populate::Now)
        .unwrap();
    assert_eq!(own.lookup(0).unwrap_err().errno(), libc::EPERM);
}

#[test]
fn a_device_that_may_not_be_opened_is_a_line_in_the_receipt() {
    let test = "a_device_that_may_not_be_opened_is_a_line_in_the_receipt";
    if role().is_some() {
        let buffer = pools(DeviceUse::Automatic)
            .buffer(2 * MIB2)
            .page_size(HugeSize::MIB2)
            .create();
        let text = buffer.unwrap().receipt().to_string();
        assert!(text.contains("may not be opened by this user"), "{text}");
        return;
    }
    let Some(_ground) = Ground::new(test) else {
        return;
    };
    let mut child = again(test, "nobody");
    child.uid(65534).gid(65534);
    went_well(child);
}

#[test]
fn pages_of_one_gib_come_from_the_module_where_nothing_else_may_give_any() {
    let test = "device_gib";
    let Some(ground) = Ground::new(test) else {
        return;
    };
    let pools = pools(DeviceUse::Only);
    let builder = pools.buffer(1 << 30).page_size(HugeSize::GIB1).strict();
    let mut buffer = match builder.create() {
        Ok(buffer) => buffer,
        Err(error) if error.cause() == Cause::OutOfPages => {
            htlb_tests::skip::skip(test, htlb_tests::skip::NO_GIB_PAGES);
            return;
        }
        Err(error) => panic!("{error}"),
    };
    buffer.write_at((1 << 30) - 3, b"end").unwrap();
    let bytes = buffer.as_slice().unwrap();
    assert_eq!(&bytes[(1 << 30) - 5..], b"\0\0end");
    drop(bytes);
    let receipt = buffer.receipt();
    assert_eq!(
        (receipt.shares[0].giver, receipt.shares[0].size),
        (Giver::Device, HugeSize::GIB1)
    );
    drop((buffer, pools));
    let stats = ground.device.stats(HugeSize::GIB1, None).unwrap();
    assert_eq!(stats.free, stats.total);
}
