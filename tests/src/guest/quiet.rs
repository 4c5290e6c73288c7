// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Cases that leave the module as they found it, which is looked at after each.

use anyhow::{anyhow, Context, Result};

use super::{rest, Body};

/// Runs a case, and then waits until the module is at rest and its books are right.
pub(super) fn run(body: Body) -> Result<()> {
    rest::check()
        .map_err(|said| anyhow!(said))
        .context("before the case")?;
    body()?;
    rest::wait().context("after the case")
}

/// As [`super::cases`], with [`run`] around each.
macro_rules! quiet_cases {
    ($($body:ident $(.within($seconds:expr))?),* $(,)?) => {
        vec![$($crate::guest::Case::new(stringify!($body), || $crate::guest::quiet::run($body))$(.within($seconds))?),*]
    };
}
pub(super) use quiet_cases;
