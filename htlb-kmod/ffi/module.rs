// SPDX-License-Identifier: GPL-2.0-only
//! This module, as the kernel names it.

use kernel::bindings;
use kernel::module::this_module;

/// The owner of our file operations: keeps the module loaded while a file is open.
pub(super) const fn owner() -> *mut bindings::module {
    this_module::<crate::LocalModule>().as_ptr()
}
