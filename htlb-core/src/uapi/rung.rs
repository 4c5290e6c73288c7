// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How a record names the rung of the ladder that served an extent.

use super::{Info, EXTENTS};
use crate::policy::Rung;

impl Info {
    /// The number by which [`Info::rungs`] names a rung; 0 for one that no buffer of the module has.
    #[must_use]
    pub const fn rung_number(rung: Rung) -> u8 {
        match rung {
            Rung::Pool => Self::RUNG_POOL,
            Rung::System => Self::RUNG_SYSTEM,
            Rung::Base => Self::RUNG_BASE,
            Rung::Transparent => 0,
        }
    }

    /// The rung that served the extent, or `None` past the last extent and for donated pages, which no rung gave.
    #[must_use]
    pub const fn rung(&self, extent: usize) -> Option<Rung> {
        if extent >= EXTENTS {
            return None;
        }
        match self.rungs.to_le_bytes() {
            [first, second, third, ..] => {
                let number = match extent {
                    0 => first,
                    1 => second,
                    _ => third,
                };
                match number {
                    Self::RUNG_POOL => Some(Rung::Pool),
                    Self::RUNG_SYSTEM => Some(Rung::System),
                    Self::RUNG_BASE => Some(Rung::Base),
                    _ => None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rung_keeps_its_number() {
        let rungs = [Rung::Pool, Rung::System, Rung::Base];
        let numbers = rungs.map(Info::rung_number);
        let info = Info {
            rungs: u64::from_le_bytes([numbers[0], numbers[1], numbers[2], 0, 0, 0, 0, 0]),
            ..Info::default()
        };
        for (extent, rung) in rungs.into_iter().enumerate() {
            assert_eq!(info.rung(extent), Some(rung));
        }
        assert_eq!(info.rung(EXTENTS), None);
        assert_eq!(Info::rung_number(Rung::Transparent), 0);
        let donated = Info {
            rungs: u64::from(Info::RUNG_DONATED),
            ..Info::default()
        };
        assert_eq!(donated.rung(0), None);
    }
}
