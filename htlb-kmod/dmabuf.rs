// SPDX-License-Identifier: GPL-2.0-only
//! A range of a buffer as a dma-buf, for devices of other drivers.
//!
//! A device that attaches gets every page of the range populated and mapped for it at once, and the buffer sealed until it
//! detaches; so mapping an attachment costs nothing but what caches need. While nobody is attached the range can be
//! punched and populated like any other, which programs that have the dma-buf mapped see.
//!
//! Lock order: the dma-buf's reservation lock, then `attached` or `view`, then what [`crate::machine`] says.

use htlb_core::driver::Content;
use htlb_core::page_map::Seal;
use htlb_core::uapi::Export;
use htlb_core::{ByteOffset, ByteRange, Error as Reason};
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};

use crate::error::errno;
use crate::ffi::dmabuf::{DmaBuf, Mapped, View, MODES};
use crate::ffi::file::BufferFile;
use crate::ffi::sg::{Device, Direction};
use crate::runs::Runs;
use crate::segments;

/// What a dma-buf refers to.
#[pin_data]
pub(crate) struct Exported {
    file: BufferFile,
    /// Whole base pages.
    range: ByteRange,
    #[pin]
    attached: Mutex<KVec<Entry>>,
    #[pin]
    view: Mutex<Option<(View, Sealed)>>,
}

/// A device that is attached.
pub(crate) struct Attachment {
    // Dropped first: the device lets go before the pages may.
    mapped: Mapped,
    _sealed: Sealed,
}

struct Entry {
    attachment: Arc<Attachment>,
    /// How often the importer has it mapped now.
    maps: u32,
}

/// Keeps every page of a buffer where it is.
struct Sealed {
    file: BufferFile,
    seal: Option<Seal>,
}

impl Sealed {
    fn new(file: &BufferFile) -> Result<Self, Reason> {
        let seal = file.buffer().seal()?;
        Ok(Self { file: file.clone(), seal: Some(seal) })
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if let Some(seal) = self.seal.take() {
            self.file.buffer().map().unseal(seal);
        }
    }
}

/// Up to the next base page: a buffer's last page is whole, wherever its size ends.
fn whole(bytes: u64) -> Result<u64> {
    bytes.checked_next_multiple_of(PAGE_SIZE as u64).ok_or(EOVERFLOW)
}

/// The range of a buffer that is meant: `len` bytes from `offset` on, or all from there with a `len` of 0.
fn range_of(file: &BufferFile, offset: u64, len: u64) -> Result<ByteRange> {
    let base = PAGE_SIZE as u64;
    if offset % base != 0 || len % base != 0 {
        return Err(errno(Reason::RangeUnaligned));
    }
    let size = whole(file.buffer().size().raw())?;
    let end = if len == 0 { size } else { offset.checked_add(len).ok_or(EOVERFLOW)? };
    if offset > size || end > size {
        return Err(errno(Reason::RangeBeyondEnd));
    }
    let range = ByteRange::new(ByteOffset::new(offset), ByteOffset::new(end)).map_err(errno)?;
    if range.is_empty() {
        return Err(errno(Reason::RangeEmpty));
    }
    Ok(range)
}

/// A dma-buf of `len` bytes from `offset` on, 0 for all from there. Of `flags`, the access mode and `O_CLOEXEC` are known.
pub(crate) fn export(file: &BufferFile, offset: u64, len: u64, flags: u32) -> Result<DmaBuf> {
    if flags & !MODES != 0 {
        return Err(EINVAL);
    }
    let range = range_of(file, offset, len)?;
    let exported = Arc::pin_init(
        pin_init!(Exported {
            file: file.clone(),
            range,
            attached <- new_mutex!(KVec::new(), "htlb::attached"),
            view <- new_mutex!(None, "htlb::view"),
        }),
        GFP_KERNEL_ACCOUNT,
    )?;
    DmaBuf::new(exported, range.len().raw(), flags)
}

/// The ioctl. The descriptor is the program's only once it knows its number.
pub(crate) fn export_ioctl(file: &BufferFile, argument: usize) -> Result<isize> {
    use kernel::fs::file::flags::{O_CLOEXEC, O_RDWR};
    let (mut record, size) = crate::ioctl::read::<Export>(argument)?;
    if record.flags & !(O_CLOEXEC | O_RDWR) != 0 || record.reserved != 0 {
        return Err(errno(Reason::RecordFlags));
    }
    let exported = export(file, record.offset, record.len, record.flags)?;
    exported.install(record.flags & O_CLOEXEC, |fd| {
        record.fd = fd;
        crate::ioctl::write(argument, size, &record)
    })?;
    Ok(0)
}

impl Exported {
    /// The buffer's file.
    pub(crate) fn file(&self) -> &BufferFile {
        &self.file
    }

    /// Where the range begins in the buffer, in base pages.
    pub(crate) fn first_page(&self) -> u64 {
        self.range.start().raw() >> PAGE_SHIFT
    }

    /// Every page of the range, there and staying for as long as the answer lives.
    fn hold(&self) -> Result<Sealed> {
        let sealed = Sealed::new(&self.file).map_err(errno)?;
        let buffer = self.file.buffer();
        // What a truncate took is not there any more, and no page can be put there.
        let end = self.range.end().raw().min(buffer.size().raw());
        if whole(end)? < self.range.end().raw() {
            return Err(errno(Reason::RangeBeyondEnd));
        }
        let there = ByteRange::new(self.range.start(), ByteOffset::new(end));
        let pages = there.and_then(|there| buffer.whole_pages(there)).map_err(errno)?;
        buffer.populate(pages, &mut Content::Zeroes).map_err(errno)?;
        Ok(sealed)
    }

    /// Maps the range for a device.
    pub(crate) fn attach(&self, device: Device<'static>) -> Result<Arc<Attachment>> {
        let sealed = self.hold()?;
        let table = segments::table(&self.file.buffer(), device, self.range)?;
        let attachment = Arc::new(Attachment { mapped: Mapped::new(table, device)?, _sealed: sealed }, GFP_KERNEL_ACCOUNT)?;
        self.attached.lock().push(Entry { attachment: attachment.clone(), maps: 0 }, GFP_KERNEL_ACCOUNT)?;
        Ok(attachment)
    }

    /// The device is not attached any more.
    pub(crate) fn detach(&self, attachment: Arc<Attachment>) {
        let entry = {
            let mut attached = self.attached.lock();
            let at = attached.iter().position(|entry| Arc::ptr_eq(&entry.attachment, &attachment));
            at.and_then(|at| attached.remove(at).ok())
        };
        // Unmapped with no lock held.
        drop(entry);
    }

    /// The device gets the range: what processors wrote reaches it.
    pub(crate) fn map(&self, attachment: &Attachment, direction: Direction) -> Result {
        let mut attached = self.attached.lock();
        let entry = find(&mut attached, attachment).ok_or(EINVAL)?;
        entry.maps = entry.maps.checked_add(1).ok_or(EOVERFLOW)?;
        attachment.mapped.sync_for_device(direction);
        Ok(())
    }

    /// The device gives it back: what it wrote reaches processors.
    pub(crate) fn unmap(&self, attachment: &Attachment, direction: Direction) {
        let mut attached = self.attached.lock();
        if let Some(entry) = find(&mut attached, attachment) {
            entry.maps = entry.maps.saturating_sub(1);
            attachment.mapped.sync_for_cpu(direction);
        }
    }

    /// Processors are about to touch the range.
    ///
    /// An attachment that nobody has mapped is left alone: what was copied for its device, if anything was, is older.
    pub(crate) fn begin_cpu_access(&self, direction: Direction) {
        for entry in self.attached.lock().iter().filter(|entry| entry.maps > 0) {
            entry.attachment.mapped.sync_for_cpu(direction);
        }
    }

    /// They are done.
    pub(crate) fn end_cpu_access(&self, direction: Direction) {
        for entry in self.attached.lock().iter().filter(|entry| entry.maps > 0) {
            entry.attachment.mapped.sync_for_device(direction);
        }
    }

    /// One piece of the kernel's address space for all of the range.
    pub(crate) fn view(&self) -> Result<*mut c_void> {
        let mut view = self.view.lock();
        let sealed = self.hold()?;
        let pages = usize::try_from(self.range.len().raw() >> PAGE_SHIFT)?;
        let mut frames = KVVec::with_capacity(pages, GFP_KERNEL | __GFP_NOWARN)?;
        for run in Runs::new(self.file.buffer().map(), self.range) {
            let run = run.map_err(errno)?;
            let first = run.physical >> PAGE_SHIFT;
            for frame in first..first.saturating_add(run.len >> PAGE_SHIFT) {
                frames.push(frame, GFP_KERNEL)?;
            }
        }
        let new = View::new(frames)?;
        let address = new.address();
        *view = Some((new, sealed));
        Ok(address)
    }

    /// The end of [`Exported::view`].
    pub(crate) fn unview(&self) {
        let gone = self.view.lock().take();
        drop(gone);
    }
}

impl Attachment {
    /// What the importer is given.
    pub(crate) fn mapped(&self) -> &Mapped {
        &self.mapped
    }
}

fn find<'a>(attached: &'a mut KVec<Entry>, attachment: &Attachment) -> Option<&'a mut Entry> {
    attached.iter_mut().find(|entry| core::ptr::eq(&*entry.attachment, attachment))
}
