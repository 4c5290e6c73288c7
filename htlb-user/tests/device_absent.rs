// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What is said where there is no device, or where something else has its name.

use std::os::fd::AsFd;
use std::path::Path;

use htlb_core::uapi::Info;
use htlb_user::device::{ioctl_bytes, Device, DeviceBuffer, How, Mapping};
use htlb_user::sys::memfd::{Kind, Memfd};

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn what_is_no_device_is_told_from_what_is_not_there() {
    let open = |path: &str| errno(Device::open_at(Path::new(path)));
    assert_eq!(open("/nowhere/htlb"), Some(libc::ENOENT));
    assert_eq!(open("/dev/null"), Some(libc::ENOTTY));
    let file = std::env::temp_dir().join(format!("htlb-no-device-{}", std::process::id()));
    std::fs::write(&file, "").unwrap();
    let refused = errno(Device::open_at(&file));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(refused, Some(libc::ENOTTY));
}

#[test]
fn a_file_of_another_kind_is_no_buffer() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let error = DeviceBuffer::attach(null.into()).unwrap_err();
    assert_eq!((error.errno(), error.cause()), (libc::ENOTTY, None));
    assert!(
        error.to_string().contains("no file of the htlb module"),
        "{error}"
    );
}

#[test]
fn bytes_of_any_length_are_sent_and_numbers_of_other_interfaces_are_not() {
    let null = std::fs::File::open("/dev/null").unwrap();
    for len in [0, 1, 112, 4096, 4097, 70_000] {
        let mut bytes = vec![7; len];
        assert_eq!(
            errno(ioctl_bytes(null.as_fd(), Info::IOCTL, &mut bytes)),
            Some(libc::ENOTTY)
        );
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
    let fionread = 0x541B;
    assert_eq!(
        errno(ioctl_bytes(null.as_fd(), fionread, &mut [0; 8])),
        Some(libc::EINVAL)
    );
}

#[test]
fn a_mapping_is_aligned_like_its_offset_and_goes_with_its_value() {
    let memfd = Memfd::new(Kind::Shmem).unwrap();
    memfd.set_len(htlb_core::ByteLen::new(8 << 20)).unwrap();
    let fd = memfd.share();
    for (offset, len) in [
        (0_u64, 8 << 20),
        (2 << 20, 4096),
        (0x3000, 0x5000),
        (4 << 20, 5),
    ] {
        let mut mapping = Mapping::new(fd.as_fd(), offset, len, How::SHARED, 2 << 20).unwrap();
        assert_eq!(mapping.address() as u64 % (2 << 20), offset % (2 << 20));
        assert_eq!(mapping.len(), len.next_multiple_of(4096));
        mapping.write_at(len - 1, b"x").unwrap();
        let end = mapping.len();
        assert_eq!(errno(mapping.write_at(end, b"x")), Some(libc::ERANGE));
        let read = Mapping::new(fd.as_fd(), offset, len, How::READ.ahead(), 4096).unwrap();
        assert_eq!(read.byte(len - 1).unwrap(), b'x');
    }
    let mut read = Mapping::new(fd.as_fd(), 0, 4096, How::READ, 4096).unwrap();
    assert_eq!(errno(read.write_at(0, b"x")), Some(libc::EACCES));
    let mut private = Mapping::new(fd.as_fd(), 0, 4096, How::PRIVATE, 4096).unwrap();
    private.write_at(0, b"y").unwrap();
    assert_eq!((private.byte(0).unwrap(), read.byte(0).unwrap()), (b'y', 0));
    for wrong in [0x1001, 1] {
        assert_eq!(
            errno(Mapping::new(fd.as_fd(), wrong, 4096, How::READ, 4096)),
            Some(libc::EINVAL)
        );
    }
    assert_eq!(
        errno(Mapping::new(fd.as_fd(), 0, 0, How::READ, 4096)),
        Some(libc::EINVAL)
    );
    assert_eq!(
        errno(Mapping::new(fd.as_fd(), 0, 4096, How::READ, 12288)),
        Some(libc::EINVAL)
    );
}
