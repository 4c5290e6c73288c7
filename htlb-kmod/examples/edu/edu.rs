// SPDX-License-Identifier: GPL-2.0-only
//! A PCI driver for QEMU's educational device (`-device edu`), whose DMA engine reaches 28 address bits.
//!
//! When a device is found, it is made to write into a buffer, before any program maps that. `/dev/htlb_edu` then maps
//! the buffer: at its start the pattern, `byte n = 7n + 3`, that the driver gave to the device, and at each of
//! [`PLACES`] the copy that the device wrote; all else is zero. Mappings outlive the driver.

use htlb_driver::{Buffer, Node, Request, SgMap};
use kernel::device::Core;
use kernel::dma::{DataDirection, Device, DmaMask};
use kernel::io::Io;
use kernel::pci;
use kernel::prelude::*;
use kernel::time::{delay::fsleep, Delta};

const SIZE: u64 = 8 << 20;
const PAGE: u64 = 2 << 20;
/// Where the device writes: the second reaches over the end of a page.
const PLACES: [u64; 3] = [1 << 20, (4 << 20) - 1024, SIZE - PATTERN as u64];
/// The device refuses to transfer all of its own memory, which is 4096 bytes.
const PATTERN: usize = 2048;
const OWN_MEMORY: u64 = 0x40000;

const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const START: u32 = 1 << 0;
const TO_MEMORY: u32 = 1 << 1;

type Registers<'a> = pci::Bar<'a, 0x100>;

struct Edu;

kernel::pci_device_table!(
    EDU_TABLE,
    <Edu as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_class(0x00_ff00, 0xff_ffff), ())]
);

impl pci::Driver for Edu {
    type IdInfo = ();
    type Data<'bound> = Node<LocalModule>;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &EDU_TABLE;

    fn probe<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        _: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || Ok(Node::register(c"htlb_edu", filled_by(device)?)))
    }
}

/// A buffer that the device can reach and has written to.
fn filled_by(device: &pci::Device<Core<'_>>) -> Result<Buffer> {
    if device.device_id() != 0x11e8 {
        return Err(ENODEV);
    }
    device.enable_device_mem()?;
    device.set_master();
    // SAFETY: nothing is allocated or mapped for this device yet.
    unsafe { device.dma_set_mask_and_coherent(DmaMask::new::<28>())? };
    let registers = device.iomap_region_sized(0, c"htlb_edu")?;

    let buffer = Request::new(SIZE).page_size(PAGE).strict().device(device.as_ref()).create()?;
    buffer.populate(0..PAGE, |page| {
        let mut pattern = [0; PATTERN];
        pattern.iter_mut().zip(0u32..).for_each(|(byte, n)| *byte = n.wrapping_mul(7).wrapping_add(3) as u8);
        page.write(0, &pattern)?;
        Ok(PATTERN as u64)
    })?;
    let map = buffer.sg_map(device.as_ref(), 0..SIZE, DataDirection::Bidirectional)?;
    transfer(&registers, &map, 0, START)?;
    for place in PLACES {
        transfer(&registers, &map, place, START | TO_MEMORY)?;
    }
    drop(map);
    Ok(buffer)
}

/// Copies between the device's memory and the buffer, a piece for each run.
fn transfer(registers: &Registers<'_>, map: &SgMap<'_>, offset: u64, command: u32) -> Result {
    let mut done = 0;
    while done < PATTERN as u64 {
        let (address, left) = map.address_of(offset + done).ok_or(ENXIO)?;
        let count = left.min(PATTERN as u64 - done);
        let (from, to) = if command & TO_MEMORY == 0 {
            (address, OWN_MEMORY + done)
        } else {
            (OWN_MEMORY + done, address)
        };
        registers.write32(from as u32, SOURCE);
        registers.write32(to as u32, DESTINATION);
        registers.write32(count as u32, COUNT);
        registers.write32(command, COMMAND);
        wait(registers)?;
        done += count;
    }
    Ok(())
}

/// A transfer takes the device 100 milliseconds.
fn wait(registers: &Registers<'_>) -> Result {
    for _ in 0..2000 {
        if registers.read32(COMMAND) & START == 0 {
            return Ok(());
        }
        fsleep(Delta::from_millis(1));
    }
    Err(ETIMEDOUT)
}

kernel::module_pci_driver! {
    type: Edu,
    name: "htlb_edu",
    authors: ["The htlb authors"],
    description: "Example: QEMU's edu device writes into huge pages before a program maps them",
    license: "GPL",
}
