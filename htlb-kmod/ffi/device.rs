// SPDX-License-Identifier: GPL-2.0-only
//! The character device `/dev/htlb`.

use kernel::fs::File;
use kernel::miscdevice::{MiscDevice, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::sync::Arc;

use super::published;
use crate::machine::Machine;

/// One opening of the device.
pub(crate) struct Client {
    machine: Arc<Machine>,
}

impl Client {
    /// The machine.
    pub(crate) fn machine(&self) -> Arc<Machine> {
        self.machine.clone()
    }
}

#[vtable]
impl MiscDevice for Client {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _device: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        Ok(KBox::new(Self { machine: published::machine()? }, GFP_KERNEL)?)
    }

    fn ioctl(client: &Self, _file: &File, number: u32, argument: usize) -> Result<isize> {
        crate::ioctl::on_device(client, number, argument)
    }
}
