// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What must become of bytes that user space hands to an ioctl, whatever its number.
//!
//! [`run`] reads a number and a record. A number of nobody is nobody's; a record is refused where the rules of the ABI say so, and
//! there alone; one that is accepted comes back byte for byte. Of what a create record asks, no unknown bit gets through.

use arbitrary::Arbitrary;
use htlb_core::driver::Commitment;
use htlb_core::uapi::{
    Create, CreateFlags, Export, Import, Info, Limit, Lookup, Populate, Punch, Record, Reserve,
    Resize, Seal, Stats, Truncate, EXTENTS, MAGIC,
};
use htlb_core::{ByteLen, Contiguity, Error, Fallback, Fill, Gfp, Mobility, NodePolicy, Request};

/// Which call is made.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    /// One of those that there are.
    Known(u8),
    /// Any.
    Any(u32),
}

/// How long the record says it is.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Size {
    /// As it is.
    True,
    /// What its first bytes say.
    AsFound,
}

/// A call.
#[derive(Arbitrary, Clone, Debug)]
pub struct Call<'a> {
    number: Number,
    size: Size,
    /// Zeroes behind the bytes: what a newer caller's record has.
    tail: u8,
    /// How many bytes the answer may have.
    answer: u8,
    bytes: &'a [u8],
}

impl<'a> Call<'a> {
    /// The call with this place in the list of all, and a record of its true size.
    #[must_use]
    pub const fn of(nth: u8, bytes: &'a [u8]) -> Self {
        Self {
            number: Number::Known(nth),
            size: Size::True,
            tail: 0,
            answer: 16,
            bytes,
        }
    }
}

type Handler = fn(&[u8], usize) -> Result<(), Error>;

/// Every call there is: the number, the shortest record, this version's record.
const CALLS: [(u32, u32, u32, Handler); 13] = [
    of::<Create>(create),
    of::<Populate>(record::<Populate>),
    of::<Reserve>(record::<Reserve>),
    of::<Punch>(record::<Punch>),
    of::<Truncate>(record::<Truncate>),
    of::<Seal>(record::<Seal>),
    of::<Info>(info),
    of::<Lookup>(record::<Lookup>),
    of::<Export>(record::<Export>),
    of::<Stats>(record::<Stats>),
    of::<Resize>(record::<Resize>),
    of::<Limit>(record::<Limit>),
    of::<Import>(record::<Import>),
];

const fn of<R: Record>(handler: Handler) -> (u32, u32, u32, Handler) {
    (R::IOCTL, R::FIRST_SIZE, R::SIZE, handler)
}

/// Whether the ABI accepts a record of these bytes.
fn is_acceptable(bytes: &[u8], first: u32, size: u32) -> bool {
    let Some(said) = bytes.first_chunk::<4>() else {
        return false;
    };
    let tail = bytes.iter().skip(size as usize);
    u32::from_ne_bytes(*said) as usize == bytes.len()
        && bytes.len() >= first as usize
        && tail.copied().all(|byte| byte == 0)
}

/// Makes the call.
///
/// # Panics
/// Where the core says something else than the ABI.
pub fn run(call: &Call<'_>) {
    let mut bytes = call.bytes.to_vec();
    bytes.resize(bytes.len() + usize::from(call.tail), 0);
    if let (Size::True, Some(size)) = (call.size, u32::try_from(bytes.len()).ok()) {
        for (to, from) in bytes.iter_mut().zip(size.to_ne_bytes()) {
            *to = from;
        }
    }
    let number = match call.number {
        Number::Known(nth) => CALLS[usize::from(nth) % CALLS.len()].0,
        Number::Any(number) => number,
    };
    let found = CALLS.iter().find(|(known, ..)| *known == number);
    let Some((_, first, size, handler)) = found else {
        return;
    };
    assert_eq!(number >> 30, 3);
    assert_eq!((number >> 8) & 0xff, u32::from(MAGIC));
    assert_eq!((number >> 16) & 0x3fff, *first);
    let expected = if is_acceptable(&bytes, *first, *size) {
        Ok(())
    } else {
        Err(Error::RecordSize)
    };
    assert_eq!(handler(&bytes, call.answer.into()), expected);
}

/// Decodes a record, and gives what is accepted back: whole, and cut to `answer` bytes.
fn record<R: Record>(bytes: &[u8], answer: usize) -> Result<(), Error> {
    decoded::<R>(bytes, answer).map(drop)
}

fn decoded<R: Record>(bytes: &[u8], answer: usize) -> Result<R, Error> {
    let record = R::decode(bytes)?;
    let known = R::SIZE as usize;
    let mut expected = bytes.to_vec();
    expected.resize(known, 0);
    for len in [answer, known, bytes.len()] {
        let mut out = vec![0xa5; len];
        let written = record.encode(&mut out);
        assert_eq!(written, len.min(known));
        assert_eq!(out[..written], expected[..written]);
        assert!(out[written..].iter().all(|byte| *byte == 0xa5));
    }
    Ok(record)
}

fn info(bytes: &[u8], answer: usize) -> Result<(), Error> {
    let info = decoded::<Info>(bytes, answer)?;
    for extent in 0..=EXTENTS + 1 {
        let number = info.rungs.to_le_bytes().get(extent).copied().unwrap_or(0);
        match info.rung(extent) {
            Some(rung) => assert!(extent < EXTENTS && Info::rung_number(rung) == number),
            None => assert!(extent >= EXTENTS || !matches!(number, 1..=3)),
        }
    }
    Ok(())
}

fn create(bytes: &[u8], answer: usize) -> Result<(), Error> {
    let record = decoded::<Create>(bytes, answer)?;
    let promised = record.flags & CreateFlags::NORESERVE.bits() == 0;
    assert_eq!(record.commitment() == Commitment::Promised, promised);
    match record.to_request() {
        Ok(request) => {
            assert!(known_bits(&record), "{record:?} was understood");
            says(&record, &request);
            let capacity = ByteLen::new(record.capacity.max(record.bytes));
            let again = Create::from_request(&request, capacity);
            assert_eq!(again.and_then(|again| again.to_request()), Ok(request));
        }
        Err(Error::RecordFlags) => {
            let both = record.flags & CreateFlags::STRICT.bits() != 0 && record.fallback != 0;
            let runs = record.flags & CreateFlags::CONTIGUOUS.bits() != 0 && record.contiguous != 0;
            let nodes = record.node_policy == Create::NODES_DEFAULT && record.nodes != 0;
            assert!(!known_bits(&record) || both || runs || nodes, "{record:?}");
        }
        Err(Error::BeyondCapacity) => {
            assert!(record.capacity != 0 && record.capacity < record.bytes);
        }
        // The rules of a request have a target of their own.
        Err(_) => assert!(known_bits(&record), "{record:?} was looked into"),
    }
    Ok(())
}

/// No bit that this version does not know or does not allow: as numbers, since they are the ABI.
fn known_bits(record: &Create) -> bool {
    let zones_patience_node_account = 0b111 | 1 << 15 | 1 << 13 | 1 << 19 | 1 << 20;
    record.flags < 1 << 7
        && record.fallback < 1 << 3
        && record.gfp & !zones_patience_node_account == 0
        && record.node_policy <= 3
        && record.reserved == 0
}

/// The request is what the record says.
fn says(record: &Create, request: &Request) {
    let has = |flag: CreateFlags| record.flags & flag.bits() != 0;
    assert_eq!(request.size().raw(), record.bytes);
    assert!(record.capacity == 0 || record.capacity >= record.bytes);
    assert_eq!(
        request.fill() == Fill::DirtyWithinOwner,
        has(CreateFlags::DIRTY_WITHIN_OWNER)
    );
    assert_eq!(
        request.mobility() == Mobility::Movable,
        has(CreateFlags::MOVABLE)
    );
    assert_eq!(
        request.contiguity(),
        match record.contiguous {
            0 if has(CreateFlags::CONTIGUOUS) => Contiguity::Whole,
            0 => Contiguity::Pages,
            run => Contiguity::Runs(ByteLen::new(run)),
        }
    );
    let fallback = match record.fallback {
        0 if has(CreateFlags::STRICT) => 0,
        0 => 7,
        some => some,
    };
    assert_eq!(u32::from(request.fallback().bits()), fallback);
    assert!(fallback != 0 || request.fallback() == Fallback::STRICT);
    match record.gfp {
        0 => assert_eq!(request.gfp(), None),
        bits => {
            let mask = request.gfp().map(|gfp| gfp.difference(Gfp::USER).bits());
            assert_eq!(mask, Some(bits));
        }
    }
    let bits = u32::from(request.dma_mask().raw());
    assert_eq!(
        bits,
        if record.dma_bits == 0 {
            64
        } else {
            record.dma_bits
        }
    );
    let alignment = if record.alignment == 0 {
        4096
    } else {
        record.alignment
    };
    assert_eq!(request.alignment(), alignment);
    let (policy, nodes) = match request.nodes() {
        NodePolicy::Default => (0, 0),
        NodePolicy::Bind(nodes) => (1, nodes.bits()),
        NodePolicy::Preferred(node) => (2, node.mask().bits()),
        NodePolicy::PreferredMany(nodes) => (2, nodes.bits()),
        NodePolicy::Interleave(nodes) => (3, nodes.bits()),
    };
    assert_eq!((policy, nodes), (record.node_policy, record.nodes));
}
