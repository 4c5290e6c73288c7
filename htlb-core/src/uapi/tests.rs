// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The numbers of the records, and how records of other versions are read.

use super::*;

fn number<R: Record>() -> u32 {
    R::IOCTL
}

#[test]
fn numbers_are_distinct_and_carry_direction_type_and_size() {
    let numbers = [
        number::<Create>(),
        number::<Populate>(),
        number::<Reserve>(),
        number::<Punch>(),
        number::<Truncate>(),
        number::<Limit>(),
        number::<Seal>(),
        number::<Info>(),
        number::<Lookup>(),
        number::<Export>(),
        number::<Stats>(),
        number::<Resize>(),
        number::<Import>(),
    ];
    for (i, a) in numbers.iter().enumerate() {
        assert_eq!(a >> 30, 3, "read and write");
        assert_eq!((a >> 8) as u8, MAGIC);
        assert!(numbers[..i].iter().all(|b| a != b));
    }
    assert_eq!(number::<Punch>(), 0xC028_BC68);
}

#[test]
fn records_grow_at_the_end_and_refuse_what_they_do_not_know() {
    let punch = Punch {
        size: Punch::SIZE,
        flags: 0,
        offset: 1 << 40,
        len: 5,
        removed: 0,
        unpromised: 0,
    };
    let mut bytes = [0u8; 48];
    assert_eq!(punch.encode(&mut bytes), 40);
    assert_eq!(Punch::decode(&bytes[..40]), Ok(punch));

    bytes[0] = 48;
    assert_eq!(
        Punch::decode(&bytes).map(|p| (p.offset, p.len)),
        Ok((1 << 40, 5)),
        "a zero tail is a newer caller"
    );
    bytes[47] = 1;
    assert_eq!(Punch::decode(&bytes), Err(Error::RecordSize));
    bytes[0] = 40;
    assert_eq!(
        Punch::decode(&bytes),
        Err(Error::RecordSize),
        "the size field must be the length"
    );
    assert_eq!(
        Punch::decode(&bytes[..39]),
        Err(Error::RecordSize),
        "shorter than the first version"
    );
    assert_eq!(Punch::decode(&[]), Err(Error::RecordSize));
}

#[test]
fn a_short_buffer_gets_the_head_of_the_answer() {
    let info = Info {
        bytes: 7,
        rungs: 9,
        ..Info::default()
    };
    let mut head = [0u8; 16];
    assert_eq!(info.encode(&mut head), 16);
    assert_eq!(head[8], 7);
}
