// SPDX-License-Identifier: GPL-2.0-only
//! The character device `/dev/htlb`.

use kernel::fs::File;
use kernel::miscdevice::{MiscDevice, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::sync::Arc;

use super::published;
use crate::accounts::Payer;
use crate::machine::Machine;

/// One opening of the device.
pub(crate) struct Client {
    payer: Arc<Payer>,
}

impl Client {
    /// Who pays for the buffers that are made through it.
    pub(crate) fn payer(&self) -> &Arc<Payer> {
        &self.payer
    }

    /// The machine.
    pub(crate) fn machine(&self) -> &Machine {
        self.payer.machine()
    }
}

#[vtable]
impl MiscDevice for Client {
    type Ptr = KBox<Self>;

    fn open(file: &File, _device: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        let user = file.cred().euid().into_raw().val;
        let payer = Payer::new(published::machine()?, user)?;
        Ok(KBox::new(Self { payer }, GFP_KERNEL_ACCOUNT)?)
    }

    fn ioctl(client: &Self, _file: &File, number: u32, argument: usize) -> Result<isize> {
        crate::ioctl::on_device(client, number, argument)
    }
}
