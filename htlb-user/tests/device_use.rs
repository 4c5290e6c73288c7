// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pools where the device is absent, closed, or something else: buffers come from where they always did, and say why.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use htlb_core::{Contiguity, HugeSize};
use htlb_user::buffer::Access;
use htlb_user::pools::{DeviceUse, Pools, PoolsBuilder};
use htlb_user::receipt::{Giver, Home};
use htlb_user::system::Root;

/// The machine as it is, but for what `/dev/htlb` is; removed when dropped.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str, device: Option<&str>) -> Self {
        let folder = format!("htlb-device-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(folder.join("dev")).unwrap();
        for part in ["sys", "proc"] {
            symlink(Path::new("/").join(part), folder.join(part)).unwrap();
        }
        if let Some(device) = device {
            symlink(device, folder.join("dev/htlb")).unwrap();
        }
        Self(folder)
    }

    fn pools(&self, usage: DeviceUse) -> PoolsBuilder {
        Pools::builder()
            .device(usage)
            .system_root(Root::at(&self.0))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn without_a_device_nothing_is_said_of_one() {
    let machine = Machine::new("absent", None);
    for usage in [DeviceUse::Automatic, DeviceUse::Never] {
        let pools = machine.pools(usage).build().unwrap();
        let buffer = pools.buffer(4 << 20).create().unwrap();
        let receipt = buffer.receipt();
        assert_eq!(receipt.populated.raw(), 4 << 20, "{receipt}");
        assert!(receipt
            .shares
            .iter()
            .all(|share| share.giver == Giver::Kernel));
        assert!(receipt
            .refusals
            .iter()
            .all(|refusal| refusal.giver == Giver::Kernel));
        assert!(!receipt.to_string().contains("htlb.ko"), "{receipt}");
        pools.check().unwrap();
    }
}

#[test]
fn what_is_no_device_is_refused_in_the_receipt_and_does_no_harm() {
    let machine = Machine::new("other", Some("/dev/null"));
    let pools = machine.pools(DeviceUse::Automatic).build().unwrap();
    for shareable in [false, true] {
        let builder = pools.buffer(4 << 20).page_size(HugeSize::MIB2);
        let builder = if shareable {
            builder.shareable()
        } else {
            builder
        };
        let mut buffer = builder.create().unwrap();
        buffer.write_at(0, b"there").unwrap();
        let receipt = buffer.receipt();
        let said = receipt
            .refusals
            .iter()
            .find(|refusal| refusal.giver == Giver::Device);
        let said = said.unwrap_or_else(|| panic!("{receipt}"));
        assert!(said.why.contains("is no device of the module"), "{receipt}");
        assert!(
            receipt
                .to_string()
                .contains("not 2MiB from the kernel module htlb.ko: "),
            "{receipt}"
        );
        assert!(receipt
            .shares
            .iter()
            .all(|share| share.giver == Giver::Kernel));
        assert_ne!(buffer.receipt().home, Home::Device);
    }
    let never = machine.pools(DeviceUse::Never).build().unwrap();
    let receipt = never.buffer(4 << 20).create().unwrap().receipt();
    assert!(!receipt.to_string().contains("htlb.ko"), "{receipt}");
}

#[test]
fn only_the_device_is_an_error_where_there_is_none() {
    for (name, device, words) in [
        ("only-absent", None, "load the module"),
        (
            "only-other",
            Some("/dev/null"),
            "is no device of the module",
        ),
    ] {
        let machine = Machine::new(name, device);
        let pools = machine.pools(DeviceUse::Only).build().unwrap();
        for builder in [
            pools.buffer(4 << 20),
            pools.buffer(4 << 20).shareable(),
            pools.buffer(4 << 20).page_size(HugeSize::MIB2).strict(),
            pools.buffer(8192).base_pages(),
            pools.buffer(4 << 20).contiguity(Contiguity::Whole),
            pools
                .buffer(4 << 20)
                .layout(htlb_user::buffer::Layout::Scattered),
        ] {
            let asked = format!("{builder:?}");
            let error = builder.create().unwrap_err().to_string();
            assert!(error.contains(words), "{error} {asked}");
        }
        assert!(pools.state().iter().all(|pool| pool.counts.nr.is_zero()));
        pools.check().unwrap();
    }
}

#[test]
fn a_file_that_is_no_memory_is_not_attached() {
    let status = std::fs::File::open("/proc/self/status").unwrap();
    let pools = Pools::new().unwrap();
    let error = pools
        .attach(status.into(), 4096, Access::Copies)
        .unwrap_err();
    assert!(
        error.to_string().contains("neither of huge pages nor"),
        "{error}"
    );
}
