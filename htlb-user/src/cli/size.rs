// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Sizes and numbers, as people write and read them.

use htlb_core::{AddressBits, HugeSize, NodeId, PageChoice};

const UNITS: [(&str, u32); 3] = [("k", 10), ("m", 20), ("g", 30)];

/// `2M`, `2MiB`, `2MB`, `2048kB`, `2097152`: huge-page sizes are powers of two, so that each means 1024.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &lower[digits.len()..];
    let number: u64 = digits.parse().ok()?;
    if unit.is_empty() || unit == "b" {
        return Some(number);
    }
    let (_, shift) = UNITS.into_iter().find(|(name, _)| {
        unit.strip_prefix(name)
            .is_some_and(|rest| matches!(rest, "" | "b" | "ib"))
    })?;
    number.checked_mul(1 << shift)
}

/// A page size above the base page.
pub fn huge_size(text: &str) -> Result<HugeSize, String> {
    match bytes(text).map(HugeSize::from_bytes) {
        Some(Ok(size)) if size != HugeSize::BASE => Ok(size),
        _ => Err("a huge-page size is a power of two such as 2M or 1G; `htlb info` lists those of this machine".to_owned()),
    }
}

/// What `--page-size` takes.
pub fn page_choice(text: &str) -> Result<PageChoice, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => return Ok(PageChoice::Automatic),
        "thp" | "transparent" => return Ok(PageChoice::Transparent),
        "base" => return Ok(PageChoice::Base),
        _ => {}
    }
    match bytes(text).map(HugeSize::from_bytes) {
        Some(Ok(HugeSize::BASE)) => Ok(PageChoice::Base),
        Some(Ok(size)) => Ok(PageChoice::Huge(size)),
        _ => Err("a size such as 2M or 1G, `thp`, `base`, or `auto`".to_owned()),
    }
}

pub fn node(text: &str) -> Result<NodeId, String> {
    let number: u32 = text.parse().map_err(|_| "a node number".to_owned())?;
    NodeId::new(number).map_err(|error| error.to_string())
}

pub fn address_bits(text: &str) -> Result<AddressBits, String> {
    let bits: u32 = text.parse().map_err(|_| "a number of bits".to_owned())?;
    AddressBits::new(bits).map_err(|error| error.to_string())
}

/// `5.0 MiB`, `700 B`.
pub fn human(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for text in [
            "2M", "2m", "2MiB", "2MB", "2048k", "2048kB", "2097152", "2097152B",
        ] {
            assert_eq!(huge_size(text), Ok(HugeSize::MIB2), "{text}");
        }
        for text in [
            "",
            "M",
            "3M",
            "2X",
            "-2M",
            "2Mi",
            "4k",
            "99999999999G",
            "2 M x",
        ] {
            assert!(huge_size(text).is_err(), "{text}");
        }
        assert_eq!(page_choice("4K"), Ok(PageChoice::Base));
        assert_eq!(page_choice("THP"), Ok(PageChoice::Transparent));
        assert_eq!(page_choice("1g"), Ok(PageChoice::Huge(HugeSize::GIB1)));
        assert!(node("64").is_err() && node("-1").is_err() && node("63").is_ok());
        assert!(address_bits("23").is_err() && address_bits("65").is_err());
    }

    #[test]
    fn sizes_are_written_as_people_read_them() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (5 << 20, "5.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
    }
}
