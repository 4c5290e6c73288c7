// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the running kernel does where kernels are not the same.

use rustix::io::Errno;

use crate::linux::Linux;
use crate::op::{Access, Limits, Reserving, Span};
use crate::world::{Counted, Kernel};

/// Tries, on a mount of its own and with one page, what a refusal leaves behind.
///
/// # Errors
/// Why the oracle cannot run here.
pub(crate) fn look(linux: &mut Linux) -> Result<Kernel, String> {
    let why = |error: &dyn std::fmt::Display| format!("hugetlbfs cannot be used here: {error}");
    let found = linux.clear().map_err(|error| why(&error))?;
    if found != Counted::default() {
        return Err(String::from("somebody else is using huge pages of 2 MiB"));
    }
    linux.set_nr(1).map_err(|error| why(&error))?;
    let limits = Limits {
        max: Some(8),
        min: 0,
    };
    linux.mount(0, limits).map_err(|error| why(&error))?;
    linux.open(0, 0).map_err(|error| why(&error))?;
    let two = Span { at: 0, len: 2 };
    let used = |linux: &Linux| linux.statfs(0).map(|[max, free]| max - free);

    let refused = linux.map(0, two, Reserving::Reserve);
    if (refused, used(linux)) != (Err(Errno::NOMEM), Some(0)) {
        return Err(String::from(
            "this kernel counts refused reservations against a mount's limit, and would never give its minimum back",
        ));
    }
    let mapped = linux.map(0, two, Reserving::NoReserve);
    mapped.map_err(|error| why(&error))?;
    let refused = linux.fault(0, 0, two, Access::Write);
    if refused != Err(Errno::FAULT) {
        return Err(why(&format!("a fault without a page says {refused:?}")));
    }
    Ok(Kernel {
        refused_faults_leak: used(linux) != Some(1),
    })
}
