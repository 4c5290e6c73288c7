// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Somebody else's driver, with nothing but `htlb-core`: a camera that drives 32 address bits fills a buffer of huge
//! pages before any program maps it. `cargo run -p htlb-tests --example driver`

mod machine;

use htlb_core::driver::{self, Content};
use htlb_core::{
    AddressBits, Blank, ByteLen, ByteOffset, ByteRange, Error, HugeSize, Pfn, Request, Stop,
};
use machine::{Machine, PAGE};

/// A camera's DMA engine, with as many address lines as the mask has bits.
struct Camera {
    mask: AddressBits,
}

impl Camera {
    /// Writes `len` bytes of its picture from byte `from` on to a physical address, as far as its address lines go.
    fn dma(&self, bus: &Machine, pfn: Pfn, from: u64, len: u64) -> Result<(), Error> {
        if !self.mask.covers(pfn, PAGE) {
            return Err(Error::OutOfReach);
        }
        bus.with_page(pfn, |bytes| {
            for (byte, at) in bytes.iter_mut().zip(from..from + len) {
                *byte = pixel(at);
            }
        })
    }
}

fn pixel(at: u64) -> u8 {
    (at % 251) as u8
}

fn main() -> Result<(), Stop> {
    let machine = Machine::boot()?;
    let camera = Camera {
        mask: AddressBits::new(32)?,
    };
    let picture = ByteLen::new(7_000_000); // three pages and a third

    // Probe: as many pages as the picture needs, all within the camera's mask. From here on they are certain.
    let request = Request::builder(picture).page_size(PAGE).strict();
    let mut buffer = machine.buffer(&request.dma_mask(camera.mask).build()?)?;
    // So is what is left for others: four pages, though all eight are free.
    let greedy = Request::builder(ByteLen::new(5 * PAGE.bytes()))
        .page_size(PAGE)
        .strict();
    assert_eq!(machine.buffer(&greedy.build()?).err(), Some(Error::NoRoom));

    // Capture: the device fills each page in place; nobody has mapped one. The rest of the last page is zeroed.
    let whole = ByteRange::at(ByteOffset::ZERO, picture)?;
    let mut capture = |page: &Blank| {
        let len = (picture.raw() - page.offset).min(page.size.bytes());
        camera
            .dma(&machine, page.pfn, page.offset, len)
            .map(|()| len)
    };
    let pages = driver::populate(
        &machine,
        &buffer,
        whole,
        &mut Content::Producer(&mut capture),
    )?;
    println!("captured {picture} bytes into {pages} pages");

    // While the device owns the buffer, no page may leave.
    let seal = buffer.map().seal()?;
    assert_eq!(driver::punch(&machine, &buffer, whole), Err(Error::Sealed));
    buffer.map().unseal(seal);

    // A program maps it and touches every byte: each fault finds a page.
    for offset in (0..picture.raw()).step_by(PAGE.bytes() as usize) {
        let found = driver::fault(&machine, &buffer, ByteOffset::new(offset))?;
        println!(
            "  offset {offset:>8} is at {:#x}",
            found.pfn.raw() << HugeSize::BASE.shift()
        );
        machine.with_page(found.pfn, |bytes| {
            for (byte, at) in bytes.iter().zip(offset..) {
                assert_eq!(*byte, if at < picture.raw() { pixel(at) } else { 0 });
            }
        })?;
    }

    // Remove: everything is as it was.
    driver::release(&machine, &mut buffer)?;
    let counts = machine.counts().expect("the books are in order");
    assert_eq!((counts.free.raw(), counts.reserved.raw()), (8, 0));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_camera_s_picture_is_there_before_anybody_maps_it() -> Result<(), htlb_core::Stop> {
        super::main()
    }
}
