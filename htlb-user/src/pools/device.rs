// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The device as a giver of pages to the pools: before the kernel's own hugetlb pool, where it is there.

use std::io;
use std::os::fd::OwnedFd;

use htlb_core::{
    AddressBits, ByteLen, Contiguity, Error, HugeSize, NodePolicy, PageCount, Reach, Request, Rung,
};

use crate::arena::Kin;
use crate::buffer::Populate;
use crate::device::{Device, DeviceBuffer, DeviceError};
use crate::system::Root;

/// Whether pages come from `/dev/htlb`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceUse {
    /// Where the module is loaded, and for pages of less than 1 GiB: of those it has, the kernel can read no file into directly
    /// (`O_DIRECT`), and hugetlb's are better for that. What the device refuses comes from the kernel.
    #[default]
    Automatic,
    /// Never.
    Never,
    /// From nowhere else, and of every size that the module has.
    Only,
}

/// What a device buffer is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) size: HugeSize,
    pub(crate) pages: PageCount,
    pub(crate) reach: Reach,
    pub(crate) nodes: NodePolicy,
    pub(crate) contiguity: Contiguity,
}

/// The device, as far as these pools use it.
#[derive(Debug)]
pub(crate) struct Source {
    usage: DeviceUse,
    device: Option<Device>,
    /// Why it is there and cannot be used.
    closed: Option<String>,
}

impl Source {
    pub(super) fn open(usage: DeviceUse, root: &Root) -> Self {
        let path = root.path(htlb_core::uapi::DEVICE);
        let opened = match usage {
            DeviceUse::Never => return Self::closed(usage, None),
            DeviceUse::Automatic | DeviceUse::Only => Device::open_at(&path),
        };
        let error = match opened {
            Ok(device) => {
                return Self {
                    usage,
                    device: Some(device),
                    closed: None,
                }
            }
            Err(error) => error,
        };
        let path = path.display();
        let why = match (error.kind(), usage) {
            (io::ErrorKind::NotFound, DeviceUse::Automatic | DeviceUse::Never) => None,
            (io::ErrorKind::NotFound, DeviceUse::Only) => {
                Some(format!("there is no {path}: load the module (modprobe htlb)"))
            }
            (io::ErrorKind::PermissionDenied, _) => Some(format!(
                "{path} may not be opened by this user: have the administrator add it to the device's group"
            )),
            _ if error.raw_os_error() == Some(libc::ENOTTY) => {
                Some(format!("{path} is no device of the module"))
            }
            _ => Some(format!("{path} cannot be opened: {error}")),
        };
        Self::closed(usage, why)
    }

    const fn closed(usage: DeviceUse, closed: Option<String>) -> Self {
        Self {
            usage,
            device: None,
            closed,
        }
    }

    /// Whether nothing else may give pages.
    pub(crate) fn is_sole(&self) -> bool {
        self.usage == DeviceUse::Only
    }

    /// Whether the device is to be asked for such pages first.
    pub(crate) fn serves(&self, kin: Kin, size: HugeSize) -> bool {
        let wanted = match (self.usage, kin) {
            (DeviceUse::Never, _) | (_, Kin::Transparent) => false,
            (DeviceUse::Automatic, kin) => kin == Kin::Hugetlb && size < HugeSize::GIB1,
            (DeviceUse::Only, _) => true,
        };
        wanted && (self.device.is_some() || self.closed.is_some())
    }

    /// The huge-page sizes that it may give.
    pub(super) fn sizes(&self) -> impl Iterator<Item = HugeSize> + '_ {
        [HugeSize::MIB2, HugeSize::GIB1]
            .into_iter()
            .filter(|size| self.serves(Kin::Hugetlb, *size))
            .filter(|size| {
                let device = self.device.as_ref();
                device.is_some_and(|device| device.stats(*size, None).is_ok())
            })
    }

    /// How many pages could be promised now without asking the system.
    pub(crate) fn available(&self, size: HugeSize) -> PageCount {
        let stats = self.device.as_ref().map(|device| device.stats(size, None));
        match stats {
            Some(Ok(stats)) => size.whole_pages_in(ByteLen::new(stats.available)),
            _ => PageCount::ZERO,
        }
    }

    /// A buffer of the device with a promise for every page, and the rung that gave them.
    ///
    /// # Errors
    /// The cause, and what to say of it.
    pub(crate) fn make(&self, wanted: &Wanted) -> Result<(OwnedFd, Rung), (Error, String)> {
        let Some(device) = &self.device else {
            let why = self.closed.clone().unwrap_or_default();
            return Err((Error::OutOfPages, why));
        };
        let request = wanted
            .request()
            .map_err(|cause| (cause, cause.to_string()))?;
        let made = || -> Result<_, DeviceError> {
            let buffer = device.create(&request, request.size(), Populate::Later)?;
            let rung = buffer.parts()?.first().and_then(|part| part.rung);
            Ok((buffer, rung.unwrap_or(Rung::Pool)))
        };
        let told = |error: DeviceError| {
            let cause = match error.cause() {
                Some(cause @ (Error::Interrupted | Error::OutOfReach)) => cause,
                // Whatever it is, the next one to be asked may have pages.
                _ => Error::OutOfPages,
            };
            (cause, error.in_one_line())
        };
        let (buffer, rung) = made().map_err(told)?;
        Ok((DeviceBuffer::into(buffer), rung))
    }
}

impl Wanted {
    fn request(&self) -> Result<Request, Error> {
        Request::builder(self.size.len_of(self.pages)?)
            .page_size(self.size)
            .strict()
            .nodes(self.nodes)
            .dma_mask(AddressBits::new(u32::from(self.reach.level().bits()))?)
            .contiguity(self.contiguity)
            .build()
    }
}
