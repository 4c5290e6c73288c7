// SPDX-License-Identifier: GPL-2.0-only
//! A driver in Rust that uses everything of `htlb_driver` that the example for QEMU's device does not.
//!
//! `/dev/htlb_rust` has a buffer of its own for each opening, which mapping it shows. Each of its ioctls is a case: the answer is 0, or the
//! line of the first expectation that did not hold.

use htlb_driver::{Buffer, Nodes, Request};
use kernel::device::{Bound, Device};
use kernel::dma::DataDirection;
use kernel::fs::File;
use kernel::miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration};
use kernel::mm::virt::VmaNew;
use kernel::prelude::*;
use kernel::{bindings, faux};

const HUGE: u64 = 2 << 20;
const BASE: u64 = 4096;

/// Leaves the case with its line unless this holds.
macro_rules! expect {
    ($what:expr) => {
        if !$what {
            return Ok(line!() as isize);
        }
    };
}

struct Opening {
    kept: Buffer,
}

fn strict(pages: u64) -> Request<'static> {
    Request::new(pages * HUGE).page_size(HUGE).strict()
}

/// The first byte of the page at an offset.
fn first_byte(buffer: &Buffer, offset: u64) -> Result<u8> {
    let mut byte = 0;
    let pin = buffer.pin(offset)?;
    // SAFETY: one byte, into a place of ours; the page is pinned.
    unsafe { pin.page().read_raw(&mut byte, 0, 1)? };
    Ok(byte)
}

fn requests() -> Result<isize> {
    let buffer = strict(2).capacity(4 * HUGE).unpromised().create()?;
    expect!(buffer.size() == 2 * HUGE && buffer.page_at(0).is_none());
    let buffer = strict(2).populated().contiguous().alignment(HUGE).create()?;
    let (first, last) = (buffer.page_at(0), buffer.page_at(2 * HUGE - 1));
    let (Some(first), Some(last)) = (first, last) else { return Ok(line!() as isize) };
    // Page structures of contiguous memory are contiguous.
    let apart = (last.as_ptr() as usize).wrapping_sub(first.as_ptr() as usize) / size_of::<bindings::page>();
    expect!(apart as u64 == 2 * HUGE / BASE - 1);
    expect!(strict(2).runs(2 * HUGE).dma_bits(40).create().is_ok());
    expect!(strict(2).nodes(Nodes::Default).create().is_ok());
    expect!(strict(2).nodes(Nodes::Bind(1)).create().is_ok());
    expect!(strict(2).nodes(Nodes::Preferred(2)).create().is_ok());
    expect!(strict(2).nodes(Nodes::Interleave(3)).create().is_ok());
    expect!(strict(1).nodes(Nodes::Bind(1 << 40)).create().is_err_and(|error| error == EINVAL));
    expect!(strict(1).gfp(bindings::GFP_KERNEL).create().is_ok());
    expect!(strict(1).gfp(1 << 31).create().is_err_and(|error| error == EINVAL));
    expect!(Request::new(0).create().is_err_and(|error| error == EINVAL));
    Ok(0)
}

fn pages() -> Result<isize> {
    let buffer = strict(4).unpromised().create()?;
    buffer.reserve(0..2 * HUGE)?;
    expect!(buffer.reserve(HUGE..0).is_err_and(|error| error == EINVAL));
    buffer.populate_zeroed(0..HUGE)?;
    expect!(first_byte(&buffer, 0)? == 0);
    expect!(buffer.pin(HUGE).is_err_and(|error| error == ENODATA));

    let mut seen = KVec::new();
    buffer.populate(0..3 * HUGE, |page| {
        seen.push(page.offset(), GFP_KERNEL)?;
        // Over the border of two base pages, and not over the end.
        page.write(0, &[7])?;
        page.write(BASE - 2, &[1, 2, 3, 4])?;
        let beyond = page.write(page.len() - 1, &[0; 2]);
        if beyond != Err(EINVAL) || page.len() != HUGE {
            return Err(EDOM);
        }
        Ok(BASE + 2)
    })?;
    expect!(seen[..] == [HUGE, 2 * HUGE]);
    expect!(first_byte(&buffer, HUGE)? == 7 && first_byte(&buffer, HUGE + BASE)? == 3);
    expect!(first_byte(&buffer, HUGE + 2 * BASE)? == 0);
    expect!(buffer.populate(3 * HUGE..4 * HUGE, |_| Err(ENOSPC)) == Err(ENOSPC));
    expect!(buffer.page_at(3 * HUGE).is_none());

    let pin = buffer.pin(HUGE)?;
    expect!(buffer.punch(0..4 * HUGE) == Err(EBUSY));
    drop(pin);
    let seal = buffer.seal()?;
    expect!(buffer.punch(0..4 * HUGE) == Err(EPERM));
    drop(seal);
    let other = buffer.clone();
    drop(buffer);
    other.punch(0..4 * HUGE)?;
    expect!(other.page_at(HUGE).is_none());
    Ok(0)
}

fn descriptors() -> Result<isize> {
    let buffer = strict(1).populated().create()?;
    let fd = buffer.install_fd()?;
    let same = Buffer::from_fd(fd);
    // SAFETY: closes a descriptor of the calling program, which does not know it yet.
    expect!(unsafe { bindings::close_fd(fd as u32) } == 0);
    expect!(same?.page_at(0) == buffer.page_at(0));
    expect!(Buffer::from_fd(fd).is_err_and(|error| error == EBADF));
    expect!(Buffer::from_fd(-1).is_err_and(|error| error == EBADF));
    Ok(0)
}

fn tables() -> Result<isize> {
    let registration = faux::Registration::new(c"htlb_rust", None)?;
    let faux: &faux::Device<Bound> = registration.as_ref();
    let device: &Device<Bound> = faux.as_ref();
    let buffer = strict(2).create()?;
    // It has no DMA mask.
    let refused = buffer.sg_map(device, 0..HUGE, DataDirection::ToDevice);
    expect!(refused.is_err_and(|error| error == EFAULT));
    let raw: *mut bindings::device = core::ptr::from_ref(device).cast_mut().cast();
    // SAFETY: the device is this function's, and nobody maps anything for it meanwhile.
    unsafe {
        (*raw).coherent_dma_mask = u64::MAX;
        (*raw).dma_mask = &raw mut (*raw).coherent_dma_mask;
    }
    let buffer = strict(2).device(device).create()?;
    let map = buffer.sg_map(device, BASE..2 * HUGE, DataDirection::Bidirectional)?;
    map.sync_for_device();
    map.sync_for_cpu();
    let len = map.iter().fold(0, |sum, entry| sum + entry.dma_len());
    expect!(len == 2 * HUGE - BASE);
    let first = map.iter().next().map(|entry| entry.dma_address());
    expect!(map.address_of(5).map(|(address, _)| address) == first.map(|first| first + 5));
    expect!(map.address_of(len).is_none());
    expect!(buffer.punch(0..HUGE) == Err(EPERM));
    drop(map);
    buffer.punch(0..HUGE)?;
    Ok(0)
}

#[vtable]
impl MiscDevice for Opening {
    type Ptr = KBox<Self>;

    fn open(_: &File, _: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        let kept = strict(2).create()?;
        kept.populate(0..kept.size(), |page| {
            page.write(0, &[(page.offset() / HUGE) as u8 + 0xa0])?;
            Ok(1)
        })?;
        Ok(KBox::new(Self { kept }, GFP_KERNEL)?)
    }

    fn mmap(opening: &Self, _: &File, area: &VmaNew) -> Result {
        opening.kept.mmap(area)
    }

    fn ioctl(_: &Self, _: &File, number: u32, _: usize) -> Result<isize> {
        match number {
            0xbd00 => requests(),
            0xbd01 => pages(),
            0xbd02 => descriptors(),
            0xbd03 => tables(),
            _ => Err(ENOTTY),
        }
    }
}

#[pin_data]
struct RustCaller {
    #[pin]
    device: MiscDeviceRegistration<Opening>,
}

impl kernel::InPlaceModule for RustCaller {
    fn init(_: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            device <- MiscDeviceRegistration::register(MiscDeviceOptions { name: c"htlb_rust" }),
        })
    }
}

module! {
    type: RustCaller,
    name: "htlb_rust",
    authors: ["The htlb authors"],
    description: "Test: calls what htlb_driver has",
    license: "GPL",
}
