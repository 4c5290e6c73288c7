// SPDX-License-Identifier: GPL-2.0-only
//! Huge-page buffers for drivers in Rust: what `htlb.ko` exports, as safe types.
//!
//! A driver makes a [`Buffer`] from a [`Request`] when it knows how large it is to be, has its device fill it through an
//! [`SgMap`], and lets programs map it later: through its own file with [`Buffer::mmap`], or through a [`Node`].
//!
//! ```ignore
//! let buffer = Request::new(64 << 20).device(pdev.as_ref()).create()?;
//! let map = buffer.sg_map(pdev.as_ref(), 0..buffer.size(), DataDirection::FromDevice)?;
//! for entry in map.iter() {
//!     start_transfer(entry.dma_address(), entry.dma_len());
//! }
//! ```
//!
//! Lengths and offsets are in bytes. Unless it says otherwise, a function may sleep and needs no user context: it
//! works in probe and in a kernel thread. `Kbuild.include` beside this file says how a module is built with it. All unsafe code of a
//! driver's use of htlb is in here.
#![allow(improper_ctypes)]

use core::marker::{PhantomData, PhantomPinned};
use core::ops::{Deref, Range};
use core::ptr::NonNull;

use kernel::bindings;
use kernel::device::{Bound, Device};
use kernel::dma::DataDirection;
use kernel::error::{from_err_ptr, to_result};
use kernel::mm::virt::VmaNew;
use kernel::module::this_module;
use kernel::page::{BorrowedPage, PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::scatterlist::SGTable;
use kernel::types::Opaque;
use kernel::ModuleMetadata;

/// `struct htlb_buffer`: never looked into.
#[repr(C)]
struct RawBuffer {
    _opaque: [u8; 0],
}

/// `struct htlb_request`.
#[derive(Clone, Copy)]
#[repr(C)]
struct RawRequest {
    size: u64,
    capacity: u64,
    page_size: u64,
    alignment: u64,
    contiguous: u64,
    nodes: u64,
    node_policy: u32,
    flags: u32,
    gfp: bindings::gfp_t,
    dma_bits: u32,
    dev: *mut bindings::device,
}

type RawFill = unsafe extern "C" fn(*mut c_void, *mut bindings::page, u64, u64) -> isize;

extern "C" {
    fn htlb_create(request: *const RawRequest) -> *mut RawBuffer;
    fn htlb_from_fd(fd: c_int) -> *mut RawBuffer;
    fn htlb_get(buffer: *mut RawBuffer) -> *mut RawBuffer;
    fn htlb_put(buffer: *mut RawBuffer);
    fn htlb_install_fd(buffer: *mut RawBuffer, flags: c_int) -> c_int;
    fn htlb_size(buffer: *const RawBuffer) -> u64;
    fn htlb_reserve(buffer: *mut RawBuffer, offset: u64, len: u64) -> c_int;
    fn htlb_populate(buffer: *mut RawBuffer, offset: u64, len: u64, fill: Option<RawFill>, context: *mut c_void) -> c_int;
    fn htlb_punch(buffer: *mut RawBuffer, offset: u64, len: u64) -> c_int;
    fn htlb_page_at(buffer: *const RawBuffer, offset: u64) -> *mut bindings::page;
    fn htlb_pin(buffer: *mut RawBuffer, offset: u64, page: *mut *mut bindings::page) -> c_int;
    fn htlb_unpin(buffer: *mut RawBuffer, offset: u64);
    fn htlb_seal(buffer: *mut RawBuffer) -> c_int;
    fn htlb_unseal(buffer: *mut RawBuffer);
    fn htlb_sg_map(
        buffer: *mut RawBuffer,
        dev: *mut bindings::device,
        offset: u64,
        len: u64,
        direction: bindings::dma_data_direction,
    ) -> *mut bindings::sg_table;
    fn htlb_sg_unmap(
        buffer: *mut RawBuffer,
        dev: *mut bindings::device,
        table: *mut bindings::sg_table,
        direction: bindings::dma_data_direction,
    );
    fn htlb_mmap(buffer: *mut RawBuffer, vma: *mut bindings::vm_area_struct) -> c_int;
    fn htlb_get_unmapped_area(
        buffer: *mut RawBuffer,
        address: c_ulong,
        len: c_ulong,
        pgoff: c_ulong,
        flags: c_ulong,
    ) -> c_ulong;
}

/// On which nodes the pages are to lie: one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// That of the device, else the caller's, first.
    Default,
    /// These only.
    Bind(u64),
    /// These first.
    Preferred(u64),
    /// Page by page over these.
    Interleave(u64),
}

/// What a driver wants.
#[derive(Clone, Copy)]
#[must_use = "a request does nothing until create() is called"]
pub struct Request<'a> {
    raw: RawRequest,
    _device: PhantomData<&'a Device<Bound>>,
}

impl<'a> Request<'a> {
    const STRICT: u32 = 1 << 0;
    const CONTIGUOUS: u32 = 1 << 1;
    const NORESERVE: u32 = 1 << 2;
    const POPULATE: u32 = 1 << 3;

    /// So many bytes, in the largest pages that fit, all of them promised.
    pub const fn new(size: u64) -> Self {
        let raw = RawRequest {
            size,
            capacity: 0,
            page_size: 0,
            alignment: 0,
            contiguous: 0,
            nodes: 0,
            node_policy: 0,
            flags: 0,
            gfp: 0,
            dma_bits: 0,
            dev: core::ptr::null_mut(),
        };
        Self { raw, _device: PhantomData }
    }

    /// It may grow to so many bytes.
    pub const fn capacity(mut self, bytes: u64) -> Self {
        self.raw.capacity = bytes;
        self
    }

    /// Pages of this size first; smaller ones where those are short, unless the request is [`Request::strict`].
    pub const fn page_size(mut self, bytes: u64) -> Self {
        self.raw.page_size = bytes;
        self
    }

    /// The page size asked for, or an error.
    pub const fn strict(mut self) -> Self {
        self.raw.flags |= Self::STRICT;
        self
    }

    /// The physical alignment of each page or run.
    pub const fn alignment(mut self, bytes: u64) -> Self {
        self.raw.alignment = bytes;
        self
    }

    /// Physically contiguous runs of so many bytes.
    pub const fn runs(mut self, bytes: u64) -> Self {
        self.raw.contiguous = bytes;
        self
    }

    /// All of it physically contiguous.
    pub const fn contiguous(mut self) -> Self {
        self.raw.flags |= Self::CONTIGUOUS;
        self
    }

    /// No page is promised: each is had when it is populated, or not.
    pub const fn unpromised(mut self) -> Self {
        self.raw.flags |= Self::NORESERVE;
        self
    }

    /// Every page is there, zeroed, when the buffer is.
    pub const fn populated(mut self) -> Self {
        self.raw.flags |= Self::POPULATE;
        self
    }

    /// On these nodes.
    pub const fn nodes(mut self, nodes: Nodes) -> Self {
        (self.raw.node_policy, self.raw.nodes) = match nodes {
            Nodes::Default => (0, 0),
            Nodes::Bind(nodes) => (1, nodes),
            Nodes::Preferred(nodes) => (2, nodes),
            Nodes::Interleave(nodes) => (3, nodes),
        };
        self
    }

    /// This GFP mask, for pages from outside the pool.
    pub const fn gfp(mut self, mask: bindings::gfp_t) -> Self {
        self.raw.gfp = mask;
        self
    }

    /// Only pages that so many address bits reach.
    pub const fn dma_bits(mut self, bits: u32) -> Self {
        self.raw.dma_bits = bits;
        self
    }

    /// For this device, whose DMA mask is set already: only pages that it reaches, those of its node first.
    pub fn device<'b>(self, device: &'b Device<Bound>) -> Request<'b>
    where
        'a: 'b,
    {
        let raw = RawRequest { dev: raw(device), ..self.raw };
        Request { raw, _device: PhantomData }
    }

    /// The buffer.
    ///
    /// `EINVAL` for a request that contradicts itself, `ENOMEM` where the pages are not to be had.
    pub fn create(&self) -> Result<Buffer> {
        // SAFETY: the record is ours, and the device in it lives for `'a`.
        Buffer::from_raw(unsafe { htlb_create(&self.raw) })
    }
}

/// A reference to a buffer.
///
/// # Invariants
///
/// The pointer came from `htlb.ko` with a reference that is ours.
pub struct Buffer(NonNull<RawBuffer>);

// SAFETY: the count is atomic, and all functions may be called from any thread.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// The device, as C sees it: what the kernel's type wraps.
fn raw(device: &Device<Bound>) -> *mut bindings::device {
    core::ptr::from_ref(device).cast_mut().cast()
}

fn len_of(range: &Range<u64>) -> Result<u64> {
    range.end.checked_sub(range.start).ok_or(EINVAL)
}

/// A base page of a huge one, by its number; `None` beyond the `len` bytes.
///
/// # Safety
///
/// `first` is the first base page of `len` contiguous bytes of memory, which exist for `'a`.
unsafe fn base_page<'a>(first: NonNull<bindings::page>, len: u64, number: usize) -> Option<BorrowedPage<'a>> {
    let inside = number < (len >> PAGE_SHIFT) as usize;
    // SAFETY: page structures of contiguous memory are contiguous.
    inside.then(|| unsafe { BorrowedPage::from_raw(first.add(number)) })
}

/// Cuts `len` bytes from byte `at` on at the borders of base pages: the number of the page, the offset there, and which of the bytes.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    let mut done = 0usize;
    core::iter::from_fn(move || {
        let from = at.checked_add(done as u64)?;
        let inside = from as usize & (PAGE_SIZE - 1);
        let more = (PAGE_SIZE - inside).min(len.saturating_sub(done));
        let piece = done..done.saturating_add(more);
        done = piece.end;
        (more > 0).then_some(((from >> PAGE_SHIFT) as usize, inside, piece))
    })
}

/// A page that is to be filled, and that nobody else can see yet.
pub struct Blank<'a> {
    first: NonNull<bindings::page>,
    offset: u64,
    len: u64,
    _page: PhantomData<&'a mut [u8]>,
}

impl Blank<'_> {
    /// Where it begins in the buffer.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Writes bytes from byte `at` of the page on; `EINVAL` where they do not fit.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result {
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > self.len) {
            return Err(EINVAL);
        }
        for (number, offset, piece) in pieces(at, bytes.len()) {
            let bytes = bytes.get(piece).ok_or(EINVAL)?;
            // SAFETY: the page has `len` bytes, and is there while it is being filled.
            let page = unsafe { base_page(self.first, self.len, number) }.ok_or(EINVAL)?;
            // SAFETY: the source is a slice; nobody else sees the page.
            unsafe { page.write_raw(bytes.as_ptr(), offset, bytes.len())? };
        }
        Ok(())
    }
}

impl Buffer {
    fn from_raw(raw: *mut RawBuffer) -> Result<Self> {
        // INVARIANT: every caller passes what `htlb.ko` returned, with its reference.
        NonNull::new(from_err_ptr(raw)?).map(Self).ok_or(EINVAL)
    }

    const fn as_ptr(&self) -> *mut RawBuffer {
        self.0.as_ptr()
    }

    /// The buffer behind a descriptor of the calling program.
    pub fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: looks the number up.
        Self::from_raw(unsafe { htlb_from_fd(fd) })
    }

    /// A descriptor of the calling program for it, closed on exec.
    pub fn install_fd(&self) -> Result<i32> {
        // SAFETY: the buffer is ours.
        let fd = unsafe { htlb_install_fd(self.as_ptr(), kernel::fs::file::flags::O_CLOEXEC as c_int) };
        to_result(fd.min(0)).map(|()| fd)
    }

    /// Its size. Any context.
    pub fn size(&self) -> u64 {
        // SAFETY: the buffer is ours.
        unsafe { htlb_size(self.as_ptr()) }
    }

    /// Promises the pages of a range; `ENOMEM` where they are not to be had.
    pub fn reserve(&self, range: Range<u64>) -> Result {
        let len = len_of(&range)?;
        // SAFETY: the buffer is ours.
        to_result(unsafe { htlb_reserve(self.as_ptr(), range.start, len) })
    }

    /// Makes sure that every page of a range is there. `fill` is given each that was not, and says how many bytes from
    /// its start it wrote; the rest is zeroed. Its error is the answer, and leaves that page out.
    ///
    /// `fill` must not populate the same buffer, nor touch user memory.
    pub fn populate<F>(&self, range: Range<u64>, mut fill: F) -> Result
    where
        F: FnMut(&mut Blank<'_>) -> Result<u64>,
    {
        unsafe extern "C" fn call<F: FnMut(&mut Blank<'_>) -> Result<u64>>(
            context: *mut c_void,
            page: *mut bindings::page,
            offset: u64,
            len: u64,
        ) -> isize {
            // SAFETY: `populate` passes a pointer to its own `fill`, which it does not use meanwhile.
            let fill = unsafe { &mut *context.cast::<F>() };
            let Some(first) = NonNull::new(page) else { return EFAULT.to_errno() as isize };
            match fill(&mut Blank { first, offset, len, _page: PhantomData }) {
                Ok(written) => isize::try_from(written).unwrap_or(EOVERFLOW.to_errno() as isize),
                Err(error) => error.to_errno() as isize,
            }
        }
        let len = len_of(&range)?;
        let context = core::ptr::from_mut(&mut fill).cast();
        // SAFETY: the buffer is ours; `call::<F>` fits what `context` points to.
        to_result(unsafe { htlb_populate(self.as_ptr(), range.start, len, Some(call::<F>), context) })
    }

    /// As [`Buffer::populate`], with zeroes.
    pub fn populate_zeroed(&self, range: Range<u64>) -> Result {
        let len = len_of(&range)?;
        // SAFETY: the buffer is ours.
        to_result(unsafe { htlb_populate(self.as_ptr(), range.start, len, None, core::ptr::null_mut()) })
    }

    /// Gives the pages and promises of a range back, and takes them out of every mapping. All of them or none, unless a fatal signal
    /// ends it half-way.
    pub fn punch(&self, range: Range<u64>) -> Result {
        let len = len_of(&range)?;
        // SAFETY: the buffer is ours.
        to_result(unsafe { htlb_punch(self.as_ptr(), range.start, len) })
    }

    /// The base page that holds a byte, if there is one. Wait-free, any context.
    ///
    /// A hint, not to be looked through: the page may be punched at any moment. [`Buffer::pin`] keeps it.
    pub fn page_at(&self, offset: u64) -> Option<NonNull<bindings::page>> {
        // SAFETY: the buffer is ours.
        NonNull::new(unsafe { htlb_page_at(self.as_ptr(), offset) })
    }

    /// Keeps the page at an offset where it is; `ENODATA` where there is none.
    pub fn pin(&self, offset: u64) -> Result<PagePin<'_>> {
        let mut page = core::ptr::null_mut();
        // SAFETY: the buffer is ours, and so is the place for the answer.
        to_result(unsafe { htlb_pin(self.as_ptr(), offset, &mut page) })?;
        // INVARIANT: pinned just now.
        let page = NonNull::new(page).ok_or(EFAULT)?;
        Ok(PagePin { buffer: self, offset, page })
    }

    /// Keeps every page where it is, those to come included.
    pub fn seal(&self) -> Result<Seal<'_>> {
        // SAFETY: the buffer is ours.
        to_result(unsafe { htlb_seal(self.as_ptr()) })?;
        // INVARIANT: sealed just now.
        Ok(Seal { buffer: self })
    }

    /// Maps a range for a device, for no longer than the device is bound.
    pub fn sg_map<'a>(&self, device: &'a Device<Bound>, range: Range<u64>, direction: DataDirection) -> Result<SgMap<'a>> {
        let len = len_of(&range)?;
        // SAFETY: the buffer is ours, and the device bound.
        let table = unsafe { htlb_sg_map(self.as_ptr(), raw(device), range.start, len, direction.into()) };
        // INVARIANT: mapped just now, for this device and direction.
        let table = NonNull::new(from_err_ptr(table)?).ok_or(ENOMEM)?;
        Ok(SgMap { buffer: self.clone(), device, table, direction })
    }

    /// For the `mmap` operation of a driver's own file: makes the area one of the buffer's, at the offset that the program gave.
    ///
    /// The area keeps the buffer, and lets the driver's file go.
    pub fn mmap(&self, area: &VmaNew) -> Result {
        // SAFETY: the buffer is ours, and the area is being set up by the caller's `mmap`, as its type says.
        to_result(unsafe { htlb_mmap(self.as_ptr(), area.as_ptr()) })
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        // SAFETY: the buffer is ours, and this is one reference more.
        unsafe { htlb_get(self.as_ptr()) };
        // INVARIANT: with that reference.
        Self(self.0)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the reference is ours and ends here.
        unsafe { htlb_put(self.as_ptr()) };
    }
}

/// A page that stays where it is.
///
/// # Invariants
///
/// Has a pin on the page at `offset`; `page` is the base page there.
pub struct PagePin<'a> {
    buffer: &'a Buffer,
    offset: u64,
    page: NonNull<bindings::page>,
}

impl PagePin<'_> {
    /// The base page that holds the byte.
    pub fn page(&self) -> BorrowedPage<'_> {
        // SAFETY: the page is pinned for as long as `self` is.
        unsafe { BorrowedPage::from_raw(self.page) }
    }
}

impl Drop for PagePin<'_> {
    fn drop(&mut self) {
        // SAFETY: the pin is ours, by the invariants.
        unsafe { htlb_unpin(self.buffer.as_ptr(), self.offset) };
    }
}

/// Keeps every page of a buffer where it is.
///
/// # Invariants
///
/// Has a seal on the buffer.
pub struct Seal<'a> {
    buffer: &'a Buffer,
}

impl Drop for Seal<'_> {
    fn drop(&mut self) {
        // SAFETY: the seal is ours, by the invariants.
        unsafe { htlb_unseal(self.buffer.as_ptr()) };
    }
}

/// A range mapped for a device: its entries are those of the [`SGTable`], one for each physically contiguous run.
///
/// # Invariants
///
/// `table` came from `htlb_sg_map` with the buffer, the device and the direction.
pub struct SgMap<'a> {
    buffer: Buffer,
    device: &'a Device<Bound>,
    table: NonNull<bindings::sg_table>,
    direction: DataDirection,
}

// SAFETY: the table does not change, and may be unmapped from any thread.
unsafe impl Send for SgMap<'_> {}
// SAFETY: as above.
unsafe impl Sync for SgMap<'_> {}

impl SgMap<'_> {
    /// Before the processor looks at what the device wrote.
    #[cfg(CONFIG_DMA_NEED_SYNC)]
    pub fn sync_for_cpu(&self) {
        // SAFETY: mapped for this device with all of its original entries.
        unsafe {
            let table = self.table.as_ref();
            bindings::__dma_sync_sg_for_cpu(raw(self.device), table.sgl, table.orig_nents as c_int, self.direction.into());
        }
    }

    /// Before the device looks at what the processor wrote, or writes again.
    #[cfg(CONFIG_DMA_NEED_SYNC)]
    pub fn sync_for_device(&self) {
        // SAFETY: as above.
        unsafe {
            let table = self.table.as_ref();
            bindings::__dma_sync_sg_for_device(raw(self.device), table.sgl, table.orig_nents as c_int, self.direction.into());
        }
    }

    /// Before the processor looks at what the device wrote: nothing to do on this machine.
    #[cfg(not(CONFIG_DMA_NEED_SYNC))]
    pub fn sync_for_cpu(&self) {}

    /// Before the device looks at what the processor wrote: nothing to do on this machine.
    #[cfg(not(CONFIG_DMA_NEED_SYNC))]
    pub fn sync_for_device(&self) {}

    /// The DMA address of a byte, counted from the start of the range, and how many bytes follow it in one piece.
    pub fn address_of(&self, offset: u64) -> Option<(u64, u64)> {
        let mut before = 0u64;
        self.iter().find_map(|entry| {
            let inside = offset.checked_sub(before)?;
            before = before.saturating_add(entry.dma_len());
            let left = entry.dma_len().checked_sub(inside).filter(|left| *left > 0)?;
            Some((entry.dma_address().checked_add(inside)?, left))
        })
    }
}

impl Deref for SgMap<'_> {
    type Target = SGTable;

    fn deref(&self) -> &SGTable {
        // SAFETY: the table is ours until `drop`, and does not change.
        unsafe { SGTable::from_raw(self.table.as_ptr()) }
    }
}

impl Drop for SgMap<'_> {
    fn drop(&mut self) {
        // SAFETY: by the invariants; the device is bound for the lifetime of the reference.
        unsafe {
            htlb_sg_unmap(self.buffer.as_ptr(), raw(self.device), self.table.as_ptr(), self.direction.into());
        }
    }
}

/// A device file whose mappings are a buffer's, at addresses that suit its pages.
///
/// Dropping it takes the file away; programs that have it open can still map the buffer, and keep it. `M` is the
/// module, `LocalModule`, which stays loaded while the file is open, but not while it is only mapped.
///
/// # Invariants
///
/// `device` is registered, with the operations of this type; it comes first, so that its address is that of the node.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub struct Node<M: ModuleMetadata> {
    #[pin]
    device: Opaque<bindings::miscdevice>,
    buffer: Buffer,
    _module: PhantomData<M>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: registered and deregistered from any thread; a buffer may be sent.
unsafe impl<M: ModuleMetadata> Send for Node<M> {}
// SAFETY: opening, which is all that shares it, takes a reference to the buffer.
unsafe impl<M: ModuleMetadata> Sync for Node<M> {}

impl<M: ModuleMetadata> Node<M> {
    const OPERATIONS: bindings::file_operations = bindings::file_operations {
        owner: this_module::<M>().as_ptr(),
        open: Some(Self::open),
        release: Some(release),
        mmap: Some(mmap),
        get_unmapped_area: Some(get_unmapped_area),
        ..pin_init::zeroed()
    };

    /// `/dev/<name>` for a buffer, for root only.
    pub fn register(name: &'static CStr, buffer: Buffer) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            buffer,
            _module: PhantomData,
            _pin: PhantomPinned,
            // Last: from then on it can be opened.
            device <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let device = bindings::miscdevice {
                    minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                    name: kernel::str::as_char_ptr_in_const_context(name),
                    fops: &Self::OPERATIONS,
                    mode: 0o600,
                    ..pin_init::zeroed()
                };
                // SAFETY: the slot is ours to initialise.
                unsafe { slot.write(device) };
                // SAFETY: initialised above, and pinned; deregistered before it goes.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
        })
    }

    /// # Safety
    ///
    /// Called by the kernel with a file of a registered node that is being opened.
    unsafe extern "C" fn open(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: misc_open() stored the device, which is the node, by the invariants; it does not go during this call.
        let node = unsafe { &*(*file).private_data.cast::<Self>() };
        let buffer = node.buffer.clone();
        // SAFETY: the file is being opened by this thread alone.
        unsafe { (*file).private_data = buffer.as_ptr().cast() };
        // The reference is the file's now.
        core::mem::forget(buffer);
        0
    }
}

#[pinned_drop]
impl<M: ModuleMetadata> PinnedDrop for Node<M> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: registered, by the invariants. No open is under way when this returns.
        unsafe { bindings::misc_deregister(self.device.get()) };
    }
}

/// # Safety
///
/// Called by the kernel with an open file of a node, when its last reference went.
unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `open` stored a buffer with a reference, which ends here.
    unsafe { htlb_put((*file).private_data.cast()) };
    0
}

/// # Safety
///
/// Called by the kernel with an open file of a node and an area that is being set up.
unsafe extern "C" fn mmap(file: *mut bindings::file, area: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: `open` stored a buffer with a reference, which the file keeps during the call.
    unsafe { htlb_mmap((*file).private_data.cast(), area) }
}

/// # Safety
///
/// As [`mmap`].
unsafe extern "C" fn get_unmapped_area(
    file: *mut bindings::file,
    address: c_ulong,
    len: c_ulong,
    pgoff: c_ulong,
    flags: c_ulong,
) -> c_ulong {
    // SAFETY: as in `mmap`.
    unsafe { htlb_get_unmapped_area((*file).private_data.cast(), address, len, pgoff, flags) }
}
