// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How a record becomes bytes and comes back.

use crate::error::Error;

/// An integer field, or an array of them.
pub(super) trait Field: Sized + Default {
    /// Takes the field from the front of `bytes`; missing bytes are zero.
    fn take(bytes: &mut &[u8]) -> Self;
    /// Puts the field at the front of `bytes`, as far as it fits.
    fn put(&self, bytes: &mut &mut [u8]);
}

macro_rules! integer {
    ($($int:ty),*) => {$(
        impl Field for $int {
            fn take(bytes: &mut &[u8]) -> Self {
                let mut raw = [0u8; size_of::<$int>()];
                for (to, from) in raw.iter_mut().zip(*bytes) {
                    *to = *from;
                }
                *bytes = bytes.get(size_of::<$int>()..).unwrap_or_default();
                <$int>::from_ne_bytes(raw)
            }

            fn put(&self, bytes: &mut &mut [u8]) {
                for (to, from) in bytes.iter_mut().zip(self.to_ne_bytes()) {
                    *to = from;
                }
                *bytes = core::mem::take(bytes).get_mut(size_of::<$int>()..).unwrap_or_default();
            }
        }
    )*};
}

integer!(u32, i32, u64);

impl<F: Field + Copy, const N: usize> Field for [F; N]
where
    [F; N]: Default,
{
    fn take(bytes: &mut &[u8]) -> Self {
        let mut all = Self::default();
        for field in &mut all {
            *field = F::take(bytes);
        }
        all
    }

    fn put(&self, bytes: &mut &mut [u8]) {
        for field in self {
            field.put(bytes);
        }
    }
}

/// A record of the ABI.
pub trait Record: Sized {
    /// The size of this version in bytes.
    const SIZE: u32;
    /// The size of the first version: no record is shorter.
    const FIRST_SIZE: u32;
    /// The ioctl number: read and write, [`super::MAGIC`], this record's letter, the first version's size.
    const IOCTL: u32;

    /// Reads a record as user space wrote it, all of it: `bytes` is as long as its size field says.
    ///
    /// # Errors
    /// [`Error::RecordSize`] where it is shorter than the first version, where the size field differs from the
    /// length, or where a tail that this version does not know is not zero.
    fn decode(bytes: &[u8]) -> Result<Self, Error>;

    /// Writes as much of the record as fits, and says how many bytes that was.
    fn encode(&self, bytes: &mut [u8]) -> usize;
}

/// `_IOWR(MAGIC, letter, size)`.
pub(super) const fn iowr(letter: u8, size: u32) -> u32 {
    (3 << 30) | (size << 16) | ((super::MAGIC as u32) << 8) | letter as u32
}

/// Defines a record: its `size` field comes first and is not listed.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $name:ident = ($letter:literal, $first:literal) {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)+
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            /// The size of this record in bytes.
            pub size: u32,
            $($(#[$field_meta])* pub $field: $type,)+
        }

        // No padding, and nothing but integers: the fields add up to the whole, in multiples of eight bytes.
        // Evaluated by the compiler: an overflow here would not compile.
        #[allow(clippy::arithmetic_side_effects)]
        const _: () = {
            assert!(size_of::<$name>() == size_of::<u32>() $(+ size_of::<$type>())+);
            assert!(size_of::<$name>() % 8 == 0 && size_of::<$name>() >= $first);
        };

        impl $name {
            /// The size of this version in bytes.
            // CAST: a record is smaller than the 14 bits that an ioctl number has for it.
            #[allow(clippy::cast_possible_truncation)]
            pub const SIZE: u32 = size_of::<$name>() as u32;
            /// The ioctl number.
            pub const IOCTL: u32 = record::iowr($letter, $first);
        }

        impl Record for $name {
            const SIZE: u32 = Self::SIZE;
            const FIRST_SIZE: u32 = $first;
            const IOCTL: u32 = Self::IOCTL;

            fn decode(bytes: &[u8]) -> Result<Self, Error> {
                let mut rest = bytes;
                let size = <u32 as record::Field>::take(&mut rest);
                let known = bytes.len().min(size_of::<Self>());
                let tail = bytes.get(known..).unwrap_or_default();
                if bytes.len() < $first
                    || usize::try_from(size) != Ok(bytes.len())
                    || tail.iter().any(|byte| *byte != 0)
                {
                    return Err(Error::RecordSize);
                }
                Ok(Self { size, $($field: <$type as record::Field>::take(&mut rest),)+ })
            }

            fn encode(&self, bytes: &mut [u8]) -> usize {
                let written = bytes.len().min(size_of::<Self>());
                let mut rest = bytes;
                record::Field::put(&self.size, &mut rest);
                $(record::Field::put(&self.$field, &mut rest);)+
                written
            }
        }
    };
}

pub(super) use record;
